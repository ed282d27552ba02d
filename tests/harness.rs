//! Tests of the harness itself, on which all other tests depend.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{env, fs};

use rstest::rstest;
use serde_json::{Value, json};

use crate::support::{
    Case, Json as _, Namespace, Outcome, Plugin, bandwidth, bridge, compact, firewall, new_plugins, portmap, recorder,
    reference_plugins,
};

/// Calls a plugin itself, without Braid.
fn call<'a>(case: &'a Case, command: &str, plugin: Plugin) -> Outcome<'a> {
    let value = plugin.value();
    let program = case.plugin_path(value["type"].as_str().expect("a type"));
    case.call_plugin(&program, command).stdin(case.expand(&value.to_string())).run()
}

#[test]
fn the_recorder_keeps_standard_input_byte_for_byte() {
    let case = Case::new().args("K=V").env("TRACEPARENT", "00-1");
    let text = "{ \"type\":\"alpha\",\n\t\"n\" : [1e400, 12345678901234567890123],\"cniVersion\":\"1.0.0\"}\n";
    let outcome = case.call_plugin(&case.plugin_path("alpha"), "ADD").stdin(text).run().succeeds();
    let outcome = outcome.called(&["ADD alpha eth0"]);
    let call = outcome.call_of("ADD", "alpha");
    assert_eq!(String::from_utf8(call.stdin.clone()).expect("UTF-8"), text);
    assert_eq!(call.members()["n"], "[1e400,12345678901234567890123]");
    assert_eq!(call.var("CNI_ARGS"), "K=V");
    assert_eq!(call.var("TRACEPARENT"), "00-1");
    assert_eq!(Path::new(call.var("CNI_NETNS")), case.pod().path());
}

#[rstest]
#[case("0.2.0", json!({"cniVersion": "0.2.0", "ip4": {"ip": "10.1.0.5/24"}}))]
#[case("0.4.0", json!({"cniVersion": "0.4.0", "interfaces": [{"name": "eth0", "sandbox": "/x"}],
    "ips": [{"version": "4", "address": "10.1.0.5/24", "interface": 0}]}))]
#[case("1.1.0", json!({"cniVersion": "1.1.0", "interfaces": [{"name": "eth0", "sandbox": "/x"}],
    "ips": [{"address": "10.1.0.5/24", "interface": 0}]}))]
fn the_recorder_answers_in_the_shape_of_its_version(#[case] version: &str, #[case] expected: Value) {
    let case = Case::new().netns("/x");
    let outcome = call(&case, "ADD", recorder("alpha").version(version).ip("10.1.0.5/24"));
    assert_eq!(outcome.result(), &expected);
}

#[test]
fn the_recorder_adds_to_the_previous_result() {
    let case = Case::new().netns("/x");
    let previous = json!({"cniVersion": "1.0.0", "interfaces": [{"name": "br0"}], "dns": {"domain": "a"}});
    let outcome = call(&case, "ADD", recorder("alpha").ip("10.1.0.5/24").key("prevResult", previous));
    let expected = json!({
        "cniVersion": "1.0.0", "interfaces": [{"name": "br0"}, {"name": "eth0", "sandbox": "/x"}],
        "dns": {"domain": "a"}, "ips": [{"address": "10.1.0.5/24", "interface": 1}],
    });
    assert_eq!(outcome.result(), &expected);
}

#[test]
fn the_recorder_fails_as_often_as_instructed_and_recovers() {
    let case = Case::new();
    let twice = recorder("alpha").instructed("fail", json!({"DEL": {"code": 42, "msg": "boom", "times": 2}}));
    call(&case, "ADD", twice.clone()).succeeds();
    call(&case, "DEL", twice.clone()).fails(42).message_contains("boom");
    call(&case, "DEL", twice.clone()).fails(42);
    call(&case, "DEL", twice).succeeds().leaves_nothing();

    let second = recorder("beta").instructed("fail", json!({"ADD": {"code": 42, "msg": "boom", "only_nth": 2}}));
    call(&case, "ADD", second.clone()).succeeds();
    call(&case, "ADD", second.clone()).fails(42);
    call(&case, "ADD", second).succeeds();

    call(&case, "ADD", recorder("gamma").failing("ADD", 7)).fails(7).message_contains("gamma refuses ADD");
    case.behave("gamma", json!({}));
    call(&case, "ADD", recorder("gamma").failing("ADD", 7)).succeeds();
}

