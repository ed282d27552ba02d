//! `metrics`, and what uses it: alert rules and a dashboard.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::support::{Machine, recorder};

/// A machine with a network of two, the second with addresses of `host-local`, and a container on it.
fn machine() -> Machine {
    let ipam = json!({"type": "host-local", "ranges": [[{"subnet": "10.2.0.0/29"}], [{"subnet": "fd00::/64"}]]});
    let conf = json!({"cniVersion": "1.0.0", "name": "pods", "plugins": [{
        "type": "braid", "debts": {"giveUpAfter": 0.001},
        "delegates": [
            recorder("alpha").key("name", "front").value(),
            {"name": "back", "plugins": [{"type": "beta", "ipam": ipam}]},
        ],
    }]});
    let machine = Machine::new().conf("pods.conflist", conf);
    machine.run("cp /opt/cni/bin/alpha /opt/cni/bin/beta; ip netns add web; ip netns add db").succeeds();
    machine
        .run("mkdir -p /var/lib/cni/networks/back; cd /var/lib/cni/networks/back; echo web-1 | tee 10.2.0.2 10.2.0.3")
        .succeeds();
    machine.run("braid add pods web --container-id web-1; braid add pods db --container-id db-1").succeeds();
    machine
}

/// The value of a series.
fn value(text: &str, series: &str) -> f64 {
    let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {series} in\n{text}")).parse().expect("a number")
}

/// The output of `promtool`, with a text on its standard input.
fn promtool(words: &[&str], input: &str) {
    let mut tool = Command::new("promtool");
    tool.args(words).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut tool = tool.spawn().expect("promtool is there");
    tool.stdin.take().expect("a pipe").write_all(input.as_bytes()).expect("it reads");
    let output = tool.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{words:?}: {output:?}\n{input}");
}

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("conf").join(name)
}

#[test]
fn what_is_on_the_node_is_counted() {
    let machine = machine();
    let text = machine.run("braid metrics").succeeds().stdout;
    promtool(&["check", "metrics"], &text);
    let is = |series: &str, expected: f64| {
        let found = value(&text, series);
        assert!((found - expected).abs() < 0.1, "{series} is {found}, not {expected}");
    };
    is(r#"braid_attachments{network="front"}"#, 2.0);
    is(r#"braid_attachments{network="back"}"#, 2.0);
    is("braid_debts", 0.0);
    is("braid_oldest_debt_seconds", 0.0);
    is("braid_journals_set_aside", 0.0);
    is(r#"braid_ipam_addresses{network="back",state="used"}"#, 2.0);
    is(r#"braid_ipam_addresses{network="back",state="free"}"#, 3.0);
}

#[test]
fn debts_and_unusable_journals_are_counted() {
    let machine = machine();
    machine.write("recorder/behaviour/beta.json", &json!({"fail": {"DEL": {"code": 142, "msg": "stuck"}}}).to_string());
    machine.run("braid del pods web --container-id web-1").exits(1);
    machine.run("echo junk >/var/lib/cni/braid/attachments/db-1/eth0.jsonl; sleep 1.1").succeeds();
    let text = machine.run("braid metrics").succeeds().stdout;
    assert!((value(&text, "braid_debts") - 1.0).abs() < 0.1, "{text}");
    assert!(value(&text, "braid_oldest_debt_seconds") >= 1.0, "{text}");
    assert!((value(&text, "braid_journals_set_aside") - 1.0).abs() < 0.1, "{text}");
    // The same after both were moved to the debts.
    machine.run(
        "ip netns del web; CNI_NETNS= braid del pods web --container-id web-1; braid del pods db --container-id db-1",
    );
    let text = machine.run("braid metrics").succeeds().stdout;
    assert!((value(&text, "braid_debts") - 1.0).abs() < 0.1, "{text}");
    assert!((value(&text, "braid_journals_set_aside") - 1.0).abs() < 0.1, "{text}");
}

#[test]
fn a_node_without_anything_has_zeros() {
    let machine = Machine::new();
    let text = machine.run("NETCONFPATH=/nonexistent braid metrics").succeeds().stdout;
    promtool(&["check", "metrics"], &text);
    assert!(value(&text, "braid_debts").abs() < 0.1, "{text}");
}

#[test]
fn alert_rules_fire_when_they_should() {
    let rules = folder("prometheus");
    let path = |name: &str| rules.join(name).to_str().expect("UTF-8").to_owned();
    promtool(&["check", "rules", &path("braid-rules.yaml")], "");
    promtool(&["test", "rules", &path("braid-rules.test.yaml")], "");
}

/// The metrics that a text mentions.
fn metrics_in(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let base = |word: &str| {
        ["_bucket", "_sum", "_count"].iter().find_map(|end| word.strip_suffix(end)).unwrap_or(word).to_owned()
    };
    words.filter(|word| word.starts_with("braid_")).map(base).collect()
}

#[test]
fn rules_and_dashboard_name_existing_metrics() {
    let documented = metrics_in(&fs::read_to_string(folder("../docs/metrics.md")).expect("docs/metrics.md"));
    let dashboard = fs::read_to_string(folder("grafana/braid.json")).expect("conf/grafana/braid.json");
    let read: Value = serde_json::from_str(&dashboard).expect("JSON");
    assert!(read["panels"].as_array().is_some_and(|panels| panels.len() > 8));
    for text in [dashboard, fs::read_to_string(folder("prometheus/braid-rules.yaml")).expect("the rules")] {
        let unknown: Vec<_> = metrics_in(&text).difference(&documented).cloned().collect();
        assert!(unknown.is_empty(), "{unknown:?}");
    }
}
