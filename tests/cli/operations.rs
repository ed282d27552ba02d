//! `add`, `check`, `del`, `gc` and `status`: Braid as a container runtime, like cnitool.

use std::fs;

use rstest::rstest;
use serde_json::{Value, json};

use crate::support::{Call, Machine, Network, Plugin, recorder};

/// A machine with the network `pods`, of one recording plugin, and the namespace `web`.
fn machine() -> Machine {
    let alpha = recorder("alpha").ip("10.1.0.5/24").key("capabilities", json!({"portMappings": true}));
    let machine = Machine::new().conf("10-pods.conflist", Network::new("pods").plugin(alpha));
    machine.run("ip netns add web").succeeds();
    machine.note();
    machine
}

fn calls(machine: &Machine) -> Vec<Call> {
    Call::read_all(&machine.dir().join("recorder/calls"))
}

/// The cached result of a container, in libcni's cache.
fn cached(machine: &Machine, name: &str) -> Option<Value> {
    let text = fs::read(machine.dir().join("var-lib/cni/results").join(name)).ok()?;
    Some(serde_json::from_slice(&text).expect("JSON"))
}

#[test]
fn add_check_and_del_with_cnitools_environment() {
    let machine = machine();
    machine
        .run("mv /etc/cni/net.d/10-pods.conflist /run && mkdir /run/plugins && cp /opt/cni/bin/alpha /run/plugins")
        .succeeds();
    let environment = "NETCONFPATH=/run CNI_PATH=/nothing:/run/plugins CNI_IFNAME=net7 CNI_ARGS='A=1;B=2' \
                       CAP_ARGS='{\"portMappings\":[{\"hostPort\":80}],\"mac\":\"00:00:5e:00:53:01\"}'";
    let digest = machine.run("printf /run/netns/web | sha512sum | cut -c1-20").succeeds().stdout;
    let id = format!("cnitool-{}", digest.trim());

    let ran = machine.run(&format!("{environment} braid add pods /run/netns/web")).succeeds();
    let expected = json!({
        "cniVersion": "1.0.0", "interfaces": [{"name": "net7", "sandbox": "/run/netns/web"}],
        "ips": [{"address": "10.1.0.5/24", "interface": 0}],
    });
    assert_eq!(ran.json(), expected);

    let file = format!("pods-{id}-net7");
    let cache = cached(&machine, &file).expect("a cached result");
    for (key, expected) in [
        ("kind", json!("cniCacheV1")),
        ("containerId", json!(id)),
        ("ifName", json!("net7")),
        ("networkName", json!("pods")),
        ("netns", json!("/run/netns/web")),
        ("cniArgs", json!([["A", "1"], ["B", "2"]])),
        ("result", expected.clone()),
    ] {
        assert_eq!(cache[key], expected, "{key} in {cache:#}");
    }

    machine.run(&format!("{environment} braid check pods /run/netns/web")).succeeds().prints_nothing();
    machine.run(&format!("{environment} braid del pods /run/netns/web")).succeeds().prints_nothing();
    assert_eq!(cached(&machine, &file), None);
    assert_eq!(machine.order(), ["ADD alpha net7", "CHECK alpha net7", "DEL alpha net7"]);
    for call in calls(&machine) {
        assert_eq!(call.var("CNI_CONTAINERID"), id);
        assert_eq!(call.var("CNI_NETNS"), "/run/netns/web");
        assert_eq!(call.var("CNI_ARGS"), "A=1;B=2");
        assert_eq!(call.var("CNI_PATH"), "/nothing:/run/plugins");
        // Only what the plugin declares.
        assert_eq!(call.config()["runtimeConfig"], json!({"portMappings": [{"hostPort": 80}]}));
        let prev_result = if call.command == "ADD" { Value::Null } else { expected.clone() };
        assert_eq!(call.config()["prevResult"], prev_result, "{}", call.command);
    }
    machine.is_as_noted();
}

