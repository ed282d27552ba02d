//! What is to be done for which pod, and when. No I/O and no clock: the time is handed in.
//!
//! There is one item for each pod, by UID. What happens to a pod while its item is being worked on makes it run once more
//! afterwards; what happens before makes no difference. An item that fails is tried again for as long as the pod lives.

use std::collections::hash_map::RandomState;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::hash::BuildHasher as _;
use std::time::{Duration, Instant};

use crate::source::kubernetes::node::PodOfNode;

/// The pause after the first failure; it doubles with each.
pub(super) const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause.
pub(super) const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// An item that fails is not tried sooner than this after its end for something that may have nothing to do with it.
const AT_LEAST: Duration = Duration::from_secs(1);

/// Which is first. Items of one kind take turns by how long they have waited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Urgency {
    /// Somebody has changed something.
    Changed,
    /// It is looked whether anything is to be done.
    Look,
}

/// Where an item stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// Nothing is to be done.
    Idle,
    /// What it lacks it gets only with `"repair": true`, and that was said.
    NeedsRepair,
    /// It is to be worked on, from this time on.
    Due(Urgency, Instant),
    /// It is being worked on, and perhaps once more after that.
    Running { again: bool },
}

/// The container of a pod.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Container {
    /// Braid has a journal of it.
    Attached(String),
    /// Another plugin has attached it, according to the runtime's libcni.
    Unknown(String),
}

impl Container {
    /// Its ID.
    pub(super) fn id(&self) -> &str {
        let (Self::Attached(id) | Self::Unknown(id)) = self;
        id
    }
}

/// A pod, and what is to be done for it.
#[derive(Debug)]
struct Item {
    namespace: String,
    name: String,
    version: String,
    /// What its annotation of networks says, as a hash.
    networks: Option<u64>,
    /// What its network status says, as a hash: Braid writes it itself.
    status: Option<u64>,
    is_terminating: bool,
    /// The API server does not know it any more, and it is forgotten once nothing runs for it.
    is_gone: bool,
    /// Whether what it asks for has changed since it was first seen.
    is_edited: bool,
    /// Its container.
    container: Option<Container>,
    turn: Turn,
    /// How often it has failed in a row.
    failures: u32,
    ended: Option<Instant>,
    /// The definitions that it asks for.
    definitions: Vec<String>,
}

/// Something to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Work {
    /// The pod's UID.
    pub(super) uid: String,
    /// The pod, as `NAMESPACE/NAME`.
    pub(super) pod: String,
    /// Its container.
    pub(super) container: Container,
}

/// How a pod stands after work on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The pod has what it asks for.
    Done,
    /// It has not.
    Failed,
    /// It has not, and will not have it before the annotation or Braid's configuration changes.
    NeedsRepair,
}

/// The items of a node.
#[derive(Debug)]
pub(super) struct Queue {
    items: HashMap<String, Item>,
    running: usize,
    at_once: usize,
    hashes: RandomState,
}

impl Queue {
    /// A queue from which so much is taken at once.
    pub(super) fn new(at_once: usize) -> Self {
        Self { items: HashMap::new(), running: 0, at_once, hashes: RandomState::new() }
    }

    /// A pod is there, or has changed; its container, if it is known.
    pub(super) fn pod_is(&mut self, pod: PodOfNode, container: Option<Container>, now: Instant) {
        let hash = |text: &Option<String>| text.as_ref().map(|text| self.hashes.hash_one(text));
        let (networks, status) = (hash(&pod.networks), hash(&pod.status));
        let Some(item) = self.items.get_mut(&pod.uid) else {
            // One that asks for nothing has it where another plugin has attached it, or nobody yet.
            let is_due = networks.is_some() || matches!(container, Some(Container::Attached(_)));
            let item = Item {
                namespace: pod.namespace,
                name: pod.name,
                version: pod.version,
                networks,
                status,
                is_terminating: pod.is_terminating,
                is_gone: false,
                is_edited: false,
                container,
                turn: if is_due { Turn::Due(Urgency::Look, now) } else { Turn::Idle },
                failures: 0,
                ended: None,
                definitions: Vec::new(),
            };
            self.items.insert(pod.uid, item);
            return;
        };
        item.is_gone = false;
        if is_older(&pod.version, &item.version) {
            return;
        }
        let is_edited = networks != item.networks;
        // What Braid itself has written is no reason to try again.
        let is_touched = pod.version != item.version && status == item.status;
        (item.version, item.networks, item.status, item.is_terminating) =
            (pod.version, networks, status, pod.is_terminating);
        if is_edited {
            item.is_edited = true;
            item.failures = 0;
            item.ask(Urgency::Changed, now);
        } else if is_touched {
            item.try_sooner(now);
        }
    }

