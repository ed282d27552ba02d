//! `concurrency` on every operation: extra attachments run at once, the primary one runs alone, and all are reported in the
//! plan's order.

use std::fs;

use rstest::rstest;
use serde_json::{Value, json};

use crate::support::{Case, recorder, wait_for};

/// `alpha` on eth0, and `beta`, `gamma` and `delta` as extra attachments.
fn case(concurrency: usize) -> Case {
    ["alpha", "beta", "gamma", "delta"]
        .into_iter()
        .fold(Case::new().cni_version("1.1.0").key("concurrency", concurrency), |case, kind| {
            case.delegate(recorder(kind).version("1.1.0"))
        })
}

/// Makes `beta` and `gamma` wait in an operation, until the test has seen both and releases them.
fn hold_two(case: &Case, verb: &str, also: &Value) {
    for kind in ["beta", "gamma"] {
        let mut wish = json!({"hold": {"at": "before", "name": kind}, "on": [verb]});
        for (key, value) in also.as_object().expect("an object") {
            wish[key] = value.clone();
        }
        case.behave(kind, wish);
    }
}

#[rstest]
#[case::del("DEL", "DEL alpha eth0")]
#[case::check("CHECK", "")]
fn extras_run_at_once_and_the_primary_alone(#[case] verb: &str, #[case] last: &str) {
    let case = case(2);
    case.add().succeeds();
    hold_two(&case, verb, &json!({}));
    let call = case.call(verb).start();
    // Both run at the same time.
    case.held("gamma");
    case.held("beta");
    assert!(!case.order().contains(&"DEL alpha eth0".to_owned()));
    case.release("gamma");
    case.release("beta");
    let order = call.wait().succeeds().order();
    assert_eq!(order.len(), 4, "{order:?}");
    if last.is_empty() {
        assert_eq!(order[0], "CHECK alpha eth0");
        case.del().succeeds().leaves_nothing();
    } else {
        assert_eq!(order[3], last);
    }
}

/// The journal is locked only to be read and written.
#[test]
fn while_an_optional_attachment_is_undone_the_others_go_on() {
    let list = |name: &str, plugins: Value| json!({"cniVersion": "1.0.0", "name": name, "plugins": plugins});
    let failing = recorder("gamma").instructed("fail", json!({"ADD": {"code": 142, "msg": "no"}})).value();
    let optional = list("o", json!([{"type": "beta"}, failing]));
    let case = Case::new().key("concurrency", 2).delegate(recorder("alpha"));
    let case = case.delegate(json!({"name": "o", "interface": "opt0", "optional": true, "config": optional}));
    let case = case.delegate(list("n", json!([{"type": "delta"}, {"type": "epsilon"}])));
    case.behave("beta", json!({"hold": {"at": "before", "name": "undone"}, "on": ["DEL"]}));
    case.behave("delta", json!({"hold": {"at": "before", "name": "beside"}, "on": ["ADD"]}));
    let add = case.call("ADD").start();
    case.held("beside");
    case.held("undone");
    case.release("beside");
    wait_for("the next step beside it", || case.order().contains(&"ADD epsilon net2".to_owned()).then_some(()));
    case.release("undone");
    add.wait().succeeds();
    case.del().succeeds().leaves_nothing();
}