#[test]
fn options_come_before_the_environment_and_a_namespace_has_a_name() {
    let machine = machine();
    machine.run("CNI_IFNAME=eth5 braid add pods web -i eth1 --container-id web-1").succeeds();
    assert!(cached(&machine, "pods-web-1-eth1").is_some());
    machine.run("braid add /etc/cni/net.d/10-pods.conflist web --container-id web-2").succeeds();
    machine.run("cd /etc/cni/net.d && braid add 10-pods.conflist web --container-id web-3").succeeds();
    assert_eq!(machine.order(), ["ADD alpha eth1", "ADD alpha eth0", "ADD alpha eth0"]);
    assert!(calls(&machine).iter().all(|call| call.var("CNI_NETNS") == "/run/netns/web"));
    // What DEL removes may be gone already.
    machine.run("ip netns del web && braid del pods web -i eth1 --container-id web-1").succeeds();
    machine.run("for id in web-2 web-3; do braid del pods web --container-id $id; done").succeeds();
    assert_eq!(cached(&machine, "pods-web-1-eth1"), None);
}

#[test]
fn status_of_a_network() {
    let machine = machine();
    machine.run("cp /opt/cni/bin/alpha /opt/cni/bin/beta").succeeds();
    let new = Network::new("new").version("1.1.0").plugin(recorder("alpha")).plugin(recorder("beta"));
    let old = Network::new("old").plugin(recorder("alpha").failing("STATUS", 50));
    let lacking = Network::new("lacking").plugin(Plugin::new("x", "absent"));
    let machine = machine.conf("new.conflist", new).conf("old.conflist", old).conf("lacking.conflist", lacking);
    for network in ["new", "old", "pods"] {
        machine.run(&format!("braid status {network}")).succeeds().prints_nothing();
    }
    // Versions before 1.1.0 have no STATUS.
    assert_eq!(machine.order(), ["STATUS alpha", "STATUS beta"]);
    for (code, message) in [(50, "no daemon"), (51, "beta is cut off")] {
        let behaviour = json!({"fail": {"STATUS": {"code": code, "msg": message}}});
        machine.write("recorder/behaviour/beta.json", &behaviour.to_string());
        let ran = machine.run("braid status new").exits(1).says(message);
        assert_eq!((&ran.json()["code"], &ran.json()["cniVersion"]), (&json!(code), &json!("1.1.0")));
    }
    // The same message as cnitool's.
    machine.run("braid status pods web && braid gc pods web").succeeds();
    machine.run("braid status lacking").exits(1).says("\"absent\"");
    machine.run("braid status nowhere").exits(1).says("\"nowhere\"");
}

