//! The state directory in every condition: full, read-only, gone, forbidden, torn, replaced.
//!
//! DEL never reports success if something leaks, and never fails for ever if nothing can be done.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::PathBuf;
use std::process::Command;

use rstest::rstest;
use serde_json::{Value, json};

use crate::support::{Case, braid, bridge, edit_header, edit_journal, recorder};

fn case() -> Case {
    Case::new().delegate(recorder("alpha")).delegate(recorder("beta"))
}

fn container(case: &Case) -> PathBuf {
    case.dir().join("state/attachments").join(Case::CONTAINER)
}

fn journal(case: &Case) -> PathBuf {
    container(case).join("eth0.jsonl")
}

/// What `braid list` prints for the state directory.
fn list(case: &Case) -> String {
    let output = Command::new(braid()).args(["list", "--state-dir"]).arg(case.dir().join("state")).output();
    let output = output.expect("run braid list");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// A file system of its own in place of the state directory, unmounted when dropped.
struct Mount(PathBuf);

impl Mount {
    fn tmpfs(case: &Case, options: &str) -> Self {
        let place = case.dir().join("state");
        fs::create_dir_all(&place).expect("make the state directory");
        run("mount", &["-t", "tmpfs", "-o", options, "braid-test", place.to_str().expect("UTF-8")]);
        Self(place)
    }

    fn remount(&self, options: &str) {
        run("mount", &["-o", &format!("remount,{options}"), self.0.to_str().expect("UTF-8")]);
    }

    /// Fills the file system.
    fn fill(&self) {
        let mut block = vec![b'x'; 1 << 20];
        let mut file = fs::File::create(self.0.join("filler")).expect("make a file");
        while !block.is_empty() {
            if std::io::Write::write_all(&mut file, &block).is_err() {
                block.truncate(block.len() / 2);
            }
        }
    }

    fn empty(&self) {
        fs::remove_file(self.0.join("filler")).expect("remove the filler");
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").args(["-l", self.0.to_str().expect("UTF-8")]).status();
    }
}

fn run(program: &str, words: &[&str]) {
    let output = Command::new(program).args(words).output().expect("run the program");
    assert!(output.status.success(), "{program} {words:?}: {output:?}");
}

#[test]
fn a_full_disk_before_add_and_during_it() {
    let case = case();
    let mount = Mount::tmpfs(&case, "size=256k,nr_inodes=64");
    mount.fill();
    case.add().fails(5).says("state").called_nothing();
    assert!(!journal(&case).exists());
    mount.empty();

    // It is full after the first plugin has run.
    let fill = format!(
        "cat >/dev/null\n[ \"$CNI_COMMAND\" = ADD ] && dd if=/dev/zero of={}/filler bs=64k 2>/dev/null\n\
         [ \"$CNI_COMMAND\" = ADD ] && dd if=/dev/zero of={}/filler2 bs=1 2>/dev/null\necho '{{\"cniVersion\":\"1.0.0\"}}'",
        mount.0.display(),
        mount.0.display(),
    );
    let case = case.script("filler", &fill).clear().delegate(recorder("alpha"));
    let case = case.delegate(crate::support::Plugin::new("net-filler", "filler"));
    // Longer than the rest of the journal's last block.
    let case = case.delegate(recorder("beta").instructed("dns", json!({"domain": "x".repeat(8192)})));
    let outcome = case.add().fails(5).says("eth0.jsonl");
    assert!(outcome.order().starts_with(&["ADD alpha eth0".to_owned()]), "{:?}", outcome.order());
    assert!(outcome.order().contains(&"DEL alpha eth0".to_owned()), "{:?}", outcome.order());
    let _ = fs::remove_file(mount.0.join("filler2"));
    mount.empty();
    case.del().succeeds();
    assert!(!case.owes());
    assert_eq!(fs::read_dir(case.dir().join("recorder/state")).expect("a folder").count(), 0);
}

#[test]
fn a_disk_that_is_full_at_del() {
    let case = case();
    let mount = Mount::tmpfs(&case, "size=256k,nr_inodes=64");
    case.add().succeeds();
    mount.fill();
    case.del().succeeds().called(&["DEL beta net1", "DEL alpha eth0"]);
    mount.empty();
    assert!(!case.owes());
}

#[test]
fn a_read_only_state_directory() {
    let case = case();
    let mount = Mount::tmpfs(&case, "size=1m");
    case.add().succeeds();
    mount.remount("ro");
    // What can be undone is undone, and the journal that stays keeps DEL from reporting success.
    case.del().fails(5).says("eth0.jsonl").called(&["DEL beta net1", "DEL alpha eth0"]);
    assert!(journal(&case).exists());
    case.env("CNI_CONTAINERID", "another").add().fails(5).says("state").called_nothing();
    drop(mount);
}

#[test]
fn what_a_read_only_state_directory_prevents_is_done_later() {
    let case = case();
    let mount = Mount::tmpfs(&case, "size=1m");
    case.add().succeeds();
    mount.remount("ro");
    case.del().fails(5);
    mount.remount("rw");
    case.del().succeeds().leaves_nothing();
    assert!(!case.owes());
}

#[test]
fn del_with_a_read_only_state_directory_and_no_journal_is_no_failure() {
    let case = case();
    let mount = Mount::tmpfs(&case, "size=1m,ro");
    case.del().succeeds().called(&["DEL beta net1", "DEL alpha eth0"]);
    drop(mount);
}

#[test]
fn a_state_directory_that_is_gone() {
    let case = case();
    case.add().succeeds();
    fs::remove_dir_all(case.dir().join("state")).expect("lose the state");
    // It is undone by the configuration, as far as possible.
    case.del().succeeds().called(&["DEL beta net1", "DEL alpha eth0"]).leaves_nothing();
}

#[rstest]
#[case::state("state")]
#[case::attachments("state/attachments")]
fn a_state_directory_that_is_a_file(#[case] path: &str) {
    let case = case().cni_version("1.1.0");
    let path = case.dir().join(path);
    fs::create_dir_all(path.parent().expect("a folder")).expect("make the folder");
    fs::write(&path, "").expect("write a file");
    case.add().fails(5).called_nothing();
    // There may be journals that it hides. DEL cannot know, and fails until somebody has looked.
    case.del().fails(5).called_nothing();
    fs::remove_file(&path).expect("mend it");
    case.add().succeeds();
    case.del().succeeds();
    assert!(!case.owes());
}

/// Braid runs without root's capabilities, so permissions apply to it.
#[test]
fn a_state_directory_that_may_not_be_used() {
    let case = case();
    let state = case.dir().join("state");
    case.add().succeeds();
    let conf = format!(
        r#"{{"cniVersion":"1.0.0","name":"outer","type":"braid","stateDir":"{}","delegates":[{{"type":"alpha"}}]}}"#,
        state.display()
    );
    for verb in ["ADD", "DEL", "CHECK"] {
        let script = format!(
            "printf '%s' '{conf}' | CNI_COMMAND={verb} CNI_CONTAINERID={} CNI_IFNAME=eth0 CNI_NETNS={} CNI_PATH={} {}",
            Case::CONTAINER,
            case.pod().path().display(),
            case.cni_path().to_string_lossy(),
            braid().display(),
        );
        fs::set_permissions(case.dir(), fs::Permissions::from_mode(0o755)).expect("let others in");
        let output = Command::new("setpriv")
            .args(["--reuid=65534", "--regid=65534", "--clear-groups", "sh", "-c", &script])
            .output()
            .expect("run setpriv");
        let answer: Value =
            serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{verb}: {e}: {output:?}"));
        assert!(!output.status.success() && answer["code"] == 5, "{verb}: {answer}");
        assert!(answer["msg"].as_str().is_some_and(|msg| msg.contains("state")), "{answer}");
    }
    case.del().succeeds().leaves_nothing();
}

#[rstest]
#[case::not_json("no journal\n")]
#[case::another_object("{}\n{}\n")]
#[case::newer_format("{\"format\":99,\"plan\":{}}\n")]
#[case::no_plan("{\"format\":1}\n")]
#[case::binary("\u{0}\u{0}\u{0}\n")]
#[case::negative_time("{\"format\":1,\"time\":-5,\"boot\":\"\",\"plan\":{}}\n")]
fn a_journal_that_cannot_be_used_is_set_aside_reported_and_listed(#[case] text: &str) {
    let case = case().cni_version("1.1.0");
    case.add().succeeds();
    fs::write(journal(&case), text).expect("spoil the journal");
    // DEL fails, because it is not known what leaks. What the configuration describes is undone anyway.
    case.del().fails(102).says("eth0.jsonl.corrupt").called(&["DEL beta net1", "DEL alpha eth0"]);
    assert!(list(&case).contains("eth0.jsonl.corrupt"));
    case.status().succeeds().stderr_contains("eth0.jsonl.corrupt");
    // The container can be removed, and attached again.
    case.del().succeeds();
    case.add().succeeds();
    case.del().succeeds();
    assert!(list(&case).contains("eth0.jsonl.corrupt"), "it is kept for whoever cleans up");
}

#[rstest]
#[case::directory("mkdir")]
#[case::link("ln")]
#[case::pipe("mkfifo")]
fn a_journal_that_is_no_file_is_set_aside(#[case] kind: &str) {
    let case = case();
    case.add().succeeds();
    let (journal, elsewhere) = (journal(&case), case.dir().join("elsewhere"));
    fs::rename(&journal, &elsewhere).expect("move the journal");
    match kind {
        "mkdir" => fs::create_dir(&journal).expect("make a folder"),
        "ln" => symlink(&elsewhere, &journal).expect("make a link"),
        _ => run("mkfifo", &[journal.to_str().expect("UTF-8")]),
    }
    let before = fs::read(&elsewhere).expect("the journal");
    case.del().fails(102).says("not a regular file");
    assert_eq!(fs::read(&elsewhere).expect("the journal"), before, "a link was followed");
    case.del().succeeds();
}

/// A journal that is empty, or ends within its first line. No plugin has run, because that line is synced before the first one
/// runs.
#[rstest]
#[case("")]
#[case("{\"format\":1,\"ti")]
fn a_journal_that_ends_within_its_first_line(#[case] text: &str) {
    let case = case().cni_version("1.1.0");
    fs::create_dir_all(container(&case)).expect("make the folder");
    fs::write(journal(&case), text).expect("write a journal");
    case.gc(&[]).succeeds();
    assert!(!case.owes());
    fs::create_dir_all(container(&case)).expect("make the folder");
    fs::write(journal(&case), text).expect("write a journal");
    case.add().succeeds();
    case.del().succeeds();
    assert!(!case.owes());
}

/// If it stayed there, the container could never be removed.
#[rstest]
#[case::link(true)]
#[case::file(false)]
fn a_containers_directory_that_is_no_directory_is_set_aside(#[case] link: bool) {
    let case = case().cni_version("1.1.0");
    case.add().succeeds();
    let (folder, elsewhere) = (container(&case), case.dir().join("elsewhere"));
    fs::rename(&folder, &elsewhere).expect("move the folder");
    if link {
        symlink(&elsewhere, &folder).expect("make a link");
    } else {
        fs::write(&folder, "").expect("write a file");
    }
    assert!(list(&case).contains(Case::CONTAINER));
    case.del().fails(102).says("by hand").called_nothing();
    assert!(elsewhere.join("eth0.jsonl").exists(), "a link was followed");
    assert!(list(&case).contains("set aside"));
    case.status().succeeds().stderr_contains(".not-a-directory");
    case.del().succeeds().called(&["DEL beta net1", "DEL alpha eth0"]);
    case.add().succeeds();
    case.gc(&[(Case::CONTAINER, "eth0")]).succeeds();
    case.del().succeeds();
}

/// There is one journal for each interface of a container. It is undone even if the network has another name now, usually because
/// its configuration was renamed.
#[test]
fn a_journal_of_another_network_under_the_same_id() {
    let case = case();
    case.add().succeeds();
    let case = case.key("name", "renamed");
    case.add().fails(104).says("\"outer\"").called_nothing();
    case.del().succeeds().called(&["DEL beta net1", "DEL alpha eth0"]).leaves_nothing();
}

#[test]
fn a_journal_of_another_container_is_not_used() {
    let case = case();
    case.add().succeeds();
    let other = container(&case).with_file_name("other");
    fs::create_dir(&other).expect("make a folder");
    fs::copy(journal(&case), other.join("eth0.jsonl")).expect("copy the journal");
    case.call("DEL").env("CNI_CONTAINERID", "other").run().fails(102).says("container-1");
    case.del().succeeds();
}

#[test]
fn only_the_owner_can_read_journals() {
    let case = case();
    case.add().succeeds();
    let mode = |path: PathBuf| fs::metadata(path).expect("it is there").permissions().mode() & 0o7777;
    assert_eq!(mode(journal(&case)), 0o600);
    assert_eq!(mode(container(&case)), 0o700);
    assert_eq!(mode(case.dir().join("state/attachments")), 0o700);
    assert_eq!(mode(case.dir().join("state")), 0o700);
}

/// Braid must not write a journal that it could not read again: DEL would have to set it aside.
#[test]
fn a_journal_never_grows_too_large_to_be_read() {
    let long = |kind: &str| recorder(kind).instructed("flood_mb", 15).instructed("on", json!(["ADD"]));
    let plugins = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta"];
    let case = Case::new();
    // White space is removed, but a long string is kept.
    for plugin in plugins {
        let script = format!(
            "cat >/dev/null\n[ $CNI_COMMAND = ADD ] || exit 0\nprintf '{{\"cniVersion\":\"1.0.0\",\"dns\":{{\"domain\":\"'\n\
             head -c 15000000 /dev/zero | tr '\\0' x\nprintf '\"}}}}'\n: {plugin}"
        );
        fs::remove_file(case.dir().join("bin").join(plugin)).expect("take the recorder away");
        fs::write(case.dir().join("bin").join(plugin), format!("#!/bin/sh\n{script}\n")).expect("write the script");
        fs::set_permissions(case.dir().join("bin").join(plugin), fs::Permissions::from_mode(0o755)).expect("chmod");
    }
    let case = plugins
        .iter()
        .chain(&plugins)
        .chain(&plugins[..2])
        .enumerate()
        .fold(case, |case, (index, kind)| case.delegate(long(kind).key("name", format!("net-{index}"))));
    case.add().fails(5).says("256 MiB").leaves_nothing();
    assert!(!case.owes());
}

/// `list` and GC only show the time.
#[rstest]
#[case::future(u64::MAX)]
#[case::past(0)]
fn a_clock_that_jumped(#[case] time: u64) {
    let case = case().cni_version("1.1.0");
    case.add().succeeds();
    edit_header(&journal(&case), |header| header["time"] = json!(time));
    assert!(list(&case).contains("attached"));
    case.gc(&[(Case::CONTAINER, "eth0")]).succeeds();
    assert!(case.owes());
    case.gc(&[]).succeeds().leaves_nothing();
}

#[test]
fn events_lost_in_a_power_failure_leak_nothing() {
    let case = Case::with_reference_plugins().delegate(bridge("br-p", "10.74.1.0/24")).delegate(recorder("alpha"));
    case.add().succeeds();
    edit_journal(&journal(&case), |lines| lines.truncate(1));
    let text = fs::read_to_string(journal(&case)).expect("the journal");
    let mut header: serde_json::Map<String, Value> = serde_json::from_str(&text).expect("JSON");
    header["boot"] = json!("another boot");
    fs::write(journal(&case), format!("{}\n", Value::from(header))).expect("write the journal");
    case.del().succeeds().called(&["DEL alpha net1"]).leaves_nothing();
}

/// A journal from before lines had checksums. It is not undone in part: DEL uses the configuration instead, and somebody has to
/// look at the journal.
#[rstest]
#[case::no_attachments(|plan: &mut Value| plan["attachments"] = json!([]))]
#[case::one_attachment_less(|plan: &mut Value| drop(plan["attachments"].as_array_mut().expect("a list").pop()))]
#[case::no_plugins(|plan: &mut Value| plan["attachments"][0]["network"]["plugins"] = json!([]))]
#[case::another_interface(|plan: &mut Value| plan["attachments"][0]["ifname"] = json!("eth1"))]
fn a_plan_that_is_not_the_one_that_was_carried_out_is_corrupt(
    #[case] damage: fn(&mut Value),
    #[values("DEL", "GC")] verb: &str,
) {
    let case = case().cni_version("1.1.0");
    case.add().succeeds();
    edit_header(&journal(&case), |header| damage(&mut header["plan"]));
    if verb == "DEL" {
        case.del().fails(102).says("eth0.jsonl.corrupt").called(&["DEL beta net1", "DEL alpha eth0"]);
    } else {
        case.gc(&[]).fails(102).says("eth0.jsonl.corrupt").called_nothing();
    }
    assert!(list(&case).contains("eth0.jsonl.corrupt"), "{}", list(&case));
}

/// With a flipped bit in a name, DEL would undo something else, or nothing.
#[test]
fn any_damage_is_found() {
    let case = case();
    case.add().succeeds();
    let whole = fs::read(journal(&case)).expect("the journal");
    let lines = whole.split(|byte| *byte == b'\n').count() - 1;
    let read = || braid_cni::transaction::journal::read(&fs::read(journal(&case)).expect("the journal"));
    for at in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[at] ^= 1;
        fs::write(journal(&case), &damaged).expect("write the journal");
        // Without its line end, the line is joined to the next one, or is incomplete.
        let found = read().map_or(true, |read| read.is_none_or(|read| read.state.unreadable > 0));
        let last = at == whole.len() - 1;
        assert!(found || last, "byte {at} of {} in {lines} lines", whole.len());
    }
    fs::write(journal(&case), &whole).expect("write the journal");
    case.del().succeeds().leaves_nothing();
}