    /// The API server does not know a pod any more.
    pub(super) fn pod_is_gone(&mut self, uid: &str) {
        if let Some(item) = self.items.get_mut(uid) {
            item.is_gone = true;
            self.forget_if_gone(uid);
        }
    }

    /// These are all pods that there are.
    pub(super) fn only(&mut self, uids: &HashSet<String>) {
        let others: Vec<String> = self.items.keys().filter(|uid| !uids.contains(*uid)).cloned().collect();
        for uid in others {
            self.pod_is_gone(&uid);
        }
    }

    /// A pod has another container than before, or none.
    pub(super) fn container_is(&mut self, uid: &str, container: Option<Container>, now: Instant) {
        let Some(item) = self.items.get_mut(uid).filter(|item| item.container != container) else { return };
        item.container = container;
        let container = &item.container;
        // What it asks for may have changed while it was being attached.
        if container.is_some() && (item.networks.is_some() || item.is_edited) {
            item.ask(Urgency::Look, now);
        }
    }

    /// A definition has changed: every pod that asks for it is looked at.
    pub(super) fn definition_has_changed(&mut self, definition: &str, now: Instant) {
        let names = |item: &&mut Item| item.definitions.iter().any(|name| name == definition);
        for item in self.items.values_mut().filter(names) {
            item.ask(Urgency::Changed, now);
        }
    }

    /// Braid's configuration has changed: pods that need `repair` are looked at.
    pub(super) fn configuration_has_changed(&mut self, now: Instant) {
        for item in self.items.values_mut().filter(|item| item.needs_repair()) {
            item.ask(Urgency::Look, now);
        }
    }

    /// The pods of which another plugin may have attached the container: they ask for networks, or did, and Braid has no journal.
    pub(super) fn without_journal(&self) -> impl Iterator<Item = &str> {
        let is_without = |(_, item): &(&String, &Item)| {
            !item.is_terminating
                && !item.is_gone
                && !matches!(item.container, Some(Container::Attached(_)))
                && (item.networks.is_some() || item.is_edited)
        };
        self.items.iter().filter(is_without).map(|(uid, _)| uid.as_str())
    }

    /// Takes what is to be done next, if anything is due and not too much is being done.
    pub(super) fn take(&mut self, now: Instant) -> Option<Work> {
        if self.running >= self.at_once {
            return None;
        }
        let due = |(uid, item): (&String, &Item)| {
            item.due().filter(|(_, at)| *at <= now).map(|(urgency, at)| (urgency, at, uid.clone()))
        };
        let (_, _, uid) = self.items.iter().filter_map(due).min()?;
        let item = self.items.get_mut(&uid)?;
        let container = item.container.clone()?;
        item.turn = Turn::Running { again: false };
        self.running += 1;
        Some(Work { pod: format!("{}/{}", item.namespace, item.name), uid, container })
    }

