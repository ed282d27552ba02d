//! One selection, and its JSON form: the network selection element.

use std::net::IpAddr;

use super::super::claim::ClaimRequest;
use super::super::object::{KeyError, Keys};
use super::operator::Author;
use super::values::{
    Bandwidth, PortMapping, read_bandwidth, read_default_route, read_hex, read_ips, read_port_mappings,
};
use crate::cni::config::{RawObject, raw};
use crate::cni::validate;

/// The keys of the specification, and `resourceClaim`.
pub(in crate::config) const KEYS: [&str; 14] = [
    "name",
    "namespace",
    "interface",
    "interfaceRequest",
    "ips",
    "mac",
    "infiniband-guid",
    "portMappings",
    "bandwidth",
    "cni-args",
    "default-route",
    "deviceID",
    "resourceClaim",
    "ipam-claim-reference",
];

/// A request for an attachment to a network that is known by name.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    /// The network's name. Empty only for an operator's selection with a `config`.
    pub name: String,
    /// The namespace of its NetworkAttachmentDefinition.
    pub namespace: Option<String>,
    /// The interface's name in the container.
    pub interface: Option<String>,
    /// Addresses to assign, with or without a prefix length.
    pub ips: Vec<String>,
    /// The hardware address.
    pub mac: Option<String>,
    /// The InfiniBand GUID.
    pub infiniband_guid: Option<String>,
    /// Host ports to forward.
    pub port_mappings: Vec<PortMapping>,
    /// Limits on traffic.
    pub bandwidth: Option<Bandwidth>,
    /// Goes into `args.cni` of every plugin.
    pub cni_args: RawObject,
    /// Gateways of default routes through this attachment, one for each family. If empty, the routes that its plugins made are
    /// kept.
    pub default_route: Option<Vec<IpAddr>>,
    /// The device to use.
    pub device_id: Option<String>,
    /// The request of the pod's resource claims whose device it uses.
    pub resource_claim: Option<ClaimRequest>,
    /// A claim on an address that is kept after the pod is gone.
    pub ipam_claim_reference: Option<String>,
}

impl Selection {
    /// The network as `namespace/name`, or its plain name.
    pub fn reference(&self) -> String {
        match &self.namespace {
            Some(namespace) => format!("{namespace}/{}", self.name),
            None => self.name.clone(),
        }
    }

    /// Reads one selection element and checks all keys. If it has a configuration, it needs no name.
    pub(super) fn read(keys: &Keys<'_>, place: &str, author: Author, has_config: bool) -> Result<Self, KeyError> {
        let name = keys.string("name")?.unwrap_or_default();
        if name.is_empty() && !has_config {
            return Err(KeyError::Missing { place: place.into(), expected: "\"name\", the network's name,".into() });
        }
        // An operator may also name a file or a directory.
        let is_path = |name: &str| author != Author::Pod && name.starts_with('/');
        let is_reference = |name: &str| validate::network_name(name).is_ok() || is_path(name);
        if !name.is_empty() && !is_reference(&name) {
            return Err(keys.wrong("name", "a network's name"));
        }
        let namespace = keys.string("namespace")?.filter(|namespace| !namespace.is_empty());
        if namespace.as_deref().is_some_and(|namespace| validate::network_name(namespace).is_err()) {
            return Err(keys.wrong("namespace", "the name of a namespace"));
        }
        let key = if keys.raw("interface").is_some() { "interface" } else { "interfaceRequest" };
        let interface = keys.string(key)?.filter(|interface| !interface.is_empty());
        if let Some(Err(error)) = interface.as_deref().map(validate::interface_name) {
            return Err(keys.wrong(key, error.expected));
        }
        let selection = Self {
            name,
            namespace,
            interface,
            ips: read_ips(keys)?,
            mac: read_hex(keys, "mac", &[6, 8, 20], "a hardware address such as 02:00:00:00:00:01")?,
            infiniband_guid: read_hex(keys, "infiniband-guid", &[8], "8 bytes such as 02:00:00:00:00:00:00:01")?,
            port_mappings: read_port_mappings(keys)?,
            bandwidth: read_bandwidth(keys)?,
            cni_args: keys.object("cni-args")?.unwrap_or_default(),
            default_route: read_default_route(keys)?,
            device_id: keys.string("deviceID")?.filter(|id| !id.is_empty()),
            resource_claim: read_resource_claim(keys)?,
            ipam_claim_reference: keys.string("ipam-claim-reference")?.filter(|claim| !claim.is_empty()),
        };
        if selection.device_id.as_deref().is_some_and(|id| id.contains(char::is_control) || id.contains("..")) {
            return Err(keys.wrong("deviceID", "the identifier of a device"));
        }
        if selection.ipam_claim_reference.is_some() && !selection.ips.is_empty() {
            return Err(KeyError::Conflict {
                place: place.into(),
                reason: "\"ips\" and \"ipam-claim-reference\" cannot be asked for together".into(),
            });
        }
        Ok(selection)
    }

    /// Everything that it asks of its network: all keys except those that name the network and the interface.
    pub fn asked(&self) -> RawObject {
        let mut asked = self.capability_args();
        if let Some(guid) = asked.shift_remove("infinibandGUID") {
            asked.insert("infiniband-guid".into(), guid);
        }
        if !self.cni_args.is_empty() {
            asked.insert("cni-args".into(), raw(&self.cni_args));
        }
        if let Some(gateways) = &self.default_route {
            asked.insert("default-route".into(), raw(gateways));
        }
        if let Some(ClaimRequest { claim, request }) = &self.resource_claim {
            asked.insert("resourceClaim".into(), raw(&serde_json::json!({ "claim": claim, "request": request })));
        }
        if let Some(reference) = &self.ipam_claim_reference {
            asked.insert("ipam-claim-reference".into(), raw(reference));
        }
        asked
    }

    /// The capability arguments that this selection asks for (NPWG specification, §4.1.2.1).
    pub fn capability_args(&self) -> RawObject {
        let mut args = RawObject::new();
        if !self.ips.is_empty() {
            args.insert("ips".into(), raw(&self.ips));
        }
        if let Some(mac) = &self.mac {
            args.insert("mac".into(), raw(mac));
        }
        if let Some(guid) = &self.infiniband_guid {
            args.insert("infinibandGUID".into(), raw(guid));
        }
        if !self.port_mappings.is_empty() {
            args.insert("portMappings".into(), raw(&self.port_mappings));
        }
        if let Some(bandwidth) = &self.bandwidth {
            args.insert("bandwidth".into(), raw(bandwidth));
        }
        if let Some(device) = &self.device_id {
            args.insert("deviceID".into(), raw(device));
        }
        args
    }
}

fn read_resource_claim(keys: &Keys<'_>) -> Result<Option<ClaimRequest>, KeyError> {
    let claim = keys.object("resourceClaim")?;
    claim.map(|claim| ClaimRequest::from_object(&claim, &keys.path("resourceClaim"))).transpose()
}
