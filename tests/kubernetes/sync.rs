//! `braid sync`: a running container gets what its pod asks for now.

use std::fs;
use std::time::Duration;

use nix::sys::signal::Signal;
use rstest::rstest;
use serde_json::{Value, json};

use super::cluster::{ApiServer, Cluster, POD};
use super::double::Double;
use super::{Fault, Server, in_cluster};
use crate::support::{Case, Invocation, Json as _, Network, Plugin, bridge, portmap, ptp, recorder};

const NETWORKS: &str = "k8s.v1.cni.cncf.io/networks";
const STATUS: &str = "k8s.v1.cni.cncf.io/network-status";
const POD_PATH: &str = "/api/v1/namespaces/web/pods/shop";

/// A node whose configuration, with these keys more, the command line finds.
fn node_with(more: &Value) -> Case {
    let alpha = recorder("alpha").link().ip("10.1.0.5/24");
    let mut braid = json!({"type": "braid", "stateDir": "@DIR@/state", "kubeconfig": "@DIR@/kubeconfig", "multusNamespace": "web",
        "confDir": "@DIR@/net.d", "kubernetes": {"timeout": 1, "retries": 0}, "delegates": [alpha.clone().value()]});
    braid.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    let list = json!({"cniVersion": "1.0.0", "name": "outer", "plugins": [braid]});
    Case::new().delegate(alpha).configuration("outer.conflist", list)
}

/// A plugin for all that a selection can ask for.
fn able(kind: &str, ip: &str) -> Plugin {
    let capabilities = json!({"mac": true, "ips": true, "infinibandGUID": true});
    recorder(kind).without("name").link().ip(ip).key("capabilities", capabilities)
}

/// A cluster whose pods have a primary network of the reference plugin `ptp`.
fn cluster_with_reference_plugins() -> (Case, Cluster<Double>) {
    let primary = ptp("10.66.1.0/24");
    let braid = json!({"type": "braid", "stateDir": "@DIR@/state", "kubeconfig": "@DIR@/kubeconfig",
        "delegates": [primary.clone().value()]});
    let list = json!({"cniVersion": "1.0.0", "name": "outer", "plugins": [braid]});
    let case = Case::with_reference_plugins().delegate(primary).configuration("outer.conflist", list);
    in_cluster(case)
}

/// A cluster with the networks `one`, `two` and `three` of namespace `web`.
fn cluster(case: Case) -> (Case, Cluster<Double>) {
    let (case, api) = in_cluster(case);
    define(&api);
    (case, api)
}

fn define<S: ApiServer + ?Sized>(api: &Cluster<S>) {
    api.definition("web", "one", &able("beta", "10.2.0.5/24").into_json());
    api.definition("web", "two", &able("gamma", "10.3.0.5/24").into_json());
    api.definition("web", "three", &able("delta", "10.4.0.5/24").into_json());
}

/// Sets the networks that the pod asks for. Everything else about it stays.
fn ask<S: ApiServer + ?Sized>(api: &Cluster<S>, networks: &Value) {
    let networks = networks.as_str().map_or_else(|| networks.to_string(), str::to_owned);
    let mut annotations = json!({ NETWORKS: networks });
    if let Some(status) =
        api.server.get(POD_PATH).and_then(|pod| Some(pod["metadata"]["annotations"].get(STATUS)?.clone()))
    {
        annotations[STATUS] = status;
    }
    api.pod(POD.0, POD.1, &annotations);
}

fn command<'a>(case: &'a Case, words: &[&str]) -> Invocation<'a> {
    let line: Vec<&str> = [words[0], Case::CONTAINER].into_iter().chain(words[1..].iter().copied()).collect();
    case.braid(&[&line[..], &["--state-dir", "@DIR@/state"]].concat())
}

/// Removes the plugin's instructions, so that its configuration applies again.
fn calm(case: &Case, kind: &str, ip: &str) {
    case.behave(kind, json!({"link": true, "ip": ip}));
}

/// The outcome of a sync.
struct Synced {
    report: Value,
    order: Vec<String>,
    is_whole: bool,
}

impl Synced {
    /// The interfaces under a key of the report.
    fn names(&self, key: &str) -> Vec<&str> {
        let list = self.report[key].as_array().unwrap_or_else(|| panic!("{key}: {:#}", self.report));
        list.iter().map(|one| one["interface"].as_str().unwrap_or_default()).collect()
    }

    /// Everything has succeeded, with these calls.
    fn did(self, order: &[&str]) -> Self {
        assert!(self.is_whole, "{:#}", self.report);
        assert_eq!(self.order, order, "{:#}", self.report);
        self
    }

