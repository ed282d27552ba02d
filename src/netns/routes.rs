//! Reading, adding and removing [`DefaultRoute`]s.

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;
use netlink_packet_core::{
    DecodeError, DefaultNla, NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL, Nla, NlaBuffer, NlasIterator,
    ParseableParametrized,
};
use netlink_packet_route::{
    AddressFamily,
    route::{
        RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteLwEnCapType, RouteMessage, RouteMetric,
        RouteNextHop, RouteNextHopFlags, RouteType, RouteVia,
    },
};
use nix::{errno::Errno, libc};

use super::{DefaultRoute, Family, Link, NetlinkError, Netns, NetnsError, NextHop, RawAttribute, socket::Request};

/// Bytes of `struct rtmsg`, which the attributes follow.
const ROUTE_HEADER_LEN: usize = 12;

/// Route expiry times are in this fraction of a second (`USER_HZ`).
const CLOCK_TICKS: i32 = 100;

/// How a route is added beside existing ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Placement {
    /// It has to be the only one of its metric.
    Alone,
    /// It comes after those of its metric.
    Last,
}

impl Netns {
    /// The default routes of one family: unicast routes of the main table for all destinations, in the order in which the kernel
    /// tries them.
    pub fn default_routes(&mut self, family: Family) -> Result<Vec<DefaultRoute>, NetnsError> {
        let mut request = RouteMessage::default();
        request.header.address_family = address_family(family);
        let found = self.socket.dump(&Request::GetRoute(request), |payload| {
            Ok(is_default_route(&RouteHeader::parse(payload)?, family).then(|| payload.to_vec()))
        });
        let payloads = match found {
            // A kernel without IPv6 has no IPv6 routes.
            Err(error) if matches!(error.errno(), Some(Errno::EOPNOTSUPP | Errno::EAFNOSUPPORT)) => Vec::new(),
            found => found.map_err(self.failed(format!("list the {family} routes")))?,
        };
        if payloads.is_empty() {
            return Ok(Vec::new());
        }
        // Read after the routes: if a link is missing now, its routes are gone too.
        let names = self.links()?.into_iter().map(|link| (link.index, link.name)).collect();
        payloads
            .iter()
            .filter_map(|payload| decode(family, payload, &names).transpose())
            .collect::<Result<_, _>>()
            .map_err(|error| self.failed(format!("read a {family} default route"))(error.into()))
    }

    /// Removes exactly this route. Succeeds if the route or its interface does not exist.
    pub fn remove_default_route(&mut self, route: &DefaultRoute) -> Result<(), NetnsError> {
        self.remove(route).map(drop)
    }

    /// Adds the route. Succeeds if exactly this route exists.
    ///
    /// # Errors
    ///
    /// [`NoSuchInterface`](NetnsError::NoSuchInterface), [`InterfaceDown`](NetnsError::InterfaceDown),
    /// [`GatewayUnreachable`](NetnsError::GatewayUnreachable), and [`InTheWay`](NetnsError::InTheWay) if a different route of the
    /// same metric exists: the two are never joined into a multipath route.
    pub fn add_default_route(&mut self, route: &DefaultRoute) -> Result<(), NetnsError> {
        self.add(route).map(drop)
    }

    /// Removes the route, and returns whether it existed.
    pub(super) fn remove(&mut self, route: &DefaultRoute) -> Result<bool, NetnsError> {
        // For a request without a metric or source, the kernel accepts any, and would remove the next best match.
        if !self.has_default_route(route)? {
            return Ok(false);
        }
        let Ok(message) = encode(route, &self.links()?) else {
            return Ok(false);
        };
        match self.socket.change(Request::DelRoute(message), 0) {
            Ok(()) => Ok(true),
            Err(error) if matches!(error.errno(), Some(Errno::ESRCH | Errno::ENODEV)) => Ok(false),
            Err(error) => Err(self.failed(format!("remove route \"{route}\""))(error)),
        }
    }

    /// Adds the route, and returns whether it was missing.
    pub(super) fn add(&mut self, route: &DefaultRoute) -> Result<bool, NetnsError> {
        self.place(route, Placement::Alone)
    }

