//! Plugins that fail, hang or answer nonsense at any point of a change, and containers that are unusual.

use std::fs;
use std::process::Command;

use rstest::rstest;
use serde_json::{Value, json};

use super::{attach, change, detach, interfaces, live, network, update};
use crate::support::{
    Case, Json as _, Network, Outcome, Plugin, bandwidth, bridge, host_local, is_real_root, macvlan, portmap, recorder,
};

/// A container on a network whose second plugin can be given new values. The plugin is a recorder named `firewall`.
fn case() -> Case {
    let chain =
        Network::new("one").plugin(recorder("alpha").link().ip("10.1.0.5/24")).plugin(Plugin::new("", "firewall"));
    let chain: Value = serde_json::from_str(&chain.into_json()).expect("JSON");
    let case = live(Case::new().recorder_as("firewall"), &[chain]);
    hurry(&case);
    network(case, "blue", &[recorder("beta").ip("10.2.0.5/24"), recorder("gamma")])
}

/// Sets the time limit of plugins to a second.
fn hurry(case: &Case) {
    let path = case.dir().join("net.d/outer.conflist");
    let mut conf: Value = serde_json::from_str(&fs::read_to_string(&path).expect("read")).expect("JSON");
    conf["plugins"][0]["timeouts"] = json!({"plugin": 1, "total": 20, "rollback": 1});
    fs::write(path, conf.to_string()).expect("write");
}

fn misbehaviour(how: &str, verb: &str) -> Value {
    match how {
        "fails" => json!({"fail": {verb: {"code": 142, "msg": "no"}}}),
        "answers nonsense" => json!({"raw_stdout": "nonsense", "on": [verb]}),
        "hangs" => json!({"hold": {"at": "before", "name": "for-ever"}, "on": [verb]}),
        other => panic!("{other}"),
    }
}

fn set<'a>(case: &'a Case, key: &str, value: &Value) -> Outcome<'a> {
    update(case, &["eth0", "-o", "json", "--plugin", "firewall", "--set", &format!("{key}={value}")])
}

/// The configuration of the last call of the plugin with this command.
fn last_config(case: &Case, command: &str) -> Value {
    let calls = case.calls();
    let last = calls.iter().rev().find(|call| call.plugin == "firewall" && call.command == command);
    last.expect("a call").config()
}

fn show(case: &Case) -> String {
    String::from_utf8_lossy(&change(case, "show", &[]).output().stdout).into_owned()
}

#[rstest]
fn the_old_values_come_back(#[values("fails", "answers nonsense", "hangs")] how: &str) {
    let case = case();
    case.add().succeeds();
    // The plugin behaves like this only with its new values.
    let outcome = set(&case, "recorder", &misbehaviour(how, "ADD")).fails_with_any_code();
    let answer = outcome.error().clone();
    let steps = answer["steps"].as_array().expect("the steps").clone();
    let verbs: Vec<_> = steps.iter().map(|step| step["verb"].as_str().unwrap_or_default()).collect();
    assert_eq!(verbs, ["DEL", "ADD", "DEL", "DEL", "ADD"], "{answer:#}");
    let failed: Vec<_> = steps.iter().map(|step| step["error"]["code"].is_u64()).collect();
    assert_eq!(failed, [false, true, false, false, false], "{answer:#}");
    assert_eq!(
        (&steps[1]["plugin"], &steps[1]["step"], &steps[1]["interface"]),
        (&json!("firewall"), &json!(1), &json!("eth0"))
    );
    assert_eq!((&answer["container"], &answer["interface"]), (&json!(Case::CONTAINER), &json!("eth0")));
    assert_eq!(interfaces(&answer["result"]), ["eth0"]);
    assert!(answer["code"].is_u64() && answer["msg"].is_string(), "a CNI error as everywhere: {answer:#}");
    assert!(last_config(&case, "ADD").get("recorder").is_none());
    case.check().succeeds();
    set(&case, "backend", &json!("iptables")).succeeds();
    case.del().succeeds().leaves_nothing();
}