    /// Something has failed, and its message contains this.
    fn failed(self, order: &[&str], words: &str) -> Self {
        assert!(!self.is_whole, "{:#}", self.report);
        assert_eq!(self.order, order, "{:#}", self.report);
        let failed = self.report["failed"].to_string();
        assert!(failed.contains(words), "{:#}", self.report);
        self
    }
}

fn sync_with(case: &Case, words: &[&str]) -> Synced {
    let before = case.order().len();
    let output = command(case, &[&["sync", "-o", "json"], words].concat()).run_unrecorded();
    let report = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| {
        panic!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
    });
    Synced { report, order: case.order().split_off(before), is_whole: output.status.success() }
}

fn sync(case: &Case) -> Synced {
    sync_with(case, &[])
}

/// The entries of the network status, as `network interface address`.
fn entries<S: ApiServer + ?Sized>(api: &Cluster<S>) -> Vec<String> {
    let status = api.status(POD.0, POD.1).expect("the status");
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let entry = |one: &Value| [&one["name"], &one["interface"], &one["ips"][0]].map(text).join(" ");
    status.as_array().expect("a list").iter().map(entry).collect()
}

#[rstest]
fn networks_come_and_go_with_the_annotation(#[values(Server::Double, Server::KubeApiserver)] server: Server) {
    let Some((case, api)) = server.with(node_with(&json!({}))) else { return };
    define(&api);
    ask(&api, &json!("one"));
    case.add().succeeds();
    sync(&case).did(&[]);
    ask(&api, &json!("one,two,three@data"));
    let synced = sync(&case).did(&["ADD gamma net2", "ADD delta data"]);
    assert_eq!(synced.report["pod"], json!({"namespace": "web", "name": "shop", "uid": api.uid("web", "shop")}));
    assert_eq!(synced.report["definitions"], json!(["web/one", "web/three", "web/two"]));
    let attached = &synced.report["attached"][1];
    assert_eq!(
        *attached,
        json!({"selection": format!("{NETWORKS}[2]"), "network": "web/three", "interface": "data", "ips": ["10.4.0.5/24"]})
    );
    let all = ["net-alpha eth0 10.1.0.5", "web/one net1 10.2.0.5", "web/two net2 10.3.0.5", "web/three data 10.4.0.5"];
    assert_eq!(entries(&api), all);
    sync(&case).did(&[]);
    case.check().succeeds();
    ask(&api, &json!("two"));
    assert_eq!(sync(&case).did(&["DEL delta data", "DEL beta net1"]).names("detached"), ["data", "net1"]);
    assert_eq!(entries(&api), [all[0], all[2]]);
    ask(&api, &json!(""));
    sync(&case).did(&["DEL gamma net2"]);
    assert_eq!(entries(&api), all[..1]);
    let events = api.events(POD.0, POD.1);
    for event in [
        "AddedInterface: Add data [10.4.0.5/24] from web/three",
        "AddedInterface: Add net2 [10.3.0.5/24] from web/two",
        "RemovedInterface: Remove net1 from web/one",
        "RemovedInterface: Remove net2 from web/two",
    ] {
        assert_eq!(events.iter().filter(|one| *one == event).count(), 1, "{event}: {events:?}");
    }
    let show = command(&case, &["show"]).output();
    let shown = String::from_utf8_lossy(&show.stdout).into_owned();
    assert!(shown.lines().any(|line| line.contains("detach web/two@net2") && line.contains("sync")), "{shown}");
    case.del().succeeds().leaves_nothing();
}

/// The controller of `KubeVirt` edits the annotation of the pod that a virtual machine runs in, and waits for the status.
#[rstest]
fn kubevirt_plugs_and_unplugs(#[values(Server::Double, Server::KubeApiserver)] server: Server) {
    let Some((case, api)) = server.with(node_with(&json!({}))) else { return };
    define(&api);
    let element = |name: &str, interface: &str, mac: &str| json!({"name": name, "namespace": "web", "interface": interface, "mac": mac});
    let red = element("one", "pod37a8eec1ce1", "02:00:00:00:00:01");
    let blue = element("two", "pod16477688c0e", "02:00:00:00:00:02");
    // Step 1: the pod starts with one secondary network.
    ask(&api, &json!([red]));
    case.add().succeeds();
    let started = entries(&api);
    assert_eq!(started, ["net-alpha eth0 10.1.0.5", "web/one pod37a8eec1ce1 10.2.0.5"]);
    // Step 2: an interface is added to the machine; its controller adds the element, and waits for the entry.
    ask(&api, &json!([red, blue]));
    sync(&case).did(&["ADD gamma pod16477688c0e"]);
    assert_eq!(entries(&api), [&started[..], &["web/two pod16477688c0e 10.3.0.5".to_owned()]].concat());
    let call = case.calls().pop().expect("a call");
    assert_eq!(call.config()["runtimeConfig"]["mac"], "02:00:00:00:00:02");
    // Step 3: the interface is to move to another network while the machine runs: the same name in the pod.
    ask(&api, &json!([red, element("three", "pod16477688c0e", "02:00:00:00:00:02")]));
    sync(&case).did(&["DEL gamma pod16477688c0e", "ADD delta pod16477688c0e"]);
    assert_eq!(entries(&api)[2], "web/three pod16477688c0e 10.4.0.5");
    // Step 4: the guest no longer uses it. The controller removes the element, and waits until the entry is gone.
    ask(&api, &json!([red]));
    sync(&case).did(&["DEL delta pod16477688c0e"]);
    assert_eq!(entries(&api), started);
    case.del().succeeds().leaves_nothing();
}

