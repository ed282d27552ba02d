//! CHECK of what real plugins make, and of what other plugins change after Braid.

use rstest::rstest;
use serde_json::{Value, json};

use crate::support::{Case, Json as _, Network, Outcome, Plugin, bridge, host_local, recorder, tuning};

/// A bridge with the container's default route.
fn way_out(name: &str, subnet: &str) -> Plugin {
    bridge(name, "").key("isDefaultGateway", true).key("ipam", host_local(&[subnet]))
}

/// Calls a plugin that comes after Braid in the runtime's list.
fn later<'a>(case: &'a Case, command: &str, plugin: &Plugin, result: &Value) -> Outcome<'a> {
    let configuration = plugin.clone().key("prevResult", result.clone());
    let kind = configuration.clone().value()["type"].as_str().expect("a type").to_owned();
    let stdin = case.expand(&configuration.into_json());
    case.call_plugin(&case.plugin_path(&kind), command).stdin(stdin).run()
}

/// CHECK as a runtime calls it, with the result of its whole list.
fn check<'a>(case: &'a Case, result: &Value) -> Outcome<'a> {
    case.call("CHECK").key("prevResult", result.clone()).run()
}

#[rstest]
#[case::hardware_address(tuning().without("mtu").key("mac", "02:00:5e:00:53:01"))]
#[case::mtu(tuning())]
#[case::both(tuning().key("mac", "02:00:5e:00:53:01"))]
fn what_tuning_has_changed_is_expected(#[case] plugin: Plugin) {
    let case = Case::with_reference_plugins()
        .delegate(bridge("br-a", "10.10.1.0/24"))
        .delegate(bridge("br-b", "10.10.2.0/24"));
    let result = case.add().result().clone();
    let result = later(&case, "ADD", &plugin, &result).result().clone();
    check(&case, &result).succeeds();
    // CHECK still finds what differs from the end of ADD.
    case.pod().ip("addr del 10.10.1.2/24 dev eth0");
    check(&case, &result).fails_with_any_code().says("address 10.10.1.2/24 is gone from \"eth0\"");
    // The bridge's DEL needs this result.
    case.pod().ip("addr add 10.10.1.2/24 dev eth0");
    later(&case, "DEL", &plugin, &result).succeeds();
    case.del().succeeds().leaves_nothing();
}

#[test]
fn without_the_later_plugins_result_its_change_is_found() {
    let plugin = tuning().without("mtu").key("mac", "02:00:5e:00:53:01");
    let case = Case::with_reference_plugins().delegate(bridge("br-a", "10.10.1.0/24"));
    let result = case.add().result().clone();
    later(&case, "ADD", &plugin, &result).succeeds();
    check(&case, &result).fails_with_any_code().says("eth0");
}

/// As `route-override` with `flushgateway` does.
#[rstest]
#[case::of_the_primary(None)]
#[case::of_another_network(Some("br-b"))]
fn a_default_route_that_a_later_plugin_has_removed_is_not_expected(#[case] way: Option<&str>) {
    let selection = way.map(
        |_| json!({"name": "b", "default-route": ["10.10.2.1"], "config": bridge("br-b", "10.10.2.0/24").value()}),
    );
    let case = Case::with_reference_plugins().delegate(way_out("br-a", "10.10.1.0/24"));
    let case = match selection {
        Some(selection) => case.delegate(selection),
        None => case.delegate(bridge("br-b", "10.10.2.0/24")),
    };
    let result = case.add().result().clone();
    assert_eq!(result["routes"].as_array().map(Vec::len), Some(1), "{result}");
    case.call("CHECK").key("prevResult", result.clone()).run().succeeds();

    let flush = recorder("alpha").instructed("flush_gateway", true);
    let flushed = later(&case, "ADD", &flush, &result).result().clone();
    assert_eq!(flushed["routes"], json!([]), "{flushed}");
    assert_eq!(case.pod().ip("route show default"), "");
    check(&case, &flushed).succeeds();
    check(&case, &result).fails_with_any_code().says("the IPv4 default route via");
    later(&case, "DEL", &flush, &flushed).succeeds();
    case.del().succeeds().leaves_nothing();
}

