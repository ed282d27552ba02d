//! `run`, and everything that can end it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rstest::rstest;

use crate::support::{Case, Network, bridge, recorder};

/// A real network, and two of recording plugins.
fn case() -> Case {
    Case::with_reference_plugins()
        .configuration("real.conflist", Network::new("real").plugin(bridge("br-r", "10.10.1.0/24")))
        .configuration("one.conflist", Network::new("one").plugin(recorder("alpha").ip("10.1.0.5/24").link()))
        .configuration("two.conflist", Network::new("two").plugin(recorder("beta").ip("10.2.0.5/24").link()))
        .configuration("bad.conflist", Network::new("bad").plugin(recorder("gamma").failing("ADD", 142)))
}

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

fn namespace_of(front: &Child) -> PathBuf {
    Path::new("/run/netns").join(format!("braid-run-{}", front.id()))
}

/// Nothing of the run is left: on the host, in the cache, of its namespace, and of the processes in it.
#[track_caller]
fn assert_clean(case: &Case) {
    assert_eq!(case.changes(), "");
    let cached = fs::read_dir(case.dir().join("cache/results")).map(Iterator::count).unwrap_or_default();
    assert_eq!(cached, 0, "results are still cached");
    if let Ok(pid) = fs::read_to_string(case.dir().join("pid")) {
        wait_until("the command and what it started are gone", || !is_alive(pid.trim()));
    }
}

fn is_alive(pid: &str) -> bool {
    fs::read_to_string(format!("/proc/{pid}/status")).is_ok_and(|status| !status.contains("State:\tZ"))
}

/// A run whose command has started, and has started another process in turn.
fn started(case: &Case) -> Child {
    let script = "sleep 1000 & echo $! >@DIR@/pid.new; mv @DIR@/pid.new @DIR@/pid; wait";
    let child = case.braid(&["run", "one,real,two", "--", "sh", "-c", script]).spawn();
    wait_until("the command starts", || case.dir().join("pid").exists());
    child
}

/// The keeper of a front: its only child.
fn keeper(front: &Child) -> Pid {
    let pid = front.id();
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).expect("the front's children");
    Pid::from_raw(children.trim().parse().expect("one child"))
}

fn pid_of(child: &Child) -> Pid {
    Pid::from_raw(child.id().try_into().expect("a process ID"))
}

#[rstest]
#[case::success("true", 0)]
#[case::failure("exit 7", 7)]
#[case::signal("kill -9 $$", 137)]
#[case::left_running("sleep 1000 >/dev/null 2>&1 & echo $! >@DIR@/pid", 0)]
fn the_exit_status_is_the_commands(#[case] script: &str, #[case] status: i32) {
    let case = case();
    let output = case.braid(&["run", "one,two", "--", "sh", "-c", script]).output();
    assert_eq!(output.status.code(), Some(status), "{output:?}");
    assert_eq!(case.order(), ["ADD alpha eth0", "ADD beta eth1", "DEL beta eth1", "DEL alpha eth0"]);
    assert_clean(&case);
}

#[test]
fn the_command_has_the_networks_in_their_order() {
    let case = case();
    let output = case.braid(&["run", "real,one", "--", "ip", "-o", "-4", "address"]).output();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{output:?}");
    for (interface, address) in [("lo", "127.0.0.1/8"), ("eth0", "10.10.1.2/24"), ("eth1", "10.1.0.5/24")] {
        let has = text.lines().any(|line| line.contains(&format!(" {interface} ")) && line.contains(address));
        assert!(has, "{interface} {address} is not in {text}");
    }
    assert_clean(&case);
}

#[rstest]
#[case::absent("no-such-command-anywhere", 127)]
#[case::no_program("/etc/passwd", 126)]
fn a_command_that_cannot_be_run_has_the_status_that_shells_give_it(#[case] command: &str, #[case] status: i32) {
    let case = case();
    let output = case.braid(&["run", "one,real", "--", command]).output();
    assert_eq!(output.status.code(), Some(status), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains(command), "{output:?}");
    assert_clean(&case);
}