#[test]
fn of_three_alike_the_others_keep_their_names() {
    let (case, api) = cluster(node_with(&json!({})));
    let mac = |last: u8| json!({"name": "one", "mac": format!("02:00:00:00:00:0{last}")});
    ask(&api, &json!([mac(1), mac(2), mac(3)]));
    case.add().succeeds();
    ask(&api, &json!([mac(1), mac(3)]));
    sync(&case).did(&["DEL beta net2"]);
    ask(&api, &json!([mac(1), mac(3), mac(4)]));
    sync(&case).did(&["ADD beta net2"]);
    ask(&api, &json!([mac(3), mac(4), mac(1)]));
    sync(&case).did(&[]);
    case.del().succeeds().leaves_nothing();
}

#[rstest]
#[case::ips(json!({"ips": ["10.9.0.1/24"]}))]
#[case::mac(json!({"mac": "02:00:00:00:00:09"}))]
#[case::guid(json!({"infiniband-guid": "02:00:00:00:00:00:00:09"}))]
#[case::arguments(json!({"cni-args": {"a": 1}}))]
#[case::device(json!({"deviceID": "0000:00:1f.6"}))]
fn what_cannot_be_updated_is_attached_again(#[case] more: Value) {
    let (case, api) = cluster(node_with(&json!({})));
    ask(&api, &json!("one,two"));
    case.add().succeeds();
    let mut element = json!({"name": "one"});
    element.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    ask(&api, &json!([element, {"name": "two"}]));
    let synced = sync_with(&case, &["--dry-run"]).did(&[]);
    assert_eq!((synced.names("detached"), synced.names("attached")), (vec!["net1"], vec!["net1"]));
    let synced = sync(&case).did(&["DEL beta net1", "ADD beta net1"]);
    assert_eq!((synced.names("detached"), synced.names("attached")), (vec!["net1"], vec!["net1"]));
    assert_eq!(entries(&api).len(), 3);
    sync(&case).did(&[]);
    ask(&api, &json!("one,two"));
    sync(&case).did(&["DEL beta net1", "ADD beta net1"]);
    case.del().succeeds().leaves_nothing();
}

/// Attachments are detached before others take their interface names.
#[test]
fn names_that_are_exchanged_are_freed_first() {
    let (case, api) = cluster(node_with(&json!({})));
    ask(&api, &json!("one@a0,two@b0"));
    case.add().succeeds();
    ask(&api, &json!("one@b0,two@a0"));
    sync(&case).did(&["DEL gamma b0", "DEL beta a0", "ADD beta b0", "ADD gamma a0"]);
    ask(&api, &json!("three@a0,one@b0"));
    sync(&case).did(&["DEL gamma a0", "ADD delta a0"]);
    case.del().succeeds().leaves_nothing();
}

#[test]
fn one_failure_does_not_prevent_other_changes() {
    let (case, api) = cluster(node_with(&json!({})));
    ask(&api, &json!("one,two@b0"));
    case.add().succeeds();
    case.behave("gamma", json!({"fail": {"DEL": {"code": 142, "msg": "gamma refuses DEL"}}}));
    case.behave("beta", json!({"fail": {"ADD": {"code": 142, "msg": "beta refuses ADD"}}}));
    ask(&api, &json!("missing@x0,one,one@y0,three@c0"));
    let order = ["DEL gamma b0", "ADD beta y0", "DEL beta y0", "ADD delta c0"];
    let synced = sync(&case);
    let failures: Vec<String> =
        synced.report["failed"].as_array().expect("a list").iter().map(Value::to_string).collect();
    assert!(failures.iter().any(|one| one.contains("gamma refuses DEL")), "{failures:#?}");
    assert!(failures.iter().any(|one| one.contains("beta refuses ADD")), "{failures:#?}");
    assert!(failures.iter().any(|one| one.contains("web/missing") && one.contains("networks[0]")), "{failures:#?}");
    assert_eq!(synced.names("attached"), ["c0"], "{:#}", synced.report);
    let made: Vec<_> = synced.order.iter().filter(|call| order.contains(&call.as_str())).collect();
    assert_eq!(made.len(), synced.order.len(), "{:?}", synced.order);
    let events = api.events(POD.0, POD.1).join("\n");
    for words in [
        "FailedAddingInterface: Failed to add y0 from web/one: ",
        "FailedAddingInterface: Failed to add x0 from web/missing: ",
        "FailedRemovingInterface: Failed to remove b0 from web/two: ",
    ] {
        assert!(events.contains(words), "{words}\n{events}");
    }
    // Owed steps are tried first.
    calm(&case, "gamma", "10.3.0.5/24");
    calm(&case, "beta", "10.2.0.5/24");
    api.definition("web", "missing", &able("zeta", "10.7.0.5/24").into_json());
    sync(&case).did(&["DEL gamma b0", "ADD zeta x0", "ADD beta y0"]);
    sync(&case).did(&[]);
    assert_eq!(entries(&api).len(), 5);
    case.del().succeeds().leaves_nothing();
}

