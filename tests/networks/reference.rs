//! The reference plugins, in Braid and around it.

use std::path::PathBuf;

use rstest::rstest;
use serde_json::{Value, json};

use crate::support::{
    Case, Network, Plugin, bandwidth, bridge, firewall, host_local, macvlan, new_plugins, portmap, ptp, recorder,
    reference_plugins, tuning,
};

/// Three networks: a bridge with port mappings, a bridge with bandwidth limits, a macvlan.
fn three_networks(folder: PathBuf) -> Case {
    let dual_stack = bridge("br-a", "").key("ipam", host_local(&["10.10.1.0/24", "fd00:10:1::/64"]));
    // The CHECK of portmap before 1.2 looks for the IPv4 rules in ip6tables and always fails.
    let portmap_can_check = new_plugins().is_some_and(|new| new == folder);
    let one = Network::new("one").key("disableCheck", !portmap_can_check).plugin(dual_stack).plugin(portmap());
    let two = Network::new("two").plugin(bridge("br-b", "10.10.2.0/24")).plugin(bandwidth());
    Case::new()
        .plugins_in(folder)
        .host_link("par0")
        .runtime_config(json!({"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]}))
        .delegate(one)
        .delegate(two)
        .delegate(macvlan("par0", "10.10.3.0/24"))
}

/// The interfaces inside the container with their first IPv4 address, as `ip` shows them.
fn inside(case: &Case) -> Vec<(String, String)> {
    let links = case.pod().ip_json("-4 addr show scope global");
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let links = links.iter().filter(|link| link.get("ifname").is_some());
    links.map(|link| (text(&link["ifname"]), text(&link["addr_info"][0]["local"]))).collect()
}

fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected.iter().map(|(name, address)| ((*name).to_owned(), (*address).to_owned())).collect()
}

#[rstest]
#[case::stable(Some(reference_plugins()))]
#[case::new(new_plugins())]
fn three_networks_come_and_go(#[case] folder: Option<PathBuf>) {
    let Some(folder) = folder else { return eprintln!("skipped: BRAID_TEST_CNI_PATH_NEW names no folder of plugins") };
    let case = three_networks(folder);
    let outcome = case.add();
    let addresses: Vec<_> =
        outcome.result()["ips"].as_array().expect("a list").iter().map(|ip| &ip["address"]).collect();
    assert_eq!(addresses, ["10.10.1.2/24", "fd00:10:1::2/64", "10.10.2.2/24", "10.10.3.2/24"]);
    assert_eq!(inside(&case), pairs(&[("eth0", "10.10.1.2"), ("net1", "10.10.2.2"), ("net2", "10.10.3.2")]));
    let there = case.changes();
    for leaf in ["iptables-save chain CNI-DN-", "qdisc veth", "file ipam/one/10.10.1.2", "file state/attachments/"] {
        assert!(there.contains(leaf), "{leaf} is not in\n{there}");
    }
    case.check().succeeds();
    case.del().succeeds().leaves_nothing();
    case.del().succeeds().leaves_nothing();
}

/// The DEL of `host-device` fails if its interface is not in the container, so also after an ADD that has found no device.
#[rstest]
#[case::stable(Some(reference_plugins()))]
#[case::new(new_plugins())]
fn a_device_that_is_missing_leaves_nothing_and_owes_nothing(#[case] folder: Option<PathBuf>) {
    let Some(folder) = folder else { return eprintln!("skipped: BRAID_TEST_CNI_PATH_NEW names no folder of plugins") };
    let device = |ipam: Value| Plugin::new("d", "host-device").key("device", "gone0").key("ipam", ipam);
    let case = Case::new().plugins_in(folder).delegate(bridge("br-a", "10.10.6.0/24"));
    let case = case.delegate(device(host_local(&["10.10.7.0/24"])));
    case.add().fails_with_any_code().message_contains("d\" on net1").leaves_nothing();
    assert!(!case.owes());
    case.del().succeeds().leaves_nothing();
}

#[test]
fn each_ip_points_to_its_interface() {
    let case = three_networks(reference_plugins());
    let outcome = case.add();
    let result = outcome.result();
    for ip in result["ips"].as_array().expect("a list") {
        let index = usize::try_from(ip["interface"].as_u64().expect("an index")).expect("a small index");
        let interface = &result["interfaces"][index];
        assert_eq!(interface["sandbox"], json!(case.pod().path()), "{ip}");
        let shown = inside(&case);
        if ip["address"].as_str().is_some_and(|text| text.contains(':')) {
            assert_eq!(interface["name"], "eth0");
            continue;
        }
        let (_, address) =
            shown.iter().find(|(name, _)| interface["name"] == name.as_str()).expect("an interface of this name");
        assert!(ip["address"].as_str().is_some_and(|text| text.starts_with(&format!("{address}/"))), "{ip}");
    }
}

#[rstest]
#[case::recorder(recorder("alpha").failing("ADD", 142))]
#[case::no_address_left(macvlan("par0", "10.10.4.0/30").key("ipam", exhausted("10.10.4.0/30")))]
#[case::no_such_sysctl(tuning().key("sysctl", json!({"net.ipv4.conf.IFNAME.no_such": "1"})))]
fn a_failing_network_undoes_the_others(#[case] failing: Plugin) {
    let case = three_networks(reference_plugins()).delegate(failing);
    case.add().fails_with_any_code().message_contains("net3").leaves_nothing();
    case.del().succeeds().leaves_nothing();
}

/// host-local with a range that has no address besides the gateway's.
fn exhausted(subnet: &str) -> Value {
    let mut ipam = host_local(&[subnet]);
    let gateway = subnet.replace(".0/30", ".1");
    ipam["ranges"][0][0]["rangeStart"] = json!(gateway);
    ipam["ranges"][0][0]["rangeEnd"] = json!(gateway);
    ipam
}

/// A macvlan without its parent can be neither made nor removed, so every DEL of the plugin fails. Braid stops calling it after the
/// second DEL, whose error is the same as that of ADD.
#[test]
fn what_a_plugin_can_neither_do_nor_undo_is_owed_once() {
    let case = three_networks(reference_plugins()).delegate(macvlan("absent0", "10.10.4.0/24"));
    case.add().fails_with_any_code().message_contains("net3").details_contains("net3");
    let left = case.changes();
    assert!(!left.is_empty() && left.lines().all(|line| line.contains(" state/attachments/")), "{left}");
    assert!(case.owes());
    case.del().succeeds().stderr_contains("so it has nothing to undo").leaves_nothing();
    assert!(!case.owes());
}

#[test]
fn a_failing_step_undoes_the_steps_before_it() {
    let chain = Network::new("three")
        .plugin(ptp("10.10.3.0/24"))
        .plugin(tuning())
        .plugin(firewall())
        .plugin(recorder("alpha").failing("ADD", 142));
    let case = Case::with_reference_plugins()
        .delegate(Network::new("one").plugin(bridge("br-a", "10.10.1.0/24")).plugin(firewall()))
        .delegate(bridge("br-b", "10.10.2.0/24"))
        .delegate(chain);
    case.add().fails(142).message_contains("net2").leaves_nothing();
}

#[test]
fn addresses_are_free_again_after_a_rollback() {
    // There are two addresses besides the gateway's, so three failed ADDs that leak would use them up.
    let case = Case::with_reference_plugins()
        .delegate(bridge("br-a", "10.10.1.0/30"))
        .delegate(recorder("alpha").failing("ADD", 142));
    for _ in 0..3 {
        case.add().fails(142).leaves_nothing();
    }
    case.behave("alpha", json!({}));
    case.add().succeeds();
    case.del().succeeds().leaves_nothing();
}

#[test]
fn del_after_the_namespace_has_gone() {
    let case = three_networks(reference_plugins());
    case.add().succeeds();
    // As after a reboot, the interfaces are gone with the namespace, but the reservations and rules are not.
    let gone = case.dir().join("gone");
    let gone = gone.to_str().expect("UTF-8");
    case.call("DEL").env("CNI_NETNS", "").run().succeeds();
    let left: Vec<_> = case
        .changes()
        .lines()
        .filter(|line| line.contains("ipam") || line.contains("CNI-DN"))
        .map(str::to_owned)
        .collect();
    assert!(left.is_empty(), "{left:?}");
    case.call("DEL").env("CNI_NETNS", gone).run().succeeds();
}

/// Calls Braid, and then the plugins after it in the runtime's list, each with the result so far. Returns the last result.
fn add_list(case: &Case, after: &[Plugin]) -> Value {
    after.iter().fold(case.add().result().clone(), |result, plugin| call(case, "ADD", plugin, &result).result().clone())
}

fn del_list(case: &Case, after: &[Plugin], result: &Value) {
    for plugin in after.iter().rev() {
        call(case, "DEL", plugin, result).succeeds();
    }
    case.call("DEL").key("prevResult", result.clone()).run().succeeds();
}

/// Calls a plugin of the runtime's list directly.
fn call<'a>(case: &'a Case, command: &str, plugin: &Plugin, result: &Value) -> crate::support::Outcome<'a> {
    let conf = plugin.clone().key("name", "outer").key("prevResult", result.clone()).value();
    let program = case.plugin_path(conf["type"].as_str().expect("a type"));
    case.call_plugin(&program, command).stdin(case.expand(&conf.to_string())).run()
}

