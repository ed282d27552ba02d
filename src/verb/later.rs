//! Changes that plugins after Braid have made to its answer.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::IpAddr;

use ipnet::IpNet;

use crate::cni::AddResult;
use crate::cni::result::{Interface, Ip, Route};
use crate::plan::Plan;

/// An interface: its name, whether it is in the container, and its hardware address.
type InterfaceKey = (String, bool, String);
/// An address: the interface in the container, empty if it has none, and the address itself.
type IpKey = (String, IpNet);
/// A route: its destination, next hop and table.
type RouteKey = (IpNet, Option<IpAddr>, Option<u32>);

/// The differences between Braid's answer to ADD and the runtime's final result.
///
/// A runtime passes the result of its whole list to CHECK (SPEC §3, "Checking an attachment"). If that differs from Braid's answer,
/// a plugin after Braid has changed it on purpose: `tuning` sets another hardware address, another plugin removes a default route.
#[derive(Debug)]
pub(super) struct LaterChanges {
    container: Container,
    interfaces: HashMap<InterfaceKey, Interface>,
    removed_ips: HashSet<IpKey>,
    added_ips: Vec<(String, Ip)>,
    removed_routes: HashSet<RouteKey>,
    /// Each with its outgoing interface.
    added_routes: Vec<(String, Route)>,
}

impl LaterChanges {
    /// The differences in `now` from what was `answered` to an ADD with this plan.
    pub(super) fn between(answered: &AddResult, now: &AddResult, plan: &Plan) -> Self {
        let container = Container { netns: plan.netns.clone(), ifname: plan.ifname.clone() };
        let (removed_ips, added_ips) = container.changed_ips(answered, now);
        let (removed_routes, added_routes) = container.changed_routes(answered, now);
        let interfaces = container.changed_interfaces(answered, now);
        Self { container, interfaces, removed_ips, added_ips, removed_routes, added_routes }
    }

    /// Applies the changes to the result of the attachment on `ifname`.
    pub(super) fn apply(&self, ifname: &str, result: &mut AddResult) {
        for interface in &mut result.interfaces {
            let Some(now) = self.interfaces.get(&self.container.interface_key(interface)) else { continue };
            interface.mac.clone_from(&now.mac);
            interface.mtu = now.mtu;
        }
        if !self.removed_ips.is_empty() {
            let ips = std::mem::take(&mut result.ips);
            let is_left = |ip: &Ip| !self.removed_ips.contains(&self.container.ip_key(result, ip));
            result.ips = ips.into_iter().filter(is_left).collect();
        }
        for (name, ip) in &self.added_ips {
            let of_name =
                |interface: &Interface| interface.is_in_container(&self.container.netns) && interface.name == *name;
            let interface = result.interfaces.iter().position(of_name);
            let is_there = result.ips.iter().any(|there| there.address == ip.address);
            if (interface.is_some() || name == ifname) && !is_there {
                result.ips.push(Ip { interface, ..ip.clone() });
            }
        }
        result.routes.retain(|route| !self.removed_routes.contains(&route_key(route)));
        let added = self.added_routes.iter().filter(|(interface, _)| interface == ifname);
        for (_, route) in added {
            if !result.routes.contains(route) {
                result.routes.push(route.clone());
            }
        }
    }
}

/// Whether a part of a result is about the container or about the host.
#[derive(Debug)]
struct Container {
    /// The path of its namespace.
    netns: String,
    /// The interface that the runtime asked for. Addresses without an interface count as its own.
    ifname: String,
}

impl Container {
    /// Interfaces with another hardware address or MTU. Interfaces of the same name on the same side are paired in order, because a
    /// result can contain bridges of one name several times. A value that is empty in `now` does not count as a change: an older
    /// format may have lost it.
    fn changed_interfaces(&self, answered: &AddResult, now: &AddResult) -> HashMap<InterfaceKey, Interface> {
        let side = |interface: &Interface| interface.is_in_container(&self.netns);
        let mut by_name: HashMap<(&str, bool), VecDeque<&Interface>> = HashMap::new();
        for interface in &now.interfaces {
            by_name.entry((&interface.name, side(interface))).or_default().push_back(interface);
        }
        let mut changed = HashMap::new();
        for before in &answered.interfaces {
            let of_name = by_name.get_mut(&(before.name.as_str(), side(before)));
            let Some(after) = of_name.and_then(VecDeque::pop_front) else { continue };
            let mut to = before.clone();
            if !after.mac.is_empty() && !after.mac.eq_ignore_ascii_case(&before.mac) {
                to.mac.clone_from(&after.mac);
            }
            if after.mtu != 0 {
                to.mtu = after.mtu;
            }
            if to != *before {
                changed.insert(self.interface_key(before), to);
            }
        }
        changed
    }

