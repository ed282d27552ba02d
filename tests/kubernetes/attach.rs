//! ADD of a pod, and DEL without an API server.

use std::fs;
use std::time::Duration;

use rstest::rstest;
use serde_json::{Value, json};

use super::{Fault, Server, TOKEN, in_cluster};
use crate::support::{Case, Json as _, Network, recorder};

const NETWORKS: &str = "k8s.v1.cni.cncf.io/networks";
const DEFAULT_NETWORK: &str = "v1.multus-cni.io/default-network";

#[rstest]
fn a_pod_gets_the_networks_of_its_annotation(#[values(Server::Double, Server::KubeApiserver)] server: Server) {
    let Some((case, api)) = server.with(Case::new().delegate(recorder("alpha").ip("10.0.0.5/24").link())) else {
        return;
    };
    let beta = recorder("beta").without("name").ip("10.1.0.5/24").link().instructed("gateway", "10.1.0.1");
    api.definition("web", "one", &beta.into_json());
    let chain = Network::new("two").plugin(recorder("gamma").ip("10.2.0.5/24").link()).plugin(recorder("delta"));
    api.definition("other", "two", &chain.into_json());
    api.pod("web", "shop", &json!({NETWORKS: "one, other/two@data"}));
    let outcome = case.add().succeeds();
    let outcome = outcome.called(&["ADD alpha eth0", "ADD beta net1", "ADD gamma data", "ADD delta data"]);
    // The runtime takes every address for the pod's own, so it gets only those of the primary network.
    assert_eq!(outcome.result()["ips"].as_array().unwrap().len(), 1);
    assert_eq!(outcome.call_of("ADD", "beta").config()["name"], "one");
    let args = outcome.call_of("ADD", "gamma").var("CNI_ARGS").to_owned();
    for pair in [
        "IgnoreUnknown=true",
        "K8S_POD_NAMESPACE=web",
        "K8S_POD_NAME=shop",
        "K8S_POD_INFRA_CONTAINER_ID=container-1",
        &format!("K8S_POD_UID={}", api.uid("web", "shop")),
    ] {
        assert_eq!(args.split(';').filter(|found| *found == pair).count(), 1, "{pair} in {args}");
    }
    let status = api.status("web", "shop").unwrap();
    let entries = status.as_array().unwrap();
    let shown: Vec<Value> =
        entries.iter().map(|e| json!([e["name"], e["interface"], e["ips"], e["default"]])).collect();
    assert_eq!(
        shown,
        [
            json!(["net-alpha", "eth0", ["10.0.0.5"], true]),
            json!(["web/one", "net1", ["10.1.0.5"], false]),
            json!(["other/two", "data", ["10.2.0.5"], false]),
        ]
    );
    assert!(entries.iter().all(|entry| entry["dns"].is_object()), "{status:#}");
    assert_eq!(
        api.events("web", "shop"),
        [
            "AddedInterface: Add data [10.2.0.5/24] from other/two",
            "AddedInterface: Add eth0 [10.0.0.5/24] from net-alpha",
            "AddedInterface: Add net1 [10.1.0.5/24] from web/one"
        ]
    );
    drop(api);
    fs::remove_file(case.dir().join("kubeconfig")).unwrap();
    let backwards = ["DEL delta data", "DEL gamma data", "DEL beta net1", "DEL alpha eth0"];
    case.del().succeeds().called(&backwards).leaves_nothing();
}

/// Calico and older AWS VPC plugins answer like this: only an interface on the host, and addresses on that interface or on none.
#[rstest]
#[case::no_index(json!({"address": "10.0.0.5/32"}))]
#[case::the_hosts_end(json!({"address": "10.0.0.5/32", "interface": 0}))]
fn a_plugin_that_names_no_interface_in_the_pod_has_an_entry_in_the_status(#[case] ip: Value) {
    let host_only = |kind: &str| {
        let interfaces = json!([{"name": "host0"}, {"name": "vlan0", "sandbox": "0"}]);
        recorder(kind).instructed("result", json!({"cniVersion": "1.0.0", "interfaces": interfaces, "ips": [ip]}))
    };
    let (case, api) = in_cluster(Case::new().delegate(host_only("alpha")));
    api.definition("web", "one", &host_only("beta").into_json());
    api.pod("web", "shop", &json!({NETWORKS: "one"}));
    case.add().succeeds();
    let entry = |name: &str, interface: &str, is_default: bool| json!({"name": name, "interface": interface, "ips": ["10.0.0.5"], "default": is_default, "dns": {}});
    let expected = json!([entry("net-alpha", "eth0", true), entry("web/one", "net1", false)]);
    assert_eq!(api.status("web", "shop"), Some(expected));
}

