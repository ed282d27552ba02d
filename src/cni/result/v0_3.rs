//! The format of 0.3.0, 0.3.1 and 0.4.0: addresses have a `version`.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{AddResult, Dns, Interface, Ip, ResultError, Route, checked_index, cidr, null_default, optional_ip};
use crate::cni::version::Version;

/// A result on the wire.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Wire {
    #[serde(default, skip_deserializing)]
    cni_version: Option<Version>,
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "Vec::is_empty")]
    interfaces: Vec<WireInterface>,
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "Vec::is_empty")]
    ips: Vec<WireIp>,
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "Vec::is_empty")]
    routes: Vec<Route>,
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "Dns::is_empty")]
    dns: Dns,
}

#[derive(Serialize, Deserialize)]
struct WireInterface {
    name: String,
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    mac: String,
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    sandbox: String,
}

#[derive(Serialize, Deserialize)]
struct WireIp {
    #[serde(default, deserialize_with = "null_default")]
    version: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    interface: Option<i64>,
    #[serde(with = "cidr")]
    address: IpNet,
    #[serde(default, deserialize_with = "optional_ip", skip_serializing_if = "Option::is_none")]
    gateway: Option<IpAddr>,
}

pub(super) fn read(json: &[u8]) -> Result<Wire, serde_json::Error> {
    serde_json::from_slice(json)
}

fn family(address: IpNet) -> &'static str {
    match address {
        IpNet::V4(_) => "4",
        IpNet::V6(_) => "6",
    }
}

impl Wire {
    pub(super) fn into_model(self) -> Result<AddResult, ResultError> {
        let count = self.interfaces.len();
        let ips = self.ips.into_iter().enumerate().map(|(at, ip)| {
            if !ip.version.is_empty() && ip.version != family(ip.address) {
                return Err(ResultError::Family { ip: at, version: ip.version, address: ip.address });
            }
            let interface = checked_index(at, ip.interface, count)?;
            Ok(Ip { address: ip.address, gateway: ip.gateway, interface })
        });
        let ips = ips.collect::<Result<_, ResultError>>()?;
        let interfaces = self.interfaces.into_iter().map(|interface| Interface {
            name: interface.name,
            mac: interface.mac,
            sandbox: interface.sandbox,
            ..Interface::default()
        });
        Ok(AddResult { interfaces: interfaces.collect(), ips, routes: self.routes, dns: self.dns })
    }

    pub(super) fn from_model(result: &AddResult, version: Version) -> Self {
        let interfaces = result.interfaces.iter().map(|interface| WireInterface {
            name: interface.name.clone(),
            mac: interface.mac.clone(),
            sandbox: interface.sandbox.clone(),
        });
        let ips = result.ips.iter().map(|ip| WireIp {
            version: family(ip.address).into(),
            interface: ip.interface.and_then(|index| i64::try_from(index).ok()),
            address: ip.address,
            gateway: ip.gateway,
        });
        Self {
            cni_version: Some(version),
            interfaces: interfaces.collect(),
            ips: ips.collect(),
            routes: result.routes.clone(),
            dns: result.dns.clone(),
        }
    }
}