/// An attachment that cannot be planned is not started. One that fails after the old one was detached is reported, and made later.
#[test]
fn a_replacement_that_fails() {
    let (case, api) = cluster(node_with(&json!({})));
    ask(&api, &json!("one@a0"));
    case.add().succeeds();
    ask(&api, &json!("missing@a0"));
    sync(&case).failed(&[], "web/missing");
    assert_eq!(entries(&api).len(), 2);
    ask(&api, &json!("two@a0"));
    case.behave("gamma", json!({"fail": {"ADD": {"code": 142, "msg": "gamma refuses ADD"}}}));
    let synced = sync(&case).failed(&["DEL beta a0", "ADD gamma a0", "DEL gamma a0"], "gamma refuses ADD");
    assert_eq!(synced.names("detached"), ["a0"]);
    assert_eq!(entries(&api), ["net-alpha eth0 10.1.0.5"]);
    case.check().succeeds();
    calm(&case, "gamma", "10.3.0.5/24");
    sync(&case).did(&["ADD gamma a0"]);
    case.del().succeeds().leaves_nothing();
}

#[test]
fn a_network_whose_definition_is_gone_is_detached_and_one_whose_definition_changed_stays() {
    let (case, api) = cluster(node_with(&json!({})));
    ask(&api, &json!("one,two"));
    case.add().succeeds();
    api.definition("web", "one", &able("zeta", "10.7.0.5/24").into_json());
    api.server.remove("/apis/k8s.cni.cncf.io/v1/namespaces/web/network-attachment-definitions/two");
    sync(&case).did(&[]);
    ask(&api, &json!("one"));
    sync(&case).did(&["DEL gamma net2"]);
    case.del().succeeds().leaves_nothing();
}

/// The node's rules apply to pods, and not to the operator.
#[rstest]
#[case::isolation(json!({"namespaceIsolation": true}), "namespaceIsolation")]
#[case::policy(json!({"policy": [{"namespaces": ["web"], "networks": ["web/*"]}]}), "policy")]
fn what_add_refuses_a_pod_is_refused(#[case] rules: Value, #[case] words: &str) {
    let (case, api) = cluster(node_with(&rules));
    api.definition("other", "one", &able("zeta", "10.7.0.5/24").into_json());
    case.add().succeeds();
    ask(&api, &json!("other/one,two"));
    sync(&case).failed(&["ADD gamma net1"], words);
    drop(command(&case, &["attach", "other/one@z0"]).run().succeeds());
    sync(&case).failed(&[], words);
    case.del().succeeds().leaves_nothing();
}

#[test]
fn what_the_operator_attached_stays() {
    let (case, api) = cluster(node_with(
        &json!({"delegates": [recorder("alpha").link().ip("10.1.0.5/24").value(), {"name": "two"}]}),
    ));
    let case = case.delegate(json!({"name": "two"})).key("multusNamespace", "web");
    ask(&api, &json!("one"));
    case.add().succeeds();
    drop(command(&case, &["attach", "three@mine"]).run().succeeds());
    ask(&api, &json!("three@mine"));
    sync(&case).failed(&["DEL beta net2"], "mine");
    ask(&api, &json!("two@net1"));
    sync(&case).failed(&[], "net1");
    ask(&api, &json!("one@eth0"));
    sync(&case).failed(&[], "eth0");
    ask(&api, &json!(""));
    sync(&case).did(&[]);
    assert_eq!(entries(&api).len(), 3);
    case.del().succeeds().leaves_nothing();
}

