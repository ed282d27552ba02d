//! The network status and the events of a pod follow the changes of its container.

use std::time::Duration;

use rstest::rstest;
use serde_json::{Value, json};

use super::cluster::{ApiServer, Cluster, POD};
use super::{Fault, Server, in_cluster};
use crate::support::{Case, Json as _, Outcome, recorder};

const NETWORKS: &str = "k8s.v1.cni.cncf.io/networks";
const STATUS: &str = "k8s.v1.cni.cncf.io/network-status";
const POD_PATH: &str = "/api/v1/namespaces/web/pods/shop";

/// A node whose configuration the command line finds.
fn node() -> Case {
    let alpha = recorder("alpha").link().ip("10.1.0.5/24");
    let braid = json!({"type": "braid", "stateDir": "@DIR@/state", "kubeconfig": "@DIR@/kubeconfig", "multusNamespace": "web",
        "kubernetes": {"timeout": 1, "retries": 0}, "delegates": [alpha.clone().value()]});
    let list = json!({"cniVersion": "1.0.0", "name": "outer", "plugins": [braid]});
    Case::new().delegate(alpha).configuration("outer.conflist", list)
}

/// The pod has the network `one`, and may get `two`.
fn attached<S: ApiServer + ?Sized>(case: &Case, api: &Cluster<S>) {
    let definition = |name: &str, plugin: &str, ip: &str| {
        let plugin = recorder(plugin).without("name").link().ip(ip).key("capabilities", json!({"mac": true}));
        api.definition("web", name, &plugin.into_json());
    };
    definition("one", "beta", "10.2.0.5/24");
    definition("two", "gamma", "10.3.0.5/24");
    api.pod(POD.0, POD.1, &json!({NETWORKS: "one"}));
    case.add().succeeds();
}

fn change<'a>(case: &'a Case, words: &[&str]) -> Outcome<'a> {
    let line: Vec<&str> = [words[0], Case::CONTAINER].into_iter().chain(words[1..].iter().copied()).collect();
    case.braid(&[&line[..], &["--state-dir", "@DIR@/state"]].concat()).run()
}

/// The annotation as text.
fn text<S: ApiServer + ?Sized>(api: &Cluster<S>) -> String {
    let pod = api.server.get(POD_PATH).expect("the pod is there");
    pod["metadata"]["annotations"][STATUS].as_str().expect("the status").to_owned()
}

fn entries<S: ApiServer + ?Sized>(api: &Cluster<S>) -> Vec<Value> {
    let status = api.status(POD.0, POD.1).expect("the status");
    let entry = |one: &Value| json!([one["name"], one["interface"], one["ips"][0], one["default"]]);
    status.as_array().expect("a list").iter().map(entry).collect()
}

#[rstest]
fn the_network_status_follows(#[values(Server::Double, Server::KubeApiserver)] server: Server) {
    let Some((case, api)) = server.with(node()) else { return };
    attached(&case, &api);
    let at_add = text(&api);
    change(&case, &["attach", "two@lan"]).succeeds();
    let expected = [
        json!(["net-alpha", "eth0", "10.1.0.5", true]),
        json!(["web/one", "net1", "10.2.0.5", false]),
        json!(["web/two", "lan", "10.3.0.5", false]),
    ];
    assert_eq!(entries(&api), expected);
    let (kept, _) = at_add.rsplit_once("\n]").expect("a list");
    assert!(text(&api).starts_with(kept), "{at_add}\n{}", text(&api));
    change(&case, &["detach", "net1"]).succeeds();
    assert_eq!(entries(&api), [expected[0].clone(), expected[2].clone()]);
    change(&case, &["detach", "lan"]).succeeds();
    assert_eq!(entries(&api), expected[..1]);
    case.del().succeeds().leaves_nothing();
}

/// A change must not touch entries of the network status that are about other attachments.
#[test]
fn entries_that_a_change_does_not_concern_stay_word_for_word() {
    let (case, api) = in_cluster(node());
    attached(&case, &api);
    let [own, one] =
        [r#"{"interface":"eth0","name":"net-alpha", "note" : [1,  2]}"#, r#"{"name":"web/one","interface":"net1"}"#];
    let others = r#"{ "name": "others/net",  "interface": "x0", "ips": [ ] }"#;
    api.pod(POD.0, POD.1, &json!({NETWORKS: "one", STATUS: format!("[{others}, {own},\n{one}]")}));
    change(&case, &["attach", "two"]).succeeds();
    let after = text(&api);
    assert!(after.starts_with(&format!("[\n  {others},\n  {own},\n  {one},\n  {{\n")), "{after}");
    change(&case, &["detach", "net1"]).succeeds();
    let after = text(&api);
    assert!(after.starts_with(&format!("[\n  {others},\n  {own},\n  {{\n")), "{after}");
    case.del().succeeds().leaves_nothing();
}

#[test]
fn a_status_that_cannot_be_written_fails_no_change() {
    let (case, api) = in_cluster(node());
    attached(&case, &api);
    let unwritten = "what is written about its pod is not";
    for fault in
        [Fault::Status(403, None), Fault::Status(503, None), Fault::Reset, Fault::Slow(Duration::from_secs(20))]
    {
        api.server.misbehave("PATCH", POD_PATH, fault, 1);
        change(&case, &["attach", "two"]).succeeds().stderr_contains(unwritten);
        assert_eq!(entries(&api).len(), 2);
        // The next change adds the missing entry.
        change(&case, &["detach", "net2"]).succeeds();
        assert_eq!(entries(&api).len(), 2);
    }
    change(&case, &["attach", "two"]).succeeds();
    api.server.misbehave("PATCH", POD_PATH, Fault::Status(500, None), 1);
    change(&case, &["detach", "net2"]).succeeds().stderr_contains(unwritten);
    assert_eq!(entries(&api).len(), 3);
    change(&case, &["detach", "net1"]).succeeds();
    assert_eq!(entries(&api).len(), 1, "what an earlier change could not take back is gone too");
    case.del().succeeds().leaves_nothing();
}

/// Another pod of the same name has nothing to do with this container. Everything that needs only the journal still works.
#[test]
fn a_container_of_another_pod_is_not_attached() {
    let (case, api) = in_cluster(node());
    attached(&case, &api);
    api.replace_pod(POD.0, POD.1, &json!({STATUS: "[]"}));
    let uid = api.uid(POD.0, POD.1);
    change(&case, &["attach", "two"]).fails(11).says(&uid).called_nothing();
    assert_eq!(text(&api), "[]");
    case.del().succeeds().leaves_nothing();
}

#[test]
fn another_pod_of_the_name_keeps_its_status() {
    let (case, api) = in_cluster(node());
    attached(&case, &api);
    api.replace_pod(POD.0, POD.1, &json!({STATUS: "[]"}));
    change(&case, &["detach", "net1"]).succeeds().stderr_contains("is another one");
    assert_eq!(text(&api), "[]");
    case.del().succeeds().leaves_nothing();
}

#[test]
fn without_a_configuration_a_detach_says_that_nothing_is_written() {
    let (case, api) = in_cluster(node());
    attached(&case, &api);
    std::fs::remove_dir_all(case.dir().join("net.d")).expect("remove the configurations");
    change(&case, &["detach", "net1"]).succeeds().stderr_contains("the pod's network status is not updated");
    assert_eq!(entries(&api).len(), 2);
    case.del().succeeds().leaves_nothing();
}
