//! `plan`: what ADD would run, and why. It runs nothing.

use rstest::rstest;
use serde_json::{Value, json};

use crate::support::Machine;

/// A list with Braid and a plugin after it. Braid's delegates: always, only in `prod`, only for a job, and one that names a file.
fn machine() -> Machine {
    let conf = json!({"cniVersion": "1.0.0", "name": "pods", "plugins": [
        {"type": "braid", "delegates": [
            {"name": "chain", "plugins": [{"type": "bridge"}, {"type": "alpha"}]},
            {"when": {"namespace": ["prod-*", "!prod-test"]}, "interface": "store", "config": {"name": "store", "type": "alpha"}},
            {"when": {"args": {"JOB": "db"}}, "config": {"name": "jobs", "type": "macvlan"}},
        ]},
        {"type": "firewall"},
    ]});
    Machine::new().conf("pods.conflist", conf)
}

/// The steps as `interface network plugin`.
fn steps(plan: &Value) -> Vec<String> {
    let word = |step: &Value, key: &str| step[key].as_str().expect("a string").to_owned();
    let steps = plan["steps"].as_array().expect("steps").iter();
    steps
        .map(|step| format!("{} {} {}", word(step, "interface"), word(step, "network"), word(step, "plugin")))
        .collect()
}

#[rstest]
#[case::none("", &[], 2)]
#[case::namespace("--args 'K8S_POD_NAMESPACE=prod-eu'", &["store store alpha"], 1)]
#[case::excluded("--args 'K8S_POD_NAMESPACE=prod-test'", &[], 2)]
#[case::argument("--args 'JOB=db'", &["net1 jobs macvlan"], 1)]
#[case::both("--args 'JOB=db;K8S_POD_NAMESPACE=prod-eu'", &["store store alpha", "net2 jobs macvlan"], 0)]
fn the_steps_in_order_with_the_plugins_beside_braid(
    #[case] arguments: &str,
    #[case] extra: &[&str],
    #[case] dropped: usize,
) {
    let machine = machine();
    let plan = machine.run(&format!("braid plan pods {arguments} -o json")).succeeds().json();
    let mut expected = vec!["eth0 chain bridge", "eth0 chain alpha"];
    expected.extend(extra);
    expected.push("eth0 pods firewall");
    assert_eq!(steps(&plan), expected);
    assert_eq!(plan["dropped"].as_array().expect("a list").len(), dropped, "{plan:#}");
    assert_eq!(machine.order(), Vec::<String>::new());
}

#[test]
fn explain_says_why_each_is_kept_or_dropped() {
    let machine = machine();
    let line = "braid plan pods -i eth7 --explain --args K8S_POD_NAMESPACE=prod-eu";
    let expected = "\
STEP  INTERFACE  NETWORK  PLUGIN    FROM          BECAUSE
1     eth7       chain    bridge    delegates[0]  always
2     eth7       chain    alpha     delegates[0]  always
3     store      store    alpha     delegates[1]  when.namespace [prod-*, !prod-test] matches: K8S_POD_NAMESPACE=prod-eu
4     eth7       pods     firewall  plugins[1]    beside braid in the outer list
dropped: delegates[2] (inline): when.args.JOB [db] does not match: JOB is not set
";
    assert_eq!(machine.run(line).succeeds().stdout, expected);
    let plan = machine.run(&format!("{line} -o json")).succeeds().json();
    assert_eq!(plan["steps"][2]["reason"], "when.namespace [prod-*, !prod-test] matches: K8S_POD_NAMESPACE=prod-eu");
    assert_eq!(plan["steps"][2]["origin"], "delegates[1]");
    assert_eq!(plan["dropped"], json!(["delegates[2] (inline): when.args.JOB [db] does not match: JOB is not set"]));
    assert_eq!(machine.order(), Vec::<String>::new());
}

