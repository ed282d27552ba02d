//! What the agent shows: metrics of the calls that report to it, and spans for a collector.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use super::stand_in::{Agent, StandIn, attached_pod};
use crate::kubernetes::cluster::Cluster;
use crate::kubernetes::double::Double;
use crate::kubernetes::in_cluster;
use crate::support::{Case, inside_network, recorder, wait_for};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";

/// A node with the stand-in and an agent, whose Braid runs two recorders.
fn node(words: &[&str]) -> (Case, Cluster<Double>, Agent) {
    let case = Case::new().delegate(recorder("alpha").link()).delegate(recorder("beta").link());
    let (case, api) = in_cluster(case.env("TRACEPARENT", format!("00-{TRACE}-{PARENT}-01")));
    StandIn::new(&case);
    attached_pod(&case, &api, "shop", "");
    let agent = Agent::start(&case, words);
    wait_for("the agent to answer", || agent.get("/healthz").filter(|(status, _)| *status == 200));
    (case, api, agent)
}

/// Calls without a pod, so that no request goes to the API server.
fn calls(case: &Case) {
    case.call("ADD").env("CNI_ARGS", "").run().succeeds();
    case.call("DEL").env("CNI_ARGS", "").run().succeeds();
}

/// The metrics, once they have a line that begins so.
fn metrics(agent: &Agent, line: &str) -> String {
    wait_for(&format!("{line} in the metrics"), || {
        let (status, text) = agent.get("/metrics")?;
        (status == 200 && text.lines().any(|one| one.starts_with(line))).then_some(text)
    })
}

#[test]
fn calls_and_their_plugins_are_counted() {
    let (case, _api, agent) = node(&[]);
    calls(&case);
    let text = metrics(&agent, r#"braid_operations_total{verb="DEL",code="0"} 1"#);
    for line in [
        r#"braid_operations_total{verb="ADD",code="0"} 1"#,
        r#"braid_plugin_duration_seconds_count{plugin="alpha",verb="ADD"} 1"#,
        r#"braid_plugin_duration_seconds_count{plugin="beta",verb="DEL"} 1"#,
        "braid_debts 0",
        "braid_pods_unfulfilled 0",
    ] {
        assert!(text.lines().any(|one| one == line), "{line} is not in\n{text}");
    }
    let mut tool = Command::new("promtool");
    let mut tool = tool.args(["check", "metrics"]).stdin(Stdio::piped()).spawn().expect("promtool is there");
    tool.stdin.take().expect("a pipe").write_all(text.as_bytes()).expect("it reads");
    assert!(tool.wait().expect("it ends").success(), "{text}");
}

/// A process that is killed at the end of the test.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[test]
fn prometheus_scrapes_it() {
    let (case, _api, agent) = node(&[]);
    calls(&case);
    metrics(&agent, r#"braid_operations_total{verb="DEL",code="0"} 1"#);
    let config = "{global: {scrape_interval: 1s}, scrape_configs: [{job_name: braid, static_configs: [{targets: ['127.0.0.1:9797']}]}]}";
    fs::write(case.dir().join("prometheus.yml"), config).expect("write the configuration");
    let words =
        ["--config.file=@DIR@/prometheus.yml", "--storage.tsdb.path=@DIR@/tsdb", "--web.listen-address=127.0.0.1:9090"];
    let words: Vec<String> = words.iter().map(|word| case.expand(word)).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let _prometheus = Killed(case.command(Path::new("prometheus"), &words).spawn());
    let value = wait_for("a value in Prometheus", || {
        let query = ["query", "instant", "http://127.0.0.1:9090", r#"braid_operations_total{verb="ADD"}"#];
        let tool = case.command(Path::new("promtool"), &query).spawn();
        let answer = String::from_utf8(tool.wait_with_output().ok()?.stdout).ok()?;
        answer.contains("=> 1 @").then_some(answer)
    });
    assert!(value.contains(r#"code="0""#), "{value}");
}

/// A collector in the agent's network namespace. It refuses the first request, and returns the others to the test.
fn collector(case: &Case) -> Receiver<(String, Value)> {
    let listener = inside_network(&case.host().path(), || TcpListener::bind("127.0.0.1:4318").expect("a socket"));
    let (sender, requests) = mpsc::channel();
    thread::spawn(move || {
        for (number, stream) in listener.incoming().enumerate() {
            let mut stream = stream.expect("a connection");
            let mut text = Vec::new();
            let mut piece = [0; 4096];
            let request = loop {
                let length = stream.read(&mut piece).expect("a request");
                text.extend_from_slice(&piece[..length]);
                let so_far = String::from_utf8_lossy(&text).into_owned();
                let Some((head, body)) = so_far.split_once("\r\n\r\n") else { continue };
                let expected = head
                    .lines()
                    .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
                if expected.is_some_and(|expected: usize| body.len() >= expected) {
                    break (head.to_owned(), serde_json::from_str(body).expect("JSON"));
                }
            };
            let status = if number == 0 { "503 Service Unavailable" } else { "200 OK" };
            let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{{}}");
            stream.write_all(answer.as_bytes()).expect("answer");
            if number > 0 && sender.send(request).is_err() {
                return;
            }
        }
    });
    requests
}

#[test]
fn spans_of_traced_calls_are_exported() {
    let case = Case::new().delegate(recorder("alpha").link()).env("TRACEPARENT", format!("00-{TRACE}-{PARENT}-01"));
    let (case, _api) = in_cluster(case);
    StandIn::new(&case);
    let requests = collector(&case);
    let agent = Agent::start(&case, &["--otlp-endpoint", "http://127.0.0.1:4318"]);
    wait_for("the agent to answer", || agent.get("/metrics"));
    let added = case.call("ADD").env("CNI_ARGS", "").run().succeeds();
    let (head, body) = requests.recv_timeout(Duration::from_secs(30)).expect("a request");
    assert!(
        head.starts_with("POST /v1/traces HTTP/1.1") && head.to_lowercase().contains("content-type: application/json"),
        "{head}"
    );
    let spans = &body["resourceSpans"][0]["scopeSpans"][0]["spans"];
    let shown = |index: usize| json!([spans[index]["name"], spans[index]["traceId"], spans[index]["parentSpanId"]]);
    assert_eq!(shown(0), json!(["ADD outer", TRACE, PARENT]));
    assert_eq!(shown(1), json!(["ADD alpha", TRACE, spans[0]["spanId"]]));
    let passed = format!("00-{TRACE}-{}-01", spans[1]["spanId"].as_str().expect("a span"));
    assert_eq!(added.call_of("ADD", "alpha").var("TRACEPARENT"), passed);
}