/// If something cannot be read, nothing is detached because of it.
#[rstest]
#[case::syntax("[{\"name\": \"one\"}")]
#[case::one_of_two("[{\"name\": \"one\"}, {\"nam\": \"two\"}]")]
#[case::name("one,,two")]
fn an_annotation_that_cannot_be_read_changes_nothing(#[case] annotation: &str) {
    let (case, api) = cluster(node_with(&json!({})));
    ask(&api, &json!("one,two"));
    case.add().succeeds();
    ask(&api, &json!(annotation));
    let synced = sync(&case).failed(&[], NETWORKS);
    assert_eq!(synced.report["failed"][0]["selection"], NETWORKS);
    assert_eq!(synced.report["failed"][0]["error"]["code"], 7);
    assert!(api.events(POD.0, POD.1).iter().any(|one| one.starts_with("FailedAddingInterface: ")));
    assert_eq!(entries(&api).len(), 3);
    case.del().succeeds().leaves_nothing();
}

#[test]
fn a_pod_that_goes_or_is_another_one_is_left_alone() {
    let (case, api) = cluster(node_with(&json!({})));
    ask(&api, &json!("one"));
    case.add().succeeds();
    let mut pod = api.server.get(POD_PATH).expect("the pod");
    pod["metadata"]["annotations"][NETWORKS] = json!("two");
    pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    api.server.put(POD_PATH, pod);
    assert_eq!(sync(&case).did(&[]).report["skipped"], "the pod is being deleted");
    api.replace_pod(POD.0, POD.1, &json!({NETWORKS: "two"}));
    let calls = case.order().len();
    command(&case, &["sync"]).run().fails(11).says("is another one");
    api.remove_pod(POD.0, POD.1);
    command(&case, &["sync"]).run().fails(11).says("does not know it");
    assert_eq!(case.order().len(), calls);
    case.del().succeeds().leaves_nothing();
    command(&case, &["sync"]).run().fails(3).says(Case::CONTAINER);
}

#[test]
fn an_api_server_that_is_away_changes_nothing_and_keeps_nobody_waiting() {
    let (case, api) = cluster(node_with(&json!({})));
    ask(&api, &json!("one"));
    case.add().succeeds();
    ask(&api, &json!("two"));
    api.server.misbehave("GET", "/pods/", Fault::Status(503, None), 1);
    command(&case, &["sync"]).run().fails(11).called_nothing();
    // The definition cannot be read: what is there is detached, what is asked for is attached later.
    api.server.misbehave("GET", "/network-attachment-definitions/", Fault::Status(503, None), 1);
    sync(&case).failed(&["DEL beta net1"], "503");
    sync(&case).did(&["ADD gamma net1"]);
    // DEL does not wait for a sync that waits for the API server.
    ask(&api, &json!("three"));
    api.server.misbehave("GET", "/network-attachment-definitions/", Fault::Slow(Duration::from_secs(3)), 1);
    let running = command(&case, &["sync", "-o", "json"]).start();
    crate::support::wait_for("the question", || {
        api.server.requests().iter().any(|line| line.ends_with("definitions/three")).then_some(())
    });
    case.del().succeeds();
    let outcome = running.wait();
    assert!(outcome.error_text().is_empty() || outcome.order().iter().all(|call| !call.starts_with("ADD")));
    assert!(!outcome.order().iter().any(|call| call.starts_with("ADD")));
    assert!(case.order().iter().all(|call| call != "ADD delta net1"));
}

/// A status that could not be written is written by the next sync, and so is one of a sync that was killed.
#[test]
fn a_status_that_was_not_written_is_written_later() {
    let (case, api) = cluster(node_with(&json!({})));
    ask(&api, &json!("one"));
    case.add().succeeds();
    ask(&api, &json!("two"));
    api.server.misbehave("PATCH", POD_PATH, Fault::Status(403, None), 1);
    sync(&case).failed(&["DEL beta net1", "ADD gamma net1"], "403");
    assert_eq!(entries(&api)[1], "web/one net1 10.2.0.5");
    sync(&case).did(&[]);
    assert_eq!(entries(&api)[1], "web/two net1 10.3.0.5");
    let patches = || api.server.requests().iter().filter(|line| line.starts_with("PATCH")).count();
    let before = patches();
    sync(&case).did(&[]);
    assert_eq!(patches(), before);
    case.del().succeeds().leaves_nothing();
}

/// Wherever a sync is killed, the next one gives the pod what it asks for, and DEL leaves nothing.
#[rstest]
fn killed_at_any_step(
    #[values("beta", "gamma")] plugin: &str,
    #[values("before", "after")] at: &str,
    #[values(true, false)] is_synced: bool,
) {
    let (case, api) = cluster(node_with(&json!({})));
    ask(&api, &json!("one@a0"));
    case.add().succeeds();
    ask(&api, &json!("two@a0"));
    let rendezvous = format!("{plugin}-{at}");
    let ip = if plugin == "beta" { "10.2.0.5/24" } else { "10.3.0.5/24" };
    case.behave(
        plugin,
        json!({"hold": {"at": at, "name": rendezvous}, "link": true, "ip": ip, "ignore_sigterm": true}),
    );
    let running = command(&case, &["sync"]).start();
    case.held(&rendezvous);
    running.signal(Signal::SIGKILL);
    calm(&case, plugin, ip);
    case.release(&rendezvous);
    if is_synced {
        sync(&case);
        sync(&case).did(&[]);
        assert_eq!(entries(&api), ["net-alpha eth0 10.1.0.5", "web/two a0 10.3.0.5"]);
        case.check().succeeds();
    }
    case.del().succeeds().leaves_nothing();
}

