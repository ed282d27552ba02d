//! What a call reports to a listener, and the trace that it is a part of.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use serde_json::{Value, json};

use crate::live::{attach, detach, live};
use crate::support::{Case, recorder};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";

fn case() -> Case {
    let case = Case::new().args("IgnoreUnknown=1;K8S_POD_UID=uid-1").delegate(recorder("alpha").link());
    case.delegate(recorder("beta").link())
}

fn traced(case: Case, flags: &str) -> Case {
    case.env("TRACEPARENT", format!("00-{TRACE}-{PARENT}-{flags}"))
}

/// A listener on the agent's socket.
fn listener(case: &Case) -> UnixDatagram {
    fs::create_dir_all(case.dir().join("state")).expect("the state directory");
    let socket = UnixDatagram::bind(case.dir().join("state/events.sock")).expect("a socket");
    socket.set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout");
    socket
}

fn receive(socket: &UnixDatagram) -> Value {
    let mut datagram = vec![0; 1 << 18];
    let length = socket.recv(&mut datagram).expect("a report");
    serde_json::from_slice(&datagram[..length]).expect("JSON")
}

/// The plugins of a report, as `VERB type interface code`.
fn plugins(report: &Value) -> Vec<String> {
    let plugins = report["plugins"].as_array().expect("a list");
    let line = |one: &Value| {
        assert!(one["took"].as_u64().is_some_and(|took| took > 0) && one["began"].as_u64() >= report["began"].as_u64());
        format!("{} {} {} {}", one["verb"], one["type"], one["interface"], one["code"]).replace('"', "")
    };
    plugins.iter().map(line).collect()
}

#[test]
fn each_call_and_its_plugins_are_reported_to_a_listener() {
    let case = case();
    let socket = listener(&case);
    case.add().succeeds();
    let report = receive(&socket);
    assert_eq!(plugins(&report), ["ADD alpha eth0 0", "ADD beta net1 0"]);
    assert!(report["took"].as_u64() > report["plugins"][0]["took"].as_u64(), "{report:#}");
    let about =
        ["format", "verb", "network", "container", "interface", "podUID", "code"].map(|key| report[key].clone());
    assert_eq!(json!(about), json!([1, "ADD", "outer", Case::CONTAINER, "eth0", "uid-1", 0]));
    assert_eq!(report.get("trace"), None);

    case.check().succeeds();
    assert_eq!(plugins(&receive(&socket)), ["CHECK alpha eth0 0", "CHECK beta net1 0"]);
    case.del().succeeds();
    assert_eq!(plugins(&receive(&socket)), ["DEL beta net1 0", "DEL alpha eth0 0"]);

    case.behave("beta", json!({"fail": {"ADD": {"code": 142, "msg": "no"}}}));
    case.add().fails(142);
    let report = receive(&socket);
    assert_eq!(report["code"], 142);
    let expected = ["ADD alpha eth0 0", "ADD beta net1 142", "DEL beta net1 0", "DEL alpha eth0 0"];
    assert_eq!(plugins(&report), expected);
}

#[test]
fn each_plugin_of_a_sampled_trace_has_its_own_span() {
    let case = traced(case(), "01");
    let socket = listener(&case);
    let outcome = case.add().succeeds();
    let report = receive(&socket);
    let trace = &report["trace"];
    assert_eq!((&trace["id"], &trace["parent"]), (&json!(TRACE), &json!(PARENT)));
    let mut spans = vec![PARENT.to_owned(), trace["span"].as_str().expect("a span").to_owned()];
    for (index, plugin) in ["alpha", "beta"].iter().enumerate() {
        let span = report["plugins"][index]["span"].as_str().expect("a span");
        assert_eq!(outcome.call_of("ADD", plugin).var("TRACEPARENT"), format!("00-{TRACE}-{span}-01"));
        spans.push(span.to_owned());
    }
    assert!(spans.iter().all(|span| span.len() == 16), "{spans:?}");
    spans.sort();
    spans.dedup();
    assert_eq!(spans.len(), 4);
}

#[test]
fn without_a_listener_the_log_has_the_spans() {
    let case = traced(case(), "01").key("logFile", "@DIR@/log").key("logLevel", "info");
    let outcome = case.add().succeeds();
    let log = fs::read_to_string(case.dir().join("log")).expect("a log");
    let events: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let own = events.iter().find(|event| event["message"] == "done").expect("the end");
    assert_eq!((&own["traceId"], &own["parentSpanId"]), (&json!(TRACE), &json!(PARENT)));
    for plugin in ["alpha", "beta"] {
        let message = format!("{plugin} ADD");
        let event = events.iter().find(|event| event["message"] == message.as_str()).unwrap_or_else(|| panic!("{log}"));
        let span = event["spanId"].as_str().expect("a span");
        assert_eq!(outcome.call_of("ADD", plugin).var("TRACEPARENT"), format!("00-{TRACE}-{span}-01"));
        assert_eq!((&event["traceId"], &event["parentSpanId"]), (&json!(TRACE), &own["spanId"]));
    }
}

#[test]
fn what_is_not_sampled_is_passed_on_as_it_is() {
    for context in [format!("00-{TRACE}-{PARENT}-00"), "00-1".to_owned(), String::new()] {
        let case = case().env("TRACEPARENT", context.clone());
        let socket = listener(&case);
        assert_eq!(case.add().succeeds().call_of("ADD", "alpha").var("TRACEPARENT"), context);
        assert_eq!(receive(&socket).get("trace"), None);
    }
}

#[test]
fn changes_of_a_running_container_are_reported() {
    let case = live(Case::new().args("IgnoreUnknown=1;K8S_POD_UID=uid-1"), &[recorder("alpha").link().value()]);
    case.add().succeeds();
    let socket = listener(&case);
    let config =
        r#"{"interface":"net7","config":{"cniVersion":"1.0.0","name":"more","type":"gamma","recorder":{"link":true}}}"#;
    attach(&case, &[config]).succeeds();
    let report = receive(&socket);
    assert_eq!((&report["verb"], &report["podUID"]), (&json!("attach"), &json!("uid-1")));
    assert_eq!(plugins(&report), ["ADD gamma net7 0"]);
    case.behave("gamma", json!({"fail": {"DEL": {"code": 142, "msg": "stuck"}}}));
    detach(&case, &["net7"]).fails_with_any_code();
    let report = receive(&socket);
    assert_ne!(report["code"], 0);
    assert_eq!((&report["verb"], plugins(&report)), (&json!("detach"), vec!["DEL gamma net7 142".to_owned()]));
}
