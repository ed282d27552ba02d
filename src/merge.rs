//! Many results into one.

use std::collections::HashMap;

use indexmap::IndexSet;

use crate::cni::result::{Dns, Ip, Route};
use crate::cni::{AddResult, Family};

/// Merges results in order. The primary attachment's result is the first.
///
/// Interfaces with the same name, sandbox and hardware address are merged, and the indexes of addresses are adjusted. Equal routes
/// appear once. DNS lists are ordered unions, and the first domain is kept.
pub fn merge<'a>(results: impl IntoIterator<Item = &'a AddResult>) -> AddResult {
    // Plugins decide how long results are, so no code here may compare each item with each other item.
    let mut known = HashMap::new();
    let mut interfaces = Vec::new();
    let mut ips = IndexSet::new();
    let mut routes = IndexSet::new();
    let (mut nameservers, mut search, mut options) = (IndexSet::new(), IndexSet::new(), IndexSet::new());
    let mut domain = &String::new();
    for result in results {
        let mut moved = Vec::with_capacity(result.interfaces.len());
        for interface in &result.interfaces {
            let index = known.entry((&interface.name, &interface.sandbox, &interface.mac)).or_insert_with(|| {
                interfaces.push(interface.clone());
                interfaces.len() - 1
            });
            moved.push(*index);
        }
        ips.extend(result.ips.iter().map(|ip| Ip { interface: ip.interface.map(|index| moved[index]), ..ip.clone() }));
        routes.extend(&result.routes);
        nameservers.extend(&result.dns.nameservers);
        search.extend(&result.dns.search);
        options.extend(&result.dns.options);
        if domain.is_empty() {
            domain = &result.dns.domain;
        }
    }
    let dns = Dns {
        nameservers: nameservers.into_iter().cloned().collect(),
        domain: domain.clone(),
        search: search.into_iter().cloned().collect(),
        options: options.into_iter().cloned().collect(),
    };
    AddResult { interfaces, ips: ips.into_iter().collect(), routes: routes.into_iter().cloned().collect(), dns }
}

/// Default routes that only one attachment has.
#[derive(Debug, Clone)]
pub struct DefaultRoutes {
    /// The attachment's interface.
    pub interface: String,
    /// The families that this is decided for.
    pub families: Vec<Family>,
    /// Its default routes in these families.
    pub routes: Vec<Route>,
}

