//! `concurrency` on every operation: extra attachments at once, the primary one alone, and all of it reported in the plan's order.

use std::fs;

use rstest::rstest;
use serde_json::{Value, json};

use crate::support::{Case, recorder, wait_for};

/// `alpha` on eth0, and `beta`, `gamma` and `delta` beside it.
fn case(concurrency: usize) -> Case {
    ["alpha", "beta", "gamma", "delta"]
        .into_iter()
        .fold(Case::new().cni_version("1.1.0").key("concurrency", concurrency), |case, kind| {
            case.delegate(recorder(kind).version("1.1.0"))
        })
}

/// Has `beta` and `gamma` wait for each other in an operation, as the test lets them go only when both are there.
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
    // Both are there at the same time.
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

/// With `"auto"`, those run at once whose plugins are known to allow it, and another one alone, in its turn.
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

/// Whichever is done first, the answer and the journal are those of one after another.
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
            // It has ended, and the other has not begun.
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
