//! The shape of 1.0.0 and 1.1.0.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{AddResult, Dns, Interface, Ip, ResultError, Route, checked_index, cidr, null_default, optional_ip};
use crate::cni::version::Version;

/// A result as it is read.
#[derive(Deserialize)]
pub(super) struct Wire {
    #[serde(default, deserialize_with = "null_default")]
    interfaces: Vec<Interface>,
    #[serde(default, deserialize_with = "null_default")]
    ips: Vec<WireIp>,
    #[serde(default, deserialize_with = "null_default")]
    routes: Vec<Route>,
    #[serde(default, deserialize_with = "null_default")]
    dns: Dns,
}

/// A result as it is written.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Written<'a> {
    cni_version: Version,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    interfaces: &'a [Interface],
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ips: Vec<WireIp>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    routes: &'a [Route],
    #[serde(skip_serializing_if = "Dns::is_empty")]
    dns: &'a Dns,
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
}

impl<'a> Written<'a> {
    pub(super) fn from_model(result: &'a AddResult, version: Version) -> Self {
        let ips = result.ips.iter().map(|ip| WireIp {
            address: ip.address,
            gateway: ip.gateway,
            interface: ip.interface.and_then(|index| i64::try_from(index).ok()),
        });
        Self {
            cni_version: version,
            interfaces: &result.interfaces,
            ips: ips.collect(),
            routes: &result.routes,
            dns: &result.dns,
        }
    }
}