#[test]
fn explain_and_validate_say_what_runs_at_once_and_why() {
    let chain = json!({"name": "a", "cniVersion": "1.0.0", "plugins": [{"type": "alpha"}, {"type": "tuning"}]});
    let delegates = json!([chain, {"type": "ptp", "name": "p"}, {"type": "bridge", "name": "b"},
        {"type": "bridge", "name": "c"}, {"type": "beta", "name": "d"}]);
    let conf =
        json!({"cniVersion": "1.0.0", "name": "pods", "type": "braid", "concurrency": "auto", "delegates": delegates});
    let machine = Machine::new().conf("pods.conf", conf);
    let lines = [
        "eth0: alone, as it is the primary",
        "eth0, from \"tuning\" on: beside others: tuning sets values of its own interface",
        "net1: beside others: ptp makes a veth pair of its own under a random name, and changes the routes of that alone",
        "net2: beside others: bridge makes a veth pair of its own under a random name, and changes nothing but its bridge",
        "net3: after net2, as both use the bridge \"cni0\"",
        "net4: alone, as plugin \"beta\" is not known to allow others beside it",
    ];
    let plan = machine.run("braid plan pods --explain -o json");
    assert_eq!(serde_json::from_str::<Value>(&plan.stdout).expect("JSON")["concurrency"], json!(lines));
    let (planned, validated) =
        (machine.run("braid plan pods --explain"), machine.run("braid validate /etc/cni/net.d/pods.conf"));
    for line in lines {
        assert!(planned.stdout.contains(&format!("concurrency: {line}\n")), "{}", planned.stdout);
        assert!(validated.stdout.contains(&format!("concurrency: {line}\n")), "{}", validated.stdout);
    }
}

#[test]
fn braid_after_another_plugin_has_no_primary() {
    let conf = json!({"cniVersion": "1.0.0", "name": "pods", "plugins": [
        {"type": "bridge"}, {"type": "braid", "delegates": [{"name": "a", "type": "alpha"}, {"name": "b", "type": "alpha"}]}]});
    let machine = Machine::new().conf("pods.conflist", conf);
    let plan = machine.run("braid plan pods -o json").succeeds().json();
    assert_eq!(steps(&plan), ["eth0 pods bridge", "net1 a alpha", "net2 b alpha"]);
}

#[test]
fn a_plugin_that_is_not_there_is_reported_and_fails() {
    let machine = machine();
    let ran = machine.run("CNI_PATH=/run braid plan pods").exits(1);
    ran.prints("error: no executable called \"bridge\" is in /run\n")
        .prints("called \"alpha\"")
        .prints("called \"firewall\"");
    let plan = machine.run("CNI_PATH=/run braid plan pods -o json || true").succeeds().json();
    assert_eq!(plan["steps"][0]["problem"], "no executable called \"bridge\" is in /run");
}

#[rstest]
#[case::network("braid plan prods", "no network is called \"prods\"")]
#[case::arguments("braid plan pods --args prod", "part 1 of CNI_ARGS is not KEY=VALUE")]
#[case::interface("braid plan pods -i a/b", "interface name \"a/b\" is not valid")]
fn what_cannot_be_planned_is_reported(#[case] line: &str, #[case] message: &str) {
    machine().run(line).exits(1).says(message).prints_nothing();
}

#[test]
fn no_plan_where_nothing_is_left_for_a_primary() {
    let conf = json!({"cniVersion": "1.0.0", "name": "pods", "type": "braid", "delegates": [
        {"when": {"namespace": "prod"}, "config": {"name": "a", "type": "alpha"}}]});
    let machine = Machine::new().conf("pods.conf", conf);
    let ran = machine.run("braid plan pods").exits(1);
    ran.prints("error: none of the delegates applies").prints("K8S_POD_NAMESPACE is not set");
    let plan = machine.run("braid plan pods -o json || true").succeeds().json();
    assert_eq!((&plan["steps"], plan["errors"].as_array().expect("a list").len()), (&json!([]), 1));
}