#[rstest]
#[case::bytes(json!({"raw_stdout_base16": "ff00"}), b"\xff\x00", Ending::Status(0))]
#[case::text_and_status(json!({"raw_stdout": "no", "exit": 3}), b"no", Ending::Status(3))]
#[case::signal(json!({"signal": 9}), b"", Ending::Signal(9))]
#[case::elsewhere(json!({"signal": 9, "on": ["DEL"], "result": {}}), b"{}", Ending::Status(0))]
fn the_recorder_misbehaves(#[case] instructions: Value, #[case] stdout: &[u8], #[case] ending: Ending) {
    use std::os::unix::process::ExitStatusExt as _;
    let case = Case::new();
    let conf = recorder("alpha").key("recorder", instructions).into_json();
    let output = case.call_plugin(&case.plugin_path("alpha"), "ADD").stdin(conf).output();
    assert_eq!(output.stdout, stdout);
    match ending {
        Ending::Status(status) => assert_eq!(output.status.code(), Some(status)),
        Ending::Signal(signal) => assert_eq!(output.status.signal(), Some(signal)),
    }
}

enum Ending {
    Status(i32),
    Signal(i32),
}

#[test]
fn a_recorder_that_was_not_undone_is_a_leak() {
    let case = Case::new();
    call(&case, "ADD", recorder("alpha").failing("ADD", 7)).fails(7);
    assert_eq!(case.changes(), "+ file state/alpha-container-1-eth0\n");
    call(&case, "DEL", recorder("alpha").failing("DEL", 7)).fails(7);
    assert_eq!(case.changes(), "+ file state/alpha-container-1-eth0\n");
    call(&case, "DEL", recorder("alpha")).succeeds().leaves_nothing();
}

#[test]
fn the_recorder_makes_its_link() {
    let case = Case::new();
    call(&case, "ADD", recorder("alpha").ip("10.1.0.5/24").link()).succeeds();
    let changes = case.changes();
    assert!(changes.contains("+ pod: link eth0 ") && changes.contains("+ pod: address eth0 10.1.0.5/24"), "{changes}");
    call(&case, "DEL", recorder("alpha").link()).succeeds().leaves_nothing();
}

#[rstest]
#[case::link("ip link add v1 type veth peer name v2", "+ host: link v1 kind veth mtu 1500 mac ")]
#[case::address("ip addr add 10.9.9.9/32 dev lo", "+ host: address lo 10.9.9.9/32\n")]
#[case::route("ip route add blackhole 10.9.0.0/16 table 77", "+ host: route type blackhole dst 10.9.0.0/16 table 77")]
#[case::route6("ip -6 route add blackhole fd00::/64", "+ host: route type blackhole dst fd00::/64 dev lo")]
#[case::rule("ip rule add from 10.9.9.9 table 77", "+ host: rule -4 ")]
#[case::qdisc("tc qdisc add dev lo root handle 7: pfifo", "+ host: qdisc lo pfifo 7:\n")]
#[case::iptables("iptables -A FORWARD -s 10.9.9.9 -j DROP", "+ host: iptables-save -A FORWARD -s 10.9.9.9/32 -j DROP")]
#[case::chain("ip6tables -t nat -N CNI-abc", "+ host: ip6tables-save chain CNI-abc\n")]
#[case::own_chain_of_a_container("iptables -t nat -N CNI-DN-1", "+ host: iptables-save chain CNI-DN-1\n")]
#[case::gone("ip link set lo down", "- host: link lo mtu 65536 mac 00:00:00:00:00:00 up\n")]
fn a_snapshot_sees(#[case] line: &str, #[case] expected: &str) {
    let case = Case::new();
    call(&case, "CHECK", recorder("alpha")).succeeds().leaves_nothing();
    case.host().run(line);
    let changes = case.changes();
    assert!(changes.contains(expected), "{line}: {changes}");
}