#[test]
fn two_at_once_do_it_once() {
    let (case, api) = cluster(node_with(&json!({})));
    case.add().succeeds();
    ask(&api, &json!("one,two,three"));
    case.behave("beta", json!({"hold": {"at": "before", "name": "beta"}, "link": true, "ip": "10.2.0.5/24"}));
    let first = command(&case, &["sync", "-o", "json"]).start();
    case.held("beta");
    calm(&case, "beta", "10.2.0.5/24");
    let second = command(&case, &["sync", "-o", "json"]).start();
    case.release("beta");
    drop(first.wait());
    drop(second.wait());
    let added: Vec<String> = case.order().into_iter().filter(|call| call.starts_with("ADD")).collect();
    assert_eq!(added, ["ADD alpha eth0", "ADD beta net1", "ADD gamma net2", "ADD delta net3"]);
    assert_eq!(entries(&api).len(), 4);
    case.del().succeeds().leaves_nothing();
}

/// After a DEL, a sync that has waited for it ends without an error.
#[test]
fn a_container_that_goes_ends_a_sync_quietly() {
    let (case, api) = cluster(node_with(&json!({})));
    ask(&api, &json!("one"));
    case.add().succeeds();
    ask(&api, &json!("one,two"));
    case.behave("beta", json!({"hold": {"at": "before", "name": "beta"}, "link": true}));
    let deleting = case.call("DEL").start();
    case.held("beta");
    let syncing = command(&case, &["sync", "-o", "json"]).start();
    crate::support::wait_for("the question", || {
        api.server.requests().iter().filter(|line| *line == "GET web/pods/shop").nth(1).map(drop)
    });
    case.release("beta");
    deleting.wait().succeeds();
    let ended = syncing.wait();
    assert!(
        ended.result()["skipped"].as_str().is_some_and(|why| why.contains(Case::CONTAINER)),
        "{:#}",
        ended.result()
    );
    assert!(!case.order().iter().any(|call| call == "ADD gamma net2"));
    case.del().succeeds().leaves_nothing();
}

#[test]
fn a_default_route_is_taken_by_attaching_again_and_given_back() {
    let case = node_with(&json!({}));
    let (case, api) = cluster(case);
    ask(&api, &json!([{"name": "one"}, {"name": "two"}]));
    case.add().succeeds();
    ask(&api, &json!([{"name": "one", "default-route": ["10.2.0.1"]}, {"name": "two"}]));
    sync(&case).did(&["DEL beta net1", "ADD beta net1"]);
    let routes = || case.pod().run("ip -4 route show default");
    assert!(routes().contains("via 10.2.0.1 dev net1"), "{}", routes());
    // As in ADD, only one attachment may ask for the default route of a family.
    ask(&api, &json!([{"name": "one", "default-route": ["10.2.0.1"]}, {"name": "two", "default-route": ["10.3.0.1"]}]));
    sync(&case).failed(&[], "both ask for the IPv4 default route");
    ask(&api, &json!([{"name": "one"}, {"name": "two", "default-route": ["10.3.0.1"]}]));
    sync(&case).did(&["DEL beta net1", "DEL gamma net2", "ADD beta net1", "ADD gamma net2"]);
    assert!(routes().contains("via 10.3.0.1 dev net2"), "{}", routes());
    ask(&api, &json!([{"name": "one"}, {"name": "two"}]));
    sync(&case).did(&["DEL gamma net2", "ADD gamma net2"]);
    assert_eq!(routes().trim(), "");
    case.del().succeeds().leaves_nothing();
}