    /// Adds a route that existed before, possibly beside others of its metric, and returns whether it was missing.
    pub(super) fn put_back(&mut self, route: &DefaultRoute) -> Result<bool, NetnsError> {
        match route.family {
            Family::V4 => self.place(route, Placement::Last),
            // Appending joins IPv6 routes into a multipath route, so it is used only if nothing else works: beside a route from a
            // router advertisement, which the kernel never joins.
            Family::V6 => match self.place(route, Placement::Alone) {
                Err(NetnsError::InTheWay { .. }) => self.place(route, Placement::Last),
                result => result,
            },
        }
    }

    fn place(&mut self, route: &DefaultRoute, placement: Placement) -> Result<bool, NetnsError> {
        let links = self.links()?;
        let message = match encode(route, &links) {
            Ok(message) => message,
            Err(MissingLink(name)) => return Err(self.no_such_interface(&name, links)),
        };
        let flags = match placement {
            Placement::Alone => NLM_F_CREATE | NLM_F_EXCL,
            // Without this check, an existing IPv6 route would be added a second time.
            Placement::Last if self.has_default_route(route)? => return Ok(false),
            Placement::Last => NLM_F_CREATE | NLM_F_APPEND,
        };
        match self.socket.change(Request::NewRoute(message), flags) {
            Ok(()) => Ok(true),
            Err(error) if error.errno() == Some(Errno::EEXIST) => {
                if self.has_default_route(route)? {
                    return Ok(false);
                }
                Err(NetnsError::InTheWay { netns: self.name.clone(), route: Box::new(route.clone()) })
            }
            Err(error) => Err(self.not_added(route, &links, error)),
        }
    }

    /// Whether exactly this route is there.
    fn has_default_route(&mut self, route: &DefaultRoute) -> Result<bool, NetnsError> {
        Ok(self.default_routes(route.family)?.iter().any(|there| there.is_same(route)))
    }

    /// Why the kernel did not take a route.
    fn not_added(&mut self, route: &DefaultRoute, links: &[Link], source: NetlinkError) -> NetnsError {
        let link = links.iter().find(|link| Some(&link.name) == route.interface.as_ref());
        match (source.errno(), link, route.gateway) {
            // Nothing can be reached through a link that is down, and the kernel's error for IPv4 does not say so.
            (Some(Errno::ENETDOWN | Errno::ENETUNREACH | Errno::EHOSTUNREACH), Some(link), _) if !link.up => {
                NetnsError::InterfaceDown { netns: self.name.clone(), interface: link.name.clone() }
            }
            (Some(Errno::ENETUNREACH | Errno::EHOSTUNREACH), Some(link), Some(gateway)) => {
                NetnsError::GatewayUnreachable {
                    netns: self.name.clone(),
                    gateway,
                    interface: link.name.clone(),
                    addresses: self.addresses_of(link, Family::of(gateway)),
                    source,
                }
            }
            _ => self.failed(format!("add route \"{route}\""))(source),
        }
    }

    /// The addresses of a link, for an error message. Empty if they cannot be read.
    fn addresses_of(&mut self, link: &Link, family: Family) -> Vec<String> {
        let addresses = self.addresses().unwrap_or_default();
        let of_link = addresses.into_iter().filter(|address| address.link == link.index);
        of_link
            .map(|address| address.net)
            .filter(|net| Family::of(net.addr()) == family)
            .map(|net| net.to_string())
            .collect()
    }
}

/// The interface of a route is not there.
struct MissingLink(String);

fn address_family(family: Family) -> AddressFamily {
    match family {
        Family::V4 => AddressFamily::Inet,
        Family::V6 => AddressFamily::Inet6,
    }
}

/// A kernel without IPv6 answers with IPv4 routes, so the family is checked too.
fn is_default_route(header: &RouteHeader, family: Family) -> bool {
    header.address_family == address_family(family)
        && header.destination_prefix_length == 0
        && header.table == RouteHeader::RT_TABLE_MAIN
        && header.kind == RouteType::Unicast
        && !header.flags.contains(RouteFlags::Cloned)
}