/// With `"auto"`, attachments run at once if their plugins are known to allow it. Others run alone, in their turn.
#[test]
fn plugins_that_are_known_to_allow_it_run_at_once() {
    let kinds = ["alpha", "ptp", "tap", "beta"];
    let case = Case::new().cni_version("1.1.0").key("concurrency", "auto").recorder_as("ptp").recorder_as("tap");
    let case = kinds.into_iter().fold(case, |case, kind| case.delegate(recorder(kind).version("1.1.0")));
    for (verb, expected) in [
        ("ADD", ["alpha", "ptp", "tap", "beta"]),
        ("CHECK", ["alpha", "ptp", "tap", "beta"]),
        ("DEL", ["beta", "ptp", "tap", "alpha"]),
    ] {
        for kind in ["ptp", "tap"] {
            case.behave(kind, json!({"hold": {"at": "before", "name": format!("{kind} {verb}")}, "on": [verb]}));
        }
        let before = case.order().len();
        let call = case.call(verb).start();
        case.held(&format!("ptp {verb}"));
        case.held(&format!("tap {verb}"));
        case.release(&format!("ptp {verb}"));
        case.release(&format!("tap {verb}"));
        call.wait().succeeds();
        let order: Vec<_> =
            case.order()[before..].iter().map(|call| call.split(' ').nth(1).expect("a plugin").to_owned()).collect();
        let place = |kind: &str| order.iter().position(|one| one == kind);
        assert_eq!(order.len(), expected.len(), "{verb}: {order:?}");
        assert_eq!(place("beta"), expected.iter().position(|kind| *kind == "beta"), "{verb}: {order:?}");
        assert_eq!(place("alpha"), expected.iter().position(|kind| *kind == "alpha"), "{verb}: {order:?}");
    }
}

/// With `"auto"`: a primary network with a plugin that makes the interface and two that only add to it; and an attachment that
/// is known to allow others, one that needs the same packet filter chains, and one with an unknown plugin.
fn primary_with_chain() -> Case {
    let chain = |plugins: &[&str]| plugins.iter().map(|kind| json!({"type": kind})).collect::<Value>();
    let list = |name: &str, plugins: &[&str]| json!({"cniVersion": "1.1.0", "name": name, "plugins": chain(plugins)});
    let kinds = ["ptp", "tap", "portmap", "tuning"];
    let case = Case::new().cni_version("1.1.0").key("concurrency", "auto");
    kinds
        .into_iter()
        .fold(case, Case::recorder_as)
        .delegate(list("p", &["alpha", "portmap", "tuning"]))
        .delegate(list("beside", &["tap"]))
        .delegate(list("ports", &["ptp", "portmap"]))
        .delegate(recorder("beta").version("1.1.0"))
}

/// The steps of an operation, in the order in which they started.
fn steps(case: &Case, verb: &str) -> Vec<String> {
    let of_verb = |call: &String| call.strip_prefix(&format!("{verb} ")).map(ToOwned::to_owned);
    case.order().iter().filter_map(of_verb).collect()
}

#[test]
fn what_only_adds_to_the_primary_interface_runs_beside_others() {
    let case = primary_with_chain();
    let place = |steps: &[String], step: &str| steps.iter().position(|one| one == step).expect("it was called");
    for (verb, step) in [("ADD", "portmap"), ("CHECK", "portmap"), ("DEL", "tuning")] {
        for kind in ["tap", step] {
            case.behave(kind, json!({"hold": {"at": "before", "name": format!("{kind} {verb}")}, "on": [verb]}));
        }
        let call = case.call(verb).start();
        // Both run at the same time.
        case.held(&format!("{step} {verb}"));
        case.held(&format!("tap {verb}"));
        for kind in ["tap", step] {
            case.release(&format!("{kind} {verb}"));
        }
        let outcome = call.wait().succeeds();
        if verb == "DEL" {
            outcome.leaves_nothing();
        }
    }
    let added = steps(&case, "ADD");
    assert_eq!(added.len(), 7, "{added:?}");
    assert_eq!(added[0], "alpha eth0");
    assert!(place(&added, "portmap eth0") < place(&added, "tuning eth0"), "{added:?}");
    // The attachment that needs the same chains waits, and the unknown one runs alone.
    assert!(place(&added, "tuning eth0") < place(&added, "ptp net2"), "{added:?}");
    assert_eq!(added[6], "beta net3");
    let checked = steps(&case, "CHECK");
    assert_eq!((checked[0].as_str(), checked[6].as_str()), ("alpha eth0", "beta net3"), "{checked:?}");
    let deleted = steps(&case, "DEL");
    assert_eq!((deleted[0].as_str(), deleted[6].as_str()), ("beta net3", "alpha eth0"), "{deleted:?}");
    assert!(place(&deleted, "tuning eth0") < place(&deleted, "portmap eth0"), "{deleted:?}");
}

