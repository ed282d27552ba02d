//! Which failures of an `optional` attachment do not fail the pod, and which do.

use std::fs;

use rstest::rstest;
use serde_json::{Value, json};

use crate::support::{Case, Plugin, bridge, host_local, recorder};

/// `alpha`, an optional selection, and `gamma`, whose name does not depend on the one before.
fn case(optional: Value) -> Case {
    let mut optional = optional;
    optional["optional"] = true.into();
    let conf = Case::new().cni_version("1.1.0").key("confDir", "@DIR@/net.d");
    conf.delegate(recorder("alpha")).delegate(optional).delegate(recorder("gamma"))
}

#[rstest]
#[case::a_network_that_is_missing(json!({"name": "missing"}), "missing")]
#[case::a_file_that_is_missing(json!({"name": "/nowhere/net.conflist"}), "/nowhere")]
#[case::a_file_that_cannot_be_read(json!({"name": "broken"}), "broken")]
#[case::a_plugin_that_is_missing(json!({"name": "n", "config": {"cniVersion": "1.0.0", "name": "n", "type": "nowhere"}}), "nowhere")]
#[case::a_plugin_that_is_missing_later_in_the_chain(
    json!({"name": "n", "config": {"cniVersion": "1.0.0", "name": "n", "plugins": [{"type": "beta"}, {"type": "nowhere"}]}}), "nowhere")]
fn what_is_missing(#[case] optional: Value, #[case] said: &str) {
    let case = case(optional).configuration("broken.conflist", json!({"name": "broken", "plugins": []}));
    let outcome = case.add().succeeds().stderr_contains(said).stderr_contains("optional");
    outcome.called(&["ADD alpha eth0", "ADD gamma net2"]);
    case.check().succeeds();
    // A node that lacks it is ready, because pods start without it.
    case.status().succeeds().stderr_contains(said);
    case.del().succeeds().called(&["DEL gamma net2", "DEL alpha eth0"]).leaves_nothing();
    // This also works without a journal.
    case.del().succeeds().leaves_nothing();
}

/// The kernel refuses a gateway that is not in a subnet of the attachment.
#[test]
fn a_default_route_that_cannot_be_set() {
    let network = |index: u8| {
        let mut ipam = host_local(&[&format!("10.25.{index}.0/24")]);
        ipam["routes"] = json!([{"dst": "0.0.0.0/0"}]);
        bridge(&format!("br-{index}"), "10.0.0.0/24").key("ipam", ipam)
    };
    let optional = json!({"name": "b", "config": network(1).key("name", "b").value(), "optional": true, "default-route": ["192.0.2.1"]});
    let case = Case::with_reference_plugins().delegate(network(0)).delegate(optional).delegate(recorder("gamma"));
    let outcome = case.add().succeeds().stderr_contains("192.0.2.1").stderr_contains("optional");
    let result = outcome.result().clone();
    assert_eq!(result["ips"].as_array().expect("addresses").len(), 1, "{result:#}");
    let routes = case.pod().ip("route show");
    assert!(routes.contains("default via 10.25.0.1 dev eth0") && !routes.contains("net1"), "{routes}");
    assert!(case.pod().ip_json("link show").iter().all(|link| link["ifname"] != "net1"));
    case.call("CHECK").key("prevResult", result).run().succeeds();
    case.del().succeeds().leaves_nothing();
}

#[test]
fn a_device_that_is_missing() {
    let optional =
        json!({"name": "b", "config": recorder("beta").key("name", "b").value(), "resourceClaim": {"claim": "nics"}});
    let case = case(optional);
    case.add().succeeds().stderr_contains("claim \"nics\"").called(&["ADD alpha eth0", "ADD gamma net2"]);
    case.del().succeeds().leaves_nothing();
}

/// The primary attachment makes the container's network, so a pod cannot start without it.
#[rstest]
#[case::a_network_that_is_missing(json!({"name": "missing"}))]
#[case::a_network_that_is_there(json!({"name": "b", "config": {"cniVersion": "1.0.0", "name": "b", "type": "beta"}}))]
fn a_failing_primary_always_fails_the_add(#[case] mut optional: Value) {
    optional["optional"] = true.into();
    let case = Case::new().key("confDir", "@DIR@/net.d").delegate(optional).delegate(recorder("gamma"));
    fs::create_dir_all(case.dir().join("net.d")).expect("make the folder");
    case.add().fails_with_any_code().called_nothing().leaves_nothing();
}

/// A mistake in the configuration affects every container, and `validate` reports it.
#[rstest]
#[case::its_configuration(json!({"name": "n", "config": {"cniVersion": "1.0.0", "name": "n", "plugins": []}}), "plugins")]
#[case::a_name_that_another_has(json!({"name": "b", "interface": "net2", "config": {"cniVersion": "1.0.0", "name": "b", "type": "beta"}}), "net2")]
#[case::a_capability_that_is_not_declared(json!({"name": "b", "portMappings": [{"hostPort": 80, "containerPort": 80}],
    "config": {"cniVersion": "1.0.0", "name": "b", "type": "beta"}}), "portMappings")]
#[case::a_way_back_to_braid(json!({"name": "b", "config": {"cniVersion": "1.0.0", "name": "b", "type": "braid"}}), "braid")]
fn mistakes_of_the_configuration(#[case] optional: Value, #[case] said: &str) {
    case(optional).add().fails_with_any_code().says(said).called_nothing().leaves_nothing();
}

/// A policy applies only to requests of pods, and only the operator's selections can be optional.
#[test]
fn a_policy_does_not_apply_to_it() {
    let policy = json!([{"namespaces": ["*"], "networks": ["none"]}]);
    let plugin: Plugin = recorder("beta").key("name", "b");
    let case = case(json!({"name": "b", "config": plugin.value()})).key("policy", policy);
    case.add().succeeds().called(&["ADD alpha eth0", "ADD beta net1", "ADD gamma net2"]);
    case.del().succeeds().leaves_nothing();
}
