//! Braid killed anywhere: before, inside and after each step of ADD, DEL and GC.
//!
//! In every case, no plugin runs longer than Braid, and the runtime's DEL leaves nothing.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::{Pid, getpgid};
use rstest::rstest;
use serde_json::json;

use crate::support::{
    Case, Network, Running, bandwidth, bridge, firewall, host_local, macvlan, ptp, recorder, tuning, wait_for,
};

const PLUGINS: [&str; 6] = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta"];

/// Three networks of two recording plugins each.
fn three_networks() -> Case {
    let network =
        |pair: &[&str]| Network::new(&format!("net-{}", pair[0])).plugin(recorder(pair[0])).plugin(recorder(pair[1]));
    PLUGINS.chunks(2).fold(Case::new(), |case, pair| case.delegate(network(pair))).cni_version("1.1.0")
}

/// Three networks of two reference plugins each.
fn three_real_networks() -> Case {
    let chain = |name: &str, plugins: [crate::support::Plugin; 2]| {
        plugins.into_iter().fold(Network::new(name), Network::plugin)
    };
    Case::with_reference_plugins()
        .host_link("uplink")
        .cni_version("1.1.0")
        .delegate(chain("one", [bridge("br-one", "10.71.1.0/24"), firewall()]))
        .delegate(chain("two", [ptp("10.71.2.0/24"), bandwidth()]))
        .delegate(chain("three", [macvlan("uplink", "10.71.3.0/24"), tuning()]))
}

/// Whether a process has exited, even if its parent has not waited for it yet.
fn is_dead(pid: Pid) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status.is_empty() || status.contains("State:\tZ") || status.contains("State:\tX")
}

fn start<'a>(case: &'a Case, verb: &str) -> Running<'a> {
    let call = case.call(verb);
    if verb == "GC" { call.key("cni.dev/valid-attachments", json!([])).start() } else { call.start() }
}

/// Calls DEL twice, as a runtime may do after any failure.
fn clean_up(case: &Case) {
    case.del().succeeds().leaves_nothing();
    case.del().succeeds().leaves_nothing();
    assert!(!case.owes());
}

#[rstest]
fn inside_each_step(
    #[values("ADD", "DEL", "GC")] verb: &str,
    #[values(Signal::SIGKILL, Signal::SIGTERM)] signal: Signal,
) {
    let case = three_networks();
    let runs = if verb == "ADD" { "ADD" } else { "DEL" };
    for (index, plugin) in PLUGINS.iter().enumerate() {
        for at in ["before", "after"] {
            if verb != "ADD" {
                case.add().succeeds();
            }
            let rendezvous = format!("{plugin}-{at}");
            case.behave(plugin, json!({"hold": {"at": at, "name": rendezvous}, "on": [runs], "ignore_sigterm": true}));
            let braid = start(&case, verb);
            let held = case.held(&rendezvous);
            braid.signal(signal);
            let braid = wait_until_dead(braid);
            assert!(!braid.success());
            case.behave(plugin, json!({}));
            if runs == "DEL" {
                // A plugin may finish its DEL; see below.
                case.release(&rendezvous);
            }
            // The plugin must be dead when the next call begins.
            let del = case.del().succeeds();
            assert!(is_dead(held), "{plugin} runs on after braid was killed");
            let calls = del.order();
            // Steps that were started are undone. Steps that were undone before the kill are not undone again. After a killed
            // ADD, it cannot be known that nothing was started after that.
            let (attempted, rest) = if verb == "ADD" { (0, PLUGINS.len() - index - 1) } else { (index + 1, 0) };
            assert_eq!(calls.len(), if verb == "ADD" { PLUGINS.len() } else { attempted }, "{calls:?}");
            assert!(calls[rest].starts_with(&format!("DEL {plugin}")), "{calls:?}");
            del.leaves_nothing();
            clean_up(&case);
        }
    }
}

fn wait_until_dead(mut braid: Running<'_>) -> std::process::ExitStatus {
    wait_for("the end of braid", || braid.ended())
}

/// DEL of the bridge plugin removes the interface first, and then the rules for its addresses. If it is killed between the two, no
/// later DEL finds these rules.
#[test]
fn a_plugin_that_is_undoing_something_may_finish_and_no_call_starts_before() {
    let case = three_networks();
    case.add().succeeds();
    case.behave("gamma", json!({"hold": {"at": "before", "name": "gamma"}, "on": ["DEL"]}));
    let braid = case.call("DEL").start();
    let held = case.held("gamma");
    braid.kill();
    case.behave("gamma", json!({}));
    let mut next = case.call("DEL").start();
    assert!(!is_dead(held) && !next.has_exited());
    case.release("gamma");
    let next = next.wait().succeeds();
    assert!(is_dead(held));
    assert_eq!(next.order().first().map(String::as_str), Some("DEL gamma net1"));
    next.leaves_nothing();
}

#[test]
fn a_plugin_that_does_not_finish_undoing_is_killed() {
    let case = three_networks();
    case.add().succeeds();
    case.behave("gamma", json!({"hold": {"at": "before", "name": "gamma"}, "on": ["DEL"], "ignore_sigterm": true}));
    let braid = case.call("DEL").start();
    let held = case.held("gamma");
    braid.kill();
    case.behave("gamma", json!({}));
    let del = case.del().succeeds();
    assert!(is_dead(held));
    del.leaves_nothing();
}

/// Braid is killed when the journal exists and at most the first step has started.
#[test]
fn before_the_first_step() {
    let case = three_networks();
    let journal = case.dir().join("state/attachments").join(Case::CONTAINER).join("eth0.jsonl");
    for _ in 0..8 {
        let braid = case.call("ADD").start();
        wait_for("the journal", || journal.exists().then_some(()));
        braid.kill();
        clean_up(&case);
    }
}

