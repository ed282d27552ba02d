//! The default route on another network than the first.

use rstest::rstest;
use serde_json::{Value, json};

use crate::support::{Case, Plugin, bridge, host_local};

const SUBNETS: [[&str; 2]; 3] =
    [["10.10.1.0/24", "fd00:10:1::/64"], ["10.20.1.0/24", "fd00:20:1::/64"], ["10.30.1.0/24", "fd00:30:1::/64"]];

/// A bridge network with both families, which would have both default routes.
fn dual_stack(index: usize) -> Plugin {
    let mut ipam = host_local(&SUBNETS[index]);
    ipam["routes"] = json!([{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]);
    bridge(&format!("br-{index}"), "10.0.0.0/24").key("ipam", ipam)
}

fn routed(index: usize, gateways: &Value) -> Value {
    json!({"name": format!("routed-{index}"), "config": dual_stack(index).value(), "default-route": gateways})
}

/// The default routes inside the container, each as `via <gateway> dev <device>`.
fn default_routes(case: &Case, family: &str) -> Vec<String> {
    let routes = case.pod().ip_json(&format!("{family} route show default"));
    // Two networks may share one route, as the bridge plugin makes it for IPv6.
    let hops = routes.iter().flat_map(|route| match route["nexthops"].as_array() {
        Some(hops) => hops.clone(),
        None => vec![route.clone()],
    });
    hops.map(|hop| format!("via {} dev {}", hop["gateway"], hop["dev"]).replace('"', "")).collect()
}

/// The default routes of an answer, each with its gateway.
fn answered(result: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let routes = result["routes"].as_array().expect("a list of routes");
    let defaults = routes.iter().map(|route| (text(&route["dst"]), text(&route["gw"])));
    defaults.filter(|(dst, _)| dst.ends_with("/0")).collect()
}

#[rstest]
#[case::v4(json!(["10.20.1.1"]), "10.20.1.1 dev net1", "fd00:10:1::1 dev eth0")]
#[case::v6(json!(["fd00:20:1::1"]), "10.10.1.1 dev eth0", "fd00:20:1::1 dev net1")]
#[case::both(json!(["10.20.1.1", "fd00:20:1::1"]), "10.20.1.1 dev net1", "fd00:20:1::1 dev net1")]
fn the_default_route_is_where_the_selection_wants_it(#[case] gateways: Value, #[case] v4: &str, #[case] v6: &str) {
    // The third network makes no default routes, so only two networks ask for one.
    let third = bridge("br-c", "10.40.1.0/24");
    let case = Case::with_reference_plugins().delegate(dual_stack(0)).delegate(routed(1, &gateways)).delegate(third);
    // If no default route was asked for, those that the plugins made stay, including that of the first network.
    let outcome = case.add();
    let result = outcome.result();
    let asked = |family: &str| {
        let wanted = |gateway: &Value| gateway.as_str().expect("a gateway").contains(':') == (family == "-6");
        gateways.as_array().expect("a list").iter().any(wanted)
    };
    for (family, expected, any) in [("-4", v4, "0.0.0.0/0"), ("-6", v6, "::/0")] {
        let routes = default_routes(&case, family);
        if asked(family) {
            assert_eq!(routes, [format!("via {expected}")], "{family}");
            let gateway = expected.split(' ').next().expect("a gateway").to_owned();
            let of_family: Vec<_> = answered(result).into_iter().filter(|(dst, _)| dst == any).collect();
            assert_eq!(of_family, [(any.to_owned(), gateway)], "{family}");
        } else {
            assert!(routes.contains(&format!("via {expected}")), "{family}: {routes:?}");
        }
    }
    case.check().succeeds();
    case.del().succeeds().leaves_nothing();
}

#[test]
fn check_misses_the_default_route() {
    let case = Case::with_reference_plugins().delegate(dual_stack(0)).delegate(routed(1, &json!(["10.20.1.1"])));
    case.add().succeeds();
    case.pod().ip("route del default");
    case.check().fails_with_any_code().says("10.20.1.1").says("net1");
    case.del().succeeds().leaves_nothing();
}

#[test]
fn an_empty_list_keeps_the_route_that_the_plugin_made() {
    let case = Case::with_reference_plugins().delegate(dual_stack(0)).delegate(routed(1, &json!([])));
    case.add().succeeds();
    assert_eq!(default_routes(&case, "-4"), ["via 10.20.1.1 dev net1"]);
    assert_eq!(default_routes(&case, "-6"), ["via fd00:20:1::1 dev net1"]);
    case.check().succeeds();
    case.del().succeeds().leaves_nothing();
}

#[test]
fn two_networks_cannot_both_have_it() {
    let case = Case::with_reference_plugins()
        .delegate(dual_stack(0))
        .delegate(routed(1, &json!(["10.20.1.1"])))
        .delegate(routed(2, &json!(["10.30.1.1"])));
    case.add().fails(7).says("default route").says("net1").says("net2").leaves_nothing();
}

#[test]
fn a_gateway_that_cannot_be_reached_undoes_everything() {
    let case = Case::with_reference_plugins().delegate(dual_stack(0)).delegate(routed(1, &json!(["192.0.2.1"])));
    case.add().fails_with_any_code().says("192.0.2.1").leaves_nothing();
}

#[test]
fn a_later_failure_undoes_everything() {
    let case = Case::with_reference_plugins()
        .delegate(dual_stack(0))
        .delegate(routed(1, &json!(["10.20.1.1", "fd00:20:1::1"])))
        .delegate(crate::support::recorder("alpha").failing("ADD", 142));
    case.add().fails(142).leaves_nothing();
}
