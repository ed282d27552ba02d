//! Compares what results say about the container's network namespace with the namespace.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::cni::AddResult;
use crate::cni::result::Route;
use crate::netns::{Address, DefaultRoute, Family, Link, Netns, NetnsError};

/// Something that, according to the result of an attachment, is in the container's network namespace.
///
/// Some of it may never have been there. A device that a user-space driver has taken was never a network interface, and an earlier
/// attachment may have taken a default route. So what is missing when ADD ends is written to the journal, and CHECK does not look
/// for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Claim {
    /// There is an interface of this name.
    Interface(String),
    /// An interface has an address.
    Address {
        /// The interface's name.
        interface: String,
        /// The address, with the prefix length of its subnet.
        address: IpNet,
    },
    /// There is a default route through an interface.
    DefaultRoute {
        /// The interface's name.
        interface: String,
        /// The family of the route.
        family: Family,
        /// Its next hop, if the result names one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        gateway: Option<IpAddr>,
    },
}

impl Claim {
    /// Everything that the result of an attachment on `ifname` says about the container, whose namespace was at `netns` then.
    pub fn of(ifname: &str, netns: &str, result: &AddResult) -> Vec<Self> {
        let inside = result.in_container(netns, ifname);
        let mut claims = vec![Self::Interface(ifname.to_owned())];
        for interface in &inside {
            let claim = Self::Interface(interface.name.to_owned());
            if !claims.contains(&claim) {
                claims.push(claim);
            }
        }
        for interface in &inside {
            claims.extend(interface.ips.iter().map(|ip| {
                let interface = interface.name.to_owned();
                Self::Address { interface, address: ip.address }
            }));
        }
        claims.extend(Family::ALL.into_iter().filter_map(|family| {
            let is_default = |route: &&Route| route.is_default() && Family::of(route.dst.addr()) == family;
            let route = result.routes.iter().find(is_default)?;
            Some(Self::DefaultRoute { interface: ifname.to_owned(), family, gateway: route.gw })
        }));
        claims
    }

    /// The interface that it is about.
    pub fn interface(&self) -> &str {
        match self {
            Self::Interface(interface) | Self::Address { interface, .. } | Self::DefaultRoute { interface, .. } => {
                interface
            }
        }
    }

    /// Says that it is not true any more.
    pub fn gone(&self) -> String {
        match self {
            Self::Interface(name) => format!("interface {name:?} is gone"),
            Self::Address { interface, address } => format!("address {address} is gone from {interface:?}"),
            Self::DefaultRoute { interface, family, gateway } => {
                let via = gateway.map(|gateway| format!(" via {gateway}")).unwrap_or_default();
                format!("the {family} default route{via} is gone from {interface:?}")
            }
        }
    }

    /// Whether it concerns the same thing as another claim: the same address with any prefix, or a default route of the same family
    /// through the same interface.
    pub fn is_about_same(&self, other: &Self) -> bool {
        self.interface() == other.interface()
            && match (self, other) {
                (Self::Interface(_), Self::Interface(_)) => true,
                (Self::Address { address, .. }, Self::Address { address: other, .. }) => address.addr() == other.addr(),
                (Self::DefaultRoute { family, .. }, Self::DefaultRoute { family: other, .. }) => family == other,
                _ => false,
            }
    }
}

/// The part of a namespace that claims are about.
#[derive(Debug)]
pub struct Seen {
    links: Vec<Link>,
    addresses: Vec<Address>,
    routes: Vec<DefaultRoute>,
}