#[rstest]
#[case::the_old_values_cannot_be_undone("fails", "DEL")]
#[case::undoing_them_hangs("hangs", "DEL")]
#[case::the_way_back_fails("fails", "ADD")]
#[case::the_way_back_answers_nonsense("answers nonsense", "ADD")]
#[case::the_way_back_hangs("hangs", "ADD")]
fn what_cannot_be_restored_is_reported_owed_and_shown(#[case] how: &str, #[case] verb: &str) {
    let case = case();
    case.add().succeeds();
    case.behave("firewall", misbehaviour(how, verb));
    let outcome = set(&case, "backend", &json!("iptables")).fails_with_any_code();
    let details = outcome.error()["details"].as_str().unwrap_or_default().to_owned();
    assert!(details.contains("firewall"), "{}", outcome.error());
    assert!(show(&case).contains("owed"), "{}", show(&case));
    case.behave("firewall", json!({}));
    // The next change settles it first.
    set(&case, "backend", &json!("iptables")).succeeds();
    assert_eq!(last_config(&case, "ADD")["backend"], "iptables");
    assert!(!show(&case).contains("owed"), "{}", show(&case));
    case.check().succeeds();
    case.del().succeeds().leaves_nothing();
}

/// The steps of an attach and of a detach that fail are reported too.
#[test]
fn the_steps_of_a_change_that_fails_are_reported() {
    let case = case();
    case.add().succeeds();
    case.behave("gamma", misbehaviour("fails", "ADD"));
    let report = |outcome: Outcome<'_>| {
        let steps = outcome.error()["steps"].as_array().expect("the steps").clone();
        let step =
            |step: &Value| format!("{} {} {}", step["verb"], step["plugin"], step["error"]["code"]).replace('"', "");
        steps.iter().map(step).collect::<Vec<_>>()
    };
    let failed = report(attach(&case, &["blue", "-o", "json"]).fails(142));
    assert_eq!(failed, ["ADD beta null", "ADD gamma 142", "DEL gamma null", "DEL beta null"]);
    case.behave("gamma", json!({}));
    attach(&case, &["blue"]).succeeds();
    case.behave("beta", misbehaviour("fails", "DEL"));
    let failed = report(detach(&case, &["net1", "-o", "json"]).fails_with_any_code());
    assert_eq!(failed, ["DEL gamma null", "DEL beta 142"]);
    case.behave("beta", json!({}));
    // A change that is refused before anything runs has no steps.
    let refused = attach(&case, &["blue@eth0", "-o", "json"]).fails_with_any_code();
    assert!(refused.error().get("steps").is_none(), "{}", refused.error());
    case.del().succeeds().leaves_nothing();
}

/// If Braid is chained after another plugin, there is no primary attachment, and what that plugin made is not Braid's.
#[test]
fn a_container_that_braid_is_chained_in() {
    let case = live(Case::new(), &[recorder("alpha").link().ip("10.1.0.5/24").value()]);
    let case = network(case, "blue", &[recorder("beta").link().ip("10.2.0.5/24")]);
    case.pod().ip("link add eth0 type veth peer name eth0-peer");
    let before = json!({"cniVersion": "1.0.0", "interfaces": [{"name": "eth0", "sandbox": case.pod().path()}],
        "ips": [{"address": "10.9.0.5/24", "interface": 0}]});
    let call = |verb: &str| case.call(verb).key("prevResult", before.clone()).run().succeeds();
    let added = call("ADD").result().clone();
    assert_eq!(interfaces(&added), ["eth0", "net1"]);
    attach(&case, &["blue"]).succeeds();
    attach(&case, &["blue@eth0"]).fails_with_any_code();
    case.call("CHECK").key("prevResult", added).run().succeeds();
    // No attachment is the primary, so each can be detached.
    detach(&case, &["net1"]).succeeds();
    assert_eq!(call("DEL").order(), ["DEL beta net2"]);
    assert!(!case.owes());
    // The result still has the interface from before.
    assert_eq!(case.changes(), "");
}

#[test]
fn an_optional_selection_may_fail_beside_others() {
    let case = case();
    case.add().succeeds();
    let optional =
        |config: Value| json!({"name": "x", "optional": true, "interface": "x0", "config": config}).to_string();
    let failing = recorder("delta").failing("ADD", 142).key("name", "x").value();
    let outcome = attach(&case, &[&optional(failing), "blue"]).succeeds().stderr_contains("delta refuses ADD");
    assert_eq!(interfaces(outcome.result()), ["eth0", "net2"]);
    assert_eq!(outcome.order(), ["ADD delta x0", "DEL delta x0", "ADD beta net2", "ADD gamma net2"]);
    let nowhere = Plugin::new("x", "nowhere").value();
    attach(&case, &[&optional(nowhere)]).succeeds().stderr_contains("nowhere").called_nothing();
    attach(&case, &[&json!({"name": "missing", "optional": true}).to_string()]).succeeds().called_nothing();
    case.check().succeeds();
    case.del().succeeds().leaves_nothing();
}