/// A service manager sends this signal to every process of a control group. The holder must live long enough to kill a plugin that
/// ignores the signal.
#[test]
fn a_plugin_that_ignores_sigterm_does_not_survive_a_sigterm_to_all() {
    let case = three_networks();
    case.behave("gamma", json!({"hold": {"at": "before", "name": "gamma"}, "on": ["ADD"], "ignore_sigterm": true}));
    let braid = case.call("ADD").start();
    let held = case.held("gamma");
    let group = getpgid(Some(held)).expect("the plugin's process group");
    killpg(group, Signal::SIGTERM).expect("signal the plugin and Braid's helper");
    kill(braid.pid(), Signal::SIGTERM).expect("signal a process of this test");
    wait_until_dead(braid);
    let del = case.del().succeeds();
    assert!(is_dead(held), "the plugin runs on");
    del.leaves_nothing();
}

/// A bridge whose host-local is replaced with a program that hangs.
#[test]
fn a_plugins_own_children_die_with_it() {
    let hanging = r#"[ "$CNI_COMMAND" = ADD ] || exit 0
sleep 1000 &
echo $! >"$RECORDER_DIR/held/sleep"
echo $$ >"$RECORDER_DIR/held/ipam"
wait"#;
    let case = Case::with_reference_plugins().script("hanging", hanging);
    let case = case.delegate(bridge("br-h", "10.72.1.0/24").key("ipam", json!({"type": "hanging"})));
    let pid = |name: &str| {
        let file = case.dir().join("recorder/held").join(name);
        wait_for(name, || fs::read_to_string(&file).ok()?.trim().parse().ok().map(Pid::from_raw))
    };
    let braid = case.call("ADD").start();
    let (sleep, ipam) = (pid("sleep"), pid("ipam"));
    braid.kill();
    let del = case.del().succeeds();
    assert!(is_dead(sleep) && is_dead(ipam), "the children of a plugin run on after braid was killed");
    del.leaves_nothing();
}

/// No DEL finds the file of an address into which host-local has not yet written the container's ID.
#[test]
fn what_a_plugin_has_started_may_finish() {
    let slow = r#"[ "$CNI_COMMAND" = ADD ] || exit 0
: >"$RECORDER_DIR/held/address"
sleep 0.1
echo "$CNI_CONTAINERID" >"$RECORDER_DIR/held/address""#;
    let case = Case::with_reference_plugins().script("slow", slow);
    let case = case.delegate(bridge("br-s", "10.72.2.0/24").key("ipam", json!({"type": "slow"})));
    let address = case.dir().join("recorder/held/address");
    let braid = case.call("ADD").start();
    wait_for("the address", || address.exists().then_some(()));
    braid.kill();
    case.del().succeeds();
    assert_eq!(fs::read_to_string(&address).unwrap().trim(), Case::CONTAINER);
    fs::remove_file(address).unwrap();
    case.del().succeeds().leaves_nothing();
}

/// Braid is killed at moments spread evenly over the time that a call takes.
#[rstest]
#[case::add("ADD", Signal::SIGKILL)]
#[case::add_terminated("ADD", Signal::SIGTERM)]
#[case::del("DEL", Signal::SIGKILL)]
#[case::gc("GC", Signal::SIGKILL)]
fn at_any_moment_with_real_plugins(#[case] verb: &str, #[case] signal: Signal) {
    const MOMENTS: u32 = 10;
    let case = three_real_networks();
    case.add().succeeds();
    clean_up(&case);
    let mut whole = Duration::ZERO;
    for moment in 0..=MOMENTS {
        if verb != "ADD" {
            case.add().succeeds();
        }
        let began = Instant::now();
        let mut braid = start(&case, verb);
        if moment == 0 {
            wait_for("the end of braid", || braid.ended());
            whole = began.elapsed();
        } else {
            thread::sleep(whole * moment / (MOMENTS + 1));
            if !braid.has_exited() {
                braid.signal(signal);
            }
            wait_until_dead(braid);
        }
        case.del().succeeds();
        forget_half_made_macvlans(&case);
        clean_up(&case);
    }
}

/// The macvlan plugin makes its interface under a temporary name, and then renames it. If it is killed between the two, it
/// leaves an interface that no DEL looks for. The interface is in the container's namespace, and is removed with that.
fn forget_half_made_macvlans(case: &Case) {
    for link in case.pod().ip_json("link show type macvlan") {
        let name = link["ifname"].as_str().unwrap_or_default();
        if name.starts_with("veth") {
            case.pod().ip(&format!("link delete {name}"));
        }
    }
}

/// The same for addresses: there must be no leak that shows only when a range is used up.
#[test]
fn an_address_is_free_again_after_a_kill() {
    let one_address = json!({"type": "host-local", "dataDir": "@DIR@/ipam",
        "ranges": [[{"subnet": "10.73.0.0/24", "rangeStart": "10.73.0.9", "rangeEnd": "10.73.0.9"}]]});
    let case = Case::with_reference_plugins()
        .delegate(bridge("br-k", "10.73.0.0/24").key("ipam", one_address))
        .delegate(ptp("10.73.1.0/24").key("ipam", host_local(&["10.73.1.0/24"])))
        .delegate(recorder("alpha"));
    for round in 0..4 {
        let rendezvous = format!("round-{round}");
        case.behave("alpha", json!({"hold": {"at": "before", "name": rendezvous}, "on": ["ADD"]}));
        let braid = case.call("ADD").start();
        case.held(&rendezvous);
        braid.kill();
        case.behave("alpha", json!({}));
        // There is no DEL in between: the second ADD undoes the first.
        case.add().succeeds();
        case.del().succeeds().leaves_nothing();
    }
}