/// Reads an `RTM_NEWROUTE` payload. `None` if its outgoing link is not among `names`.
fn decode(family: Family, payload: &[u8], names: &BTreeMap<u32, String>) -> Result<Option<DefaultRoute>, DecodeError> {
    let header = RouteHeader::parse(payload)?;
    let mut route = DefaultRoute {
        interface: None,
        metric: None,
        tos: header.tos,
        scope: header.scope.into(),
        protocol: header.protocol.into(),
        onlink: header.flags.contains(RouteFlags::Onlink),
        ..DefaultRoute::out_of("", family)
    };
    for attribute in NlasIterator::new(&payload[ROUTE_HEADER_LEN..]) {
        let attribute = attribute?;
        let param = (header.address_family, header.kind, RouteLwEnCapType::None);
        match RouteAttribute::parse_with_param(&attribute, param)? {
            RouteAttribute::Oif(index) => match names.get(&index) {
                Some(name) => route.interface = Some(name.clone()),
                None => return Ok(None),
            },
            RouteAttribute::MultiPath(hops) => {
                for hop in hops {
                    match decode_hop(hop, names) {
                        Some(hop) => route.next_hops.push(hop),
                        None => return Ok(None),
                    }
                }
            }
            RouteAttribute::Gateway(address) => route.gateway = ip(&address),
            RouteAttribute::Via(via) => route.gateway = via_ip(&via),
            RouteAttribute::Priority(metric) => route.metric = Some(metric),
            RouteAttribute::PrefSource(address) => route.source = ip(&address),
            RouteAttribute::Source(address) => {
                route.from = ip(&address).and_then(|ip| IpNet::new(ip, header.source_prefix_length).ok());
            }
            RouteAttribute::NhId(id) => route.nexthop_id = Some(id),
            RouteAttribute::Metrics(metrics) => {
                for metric in &metrics {
                    match metric {
                        RouteMetric::Mtu(mtu) => route.mtu = Some(*mtu),
                        RouteMetric::Advmss(advmss) => route.advmss = Some(*advmss),
                        _ => {}
                    }
                }
                if metrics.iter().any(|metric| !matches!(metric, RouteMetric::Mtu(_) | RouteMetric::Advmss(_))) {
                    route.other.push(raw(&attribute));
                }
            }
            RouteAttribute::CacheInfo(info) => route.expires = seconds_left(info.expires),
            // Attributes that the kernel reports for every route and that cannot be set: its table, and the medium preference.
            RouteAttribute::Table(_) => {}
            RouteAttribute::Preference(preference) if u8::from(preference) == 0 => {}
            _ => route.other.push(raw(&attribute)),
        }
    }
    Ok(Some(route))
}

/// Reads a next hop of a multipath route. `None` if its outgoing link is not among `names`.
fn decode_hop(hop: RouteNextHop, names: &BTreeMap<u32, String>) -> Option<NextHop> {
    let mut decoded = NextHop {
        interface: names.get(&hop.interface_index)?.clone(),
        gateway: None,
        weight: u16::from(hop.hops) + 1,
        onlink: hop.flags.contains(RouteNextHopFlags::Onlink),
        other: Vec::new(),
    };
    for attribute in hop.attributes {
        match attribute {
            RouteAttribute::Gateway(address) => decoded.gateway = ip(&address),
            RouteAttribute::Via(via) => decoded.gateway = via_ip(&via),
            attribute => {
                let mut value = vec![0; attribute.value_len()];
                attribute.emit_value(&mut value);
                decoded.other.push(RawAttribute { kind: attribute.kind(), value });
            }
        }
    }
    Some(decoded)
}

fn raw(attribute: &NlaBuffer<&[u8]>) -> RawAttribute {
    RawAttribute { kind: attribute.kind(), value: attribute.value().to_vec() }
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some(IpAddr::V4(*address)),
        RouteAddress::Inet6(address) => Some(IpAddr::V6(*address)),
        _ => None,
    }
}

fn via_ip(via: &RouteVia) -> Option<IpAddr> {
    match via {
        RouteVia::Inet(address) => Some(IpAddr::V4(*address)),
        RouteVia::Inet6(address) => Some(IpAddr::V6(*address)),
        _ => None,
    }
}

