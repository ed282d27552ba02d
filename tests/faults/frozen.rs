//! A file system that does not answer: what writes to it hangs in the kernel, and cannot be killed until it answers again.

use std::fs;
use std::time::{Duration, Instant};

use nix::libc;
use nix::unistd::Pid;
use serde_json::json;

use crate::support::seccomp;
use crate::support::{Case, Disk, recorder, wait_for};

/// The most time that a call may take in addition to its plugins, on a busy machine.
const SOON: Duration = Duration::from_secs(30);

/// A case whose plugin `icy` keeps a file on the disk at `@DIR@/disk`, and hangs with it on the operation in `@DIR@/hangs`.
fn case() -> Case {
    let case =
        Case::new().key("timeouts", json!({"plugin": 1})).delegate(recorder("alpha")).delegate(json!({"type": "icy"}));
    let dir = case.dir().display().to_string();
    let script = format!(
        "cat >/dev/null; file={dir}/disk/file; [ ! -e {dir}/hangs ] || [ \"$(cat {dir}/hangs)\" != $CNI_COMMAND ] || : >$file\n\
         case $CNI_COMMAND in\n\
         ADD) echo '{{\"cniVersion\":\"1.0.0\"}}';;\n\
         DEL) [ ! -e $file ] || rm $file;;\n\
         esac"
    );
    case.script("icy", &script)
}

/// What the kernel completes of the plugin's work after DEL is undone too.
#[test]
fn a_plugin_that_hangs_in_the_kernel_on_add_is_owed() {
    let case = case();
    let Some(disk) = Disk::mount(case.dir().join("disk")) else { return };
    fs::write(case.dir().join("hangs"), "ADD").expect("say when it hangs");
    disk.freeze();
    let outcome = case.add();
    assert!(outcome.took() < SOON, "{:?}", outcome.took());
    outcome.fails(101).says("\"icy\"").says("hangs in the kernel").says("could not be stopped and may do more");
    assert!(case.owes());
    disk.thaw();
    case.del().succeeds();
    assert_eq!(disk.files(), [""; 0]);
    assert!(!case.owes());
}

#[test]
fn a_plugin_that_hangs_in_the_kernel_on_del_is_owed() {
    let case = case();
    let Some(disk) = Disk::mount(case.dir().join("disk")) else { return };
    case.add().succeeds();
    fs::write(case.dir().join("hangs"), "DEL").expect("say when it hangs");
    disk.freeze();
    let outcome = case.del();
    assert!(outcome.took() < SOON, "{:?}", outcome.took());
    outcome.fails(102).says("\"icy\"").says("hangs in the kernel");
    assert!(case.owes());
    assert_eq!(case.order(), ["ADD alpha eth0", "DEL alpha eth0"]);
    disk.thaw();
    case.del().succeeds();
    assert_eq!(disk.files(), [""; 0]);
    assert!(!case.owes());
}

fn hangs_in_the_kernel(pid: Pid) -> Option<()> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit(')').next()?.trim_start().starts_with('D').then_some(())
}

/// Here Braid itself hangs in the kernel, where it cannot be killed. It runs no plugin meanwhile, and exits when the file system
/// answers.
#[test]
fn a_state_directory_that_does_not_answer_leaves_nothing() {
    let case = Case::new().delegate(recorder("alpha")).key("timeouts", json!({"total": 1}));
    let Some(disk) = Disk::mount(case.dir().join("state")) else { return };
    let before = Instant::now();
    disk.freeze();
    let add = case.call("ADD").start();
    wait_for("a call that hangs", || hangs_in_the_kernel(add.pid()));
    wait_for("the end of its time", || (before.elapsed() > Duration::from_secs(3)).then_some(()));
    disk.thaw();
    add.wait().fails(101);
    assert!(!case.owes());
    assert!(!case.order().contains(&"ADD alpha eth0".into()), "{:?}", case.order());
}

/// The disk accepts writes, but a sync never ends.
#[test]
fn a_plan_that_is_never_synced_reaches_no_plugin() {
    let case = Case::new().delegate(recorder("alpha")).key("timeouts", json!({"plugin": 1}));
    let outcome = case.call("ADD").run_changed(|command| seccomp::hang(command, &[libc::SYS_fsync]));
    assert!(outcome.took() < SOON, "{:?}", outcome.took());
    outcome.fails(5).says("the disk has not answered for 1.").leaves_nothing();
    assert!(!case.order().contains(&"ADD alpha eth0".into()), "{:?}", case.order());
    case.add().succeeds();
    case.del().succeeds().leaves_nothing();
}
