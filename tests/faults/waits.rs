//! Every wait has an end: readers that do not read, signals and namespaces that are refused, endless answers and messages.

use std::fs;
use std::io::{self, Read as _};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use rstest::rstest;
use serde_json::{Value, json};

use crate::support::seccomp::{self, SIGNALS};
use crate::support::{Case, recorder};

/// The most time that a call may take in addition to its plugins, on a busy machine.
const SOON: Duration = Duration::from_secs(30);

/// A file to write to that nobody reads, and its other end.
fn unread(socket: bool) -> (Stdio, Box<dyn Kept>) {
    if socket {
        let (ours, theirs) = UnixStream::pair().expect("a pair of sockets");
        (Stdio::from(std::os::fd::OwnedFd::from(theirs)), Box::new(ours))
    } else {
        let (ours, theirs) = io::pipe().expect("a pipe");
        (Stdio::from(theirs), Box::new(ours))
    }
}

/// A value that is kept until a call has ended.
trait Kept {}
impl<T> Kept for T {}

#[rstest]
fn a_plugin_that_fills_an_unread_standard_error(#[values(false, true)] socket: bool) {
    let case = Case::new().key("logFile", "@DIR@/log").key("logLevel", "debug");
    let case = case.delegate(recorder("alpha").instructed("flood_stderr_mb", 3)).delegate(recorder("beta"));
    for verb in ["ADD", "DEL"] {
        let (stderr, _reader) = unread(socket);
        let outcome = case.call(verb).run_changed(|command| {
            command.stderr(stderr);
        });
        assert!(outcome.took() < SOON, "{verb}: {:?}", outcome.took());
        outcome.succeeds();
        let log = fs::read_to_string(case.dir().join("log")).expect("a log");
        assert!(log.contains("standard error was not read"), "{verb}: {log}");
        fs::remove_file(case.dir().join("log")).expect("remove the log");
    }
    assert_eq!(case.changes(), "");
}

/// A reader that reads slowly gets everything.
#[test]
fn a_standard_error_that_is_read_is_whole() {
    let case = Case::new().delegate(recorder("alpha").instructed("flood_stderr_mb", 3));
    let output = case.call("ADD").output();
    assert!(output.status.success() && output.stderr.len() >= 3 << 20, "{} bytes", output.stderr.len());
    case.del().succeeds().leaves_nothing();
}

#[test]
fn a_log_on_an_unread_standard_error() {
    let case = Case::new().key("logToStderr", true).key("logLevel", "debug");
    let case = (0..20).fold(case.delegate(recorder("alpha")), |case, number| {
        let fail = json!({"ADD": {"code": 142, "msg": "x".repeat(4000)}});
        let interface = format!("opt{number}");
        case.delegate(
            json!({"config": recorder("beta").instructed("fail", fail).value(), "optional": true, "interface": interface,
            "name": format!("n{number}")})
            .to_string()
            .as_str(),
        )
    });
    let (stderr, _reader) = unread(false);
    let outcome = case.call("ADD").run_changed(|command| {
        command.stderr(stderr);
    });
    assert!(outcome.took() < SOON, "{:?}", outcome.took());
    outcome.succeeds();
    case.del().succeeds().leaves_nothing();
}

/// An answer that nobody reads counts as not given. No error object follows the part of it that is already in the pipe.
#[test]
fn an_answer_that_is_not_read_is_undone() {
    let routes: Vec<_> = (0..5000).map(|n| json!({"dst": format!("10.{}.{}.0/24", n / 250, n % 250)})).collect();
    let case =
        Case::new().delegate(recorder("alpha").instructed("result", json!({"cniVersion": "1.0.0", "routes": routes})));
    let (mut reader, stdout) = io::pipe().expect("a pipe");
    let output = case.call("ADD").output_changed(|command| {
        command.stdout(stdout);
    });
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let mut taken = String::new();
    reader.read_to_string(&mut taken).expect("read what the pipe has");
    assert!(taken.starts_with('{') && !taken.contains("\"code\""), "{taken}");
    assert!(!case.owes());
    assert_eq!(case.changes(), "");
}

#[test]
fn calls_end_where_signals_are_refused() {
    let case = Case::new().delegate(recorder("alpha").link()).delegate(recorder("beta").link());
    for verb in ["ADD", "CHECK", "DEL"] {
        let outcome = case.call(verb).run_changed(|command| seccomp::refuse(command, &SIGNALS));
        assert!(outcome.took() < SOON, "{verb}: {:?}", outcome.took());
        outcome.succeeds();
    }
    assert!(!case.owes());
    assert_eq!(case.changes(), "");
}

