//! What a result says about the container: its interfaces, and their addresses.

use std::path::Path;

use super::{AddResult, Interface, Ip};

/// An interface in the container, as a result describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerInterface<'a> {
    /// Its name.
    pub name: &'a str,
    /// The result's description. `None` if the result lists no interface in the container.
    pub listed: Option<&'a Interface>,
    /// Its addresses.
    pub ips: Vec<&'a Ip>,
}

impl AddResult {
    /// The interfaces that this result puts into the container whose namespace is at `netns`, and their addresses. There is always
    /// at least one: many plugins list no interface in the container, or only the host's side of it. The interface is then
    /// `ifname`, which the plugin was asked to make.
    ///
    /// An address may be on no interface of the container, because it has no index, or that of the host's side. Then it is on
    /// `ifname`, or on the container's first interface if the result lists interfaces there and `ifname` is not among them.
    pub fn in_container<'a>(&'a self, netns: &str, ifname: &'a str) -> Vec<ContainerInterface<'a>> {
        let inside = |interface: &Interface| interface.is_in_container(netns);
        let listed = self.interfaces.iter().enumerate().filter(|(_, interface)| inside(interface));
        let (indexes, mut found): (Vec<_>, Vec<_>) = listed
            .map(|(index, interface)| {
                (index, ContainerInterface { name: &interface.name, listed: Some(interface), ips: Vec::new() })
            })
            .unzip();
        if found.is_empty() {
            found.push(ContainerInterface { name: ifname, listed: None, ips: Vec::new() });
        }
        let main = found.iter().position(|interface| interface.name == ifname).unwrap_or(0);
        for ip in &self.ips {
            let own = ip.interface.and_then(|index| indexes.iter().position(|listed| *listed == index));
            found[own.unwrap_or(main)].ips.push(ip);
        }
        found
    }
}

impl Interface {
    /// Whether it is in the container whose namespace is at `netns`, according to its `sandbox`. Some plugins write another path
    /// than they were given, or the last part of it. For interfaces on the host, others write a word that is not a path, such as
    /// `0`.
    pub fn is_in_container(&self, netns: &str) -> bool {
        let is_last_part = || Path::new(netns).file_name().is_some_and(|name| name == self.sandbox.as_str());
        !self.sandbox.is_empty() && (self.sandbox == netns || self.sandbox.starts_with('/') || is_last_part())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cni::Version;

    fn places(result: &str) -> Vec<String> {
        let result = AddResult::parse(result.as_bytes(), Version::V1_0_0).unwrap();
        let shown = |interface: &ContainerInterface<'_>| {
            let ips: Vec<_> = interface.ips.iter().map(|ip| ip.address.addr().to_string()).collect();
            format!("{} {}", interface.name, ips.join(" ")).trim_end().to_owned()
        };
        result.in_container("/run/netns/cni-1", "eth0").iter().map(shown).collect()
    }

    #[test]
    fn addresses_are_on_the_interface_that_has_them_or_that_was_asked_for() {
        let ips = r#""ips": [{"address": "10.0.0.1/24"}, {"address": "10.0.0.2/24", "interface": 0}]"#;
        for (interfaces, expected) in [
            ("", "eth0 10.0.0.1 10.0.0.2"),
            (r#"{"name": "cali1"}"#, "eth0 10.0.0.1 10.0.0.2"),
            (r#"{"name": "eni1"}, {"name": "eni2"}"#, "eth0 10.0.0.1 10.0.0.2"),
            (r#"{"name": "vlan1", "sandbox": "0"}"#, "eth0 10.0.0.1 10.0.0.2"),
            (r#"{"name": "cali1"}, {"name": "eth0", "sandbox": "/run/netns/cni-1"}"#, "eth0 10.0.0.1 10.0.0.2"),
            (r#"{"name": "cali1"}, {"name": "eth0", "sandbox": "cni-1"}"#, "eth0 10.0.0.1 10.0.0.2"),
            (r#"{"name": "data", "sandbox": "/proc/1/ns/net"}"#, "data 10.0.0.1 10.0.0.2"),
            (r#"{"name": "data", "sandbox": "/n"}, {"name": "eth0", "sandbox": "/n"}"#, "data 10.0.0.2, eth0 10.0.0.1"),
        ] {
            let ips = if interfaces.is_empty() { ips.replace(r#", "interface": 0"#, "") } else { ips.to_owned() };
            let result = format!(r#"{{"interfaces": [{interfaces}], {ips}}}"#);
            assert_eq!(places(&result).join(", "), expected, "{interfaces}");
        }
        assert_eq!(places("{}"), ["eth0"]);
    }
}
