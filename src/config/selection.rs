//! Selections: requests for an attachment.
//!
//! A selection is the network selection element of the NPWG multi-network specification 1.3 (§4.1), and it is written
//! the same way wherever one stands: in `delegates`, in a pod's annotation, in `runtimeConfig.networks` and on the
//! command line. Where the operator writes it, it can also say `config`, `when` and `optional`.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::claim::ClaimRequest;
use super::object::{KeyError, Keys};
use super::problems::Problems;
use super::selector::Selector;
use crate::cni::config::{RawObject, kind, parse_object, raw, without_values};
use crate::cni::validate;

/// The most attachments of one container.
pub const MAX_ATTACHMENTS: usize = 256;

/// The keys of the specification, and `resourceClaim`.
pub(super) const KEYS: [&str; 14] = [
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
/// The keys that only an operator's selection can have.
pub(super) const OPERATOR_KEYS: [&str; 3] = ["config", "when", "optional"];

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
    /// Gateways of default routes through this attachment, one a family; empty to keep those its plugins made.
    pub default_route: Option<Vec<IpAddr>>,
    /// The device to use.
    pub device_id: Option<String>,
    /// The request of the pod's resource claims whose device to use.
    pub resource_claim: Option<ClaimRequest>,
    /// A claim on an address that outlives the pod.
    pub ipam_claim_reference: Option<String>,
}

/// A host port forwarded to the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PortMapping {
    /// The port on the host.
    pub host_port: u16,
    /// The port in the container.
    pub container_port: u16,
    /// tcp, udp or sctp.
    #[serde(default = "tcp")]
    pub protocol: String,
    /// The host's address to listen on; all of them if there is none.
    #[serde(default, rename = "hostIP", skip_serializing_if = "String::is_empty")]
    pub host_ip: String,
}

impl PortMapping {
    /// Whether two mappings would forward one port of one address of the host.
    pub fn overlaps(&self, other: &Self) -> bool {
        let is_one_address = match (self.host_ip.parse::<IpAddr>(), other.host_ip.parse::<IpAddr>()) {
            (Ok(a), Ok(b)) => a.is_ipv4() == b.is_ipv4() && (a == b || a.is_unspecified() || b.is_unspecified()),
            _ => true,
        };
        self.host_port == other.host_port && self.protocol == other.protocol && is_one_address
    }

    /// Reads a JSON list of mappings, as a selection has it under `portMappings`.
    ///
    /// # Errors
    /// When it is no such list, or a mapping is wrong.
    pub fn parse_list(text: &str) -> Result<Vec<Self>, KeyError> {
        let wrong = |found: String| KeyError::Wrong {
            path: "portMappings".into(),
            found,
            expected: "a list of {hostPort, containerPort, protocol, hostIP}".into(),
        };
        let list = RawValue::from_string(text.to_owned()).map_err(|error| wrong(format!("not readable ({error})")))?;
        let mut object = RawObject::new();
        object.insert("portMappings".into(), list);
        read_port_mappings(&Keys::new(&object, ""))
    }
}

fn tcp() -> String {
    "tcp".into()
}

/// Limits on traffic. Rates are in bits a second, bursts in bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Bandwidth {
    /// Into the container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingress_rate: Option<u64>,
    /// Into the container, at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingress_burst: Option<u64>,
    /// Out of the container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress_rate: Option<u64>,
    /// Out of the container, at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress_burst: Option<u64>,
}

/// A selection as an operator can write it.
#[derive(Debug, Clone, Default)]
pub struct OperatorSelection {
    /// Where it stands, such as `delegates[1]`, for messages.
    pub place: String,
    /// What a pod could write too.
    pub selection: Selection,
    /// The network's configuration, in place of a reference to it.
    pub config: Option<RawObject>,
    /// When it applies.
    pub when: Selector,
    /// Whether the container may do without it.
    pub optional: bool,
}