#[rstest]
fn every_field_of_a_selection_reaches_its_plugin(#[values(Server::Double, Server::KubeApiserver)] server: Server) {
    let Some((case, api)) = server.with(Case::new().delegate(recorder("alpha"))) else { return };
    let capabilities = json!({"ips": true, "mac": true, "bandwidth": true, "deviceID": true});
    api.definition("web", "one", &recorder("beta").key("capabilities", capabilities).into_json());
    let selection = json!([{"name": "one", "interface": "data", "ips": ["10.1.0.9/24"], "mac": "02:00:00:00:00:09",
        "bandwidth": {"ingressRate": 1000, "ingressBurst": 10}, "cni-args": {"a": 1}, "deviceID": "0000:00:1f.6"}]);
    api.pod("web", "shop", &json!({NETWORKS: selection.to_string()}));
    let outcome = case.add().succeeds();
    let call = outcome.call_of("ADD", "beta");
    let config = call.config();
    let given = &config["runtimeConfig"];
    assert_eq!(given["ips"], json!(["10.1.0.9/24"]));
    assert_eq!(given["mac"], "02:00:00:00:00:09");
    assert_eq!(given["bandwidth"], json!({"ingressRate": 1000, "ingressBurst": 10}));
    assert_eq!(given["deviceID"], "0000:00:1f.6");
    assert_eq!((&config["deviceID"], &config["pciBusID"]), (&json!("0000:00:1f.6"), &json!("0000:00:1f.6")));
    assert_eq!(config["args"]["cni"], json!({"a": 1}));
    assert!(call.var("CNI_ARGS").contains("IP=10.1.0.9/24") && call.var("CNI_IFNAME") == "data");
}

#[rstest]
fn a_pod_that_is_gone_is_to_be_tried_again_and_leaves_nothing(
    #[values(Server::Double, Server::KubeApiserver)] server: Server,
) {
    let Some((case, api)) = server.with(Case::new().delegate(recorder("alpha"))) else { return };
    api.remove_pod("web", "shop");
    case.add().fails(11).says("web/shop").called_nothing().leaves_nothing();
    api.pod("web", "shop", &json!({}));
    case.add().fails(11).says(&api.uid("web", "shop")).called_nothing().leaves_nothing();
}

#[rstest]
fn a_static_pod_has_another_uid_than_its_mirror(#[values(Server::Double, Server::KubeApiserver)] server: Server) {
    let Some((case, api)) = server.with(Case::new().delegate(recorder("alpha").link())) else { return };
    api.replace_pod("web", "shop", &json!({"kubernetes.io/config.source": "file"}));
    case.add().succeeds().called(&["ADD alpha eth0"]);
    assert_eq!(api.status("web", "shop").unwrap()[0]["interface"], "eth0");
}

#[test]
fn a_call_that_is_for_no_pod_asks_no_api_server() {
    let (case, api) = in_cluster(Case::new().delegate(recorder("alpha")));
    let case = case.env_remove("CNI_ARGS");
    case.add().succeeds().called(&["ADD alpha eth0"]);
    case.del().succeeds().leaves_nothing();
    assert!(api.server.requests().is_empty(), "{:?}", api.server.requests());
}

#[rstest]
fn a_network_that_is_not_there_is_named_and_nothing_is_attached(
    #[values(Server::Double, Server::KubeApiserver)] server: Server,
) {
    let Some((case, api)) = server.with(Case::new().delegate(recorder("alpha"))) else { return };
    api.pod("web", "shop", &json!({NETWORKS: "missing"}));
    case.add().fails(7).says("web/missing").called_nothing().leaves_nothing();
    assert!(api.events("web", "shop")[0].starts_with("NoNetworkFound: "), "{:?}", api.events("web", "shop"));
    api.definition("web", "missing", "{\"type\": 1}");
    case.add().fails(7).says("web/missing").says("type").called_nothing().leaves_nothing();
    api.pod("web", "shop", &json!({NETWORKS: "[{\"nam\": 1}]"}));
    case.add().fails(7).says(NETWORKS).called_nothing().leaves_nothing();
}

#[test]
fn networks_that_several_selections_name_are_fetched_once() {
    let (case, api) = in_cluster(Case::new().delegate(recorder("alpha")));
    api.definition("web", "one", &recorder("beta").into_json());
    api.pod("web", "shop", &json!({NETWORKS: "one,one,one"}));
    case.add().succeeds().called(&["ADD alpha eth0", "ADD beta net1", "ADD beta net2", "ADD beta net3"]);
    let gets = api.server.requests().iter().filter(|line| line.starts_with("GET web/network-attachment")).count();
    assert_eq!(gets, 1, "{:?}", api.server.requests());
}