#[rstest]
#[case::none(json!({"ips": [{"address": "10.0.0.2/24"}]}), json!({"cniVersion": "1.0.0", "ips": [{"address": "10.0.0.2/24"}]}))]
#[case::nothing(json!({}), json!({"cniVersion": "1.0.0"}))]
#[case::empty(json!({"cniVersion": "", "ips": []}), json!({"cniVersion": "1.0.0", "ips": []}))]
#[case::keys_of_before(
    json!({"ip4": {"ip": "10.0.0.2/24", "gateway": "10.0.0.1"}}),
    json!({"cniVersion": "1.0.0", "ips": [{"address": "10.0.0.2/24", "gateway": "10.0.0.1"}]})
)]
fn an_answer_without_a_version_gets_one(#[case] answer: Value, #[case] printed: Value) {
    let machine = Machine::new().conf("a.conf", r#"{"cniVersion":"1.0.0","name":"a","type":"terse"}"#);
    let script = format!("#!/bin/sh\ncat >/dev/null\necho '{answer}'\n");
    machine.run(&format!("cat >/opt/cni/bin/terse <<'END'\n{script}END\nchmod +x /opt/cni/bin/terse")).succeeds();
    assert_eq!(machine.run("ip netns add web && braid add a web").succeeds().json(), printed);
}

#[rstest]
#[case::plugin("add", recorder("alpha").failing("ADD", 142), 142, "alpha refuses ADD")]
#[case::plugin_on_check("check", recorder("alpha").failing("CHECK", 143), 143, "alpha refuses CHECK")]
#[case::plugin_on_del("del", recorder("alpha").failing("DEL", 144), 144, "alpha refuses DEL")]
fn a_plugins_error_is_printed_as_json(
    #[case] command: &str,
    #[case] plugin: crate::support::Plugin,
    #[case] code: u64,
    #[case] message: &str,
) {
    let machine = machine().conf("10-pods.conflist", Network::new("pods").plugin(plugin));
    if command != "add" {
        machine.run("braid add pods web").succeeds();
    }
    let ran = machine.run(&format!("braid {command} pods web")).exits(1).says(message);
    let error = ran.json();
    assert_eq!(error["code"], code);
    // The network's version, and not the latest one.
    assert_eq!(error["cniVersion"], "1.0.0");
    assert!(error["msg"].as_str().expect("a message").contains(message), "{error}");
    if command == "del" {
        let left = machine.run("ls /var/lib/cni/results").succeeds();
        left.prints("pods-cnitool-");
    }
}

#[rstest]
#[case::no_such_network("braid add prods web", "no network is called \"prods\" in /etc/cni/net.d, which holds pods")]
#[case::no_networks("NETCONFPATH=/run/netns braid add pods web", "in /run/netns, which holds none")]
#[case::no_such_file("braid add ./pods.conflist web", "./pods.conflist: No such file")]
#[case::no_namespace("braid add pods wbe", "there is no network namespace at /run/netns/wbe")]
#[case::no_plugin("CNI_PATH=/run braid add pods web", "no executable called \"alpha\" is in /run")]
#[case::empty_interface("CNI_IFNAME= braid add pods web", "CNI_IFNAME: interface name \"\" is not valid")]
#[case::interface("braid add pods web -i eth0/1", "--ifname: interface name \"eth0/1\" is not valid")]
#[case::container("braid add pods web --container-id a/b", "container ID \"a/b\" is not valid")]
#[case::arguments("CNI_ARGS=prod braid add pods web", "part 1 of CNI_ARGS is not KEY=VALUE")]
#[case::capabilities("CAP_ARGS=[] braid add pods web", "CAP_ARGS is not a JSON object")]
#[case::not_attached("braid check pods web", "no result of an ADD of container")]
#[case::valid("braid gc pods --valid web", "--valid is \"web\", expected CONTAINER/INTERFACE")]
#[case::valid_container("braid gc pods --valid /eth0", "container ID \"\" is not valid")]
#[case::valid_interface("braid gc pods --valid web/", "interface name \"\" is not valid")]
#[case::valid_path("braid gc pods --valid ../x/eth0", "container ID \"..\" is not valid")]
fn mistakes_are_reported_and_nothing_runs(#[case] line: &str, #[case] message: &str) {
    let machine = machine();
    let ran = machine.run(line).exits(1).says(message);
    ran.require(
        ran.stdout.is_empty() || ran.json()["msg"].is_string(),
        "standard output was to be empty, or an error object",
    );
    assert_eq!(machine.order(), Vec::<String>::new());
    machine.is_as_noted();
}

#[test]
fn a_configuration_that_does_not_parse_hides_no_other() {
    let machine = machine();
    machine.write("net.d/00-broken.conflist", "{");
    machine.run("braid add pods web").succeeds().says("skipped /etc/cni/net.d/00-broken.conflist");
}

#[test]
fn timings_are_printed_on_standard_error() {
    let machine = machine().conf(
        "20-braid.conflist",
        json!({"cniVersion": "1.0.0", "name": "two", "plugins": [
        {"type": "braid", "delegates": [{"type": "alpha"}]}]}),
    );
    let ran = machine
        .run("braid add two web --timings")
        .succeeds()
        .says("braid ADD")
        .says("eth0 alpha (two)")
        .says("braid's own");
    assert_eq!(ran.json()["cniVersion"], "1.0.0");
    machine.run("braid del two web").succeeds();
    machine.is_as_noted();
}