/// A full disk, or a power failure, can leave a journal like this.
#[rstest]
#[case::complete_lost(1)]
#[case::the_second_attachment_lost(3)]
#[case::all_lost(5)]
fn events_that_are_lost_at_the_end_leak_nothing(#[case] lost: usize) {
    let case = case();
    case.add().succeeds();
    let text = fs::read_to_string(journal(&case)).expect("the journal");
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    assert_eq!(lines.len(), 6, "{text}");
    fs::write(journal(&case), lines[..lines.len() - lost].concat()).expect("cut the journal");
    case.del().succeeds().called(&["DEL beta net1", "DEL alpha eth0"]).leaves_nothing();
    assert!(!case.owes());
}

/// The step most likely never ran. Then it has nothing to undo, and its plugin may refuse DEL for that reason.
#[test]
fn a_step_that_was_not_started_owes_nothing() {
    let case = Case::new().delegate(recorder("alpha")).delegate(recorder("beta").failing("DEL", 143));
    case.add().succeeds();
    let text = fs::read_to_string(journal(&case)).expect("the journal");
    let first: String = text.split_inclusive('\n').take(3).collect();
    fs::write(journal(&case), first).expect("cut the journal");
    let outcome = case.del().succeeds().called(&["DEL beta net1", "DEL alpha eth0"]);
    outcome.stderr_contains("beta refuses DEL");
    assert!(!case.owes());
}

