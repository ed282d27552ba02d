//! Many calls at once, and many in a row.

use std::collections::HashSet;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use braid_cni::cni::NetworkConfig;
use braid_cni::runtime::{Attachment, Networks};
use nix::sys::signal::Signal;
use serde_json::json;

use crate::support::{Case, Namespace, Network, braid, bridge, edit_header, ptp, recorder, wait_for};

/// The number of containers, and the number of concurrent calls.
const CONTAINERS: usize = 200;
const AT_ONCE: usize = 16;

/// Calls a function for each number below `count`, on several threads.
fn in_parallel(count: usize, act: impl Fn(usize) + Sync) {
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= count {
                        break;
                    }
                    act(number);
                }
            });
        }
    });
}

fn id(number: usize) -> String {
    format!("container-{number}")
}

/// 200 containers on one bridge with one IPAM. Half of them are deleted while others are still added, and GC runs meanwhile.
#[test]
fn two_hundred_containers_on_one_bridge() {
    let case = Case::with_reference_plugins().cni_version("1.1.0").delegate(bridge("br-load", "10.76.0.0/16"));
    // This makes the bridge, and everything that the plugins keep by design.
    case.add().succeeds();
    case.del().succeeds();
    let namespaces: Vec<_> = (0..CONTAINERS).map(|_| Namespace::new("load")).collect();
    let call = |verb: &str, number: usize| {
        case.call(verb).env("CNI_CONTAINERID", id(number)).env("CNI_NETNS", namespaces[number].path()).run_unrecorded()
    };
    let addresses = std::sync::Mutex::new(HashSet::new());
    let valid: Vec<_> = (0..CONTAINERS).map(|number| json!({"containerID": id(number), "ifname": "eth0"})).collect();
    in_parallel(CONTAINERS + 2, |number| {
        if number == CONTAINERS / 2 || number == CONTAINERS + 1 {
            let gc = case.call("GC").key("cni.dev/valid-attachments", valid.clone()).run_unrecorded();
            assert!(gc.status.success(), "{gc:?}");
        }
        if number >= CONTAINERS {
            return;
        }
        let add = call("ADD", number);
        assert!(add.status.success(), "{add:?}");
        let answer: serde_json::Value = serde_json::from_slice(&add.stdout).expect("a result");
        let address = answer["ips"][0]["address"].as_str().expect("an address").to_owned();
        if number % 2 == 0 {
            assert!(addresses.lock().expect("a lock").insert(address), "an address was given out twice");
        } else {
            let del = call("DEL", number);
            assert!(del.status.success(), "{del:?}");
        }
    });
    in_parallel(CONTAINERS, |number| {
        let del = call("DEL", number);
        assert!(del.status.success(), "{del:?}");
    });
    drop(namespaces);
    assert!(!case.owes());
    assert_eq!(case.changes(), "");
}