    fn changed_ips(&self, answered: &AddResult, now: &AddResult) -> (HashSet<IpKey>, Vec<(String, Ip)>) {
        let keys =
            |result: &AddResult| -> HashSet<IpKey> { result.ips.iter().map(|ip| self.ip_key(result, ip)).collect() };
        let (before, after) = (keys(answered), keys(now));
        let is_new = |ip: &&Ip| !before.contains(&self.ip_key(now, ip));
        let added = now.ips.iter().filter(is_new).map(|ip| (self.interface_of(now, ip), ip.clone()));
        (before.difference(&after).cloned().collect(), added.collect())
    }

    /// Routes are the same if destination, next hop and table are the same. A plugin of an older version loses the table.
    fn changed_routes(&self, answered: &AddResult, now: &AddResult) -> (HashSet<RouteKey>, Vec<(String, Route)>) {
        let keys = |result: &AddResult| -> HashSet<RouteKey> { result.routes.iter().map(route_key).collect() };
        let (before, after) = (keys(answered), keys(now));
        let without_table = |(dst, gw, _): RouteKey| (dst, gw, None);
        let before_without_tables: HashSet<RouteKey> = before.iter().copied().map(without_table).collect();
        let is_gone = |key: &RouteKey| !after.contains(key) && !after.contains(&without_table(*key));
        let is_new = |key: RouteKey| !before.contains(&key) && !before_without_tables.contains(&key);
        let added = now.routes.iter().filter(|route| is_new(route_key(route)));
        let added = added.map(|route| (self.interface_of_route(now, route), route.clone()));
        (before.iter().copied().filter(is_gone).collect(), added.collect())
    }

    /// The outgoing interface of a route: the one whose subnet contains the next hop.
    fn interface_of_route(&self, result: &AddResult, route: &Route) -> String {
        let has_gateway = |ip: &&Ip| route.gw.is_some_and(|gateway| ip.address.contains(&gateway));
        let ip = result.ips.iter().find(has_gateway);
        ip.map_or_else(|| self.ifname.clone(), |ip| self.interface_of(result, ip))
    }

    fn interface_of(&self, result: &AddResult, ip: &Ip) -> String {
        self.listed_interface(result, ip).unwrap_or(&self.ifname).to_owned()
    }

    /// The interface in the container that an address refers to.
    fn listed_interface<'a>(&self, result: &'a AddResult, ip: &Ip) -> Option<&'a str> {
        let interface = result.interfaces.get(ip.interface?)?;
        interface.is_in_container(&self.netns).then_some(&*interface.name)
    }

    fn interface_key(&self, interface: &Interface) -> InterfaceKey {
        (interface.name.clone(), interface.is_in_container(&self.netns), interface.mac.clone())
    }

    fn ip_key(&self, result: &AddResult, ip: &Ip) -> IpKey {
        (self.listed_interface(result, ip).unwrap_or_default().to_owned(), ip.address)
    }
}

