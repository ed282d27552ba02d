//! What DEL cannot undo: how long DEL fails because of it, and what happens after that.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};

use crate::support::{Case, braid, recorder};

/// A container whose second attachment cannot be undone. The second DEL gives up on it.
fn case() -> Case {
    let case = Case::new().cni_version("1.1.0").key("debts", json!({"giveUpAfter": 0.001}));
    case.delegate(recorder("alpha").version("1.1.0")).delegate(recorder("beta").version("1.1.0"))
}

fn fail_to_undo(case: &Case) {
    case.behave("beta", json!({"fail": {"DEL": {"code": 142, "msg": "beta is stuck"}}}));
}

fn debts(case: &Case) -> PathBuf {
    case.dir().join("state/debts")
}

fn list(case: &Case, output: &str) -> String {
    let state = case.dir().join("state");
    let output =
        Command::new(braid()).args(["list", "-o", output, "--state-dir"]).arg(state).output().expect("run braid");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// DEL without a namespace, as runtimes call it when the namespace is gone.
fn del(case: &Case) -> crate::support::Outcome<'_> {
    case.call("DEL").env("CNI_NETNS", "").run()
}

#[test]
fn a_debt_is_parked_and_lets_the_container_go() {
    let case = case();
    case.add().succeeds();
    fail_to_undo(&case);
    del(&case).fails_with_any_code().says("beta is stuck").called(&["DEL beta net1", "DEL alpha eth0"]);
    assert!(!debts(&case).exists(), "the first failure parks nothing");
    del(&case).succeeds().called(&["DEL beta net1"]).stderr_contains("beta is stuck");
    assert!(!case.owes());
    assert!(debts(&case).join("container-1/eth0.jsonl").is_file());
    // It is still known.
    assert!(list(&case, "table").contains("parked (container-1/eth0)"), "{}", list(&case, "table"));
    let listed: Value = serde_json::from_str(&list(&case, "json")).expect("JSON");
    assert_eq!((&listed[0]["state"], &listed[0]["debt"]), (&json!("parked"), &json!("container-1/eth0")));
    assert_eq!(listed[0]["attachments"][1]["plugins"][0]["state"], "owed");
    case.status().succeeds().stderr_contains("container-1/eth0");
    del(&case).succeeds();
    // GC tries it again, and passes it to plugins as still valid. GC itself does not fail because of it.
    let outcome = case.gc(&[]).succeeds().called(&["DEL beta net1", "GC alpha", "GC beta"]);
    let valid = outcome.call_of("GC", "beta").config()["cni.dev/valid-attachments"].clone();
    assert_eq!(valid, json!([{"containerID": Case::CONTAINER, "ifname": "net1"}]));
    case.behave("beta", json!({}));
    let outcome = case.gc(&[]).succeeds().called(&["DEL beta net1", "GC alpha", "GC beta"]);
    assert_eq!(outcome.call_of("DEL", "beta").var("CNI_CONTAINERID"), Case::CONTAINER);
    assert_ne!(outcome.call_of("DEL", "beta").config()["prevResult"], Value::Null, "it has what ADD had");
    outcome.leaves_nothing();
    case.gc(&[]).succeeds().called(&["GC alpha", "GC beta"]);
    assert!(!list(&case, "table").contains("parked"));
}

#[test]
fn a_container_that_is_attached_again_is_left_alone_by_its_debt() {
    let case = case();
    case.add().succeeds();
    fail_to_undo(&case);
    del(&case).fails_with_any_code();
    del(&case).succeeds();
    case.behave("beta", json!({}));
    case.add().succeeds();
    let outcome = case.gc(&[(Case::CONTAINER, "eth0")]).succeeds().called(&["GC alpha", "GC beta"]);
    outcome.stderr_contains("attached on \\\"net1\\\" again");
    case.del().succeeds();
    case.gc(&[]).succeeds().called(&["DEL beta net1", "GC alpha", "GC beta"]).leaves_nothing();
}

#[test]
fn a_second_debt_of_one_interface_is_kept_beside_the_first() {
    let case = case();
    for _ in 0..2 {
        case.behave("beta", json!({}));
        case.add().succeeds();
        fail_to_undo(&case);
        del(&case).fails_with_any_code();
        del(&case).succeeds();
    }
    let mut names: Vec<_> = fs::read_dir(debts(&case).join("container-1")).expect("a folder").flatten().collect();
    names.sort_by_key(fs::DirEntry::file_name);
    let names: Vec<_> = names.iter().map(|entry| entry.file_name().into_string().expect("UTF-8")).collect();
    assert_eq!(names, ["eth0.1.jsonl", "eth0.jsonl"]);
}

/// A running container may still have the interface.
#[test]
fn nothing_is_parked_while_a_process_is_in_the_namespace() {
    let case = case();
    case.add().succeeds();
    fail_to_undo(&case);
    let mut inside = case.pod().inside(|| Command::new("sleep").arg("60").spawn().expect("start a process"));
    case.del().fails_with_any_code();
    case.del().fails_with_any_code();
    inside.kill().expect("kill the process");
    inside.wait().expect("wait for the process");
    // The runtime keeps the namespace until DEL has succeeded, which would be for ever.
    if fs::read_link("/proc/self/ns/pid").is_ok_and(|own| own.as_os_str() == "pid:[4026531836]") {
        case.del().succeeds();
        assert!(debts(&case).join("container-1/eth0.jsonl").is_file());
    }
}

#[test]
fn with_0_nothing_is_ever_parked() {
    let case = case().key("debts", json!({"giveUpAfter": 0}));
    case.add().succeeds();
    fail_to_undo(&case);
    for _ in 0..3 {
        del(&case).fails_with_any_code().says("beta is stuck");
    }
    assert!(case.owes() && !debts(&case).exists());
}

/// The default is 600 s after the first failing DEL.
#[test]
fn by_default_del_fails_for_a_while() {
    let case = case().without("debts");
    case.add().succeeds();
    fail_to_undo(&case);
    for _ in 0..3 {
        del(&case).fails_with_any_code().says("beta is stuck");
    }
    assert!(case.owes());
}

#[test]
fn a_key_that_is_wrong_is_named() {
    let case = case().key("debts", json!({"giveUpAfter": "soon"}));
    case.add().fails(7).says("debts.giveUpAfter").called_nothing();
}