/// `braid install` puts one executable after another in the place of Braid while 200 containers come and go, and half of them
/// were attached by a Braid from before journals had checksums and cookies. No call fails, and nothing is left.
#[test]
fn two_hundred_containers_while_braid_is_replaced() {
    let case = Case::with_reference_plugins().delegate(bridge("br-up", "10.77.0.0/16"));
    // Unlike Braid, a shell does not try again if the executable is busy.
    let case = case
        .script("launch", r#"exec "$BRAID""#)
        .configuration("10-pods.conflist", Network::new("pods").plugin(recorder("alpha")));
    let versions = ["one", "two"].map(|name| version(case.dir(), name));
    install(&case, &versions[0]);
    let installed = case.dir().join("bin/braid");
    let call = |verb: &str, number: usize, netns: &Namespace| {
        let launch = case.call_plugin(&case.dir().join("bin/launch"), verb).env("BRAID", &installed);
        let output = launch.env("CNI_CONTAINERID", id(number)).env("CNI_NETNS", netns.path()).run_unrecorded();
        assert!(output.status.success(), "{verb} of {}: {output:?}", id(number));
    };
    // This makes the bridge, and everything that the plugins keep by design.
    case.add().succeeds();
    case.del().succeeds();
    let old: Vec<_> = (0..CONTAINERS / 2).map(|_| Namespace::new("old")).collect();
    in_parallel(old.len(), |number| {
        call("ADD", number, &old[number]);
        edit_header(&case.dir().join(format!("state/attachments/{}/eth0.jsonl", id(number))), |header| {
            assert_eq!(header["format"], 1);
            drop(header["netnsId"].as_object_mut().expect("an object").remove("cookie"));
        });
    });
    let mut replaced = 0;
    thread::scope(|scope| {
        let calls = scope.spawn(|| {
            in_parallel(CONTAINERS, |number| {
                if let Some(netns) = old.get(number) {
                    return call("DEL", number, netns);
                }
                let netns = Namespace::new("new");
                for verb in ["ADD", "CHECK", "DEL"] {
                    call(verb, number, &netns);
                }
            });
        });
        while !calls.is_finished() {
            replaced += 1;
            install(&case, &versions[replaced % 2]);
        }
        calls.join().expect("the calls");
    });
    assert!(replaced > 2, "the executable was not replaced often enough");
    drop(old);
    assert!(!case.owes());
    assert_eq!(case.changes(), "");
}

/// An executable of Braid that differs from all others.
fn version(folder: &Path, name: &str) -> PathBuf {
    let path = folder.join(name);
    fs::copy(braid(), &path).expect("copy the executable");
    let mut file = fs::File::options().append(true).open(&path).expect("open the copy");
    file.write_all(name.as_bytes()).expect("make it another one");
    path
}

/// Has a version of Braid install itself.
fn install(case: &Case, version: &Path) {
    let words =
        ["install", "--once", "--conf-dir", "@DIR@/net.d", "--bin-dir", "@DIR@/bin", "--state-dir", "@DIR@/state"];
    let output = case.command(version, &words).output();
    assert!(output.status.success(), "{output:?}");
    let [new, installed] = [version, &case.dir().join("bin/braid")].map(|path| fs::read(path).expect("an executable"));
    assert!(new == installed, "the executable is not the one that was installed");
}

/// Concurrent calls for one container run one plugin at a time, and leave nothing in the end.
#[test]
fn add_del_and_check_of_one_container_at_once() {
    let overlap = r#"mkdir "$RECORDER_DIR/busy" || touch "$RECORDER_DIR/overlap"
cat >/dev/null
[ $CNI_COMMAND = ADD ] && echo '{"cniVersion":"1.0.0"}'
rmdir "$RECORDER_DIR/busy"
exit 0"#;
    let case = Case::new().script("single", overlap);
    let case = case.delegate(crate::support::Plugin::new("net-single", "single")).delegate(recorder("alpha"));
    case.add().succeeds();
    in_parallel(60, |number| {
        let output = case.call(["ADD", "DEL", "CHECK"][number % 3]).run_unrecorded();
        // Which of them succeed depends on their order. Those that fail must fail with a CNI error.
        assert!(output.status.code().is_some(), "{output:?}");
    });
    assert!(!case.dir().join("recorder/overlap").exists(), "two calls for one container overlapped");
    case.del().succeeds().leaves_nothing();
    assert!(!case.owes());
}

/// DEL without a journal takes the lock too. Otherwise it could run at the same time as an ADD.
#[test]
fn del_of_what_was_never_added_does_not_run_beside_an_add() {
    let case = Case::new().delegate(recorder("alpha"));
    case.behave("alpha", json!({"hold": {"at": "before", "name": "del"}, "on": ["DEL"]}));
    let del = case.call("DEL").start();
    case.held("del");
    let add = case.call("ADD").key("timeouts", json!({"total": 0.2})).run();
    add.fails(11).called_nothing();
    case.release("del");
    del.wait().succeeds();
    assert!(!case.owes());
}

/// While a plugin of one container hangs, another container is added and deleted.
#[test]
fn different_containers_do_not_wait_for_one_another() {
    let case = Case::new().delegate(recorder("alpha"));
    let other = Namespace::new("other");
    case.behave("alpha", json!({"hold": {"at": "before", "name": "first"}, "on": ["ADD"]}));
    let first = case.call("ADD").start();
    case.held("first");
    case.behave("alpha", json!({}));
    for verb in ["ADD", "DEL"] {
        let call = case.call(verb).env("CNI_CONTAINERID", "second").env("CNI_NETNS", other.path());
        call.run().succeeds();
    }
    case.release("first");
    first.wait().succeeds();
    case.del().succeeds().leaves_nothing();
}

/// The process that holds a lock is killed, and the call that waits for the lock continues.
#[test]
fn a_killed_holder_holds_no_lock() {
    let case = Case::new().delegate(recorder("alpha"));
    case.behave("alpha", json!({"hold": {"at": "before", "name": "holder"}, "on": ["ADD"]}));
    let holder = case.call("ADD").start();
    case.held("holder");
    case.behave("alpha", json!({}));
    let mut waiting = case.call("DEL").start();
    assert!(!waiting.has_exited());
    holder.signal(Signal::SIGKILL);
    waiting.wait().succeeds().leaves_nothing();
    drop(holder);
    let case = case.cni_version("1.1.0");
    case.gc(&[]).succeeds();
}

/// GC waits for running calls, and calls wait for GC. No wait lasts for ever.
#[test]
fn gc_and_add_take_turns() {
    let case = Case::new().cni_version("1.1.0").delegate(recorder("alpha"));
    case.behave("alpha", json!({"hold": {"at": "before", "name": "add"}, "on": ["ADD"]}));
    let add = case.call("ADD").start();
    case.held("add");
    let gc = case.call("GC").key("cni.dev/valid-attachments", json!([])).key("timeouts", json!({"total": 0.2})).run();
    gc.fails(11).called_nothing();
    case.release("add");
    add.wait().succeeds();
    case.gc(&[]).succeeds().leaves_nothing();
}

/// GC locks the state directory for at most its own time limit.
#[test]
fn a_gc_that_hangs_holds_an_add_up_for_no_longer_than_its_own_time() {
    let case = Case::new().cni_version("1.1.0").delegate(recorder("alpha").version("1.1.0"));
    case.behave("alpha", json!({"hold": {"at": "before", "name": "never"}, "on": ["GC"], "ignore_sigterm": true}));
    let gc = case.call("GC").key("cni.dev/valid-attachments", json!([])).key("timeouts", json!({"total": 2})).start();
    case.held("never");
    let add = case.add().succeeds();
    assert!(add.took() < Duration::from_secs(10), "{:?}", add.took());
    gc.wait().fails(101).says("\"alpha\"");
    case.del().succeeds().leaves_nothing();
}

/// The cycles of a long run: fifty, or `BRAID_TEST_CYCLES`.
fn cycles() -> usize {
    std::env::var("BRAID_TEST_CYCLES").ok().and_then(|n| n.parse().ok()).unwrap_or(50)
}

/// A process that uses the library as a runtime has the same number of descriptors and children before and after a long run. Its
/// plugins succeed, fail, are missing or hang.
#[test]
fn a_runtime_in_one_process_leaks_no_descriptor() {
    const INSIDE: &str = "BRAID_TEST_INSIDE";
    const NAME: &str = "faults::load::a_runtime_in_one_process_leaks_no_descriptor";
    if let Some(dir) = std::env::var_os(INSIDE) {
        return play_the_runtime(Path::new(&dir));
    }
    let case = Case::new()
        .script("answers", "echo '{\"cniVersion\":\"1.0.0\"}'")
        .script("fails", "exit 1")
        .script("hangs", "[ $CNI_COMMAND = DEL ] || exec sleep 1000");
    // Other tests in this process open descriptors at the same time, so this one runs in a process of its own.
    let mut alone = Command::new(std::env::current_exe().expect("this program"));
    let output = alone.args(["--exact", NAME]).env(INSIDE, case.dir()).output().expect("run this test alone");
    assert!(output.status.success(), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"), "{output:?}");
}

fn play_the_runtime(dir: &Path) {
    let network = |plugin: &str| -> NetworkConfig {
        let plugins = json!([{"type": "answers"}, {"type": plugin}]);
        json!({"cniVersion": "1.0.0", "name": plugin, "plugins": plugins}).to_string().parse().expect("a network")
    };
    let bin = dir.join("bin");
    let runtime = || Networks::new(bin.to_str().expect("UTF-8")).with_cache_dir(&dir.join("cache"));
    let (patient, hasty) = (runtime(), runtime().with_plugin_timeout(Duration::from_millis(300)));
    let container = Attachment::new("container", "/run/netns/container", "eth0");
    let cycle = |number: usize| {
        patient.add(&network("answers"), &container).expect("ADD");
        patient.del(&network("answers"), &container).expect("DEL");
        if number.is_multiple_of(10) {
            patient.add(&network("fails"), &container).expect_err("a plugin that fails");
            patient.add(&network("missing"), &container).expect_err("a plugin that is not there");
        }
        if number.is_multiple_of(1000) {
            hasty.add(&network("hangs"), &container).expect_err("a plugin that hangs");
        }
    };
    let open = || fs::read_dir("/proc/self/fd").expect("/proc").count();
    cycle(0);
    let before = (open(), children());
    (0..cycles()).for_each(cycle);
    assert_eq!((open(), children()), before, "descriptors and children");
    drop((patient, hasty));
    assert_eq!(children(), 0);
    assert_eq!(fs::read_dir(dir.join("cache/results")).expect("the cache").count(), 0);
}

/// The number of children of this process, including zombies.
fn children() -> usize {
    let parent = std::process::id().to_string();
    let stats = fs::read_dir("/proc").expect("/proc").flatten();
    let stats = stats.filter_map(|process| fs::read_to_string(process.path().join("stat")).ok());
    // The state and then the parent follow the name in parentheses.
    let parents = stats.filter_map(|stat| Some(stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.to_owned()));
    parents.filter(|other| *other == parent).count()
}

/// The same as the run below, with fewer cycles, over a bridge with addresses and packet filter rules.
#[test]
fn a_long_run_over_a_real_bridge_leaves_nothing() {
    let case = Case::with_reference_plugins();
    let case = case.delegate(bridge("br-long", "10.77.0.0/24")).delegate(ptp("10.78.0.0/24").key("name", "net-p"));
    case.add().succeeds();
    case.del().succeeds();
    let after_one = case.changes();
    for cycle in 0..cycles().div_ceil(33) {
        for verb in ["ADD", "DEL"] {
            let output = case.call(verb).run_unrecorded();
            assert!(output.status.success(), "cycle {cycle}: {output:?}");
        }
    }
    assert!(!case.owes());
    assert_eq!(case.changes(), after_one);
}

/// Many cycles leave no file, descriptor, lock, zombie or namespace.
#[test]
fn a_long_run_leaves_nothing() {
    let case = Case::new().delegate(recorder("alpha").link()).delegate(recorder("beta"));
    case.add().succeeds();
    case.del().succeeds().leaves_nothing();
    // Children that Braid did not wait for would be children of this process now, or of init.
    let of_this_run = case.dir().to_str().expect("UTF-8").to_owned();
    // Locks are listed by inode.
    let state = fs::metadata(case.dir().join("state")).expect("the state directory");
    let inode = format!(":{} ", std::os::unix::fs::MetadataExt::ino(&state));
    let locks =
        || fs::read_to_string("/proc/locks").expect("locks").lines().filter(|line| line.contains(&inode)).count();
    let calls = case.dir().join("recorder/calls");
    for cycle in 0..cycles() {
        for verb in ["ADD", "DEL"] {
            let output = case.call(verb).run_unrecorded();
            assert!(output.status.success(), "cycle {cycle}: {output:?}");
        }
        // The recorder numbers its records, and searches for the first free number, so the records are removed.
        fs::remove_dir_all(&calls).expect("forget the calls");
        fs::create_dir(&calls).expect("make the folder anew");
    }
    assert!(!case.owes());
    assert_eq!(case.changes(), "");
    wait_for("the last lock to go", || (locks() == 0).then_some(()));
    assert!(!processes_with(&of_this_run), "a process of this run is left");
    let attachments = fs::read_dir(case.dir().join("state/attachments")).expect("a folder").count();
    assert_eq!(attachments, 0);
}

/// Whether a process other than this one has a text in its environment.
fn processes_with(text: &str) -> bool {
    let processes = fs::read_dir("/proc").expect("/proc").flatten();
    let environments = processes.filter_map(|process| fs::read(process.path().join("environ")).ok());
    let mut environments = environments;
    environments.any(|environment| environment.windows(text.len()).any(|part| part == text.as_bytes()))
}