impl OperatorSelection {
    /// Reads an operator's selection. An unknown key is an error, as it is the operator's own.
    ///
    /// # Errors
    /// The first key that is wrong, and where.
    pub fn from_object(object: &RawObject, place: &str) -> Result<Self, KeyError> {
        let keys = Keys::new(object, place);
        let known: Vec<&str> = KEYS.iter().chain(&OPERATOR_KEYS).copied().collect();
        keys.only(&known)?;
        let config = match keys.string("config") {
            Ok(Some(text)) => Some(parse_object(text.as_bytes()).map_err(|_| config_is_wrong(&keys))?),
            Ok(None) => None,
            Err(_) => Some(keys.object("config").ok().flatten().ok_or_else(|| config_is_wrong(&keys))?),
        };
        let when = match keys.object("when")? {
            Some(when) => Selector::from_object(&when, &keys.path("when"))?,
            None => Selector::default(),
        };
        let selection = Selection::read(&keys, place, Author::Operator, config.is_some())?;
        Ok(Self { place: place.to_owned(), selection, config, when, optional: keys.boolean("optional")? })
    }

    /// The network that it asks for, as it was written.
    pub fn shown(&self) -> String {
        if self.selection.name.is_empty() { "inline".into() } else { self.selection.reference() }
    }
}

/// Each selection is looked up, so that their number is limited before.
fn refuse_many(number: usize, place: &str) -> Result<(), KeyError> {
    if number <= MAX_ATTACHMENTS {
        return Ok(());
    }
    let found = format!("a list of {number}");
    Err(KeyError::Wrong { path: place.into(), found, expected: format!("at most {MAX_ATTACHMENTS} selections") })
}

/// The elements of a JSON list of selections, still text.
fn elements<'a>(text: &'a str, place: &str) -> Result<Vec<&'a RawValue>, KeyError> {
    let wrong = |found: String| KeyError::Wrong {
        path: place.into(),
        found,
        expected: "a JSON list of network selection elements".into(),
    };
    let value: &RawValue =
        serde_json::from_str(text).map_err(|error| wrong(format!("not readable ({})", without_values(&error))))?;
    let elements: Vec<&RawValue> = serde_json::from_str(value.get()).map_err(|_| wrong(kind(value)))?;
    refuse_many(elements.len(), place)?;
    Ok(elements)
}

/// Text as messages show it.
fn shortened(text: &str) -> String {
    const MOST: usize = 64;
    let mut short: String = text.chars().take(MOST).collect();
    if text.chars().nth(MOST).is_some() {
        short.push('…');
    }
    short
}

fn config_is_wrong(keys: &Keys<'_>) -> KeyError {
    keys.wrong_kind("config", "a network configuration, an object")
}

/// Who asks for an attachment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Author {
    /// The node's operator, in the configuration.
    #[default]
    Operator,
    /// The container's author, through the runtime or the Kubernetes API: anyone who may create a pod.
    Pod,
}

impl Author {
    /// Whether it is the operator.
    pub fn is_operator(&self) -> bool {
        *self == Self::Operator
    }
}

/// What a list of selections held.
#[derive(Debug, Default)]
pub struct Parsed {
    /// The selections, in order.
    pub selections: Vec<Selection>,
    /// Keys that were passed over.
    pub warnings: Vec<KeyError>,
}

impl Selection {
    /// Reads selections in either of their forms: `[namespace/]name[@interface]`, comma separated, or JSON. A
    /// text that holds any of `[{"` is JSON. Blank text is no selection. Goes on after a selection that is wrong.
    pub fn parse_all(text: &str, place: &str, problems: &mut Problems<KeyError>) -> Parsed {
        let text = text.trim();
        if text.is_empty() {
            return Parsed::default();
        }
        if text.contains(['[', '{', '"']) {
            Self::parse_json(text, place, problems)
        } else {
            Self::parse_text(text, place, problems)
        }
    }

    fn parse_text(text: &str, place: &str, problems: &mut Problems<KeyError>) -> Parsed {
        if problems.keep(refuse_many(text.split(',').count(), place)).is_none() {
            return Parsed::default();
        }
        let is_list = text.contains(',');
        let of_list = |number: usize| if is_list { Some((number + 1, text)) } else { None };
        let selections = text.split(',').enumerate().map(|(index, item)| Self::read_text(item, place, of_list(index)));
        Parsed { selections: selections.filter_map(|read| problems.keep(read)).collect(), warnings: Vec::new() }
    }

