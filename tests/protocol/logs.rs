//! The log: one line for each event, with fields about the call. Nothing that a plugin or a pod's author writes can forge a line.

use std::fs;

use rstest::rstest;
use serde_json::{Value, json};

use crate::support::{Case, Network, recorder};

const ARGS: &str = "IgnoreUnknown=1;K8S_POD_NAMESPACE=web;K8S_POD_NAME=shop;K8S_POD_UID=uid-1";

/// Two attachments, the second a chain, with a log of everything.
fn case() -> Case {
    let chain = Network::new("two").version("1.1.0").plugin(recorder("beta").link()).plugin(recorder("gamma"));
    let first = recorder("alpha").version("1.1.0").link();
    let case = Case::new().cni_version("1.1.0").delegate(first).delegate(chain).args(ARGS);
    case.key("logFile", "@DIR@/log").key("logLevel", "debug")
}

/// The lines of the log since the last call of this function, each parsed as JSON.
fn take(case: &Case) -> Vec<Value> {
    let path = case.dir().join("log");
    let text = fs::read_to_string(&path).expect("a log");
    fs::remove_file(path).expect("remove the log");
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

/// An event as `LEVEL pluginVerb plugin network interface message`, without the fields that it lacks.
fn short(event: &Value) -> String {
    let keys = ["level", "pluginVerb", "plugin", "network", "interface", "message"];
    keys.iter().filter_map(|key| event[key].as_str()).collect::<Vec<_>>().join(" ")
}

/// Every event names the call and the time. Those that end something also say how long it took.
#[track_caller]
fn are_about(events: &[Value], verb: &str, has_container: bool) {
    for event in events {
        let timestamp = event["timestamp"].as_str().unwrap_or_default();
        assert!(timestamp.ends_with('Z') && timestamp.contains('T'), "{event:#}");
        assert_eq!(event["verb"], verb, "{event:#}");
        for (key, value) in [("podNamespace", "web"), ("podName", "shop"), ("podUID", "uid-1")] {
            assert_eq!(event[key], value, "{event:#}");
        }
        assert_eq!(event.get("container"), has_container.then(|| json!(Case::CONTAINER)).as_ref(), "{event:#}");
        let took = event["durationMs"].as_f64();
        assert!(took.is_some_and(|took| took > 0.0 && took < 60_000.0), "{event:#}");
    }
}

/// With `"auto"`, the end of the primary attachment's chain runs beside the others.
#[test]
fn an_attachment_takes_as_long_as_all_of_its_plugins() {
    let primary = Network::new("one").version("1.1.0").plugin(recorder("alpha")).plugin(recorder("tuning"));
    let case = Case::new().cni_version("1.1.0").key("concurrency", "auto").recorder_as("tuning");
    let case = case.delegate(primary).delegate(recorder("beta").version("1.1.0"));
    let case = case.key("logFile", "@DIR@/log").key("logLevel", "debug");
    case.add().succeeds();
    let events = take(&case);
    let of_primary = events.iter().filter(|event| event["interface"] == "eth0");
    let took = |message: &str| -> f64 {
        let durations = of_primary.clone().filter(|event| event["message"] == message);
        durations.map(|event| event["durationMs"].as_f64().expect("a number")).sum()
    };
    assert!(took("plugin done") > 0.0 && took("attached") >= took("plugin done"), "{events:#?}");
    case.del().succeeds().leaves_nothing();
}

#[test]
fn every_call_and_each_of_its_steps_is_a_line() {
    let case = case();
    case.add().succeeds();
    let events = take(&case);
    are_about(&events, "ADD", true);
    let expected = [
        "DEBUG ADD alpha net-alpha eth0 plugin done",
        "INFO net-alpha eth0 attached",
        "DEBUG ADD beta two net1 plugin done",
        "DEBUG ADD gamma two net1 plugin done",
        "INFO two net1 attached",
        "INFO outer eth0 done",
    ];
    assert_eq!(events.iter().map(short).collect::<Vec<_>>(), expected);
    assert_eq!(events[3]["step"], 2);
    let check = |event: &Value| event["durationMs"].as_f64().expect("a number");
    assert!(check(&events[5]) >= check(&events[0]) + check(&events[2]), "{events:#?}");

    case.check().succeeds();
    let events = take(&case);
    are_about(&events, "CHECK", true);
    let expected = [
        "DEBUG CHECK alpha net-alpha eth0 plugin done",
        "DEBUG CHECK beta two net1 plugin done",
        "DEBUG CHECK gamma two net1 plugin done",
        "INFO outer eth0 done",
    ];
    assert_eq!(events.iter().map(short).collect::<Vec<_>>(), expected);

    case.status().succeeds();
    let events = take(&case);
    are_about(&events, "STATUS", false);
    assert_eq!(short(&events[1]), "DEBUG STATUS beta two plugin done");
    assert_eq!(short(events.last().expect("an event")), "INFO outer done");

    case.del().succeeds();
    let events = take(&case);
    are_about(&events, "DEL", true);
    let expected = [
        "DEBUG DEL gamma two net1 plugin done",
        "DEBUG DEL beta two net1 plugin done",
        "DEBUG DEL alpha net-alpha eth0 plugin done",
        "INFO outer eth0 done",
    ];
    assert_eq!(events.iter().map(short).collect::<Vec<_>>(), expected);
}

#[test]
fn gc_logs_what_it_cleans_up() {
    let case = case();
    case.add().succeeds();
    take(&case);
    case.gc(&[]).succeeds();
    let events = take(&case);
    let logged: Vec<_> = events.iter().map(short).collect();
    let expected = [
        "DEBUG DEL gamma two net1 plugin done",
        "DEBUG DEL beta two net1 plugin done",
        "DEBUG DEL alpha net-alpha eth0 plugin done",
        "INFO outer eth0 stale attachment cleaned up",
        "DEBUG GC alpha net-alpha plugin done",
        "DEBUG GC beta two plugin done",
        "DEBUG GC gamma two plugin done",
        "INFO outer done",
    ];
    assert_eq!(logged, expected);
    assert!(events.iter().all(|event| event["verb"] == "GC"), "{events:#?}");
    assert!(events[..4].iter().all(|event| event["container"] == Case::CONTAINER), "{events:#?}");
}

/// A failure is logged where it happens, and the call is logged as an error with what the runtime gets.
#[rstest]
#[case::add("ADD", &["INFO ADD gamma two net1 plugin failed", "DEBUG DEL gamma two net1 plugin done"], "delegate \"two\" on net1")]
#[case::check("CHECK", &["INFO CHECK gamma two net1 plugin failed"], "delegate \"two\" on net1")]
#[case::del("DEL", &["INFO DEL gamma two net1 plugin failed", "DEBUG DEL beta two net1 plugin done"], "one step could not be undone")]
#[case::status("STATUS", &["INFO STATUS gamma two plugin failed"], "network \"two\"")]
#[case::gc("GC", &["INFO GC gamma two plugin failed"], "one step could not be cleaned up")]
fn a_failure_is_logged_with_its_plugin(#[case] verb: &str, #[case] among: &[&str], #[case] message: &str) {
    let case = case();
    if !["ADD", "STATUS", "GC"].contains(&verb) {
        case.add().succeeds();
        take(&case);
    }
    case.behave("gamma", json!({"fail": {verb: {"code": 142, "msg": "gamma is stuck", "details": "deep in"}}}));
    let outcome = if verb == "GC" { case.gc(&[]) } else { case.call(verb).run() }.fails_with_any_code();
    let events = take(&case);
    let logged: Vec<_> = events.iter().map(short).collect();
    for expected in among {
        assert!(logged.iter().any(|event| event == expected), "{expected} is not in {logged:#?}");
    }
    let failed = events.iter().find(|event| event["message"] == "plugin failed").expect("the plugin's failure");
    assert_eq!(failed["error"], "gamma is stuck");
    let last = events.last().expect("an event");
    assert_eq!((&last["level"], &last["verb"]), (&json!("ERROR"), &json!(verb)));
    assert!(last["message"].as_str().expect("a message").contains(message), "{last:#}");
    assert!(last["code"].is_u64() && last["durationMs"].is_f64(), "{last:#}");
    let details = last["details"].as_str().unwrap_or_default();
    assert!(verb == "STATUS" || details.contains("deep in"), "{last:#}");
    drop(outcome);
}

/// Braid's own reasons, before any plugin runs.
#[test]
fn what_fails_before_a_plugin_runs_is_logged_too() {
    let case = case().delegate(recorder("absent"));
    case.add().fails(7).called_nothing();
    let events = take(&case);
    are_about(&events, "ADD", true);
    assert_eq!((events.len(), &events[0]["code"]), (1, &json!(7)));
    assert!(events[0]["message"].as_str().expect("a message").contains("\"absent\""), "{events:#?}");
}

/// The answer contains it, and the runtime prints the answer.
#[test]
fn what_the_answer_says_is_on_standard_error_only_if_asked_for() {
    let case = Case::new().delegate(recorder("alpha").failing("ADD", 142));
    let stderr = |case: &Case| String::from_utf8(case.call("ADD").output().stderr).expect("UTF-8");
    assert_eq!(stderr(&case), "");
    let text = stderr(&case.key("logToStderr", true));
    assert!(text.contains(" ERROR ") && text.contains("alpha refuses ADD") && text.contains(" verb=\"ADD\""), "{text}");
    assert_eq!(text.lines().count(), 1, "{text}");
}

/// Strings that a plugin, a pod's author or the API server's users write.
#[test]
fn nothing_can_forge_a_line() {
    let evil = "x\n2026-01-01T00:00:00Z ERROR forged\r\u{1b}[2Jend\u{9b}2K\u{202e}\u{2028}";
    // Arguments with a control character are refused.
    let argument = "x\u{2028}2026-01-01T00:00:00Z ERROR forged\u{202e}";
    let fail = json!({"ADD": {"code": 142, "msg": evil, "details": evil}});
    let case = case().key("logToStderr", true).clear();
    let case = case.delegate(recorder("alpha").instructed("fail", fail)).args(&format!("K8S_POD_NAME={argument}"));
    let output = case.call("ADD").output();
    assert!(!output.status.success());
    let text = String::from_utf8(output.stderr).expect("UTF-8");
    let log = fs::read_to_string(case.dir().join("log")).expect("a log");
    for text in [&text, &log] {
        assert!(text.contains("forged"), "{text}");
        assert!(!text.contains(|c: char| c != '\n' && (c.is_control() || "\u{202e}\u{2028}".contains(c))), "{text:?}");
        assert!(!text.lines().any(|line| line.ends_with("forged")), "{text}");
    }
    // Only lines of the log begin with a time.
    assert!(text.lines().all(|line| line.starts_with("20") && !line.starts_with("2026-01-01T00:00:00Z")), "{text}");
    let events = take(&case);
    assert_eq!(events.len(), text.lines().count());
    // In JSON, the message is there unchanged.
    let failed = events.iter().find(|event| event["message"] == "plugin failed").expect("the plugin's failure");
    assert_eq!((&failed["error"], &failed["podName"]), (&json!(evil), &json!(argument)));
}

#[test]
fn a_level_leaves_out_what_is_below() {
    let case = case().key("logLevel", "info");
    case.add().succeeds();
    assert!(take(&case).iter().all(|event| event["level"] == "INFO"));
    let case = case.key("logLevel", "panic");
    case.del().succeeds();
    assert!(!case.dir().join("log").exists());
}
