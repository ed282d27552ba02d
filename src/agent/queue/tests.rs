//! Sequences of events, and the work that follows from them.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use super::pause::pause_after;
use super::*;
use crate::source::kubernetes::node::PodOfNode;

const SECOND: Duration = Duration::from_secs(1);

fn pod(uid: &str, version: u64, networks: &str) -> PodOfNode {
    PodOfNode {
        namespace: "web".into(),
        name: format!("pod-{uid}"),
        uid: uid.into(),
        networks: Some(networks.to_owned()).filter(|text| !text.is_empty()),
        status: None,
        is_terminating: false,
        version: version.to_string(),
    }
}

fn attached(id: &str) -> Container {
    Container::Attached(id.into())
}

/// A queue in which every pod has had a successful run.
fn at_rest(uids: &[&str], now: Instant) -> Queue {
    let mut queue = Queue::new(4);
    for uid in uids {
        queue.update_pod(pod(uid, 1, "a"), Some(attached(uid)), now);
    }
    while let Some(work) = queue.take(now) {
        assert_eq!(queue.finished(&work.uid, Outcome::Done, None, (now, 0.0)), None);
    }
    assert_eq!(queue.next(), None);
    queue
}

fn taken(queue: &mut Queue, now: Instant) -> Vec<String> {
    std::iter::from_fn(|| queue.take(now)).map(|work| work.uid).collect()
}

#[test]
fn many_changes_of_a_pod_lead_to_one_run_and_changes_during_that_run_to_one_more() {
    let now = Instant::now();
    let mut queue = at_rest(&["1"], now);
    for version in 2..50 {
        queue.update_pod(pod("1", version, &version.to_string()), Some(attached("1")), now);
    }
    assert_eq!(taken(&mut queue, now), ["1"]);
    for version in 50..99 {
        queue.update_pod(pod("1", version, &version.to_string()), Some(attached("1")), now);
        assert_eq!(queue.take(now), None);
    }
    queue.finished("1", Outcome::Done, None, (now, 0.0));
    assert_eq!(taken(&mut queue, now), ["1"]);
    queue.finished("1", Outcome::Done, None, (now, 0.0));
    assert_eq!(queue.next(), None);
}

#[test]
fn an_event_without_a_change_leads_to_no_run() {
    let now = Instant::now();
    let mut queue = at_rest(&["1"], now);
    queue.update_pod(pod("1", 1, "a"), Some(attached("1")), now);
    queue.update_pod(pod("1", 2, "a"), Some(attached("1")), now);
    assert_eq!(queue.take(now), None);
    // A late event reports an old state.
    queue.update_pod(pod("1", 1, "old"), Some(attached("1")), now);
    assert_eq!(queue.take(now), None);
}

