//! Default routes as values: everything that is needed to restore one exactly.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::cni::Family;

/// The metric that the kernel gives to an IPv6 route that is added without one.
pub(super) const IPV6_DEFAULT_METRIC: u32 = 1024;

/// `RTPROT_BOOT`: the `protocol` of routes that `ip route add` and other CNI software add.
const PROTOCOL_BOOT: u8 = 3;

/// `RT_SCOPE_LINK`: the destination is on the link itself, not behind a gateway.
const SCOPE_LINK: u8 = 253;

/// A unicast default route of the main table.
///
/// Interfaces are stored by name, so that a route from a journal can be restored after its interface was made again. `Display` is
/// similar to the output of `ip route`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DefaultRoute {
    /// The family of its destination.
    pub family: Family,
    /// The name of its outgoing interface. `None` only if there are `next_hops`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// The router. An IPv4 route may have an IPv6 router. `None` for a route that needs no router, or if there are `next_hops`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
    /// Its priority; the lowest is tried first. `None` means 0 for IPv4 and 1024 for IPv6.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metric: Option<u32>,
    /// The preferred source address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<IpAddr>,
    /// The sources for which it is used. Only IPv6 has such routes; `None` means all sources.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<IpNet>,
    /// The path's maximum transmission unit in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// The maximum segment size in bytes that TCP announces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advmss: Option<u32>,
    /// The type of service for which it is used; 0 means any.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub tos: u8,
    /// The scope of its destination, as in `rtm_scope` of rtnetlink(7).
    pub scope: u8,
    /// Its origin, as in `rtm_protocol` of rtnetlink(7).
    pub protocol: u8,
    /// Whether the gateway counts as directly reachable, even if it is in no address's subnet.
    #[serde(default, skip_serializing_if = "is_false")]
    pub onlink: bool,
    /// For how many more seconds it is valid. IPv6 router advertisements set this. `None` means for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<u32>,
    /// The next-hop object that the route uses (`ip nexthop`). Interface, gateway and next hops are then only a copy of that
    /// object's content.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nexthop_id: Option<u32>,
    /// The next hops of a multipath route, in the kernel's order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub next_hops: Vec<NextHop>,
    /// The route's other attributes, unchanged and not decoded.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub other: Vec<RawAttribute>,
}

/// A next hop of a multipath route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NextHop {
    /// The name of its outgoing interface.
    pub interface: String,
    /// The router. `None` if it needs no router.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
    /// Its share of the traffic relative to the other next hops, from 1 to 256.
    pub weight: u16,
    /// Whether the gateway counts as directly reachable, even if it is in no address's subnet.
    #[serde(default, skip_serializing_if = "is_false")]
    pub onlink: bool,
    /// Its other attributes, unchanged and not decoded.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub other: Vec<RawAttribute>,
}

/// A netlink attribute that is kept unchanged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RawAttribute {
    /// Its number, `RTA_…` of rtnetlink(7).
    pub kind: u16,
    /// Its value, in the kernel's byte order.
    pub value: Vec<u8>,
}

impl DefaultRoute {
    /// The default route via `gateway` and `interface`, as `ip route add default via` adds it.
    pub fn via(interface: impl Into<String>, gateway: IpAddr) -> Self {
        Self { gateway: Some(gateway), scope: 0, ..Self::out_of(interface, Family::of(gateway)) }
    }

    /// The default route through `interface` without a gateway, as `ip route add default dev` adds it.
    pub fn out_of(interface: impl Into<String>, family: Family) -> Self {
        Self {
            family,
            interface: Some(interface.into()),
            gateway: None,
            metric: match family {
                Family::V4 => None,
                Family::V6 => Some(IPV6_DEFAULT_METRIC),
            },
            source: None,
            from: None,
            mtu: None,
            advmss: None,
            tos: 0,
            scope: match family {
                Family::V4 => SCOPE_LINK,
                Family::V6 => 0,
            },
            protocol: PROTOCOL_BOOT,
            onlink: false,
            expires: None,
            nexthop_id: None,
            next_hops: Vec::new(),
            other: Vec::new(),
        }
    }

    /// Whether all traffic on this route leaves through `interface`.
    pub fn goes_out_of(&self, interface: &str) -> bool {
        if self.next_hops.is_empty() {
            self.interface.as_deref() == Some(interface)
        } else {
            self.next_hops.iter().all(|hop| hop.interface == interface)
        }
    }