#[test]
fn delegates_get_what_a_later_plugin_has_changed() {
    let chain = Network::new("chain")
        .plugin(recorder("beta").ip("10.2.0.5/24").instructed("routes", json!([{"dst": "10.9.0.0/16"}])).link());
    let case = Case::new().delegate(recorder("alpha").ip("10.1.0.5/24").link()).delegate(chain);
    let answer = case.add().result().clone();
    let pod = case.pod();
    pod.ip("link set net1 address 02:00:5e:00:53:02");
    pod.ip("addr del 10.1.0.5/24 dev eth0");
    pod.ip("addr add 10.1.0.6/24 dev eth0");
    let mut now = answer.clone();
    now["interfaces"][1]["mac"] = json!("02:00:5e:00:53:02");
    now["ips"][0]["address"] = json!("10.1.0.6/24");
    now["routes"] = json!([{"dst": "10.8.0.0/16", "gw": "10.2.0.1"}]);
    let outcome = check(&case, &now).succeeds();
    let of = |plugin| outcome.call_of("CHECK", plugin).config()["prevResult"].clone();
    let (alpha, beta) = (of("alpha"), of("beta"));
    assert_eq!(alpha["ips"], json!([{"address": "10.1.0.6/24", "interface": 0}]));
    assert_eq!(alpha["interfaces"], answer["interfaces"].as_array().map(|list| json!([list[0]])).expect("a list"));
    assert_eq!(beta["interfaces"][0]["mac"], "02:00:5e:00:53:02");
    assert_eq!(beta["ips"], json!([{"address": "10.2.0.5/24", "interface": 0}]));
    assert_eq!(beta["routes"], json!([{"dst": "10.8.0.0/16", "gw": "10.2.0.1"}]));
    pod.ip("addr del 10.1.0.6/24 dev eth0");
    check(&case, &now).fails_with_any_code().says("10.1.0.6/24 is gone from \"eth0\"");
}

/// DPDK and vhost-user: the result has an interface and an address, and the kernel has neither.
#[rstest]
#[case::a_socket(json!({"name": "net1", "sandbox": "@NETNS@", "socketPath": "/run/net1.sock"}))]
#[case::a_device(json!({"name": "net1", "mac": "02:00:00:00:00:01", "sandbox": "@NETNS@", "pciID": "0000:00:1f.6"}))]
#[case::nothing_that_says_so(json!({"name": "net1", "sandbox": "@NETNS@"}))]
fn what_never_was_a_network_interface_is_not_gone(#[case] interface: Value) {
    let case = Case::new();
    let netns = case.pod().path().display().to_string();
    let result = json!({"cniVersion": "1.1.0", "interfaces": [interface],
        "ips": [{"address": "10.2.0.5/24", "interface": 0}], "routes": [{"dst": "0.0.0.0/0", "gw": "10.2.0.1"}]});
    let result: Value = serde_json::from_str(&result.to_string().replace("@NETNS@", &netns)).expect("JSON");
    let user_space = recorder("beta").version("1.1.0").instructed("result", result);
    let case = case
        .cni_version("1.1.0")
        .delegate(recorder("alpha").version("1.1.0").ip("10.1.0.5/24").link())
        .delegate(user_space);
    let answer = case.add().result().clone();
    check(&case, &answer).succeeds().called(&["CHECK alpha eth0", "CHECK beta net1"]);
    case.check().succeeds();
    case.pod().ip("link del eth0");
    check(&case, &answer).fails_with_any_code().says("\"eth0\" is gone");
    case.del().succeeds().leaves_nothing();
}

/// Plugins that name only the host's side, or none at all, and put addresses on no interface or on that one.
#[rstest]
#[case::no_interface(json!([]), json!({"address": "10.1.0.5/24"}))]
#[case::a_host_interface(json!([{"name": "cali1234"}]), json!({"address": "10.1.0.5/24"}))]
#[case::several_host_interfaces(json!([{"name": "veth1"}, {"name": "br0"}]), json!({"address": "10.1.0.5/24", "interface": 1}))]
#[case::a_file_that_is_no_namespace(
    json!([{"name": "eni1"}, {"name": "dummy1", "mac": "0", "sandbox": "0"}]), json!({"address": "10.1.0.5/24", "interface": 1})
)]
fn an_address_on_no_interface_of_the_container_is_on_the_one_asked_for(#[case] interfaces: Value, #[case] ip: Value) {
    let result = json!({"cniVersion": "1.0.0", "interfaces": interfaces, "ips": [ip]});
    let plugin = |name, ip: &str| recorder(name).instructed("result", result.clone()).ip(ip).link();
    for (ifname, damage, says) in [
        ("eth0", "addr del 10.1.0.5/24 dev eth0", "address 10.1.0.5/24 is gone from \"eth0\""),
        ("net1", "addr del 10.1.0.5/24 dev net1", "address 10.1.0.5/24 is gone from \"net1\""),
        ("net1", "link del net1", "interface \"net1\" is gone"),
    ] {
        let case = Case::new();
        let case = match ifname {
            "eth0" => case.delegate(plugin("alpha", "10.1.0.5/24")),
            _ => case.delegate(recorder("alpha").link()).delegate(plugin("beta", "10.1.0.5/24")),
        };
        let answer = case.add().result().clone();
        check(&case, &answer).succeeds();
        case.pod().ip(damage);
        check(&case, &answer).fails_with_any_code().says(says);
        case.del().succeeds().leaves_nothing();
    }
}

