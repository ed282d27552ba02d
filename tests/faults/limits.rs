//! What a careless runtime or service manager may start Braid with: few descriptors, small files, signals ignored, descriptors
//! left open.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::time::Duration;

use rstest::rstest;

use crate::support::{Case, Plugin, braid, recorder};

/// Braid as a shell starts it after `prelude`.
fn after(case: &Case, prelude: &str) -> PathBuf {
    let program = case.dir().join("bin/shaped");
    fs::write(&program, format!("#!/bin/sh\n{prelude} {}\n", braid().display())).expect("write the script");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("make it executable");
    program
}

/// A plugin that writes no file, so that only Braid is affected by a limit on files.
fn quiet() -> Case {
    let script = "cat >/dev/null; [ $CNI_COMMAND = ADD ] || exit 0; echo '{\"cniVersion\":\"1.0.0\"}'";
    let case = Case::new().script("quiet", script);
    case.delegate(Plugin::new("net-a", "quiet")).delegate(Plugin::new("net-b", "quiet"))
}

/// With one descriptor less than it takes to check whether a container's directory is still the same, Braid once repeated this
/// check for ever.
#[test]
fn out_of_descriptors_is_an_error_and_no_loop() {
    let case = quiet();
    let (mut refused, mut served) = (0, 0);
    for limit in 4..=24 {
        let limited = after(&case, &format!("exec prlimit --nofile={limit}:{limit}"));
        let add = case.call_plugin(&limited, "ADD").run_unrecorded();
        if add.status.success() {
            served += 1;
        } else {
            refused += 1;
            let answer: serde_json::Value = serde_json::from_slice(&add.stdout).expect("an error");
            assert_eq!(answer["code"], 5, "{limit}: {answer}");
        }
        let del = case.call_plugin(&limited, "DEL").run();
        assert!(del.took() < Duration::from_secs(10), "{limit}");
        case.del().succeeds();
        assert!(!case.owes(), "{limit}");
    }
    assert!(refused > 3 && served > 3, "{refused} refused, {served} served");
}

/// A limit on the size of files is an error. The kernel's signal once killed Braid before it could answer.
#[test]
fn a_limit_on_the_size_of_files_is_an_error_and_does_not_kill_braid() {
    let case = quiet();
    let (mut refused, mut served) = (0, 0);
    for limit in (0..4000).step_by(100) {
        let limited = after(&case, &format!("exec prlimit --fsize={limit}:{limit}"));
        let add = case.call_plugin(&limited, "ADD").run_unrecorded();
        *if add.status.success() { &mut served } else { &mut refused } += 1;
        assert!(add.status.success() || !add.stdout.is_empty(), "{limit}: {add:?}");
        case.call_plugin(&limited, "DEL").run().succeeds();
        assert!(!case.owes(), "{limit}");
    }
    assert!(refused > 3 && served > 3, "{refused} refused, {served} served");
}

/// If the three standard descriptors are closed, no file that Braid opens gets their numbers, and an answer that nobody can read
/// counts as not given.
#[test]
fn without_a_standard_output_an_add_is_undone() {
    let case = quiet();
    for prelude in ["exec >&- <&3", "exec >&- 2>&- <&3"] {
        let closed = after(&case, &format!("exec 3<&0; {prelude}; exec"));
        let add = case.call_plugin(&closed, "ADD").run_unrecorded();
        assert!(!add.status.success(), "{prelude}: {add:?}");
        assert!(!case.owes(), "{prelude}");
        case.call_plugin(&closed, "DEL").run_unrecorded();
    }
    let quiet_about_it = after(&case, "exec 2>&-; exec");
    assert!(case.call_plugin(&quiet_about_it, "ADD").run_unrecorded().status.success());
    let no_input = after(&case, "exec <&-; exec");
    assert!(!case.call_plugin(&no_input, "DEL").run_unrecorded().status.success());
    case.del().succeeds().leaves_nothing();
}

#[test]
fn del_of_a_journal_that_may_not_grow() {
    let case = quiet();
    case.add().succeeds();
    let limited = after(&case, "exec prlimit --fsize=0:0");
    case.call_plugin(&limited, "DEL").run().succeeds().leaves_nothing();
    assert!(!case.owes());
}

/// If a parent ignores SIGCHLD, its children inherit that. Braid then could not wait for plugins.
#[rstest]
#[case::children("exec env --ignore-signal=CHLD")]
#[case::everything("exec env --ignore-signal")]
fn ignored_signals_are_no_obstacle(#[case] prelude: &str) {
    let case = Case::new().delegate(recorder("alpha").link()).delegate(recorder("beta").link());
    let careless = after(&case, prelude);
    for verb in ["ADD", "CHECK", "DEL"] {
        case.call_plugin(&careless, verb).run().succeeds();
    }
    assert!(!case.owes());
    assert_eq!(case.changes(), "");
}

/// A lock or a listening socket that a plugin inherits would outlive its owner, if the plugin leaves a process running.
#[rstest]
#[case::none("exec")]
#[case::some("exec 5</dev/null 7>/dev/null 9<.; exec")]
fn a_plugin_inherits_the_descriptors_of_the_protocol_and_no_other(#[case] prelude: &str) {
    let case = Case::new().delegate(recorder("alpha").link()).delegate(recorder("beta").link());
    let careless = after(&case, prelude);
    for verb in ["ADD", "CHECK", "DEL"] {
        let outcome = case.call_plugin(&careless, verb).run().succeeds();
        assert_eq!(outcome.calls().len(), 2, "{verb}");
        for call in outcome.calls() {
            assert_eq!(call.descriptors, [0, 1, 2], "{call}");
        }
    }
}