impl Seen {
    /// Looks at what `claims` are about.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn look<'a>(netns: &mut Netns, claims: impl IntoIterator<Item = &'a Claim>) -> Result<Self, NetnsError> {
        let mut has_addresses = false;
        let mut families = BTreeSet::new();
        for claim in claims {
            match claim {
                Claim::Interface(_) => {}
                Claim::Address { .. } => has_addresses = true,
                Claim::DefaultRoute { family, .. } => drop(families.insert(*family)),
            }
        }
        let mut seen = Self { links: netns.links()?, addresses: Vec::new(), routes: Vec::new() };
        if has_addresses {
            seen.addresses = netns.addresses()?;
        }
        for family in families {
            seen.routes.extend(netns.default_routes(family)?);
        }
        Ok(seen)
    }

    /// Whether a claim is true.
    pub fn has(&self, claim: &Claim) -> bool {
        match claim {
            Claim::Interface(name) => self.link(name).is_some(),
            Claim::Address { interface, address } => self.link(interface).is_some_and(|link| {
                self.addresses.iter().any(|found| found.link == link.index && found.net.addr() == address.addr())
            }),
            Claim::DefaultRoute { interface, family, gateway } => {
                self.routes.iter().any(|route| route.family == *family && route.leads_through(interface, *gateway))
            }
        }
    }

    fn link(&self, name: &str) -> Option<&Link> {
        self.links.iter().find(|link| link.name == name)
    }
}

/// What the results of the attachments on these interfaces list and the namespace does not have. `None` if this process cannot see
/// the namespace.
pub fn absent<'a>(netns: &str, attached: impl IntoIterator<Item = (&'a str, &'a AddResult)>) -> Option<Vec<Claim>> {
    let claims = attached.into_iter().flat_map(|(ifname, result)| Claim::of(ifname, netns, result));
    let mut claims: Vec<Claim> = claims.collect();
    let seen = Netns::open(Path::new(netns))
        .and_then(|mut netns| Seen::look(&mut netns, &claims))
        .inspect_err(|error| tracing::debug!("cannot look at what was attached: {error}"))
        .ok()?;
    claims.retain(|claim| !seen.has(claim));
    Some(claims)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cni::Version;

    fn claims(result: &str) -> Vec<String> {
        let result = AddResult::parse(result.as_bytes(), Version::V1_1_0).unwrap();
        Claim::of("eth0", "/n", &result).iter().map(Claim::gone).collect()
    }

    #[test]
    fn addresses_are_claimed_for_the_interface_in_the_container() {
        let result = r#"{"interfaces": [{"name": "cali1"}, {"name": "eth0", "sandbox": "/n"}, {"name": "net1", "sandbox": "/n"}],
            "ips": [{"address": "10.0.0.1/32"}, {"address": "10.0.0.2/32", "interface": 0},
                {"address": "10.0.0.3/32", "interface": 2}]}"#;
        let expected = [
            r#"interface "eth0" is gone"#,
            r#"interface "net1" is gone"#,
            r#"address 10.0.0.1/32 is gone from "eth0""#,
            r#"address 10.0.0.2/32 is gone from "eth0""#,
            r#"address 10.0.0.3/32 is gone from "net1""#,
        ];
        assert_eq!(claims(result), expected);
    }

    #[test]
    fn a_default_route_of_each_family_and_of_the_main_table() {
        let result = r#"{"routes": [{"dst": "10.0.0.0/8"}, {"dst": "0.0.0.0/0", "table": 100}, {"dst": "0.0.0.0/0", "gw": "10.0.0.1"},
            {"dst": "::/0"}]}"#;
        let expected = [
            r#"interface "eth0" is gone"#,
            r#"the IPv4 default route via 10.0.0.1 is gone from "eth0""#,
            r#"the IPv6 default route is gone from "eth0""#,
        ];
        assert_eq!(claims(result), expected);
    }

    #[test]
    fn what_was_absent_is_known_by_what_it_is_about() {
        let address = |text: &str| Claim::Address { interface: "eth0".into(), address: text.parse().unwrap() };
        let route = |family, gateway| Claim::DefaultRoute { interface: "eth0".into(), family, gateway };
        assert!(address("10.0.0.1/24").is_about_same(&address("10.0.0.1/32")));
        assert!(!address("10.0.0.1/24").is_about_same(&address("10.0.0.2/24")));
        assert!(route(Family::V4, None).is_about_same(&route(Family::V4, Some("10.0.0.1".parse().unwrap()))));
        assert!(!route(Family::V4, None).is_about_same(&route(Family::V6, None)));
        assert!(!Claim::Interface("eth0".into()).is_about_same(&route(Family::V4, None)));
    }
}