    /// Whether some of the traffic on this route leaves through `interface`, to `gateway` if one is given.
    pub fn leads_through(&self, interface: &str, gateway: Option<IpAddr>) -> bool {
        let is_that = |hop: Option<&str>, via: Option<IpAddr>| {
            hop == Some(interface) && gateway.is_none_or(|gateway| via == Some(gateway))
        };
        is_that(self.interface.as_deref(), self.gateway)
            || self.next_hops.iter().any(|hop| is_that(Some(&hop.interface), hop.gateway))
    }

    /// The part of a multipath route that uses `interface`, as a route of its own.
    pub(super) fn share_of(&self, interface: &str) -> Option<Self> {
        let own: Vec<NextHop> = self.next_hops.iter().filter(|hop| hop.interface == interface).cloned().collect();
        let mut share = Self { nexthop_id: None, ..self.clone() };
        match own.as_slice() {
            [] => return None,
            [hop] => {
                share.interface = Some(hop.interface.clone());
                share.gateway = hop.gateway;
                share.onlink = hop.onlink;
                share.next_hops = Vec::new();
            }
            _ => share.next_hops = own,
        }
        Some(share)
    }

    /// Whether both are the same route: the remaining time may differ, and so may an implicit and an explicit default metric.
    pub fn is_same(&self, other: &Self) -> bool {
        self.normalized() == other.normalized()
    }

    /// Whether it is used for any source and any type of service.
    pub(super) fn is_unconditional(&self) -> bool {
        self.tos == 0 && self.from.is_none()
    }

    fn normalized(&self) -> Self {
        let metric = match (self.family, self.metric.unwrap_or(0)) {
            (Family::V6, 0) => IPV6_DEFAULT_METRIC,
            (_, metric) => metric,
        };
        Self { metric: Some(metric), expires: None, ..self.clone() }
    }
}

impl fmt::Display for DefaultRoute {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("default")?;
        if let Some(from) = self.from {
            write!(formatter, " from {from}")?;
        }
        if self.tos != 0 {
            write!(formatter, " tos {:#04x}", self.tos)?;
        }
        if let Some(id) = self.nexthop_id {
            write!(formatter, " nhid {id}")?;
        }
        if let Some(gateway) = self.gateway {
            write_gateway(formatter, self.family, gateway)?;
        }
        if let Some(interface) = &self.interface {
            write!(formatter, " dev {interface}")?;
        }
        if self.gateway.is_none() && self.next_hops.is_empty() {
            // Nothing else shows the family.
            write!(formatter, " ({})", self.family)?;
        }
        if let Some(source) = self.source {
            write!(formatter, " src {source}")?;
        }
        if let Some(metric) = self.metric {
            write!(formatter, " metric {metric}")?;
        }
        if self.onlink {
            formatter.write_str(" onlink")?;
        }
        for hop in &self.next_hops {
            formatter.write_str(" nexthop")?;
            if let Some(gateway) = hop.gateway {
                write_gateway(formatter, self.family, gateway)?;
            }
            write!(formatter, " dev {} weight {}", hop.interface, hop.weight)?;
            if hop.onlink {
                formatter.write_str(" onlink")?;
            }
        }
        Ok(())
    }
}

/// `via 10.0.0.1`, or `via inet6 fe80::1` if the gateway's family is not the route's.
fn write_gateway(formatter: &mut fmt::Formatter<'_>, family: Family, gateway: IpAddr) -> fmt::Result {
    match (family, gateway) {
        (Family::V4, IpAddr::V6(gateway)) => write!(formatter, " via inet6 {gateway}"),
        (_, gateway) => write!(formatter, " via {gateway}"),
    }
}

/// Why an address cannot be a gateway.
pub(super) fn never_a_gateway(address: IpAddr) -> Option<&'static str> {
    if address.is_unspecified() {
        Some("the unspecified address is no gateway")
    } else if address.is_loopback() {
        Some("a loopback address is no gateway")
    } else if address.is_multicast() || address == IpAddr::V4(Ipv4Addr::BROADCAST) {
        Some("a multicast or broadcast address is no gateway")
    } else if matches!(address, IpAddr::V6(v6) if is_mapped(v6)) {
        Some("an IPv4 address written as IPv6 is no gateway; write it as IPv4")
    } else {
        None
    }
}

