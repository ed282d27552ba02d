//! Network namespaces for the tests.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;
use std::panic;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};
use std::{env, process, thread};

use nix::sched::{CloneFlags, setns};

use super::Machine;

/// The prefix of the names of everything that a test makes. The process ID follows, then a number.
pub(super) const PREFIX: &str = "braid-test";
const FOLDER: &str = "/run/netns";

/// A named network namespace, removed with everything in it when dropped.
///
/// Its name contains the ID of the process that made it, so that the next test can remove what a killed test has left.
pub(crate) struct Namespace {
    name: String,
}

impl Namespace {
    /// Makes a namespace. `role` is a part of its name, for readers.
    pub(crate) fn new(role: &str) -> Self {
        static SWEEP: Once = Once::new();
        static COUNT: AtomicU32 = AtomicU32::new(0);
        SWEEP.call_once(Self::sweep);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}-{}-{count}-{role}", process::id());
        expect_success(Command::new("ip").args(["netns", "add", &name]));
        let namespace = Self { name };
        namespace.ip("link set lo up");
        namespace
    }

    pub(crate) fn path(&self) -> PathBuf {
        Path::new(FOLDER).join(&self.name)
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// What distinguishes this namespace from any other, as in the links of `/proc/<pid>/ns/`.
    pub(crate) fn inode(&self) -> u64 {
        fs::metadata(self.path()).expect("the namespace is there").ino()
    }

    /// Runs a function inside the namespace, in a thread of its own. Processes that it starts are inside too.
    pub(crate) fn inside<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        inside_network(&self.path(), act)
    }

    /// Runs a command line inside and returns its standard output; it must succeed.
    pub(crate) fn run(&self, line: &str) -> String {
        let output = self.try_run(line);
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("UTF-8")
    }

    /// Runs a command line inside, and ignores its outcome.
    pub(crate) fn try_run(&self, line: &str) -> Output {
        let mut words = line.split_whitespace();
        let program = words.next().expect("a program");
        let output = self.inside(|| Command::new(program).args(words).output());
        output.unwrap_or_else(|e| panic!("run {program}: {e} (see tests/run.sh for what the tests need)"))
    }

    /// Runs `ip` with these arguments inside. It must succeed.
    pub(crate) fn ip(&self, words: &str) -> String {
        self.run(&format!("ip {words}"))
    }

    /// The output of `ip -j` with these arguments inside.
    pub(crate) fn ip_json(&self, words: &str) -> Vec<serde_json::Value> {
        let text = self.ip(&format!("-j {words}"));
        // If there is nothing to list, `ip -j` prints nothing or an empty list, depending on its version.
        if text.trim().is_empty() { Vec::new() } else { serde_json::from_str(&text).expect("ip -j prints a list") }
    }

    /// Removes what tests of dead processes have left: namespaces, cgroups, and folders in the temporary folder.
    pub(crate) fn sweep() {
        Machine::remove_cgroups(is_left);
        for folder in [PathBuf::from(FOLDER), env::temp_dir()] {
            let entries = fs::read_dir(&folder).into_iter().flatten().flatten();
            for name in entries.filter_map(|entry| entry.file_name().into_string().ok()) {
                if !is_left(&name) {
                    continue;
                }
                if folder == Path::new(FOLDER) {
                    remove(&name);
                } else {
                    // Another user's is not ours to remove.
                    let _ = fs::remove_dir_all(folder.join(&name));
                }
            }
        }
    }
}

/// Runs a function inside the network namespace at a path, in a thread of its own. Processes that it starts are inside too.
pub(crate) fn inside_network<T: Send>(path: &Path, act: impl FnOnce() -> T + Send) -> T {
    let enter_and_act = || {
        let namespace = File::open(path).expect("the namespace is there");
        setns(namespace, CloneFlags::CLONE_NEWNET).expect("enter the namespace (the tests need root)");
        act()
    };
    thread::scope(|scope| scope.spawn(enter_and_act).join()).unwrap_or_else(|fault| panic::resume_unwind(fault))
}

/// Whether something of this name was made by a test whose process is dead.
fn is_left(name: &str) -> bool {
    let pid = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').nth(1));
    pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists())
}

impl Drop for Namespace {
    fn drop(&mut self) {
        remove(&self.name);
    }
}

fn remove(name: &str) {
    // Another test process may be sweeping the same name, and a panic while dropping would end the whole run.
    let _ = Command::new("ip").args(["netns", "del", name]).output();
}

fn expect_success(command: &mut Command) {
    let output = command.output().expect("run ip (the tests need iproute2)");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
