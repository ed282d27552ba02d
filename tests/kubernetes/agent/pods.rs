//! Pods whose networks change.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::json;

use super::stand_in::{Agent, StandIn, attached_pod, container, journal, journal_at, pod};
use crate::kubernetes::cluster::{ApiServer as _, Cluster};
use crate::kubernetes::double::Double;
use crate::kubernetes::in_cluster;
use crate::support::{Case, wait_for};

/// A node with the stand-in and no pod.
fn node() -> (Case, Cluster<Double>, StandIn) {
    let (case, api) = in_cluster(Case::new());
    let stand_in = StandIn::new(&case);
    (case, api, stand_in)
}

/// Waits until the stand-in was called so often for a container.
fn called(stand_in: &StandIn, container: &str, times: usize) {
    wait_for(&format!("call {times} for {container}"), || (stand_in.calls_for(container) >= times).then_some(()));
}

#[test]
fn each_edit_of_the_annotation_is_one_call_for_the_container_of_the_pod() {
    let (case, api, stand_in) = node();
    attached_pod(&case, &api, "shop", "one");
    pod(&api, "elsewhere", "one");
    let agent = Agent::start(&case, &[]);
    // The agent checks once whether the pod has what it asks for.
    called(&stand_in, &container("shop"), 1);
    let began = Instant::now();
    pod(&api, "shop", "one,two");
    called(&stand_in, &container("shop"), 2);
    eprintln!("from the edit to the call: {:?}", began.elapsed());
    pod(&api, "shop", "");
    called(&stand_in, &container("shop"), 3);
    // An event without a change leads to no run.
    api.server.put_status("/api/v1/namespaces/web/pods/shop", json!({"phase": "Running"}));
    pod(&api, "shop", "three");
    called(&stand_in, &container("shop"), 4);
    let line = case.expand(&format!("sync {} --by agent --state-dir @DIR@/state -o json", container("shop")));
    assert_eq!(stand_in.calls(), vec![line; 4]);
    assert!(agent.get("/healthz").unwrap().1.starts_with("ok: 2 pods, 0 of them"), "{:?}", agent.get("/healthz"));
    assert_eq!(agent.get("/other").unwrap().0, 404);
}

#[test]
fn a_child_gets_nothing_of_the_agents_environment() {
    let (case, api, stand_in) = node();
    attached_pod(&case, &api, "shop", "one");
    let _agent = Agent::start(&case, &[]);
    called(&stand_in, &container("shop"), 1);
    let environment = stand_in.read("environment");
    let mut names: Vec<&str> = environment.lines().filter_map(|line| line.split('=').next()).collect();
    names.retain(|name| !["PWD", "SHLVL", "_", "OLDPWD"].contains(name));
    names.sort_unstable();
    assert_eq!(names, ["CNI_CACHE_DIR", "CNI_PATH", "NETCONFPATH", "PATH"]);
}

#[test]
fn a_pod_is_looked_at_when_its_container_is_attached() {
    let (case, api, stand_in) = node();
    pod(&api, "shop", "one");
    pod(&api, "plain", "");
    let agent = Agent::start(&case, &[]);
    wait_for("both pods", || agent.get("/healthz").filter(|(_, text)| text.contains("2 pods")));
    journal(&case, &container("plain"), &api.uid("web", "plain"));
    journal(&case, &container("shop"), &api.uid("web", "shop"));
    called(&stand_in, &container("shop"), 1);
    // A pod that asks for nothing has been attached correctly.
    assert_eq!(stand_in.calls_for(&container("plain")), 0);
    pod(&api, "plain", "two");
    called(&stand_in, &container("plain"), 1);
}