    /// Work has ended. `random` is between 0 and 1. Returns how long it is until the next try of what has failed.
    pub(super) fn finished(
        &mut self,
        uid: &str,
        outcome: Outcome,
        definitions: Option<Vec<String>>,
        (now, random): (Instant, f64),
    ) -> Option<Duration> {
        self.running = self.running.saturating_sub(1);
        let item = self.items.get_mut(uid)?;
        let again = matches!(item.turn, Turn::Running { again: true });
        item.ended = Some(now);
        if let Some(definitions) = definitions {
            item.definitions = definitions;
        }
        let mut pause = None;
        item.failures = if outcome == Outcome::Done { 0 } else { item.failures.saturating_add(1) };
        item.turn = match (again, outcome) {
            (true, _) => Turn::Due(Urgency::Changed, now),
            (false, Outcome::Done) => Turn::Idle,
            (false, Outcome::NeedsRepair) => Turn::NeedsRepair,
            (false, Outcome::Failed) => {
                let next = pause_after(item.failures, random);
                pause = Some(next);
                Turn::Due(Urgency::Look, now + next)
            }
        };
        self.forget_if_gone(uid);
        pause
    }

    fn forget_if_gone(&mut self, uid: &str) {
        if self.items.get(uid).is_some_and(|item| item.is_gone && !matches!(item.turn, Turn::Running { .. })) {
            self.items.remove(uid);
        }
    }

    /// When something is due next that can be taken then.
    pub(super) fn next(&self) -> Option<Instant> {
        if self.running >= self.at_once {
            return None;
        }
        self.items.values().filter_map(Item::due).map(|(_, at)| at).min()
    }

    /// How long the item has waited that has waited longest for its turn.
    pub(super) fn longest_wait(&self, now: Instant) -> Duration {
        let waits = self.items.values().filter_map(Item::due).map(|(_, at)| now.saturating_duration_since(at));
        waits.max().unwrap_or_default()
    }

    /// How many pods there are that do not have what they ask for.
    pub(super) fn failing(&self) -> usize {
        self.items.values().filter(|item| item.failures > 0).count()
    }

    /// Whether the API server has reported such a pod, and not that it is gone.
    pub(super) fn knows(&self, uid: &str) -> bool {
        self.items.get(uid).is_some_and(|item| !item.is_gone)
    }

    /// Whether the API server has reported such a pod, and it may be attached now or later.
    pub(super) fn may_be_attached(&self, uid: &str) -> bool {
        self.items.get(uid).is_some_and(|item| !item.is_gone && !item.is_terminating)
    }

    /// How many pods there are.
    pub(super) fn pods(&self) -> usize {
        self.items.len()
    }

    /// The definitions that pods ask for: all, or those of pods that do not have what they ask for.
    pub(super) fn definitions(&self, only_failing: bool) -> BTreeSet<String> {
        let items = self.items.values().filter(|item| !only_failing || item.is_tried_again());
        items.flat_map(|item| item.definitions.iter().cloned()).collect()
    }

    /// Whether any pod asks for a definition, and whether any does that fails.
    pub(super) fn asks_for_definitions(&self) -> (bool, bool) {
        let mut items = self.items.values().filter(|item| !item.definitions.is_empty());
        let any = items.clone().next().is_some();
        (any, items.any(Item::is_tried_again))
    }
}

impl Item {
    /// When it is due, if it can be worked on.
    fn due(&self) -> Option<(Urgency, Instant)> {
        match self.turn {
            // What ends is taken down as a whole.
            Turn::Due(urgency, at) if self.container.is_some() && !self.is_terminating && !self.is_gone => {
                Some((urgency, at))
            }
            _ => None,
        }
    }

    /// Whether it fails and is tried again.
    fn is_tried_again(&self) -> bool {
        self.failures > 0 && !self.needs_repair()
    }

    fn needs_repair(&self) -> bool {
        self.turn == Turn::NeedsRepair
    }

    /// Asks for it to be worked on at once.
    fn ask(&mut self, urgency: Urgency, now: Instant) {
        self.turn = match self.turn {
            Turn::Running { .. } => Turn::Running { again: true },
            Turn::Idle | Turn::NeedsRepair => Turn::Due(urgency, now),
            Turn::Due(before, at) => Turn::Due(urgency.min(before), at.min(now)),
        };
    }