/// The double speaks HTTP/1.1, with which each concurrent request needs a connection.
#[test]
fn a_slow_server_without_http_2_is_asked_over_several_connections() {
    let (case, api) = in_cluster(Case::new().delegate(recorder("alpha")));
    for name in ["one", "two", "three", "four"] {
        api.definition("web", name, &recorder("beta").into_json());
    }
    api.pod("web", "shop", &json!({NETWORKS: "one,two,three,four"}));
    api.server.misbehave("GET", "/pods/", Fault::Slow(Duration::from_millis(100)), 1);
    let beta = ["ADD beta net1", "ADD beta net2", "ADD beta net3", "ADD beta net4"];
    case.add().succeeds().called(&[&["ADD alpha eth0"][..], &beta].concat());
    assert!((4..=6).contains(&api.server.connections()), "{}", api.server.connections());
}

#[rstest]
fn the_cluster_network_is_a_definition_or_a_file(#[values(Server::Double, Server::KubeApiserver)] server: Server) {
    let case =
        Case::new().without("delegates").key("clusterNetwork", "cluster").key("defaultNetworks", json!(["extra"]));
    let case = case.key("confDir", "@DIR@/net.d");
    let case = case.configuration("10-disk.conf", recorder("beta").key("name", "on-disk"));
    let case = case.configuration("20-extra.conf", recorder("gamma").key("name", "extra"));
    let Some((case, api)) = server.with(case) else { return };
    api.definition("kube-system", "cluster", &recorder("alpha").into_json());
    case.add().succeeds().called(&["ADD alpha eth0", "ADD gamma net1"]);
    case.del().succeeds().called(&["DEL gamma net1", "DEL alpha eth0"]).leaves_nothing();
    let case = case.key("clusterNetwork", "on-disk");
    case.add().succeeds().called(&["ADD beta eth0", "ADD gamma net1"]);
    case.del().succeeds().leaves_nothing();
    api.pod("kube-system", "dns", &json!({}));
    let case = case.key("clusterNetwork", "cluster").args(&api.args("kube-system", "dns"));
    case.add().succeeds().called(&["ADD alpha eth0"]);
}

#[rstest]
fn a_pod_may_replace_the_primary_network(#[values(Server::Double, Server::KubeApiserver)] server: Server) {
    let Some((case, api)) = server.with(Case::new().delegate(recorder("alpha")).delegate(recorder("beta"))) else {
        return;
    };
    api.definition("kube-system", "special", &recorder("gamma").link().into_json());
    api.pod("web", "shop", &json!({DEFAULT_NETWORK: "special"}));
    case.add().succeeds().called(&["ADD gamma eth0", "ADD beta net1"]);
    assert_eq!(api.status("web", "shop").unwrap()[0]["default"], true);
    case.del().succeeds().called(&["DEL beta net1", "DEL gamma eth0"]).leaves_nothing();
}

/// Waiting costs less than undoing a pod and making it again, but the wait ends with the time of the call.
#[test]
fn a_status_is_written_by_a_slow_api_server_as_long_as_the_call_may_take() {
    let patience = json!({"timeout": 1, "retries": 1});
    let case = Case::new().delegate(recorder("alpha").link()).key("kubernetes", patience);
    let (case, api) = in_cluster(case);
    api.pod("web", "shop", &json!({}));
    api.server.misbehave("PATCH", "/status", Fault::Status(503, None), 5);
    case.add().succeeds().called(&["ADD alpha eth0"]).stderr_contains("trying again");
    assert!(api.status("web", "shop").is_some());
    case.del().succeeds().leaves_nothing();

    let case = case.key("timeouts", json!({"total": 4}));
    api.server.misbehave("PATCH", "/status", Fault::Status(503, None), 1000);
    case.add().fails(11).called(&["ADD alpha eth0", "DEL alpha eth0"]).leaves_nothing();
}

#[test]
fn a_status_that_cannot_be_written_undoes_everything() {
    let (case, api) = in_cluster(Case::new().delegate(recorder("alpha").link()).delegate(recorder("beta").link()));
    api.pod("web", "shop", &json!({}));
    api.server.misbehave("PATCH", "/status", Fault::Status(403, None), 1);
    let calls = ["ADD alpha eth0", "ADD beta net1", "DEL beta net1", "DEL alpha eth0"];
    case.add().fails(106).says("403").called(&calls).leaves_nothing();
    api.server.misbehave("PATCH", "/status", Fault::Status(409, None), 2);
    case.add().succeeds();
    assert!(api.status("web", "shop").is_some());
}