fn is_mapped(address: Ipv6Addr) -> bool {
    address.to_ipv4_mapped().is_some()
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde asks for")]
fn is_zero(number: &u8) -> bool {
    *number == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde asks for")]
fn is_false(flag: &bool) -> bool {
    !*flag
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    fn hop(interface: &str, gateway: &str) -> NextHop {
        NextHop {
            interface: interface.into(),
            gateway: Some(gateway.parse().unwrap()),
            weight: 1,
            onlink: false,
            other: vec![],
        }
    }

    #[test]
    fn a_plain_route_is_short_in_the_journal() {
        let route = DefaultRoute::via("net1", "10.2.0.1".parse().unwrap());
        let written = serde_json::to_value(&route).unwrap();
        assert_eq!(
            written,
            json!({"family": "4", "interface": "net1", "gateway": "10.2.0.1", "scope": 0, "protocol": 3})
        );
        assert_eq!(serde_json::from_value::<DefaultRoute>(written).unwrap(), route);
    }

    #[test]
    fn everything_a_route_has_survives_the_journal() {
        let route = DefaultRoute {
            family: Family::V6,
            interface: None,
            gateway: None,
            metric: Some(7),
            source: Some("fd01::2".parse().unwrap()),
            from: Some("fd01::/64".parse().unwrap()),
            mtu: Some(1400),
            advmss: Some(1300),
            tos: 16,
            scope: 253,
            protocol: 9,
            onlink: true,
            expires: Some(1800),
            nexthop_id: Some(12),
            next_hops: vec![NextHop { onlink: true, weight: 256, ..hop("eth0", "fe80::1") }],
            other: vec![RawAttribute { kind: 20, value: vec![1] }],
        };
        let written = serde_json::to_string(&route).unwrap();
        assert_eq!(serde_json::from_str::<DefaultRoute>(&written).unwrap(), route);
    }

    #[test]
    fn an_ipv6_metric_that_is_left_out_is_1024() {
        let route = DefaultRoute::via("net1", "fe80::1".parse().unwrap());
        assert!(route.is_same(&DefaultRoute { metric: None, ..route.clone() }));
        assert!(route.is_same(&DefaultRoute { expires: Some(30), ..route.clone() }));
        assert!(!route.is_same(&DefaultRoute { metric: Some(1), ..route.clone() }));
    }

    #[test]
    fn an_ipv4_metric_that_is_left_out_is_0() {
        let route = DefaultRoute::via("net1", "10.2.0.1".parse().unwrap());
        assert!(route.is_same(&DefaultRoute { metric: Some(0), ..route.clone() }));
        assert!(!route.is_same(&DefaultRoute { metric: Some(1024), ..route.clone() }));
    }

    #[test]
    fn a_multipath_route_goes_out_of_an_interface_only_with_all_its_hops() {
        let mut route = DefaultRoute {
            interface: None,
            gateway: None,
            next_hops: vec![hop("net1", "10.2.0.1"), hop("net1", "10.2.0.3")],
            ..DefaultRoute::via("", "10.2.0.1".parse().unwrap())
        };
        assert!(route.goes_out_of("net1"));
        route.next_hops.push(hop("eth0", "10.1.0.1"));
        assert!(!route.goes_out_of("net1"));
    }

    #[rstest]
    #[case(DefaultRoute::via("net1", "10.2.0.1".parse().unwrap()), "default via 10.2.0.1 dev net1")]
    #[case(DefaultRoute::via("net1", "fe80::1".parse().unwrap()), "default via fe80::1 dev net1 metric 1024")]
    #[case(
        DefaultRoute { family: Family::V4, metric: None, onlink: true, ..DefaultRoute::via("net1", "fe80::1".parse().unwrap()) },
        "default via inet6 fe80::1 dev net1 onlink"
    )]
    #[case(DefaultRoute::out_of("ppp0", Family::V4), "default dev ppp0 (IPv4)")]
    #[case(
        DefaultRoute {
            interface: None,
            next_hops: vec![hop("net1", "10.2.0.1")],
            ..DefaultRoute::out_of("", Family::V4)
        },
        "default nexthop via 10.2.0.1 dev net1 weight 1"
    )]
    fn routes_read_like_ip_route_shows_them(#[case] route: DefaultRoute, #[case] shown: &str) {
        assert_eq!(route.to_string(), shown);
    }

    #[rstest]
    #[case("10.0.0.1", true)]
    #[case("169.254.1.1", true)]
    #[case("fe80::1", true)]
    #[case("0.0.0.0", false)]
    #[case("::", false)]
    #[case("127.0.0.1", false)]
    #[case("::1", false)]
    #[case("224.0.0.1", false)]
    #[case("ff02::1", false)]
    #[case("255.255.255.255", false)]
    #[case("::ffff:10.0.0.1", false)]
    fn some_addresses_cannot_be_a_gateway(#[case] address: &str, #[case] possible: bool) {
        assert_eq!(never_a_gateway(address.parse().unwrap()).is_none(), possible);
    }
}