/// Converts signed clock ticks to seconds. 0 means that it does not expire, a negative value that it has just expired.
fn seconds_left(ticks: u32) -> Option<u32> {
    let ticks = ticks.cast_signed();
    (ticks != 0).then(|| (ticks / CLOCK_TICKS).max(1).cast_unsigned())
}

/// Writes the route as the payload of a request with all its attributes, because the kernel removes the first route that matches.
fn encode(route: &DefaultRoute, links: &[Link]) -> Result<RouteMessage, MissingLink> {
    let index = |name: &str| {
        links.iter().find(|link| link.name == name).map(|link| link.index).ok_or_else(|| MissingLink(name.into()))
    };
    let mut message = RouteMessage::default();
    message.header = RouteHeader {
        address_family: address_family(route.family),
        source_prefix_length: route.from.map_or(0, |from| from.prefix_len()),
        tos: route.tos,
        table: RouteHeader::RT_TABLE_MAIN,
        protocol: route.protocol.into(),
        scope: route.scope.into(),
        kind: RouteType::Unicast,
        ..RouteHeader::default()
    };
    let attributes = &mut message.attributes;
    if let Some(from) = route.from {
        attributes.push(RouteAttribute::Source(from.addr().into()));
    }
    if let Some(metric) = route.metric {
        attributes.push(RouteAttribute::Priority(metric));
    }
    if let Some(source) = route.source {
        attributes.push(RouteAttribute::PrefSource(source.into()));
    }
    if let Some(expires) = route.expires {
        attributes.push(RouteAttribute::Expires(expires));
    }
    let metrics: Vec<RouteMetric> =
        route.mtu.map(RouteMetric::Mtu).into_iter().chain(route.advmss.map(RouteMetric::Advmss)).collect();
    // If a route has other metrics, these two are also among them.
    if !metrics.is_empty() && !route.other.iter().any(|other| other.kind == libc::RTA_METRICS) {
        attributes.push(RouteAttribute::Metrics(metrics));
    }
    attributes.extend(route.other.iter().map(unread));
    if let Some(id) = route.nexthop_id {
        // The kernel accepts either the object or its content.
        attributes.push(RouteAttribute::NhId(id));
        return Ok(message);
    }
    if let Some(interface) = &route.interface {
        attributes.push(RouteAttribute::Oif(index(interface)?));
    }
    if let Some(gateway) = route.gateway {
        attributes.push(gateway_attribute(route.family, gateway));
    }
    if !route.next_hops.is_empty() {
        let hops = route.next_hops.iter().map(|hop| Ok(encode_hop(route.family, hop, index(&hop.interface)?)));
        attributes.push(RouteAttribute::MultiPath(hops.collect::<Result<_, _>>()?));
    }
    if route.onlink {
        message.header.flags = RouteFlags::Onlink;
    }
    Ok(message)
}

fn encode_hop(family: Family, hop: &NextHop, index: u32) -> RouteNextHop {
    let mut encoded = RouteNextHop::default();
    encoded.interface_index = index;
    encoded.hops = u8::try_from(hop.weight.saturating_sub(1)).unwrap_or(u8::MAX);
    if hop.onlink {
        encoded.flags = RouteNextHopFlags::Onlink;
    }
    encoded.attributes.extend(hop.gateway.map(|gateway| gateway_attribute(family, gateway)));
    encoded.attributes.extend(hop.other.iter().map(unread));
    encoded
}

fn unread(attribute: &RawAttribute) -> RouteAttribute {
    RouteAttribute::Other(DefaultNla::new(attribute.kind, attribute.value.clone()))
}

fn gateway_attribute(family: Family, gateway: IpAddr) -> RouteAttribute {
    if Family::of(gateway) == family {
        RouteAttribute::Gateway(gateway.into())
    } else {
        RouteAttribute::Via(gateway.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_that_are_left_are_whole_seconds_of_at_least_one() {
        assert_eq!(seconds_left(0), None);
        assert_eq!(seconds_left(179_950), Some(1799));
        assert_eq!(seconds_left(20), Some(1));
        assert_eq!(seconds_left((-500_i32).cast_unsigned()), Some(1));
    }
}
