//! The values of a selection's keys.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::super::object::{KeyError, Keys};
use crate::cni::config::{RawObject, raw};

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
    /// The host's address. Empty for all of them.
    #[serde(default, rename = "hostIP", skip_serializing_if = "String::is_empty")]
    pub host_ip: String,
}

impl PortMapping {
    /// Whether two mappings would forward the same port of the same host address.
    pub fn overlaps(&self, other: &Self) -> bool {
        let is_one_address = match (self.host_ip.parse::<IpAddr>(), other.host_ip.parse::<IpAddr>()) {
            (Ok(a), Ok(b)) => a.is_ipv4() == b.is_ipv4() && (a == b || a.is_unspecified() || b.is_unspecified()),
            _ => true,
        };
        self.host_port == other.host_port && self.protocol == other.protocol && is_one_address
    }

    /// Reads a JSON list of mappings, as in `portMappings` of a selection.
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

/// Limits on traffic. Rates are in bits per second, bursts in bits.
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

pub(super) fn read_ips(keys: &Keys<'_>) -> Result<Vec<String>, KeyError> {
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

pub(super) fn read_hex(
    keys: &Keys<'_>,
    key: &str,
    lengths: &[usize],
    expected: &str,
) -> Result<Option<String>, KeyError> {
    let Some(text) = keys.string(key)?.filter(|text| !text.is_empty()) else { return Ok(None) };
    let bytes: Vec<&str> = text.split([':', '-']).collect();
    let good = lengths.contains(&bytes.len())
        && bytes.iter().all(|byte| byte.len() == 2 && byte.bytes().all(|b| b.is_ascii_hexdigit()));
    if good { Ok(Some(text)) } else { Err(keys.wrong(key, expected)) }
}

pub(super) fn read_port_mappings(keys: &Keys<'_>) -> Result<Vec<PortMapping>, KeyError> {
    const EXPECTED: &str = "a list of {hostPort, containerPort, protocol: tcp, udp or sctp, hostIP}";
    const MAPPING: &str = "{hostPort, containerPort, protocol: tcp, udp or sctp, hostIP}";
    // The parser would also accept a list of a mapping's values.
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

pub(super) fn read_bandwidth(keys: &Keys<'_>) -> Result<Option<Bandwidth>, KeyError> {
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

pub(super) fn read_default_route(keys: &Keys<'_>) -> Result<Option<Vec<IpAddr>>, KeyError> {
    const EXPECTED: &str = "a list of gateway addresses, at most one of each family";
    let gateways: Option<Vec<IpAddr>> =
        keys.list_of("default-route", EXPECTED, "the address of a gateway, a string")?;
    let of_family = |v4: bool| gateways.iter().flatten().filter(|gateway| gateway.is_ipv4() == v4).count();
    if of_family(true) > 1 || of_family(false) > 1 {
        return Err(keys.wrong("default-route", EXPECTED));
    }
    Ok(gateways)
}