#[test]
fn a_network_that_cannot_be_joined_undoes_the_others() {
    let case = case();
    let output = case.braid(&["run", "one,real,bad,two", "--", "touch", "@DIR@/ran"]).output();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(text.contains("\"bad\"") && text.contains("gamma refuses ADD"), "{text}");
    assert!(output.stdout.is_empty(), "standard output is the command's: {output:?}");
    assert!(!case.dir().join("ran").exists());
    assert_clean(&case);
}

#[rstest]
#[case::network(&["run", "one,absent", "--", "true"], "absent")]
#[case::no_command(&["run", "one"], "COMMAND")]
fn impossible_changes_are_refused_before_anything_is_done(#[case] words: &[&str], #[case] message: &str) {
    let case = case();
    let output = case.braid(words).output();
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains(message), "{output:?}");
    assert!(case.order().is_empty());
    assert_clean(&case);
}

#[rstest]
fn a_signal_that_asks_for_an_end_is_passed_on(
    #[values(Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT)] signal: Signal,
) {
    let case = case();
    let child = started(&case);
    let namespace = namespace_of(&child);
    assert!(namespace.exists());
    kill(pid_of(&child), signal).expect("send the signal");
    let output = child.wait_with_output().expect("wait for the run");
    assert_eq!(output.status.code(), Some(128 + signal as i32), "{output:?}");
    assert!(!namespace.exists());
    assert_clean(&case);
}

#[test]
fn when_the_front_is_killed_the_keeper_cleans_up() {
    let case = case();
    let mut child = started(&case);
    let keeper = keeper(&child).to_string();
    kill(pid_of(&child), Signal::SIGKILL).expect("kill the front");
    child.wait().expect("wait for the front");
    wait_until("the keeper ends", || !is_alive(&keeper));
    assert!(!namespace_of(&child).exists());
    assert_clean(&case);
}

#[test]
fn when_the_keeper_is_killed_the_front_cleans_up() {
    let case = case();
    let child = started(&case);
    let namespace = namespace_of(&child);
    kill(keeper(&child), Signal::SIGKILL).expect("kill the keeper");
    let output = child.wait_with_output().expect("wait for the run");
    assert_eq!(output.status.code(), Some(137), "{output:?}");
    assert!(!namespace.exists());
    assert_clean(&case);
}

/// The run is killed while a plugin works. The plugin must not continue.
#[rstest]
fn either_may_be_killed_while_a_network_is_joined(#[values(true, false)] is_front: bool) {
    let slow = Network::new("slow").plugin(recorder("delta").instructed("sleep_ms", 700).instructed("on", vec!["ADD"]));
    let case = case().configuration("slow.conflist", slow);
    let mut child = case.braid(&["run", "one,slow", "--", "true"]).spawn();
    wait_until("the slow plugin is called", || case.order().iter().any(|call| call.starts_with("ADD delta")));
    let keeper = keeper(&child);
    kill(if is_front { pid_of(&child) } else { keeper }, Signal::SIGKILL).expect("kill it");
    child.wait().expect("wait for the front");
    wait_until("the keeper ends", || !is_alive(&keeper.to_string()));
    assert!(!namespace_of(&child).exists());
    assert_eq!(case.order().last().map(String::as_str), Some("DEL alpha eth0"));
    assert_clean(&case);
}

/// A message that could not be written once ended the run immediately, and left the namespace and the networks.
#[test]
fn nobody_reads_standard_error_and_all_is_cleaned_up() {
    let case = case();
    case.behave("beta", serde_json::json!({"fail": {"DEL": {"code": 142, "msg": "not today"}}}));
    let braid = crate::support::braid();
    for (words, status) in [("one -- ./absent", 127), ("two -- true", 1)] {
        let line = format!("echo $$ >@DIR@/front; exec {} run {words} 2>/dev/full", braid.display());
        let output = case.command(Path::new("/bin/sh"), &["-c", &line]).output();
        assert_eq!(output.status.code(), Some(status), "{line}: {output:?}");
        let front = fs::read_to_string(case.dir().join("front")).expect("the process ID");
        let namespace = Path::new("/run/netns").join(format!("braid-run-{}", front.trim()));
        assert!(!namespace.exists(), "{line}");
    }
}
