//! What belongs to containers that are gone, and debts: when each is tried again. No I/O and no clock: the time is handed in.
//!
//! containerd calls no GC, and a runtime that has lost a container calls no DEL. A container may be gone where the API server does
//! not know its pod. That is asked for by the pod's name, and once more two minutes later; it is never taken from the watch alone.
//! `braid doctor --fix` then looks whether the container's namespace is gone, and only then undoes what the journal tells of.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How long the API server has to say that it does not know a pod.
pub(super) const CERTAIN: Duration = Duration::from_secs(120);
/// How long until it is asked again after it could not be.
const UNANSWERED: Duration = Duration::from_secs(30);
/// The first pause between two tries; it doubles with each.
const FIRST_PAUSE: Duration = Duration::from_secs(60);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);

/// A pod as a journal names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PodName {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) uid: String,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// Ask the API server for the pod of a container.
    Ask(String, PodName),
    /// Have it undone: a container's ID, or a debt's.
    Undo(String),
}

#[derive(Debug)]
struct Suspect {
    /// The pod of a container; none of a debt.
    pod: Option<PodName>,
    /// When the API server first said that it does not know the pod, without having said otherwise since.
    unknown_since: Option<Instant>,
    /// Whether that is certain.
    is_certain: bool,
    next: Instant,
    failures: u32,
    is_running: bool,
}

/// Containers that may be gone, and debts.
#[derive(Debug, Default)]
pub(super) struct Gone(BTreeMap<String, Suspect>);

impl Gone {
    /// These are all containers whose pod the watch does not tell of, and all debts.
    pub(super) fn are(&mut self, containers: Vec<(String, PodName)>, debts: Vec<String>, now: Instant) {
        let all = containers.into_iter().map(|(id, pod)| (id, Some(pod))).chain(debts.into_iter().map(|id| (id, None)));
        let all: BTreeMap<String, Option<PodName>> = all.collect();
        self.0.retain(|id, suspect| suspect.is_running || all.contains_key(id));
        for (id, pod) in all {
            let is_certain = pod.is_none();
            let next = if is_certain { now + FIRST_PAUSE } else { now };
            let suspect = Suspect { pod, unknown_since: None, is_certain, next, failures: 0, is_running: false };
            self.0.entry(id).or_insert(suspect);
        }
    }

    /// What is due. It counts as begun.
    pub(super) fn take(&mut self, now: Instant) -> Vec<Step> {
        let due = self.0.iter_mut().filter(|(_, suspect)| !suspect.is_running && suspect.next <= now);
        due.map(|(id, suspect)| {
            suspect.is_running = true;
            match &suspect.pod {
                Some(pod) if !suspect.is_certain => Step::Ask(id.clone(), pod.clone()),
                _ => Step::Undo(id.clone()),
            }
        })
        .collect()
    }

    /// The API server has said whether it knows the pod of a container; nothing where it could not be asked.
    pub(super) fn answered(&mut self, id: &str, knows: Option<bool>, now: Instant) {
        let Some(suspect) = self.0.get_mut(id) else { return };
        suspect.is_running = false;
        match knows {
            None => suspect.next = now + UNANSWERED,
            Some(true) => {
                suspect.unknown_since = None;
                suspect.next = now + CERTAIN;
            }
            Some(false) => {
                let since = *suspect.unknown_since.get_or_insert(now);
                suspect.is_certain = now >= since + CERTAIN;
                suspect.next = if suspect.is_certain { now } else { since + CERTAIN };
            }
        }
    }

    /// A try to undo something has ended.
    pub(super) fn tried(&mut self, id: &str, is_undone: bool, now: Instant) {
        if is_undone {
            self.0.remove(id);
        } else if let Some(suspect) = self.0.get_mut(id) {
            let pause = FIRST_PAUSE.saturating_mul(2u32.saturating_pow(suspect.failures)).min(LONGEST_PAUSE);
            suspect.failures = suspect.failures.saturating_add(1);
            suspect.is_running = false;
            suspect.next = now + pause;
            // A container is asked for again before the next try: its pod's name may be another's by then.
            (suspect.is_certain, suspect.unknown_since) = (suspect.pod.is_none(), None);
        }
    }

    /// When something is due next.
    pub(super) fn next(&self) -> Option<Instant> {
        self.0.values().filter(|suspect| !suspect.is_running).map(|suspect| suspect.next).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod() -> PodName {
        PodName { namespace: "web".into(), name: "shop".into(), uid: "1".into() }
    }

    fn suspect(gone: &mut Gone, now: Instant) {
        gone.are(vec![("c".into(), pod())], Vec::new(), now);
    }

    #[test]
    fn the_api_server_is_asked_twice_two_minutes_apart() {
        let now = Instant::now();
        let mut gone = Gone::default();
        suspect(&mut gone, now);
        assert_eq!(gone.take(now), [Step::Ask("c".into(), pod())]);
        assert_eq!((gone.take(now), gone.next()), (Vec::new(), None));
        gone.answered("c", Some(false), now);
        assert_eq!(gone.next(), Some(now + CERTAIN));
        let later = now + CERTAIN;
        assert_eq!(gone.take(later), [Step::Ask("c".into(), pod())]);
        gone.answered("c", Some(false), later);
        assert_eq!(gone.take(later), [Step::Undo("c".into())]);
        gone.tried("c", true, later);
        assert_eq!(gone.next(), None);
    }

    #[test]
    fn what_is_known_again_or_cannot_be_asked_for_is_not_undone() {
        let now = Instant::now();
        let mut gone = Gone::default();
        suspect(&mut gone, now);
        gone.take(now);
        gone.answered("c", Some(false), now);
        let later = now + CERTAIN;
        gone.take(later);
        gone.answered("c", None, later);
        assert_eq!(gone.next(), Some(later + UNANSWERED));
        let later = later + UNANSWERED;
        gone.take(later);
        gone.answered("c", Some(true), later);
        // It has to be unknown for two minutes anew.
        let later = later + CERTAIN;
        assert_eq!(gone.take(later), [Step::Ask("c".into(), pod())]);
        gone.answered("c", Some(false), later);
        assert_eq!(gone.next(), Some(later + CERTAIN));
        // The watch tells of it again.
        gone.are(Vec::new(), Vec::new(), later);
        assert_eq!(gone.next(), None);
    }

    #[test]
    fn debts_are_tried_with_longer_and_longer_pauses_up_to_an_hour() {
        let mut now = Instant::now();
        let mut gone = Gone::default();
        gone.are(Vec::new(), vec!["c/eth0".into()], now);
        let mut pauses = Vec::new();
        for _ in 0..9 {
            let next = gone.next().unwrap();
            pauses.push((next - now).as_secs());
            now = next;
            assert_eq!(gone.take(now), [Step::Undo("c/eth0".into())]);
            gone.tried("c/eth0", false, now);
            gone.are(Vec::new(), vec!["c/eth0".into()], now);
        }
        assert_eq!(pauses, [60, 60, 120, 240, 480, 960, 1920, 3600, 3600]);
    }

    #[test]
    fn a_container_that_could_not_be_undone_is_asked_for_again() {
        let now = Instant::now();
        let mut gone = Gone::default();
        suspect(&mut gone, now);
        for at in [now, now + CERTAIN] {
            gone.take(at);
            gone.answered("c", Some(false), at);
        }
        let later = now + CERTAIN;
        assert_eq!(gone.take(later), [Step::Undo("c".into())]);
        gone.tried("c", false, later);
        assert_eq!(gone.take(later + FIRST_PAUSE), [Step::Ask("c".into(), pod())]);
    }
}
