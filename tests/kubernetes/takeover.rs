//! A node that Multus has served before.

use std::fs;
use std::os::unix::fs::symlink;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::support::{Case, Json as _, Plugin, braid, recorder};

/// Multus's configuration on a node.
fn multus() -> Case {
    let case = Case::new().key("type", "multus").key("cniVersion", "1.1.0").without("stateDir");
    case.key("cniDir", "@DIR@/state").key("stateDir", "@DIR@/state").delegate(recorder("alpha").version("1.1.0"))
}

/// What Multus leaves of a container: its delegates, and what they answered.
fn leave(case: &Case, container: &str, delegates: &[(&str, Plugin)]) {
    let state = case.dir().join("state");
    fs::create_dir_all(state.join("results")).unwrap();
    let mut list = Vec::new();
    for (ifname, plugin) in delegates {
        let config = plugin.clone().into_json();
        let name = serde_json::from_str::<Value>(&config).unwrap()["name"].as_str().unwrap().to_owned();
        list.push(
            json!({"Conf": {"name": name}, "Name": name, "ifnameRequest": ifname, "Bytes": STANDARD.encode(&config)}),
        );
        let cached = json!({"kind": "cniCacheV1", "containerId": container, "config": STANDARD.encode(&config),
            "ifName": ifname, "networkName": name, "netns": "/gone", "cniArgs": [["MADE_BY", "multus"]],
            "result": {"cniVersion": "1.0.0", "dns": {"domain": ifname}}});
        fs::write(state.join(format!("results/{name}-{container}-{ifname}")), cached.to_string()).unwrap();
    }
    fs::write(state.join(container), Value::from(list).to_string()).unwrap();
}

fn left(case: &Case) -> usize {
    let files = |folder: &str| {
        let entries = fs::read_dir(case.dir().join(folder)).unwrap();
        entries.filter(|entry| entry.as_ref().unwrap().file_type().unwrap().is_file()).count()
    };
    files("state") + files("state/results")
}

#[test]
fn del_undoes_all_that_multus_did_in_reverse() {
    let case = multus();
    leave(&case, Case::CONTAINER, &[("eth0", recorder("alpha")), ("net1", recorder("beta")), ("x", recorder("gamma"))]);
    let outcome = case.del().succeeds().called(&["DEL gamma x", "DEL beta net1", "DEL alpha eth0"]);
    let call = outcome.call_of("DEL", "beta");
    assert_eq!(call.var("CNI_ARGS"), "MADE_BY=multus");
    assert_eq!(call.config()["prevResult"]["dns"]["domain"], "net1");
    assert_eq!(left(&case), 0);
    case.del().succeeds().called(&["DEL alpha eth0"]);
}

#[test]
fn what_could_not_be_undone_is_tried_again() {
    let case = multus();
    leave(&case, Case::CONTAINER, &[("eth0", recorder("alpha")), ("net1", recorder("beta").failing("DEL", 120))]);
    let outcome = case.del().fails(102).says("beta refuses DEL").called(&["DEL beta net1", "DEL alpha eth0"]);
    drop(outcome);
    assert_eq!(left(&case), 3);
    case.behave("beta", json!({}));
    case.del().succeeds().called(&["DEL beta net1", "DEL alpha eth0"]);
    assert_eq!(left(&case), 0);
}

#[test]
fn gc_undoes_what_the_runtime_has_forgotten() {
    let case = multus();
    leave(&case, "stale", &[("eth0", recorder("alpha")), ("net1", recorder("beta"))]);
    leave(&case, "live", &[("eth0", recorder("alpha")), ("net1", recorder("gamma").key("name", "outer"))]);
    let outcome = case.gc(&[("live", "eth0")]).succeeds();
    let order = outcome.order();
    assert_eq!(order[..2], ["DEL beta net1", "DEL alpha eth0"], "{order:?}");
    assert!(!order.iter().any(|call| call.contains("gamma")), "{order:?}");
    assert_eq!(left(&case), 3);
}

#[test]
fn state_that_a_crash_broke_is_set_aside_and_reported() {
    let case = multus();
    leave(&case, Case::CONTAINER, &[("eth0", recorder("alpha"))]);
    fs::write(case.dir().join("state").join(Case::CONTAINER), "[{").unwrap();
    case.del().fails(102).says("corrupt").called(&["DEL alpha eth0"]);
    case.del().succeeds();
}

#[test]
fn braid_serves_under_the_name_of_multus() {
    let case = multus();
    let alias = case.dir().join("multus");
    symlink(braid(), &alias).unwrap();
    case.call_plugin(&alias, "ADD").run().succeeds().called(&["ADD alpha eth0"]);
    case.call_plugin(&alias, "DEL").run().succeeds().called(&["DEL alpha eth0"]);
}
