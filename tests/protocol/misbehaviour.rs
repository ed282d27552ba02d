//! Plugins that crash, hang, flood or answer nonsense.

use std::time::Duration;

use rstest::rstest;
use serde_json::{Value, json};

use crate::support::{Case, Plugin, recorder};

/// A network that works, and after it one whose plugin behaves like this on ADD.
fn case(instructions: &Value) -> Case {
    let beta = instructions
        .as_object()
        .expect("instructions")
        .iter()
        .fold(recorder("beta"), |plugin, (key, value)| plugin.instructed(key, value.clone()));
    Case::new().delegate(recorder("alpha")).delegate(beta.instructed("on", json!(["ADD"])))
}

const ROLLBACK: [&str; 4] = ["ADD alpha eth0", "ADD beta net1", "DEL beta net1", "DEL alpha eth0"];

#[rstest]
#[case::exit_status(json!({"raw_stdout": "", "exit": 3, "stderr": "out of coffee\n"}), &["3", "out of coffee"])]
#[case::signal(json!({"signal": 11, "stderr": "out of coffee\n"}), &["11", "out of coffee"])]
#[case::text(json!({"raw_stdout": "out of coffee", "exit": 1, "stderr": "no beans"}), &["1", "no beans"])]
#[case::long_stderr(json!({"raw_stdout": "", "exit": 4, "flood_stderr_mb": 2}), &["4"])]
#[case::no_answer(json!({"raw_stdout": ""}), &[])]
#[case::half_an_answer(json!({"raw_stdout": "{\"cniVersion\": \"1.0"}), &[])]
#[case::two_answers(json!({"raw_stdout": "{\"cniVersion\": \"1.0.0\"}{}"}), &[])]
#[case::an_array(json!({"raw_stdout": "[]"}), &[])]
#[case::no_utf8(json!({"raw_stdout_base16": "7b22ff223a317d"}), &[])]
#[case::bad_address(json!({"result": {"cniVersion": "1.0.0", "ips": [{"address": "10.1.0.300/24"}]}}), &["10.1.0.300"])]
#[case::bad_index(json!({"result": {"cniVersion": "1.0.0", "ips": [{"address": "10.1.0.3/24", "interface": 7}]}}), &["7"])]
#[case::other_version(json!({"result": {"cniVersion": "9.9.9"}}), &["9.9.9"])]
fn a_plugin_that_fails_without_an_error_object_is_undone(#[case] instructions: Value, #[case] message: &[&str]) {
    let case = case(&instructions);
    let outcome = case.add().fails_with_any_code().message_contains("net1").message_contains("beta").called(&ROLLBACK);
    message.iter().fold(outcome, |outcome, text| outcome.says(text)).leaves_nothing();
}

#[test]
fn an_error_object_with_exit_status_0_is_an_error() {
    let error = json!({"cniVersion": "1.0.0", "code": 142, "msg": "not really"}).to_string();
    case(&json!({"raw_stdout": error})).add().fails(142).message_contains("not really").called(&ROLLBACK);
}

#[test]
fn a_plugins_details_are_kept() {
    let fail = json!({"ADD": {"code": 142, "msg": "boom", "details": "behind the left valve"}});
    case(&json!({"fail": fail})).add().fails(142).message_contains("boom").says("behind the left valve");
}

#[test]
fn a_plugin_that_hangs_is_killed_and_undone() {
    let instructions = json!({"sleep_ms": 60_000, "ignore_sigterm": true, "stderr": "still brewing"});
    let case = case(&instructions).key("timeouts", json!({"plugin": 1}));
    let outcome = case.add().fails_with_any_code().message_contains("beta").says("still brewing").called(&ROLLBACK);
    assert!(outcome.took() < Duration::from_secs(20), "it took {:?}", outcome.took());
    outcome.leaves_nothing();
}

#[test]
fn the_total_time_holds_for_all_plugins_together() {
    let slow = |kind| recorder(kind).instructed("sleep_ms", 700).instructed("on", json!(["ADD"]));
    let case = Case::new().key("timeouts", json!({"plugin": 60, "total": 2}));
    let case = ["alpha", "beta", "gamma", "delta", "epsilon"].iter().fold(case, |case, kind| case.delegate(slow(kind)));
    let outcome = case.add().fails_with_any_code();
    assert!(outcome.took() < Duration::from_secs(20), "it took {:?}", outcome.took());
    let calls = outcome.order();
    assert!(!calls.contains(&"ADD epsilon net4".to_owned()), "five times 0.7 s fit into 2 s: {calls:?}");
    outcome.leaves_nothing();
}

#[rstest]
#[case::too_much(17, false)]
#[case::just_much(15, true)]
fn an_answer_may_be_16_mib_long(#[case] megabytes: u64, #[case] accepted: bool) {
    let case = case(&json!({"flood_mb": megabytes}));
    let outcome = case.add();
    if accepted {
        outcome.succeeds();
        case.del().succeeds().leaves_nothing();
    } else {
        outcome.fails_with_any_code().message_contains("beta").called(&ROLLBACK).leaves_nothing();
    }
}

#[rstest]
fn a_process_left_behind_does_not_delay_the_answer(
    #[values("stdout", "stderr", "both")] hold: &str,
    #[values(false, true)] detached: bool,
) {
    let grandchild = json!({"hold": hold, "ms": 30_000, "detached": detached});
    let case = case(&json!({"grandchild": grandchild}));
    let outcome = case.add().succeeds();
    assert!(outcome.took() < Duration::from_secs(15), "it took {:?}", outcome.took());
    let left = case.changes();
    for process in left.lines().filter_map(|line| line.strip_prefix("+ process ")) {
        let (pid, command) = process.split_once(' ').expect("a process with its command");
        assert!(command.starts_with("sleep 30."), "{left}");
        let pid = nix::unistd::Pid::from_raw(pid.parse().expect("a process ID"));
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).expect("end what this test started");
    }
    case.del().succeeds().leaves_nothing();
}

#[test]
fn a_plugin_that_does_not_read_its_input_is_no_trouble() {
    let long = "x".repeat(1 << 20);
    let case = Case::new().delegate(recorder("alpha").key("long", long));
    case.behave("alpha", json!({"close_stdin": true, "result": {"cniVersion": "1.0.0"}}));
    case.add().succeeds();
    case.del().succeeds().leaves_nothing();
}

#[test]
fn a_configuration_of_any_size_gets_through() {
    let long = "x".repeat(4 << 20);
    let case = Case::new().delegate(recorder("alpha").key("long", long.as_str()).instructed("flood_stderr_mb", 1));
    let outcome = case.add().succeeds();
    assert_eq!(outcome.call_of("ADD", "alpha").config()["long"], long);
    case.del().succeeds().leaves_nothing();
}

/// Multus as a delegate of itself has made whole nodes fail.
#[test]
fn a_plugin_that_calls_braid_again_is_stopped() {
    let braid = crate::support::braid();
    let again = Plugin::new("net-again", "again")
        .key("stateDir", "@DIR@/state")
        .key("delegates", json!([recorder("alpha").value()]));
    let case = Case::new().script("again", &format!("exec {}", braid.display())).delegate(again);
    let outcome = case.add().fails_with_any_code().message_contains("again");
    assert!(outcome.calls().is_empty(), "{:?}", outcome.order());
}

#[test]
fn standard_error_of_a_plugin_is_passed_on() {
    case(&json!({"stderr": "a word of warning\n"})).add().succeeds().stderr_contains("a word of warning");
}
