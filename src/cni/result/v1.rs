//! The shape of 1.0.0 and 1.1.0.

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
    interfaces: Vec<Interface>,
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "Vec::is_empty")]
    ips: Vec<WireIp>,
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "Vec::is_empty")]
    routes: Vec<Route>,
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "Dns::is_empty")]
    dns: Dns,
}

#[derive(Serialize, Deserialize)]
struct WireIp {
    #[serde(with = "cidr")]
    address: IpNet,
    #[serde(default, deserialize_with = "optional_ip", skip_serializing_if = "Option::is_none")]
    gateway: Option<IpAddr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    interface: Option<i64>,
}

pub(super) fn read(json: &[u8]) -> Result<Wire, serde_json::Error> {
    serde_json::from_slice(json)
}

impl Wire {
    pub(super) fn into_model(self) -> Result<AddResult, ResultError> {
        let count = self.interfaces.len();
        let ips = self.ips.into_iter().enumerate().map(|(at, ip)| {
            let interface = checked_index(at, ip.interface, count)?;
            Ok(Ip { address: ip.address, gateway: ip.gateway, interface })
        });
        Ok(AddResult {
            ips: ips.collect::<Result<_, ResultError>>()?,
            interfaces: self.interfaces,
            routes: self.routes,
            dns: self.dns,
        })
    }

    pub(super) fn from_model(result: &AddResult, version: Version) -> Self {
        let ips = result.ips.iter().map(|ip| WireIp {
            address: ip.address,
            gateway: ip.gateway,
            interface: ip.interface.and_then(|index| i64::try_from(index).ok()),
        });
        Self {
            cni_version: Some(version),
            interfaces: result.interfaces.clone(),
            ips: ips.collect(),
            routes: result.routes.clone(),
            dns: result.dns.clone(),
        }
    }
}