/// Makes results agree with the default routes of the container: in the given families, only the attachment on the given interface
/// keeps its default routes. `results` has the result of every attachment with the name of its interface, and the result of the
/// plugin before Braid with no name.
pub fn follow_default_route<'a>(
    results: impl IntoIterator<Item = (Option<&'a str>, &'a mut AddResult)>,
    decided: impl Into<DefaultRoutes>,
) {
    let DefaultRoutes { interface, families, routes } = decided.into();
    for (ifname, result) in results {
        let is_decided = |route: &Route| route.is_default() && families.contains(&Family::of(route.dst.addr()));
        result.routes.retain(|route| !is_decided(route));
        if ifname == Some(interface.as_str()) {
            let all: IndexSet<Route> =
                std::mem::take(&mut result.routes).into_iter().chain(routes.iter().cloned()).collect();
            result.routes = all.into_iter().collect();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::cni::Version;
    use crate::cni::result::tests::any_result;

    fn result(json: &str) -> AddResult {
        AddResult::parse(json.as_bytes(), Version::V1_1_0).unwrap()
    }

    #[test]
    fn indexes_follow_their_interfaces() {
        let first = result(
            r#"{"interfaces":[{"name":"br0"},{"name":"eth0","sandbox":"/n"}],
                "ips":[{"address":"10.0.0.2/24","interface":1}],"routes":[{"dst":"0.0.0.0/0"}],
                "dns":{"nameservers":["1.1.1.1"],"domain":"first"}}"#,
        );
        let second = result(
            r#"{"interfaces":[{"name":"br0"},{"name":"net1","sandbox":"/n"}],
                "ips":[{"address":"10.1.0.2/24","interface":1},{"address":"10.1.0.3/24"}],
                "routes":[{"dst":"0.0.0.0/0"},{"dst":"10.9.0.0/16","gw":"10.1.0.1"}],
                "dns":{"nameservers":["1.1.1.1","8.8.8.8"],"domain":"second"}}"#,
        );
        assert_eq!(
            merge([&first, &second]),
            result(
                r#"{"interfaces":[{"name":"br0"},{"name":"eth0","sandbox":"/n"},{"name":"net1","sandbox":"/n"}],
                    "ips":[{"address":"10.0.0.2/24","interface":1},{"address":"10.1.0.2/24","interface":2},
                        {"address":"10.1.0.3/24"}],
                    "routes":[{"dst":"0.0.0.0/0"},{"dst":"10.9.0.0/16","gw":"10.1.0.1"}],
                    "dns":{"nameservers":["1.1.1.1","8.8.8.8"],"domain":"first"}}"#
            )
        );
    }

    #[test]
    fn one_attachment_has_the_default_routes_of_a_family() {
        let both =
            r#"{"routes":[{"dst":"0.0.0.0/0","gw":"10.0.0.1"},{"dst":"::/0","gw":"fd00::1"},{"dst":"10.9.0.0/16"}]}"#;
        let (mut eth0, mut net1) = (result(both), result(r#"{"routes":[{"dst":"10.8.0.0/16"}]}"#));
        let wanted = Route::new("0.0.0.0/0".parse().unwrap(), Some("10.1.0.1".parse().unwrap()));
        let decided = DefaultRoutes { interface: "net1".into(), families: vec![Family::V4], routes: vec![wanted] };
        follow_default_route([(Some("eth0"), &mut eth0), (Some("net1"), &mut net1)], decided);
        assert_eq!(eth0, result(r#"{"routes":[{"dst":"::/0","gw":"fd00::1"},{"dst":"10.9.0.0/16"}]}"#));
        assert_eq!(net1, result(r#"{"routes":[{"dst":"10.8.0.0/16"},{"dst":"0.0.0.0/0","gw":"10.1.0.1"}]}"#));
    }

    proptest! {
        #[test]
        fn nothing_is_lost_and_every_index_points_to_its_interface(
            results in proptest::collection::vec(any_result(), 0..4)
        ) {
            let merged = merge(&results);
            for result in &results {
                for interface in &result.interfaces {
                    let same = |other: &&crate::cni::result::Interface| {
                        (&other.name, &other.sandbox, &other.mac) == (&interface.name, &interface.sandbox, &interface.mac)
                    };
                    prop_assert_eq!(merged.interfaces.iter().filter(same).count(), 1);
                }
                for ip in &result.ips {
                    let on = |result: &AddResult, index: Option<usize>| {
                        index.map(|i| (result.interfaces[i].name.clone(), result.interfaces[i].sandbox.clone(), result.interfaces[i].mac.clone()))
                    };
                    let expected = on(result, ip.interface);
                    let is_kept = merged.ips.iter().any(|m| m.address == ip.address && on(&merged, m.interface) == expected);
                    prop_assert!(is_kept);
                }
                for route in &result.routes {
                    prop_assert_eq!(merged.routes.iter().filter(|other| *other == route).count(), 1);
                }
                for domain in &result.dns.search {
                    prop_assert!(merged.dns.search.contains(domain));
                }
            }
        }

        #[test]
        fn an_empty_result_changes_nothing(a in any_result(), b in any_result()) {
            let empty = AddResult::default();
            let plain = merge([&a, &b]);
            prop_assert_eq!(&merge([&empty, &a, &b]), &plain);
            prop_assert_eq!(&merge([&a, &empty, &b]), &plain);
            prop_assert_eq!(&merge([&a, &b, &empty]), &plain);
        }

        #[test]
        fn merging_is_associative(a in any_result(), b in any_result(), c in any_result()) {
            prop_assert_eq!(merge([&merge([&a, &b]), &c]), merge([&a, &merge([&b, &c])]));
        }
    }
}