#[rstest]
#[case::at_the_primary("portmap")]
#[case::beside_it("tap")]
fn a_failure_beside_the_others_is_rolled_back_whole(#[case] failing: &str) {
    let case = primary_with_chain();
    case.behave(failing, json!({"fail": {"ADD": {"code": 142, "msg": "no"}}}));
    case.add().fails(142).leaves_nothing();
    let (added, mut deleted) = (steps(&case, "ADD"), steps(&case, "DEL"));
    assert_eq!(deleted.pop().as_deref(), Some("alpha eth0"));
    assert!(!added.contains(&"beta net3".to_owned()), "{added:?}");
    let mut attempted = added[1..].to_vec();
    attempted.sort_unstable();
    deleted.sort_unstable();
    assert_eq!(deleted, attempted);
}

#[test]
fn each_step_of_the_primary_gets_the_result_of_the_one_before_it() {
    let case = primary_with_chain();
    case.add().succeeds();
    for kind in ["portmap", "tuning"] {
        let given =
            case.calls().into_iter().find(|call| call.to_string() == format!("ADD {kind} eth0")).expect("a call");
        let prev_result = &given.config()["prevResult"];
        assert_eq!(prev_result["interfaces"].as_array().map(Vec::len), Some(1), "{kind}: {prev_result}");
    }
    case.del().succeeds().leaves_nothing();
}

#[test]
fn gc_asks_networks_at_once() {
    let case = case(2);
    case.add().succeeds();
    hold_two(&case, "GC", &json!({}));
    let valid = json!([{"containerID": Case::CONTAINER, "ifname": "eth0"}]);
    let call = case.call("GC").key("cni.dev/valid-attachments", valid).start();
    case.held("beta");
    case.held("gamma");
    case.release("beta");
    case.release("gamma");
    call.wait().succeeds();
}

#[test]
fn a_rollback_undoes_extras_at_once_and_the_primary_last() {
    let case = case(3);
    hold_two(&case, "DEL", &json!({}));
    let fail = json!({"ADD": {"code": 142, "msg": "no"}});
    case.behave("delta", json!({"fail": fail, "hold": {"at": "before", "name": "delta"}, "on": ["ADD"]}));
    let call = case.call("ADD").start();
    wait_for("the others", || (case.order().len() == 4).then_some(()));
    case.release("delta");
    case.held("gamma");
    case.held("beta");
    case.release("gamma");
    case.release("beta");
    let add = call.wait().fails(142).leaves_nothing();
    assert_eq!(add.order().last().map(String::as_str), Some("DEL alpha eth0"));
    assert!(!case.owes());
}

/// Whichever ends first, the answer and the journal are the same as without concurrency.
#[rstest]
fn what_fails_is_reported_in_the_order_of_the_plan(#[values("beta", "gamma")] first: &str) {
    let reported = |concurrency: usize| {
        let case = case(concurrency);
        case.add().succeeds();
        let fail = json!({"fail": {"DEL": {"code": 143, "msg": "no"}}});
        case.behave("alpha", fail.clone());
        case.behave("delta", fail.clone());
        if concurrency > 1 {
            hold_two(&case, "DEL", &fail);
        } else {
            case.behave("beta", fail.clone());
            case.behave("gamma", fail);
        }
        let call = case.call("DEL").start();
        if concurrency > 1 {
            let second = if first == "beta" { "gamma" } else { "beta" };
            case.held(second);
            let held = case.held(first);
            case.release(first);
            // It has ended before the other starts.
            let process = format!("/proc/{held}");
            wait_for("the end of the first", || (!fs::exists(&process).expect("/proc")).then_some(()));
            case.release(second);
        }
        let text = call.wait().fails_with_any_code().error_text();
        let journal = case.dir().join("state/attachments").join(Case::CONTAINER).join("eth0.jsonl");
        let lines = fs::read_to_string(journal).expect("the journal");
        let owed = lines.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON")["owed"]["step"].clone());
        (text, owed.filter(|step| !step.is_null()).collect::<Vec<_>>())
    };
    let (text, owed) = reported(3);
    assert_eq!((text, owed.clone()), reported(1));
    assert_eq!(owed, [json!([3, 0]), json!([2, 0]), json!([1, 0]), json!([0, 0])]);
}