#[test]
fn plugins_after_braid_work_on_its_answer() {
    let case = three_networks(reference_plugins());
    let after = [bandwidth(), firewall()];
    let result = add_list(&case, &after);
    let there = case.changes();
    for address in ["10.10.1.2", "10.10.2.2", "10.10.3.2"] {
        let rule = format!("iptables-save -A CNI-FORWARD -s {address}/32");
        assert!(there.contains(&rule), "{rule} is not in\n{there}");
    }
    case.call("CHECK").key("prevResult", result.clone()).run().succeeds();
    for plugin in &after {
        call(&case, "CHECK", plugin, &result).succeeds();
    }
    del_list(&case, &after, &result);
    assert_eq!(case.changes(), "");
}

#[test]
fn braid_works_after_other_plugins() {
    let case = Case::with_reference_plugins().delegate(bridge("br-b", "10.10.2.0/24")).delegate(ptp("10.10.3.0/24"));
    let before = bridge("br-a", "10.10.1.0/24");
    let first = call_first(&case, "ADD", &before);
    let add = case.call("ADD").key("prevResult", first.clone()).run();
    let result = add.result().clone();
    let expected = pairs(&[("eth0", "10.10.1.2"), ("net1", "10.10.2.2"), ("net2", "10.10.3.2")]);
    assert_eq!(inside(&case), expected);
    case.call("CHECK").key("prevResult", result.clone()).run().succeeds();
    case.call("DEL").key("prevResult", result).run().succeeds();
    assert_eq!(inside(&case), expected[..1]);
    call_first(&case, "DEL", &before);
    assert_eq!(case.changes(), "");
}

/// Calls a plugin that is first in the runtime's list.
fn call_first(case: &Case, command: &str, plugin: &Plugin) -> Value {
    let conf = plugin.clone().value();
    let program = case.plugin_path(conf["type"].as_str().expect("a type"));
    let outcome = case.call_plugin(&program, command).stdin(case.expand(&conf.to_string())).run().succeeds();
    if command == "ADD" { outcome.result().clone() } else { Value::Null }
}