    fn parse_json(text: &str, place: &str, problems: &mut Problems<KeyError>) -> Parsed {
        let mut parsed = Parsed::default();
        for (index, element) in problems.keep(elements(text, place)).unwrap_or_default().into_iter().enumerate() {
            let place = format!("{place}[{index}]");
            let object = serde_json::from_str::<RawObject>(element.get()).map_err(|_| KeyError::Wrong {
                path: place.clone(),
                found: kind(element),
                expected: "a network selection element, an object".into(),
            });
            let Some(object) = problems.keep(object) else { continue };
            let keys = Keys::new(&object, &place);
            parsed.warnings.extend(keys.unknown(&KEYS));
            parsed.selections.extend(problems.keep(Self::read(&keys, &place, Author::Pod, false)));
        }
        parsed
    }

    /// Reads one `[namespace/]name[@interface]`.
    ///
    /// # Errors
    /// When a part is empty or not a name.
    pub fn from_text(text: &str, place: &str) -> Result<Self, KeyError> {
        Self::read_text(text, place, None)
    }

    /// Reads one `[namespace/]name[@interface]`, which may be an element of a list: its number, and the whole text.
    fn read_text(text: &str, place: &str, of_list: Option<(usize, &str)>) -> Result<Self, KeyError> {
        let wrong = |expected: &str| {
            let list = of_list.map(|(number, list)| format!(" (element {number} of {:?})", shortened(list)));
            KeyError::Wrong {
                path: place.into(),
                found: format!("{:?}{}", shortened(text.trim()), list.unwrap_or_default()),
                expected: expected.into(),
            }
        };
        let (reference, interface) = match text.trim().split_once('@') {
            Some((reference, interface)) => (reference, Some(interface.to_owned())),
            None => (text.trim(), None),
        };
        let (namespace, name) = match reference.split_once('/') {
            Some((namespace, name)) => (Some(namespace.to_owned()), name),
            None => (None, reference),
        };
        let is_name = |name: &str| validate::network_name(name).is_ok();
        if !is_name(name) || !namespace.as_deref().is_none_or(is_name) || interface.as_deref() == Some("") {
            return Err(wrong("[namespace/]name[@interface]"));
        }
        if let Some(Err(error)) = interface.as_deref().map(validate::interface_name) {
            return Err(wrong(&format!("an interface name after '@': {}", error.expected)));
        }
        Ok(Self { name: name.to_owned(), namespace, interface, ..Self::default() })
    }

    /// The network as `namespace/name`, or its plain name.
    pub fn reference(&self) -> String {
        match &self.namespace {
            Some(namespace) => format!("{namespace}/{}", self.name),
            None => self.name.clone(),
        }
    }

