//! Each key of a selection in a pod's annotation: what the network's plugin gets of it, and what is refused.

use rstest::rstest;
use serde_json::{Value, json};

use super::{Cluster, Double, in_cluster};
use crate::support::{Call, Case, Json as _, Network, Outcome, bridge, recorder};

const NETWORKS: &str = "k8s.v1.cni.cncf.io/networks";
const ALL: [&str; 6] = ["portMappings", "bandwidth", "ips", "mac", "infinibandGUID", "deviceID"];

/// A pod that asks with these keys for network `one`, whose plugin declares these capabilities.
fn asks(declared: &[&str], keys: &Value) -> (Case, Cluster<Double>) {
    let case = Case::new().delegate(recorder("alpha").link());
    let (case, api) = in_cluster(case);
    let declared: serde_json::Map<_, _> = declared.iter().map(|name| ((*name).to_owned(), json!(true))).collect();
    let one = recorder("beta").key("capabilities", declared).key("args", json!({"cni": {"a": "ours", "b": 1}, "x": 1}));
    api.definition("web", "one", &one.into_json());
    let mut selection = json!({"name": "one"});
    selection.as_object_mut().expect("an object").extend(keys.as_object().expect("an object").clone());
    api.pod("web", "shop", &json!({NETWORKS: json!([selection]).to_string()}));
    (case, api)
}

fn beta(outcome: &Outcome<'_>) -> Call {
    outcome.call_of("ADD", "beta")
}

/// A pair of `CNI_ARGS`.
fn argument(call: &Call, key: &str) -> Option<String> {
    let pairs = call.var("CNI_ARGS").split(';').filter_map(|pair| pair.split_once('='));
    pairs.filter(|(name, _)| *name == key).map(|(_, value)| value.to_owned()).next_back()
}

#[rstest]
#[case::port_mappings(
    json!({"portMappings": [{"hostPort": 8080, "containerPort": 80}, {"hostPort": 53, "containerPort": 5353, "protocol": "UDP", "hostIP": "192.0.2.1"}]}),
    json!({"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}, {"hostPort": 53, "containerPort": 5353, "protocol": "udp", "hostIP": "192.0.2.1"}]})
)]
#[case::bandwidth(
    json!({"bandwidth": {"ingressRate": 1_000_000, "ingressBurst": 1000, "egressRate": 2_000_000}}),
    json!({"bandwidth": {"ingressRate": 1_000_000, "ingressBurst": 1000, "egressRate": 2_000_000}})
)]
#[case::guid(json!({"infiniband-guid": "02:00:00:00:00:00:00:01"}), json!({"infinibandGUID": "02:00:00:00:00:00:00:01"}))]
#[case::mac(json!({"mac": "02:00:00:00:00:01"}), json!({"mac": "02:00:00:00:00:01"}))]
#[case::ips(json!({"ips": ["10.1.0.9/24", "fd00::9"]}), json!({"ips": ["10.1.0.9/24", "fd00::9"]}))]
#[case::device(json!({"deviceID": "0000:00:1f.6"}), json!({"deviceID": "0000:00:1f.6"}))]
#[case::several(
    json!({"mac": "02:00:00:00:00:01", "ips": ["10.1.0.9"], "bandwidth": {"egressRate": 1}}),
    json!({"mac": "02:00:00:00:00:01", "ips": ["10.1.0.9"], "bandwidth": {"egressRate": 1}})
)]
fn a_capability_reaches_the_plugin_that_declares_it(#[case] keys: Value, #[case] expected: Value) {
    let (case, _api) = asks(&ALL, &keys);
    let outcome = case.add().succeeds().called(&["ADD alpha eth0", "ADD beta net1"]);
    let call = beta(&outcome);
    assert_eq!(call.config()["runtimeConfig"], expected);
    assert_eq!(call.config().get("capabilities"), None);
    // The primary network gets none of it.
    let alpha = outcome.call_of("ADD", "alpha");
    assert_eq!(
        (alpha.config().get("runtimeConfig"), argument(&alpha, "IP"), argument(&alpha, "MAC")),
        (None, None, None)
    );
    assert_eq!(argument(&call, "MAC"), keys["mac"].as_str().map(str::to_owned));
    let ips = keys["ips"].as_array().map(|ips| ips.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(","));
    assert_eq!(argument(&call, "IP"), ips);
    // DEL gets what ADD got, without an API server.
    let deleted = case.del().succeeds().leaves_nothing();
    assert_eq!(deleted.call_of("DEL", "beta").config()["runtimeConfig"], expected);
}