/// The error names a plugin that cannot be killed. The kernel kills it when Braid exits.
#[test]
fn a_plugin_that_hangs_and_cannot_be_killed() {
    let hang = json!({"hold": {"at": "before", "name": "never"}, "on": ["ADD"]});
    let case =
        Case::new().delegate(recorder("alpha")).delegate(recorder("beta")).key("timeouts", json!({"plugin": 0.5}));
    case.behave("beta", hang);
    let outcome = case.call("ADD").run_changed(|command| seccomp::refuse(command, &SIGNALS));
    assert!(outcome.took() < SOON, "{:?}", outcome.took());
    outcome.fails(101).message_contains("\"beta\"").message_contains("could not be killed");
    case.del().succeeds().leaves_nothing();
}

/// An interrupted system call is repeated, but not for ever.
#[test]
fn a_lock_that_is_always_interrupted_is_not_waited_for() {
    let case = Case::new().delegate(recorder("alpha")).key("timeouts", json!({"total": 1}));
    let interrupt = |command: &mut Command| seccomp::fail(command, &[libc::SYS_flock], Errno::EINTR);
    let outcome = case.call("ADD").run_changed(interrupt);
    assert!(outcome.took() < SOON, "{:?}", outcome.took());
    outcome.fails(5).says("lock").called_nothing().leaves_nothing();
}

#[test]
fn a_namespace_that_may_not_be_entered_is_an_error() {
    let case = Case::new().delegate(recorder("alpha"));
    let output = case.call("ADD").output_changed(|command| seccomp::refuse(command, &[libc::SYS_setns]));
    assert!(output.status.code().is_some(), "{output:?}");
    serde_json::from_slice::<Value>(&output.stdout).expect("an answer");
    case.del().succeeds().leaves_nothing();
}

/// Standard output has a meaning on ADD only.
#[rstest]
fn an_output_without_end_does_not_fail_an_operation_without_a_result(
    #[values("DEL", "CHECK", "STATUS", "GC")] verb: &str,
) {
    let flood = json!({"flood_mb": 20, "on": [verb]});
    let alpha = recorder("alpha").version("1.1.0");
    let case = Case::new().cni_version("1.1.0").delegate(alpha);
    case.add().succeeds();
    case.behave("alpha", flood);
    if verb == "GC" {
        case.gc(&[(Case::CONTAINER, "eth0")]).succeeds();
    } else {
        case.call(verb).run().succeeds();
    }
    case.behave("alpha", json!({}));
    case.del().succeeds().leaves_nothing();
}

#[test]
fn a_message_of_megabytes_is_cut() {
    let fail = json!({"code": 142, "msg": "not found ".repeat(150_000), "details": "not found".repeat(150_000)});
    let case = Case::new().delegate(recorder("alpha").instructed("fail", json!({"ADD": fail, "DEL": fail})));
    let outcome = case.add();
    assert!(outcome.took() < SOON, "{:?}", outcome.took());
    let text = outcome.fails(142).says("bytes more").error_text();
    assert!(text.len() < 64 << 10, "{} bytes", text.len());
}

#[test]
fn the_messages_of_many_plugins_are_cut_together() {
    let fail = json!({"code": 142, "msg": "m".repeat(5000), "details": "d".repeat(20_000)});
    let failing = || recorder("alpha").instructed("fail", json!({"DEL": fail, "CHECK": fail}));
    let case = (0..16).fold(Case::new(), |case, _| case.delegate(failing()));
    case.add().succeeds();
    for verb in ["CHECK", "DEL"] {
        let text = case.call(verb).run().fails_with_any_code().says("bytes more").error_text();
        assert!(text.len() < 330 << 10, "{verb}: {} bytes", text.len());
    }
    case.behave("alpha", json!({}));
    case.del().succeeds().leaves_nothing();
}

/// Runtimes print an error unchanged.
#[test]
fn an_error_cannot_mislead_its_reader() {
    let fail = json!({"ADD": {"code": 142, "msg": "a\u{202e}b\u{1b}[2Jc\nd", "details": "\u{2066}e"}});
    let case = Case::new().delegate(recorder("alpha").instructed("fail", fail));
    let text = case.add().fails(142).says("a\\u202eb\\u001b[2Jc\nd").says("\\u2066e").error_text();
    assert!(!text.contains(|c: char| "\u{202e}\u{1b}\u{2066}".contains(c)), "{text:?}");
}

#[test]
fn a_misleading_interface_name_is_refused() {
    let case = Case::new().delegate(recorder("alpha")).ifname("a\u{202e}b");
    case.add().fails(4).says("invisible").called_nothing();
}
