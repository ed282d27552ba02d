//! `add`, `check`, `del` and `gc` of networks with several plugins: their order, and their failures.

use std::fs;
use std::process::Output;
use std::time::{Duration, Instant};

use rstest::rstest;
use serde_json::{Value, json};

use crate::support::{Case, Network, recorder};

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&[output.stdout.clone(), output.stderr.clone()].concat()).into_owned()
}

#[track_caller]
fn succeeds(output: Output) -> Output {
    assert!(output.status.success(), "{}", text(&output));
    output
}

fn pod(case: &Case) -> String {
    case.pod().path().to_str().expect("UTF-8").to_owned()
}

/// The files in the cache, sorted.
fn cached(case: &Case) -> Vec<String> {
    let entries = fs::read_dir(case.dir().join("cache/results")).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

fn chain(version: &str) -> Network {
    Network::new("n").version(version).plugin(recorder("alpha").ip("10.1.0.5/24").link()).plugin(recorder("beta"))
}

#[test]
fn add_check_and_del_are_a_runtimes() {
    let case = Case::new().configuration("n.conflist", chain("1.1.0"));
    let pod = pod(&case);
    let output = succeeds(case.braid(&["add", "n", &pod, "--container-id", "c1"]).output());
    let result: Value = serde_json::from_slice(&output.stdout).expect("a result");
    assert_eq!(result["ips"][0]["address"], "10.1.0.5/24");
    assert_eq!(cached(&case), ["n-c1-eth0"]);
    let again = case.braid(&["add", "n", &pod, "--container-id", "c1"]).output();
    assert!(!again.status.success() && text(&again).contains("attached on \"eth0\" already"), "{}", text(&again));
    succeeds(case.braid(&["check", "n", &pod, "--container-id", "c1"]).output());
    succeeds(case.braid(&["del", "n", &pod, "--container-id", "c1"]).output());
    succeeds(case.braid(&["del", "n", &pod, "--container-id", "c1"]).output());
    assert!(cached(&case).is_empty());
    let words =
        ["ADD alpha", "ADD beta", "CHECK alpha", "CHECK beta", "DEL beta", "DEL alpha", "DEL beta", "DEL alpha"];
    assert_eq!(case.order(), words.map(|word| format!("{word} eth0")));
    assert_eq!(case.changes(), "");
    let gone = case.braid(&["check", "n", &pod, "--container-id", "c1"]).output();
    assert!(text(&gone).contains("no result of an ADD"), "{}", text(&gone));
}

#[rstest]
#[case::below_0_4_0(chain("0.3.1"), false, "CNI 0.3.1 has no CHECK")]
#[case::disabled(chain("1.0.0").key("disableCheck", true), true, "")]
#[case::disabled_by_a_string(chain("1.0.0").key("disableCheck", "True"), true, "")]
fn check_is_not_called_where_there_is_none(#[case] network: Network, #[case] succeeds: bool, #[case] message: &str) {
    let case = Case::new().configuration("n.conflist", network);
    let pod = pod(&case);
    self::succeeds(case.braid(&["add", "n", &pod]).output());
    let output = case.braid(&["check", "n", &pod]).output();
    assert_eq!(output.status.success(), succeeds, "{}", text(&output));
    assert!(text(&output).contains(message), "{}", text(&output));
    assert!(!case.order().iter().any(|call| call.starts_with("CHECK")));
    self::succeeds(case.braid(&["del", "n", &pod]).output());
    assert_eq!(case.changes(), "");
}

#[test]
fn check_reports_each_failure_once() {
    let case = Case::new().configuration("n.conflist", chain("1.0.0"));
    let pod = pod(&case);
    succeeds(case.braid(&["add", "n", &pod]).output());
    for kind in ["alpha", "beta"] {
        let fail = json!({"code": 142, "msg": format!("{kind} differs"), "details": format!("so does {kind}")});
        case.behave(kind, json!({"fail": {"CHECK": fail}}));
    }
    let output = case.braid(&["check", "n", &pod]).output();
    let error: Value = serde_json::from_slice(&output.stdout).expect("an error");
    let message = error["msg"].as_str().expect("a message");
    assert!(message.contains("alpha differs") && message.contains("beta differs"), "{message}");
    assert_eq!(error["code"], 142);
    assert_eq!(error["details"], r#"plugin "alpha": so does alpha; plugin "beta": so does beta"#);
    for kind in ["alpha", "beta"] {
        // The plugin knows only this request, and DEL still removes the interface of ADD.
        case.behave(kind, json!({"link": true}));
    }
    succeeds(case.braid(&["del", "n", &pod]).output());
    assert_eq!(case.changes(), "");
}

#[test]
fn del_goes_on_after_a_failure_and_can_be_tried_again() {
    let case = Case::new().configuration("n.conflist", chain("1.0.0"));
    let pod = pod(&case);
    succeeds(case.braid(&["add", "n", &pod]).output());
    case.behave("beta", json!({"fail": {"DEL": {"code": 142, "msg": "beta is stuck"}}}));
    let output = case.braid(&["del", "n", &pod]).output();
    assert!(!output.status.success() && text(&output).contains("beta is stuck"), "{}", text(&output));
    assert_eq!(case.order()[2..], ["DEL beta eth0", "DEL alpha eth0"]);
    assert_eq!(cached(&case).len(), 1);
    case.behave("beta", json!({}));
    succeeds(case.braid(&["del", "n", &pod]).output());
    assert_eq!((cached(&case).len(), case.changes()), (0, String::new()));
}

#[rstest]
#[case::newest("1.1.0", &["DEL beta eth0", "DEL alpha eth0", "GC alpha", "GC beta"])]
#[case::before_gc("1.0.0", &["DEL beta eth0", "DEL alpha eth0"])]
fn gc_deletes_what_is_not_valid(#[case] version: &str, #[case] calls: &[&str]) {
    let case = Case::new().configuration("n.conflist", chain(version));
    let pod = pod(&case);
    succeeds(case.braid(&["add", "n", &pod, "--container-id", "c1"]).output());
    // The recorder's interface can be made only once.
    case.behave("alpha", json!({}));
    succeeds(case.braid(&["add", "n", &pod, "--container-id", "c2"]).output());
    case.pod().ip("link del eth0");
    succeeds(case.braid(&["gc", "n", "--valid", "c1/eth0"]).output());
    assert_eq!(case.order()[4..], *calls);
    assert_eq!(cached(&case), ["n-c1-eth0"]);
    if version == "1.1.0" {
        let valid = json!([{"containerID": "c1", "ifname": "eth0"}]);
        let gc = case.calls().pop().expect("a call").config();
        assert_eq!((&gc["cni.dev/valid-attachments"], &gc["cni.dev/attachments"]), (&valid, &valid));
        assert_eq!(gc.get("prevResult"), None);
    }
    succeeds(case.braid(&["gc", "n"]).output());
    assert!(cached(&case).is_empty());
    assert_eq!(case.changes(), "");
}

#[rstest]
#[case(json!(true))]
#[case(json!("TRUE"))]
fn gc_is_not_called_where_it_is_disabled(#[case] disabled: Value) {
    let case = Case::new().configuration("n.conflist", chain("1.1.0").key("disableGC", disabled));
    let pod = pod(&case);
    succeeds(case.braid(&["add", "n", &pod]).output());
    succeeds(case.braid(&["gc", "n"]).output());
    assert_eq!((case.order().len(), cached(&case).len()), (2, 1));
    succeeds(case.braid(&["del", "n", &pod]).output());
}

/// As in libcni, the chain continues in the folder next to the list, unless the list says otherwise.
#[rstest]
#[case::inherits(json!({}), &["ADD alpha eth0", "ADD beta eth0", "ADD gamma eth0"])]
#[case::inlined_only(json!({"loadOnlyInlinedPlugins": true}), &["ADD alpha eth0"])]
#[case::inlined_only_by_a_string(json!({"loadOnlyInlinedPlugins": "true"}), &["ADD alpha eth0"])]
fn the_chain_goes_on_in_the_folder_of_its_name(#[case] keys: Value, #[case] calls: &[&str]) {
    let mut list = json!({"cniVersion": "0.3.1", "cniVersions": ["0.4.0", "1.0.0", "9.0.0"], "name": "n",
        "plugins": [{"type": "alpha"}]});
    list.as_object_mut().expect("an object").extend(keys.as_object().expect("an object").clone());
    let case = Case::new()
        .configuration("n.conflist", list)
        .configuration("n/20-gamma.conf", json!({"type": "gamma"}))
        .configuration("n/10-beta.conf", json!({"type": "beta"}))
        .configuration("n/30-delta.json", json!({"type": "delta"}));
    let pod = pod(&case);
    succeeds(case.braid(&["add", "n", &pod]).output());
    assert_eq!(case.order(), calls);
    for call in case.calls() {
        assert_eq!((&call.config()["cniVersion"], &call.config()["name"]), (&json!("1.0.0"), &json!("n")));
    }
    succeeds(case.braid(&["del", "n", &pod]).output());
    assert_eq!(case.changes(), "");
}

/// Calls for one container run one after another, whatever the runtime does. Calls for two containers run at the same time.
#[rstest]
#[case::one_container("c1", false)]
#[case::two_containers("c2", true)]
fn calls_overlap_for_different_containers_only(#[case] second: &str, #[case] overlap: bool) {
    let slow = recorder("alpha").instructed("sleep_ms", 2000).instructed("on", vec!["ADD"]).value();
    let outer = json!({"type": "braid", "stateDir": "@DIR@/state", "delegates": [slow]});
    let list = json!({"cniVersion": "1.0.0", "name": "n", "plugins": [outer]});
    let case = Case::new().configuration("n.conflist", list);
    let pod = pod(&case);
    let start =
        |id: &str, ifname: &str| case.braid(&["add", "n", &pod, "--container-id", id, "--ifname", ifname]).spawn();
    let started = [start("c1", "eth0"), start(second, "eth1")];
    // A call is recorded when it begins. If one begins long before the other can have ended, they overlap.
    let when_called = |count: usize| {
        let deadline = Instant::now() + Duration::from_secs(30);
        while case.order().len() < count && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        Instant::now()
    };
    let (one, two) = (when_called(1), when_called(2));
    let overlapped = two - one < Duration::from_millis(1500);
    for child in started {
        succeeds(child.wait_with_output().expect("wait for it"));
    }
    assert_eq!(case.order().len(), 2);
    assert_eq!(overlapped, overlap);
    assert_eq!(cached(&case).len(), 2);
}