/// Limits and mappings change in place: the interface, its addresses and the queues of the limits stay.
#[test]
fn limits_and_mappings_change_in_place() {
    let (case, api) = cluster_with_reference_plugins();
    let limits = Plugin::new("limits", "bandwidth").key("capabilities", json!({"bandwidth": true}));
    let chain = Network::new("lan").plugin(bridge("br-lan", "10.66.2.0/24")).plugin(limits).plugin(portmap());
    api.definition("web", "lan", &case.expand(&chain.into_json()));
    let lan = |rate: u64, port: u16| {
        json!([{"name": "lan", "interface": "lan0", "bandwidth": {"ingressRate": rate, "ingressBurst": 800_000},
            "portMappings": [{"hostPort": port, "containerPort": 80}]}])
    };
    ask(&api, &lan(8_000_000, 8081));
    case.add().succeeds();
    let link = || case.pod().run("ip -o link show dev lan0");
    let limits = || case.host().run("tc qdisc show");
    let rules = || case.host().run("iptables-save -t nat");
    let before = link();
    assert!(limits().contains("rate 8Mbit") && rules().contains("--dport 8081 "), "{}{}", limits(), rules());
    let synced = |networks: &Value| {
        ask(&api, networks);
        let output = command(&case, &["sync", "-o", "json"]).output();
        let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        assert!(output.status.success(), "{report:#}");
        report["updated"].as_array().expect("a list").len()
    };
    assert_eq!(synced(&lan(8_000_000, 8081)), 0);
    assert_eq!(synced(&lan(16_000_000, 8081)), 1);
    assert!(limits().contains("rate 16Mbit"), "{}", limits());
    assert_eq!(synced(&lan(16_000_000, 8082)), 1);
    assert!(rules().contains("--dport 8082 ") && !rules().contains("--dport 8081 "), "{}", rules());
    // A value that the operator has set stays until the pod asks for another.
    drop(command(&case, &["update", "lan0", "--bandwidth", "ingress=4M"]).run().succeeds());
    assert_eq!(synced(&lan(16_000_000, 8082)), 0);
    assert!(limits().contains("rate 4Mbit"), "{}", limits());
    assert_eq!(synced(&json!([{"name": "lan", "interface": "lan0"}])), 1);
    assert!(!limits().contains("tbf") && !rules().contains("--dport"), "{}{}", limits(), rules());
    assert_eq!(synced(&json!([{"name": "lan", "interface": "lan0"}])), 0);
    assert_eq!(link(), before);
    case.check().succeeds();
    case.del().succeeds().leaves_nothing();
}

/// A host port goes from one attachment to another, whatever their order, and two attachments swap theirs.
#[test]
fn host_ports_move_between_attachments() {
    let (case, api) = cluster_with_reference_plugins();
    for (name, subnet) in [("one", "10.66.2.0/24"), ("two", "10.66.3.0/24"), ("three", "10.66.4.0/24")] {
        let network = Network::new(name).plugin(bridge(&format!("br-{name}"), subnet)).plugin(portmap());
        api.definition("web", name, &case.expand(&network.into_json()));
    }
    let networks = |ports: [u16; 3]| {
        let one = |(name, port): (&str, u16)| json!({"name": name, "interface": name, "portMappings": [{"hostPort": port, "containerPort": 80}]});
        ["one", "two", "three"].into_iter().zip(ports).map(one).collect::<Value>()
    };
    ask(&api, &networks([8081, 8082, 8083]));
    case.add().succeeds();
    for ports in [[8082, 8084, 8083], [8084, 8082, 8083], [8082, 8083, 8084], [8081, 8082, 8083]] {
        ask(&api, &networks(ports));
        let output = command(&case, &["sync", "-o", "json"]).output();
        assert!(output.status.success(), "{ports:?}: {}", String::from_utf8_lossy(&output.stdout));
        let rules = case.host().run("iptables-save -t nat");
        for (subnet, port) in ["10.66.2.", "10.66.3.", "10.66.4."].iter().zip(ports) {
            let is_there = |line: &str| {
                line.contains(&format!("--dport {port} ")) && line.contains(&format!("to-destination {subnet}"))
            };
            assert!(rules.lines().any(is_there), "{ports:?}: {port} to {subnet}\n{rules}");
        }
        assert_eq!(rules.matches("-j DNAT").count(), 3, "{ports:?}\n{rules}");
    }
    case.check().succeeds();
    case.del().succeeds().leaves_nothing();
}

#[test]
fn networks_on_disk_come_and_go_too() {
    let case =
        node_with(&json!({})).configuration("disk.conflist", Network::new("disk").plugin(recorder("zeta").link()));
    let (case, api) = cluster(case);
    case.add().succeeds();
    ask(&api, &json!("disk"));
    sync(&case).did(&["ADD zeta net1"]);
    // A definition of the same name does not change the attachment.
    api.definition("web", "disk", &able("beta", "10.2.0.5/24").into_json());
    sync(&case).did(&[]);
    fs::remove_file(case.dir().join("net.d/disk.conflist")).expect("remove");
    ask(&api, &json!(""));
    sync(&case).did(&["DEL zeta net1"]);
    case.del().succeeds().leaves_nothing();
}

#[test]
fn without_a_pod_or_an_api_server_it_is_refused() {
    let (case, _api) = cluster(node_with(&json!({})));
    case.call("ADD").env("CNI_ARGS", "").run().succeeds();
    command(&case, &["sync"]).run().fails(7).says("names no pod").called_nothing();
    case.del().succeeds().leaves_nothing();
}

