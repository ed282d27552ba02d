//! The format of 0.1.0 and 0.2.0: one address of each family, and no interfaces.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{AddResult, Dns, Ip, ResultError, Route, cidr, null_default, optional_ip};
use crate::cni::version::Version;

/// A result on the wire.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Wire {
    #[serde(default, skip_deserializing)]
    cni_version: Option<Version>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ip4: Option<Section>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ip6: Option<Section>,
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "Dns::is_empty")]
    dns: Dns,
}

#[derive(Serialize, Deserialize)]
struct Section {
    #[serde(with = "cidr")]
    ip: IpNet,
    #[serde(default, deserialize_with = "optional_ip", skip_serializing_if = "Option::is_none")]
    gateway: Option<IpAddr>,
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "Vec::is_empty")]
    routes: Vec<Route>,
}

pub(super) fn read(json: &[u8]) -> Result<Wire, serde_json::Error> {
    serde_json::from_slice(json)
}

fn is_v4(net: IpNet) -> bool {
    matches!(net, IpNet::V4(_))
}

impl Wire {
    pub(super) fn into_model(self) -> Result<AddResult, ResultError> {
        let mut result = AddResult { dns: self.dns, ..AddResult::default() };
        for (key, v4, section) in [("ip4", true, self.ip4), ("ip6", false, self.ip6)] {
            let Some(section) = section else { continue };
            if is_v4(section.ip) != v4 {
                return Err(ResultError::Section { key, address: section.ip });
            }
            result.ips.push(Ip { address: section.ip, gateway: section.gateway, interface: None });
            result.routes.extend(section.routes);
        }
        Ok(result)
    }

    pub(super) fn from_model(result: &AddResult, version: Version) -> Self {
        let section = |v4: bool| {
            let ip = result.ips.iter().find(|ip| is_v4(ip.address) == v4)?;
            let routes = result.routes.iter().filter(|route| is_v4(route.dst) == v4).cloned();
            Some(Section { ip: ip.address, gateway: ip.gateway, routes: routes.collect() })
        };
        Self { cni_version: Some(version), ip4: section(true), ip6: section(false), dns: result.dns.clone() }
    }
}