#[rstest]
fn a_pod_that_vanishes_while_it_is_attached_is_no_error(
    #[values(Server::Double, Server::KubeApiserver)] server: Server,
    #[values(false, true)] is_replaced: bool,
) {
    let Some((case, api)) = server.with(
        Case::new().delegate(recorder("alpha").link().instructed("hold", json!({"at": "after", "name": "attached"}))),
    ) else {
        return;
    };
    let adding = case.call("ADD").start();
    case.held("attached");
    api.remove_pod("web", "shop");
    if is_replaced {
        api.pod("web", "shop", &json!({}));
    }
    case.release("attached");
    adding.wait().succeeds();
    assert_eq!(api.status("web", "shop"), None);
    case.del().succeeds().leaves_nothing();
    case.add().fails(11).called_nothing().leaves_nothing();
}

#[test]
fn temporary_failures_are_retried() {
    for fault in [Fault::Status(500, None), Fault::Status(503, None), Fault::Status(429, Some(1)), Fault::Reset] {
        let (case, api) = in_cluster(Case::new().delegate(recorder("alpha")));
        api.pod("web", "shop", &json!({}));
        api.server.misbehave("GET", "/pods/", fault, 2);
        case.add().succeeds();
        assert_eq!(api.server.requests().iter().filter(|line| *line == "GET web/pods/shop").count(), 3);
    }
    let (case, api) = in_cluster(Case::new().delegate(recorder("alpha")).key("kubernetes", json!({"timeout": 2})));
    api.pod("web", "shop", &json!({}));
    api.server.misbehave("GET", "/pods/", Fault::Slow(Duration::from_secs(5)), 1);
    case.add().succeeds();
}

#[test]
fn retries_are_bounded_and_refusals_are_not_retried() {
    let (case, api) = in_cluster(Case::new().delegate(recorder("alpha")).key("kubernetes", json!({"retries": 2})));
    api.pod("web", "shop", &json!({}));
    api.server.misbehave("GET", "/pods/", Fault::Status(500, None), 100);
    case.add().fails(11).says("tried 3 times").called_nothing().leaves_nothing();
    let (case, api) = in_cluster(Case::new().delegate(recorder("alpha")));
    api.pod("web", "shop", &json!({}));
    api.server.misbehave("GET", "/pods/", Fault::Status(403, None), 1);
    case.add().fails(106).says("told to refuse").called_nothing().leaves_nothing();
    assert_eq!(api.server.requests().len(), 1);
    let (case, api) = in_cluster(Case::new().delegate(recorder("alpha")).key("kubernetes", json!({"timeout": 1})));
    api.server.misbehave("GET", "/pods/", Fault::Slow(Duration::from_secs(20)), 100);
    let outcome = case.add().fails(11).called_nothing();
    assert!(outcome.took() < Duration::from_secs(5), "{:?}", outcome.took());
}

#[test]
fn a_token_that_was_replaced_is_read_again() {
    let (case, api) = in_cluster(Case::new().delegate(recorder("alpha")));
    api.pod("web", "shop", &json!({}));
    api.kubeconfig_with_token_file(TOKEN);
    case.add().succeeds();
    case.del().succeeds();
    api.server.accept_only("token-2");
    case.add().fails(106).says("401").says("kubeconfig").called_nothing();
    fs::write(case.dir().join("token"), "token-2").unwrap();
    case.add().succeeds();
    case.del().succeeds().leaves_nothing();
}

#[test]
fn a_missing_api_server_is_named() {
    let (case, api) = in_cluster(Case::new().delegate(recorder("alpha")).key("kubernetes", json!({"timeout": 1})));
    drop(api);
    case.add().fails(11).says("get pod web/shop").called_nothing().leaves_nothing();
    let broken = "users:\n- name: u\n  user:\n    token: [secret-token\n";
    fs::write(case.dir().join("kubeconfig"), broken).unwrap();
    let outcome = case.add().fails(106).says("kubeconfig").called_nothing().leaves_nothing();
    assert!(!outcome.error_text().contains("secret"), "{}", outcome.error_text());
}

#[test]
fn an_add_waits_for_the_primary_network() {
    let case = Case::new().delegate(recorder("alpha")).key("readinessindicatorfile", "@DIR@/ready");
    let file = case.dir().join("ready");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(400));
            fs::write(&file, "").unwrap();
        });
        let outcome = case.add().succeeds();
        assert!(outcome.took() >= Duration::from_millis(350), "{:?}", outcome.took());
    });
    fs::remove_file(&file).unwrap();
    case.del().succeeds().leaves_nothing();
    let case = case.key("timeouts", json!({"total": 1}));
    case.add().fails(11).says("ready").called_nothing();
}
