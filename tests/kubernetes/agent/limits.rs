//! Limits: many pods, many changes, nothing to do.

use std::thread;
use std::time::{Duration, Instant};

use super::stand_in::{Agent, StandIn, attached_pod, container, patiently, pod};
use crate::kubernetes::in_cluster;
use crate::support::Case;

const PODS: usize = 250;
/// Two thousand changes a minute.
const PAUSE: Duration = Duration::from_millis(30);
const CHANGES: usize = 150;
/// The largest that an agent may be, in KiB. A build with debug information and without optimization is larger.
const LARGEST: u64 = 25 << 10;

#[test]
fn the_last_of_many_edits_takes_effect_and_no_two_runs_overlap() {
    let (case, api) = in_cluster(Case::new());
    let stand_in = StandIn::new(&case);
    let names: Vec<String> = (0..PODS).map(|number| format!("pod-{number}")).collect();
    for name in &names {
        attached_pod(&case, &api, name, "one");
    }
    let agent = Agent::start(&case, &[]);
    patiently("a look at every pod", || (stand_in.calls().len() >= PODS).then_some(()));
    let began = Instant::now();
    for number in 0..CHANGES {
        // Some pods are edited again and again.
        let name = &names[(number * 7) % 40];
        let networks = format!("net-{number}");
        stand_in.write("wanted", &container(name), &networks);
        pod(&api, name, &networks);
        thread::sleep(PAUSE);
    }
    eprintln!("{CHANGES} changes in {:?}", began.elapsed());
    for name in names.iter().take(40) {
        let wanted = stand_in.read(&format!("wanted/{}", container(name)));
        patiently(&format!("{wanted} of {name}"), || {
            (stand_in.read(&format!("seen/{}", container(name))) == wanted).then_some(())
        });
    }
    assert!(!stand_in.has_overlapped());
    let size = agent.status("VmRSS:");
    eprintln!("{size} KiB with {PODS} pods");
    if std::env::var_os("BRAID_TEST_AGENT_SIZE").is_some() {
        assert!(size <= LARGEST, "{size} KiB, expected at most {LARGEST}");
    }
}

#[test]
fn at_rest_the_agent_sleeps() {
    let (case, api) = in_cluster(Case::new());
    let stand_in = StandIn::new(&case);
    for number in 0..20 {
        let name = format!("pod-{number}");
        attached_pod(&case, &api, &name, "lan");
        stand_in.succeed(&container(&name), &["web/lan"]);
    }
    let agent = Agent::start(&case, &["--listen", "none"]);
    patiently("a look at every pod", || (stand_in.calls().len() >= 20).then_some(()));
    let switches = || agent.status("voluntary_ctxt_switches:");
    // When nothing happens for a while, all work has ended.
    patiently("rest", || {
        let before = switches();
        thread::sleep(Duration::from_secs(1));
        (switches() == before).then_some(())
    });
    let before = switches();
    thread::sleep(Duration::from_secs(3));
    // Definitions are requested once a minute, possibly during this time.
    assert!(switches() - before <= 20, "{} times awake in 3 s", switches() - before);
}