    /// Reads one selection element, all of whose keys are checked. With a configuration beside it, it needs no name.
    fn read(keys: &Keys<'_>, place: &str, author: Author, has_config: bool) -> Result<Self, KeyError> {
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

    /// All that it asks of its network: every key but those that say which network, and which interface.
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

fn read_ips(keys: &Keys<'_>) -> Result<Vec<String>, KeyError> {
    const EXPECTED: &str = "a list of IP addresses, with or without a prefix length";
    let ips: Vec<String> = keys.list_of("ips", EXPECTED, "an IP address, a string")?.unwrap_or_default();
    for ip in &ips {
        if ip.parse::<IpAddr>().is_err() && ip.parse::<IpNet>().is_err() {
            let found = format!("a list with {:?} in it", ip.chars().take(64).collect::<String>());
            return Err(KeyError::Wrong { path: keys.path("ips"), found, expected: EXPECTED.into() });
        }
    }
    Ok(ips)
}

fn read_hex(keys: &Keys<'_>, key: &str, lengths: &[usize], expected: &str) -> Result<Option<String>, KeyError> {
    let Some(text) = keys.string(key)?.filter(|text| !text.is_empty()) else { return Ok(None) };
    let bytes: Vec<&str> = text.split([':', '-']).collect();
    let good = lengths.contains(&bytes.len())
        && bytes.iter().all(|byte| byte.len() == 2 && byte.bytes().all(|b| b.is_ascii_hexdigit()));
    if good { Ok(Some(text)) } else { Err(keys.wrong(key, expected)) }
}

fn read_port_mappings(keys: &Keys<'_>) -> Result<Vec<PortMapping>, KeyError> {
    const EXPECTED: &str = "a list of {hostPort, containerPort, protocol: tcp, udp or sctp, hostIP}";
    const MAPPING: &str = "{hostPort, containerPort, protocol: tcp, udp or sctp, hostIP}";
    // The parser would take a list of a mapping's values for one.
    keys.list_of::<RawObject>("portMappings", EXPECTED, MAPPING)?;
    let mut mappings: Vec<PortMapping> = keys.list_of("portMappings", EXPECTED, MAPPING)?.unwrap_or_default();
    for mapping in &mut mappings {
        mapping.protocol.make_ascii_lowercase();
        let good = mapping.host_port != 0
            && mapping.container_port != 0
            && ["tcp", "udp", "sctp"].contains(&mapping.protocol.as_str())
            && (mapping.host_ip.is_empty() || mapping.host_ip.parse::<IpAddr>().is_ok());
        if !good {
            let found = format!("a list with {} in it", raw(mapping).get());
            return Err(KeyError::Wrong { path: keys.path("portMappings"), found, expected: EXPECTED.into() });
        }
    }
    Ok(mappings)
}

fn read_bandwidth(keys: &Keys<'_>) -> Result<Option<Bandwidth>, KeyError> {
    let expected = "{ingressRate, ingressBurst, egressRate, egressBurst} in bits, each burst with its rate";
    let bandwidth: Option<Bandwidth> = keys.fields("bandwidth", expected)?;
    let lone_burst = |rate: Option<u64>, burst: Option<u64>| burst.is_some_and(|b| b > 0) && rate.unwrap_or(0) == 0;
    if bandwidth.is_some_and(|limit| {
        lone_burst(limit.ingress_rate, limit.ingress_burst) || lone_burst(limit.egress_rate, limit.egress_burst)
    }) {
        return Err(keys.wrong("bandwidth", expected));
    }
    Ok(bandwidth)
}

fn read_default_route(keys: &Keys<'_>) -> Result<Option<Vec<IpAddr>>, KeyError> {
    const EXPECTED: &str = "a list of gateway addresses, at most one of each family";
    let gateways: Option<Vec<IpAddr>> =
        keys.list_of("default-route", EXPECTED, "the address of a gateway, a string")?;
    let of_family = |v4: bool| gateways.iter().flatten().filter(|gateway| gateway.is_ipv4() == v4).count();
    if of_family(true) > 1 || of_family(false) > 1 {
        return Err(keys.wrong("default-route", EXPECTED));
    }
    Ok(gateways)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> Result<Parsed, KeyError> {
        let mut problems = Problems::new();
        let parsed = Selection::parse_all(text, "networks", &mut problems);
        problems.or_first(parsed)
    }

    fn error(text: &str) -> String {
        parse(text).unwrap_err().to_string()
    }

    #[test]
    fn the_text_form() {
        let parsed = parse(" a, ns/b ,ns/c@net7").unwrap();
        let shown: Vec<_> = parsed.selections.iter().map(|s| (s.reference(), s.interface.clone())).collect();
        assert_eq!(shown, [("a".into(), None), ("ns/b".into(), None), ("ns/c".into(), Some("net7".into()))]);
        assert!(parse("  ").unwrap().selections.is_empty());
        for bad in ["a,,b", "a,", "/a", "a/", "a@", "a/b/c", "../a", "a b", "a@0123456789abcdef"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_json_form() {
        let json = r#"[{"name":"a","interfaceRequest":"if0","ips":["10.0.0.1","fd00::1/64"],"mac":"02:00:00:00:00:01",
            "portMappings":[{"hostPort":80,"containerPort":8080}],"bandwidth":{"ingressRate":1000,"ingressBurst":10},
            "default-route":["10.0.0.254"],"deviceID":"0000:00:1f.6","extra":1}]"#;
        let parsed = parse(json).unwrap();
        assert_eq!(parsed.warnings.len(), 1);
        let selection = &parsed.selections[0];
        assert_eq!(selection.interface.as_deref(), Some("if0"));
        let args = selection.capability_args();
        assert_eq!(args["portMappings"].get(), r#"[{"hostPort":80,"containerPort":8080,"protocol":"tcp"}]"#);
        assert_eq!(args.keys().collect::<Vec<_>>(), ["ips", "mac", "portMappings", "bandwidth", "deviceID"]);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (json, message) in [
            (r#"[{"namespace":"a"}]"#, "\"name\""),
            (r#"[{"name":"../a"}]"#, "networks[0].name"),
            (r#"[{"name":"a","ips":["10.0.0.300"]}]"#, "10.0.0.300"),
            (r#"[{"name":"a","mac":"zz"}]"#, "networks[0].mac"),
            (r#"[{"name":"a","interface":"a/b"}]"#, "networks[0].interface"),
            (r#"[{"name":"a","bandwidth":{"egressBurst":5}}]"#, "each burst with its rate"),
            (r#"[{"name":"a","portMappings":[{"hostPort":0,"containerPort":1}]}]"#, "portMappings"),
            (r#"[{"name":"a","default-route":["10.0.0.1","10.0.0.2"]}]"#, "at most one of each family"),
            (
                r#"[{"name":"a","default-route":["10.0.0.1",5]}]"#,
                "networks[0].default-route[1] is 5, expected the address",
            ),
            (
                r#"[{"name":"a","default-route":["secret"]}]"#,
                "networks[0].default-route[0] is a string, expected the address",
            ),
            (
                r#"[{"name":"a","portMappings":[{"hostPort":"x","containerPort":1}]}]"#,
                "networks[0].portMappings[0] is an object that cannot be read (invalid type: string, expected u16), expected {hostPort,",
            ),
            (r#"[{"name":"a","portMappings":[{"hostPort":1}]}]"#, "(missing field `containerPort`)"),
            (
                r#"[{"name":"a","portMappings":[[80,8080]]}]"#,
                "networks[0].portMappings[0] is a list, expected {hostPort",
            ),
            (r#"[{"name":"a","bandwidth":[1000,10]}]"#, "networks[0].bandwidth is a list, expected {ingressRate"),
            (
                r#"[{"name":"a","bandwidth":{"ingressRate":-1}}]"#,
                "networks[0].bandwidth is an object that cannot be read (invalid value: integer `-1`, expected u64)",
            ),
            (r#"[{"name":"a","ips":["10.0.0.1"],"ipam-claim-reference":"c"}]"#, "together"),
            (r#"{"name":"a"}"#, "networks is an object, expected a JSON list"),
            (r#"["a", {"name":"b"}]"#, "networks[0] is a string, expected a network selection element, an object"),
            (r#"[{"name":"a","ips":["10.0.0.1",5]}]"#, "networks[0].ips[1] is 5"),
            ("[", "a JSON list"),
            ("br1,,@@", "networks is \"\" (element 2 of \"br1,,@@\"), expected [namespace/]name[@interface]"),
            ("br1,@@", "networks is \"@@\" (element 2 of \"br1,@@\")"),
            ("br1@0123456789abcdef", "an interface name after '@': 1 to 15 bytes"),
        ] {
            assert!(error(json).contains(message), "{json}: {}", error(json));
        }
    }

    #[test]
    fn an_operators_unknown_key_is_an_error_with_a_hint() {
        let object = parse_object(br#"{"name":"a","interfce":"x"}"#).unwrap();
        let error = OperatorSelection::from_object(&object, "delegates[1]").unwrap_err().to_string();
        assert!(error.contains("delegates[1]") && error.contains("did you mean \"interface\""), "{error}");
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC{0,100}") {
            drop(parse(&text));
        }

        #[test]
        fn names_that_pass_are_no_paths(text in "[-a-zA-Z0-9./@,_ ]{0,40}") {
            for selection in parse(&text).map(|p| p.selections).unwrap_or_default() {
                prop_assert!(!selection.name.contains('/') && selection.name != "..");
            }
        }
    }
}