/// Others read the network status. Braid writes it, and never without an entry.
#[test]
fn a_network_status_that_is_lost_leads_to_a_run() {
    let mut now = Instant::now();
    let mut queue = at_rest(&["1"], now);
    let mut version = 1;
    let mut leads_to_run = |status: Option<&str>| {
        version += 1;
        now += SECOND;
        let pod = PodOfNode { status: status.map(str::to_owned), ..pod("1", version, "a") };
        queue.update_pod(pod, Some(attached("1")), now);
        let is_taken = queue.take(now).is_some();
        if is_taken {
            queue.finished("1", Outcome::Done, None, (now, 0.0));
        }
        is_taken
    };
    let written = r#"[{"name":"pods"}]"#;
    for lost in [None, Some(""), Some("[]"), Some("null"), Some("nonsense")] {
        assert!(!leads_to_run(Some(written)) && leads_to_run(lost), "{lost:?}");
        assert!(!leads_to_run(lost), "{lost:?} is nothing new");
    }
    assert!(!leads_to_run(Some(written)) && !leads_to_run(Some(r#"[{"name":"pods"},{"name":"lan"}]"#)));
    // Somebody who removes it each time it is written.
    assert!(leads_to_run(None) && !leads_to_run(Some(written)));
    let pod = PodOfNode { status: None, ..pod("1", 1000, "a") };
    let last_end = queue.items["1"].last_end.unwrap();
    queue.update_pod(pod, Some(attached("1")), last_end);
    assert_eq!(queue.next(), Some(last_end + SECOND));
}

#[test]
fn when_a_device_appears_failing_pods_are_tried_again_soon() {
    let mut now = Instant::now();
    let mut queue = at_rest(&["1", "2"], now);
    queue.update_pod(pod("1", 2, "b"), Some(attached("1")), now);
    for _ in 0..9 {
        assert_eq!(taken(&mut queue, now), ["1"]);
        now += queue.finished("1", Outcome::Failed, None, (now, 0.0)).unwrap();
    }
    assert_eq!(taken(&mut queue, now), ["1"]);
    assert!(queue.finished("1", Outcome::Failed, None, (now, 0.0)).unwrap() > 60 * SECOND);
    queue.device_appeared(now);
    assert_eq!(queue.next(), Some(now + SECOND));
    assert_eq!(taken(&mut queue, now + SECOND), ["1"]);
    // A run that is under way may not have found the device.
    queue.device_appeared(now);
    queue.finished("1", Outcome::Failed, None, (now, 0.0));
    assert_eq!(taken(&mut queue, now), ["1"]);
}

#[test]
fn failures_are_tried_again_with_longer_and_longer_pauses_up_to_five_minutes() {
    let mut now = Instant::now();
    let mut queue = Queue::new(4);
    queue.update_pod(pod("1", 1, "a"), Some(attached("c")), now);
    let mut pauses = Vec::new();
    for _ in 0..14 {
        assert!(queue.take(now).is_some());
        let pause = queue.finished("1", Outcome::Failed, None, (now, 0.0)).unwrap();
        assert_eq!(queue.take(now + pause.saturating_sub(Duration::from_millis(1))), None);
        assert_eq!(queue.next(), Some(now + pause));
        now += pause;
        pauses.push(pause.as_secs());
    }
    assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300, 300, 300]);
    for failures in 1..40 {
        for random in [0.0, 0.5, 0.999] {
            let pause = pause_after(failures, random);
            assert!((FIRST_PAUSE..=LONGEST_PAUSE).contains(&pause), "{pause:?}");
        }
    }
}

#[test]
fn an_edit_is_tried_at_once_and_resets_the_pauses() {
    let now = Instant::now();
    let mut queue = at_rest(&["1"], now);
    for version in 2..8 {
        queue.update_pod(pod("1", version, &version.to_string()), Some(attached("1")), now);
        assert_eq!(taken(&mut queue, now), ["1"]);
        assert_eq!(queue.finished("1", Outcome::Failed, None, (now, 0.0)), Some(SECOND));
    }
    assert_eq!(queue.failing(), 1);
}

#[test]
fn any_change_of_a_failing_pod_leads_to_a_run_unless_braid_made_it() {
    let now = Instant::now();
    let mut queue = Queue::new(4);
    queue.update_pod(pod("1", 1, "a"), Some(attached("c")), now);
    for _ in 0..5 {
        let at = queue.next().unwrap();
        queue.take(at).unwrap();
        queue.finished("1", Outcome::Failed, None, (at, 0.0));
    }
    let last_end = queue.items["1"].last_end.unwrap();
    let later = queue.next().unwrap();
    queue.update_pod(PodOfNode { status: Some("[]".into()), ..pod("1", 2, "a") }, Some(attached("c")), last_end);
    assert_eq!(queue.next(), Some(later));
    queue.update_pod(PodOfNode { status: Some("[]".into()), ..pod("1", 3, "a") }, Some(attached("c")), last_end);
    assert_eq!(queue.next(), Some(last_end + SECOND));
}

#[test]
fn a_changed_definition_leads_to_a_run_for_each_pod_that_names_it() {
    let now = Instant::now();
    let mut queue = at_rest(&["1", "2"], now);
    queue.update_pod(pod("1", 2, "b"), Some(attached("1")), now);
    assert_eq!(taken(&mut queue, now), ["1"]);
    queue.finished("1", Outcome::Failed, Some(vec!["web/b".into()]), (now, 0.0));
    assert_eq!(queue.definitions(true).into_iter().collect::<Vec<_>>(), ["web/b"]);
    assert_eq!(queue.take(now), None);
    queue.definition_changed("web/other", now);
    assert_eq!(queue.take(now), None);
    queue.definition_changed("web/b", now);
    assert_eq!(taken(&mut queue, now), ["1"]);
    queue.finished("1", Outcome::Done, Some(vec!["web/b".into()]), (now, 0.0));
    assert_eq!((queue.failing(), queue.asks_for_definitions()), (0, (true, false)));
    queue.definition_changed("web/b", now);
    assert_eq!(taken(&mut queue, now), ["1"]);
}

#[test]
fn concurrent_runs_are_limited_and_every_pod_gets_its_turn() {
    let mut now = Instant::now();
    let uids: Vec<String> = (0..20).map(|number| number.to_string()).collect();
    let names: Vec<&str> = uids.iter().map(String::as_str).collect();
    let mut queue = at_rest(&names, now);
    for uid in &names {
        queue.update_pod(pod(uid, 2, "b"), Some(attached(uid)), now);
    }
    let mut turns: Vec<String> = Vec::new();
    let mut version = 3;
    while turns.len() < 20 {
        let round = taken(&mut queue, now);
        assert_eq!(round.len(), 4);
        now += SECOND;
        for uid in &round {
            // Every pod that had its turn has changed again.
            queue.update_pod(pod(uid, version, &version.to_string()), Some(attached(uid)), now);
            version += 1;
            queue.finished(uid, Outcome::Done, None, (now, 0.0));
        }
        turns.extend(round);
    }
    turns.sort();
    turns.dedup();
    assert_eq!(turns.len(), 20);
}

#[test]
fn an_edit_comes_before_the_first_checks() {
    let now = Instant::now();
    let mut queue = Queue::new(1);
    for uid in ["1", "2", "3"] {
        queue.update_pod(pod(uid, 1, "a"), Some(attached(uid)), now);
    }
    queue.update_pod(pod("3", 2, "b"), Some(attached("3")), now + SECOND);
    assert_eq!(taken(&mut queue, now + SECOND), ["3"]);
}

#[test]
fn a_pod_without_a_container_waits_for_one_and_a_terminating_pod_gets_no_run() {
    let now = Instant::now();
    let mut queue = Queue::new(4);
    queue.update_pod(pod("1", 1, "a"), None, now);
    assert_eq!((queue.take(now), queue.next()), (None, None));
    queue.set_container("1", Some(attached("c1")), now);
    let work = queue.take(now).unwrap();
    assert_eq!((work.container.id(), work.pod.as_str()), ("c1", "web/pod-1"));
    queue.finished("1", Outcome::Failed, None, (now, 0.0));
    queue.update_pod(PodOfNode { is_terminating: true, ..pod("1", 2, "b") }, Some(attached("c1")), now);
    assert_eq!((queue.take(now + LONGEST_PAUSE), queue.next()), (None, None));
    queue.set_container("1", None, now);
    assert_eq!(queue.next(), None);
}

#[test]
fn a_pod_that_asks_for_nothing_gets_no_run_when_it_is_attached() {
    let now = Instant::now();
    let mut queue = Queue::new(4);
    queue.update_pod(pod("1", 1, ""), None, now);
    queue.set_container("1", Some(attached("c1")), now);
    assert_eq!(queue.take(now), None);
    // A pod that asked for networks before it was attached gets one.
    queue.update_pod(pod("2", 1, ""), None, now);
    queue.update_pod(pod("2", 2, "a"), None, now);
    queue.update_pod(pod("2", 3, ""), None, now);
    queue.set_container("2", Some(attached("c2")), now);
    assert_eq!(taken(&mut queue, now), ["2"]);
}

#[test]
fn a_pod_that_another_plugin_attached_gets_one_run_if_it_asks_for_something() {
    let now = Instant::now();
    let foreign = |id: &str| Some(Container::Foreign(id.to_owned()));
    let mut queue = Queue::new(4);
    queue.update_pod(pod("plain", 1, ""), foreign("c0"), now);
    queue.update_pod(pod("1", 1, "a"), None, now);
    assert_eq!(queue.pods_without_journal().collect::<Vec<_>>(), ["1"]);
    assert_eq!(queue.take(now), None);
    queue.set_container("1", foreign("c1"), now);
    assert_eq!(queue.take(now).unwrap().container, Container::Foreign("c1".into()));
    assert_eq!(queue.finished("1", Outcome::NeedsRepair, Some(vec!["web/a".into()]), (now, 0.0)), None);
    // The definition may now be one that needs no repair.
    queue.definition_changed("web/a", now);
    assert_eq!(taken(&mut queue, now), ["1"]);
    queue.finished("1", Outcome::NeedsRepair, Some(vec!["web/a".into()]), (now, 0.0));
    // The pod counts as failing, and its definitions are not requested every two seconds.
    queue.update_pod(PodOfNode { status: Some("[]".into()), ..pod("1", 2, "a") }, foreign("c1"), now);
    queue.update_pod(pod("1", 3, "a"), foreign("c1"), now);
    assert_eq!((queue.failing(), queue.asks_for_definitions(), queue.next()), (1, (true, false), None));
    queue.configuration_changed(now);
    assert_eq!(taken(&mut queue, now), ["1"]);
    queue.finished("1", Outcome::Done, None, (now, 0.0));
    queue.set_container("1", Some(attached("c1")), now);
    assert_eq!((queue.pods_without_journal().count(), queue.failing()), (0, 0));
    queue.configuration_changed(now);
    assert_eq!(taken(&mut queue, now), ["1"], "its journal is compared with its annotation once");
}

#[test]
fn a_pod_that_is_gone_is_forgotten_when_its_run_has_ended() {
    let now = Instant::now();
    let mut queue = at_rest(&["1", "2", "3"], now);
    queue.update_pod(pod("1", 2, "b"), Some(attached("1")), now);
    queue.take(now).unwrap();
    queue.keep_only(&HashSet::from(["2".to_owned()]));
    assert_eq!(queue.pods(), 2);
    queue.finished("1", Outcome::Failed, None, (now, 0.0));
    assert_eq!((queue.pods(), queue.failing(), queue.next()), (1, 0, None));
    // A pod of the same name with another UID is another pod.
    queue.remove_pod("2");
    queue.update_pod(PodOfNode { uid: "4".into(), ..pod("2", 9, "a") }, Some(attached("c4")), now);
    assert_eq!(taken(&mut queue, now), ["4"]);
}

#[test]
fn the_longest_wait_is_reported() {
    let now = Instant::now();
    let mut queue = Queue::new(1);
    queue.update_pod(pod("1", 1, "a"), Some(attached("1")), now);
    queue.update_pod(pod("2", 1, "a"), Some(attached("2")), now);
    queue.take(now).unwrap();
    assert_eq!(queue.longest_wait(now + SECOND * 60), SECOND * 60);
    assert_eq!(queue.next(), None);
}