/// NPWG specification, §4.1.2.1.
#[rstest]
#[case::port_mappings("portMappings", json!({"portMappings": [{"hostPort": 1, "containerPort": 1}]}))]
#[case::bandwidth("bandwidth", json!({"bandwidth": {"ingressRate": 1}}))]
#[case::guid("infinibandGUID", json!({"infiniband-guid": "02:00:00:00:00:00:00:01"}))]
fn a_capability_that_no_plugin_declares_is_refused(#[case] name: &str, #[case] keys: Value) {
    let others: Vec<_> = ALL.into_iter().filter(|other| *other != name).collect();
    let (case, _api) = asks(&others, &keys);
    let outcome = case.add().fails(7).called_nothing().leaves_nothing();
    outcome.says(&format!("networks[0]: \"{name}\" is asked for, but no plugin of network \"net-beta\" declares"));
}

/// Addresses are also passed in `CNI_ARGS`, where some plugins read them.
#[test]
fn addresses_that_no_plugin_declares_are_a_warning() {
    let (case, _api) = asks(&[], &json!({"ips": ["10.1.0.9"], "mac": "02:00:00:00:00:01"}));
    let outcome = case.add().succeeds();
    let call = beta(&outcome);
    assert_eq!(call.config().get("runtimeConfig"), None);
    assert_eq!(
        (argument(&call, "IP"), argument(&call, "MAC")),
        (Some("10.1.0.9".into()), Some("02:00:00:00:00:01".into()))
    );
    let warning = |name: &str| format!("\"{name}\" is asked for, but no plugin of network \"net-beta\" declares");
    outcome.stderr_contains(&warning("ips")).stderr_contains(&warning("mac"));
}

#[test]
fn a_chain_has_the_capabilities_of_any_of_its_plugins() {
    let (case, api) = in_cluster(Case::new().delegate(recorder("alpha")));
    let gamma = recorder("gamma").key("capabilities", json!({"bandwidth": true, "mac": false}));
    api.definition("web", "one", &Network::new("one").plugin(recorder("beta")).plugin(gamma).into_json());
    let selection = json!([{"name": "one", "bandwidth": {"egressRate": 5}, "mac": "02:00:00:00:00:01"}]);
    api.pod("web", "shop", &json!({NETWORKS: selection.to_string()}));
    let outcome = case.add().succeeds();
    assert_eq!(beta(&outcome).config().get("runtimeConfig"), None);
    assert_eq!(outcome.call_of("ADD", "gamma").config()["runtimeConfig"], json!({"bandwidth": {"egressRate": 5}}));
}

#[test]
fn cni_args_are_laid_over_the_networks_own() {
    let (case, _api) = asks(&[], &json!({"cni-args": {"a": "theirs", "c": {"d": [1]}}}));
    let outcome = case.add().succeeds();
    let expected = json!({"cni": {"a": "theirs", "b": 1, "c": {"d": [1]}}, "x": 1});
    assert_eq!(beta(&outcome).config()["args"], expected);
    assert_eq!(outcome.call_of("ADD", "alpha").config().get("args"), None);
}

#[rstest]
#[case::interface(json!({"interface": "data"}), "data")]
#[case::old_name(json!({"interfaceRequest": "data"}), "data")]
#[case::both(json!({"interface": "data", "interfaceRequest": "other"}), "data")]
#[case::neither(json!({}), "net1")]
fn the_interface_has_two_names(#[case] keys: Value, #[case] expected: &str) {
    let (case, _api) = asks(&[], &keys);
    assert_eq!(beta(&case.add().succeeds()).var("CNI_IFNAME"), expected);
}

#[test]
fn a_device_reaches_the_first_plugin_even_if_it_declares_nothing() {
    let (case, _api) = asks(&[], &json!({"deviceID": "0000:00:1f.6"}));
    let outcome = case.add().succeeds();
    let config = beta(&outcome).config();
    assert_eq!((&config["deviceID"], &config["pciBusID"]), (&json!("0000:00:1f.6"), &json!("0000:00:1f.6")));
    assert_eq!(config.get("runtimeConfig"), None);
}