/// A line in the middle is missing. The lines after it are used, and every step counts as started.
#[test]
fn a_line_that_is_missing_is_noticed() {
    let case = Case::new().delegate(recorder("alpha")).delegate(recorder("beta").failing("DEL", 143));
    case.add().succeeds();
    let text = fs::read_to_string(journal(&case)).expect("the journal");
    let mut lines: Vec<&str> = text.split_inclusive('\n').collect();
    lines.drain(3..5);
    fs::write(journal(&case), lines.concat()).expect("cut the journal");
    case.del().fails_with_any_code().says("beta refuses DEL").called(&["DEL beta net1", "DEL alpha eth0"]);
}

#[test]
fn add_over_a_corrupt_journal_leaves_it_among_the_debts() {
    let case = case().cni_version("1.1.0");
    case.add().succeeds();
    fs::write(journal(&case), "rubbish\n").expect("spoil the journal");
    case.add().succeeds().stderr_contains("eth0.jsonl.corrupt");
    assert!(list(&case).contains("container-1/eth0.jsonl.corrupt") || list(&case).contains("eth0.jsonl.corrupt"));
    case.status().succeeds().stderr_contains("eth0.jsonl.corrupt");
    case.del().succeeds();
    assert!(!case.owes());
    assert!(case.dir().join("state/debts/container-1/eth0.jsonl.corrupt").is_file());
}

/// Journals that an earlier version has set aside in another place are moved to the debts, which STATUS reports.
#[test]
fn what_was_set_aside_before_is_among_the_debts_after_gc() {
    let case = case().cni_version("1.1.0");
    case.add().succeeds();
    fs::write(container(&case).join("eth1.jsonl.corrupt"), "rubbish").expect("write a file");
    case.gc(&[(Case::CONTAINER, "eth0")]).succeeds();
    case.status().succeeds().stderr_contains("eth1.jsonl.corrupt");
    assert!(list(&case).contains("eth1.jsonl.corrupt"));
    case.del().succeeds();
    assert!(!case.owes());
}