/// `sbr` moves the default route to a table of its own and does not report that. The CHECK of `bridge` then fails.
#[test]
fn a_default_route_that_was_not_there_when_add_finished_is_not_gone() {
    let chain = Network::new("one").key("disableCheck", true);
    let chain = chain.plugin(way_out("br-a", "10.10.1.0/24")).plugin(Plugin::new("sbr", "sbr"));
    let case = Case::with_reference_plugins().delegate(chain);
    let answer = case.add().result().clone();
    assert_eq!(answer["routes"], json!([{"dst": "0.0.0.0/0", "gw": "10.10.1.1"}]));
    assert_eq!(case.pod().ip("route show default"), "");
    check(&case, &answer).succeeds();
    case.del().succeeds().leaves_nothing();
}

/// `validate` warns of this. `disableCheck` is the remedy, as it is without a meta-plugin.
#[test]
fn routes_that_a_later_sbr_has_moved_are_gone() {
    let case = Case::with_reference_plugins().delegate(way_out("br-a", "10.10.1.0/24"));
    let answer = case.add().result().clone();
    let sbr = Plugin::new("sbr", "sbr");
    let result = later(&case, "ADD", &sbr, &answer).result().clone();
    check(&case, &result).fails_with_any_code().says("the IPv4 default route via").says("Failed to find Gateway");
    case.call("CHECK").key("prevResult", result.clone()).key("disableCheck", true).run().succeeds();
    later(&case, "DEL", &sbr, &result).succeeds();
    case.del().succeeds().leaves_nothing();
}

/// Attachments that the container's author has asked for, and whose plugin fails on CHECK.
#[rstest]
#[case::by_default(None, true)]
#[case::warn(Some("warn"), true)]
#[case::off(Some("off"), true)]
#[case::fail(Some("fail"), false)]
fn pod_checks(#[case] value: Option<&str>, #[case] succeeds: bool) {
    let asked_for = Network::new("asked-for").plugin(recorder("beta").link().failing("CHECK", 142));
    let case = Case::new()
        .configuration("asked-for.conflist", asked_for)
        .key("confDir", "@DIR@/net.d")
        .delegate(recorder("alpha").link())
        .runtime_config(json!({"networks": [{"name": "asked-for"}]}));
    let case = match value {
        Some(value) => case.key("podChecks", value),
        None => case,
    };
    case.add().succeeds();
    let outcome = case.check();
    let asked = outcome.order().contains(&"CHECK beta net1".to_owned());
    assert_eq!(asked, value != Some("off"), "{:?}", outcome.order());
    if succeeds {
        let outcome = outcome.succeeds();
        if asked {
            outcome.stderr_contains("beta refuses CHECK");
        }
    } else {
        outcome.fails_with_any_code().says("beta refuses CHECK");
    }
    // Findings of Braid itself always count.
    case.pod().ip("link del net1");
    case.check().fails_with_any_code().says("interface \"net1\" is gone");
    case.del().succeeds().leaves_nothing();
}

#[test]
fn pod_checks_are_for_what_a_pod_asked_for() {
    let operators = recorder("beta").link().failing("CHECK", 142);
    let case = Case::new().delegate(recorder("alpha").link()).delegate(operators).key("podChecks", "off");
    case.add().succeeds();
    case.check().fails_with_any_code().says("beta refuses CHECK");
}

/// The CHECK of the reference bridge fails without addresses. Pods on a layer 2 network have none.
#[test]
fn a_bridge_without_addresses_that_a_pod_asked_for_passes() {
    let case = Case::with_reference_plugins()
        .configuration("l2.conf", json!({"cniVersion": "1.0.0", "name": "l2", "type": "bridge", "bridge": "br7"}))
        .key("confDir", "@DIR@/net.d")
        .delegate(bridge("br-a", "10.10.1.0/24"))
        .runtime_config(json!({"networks": [{"name": "l2"}]}));
    case.add().succeeds();
    case.check().succeeds().stderr_contains("no plugin name provided");
    case.del().succeeds().leaves_nothing();
}