#[test]
fn a_snapshot_sees_a_rule_of_nftables() {
    let case = Case::new();
    call(&case, "CHECK", recorder("alpha")).succeeds().leaves_nothing();
    case.host().run("nft add table inet t");
    case.host().run("nft add chain inet t c");
    assert_eq!(case.changes(), "", "a chain without a rule does nothing");
    case.host().run("nft add rule inet t c counter drop");
    let changes = case.changes();
    assert!(changes.starts_with("+ host: nft rule {\"family\":\"inet\",\"table\":\"t\""), "{changes}");
}

#[test]
fn a_snapshot_sees_a_process() {
    let case = Case::new();
    call(&case, "CHECK", recorder("alpha")).succeeds().leaves_nothing();
    let mut child = case.pod().inside(|| Command::new("sleep").arg("60").stdout(Stdio::null()).spawn()).expect("sleep");
    let changes = case.changes();
    child.kill().expect("end the process that this test started");
    child.wait().expect("wait for it");
    assert_eq!(changes, format!("+ process {} sleep 60\n", child.id()));
    assert_eq!(case.changes(), "");
}

#[rstest]
#[case::stable(Some(reference_plugins()), "iptables", "+ host: iptables-save chain CNI-DN-")]
#[case::new(new_plugins(), "iptables", "+ host: iptables-save chain CNI-DN-")]
#[case::new_with_nftables(new_plugins(), "nftables", "+ host: nft rule {\"family\":\"ip\",\"table\":\"cni_hostport\"")]
fn the_reference_plugins_leave_nothing_that_a_snapshot_counts(
    #[case] folder: Option<PathBuf>,
    #[case] backend: &str,
    #[case] mapping: &str,
) {
    let Some(folder) = folder else {
        return eprintln!("no newer reference plugins: BRAID_TEST_CNI_PATH_NEW is not set");
    };
    let case = Case::new().plugins_in(folder);
    let mappings = json!({"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]});
    let chain = [
        bridge("br-a", "10.10.1.0/24"),
        portmap().without("capabilities").key("runtimeConfig", mappings).key("backend", backend),
        firewall(),
        bandwidth(),
    ];
    let mut result = Value::Null;
    for plugin in &chain {
        let mut plugin = plugin.clone().key("name", "n");
        if !result.is_null() {
            plugin = plugin.key("prevResult", result);
        }
        result = call(&case, "ADD", plugin).result().clone();
    }
    let changes = case.changes();
    for leaf in [
        "+ host: link veth",
        mapping,
        "+ host: iptables-save -A CNI-FORWARD -s 10.10.1.2",
        "+ host: qdisc veth",
        "+ file ipam/n/10.10.1.2\n",
        "+ pod: address eth0 10.10.1.2/24\n",
    ] {
        assert!(changes.contains(leaf), "{leaf} is not in\n{changes}");
    }
    for plugin in chain.iter().rev() {
        call(&case, "DEL", plugin.clone().key("name", "n").key("prevResult", result.clone())).succeeds();
    }
    assert_eq!(case.changes(), "");
}

#[test]
fn what_a_killed_test_has_made_is_removed() {
    let mut child = Command::new("true").spawn().expect("run true");
    child.wait().expect("wait for it");
    let name = format!("braid-test-{}-0-pod", child.id());
    let living = Namespace::new("living");
    living.ip(&format!("netns add {name}"));
    let folder = env::temp_dir().join(&name);
    fs::create_dir(&folder).expect("make a folder");
    Namespace::sweep();
    assert!(!folder.exists());
    assert!(!Path::new("/run/netns").join(name).exists());
    assert!(living.path().exists());
}

#[test]
fn compact_drops_only_white_space_that_means_nothing() {
    assert_eq!(compact("{ \"a b\\\" c\" : [ 1.0 , \"\\\\\" ] }"), r#"{"a b\" c":[1.0,"\\"]}"#);
}