/// The runtime has lost the first container of a pod, and the machine's clock was set back after that.
#[test]
fn the_newest_container_of_a_pod_is_known_though_the_clock_was_set_back() {
    let (case, api, stand_in) = node();
    pod(&api, "shop", "one");
    let uid = api.uid("web", "shop");
    journal_at(&case, ("first", &uid), "/run/netns/none", 1_795_244_965_024);
    let mut agent = Agent::start(&case, &[]);
    called(&stand_in, "first", 1);
    let netns = case.pod().path();
    journal_at(&case, ("second", &uid), netns.to_str().expect("UTF-8"), 1_795_200_000_000);
    called(&stand_in, "second", 1);
    pod(&api, "shop", "two");
    called(&stand_in, "second", 2);
    // An agent that starts with both containers chooses the right one too.
    agent.signal(Signal::SIGKILL);
    agent.wait();
    let _agent = Agent::start(&case, &[]);
    called(&stand_in, "second", 3);
    assert_eq!(stand_in.calls_for("first"), 1);
}

#[test]
fn what_fails_is_tried_again_and_at_once_when_its_definition_appears() {
    let (case, api, stand_in) = node();
    attached_pod(&case, &api, "shop", "lan");
    stand_in.fail(&container("shop"), "web/lan");
    let agent = Agent::start(&case, &[]);
    let failures = || agent.log().matches("the pod lacks what it asks for: web/lan on net1: no such network").count();
    wait_for("four failures", || (failures() >= 4).then_some(()));
    let (status, text) = agent.get("/healthz").unwrap();
    assert_eq!((status, text.contains("1 of them without")), (200, true), "{text}");
    // The pause is now 8 s.
    stand_in.succeed(&container("shop"), &["web/lan"]);
    api.definition("web", "lan", r#"{"cniVersion":"1.0.0","type":"alpha"}"#);
    called(&stand_in, &container("shop"), 5);
    wait_for("health", || agent.get("/healthz").filter(|(_, text)| text.contains("0 of them without")));
}

#[test]
fn what_fails_is_tried_again_when_a_device_appears() {
    let (case, api, stand_in) = node();
    attached_pod(&case, &api, "shop", "lan");
    stand_in.fail(&container("shop"), "web/lan");
    let agent = Agent::start(&case, &[]);
    let failures = || agent.log().matches("the pod lacks what it asks for").count();
    wait_for("five failures", || (failures() >= 5).then_some(()));
    // By now the pause is at least 16 s, and no edit of a definition ends it.
    stand_in.succeed(&container("shop"), &["web/lan"]);
    let began = Instant::now();
    case.host().ip("link add br9 type bridge");
    called(&stand_in, &container("shop"), 6);
    assert!(began.elapsed() < Duration::from_secs(12), "{:?}", began.elapsed());
}

/// An ADD that never ends, or was rolled back in part, must not delay what others wait for.
#[test]
fn the_end_of_an_add_is_noticed_at_once_though_another_never_ends() {
    let (case, api, stand_in) = node();
    pod(&api, "shop", "one");
    let agent = Agent::start(&case, &[]);
    wait_for("the pod", || agent.get("/healthz").filter(|(_, text)| text.contains("1 pods")));
    let attachments = case.dir().join("state/attachments");
    for unfinished in ["lost", &container("shop")] {
        fs::create_dir_all(attachments.join(unfinished)).expect("make a folder");
    }
    // Each container that comes is a look, after which the next one is twice as far away.
    for other in 0..8 {
        journal(&case, &format!("other-{other}"), "another");
        thread::sleep(Duration::from_millis(150));
    }
    let began = Instant::now();
    journal(&case, &container("shop"), &api.uid("web", "shop"));
    let report =
        json!({"format": 1, "verb": "ADD", "network": "pods", "began": 0, "took": 0, "code": 0, "plugins": []});
    let sender = UnixDatagram::unbound().expect("a socket");
    sender.send_to(report.to_string().as_bytes(), case.dir().join("state/events.sock")).expect("the agent listens");
    called(&stand_in, &container("shop"), 1);
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
}

#[test]
fn an_edit_while_a_change_is_made_is_another_change_after_it() {
    let (case, api, stand_in) = node();
    attached_pod(&case, &api, "shop", "one");
    stand_in.write("slow", &container("shop"), "1");
    let _agent = Agent::start(&case, &[]);
    called(&stand_in, &container("shop"), 1);
    for networks in ["two", "three", "four"] {
        pod(&api, "shop", networks);
    }
    called(&stand_in, &container("shop"), 2);
    assert!(!stand_in.has_overlapped());
    assert_eq!(stand_in.calls_for(&container("shop")), 2);
}

#[test]
fn a_child_that_does_not_end_is_killed_and_tried_again() {
    let (case, api, stand_in) = node();
    attached_pod(&case, &api, "shop", "one");
    stand_in.write("slow", &container("shop"), "1000");
    let agent = Agent::start(&case, &["--timeout", "1"]);
    agent.logs("did not exit within 1 s and was killed");
    called(&stand_in, &container("shop"), 2);
}

#[test]
fn a_stuck_queue_makes_the_agent_unhealthy() {
    let (case, api, stand_in) = node();
    for number in 0..8 {
        let name = format!("pod-{number}");
        attached_pod(&case, &api, &name, "one");
        stand_in.write("slow", &container(&name), "1000");
    }
    // A pod may wait for 2 s for its turn. The last of eight waits for seven times 1 s.
    let agent = Agent::start(&case, &["--concurrency", "1", "--timeout", "1"]);
    let said = wait_for("no health", || agent.get("/healthz").filter(|(status, _)| *status == 503));
    assert!(said.1.starts_with("a pod has waited for ") && said.1.contains(" s for its turn"), "{said:?}");
}

#[test]
fn a_braid_without_sync_is_named_once() {
    let (case, api, stand_in) = node();
    for name in ["shop", "till"] {
        attached_pod(&case, &api, name, "one");
        stand_in.answer(&container(name), &json!("no answer"), 2);
        stand_in.write("words", &container(name), "error: unrecognized subcommand 'sync'\n\nFor more, try '--help'.\n");
    }
    let agent = Agent::start(&case, &[]);
    called(&stand_in, &container("shop"), 2);
    assert_eq!(agent.log().matches("pods are not changed until it is replaced").count(), 1, "{}", agent.log());
    let (status, text) = agent.get("/healthz").unwrap();
    assert!(status == 503 && text.contains("older"), "{status} {text}");
    for name in ["shop", "till"] {
        stand_in.succeed(&container(name), &[]);
        pod(&api, name, "two");
    }
    agent.logs("the node's braid can be used again");
}

#[test]
fn an_agent_that_is_killed_looks_at_every_pod_when_it_is_started_again() {
    let (case, api, stand_in) = node();
    attached_pod(&case, &api, "shop", "one");
    let mut agent = Agent::start(&case, &[]);
    called(&stand_in, &container("shop"), 1);
    agent.signal(Signal::SIGKILL);
    agent.wait();
    pod(&api, "shop", "two");
    let _agent = Agent::start(&case, &[]);
    called(&stand_in, &container("shop"), 2);
}

#[test]
fn the_second_agent_of_a_node_waits_for_the_first() {
    let (case, api, stand_in) = node();
    attached_pod(&case, &api, "shop", "one");
    let mut first = Agent::start(&case, &[]);
    called(&stand_in, &container("shop"), 1);
    let second = Agent::start(&case, &[]);
    second.logs(&format!("another agent, process {},", first.pid()));
    first.signal(Signal::SIGTERM);
    assert!(first.wait().success());
    second.logs("the other agent has exited");
    called(&stand_in, &container("shop"), 2);
}

#[test]
fn on_sigterm_a_change_that_is_made_is_waited_for() {
    let (case, api, stand_in) = node();
    attached_pod(&case, &api, "shop", "one");
    stand_in.write("slow", &container("shop"), "2");
    let mut agent = Agent::start(&case, &[]);
    called(&stand_in, &container("shop"), 1);
    let began = Instant::now();
    agent.signal(Signal::SIGTERM);
    assert!(agent.wait().success());
    assert!(began.elapsed() < Duration::from_secs(20));
    assert_eq!(std::fs::read_dir(case.dir().join("stand-in/running")).unwrap().count(), 0);
}