/// Only plugins that read the pod's annotation use the claim. Braid does not pass it on.
#[test]
fn a_claim_is_taken_and_not_together_with_addresses() {
    let (case, _api) = asks(&ALL, &json!({"ipam-claim-reference": "shop-data"}));
    let outcome = case.add().succeeds();
    assert_eq!(beta(&outcome).config().get("runtimeConfig"), None);
    case.del().succeeds();
    let (case, _api) = asks(&ALL, &json!({"ipam-claim-reference": "shop-data", "ips": ["10.1.0.9"]}));
    let outcome = case.add().fails(7).called_nothing().leaves_nothing();
    outcome.says("networks[0]: \"ips\" and \"ipam-claim-reference\" cannot be asked for together");
}

/// Each key with a value that it cannot have.
#[rstest]
#[case::protocol(json!({"portMappings": [{"hostPort": 1, "containerPort": 1, "protocol": "icmp"}]}), "networks[0].portMappings")]
#[case::port(json!({"portMappings": [{"hostPort": 70000, "containerPort": 1}]}), "networks[0].portMappings")]
#[case::burst(json!({"bandwidth": {"egressBurst": 1}}), "networks[0].bandwidth")]
#[case::guid(json!({"infiniband-guid": "02:00"}), "networks[0].infiniband-guid")]
#[case::mac(json!({"mac": "02:00:00:00:00"}), "networks[0].mac")]
#[case::ip(json!({"ips": ["10.0.0.0/33"]}), "networks[0].ips")]
#[case::cni_args(json!({"cni-args": []}), "networks[0].cni-args")]
#[case::gateway(json!({"default-route": ["gateway"]}), "networks[0].default-route")]
#[case::device(json!({"deviceID": "../x"}), "networks[0].deviceID")]
#[case::interface(json!({"interfaceRequest": "a/b"}), "networks[0].interfaceRequest")]
fn impossible_requests_are_refused_before_anything_runs(#[case] keys: Value, #[case] place: &str) {
    let (case, _api) = asks(&ALL, &keys);
    case.add().fails(7).says(place).called_nothing().leaves_nothing();
}

/// A primary network with a default route, and a network to which the pod gives the default route.
fn routed(selection: &Value, gateway: &str) -> (Case, Cluster<Double>) {
    let bridge = |name: &str, subnet: &str, is_default: bool| {
        bridge(name, subnet).key("isDefaultGateway", is_default).key("isGateway", true)
    };
    let case = Case::with_reference_plugins().delegate(bridge("br-a", "10.1.0.0/24", true));
    let (case, api) = in_cluster(case);
    api.definition("web", "one", &case.expand(&bridge("br-b", "10.2.0.0/24", gateway.is_empty()).into_json()));
    api.pod("web", "shop", &json!({NETWORKS: json!([selection]).to_string()}));
    (case, api)
}

/// With a gateway, Braid sets the default route. With an empty list, the plugin's stays. In both cases the primary's is removed,
/// and the status names the network that has it.
#[rstest]
#[case::gateway(json!({"name": "one", "default-route": ["10.2.0.1"]}), "10.2.0.1", "net1")]
#[case::empty(json!({"name": "one", "default-route": []}), "", "net1")]
#[case::none(json!({"name": "one"}), "10.2.0.1", "eth0")]
fn the_default_route_is_where_the_pod_wants_it(#[case] selection: Value, #[case] gateway: &str, #[case] through: &str) {
    let (case, api) = routed(&selection, gateway);
    case.add().succeeds();
    let routes = case.pod().ip("-4 route show default");
    let via = if through == "net1" { "10.2.0.1" } else { "10.1.0.1" };
    assert_eq!(routes.trim(), format!("default via {via} dev {through}"));
    let status = api.status("web", "shop").expect("a status");
    for entry in status.as_array().expect("a list") {
        let has_gateway = entry["gateway"] == json!([via]);
        assert_eq!(has_gateway, entry["interface"] == through, "{status:#}");
    }
    case.del().succeeds();
}