fn route_key(route: &Route) -> RouteKey {
    // The main routing table, which a route without a table uses.
    let table = route.table.filter(|table| *table != 0 && *table != 254);
    (route.dst, route.gw, table)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::cni::Version;

    /// Two attachments' results, and the merged answer.
    const FIRST: &str = r#"{"interfaces": [{"name": "br0", "mac": "aa"}, {"name": "eth0", "mac": "01", "mtu": 1500, "sandbox": "/n"}],
        "ips": [{"address": "10.1.0.5/24", "interface": 1}], "routes": [{"dst": "0.0.0.0/0", "gw": "10.1.0.1", "mtu": 1400}]}"#;
    const SECOND: &str = r#"{"interfaces": [{"name": "net1", "mac": "02", "sandbox": "/n"}],
        "ips": [{"address": "10.2.0.5/24", "interface": 0}], "routes": [{"dst": "10.9.0.0/16", "gw": "10.2.0.1"}]}"#;
    const ANSWER: &str = r#"{"interfaces": [{"name": "br0", "mac": "aa"}, {"name": "eth0", "mac": "01", "mtu": 1500, "sandbox": "/n"},
            {"name": "net1", "mac": "02", "sandbox": "/n"}],
        "ips": [{"address": "10.1.0.5/24", "interface": 1}, {"address": "10.2.0.5/24", "interface": 2}],
        "routes": [{"dst": "0.0.0.0/0", "gw": "10.1.0.1", "mtu": 1400}, {"dst": "10.9.0.0/16", "gw": "10.2.0.1"}]}"#;

    fn changes(answered: &str, now: &str) -> LaterChanges {
        let plan = serde_json::json!({"network": "outer", "cniVersion": "1.1.0", "containerID": "c", "netns": "/n",
            "ifname": "eth0", "path": "", "position": "primary", "attachments": []});
        LaterChanges::between(&result(answered), &result(now), &serde_json::from_value(plan).unwrap())
    }

    fn result(json: &str) -> AddResult {
        AddResult::parse(json.as_bytes(), Version::V1_1_0).unwrap()
    }

    #[rstest]
    #[case::nothing("", "", (FIRST, ""), (SECOND, ""))]
    #[case::a_hardware_address(r#""mac": "01""#, r#""mac": "0a""#, (r#""mac": "01""#, r#""mac": "0a""#), ("", ""))]
    #[case::spelling(r#""mac": "aa""#, r#""mac": "AA""#, ("", ""), ("", ""))]
    #[case::an_mtu(r#""mtu": 1500"#, r#""mtu": 9000"#, (r#""mtu": 1500"#, r#""mtu": 9000"#), ("", ""))]
    #[case::fields_lost_on_the_way(r#", "mtu": 1500"#, "", ("", ""), ("", ""))]
    #[case::a_routes_fields_lost_on_the_way(r#", "mtu": 1400"#, "", ("", ""), ("", ""))]
    #[case::a_route_removed(
        r#"{"dst": "0.0.0.0/0", "gw": "10.1.0.1", "mtu": 1400}, "#, "",
        (r#"{"dst": "0.0.0.0/0", "gw": "10.1.0.1", "mtu": 1400}"#, ""), ("", "")
    )]
    #[case::a_route_added_out_of_another_interface(
        r#"{"dst": "10.9.0.0/16", "gw": "10.2.0.1"}"#, r#"{"dst": "10.9.0.0/16", "gw": "10.2.0.9"}"#,
        ("", ""), (r#""gw": "10.2.0.1""#, r#""gw": "10.2.0.9""#)
    )]
    #[case::a_route_into_another_table(
        r#""gw": "10.2.0.1""#, r#""gw": "10.2.0.1", "table": 100"#,
        ("", ""), (r#""gw": "10.2.0.1""#, r#""gw": "10.2.0.1", "table": 100"#)
    )]
    #[case::an_address(
        r#""address": "10.1.0.5/24""#, r#""address": "10.1.0.6/24""#,
        (r#""address": "10.1.0.5/24""#, r#""address": "10.1.0.6/24""#), ("", "")
    )]
    #[case::an_address_removed(
        r#", {"address": "10.2.0.5/24", "interface": 2}"#, "",
        ("", ""), (r#"{"address": "10.2.0.5/24", "interface": 0}"#, "")
    )]
    fn the_results_follow(
        #[case] from: &str,
        #[case] to: &str,
        #[case] first: (&str, &str),
        #[case] second: (&str, &str),
    ) {
        let now = if from.is_empty() { ANSWER.to_owned() } else { ANSWER.replacen(from, to, 1) };
        assert!(from.is_empty() || now != ANSWER, "{from}");
        let changes = changes(ANSWER, &now);
        for (ifname, before, (from, to)) in [("eth0", FIRST, first), ("net1", SECOND, second)] {
            let mut followed = result(before);
            changes.apply(ifname, &mut followed);
            let expected = if from.is_empty() || to.is_empty() && from == before {
                before.to_owned()
            } else {
                before.replace(from, to)
            };
            assert_eq!(followed, result(&expected), "{ifname}");
        }
    }

    #[test]
    fn bridges_of_one_name_are_told_apart_by_their_order() {
        let answer = r#"{"interfaces": [{"name": "br0", "mac": "aa"}, {"name": "br0", "mac": "bb"}]}"#;
        let changes = changes(answer, &answer.replace("bb", "cc"));
        let mut first = result(r#"{"interfaces": [{"name": "br0", "mac": "aa"}]}"#);
        let mut second = result(r#"{"interfaces": [{"name": "br0", "mac": "bb"}]}"#);
        changes.apply("eth0", &mut first);
        changes.apply("net1", &mut second);
        assert_eq!((first.interfaces[0].mac.as_str(), second.interfaces[0].mac.as_str()), ("aa", "cc"));
    }
}
