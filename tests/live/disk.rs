//! The syncs of a change, as `strace` shows them, and a disk that does not answer.

use std::fs;
use std::path::Path;

use nix::sys::statfs::{EXT4_SUPER_MAGIC, statfs};
use serde_json::{Value, json};

use super::{STRACE, attach, detach, live, network, traced, update};
use crate::support::{Case, Json as _, Network, Plugin, recorder};

/// A container on a network with a plugin that can be given new values, and a network to be attached. The time limit of plugins
/// is a second.
fn case() -> Case {
    let chain =
        Network::new("one").plugin(recorder("alpha").link().ip("10.1.0.5/24")).plugin(Plugin::new("", "firewall"));
    let chain: Value = serde_json::from_str(&chain.into_json()).expect("JSON");
    let case = network(live(Case::new().recorder_as("firewall"), &[chain]), "blue", &[recorder("beta")]);
    let path = case.dir().join("net.d/outer.conflist");
    let mut conf: Value = serde_json::from_str(&fs::read_to_string(&path).expect("read")).expect("JSON");
    conf["plugins"][0]["timeouts"] = json!({"plugin": 1, "total": 20, "rollback": 1});
    fs::write(path, conf.to_string()).expect("write");
    case
}

fn can_trace() -> bool {
    if !Path::new(STRACE).exists() {
        eprintln!("skipped: there is no {STRACE}");
    }
    Path::new(STRACE).exists()
}

/// The syncs and renames of a change that succeeds, and whether Braid itself made one, for which there is no time limit.
fn on_disk(case: &Case, words: &[&str]) -> (Vec<String>, bool) {
    let file = case.dir().join("trace");
    let calls = "trace=fsync,fdatasync,rename,renameat,renameat2,sync,syncfs";
    let output = traced(case, &["-f", "-e", calls, "-o", &file.display().to_string()], words).output();
    assert!(output.status.success(), "{words:?}: {output:?}");
    let text = fs::read_to_string(&file).expect("the trace");
    let own = text.lines().last().and_then(|line| line.split_whitespace().next()).unwrap_or_default().to_owned();
    let mut calls = Vec::new();
    let mut is_own = false;
    for line in text.lines().filter(|line| !line.contains("resumed")) {
        let Some((process, call)) = line.split_once(char::is_whitespace) else { continue };
        let Some((name, _)) = call.trim().split_once('(') else { continue };
        is_own |= process == own;
        calls.push(name.to_owned());
    }
    (calls, is_own)
}

/// The first change writes a new journal with its own lines in it, and later ones sync one line. Another process does that while
/// the plugin starts, and the plugin waits for it.
#[test]
fn a_change_waits_for_the_disk_once() {
    if !can_trace() {
        return;
    }
    let case = case();
    case.add().succeeds();
    let anew = ["fsync", "renameat", "fsync"].map(str::to_owned).to_vec();
    assert_eq!(on_disk(&case, &["attach", "blue"]), (anew, false));
    // It also syncs the directory, if the file system does not do that together with the file.
    let is_ext4 = statfs(case.dir()).is_ok_and(|status| status.filesystem_type() == EXT4_SUPER_MAGIC);
    let words: [&[&str]; 3] =
        [&["attach", "blue"], &["update", "eth0", "--plugin", "firewall", "--set", "x=1"], &["detach", "net2"]];
    for words in words {
        let (calls, is_own) = on_disk(&case, words);
        assert!(calls.iter().all(|call| call == "fsync"), "{words:?}: {calls:?}");
        assert!(calls.len() == 1 || (!is_ext4 && calls.len() == 2), "{words:?}: {calls:?}");
        assert!(!is_own, "{words:?}");
    }
    case.del().succeeds().leaves_nothing();
}

/// No change waits for ever. None is made that is not on disk, and each can be made when the disk answers again.
#[test]
fn a_disk_that_does_not_answer() {
    if !can_trace() {
        return;
    }
    let frozen = |case: &Case, words: &[&str]| {
        let calls = case.calls().len();
        let file = case.dir().join("trace").display().to_string();
        let freeze = ["-f", "-e", "trace=fsync", "-e", "inject=fsync:delay_enter=6s", "-o", &file];
        let output = traced(case, &freeze, words).output();
        assert!(!output.status.success(), "{words:?}: {output:?}");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(said.contains("the disk has not answered"), "{words:?}: {said}");
        // The DEL of a plugin that had no input may be run.
        let new: Vec<String> = case.calls()[calls..].iter().map(ToString::to_string).collect();
        assert!(new.iter().all(|call| call.starts_with("DEL") && words[0] == "attach"), "{words:?}: {new:?}");
    };
    let case = case();
    case.add().succeeds();
    // The first change would write a new journal.
    frozen(&case, &["attach", "blue"]);
    case.check().succeeds();
    attach(&case, &["blue"]).succeeds();
    frozen(&case, &["attach", "blue"]);
    frozen(&case, &["update", "eth0", "--plugin", "firewall", "--set", "x=1"]);
    case.check().succeeds();
    update(&case, &["eth0", "--plugin", "firewall", "--set", "x=1"]).succeeds();
    frozen(&case, &["detach", "net1"]);
    detach(&case, &["net1"]).succeeds();
    case.check().succeeds();
    case.del().succeeds().leaves_nothing();
    assert!(!case.owes());
}