    /// Lets one that fails be tried soon: what it lacks may be there.
    fn try_sooner(&mut self, now: Instant) {
        let soon = self.ended.map_or(now, |ended| now.max(ended + AT_LEAST));
        if let (Turn::Due(urgency, at), 1..) = (self.turn, self.failures) {
            self.turn = Turn::Due(urgency, at.min(soon));
        }
    }
}

/// How long to wait after so many failures in a row: a second, then twice as long each time, up to five minutes; up to a quarter
/// more or, at the end, a fifth less, so that the pods of a node are not tried at the same time.
fn pause_after(failures: u32, random: f64) -> Duration {
    let full = FIRST_PAUSE.saturating_mul(2u32.saturating_pow(failures.saturating_sub(1)));
    full.mul_f64(1.0 + random / 4.0).min(LONGEST_PAUSE.mul_f64(1.0 - random / 5.0))
}

/// Whether a version of an object is older than another. Versions are numbers that grow, as Kubernetes says of them since 1.34;
/// of what is no number nothing is known.
fn is_older(version: &str, than: &str) -> bool {
    matches!((version.parse::<u64>(), than.parse::<u64>()), (Ok(version), Ok(than)) if version < than)
}

#[cfg(test)]
mod tests {
    use super::*;

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

    /// A queue whose pods have all been looked at.
    fn at_rest(uids: &[&str], now: Instant) -> Queue {
        let mut queue = Queue::new(4);
        for uid in uids {
            queue.pod_is(pod(uid, 1, "a"), Some(attached(uid)), now);
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
    fn many_changes_of_a_pod_are_one_piece_of_work_and_one_more_for_those_that_come_meanwhile() {
        let now = Instant::now();
        let mut queue = at_rest(&["1"], now);
        for version in 2..50 {
            queue.pod_is(pod("1", version, &version.to_string()), Some(attached("1")), now);
        }
        assert_eq!(taken(&mut queue, now), ["1"]);
        for version in 50..99 {
            queue.pod_is(pod("1", version, &version.to_string()), Some(attached("1")), now);
            assert_eq!(queue.take(now), None);
        }
        queue.finished("1", Outcome::Done, None, (now, 0.0));
        assert_eq!(taken(&mut queue, now), ["1"]);
        queue.finished("1", Outcome::Done, None, (now, 0.0));
        assert_eq!(queue.next(), None);
    }

    #[test]
    fn what_says_nothing_new_is_no_work() {
        let now = Instant::now();
        let mut queue = at_rest(&["1"], now);
        queue.pod_is(pod("1", 1, "a"), Some(attached("1")), now);
        queue.pod_is(pod("1", 2, "a"), Some(attached("1")), now);
        assert_eq!(queue.take(now), None);
        // An event that comes late says what was.
        queue.pod_is(pod("1", 1, "old"), Some(attached("1")), now);
        assert_eq!(queue.take(now), None);
    }

    #[test]
    fn failures_are_tried_again_with_longer_and_longer_pauses_up_to_five_minutes() {
        let mut now = Instant::now();
        let mut queue = Queue::new(4);
        queue.pod_is(pod("1", 1, "a"), Some(attached("c")), now);
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
    fn an_edit_is_tried_at_once_and_begins_the_pauses_anew() {
        let now = Instant::now();
        let mut queue = at_rest(&["1"], now);
        for version in 2..8 {
            queue.pod_is(pod("1", version, &version.to_string()), Some(attached("1")), now);
            assert_eq!(taken(&mut queue, now), ["1"]);
            assert_eq!(queue.finished("1", Outcome::Failed, None, (now, 0.0)), Some(SECOND));
        }
        assert_eq!(queue.failing(), 1);
    }

    #[test]
    fn any_change_of_a_pod_that_fails_is_a_try_but_not_what_braid_writes() {
        let now = Instant::now();
        let mut queue = Queue::new(4);
        queue.pod_is(pod("1", 1, "a"), Some(attached("c")), now);
        for _ in 0..5 {
            let at = queue.next().unwrap();
            queue.take(at).unwrap();
            queue.finished("1", Outcome::Failed, None, (at, 0.0));
        }
        let ended = queue.items["1"].ended.unwrap();
        let later = queue.next().unwrap();
        queue.pod_is(PodOfNode { status: Some("[]".into()), ..pod("1", 2, "a") }, Some(attached("c")), ended);
        assert_eq!(queue.next(), Some(later));
        queue.pod_is(PodOfNode { status: Some("[]".into()), ..pod("1", 3, "a") }, Some(attached("c")), ended);
        assert_eq!(queue.next(), Some(ended + SECOND));
    }

    #[test]
    fn a_definition_that_changes_makes_work_for_those_that_name_it() {
        let now = Instant::now();
        let mut queue = at_rest(&["1", "2"], now);
        queue.pod_is(pod("1", 2, "b"), Some(attached("1")), now);
        assert_eq!(taken(&mut queue, now), ["1"]);
        queue.finished("1", Outcome::Failed, Some(vec!["web/b".into()]), (now, 0.0));
        assert_eq!(queue.definitions(true).into_iter().collect::<Vec<_>>(), ["web/b"]);
        assert_eq!(queue.take(now), None);
        queue.definition_has_changed("web/other", now);
        assert_eq!(queue.take(now), None);
        queue.definition_has_changed("web/b", now);
        assert_eq!(taken(&mut queue, now), ["1"]);
        queue.finished("1", Outcome::Done, Some(vec!["web/b".into()]), (now, 0.0));
        assert_eq!((queue.failing(), queue.asks_for_definitions()), (0, (true, false)));
        queue.definition_has_changed("web/b", now);
        assert_eq!(taken(&mut queue, now), ["1"]);
    }

    #[test]
    fn only_so_much_is_done_at_once_and_no_pod_is_passed_over() {
        let mut now = Instant::now();
        let uids: Vec<String> = (0..20).map(|number| number.to_string()).collect();
        let names: Vec<&str> = uids.iter().map(String::as_str).collect();
        let mut queue = at_rest(&names, now);
        for uid in &names {
            queue.pod_is(pod(uid, 2, "b"), Some(attached(uid)), now);
        }
        let mut turns: Vec<String> = Vec::new();
        let mut version = 3;
        while turns.len() < 20 {
            let round = taken(&mut queue, now);
            assert_eq!(round.len(), 4);
            now += SECOND;
            for uid in &round {
                // Whoever had its turn wants another.
                queue.pod_is(pod(uid, version, &version.to_string()), Some(attached(uid)), now);
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
    fn somebodys_edit_comes_before_a_look_at_all() {
        let now = Instant::now();
        let mut queue = Queue::new(1);
        for uid in ["1", "2", "3"] {
            queue.pod_is(pod(uid, 1, "a"), Some(attached(uid)), now);
        }
        queue.pod_is(pod("3", 2, "b"), Some(attached("3")), now + SECOND);
        assert_eq!(taken(&mut queue, now + SECOND), ["3"]);
    }

    #[test]
    fn a_pod_without_a_container_waits_for_it_and_one_that_ends_is_left_alone() {
        let now = Instant::now();
        let mut queue = Queue::new(4);
        queue.pod_is(pod("1", 1, "a"), None, now);
        assert_eq!((queue.take(now), queue.next()), (None, None));
        queue.container_is("1", Some(attached("c1")), now);
        let work = queue.take(now).unwrap();
        assert_eq!((work.container.id(), work.pod.as_str()), ("c1", "web/pod-1"));
        queue.finished("1", Outcome::Failed, None, (now, 0.0));
        queue.pod_is(PodOfNode { is_terminating: true, ..pod("1", 2, "b") }, Some(attached("c1")), now);
        assert_eq!((queue.take(now + LONGEST_PAUSE), queue.next()), (None, None));
        queue.container_is("1", None, now);
        assert_eq!(queue.next(), None);
    }

    #[test]
    fn a_pod_that_asks_for_nothing_is_not_looked_at_when_it_is_attached() {
        let now = Instant::now();
        let mut queue = Queue::new(4);
        queue.pod_is(pod("1", 1, ""), None, now);
        queue.container_is("1", Some(attached("c1")), now);
        assert_eq!(queue.take(now), None);
        // Unless it has asked meanwhile.
        queue.pod_is(pod("2", 1, ""), None, now);
        queue.pod_is(pod("2", 2, "a"), None, now);
        queue.pod_is(pod("2", 3, ""), None, now);
        queue.container_is("2", Some(attached("c2")), now);
        assert_eq!(taken(&mut queue, now), ["2"]);
    }

    #[test]
    fn a_pod_that_another_plugin_attached_is_looked_at_once_if_it_asks_for_something() {
        let now = Instant::now();
        let unknown = |id: &str| Some(Container::Unknown(id.to_owned()));
        let mut queue = Queue::new(4);
        queue.pod_is(pod("plain", 1, ""), unknown("c0"), now);
        queue.pod_is(pod("1", 1, "a"), None, now);
        assert_eq!(queue.without_journal().collect::<Vec<_>>(), ["1"]);
        assert_eq!(queue.take(now), None);
        queue.container_is("1", unknown("c1"), now);
        assert_eq!(queue.take(now).unwrap().container, Container::Unknown("c1".into()));
        assert_eq!(queue.finished("1", Outcome::NeedsRepair, Some(vec!["web/a".into()]), (now, 0.0)), None);
        // What it lacks may be something else by now.
        queue.definition_has_changed("web/a", now);
        assert_eq!(taken(&mut queue, now), ["1"]);
        queue.finished("1", Outcome::NeedsRepair, Some(vec!["web/a".into()]), (now, 0.0));
        // It is counted, and nothing is asked for it time and again.
        queue.pod_is(PodOfNode { status: Some("[]".into()), ..pod("1", 2, "a") }, unknown("c1"), now);
        queue.pod_is(pod("1", 3, "a"), unknown("c1"), now);
        assert_eq!((queue.failing(), queue.asks_for_definitions(), queue.next()), (1, (true, false), None));
        queue.configuration_has_changed(now);
        assert_eq!(taken(&mut queue, now), ["1"]);
        queue.finished("1", Outcome::Done, None, (now, 0.0));
        queue.container_is("1", Some(attached("c1")), now);
        assert_eq!((queue.without_journal().count(), queue.failing()), (0, 0));
        queue.configuration_has_changed(now);
        assert_eq!(taken(&mut queue, now), ["1"], "its journal is held against its annotation once");
    }

    #[test]
    fn pods_that_are_gone_are_forgotten_once_nothing_runs_for_them() {
        let now = Instant::now();
        let mut queue = at_rest(&["1", "2", "3"], now);
        queue.pod_is(pod("1", 2, "b"), Some(attached("1")), now);
        queue.take(now).unwrap();
        queue.only(&HashSet::from(["2".to_owned()]));
        assert_eq!(queue.pods(), 2);
        queue.finished("1", Outcome::Failed, None, (now, 0.0));
        assert_eq!((queue.pods(), queue.failing(), queue.next()), (1, 0, None));
        // A name that is used again is another pod.
        queue.pod_is_gone("2");
        queue.pod_is(PodOfNode { uid: "4".into(), ..pod("2", 9, "a") }, Some(attached("c4")), now);
        assert_eq!(taken(&mut queue, now), ["4"]);
    }

    #[test]
    fn how_long_the_longest_waits_is_known() {
        let now = Instant::now();
        let mut queue = Queue::new(1);
        queue.pod_is(pod("1", 1, "a"), Some(attached("1")), now);
        queue.pod_is(pod("2", 1, "a"), Some(attached("2")), now);
        queue.take(now).unwrap();
        assert_eq!(queue.longest_wait(now + SECOND * 60), SECOND * 60);
        assert_eq!(queue.next(), None);
    }
}