#[test]
fn a_state_directory_that_becomes_read_only() {
    if !is_real_root() {
        return;
    }
    let case = case();
    case.add().succeeds();
    attach(&case, &["blue"]).succeeds();
    let state = case.dir().join("state");
    let mount = |words: &[&str]| {
        let status = Command::new("mount").args(words).arg(&state).status().expect("run mount");
        assert!(status.success(), "mount {words:?}");
    };
    let bind = state.display().to_string();
    mount(&["--bind", &bind]);
    mount(&["-o", "remount,bind,ro"]);
    let outcomes = [
        attach(&case, &["blue@net7"]).fails_with_any_code().called_nothing().error_text(),
        detach(&case, &["net1"]).fails_with_any_code().called_nothing().error_text(),
        set(&case, "backend", &json!("iptables")).fails_with_any_code().called_nothing().error_text(),
    ];
    Command::new("umount").arg(&state).status().expect("run umount");
    for error in outcomes {
        assert!(error.contains("Read-only file system") || error.contains("it can only be read"), "{error}");
    }
    case.check().succeeds();
    detach(&case, &["net1"]).succeeds();
    case.del().succeeds().leaves_nothing();
}

#[test]
fn a_bandwidth_plugin_beside_braid_is_the_runtimes() {
    let case = live(Case::with_reference_plugins(), &[bridge("br-o", "10.68.1.0/24").value()]);
    let added = case.add().succeeds().result().clone();
    let outer = |verb: &str| {
        let mut plugin = bandwidth().key("name", "outer").value();
        plugin["prevResult"] = added.clone();
        let call = case.call_plugin(&case.plugin_path("bandwidth"), verb).stdin(plugin.to_string());
        assert!(call.output().status.success(), "{verb} of the outer plugin");
    };
    outer("ADD");
    let before = case.host().run("tc qdisc show");
    update(&case, &["eth0", "--bandwidth", "ingress=1M"]).fails_with_any_code().says("beside braid").says("chain");
    update(&case, &["eth0", "--plugin", "bandwidth", "--set", "ingressRate=1000000"])
        .fails_with_any_code()
        .says("beside braid");
    assert_eq!(case.host().run("tc qdisc show"), before);
    outer("DEL");
    case.del().succeeds().leaves_nothing();
}

#[test]
fn macvlan_and_a_network_of_ipv6_alone() {
    let six = bridge("br-6", "10.0.0.0/24").key("ipam", host_local(&["fd00:68:6::/64"]));
    let case = live(Case::with_reference_plugins().host_link("uplink"), &[bridge("br-4", "10.68.4.0/24").value()]);
    // The CHECK of this portmap also looks for IPv4 rules.
    let six = Network::new("six").key("disableCheck", true).plugin(six).plugin(bandwidth()).plugin(portmap());
    let case = case.configuration("six.conflist", six);
    let case = network(case, "mac", &[macvlan("uplink", "10.68.5.0/24")]);
    case.add().succeeds();
    let six = json!({"name": "six", "interface": "six0",
        "portMappings": [{"hostPort": 9000, "containerPort": 90, "protocol": "tcp"}]});
    attach(&case, &[&six.to_string(), "mac@mac0"]).succeeds();
    case.check().succeeds();
    update(&case, &["six0", "--bandwidth", "ingress=1M,egress=2M"]).succeeds();
    update(&case, &["six0", "--port-mappings", "[::]:9001:90/udp"]).succeeds();
    let rules = case.host().run("ip6tables-save");
    assert!(rules.contains("9001") && !rules.contains("9000"), "{rules}");
    // There is no interface on the host to which a limit could apply.
    update(&case, &["mac0", "--bandwidth", "ingress=1M"]).fails_with_any_code();
    case.check().succeeds();
    detach(&case, &["mac0"]).succeeds();
    detach(&case, &["six0"]).succeeds();
    case.del().succeeds().leaves_nothing();
}

#[test]
fn many_selections_are_one_transaction() {
    let case = case();
    case.add().succeeds();
    let selections: Vec<String> = (0..20).map(|index| format!("blue@many{index}")).collect();
    let words: Vec<&str> = selections.iter().map(String::as_str).collect();
    case.behave("gamma", json!({"fail": {"ADD": {"code": 142, "msg": "no"}}}));
    attach(&case, &words).fails(142);
    case.check().succeeds();
    case.behave("gamma", json!({}));
    assert_eq!(attach(&case, &words).succeeds().order().len(), 40);
    let names: Vec<String> = (0..20).map(|index| format!("many{index}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let order = detach(&case, &names).succeeds().order();
    assert_eq!((order.len(), order[0].as_str()), (40, "DEL gamma many19"));
    case.del().succeeds().leaves_nothing();
}