/// libcni's cached result of a pod's primary network `cbr0`, which another plugin has attached.
pub(super) fn attached_by_another<S: ApiServer + ?Sized>(case: &Case, api: &Cluster<S>) {
    let results = case.dir().join("cache/results");
    fs::create_dir_all(&results).expect("make the cache");
    let args = [("IgnoreUnknown", "1"), ("K8S_POD_NAMESPACE", POD.0), ("K8S_POD_NAME", POD.1)];
    let uid = api.uid(POD.0, POD.1);
    let args: Vec<_> =
        args.into_iter().chain([("K8S_POD_UID", uid.as_str())]).map(|(key, value)| json!([key, value])).collect();
    let interfaces = json!([{"name": "eth0", "sandbox": case.pod().path(), "mac": "02:00:00:00:00:05"}]);
    let result =
        json!({"cniVersion": "1.0.0", "interfaces": interfaces, "ips": [{"address": "10.9.0.5/24", "interface": 0}]});
    let cached = |network: &str, ifname: &str| {
        let cached = json!({"kind": "cniCacheV1", "containerId": Case::CONTAINER, "config": "e30=", "ifName": ifname,
            "networkName": network, "netns": case.pod().path(), "cniArgs": args, "result": result});
        let file = results.join(format!("{network}-{}-{ifname}", Case::CONTAINER));
        fs::write(file, cached.to_string()).expect("write the result");
    };
    cached("cni-loopback", "lo");
    cached("cbr0", "eth0");
}

fn sync_unknown(case: &Case, words: &[&str]) -> Synced {
    let before = case.order().len();
    let words = [&["sync", "-o", "json", "--network", "outer"], words].concat();
    let output = command(case, &words).env("CNI_CACHE_DIR", case.dir().join("cache")).run_unrecorded();
    let report = serde_json::from_slice(&output.stdout).expect("JSON");
    Synced { report, order: case.order().split_off(before), is_whole: output.status.success() }
}

/// A pod that another plugin has attached, and that lacks the networks that it asks for.
#[test]
fn a_pod_that_another_plugin_attached_is_repaired() {
    let (case, api) = cluster(node_with(&json!({"kubernetes": {"timeout": 1, "retries": 0, "repair": true}})));
    attached_by_another(&case, &api);
    sync_unknown(&case, &[]).did(&[]);
    assert!(!case.dir().join("state/attachments").join(Case::CONTAINER).exists(), "it lacks nothing");
    ask(&api, &json!("one,two@data,missing"));
    assert_eq!(sync_unknown(&case, &["--dry-run"]).failed(&[], "web/missing").names("attached"), ["net1", "data"]);
    sync_unknown(&case, &[]).failed(&["ADD beta net1", "ADD gamma data"], "web/missing");
    let all = ["cbr0 eth0 10.9.0.5", "web/one net1 10.2.0.5", "web/two data 10.3.0.5"];
    assert_eq!(entries(&api), all);
    assert_eq!(api.status(POD.0, POD.1).expect("the status")[0]["default"], true);
    // After that it is like any other pod, and the primary network is not touched.
    ask(&api, &json!("two@data,one@eth0"));
    sync(&case).failed(&["DEL beta net1"], "eth0");
    ask(&api, &json!("two@data"));
    sync_unknown(&case, &[]).did(&[]);
    assert_eq!(entries(&api), [all[0], all[2]]);
    case.check().succeeds();
    // The primary network is undone as without a journal.
    case.del().succeeds().called(&["DEL gamma data", "DEL alpha eth0"]).leaves_nothing();
}

#[test]
fn without_repair_missing_networks_are_only_reported() {
    let (case, api) = cluster(node_with(&json!({})));
    attached_by_another(&case, &api);
    ask(&api, &json!("one@lan"));
    let synced = sync_unknown(&case, &[]).failed(&[], "\\\"repair\\\": true");
    assert_eq!(synced.names("failed"), ["lan"]);
    assert!(api.events(POD.0, POD.1)[0].starts_with("FailedAddingInterface: Failed to add lan from web/one: "));
    assert!(!case.dir().join("state/attachments").join(Case::CONTAINER).exists());
    assert_eq!(api.status(POD.0, POD.1), None);
    // Another pod now has the name.
    api.replace_pod(POD.0, POD.1, &json!({NETWORKS: "one"}));
    let line = command(&case, &["sync", "--network", "outer"]).env("CNI_CACHE_DIR", case.dir().join("cache"));
    line.run().fails(11).says("is another one").called_nothing();
    fs::remove_dir_all(case.dir().join("cache")).expect("remove the cache");
    command(&case, &["sync", "--network", "outer"]).run().fails(3).says(Case::CONTAINER).called_nothing();
}
