//! What belongs to containers that are gone, debts, and claims whose status names them: when each is tried again. No I/O and no
//! clock: the time is handed in.
//!
//! containerd calls no GC, and a runtime that has lost a container calls no DEL. A container may be gone where the API server does
//! not know its pod. That is asked for by the pod's name, and once more two minutes later; it is never taken from the watch alone.
//! `braid doctor --fix` then looks whether the container's namespace is gone, and only then undoes what the journal records.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How long until it is asked again after it could not be.
const UNANSWERED: Duration = Duration::from_secs(30);
/// How long until it is asked again about a pod that the API server still knows; it doubles each time. The watch does not tell of
/// one that has finished, and the object is usually gone a moment later.
const KNOWN: Duration = Duration::from_secs(5);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);

/// A pod as a journal names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PodName {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) uid: String,
}

/// What may have to be undone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Subject {
    /// A container, by its ID.
    Container(String),
    /// A debt, by its ID.
    Debt(String),
    /// What the status of claims says of a pod that is not attached any more, by the pod's UID.
    Claims(String),
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// Ask the API server for the pod of a container.
    Ask(Subject, PodName),
    /// Have it undone.
    Undo(Subject),
}

#[derive(Debug)]
struct Suspect {
    /// The pod of a container; none of anything else.
    pod: Option<PodName>,
    /// When the API server first said that it does not know the pod, without having said otherwise since.
    unknown_since: Option<Instant>,
    /// Whether that is certain.
    is_certain: bool,
    /// How often in a row it has said that it knows the pod.
    known: u32,
    next: Instant,
    failures: u32,
    is_running: bool,
}

/// Containers that may be gone, debts, and claims.
#[derive(Debug)]
pub(super) struct Gone {
    suspects: BTreeMap<Subject, Suspect>,
    /// How long the API server has to say that it does not know a pod.
    certain: Duration,
    /// The first pause between two tries; it doubles with each.
    first_pause: Duration,
}

impl Gone {
    /// Nothing yet. A pod counts as gone that the API server does not know for the time `certain`; what fails is tried again
    /// after `first_pause`, later after up to an hour.
    pub(super) fn new(certain: Duration, first_pause: Duration) -> Self {
        Self { suspects: BTreeMap::new(), certain, first_pause }
    }

    /// These are all there are: containers whose pod the watch does not list, debts, and claims that name a pod that is
    /// not attached any more. Of a container its pod is known.
    pub(super) fn are(&mut self, all: BTreeMap<Subject, Option<PodName>>, now: Instant) {
        self.suspects.retain(|subject, suspect| suspect.is_running || all.contains_key(subject));
        for (subject, pod) in all {
            // A debt has just been tried.
            let next = if matches!(subject, Subject::Debt(_)) { now + self.first_pause } else { now };
            let is_certain = pod.is_none();
            let suspect =
                Suspect { pod, unknown_since: None, is_certain, known: 0, next, failures: 0, is_running: false };
            self.suspects.entry(subject).or_insert(suspect);
        }
    }

    /// What is due. It counts as begun.
    pub(super) fn take(&mut self, now: Instant) -> Vec<Step> {
        let due = self.suspects.iter_mut().filter(|(_, suspect)| !suspect.is_running && suspect.next <= now);
        due.map(|(subject, suspect)| {
            suspect.is_running = true;
            match &suspect.pod {
                Some(pod) if !suspect.is_certain => Step::Ask(subject.clone(), pod.clone()),
                _ => Step::Undo(subject.clone()),
            }
        })
        .collect()
    }

    /// The API server has said whether it knows the pod of a container; nothing where it could not be asked.
    pub(super) fn answered(&mut self, subject: &Subject, knows: Option<bool>, now: Instant) {
        let certain = self.certain;
        let Some(suspect) = self.suspects.get_mut(subject) else { return };
        suspect.is_running = false;
        match knows {
            None => suspect.next = now + UNANSWERED,
            Some(true) => {
                suspect.unknown_since = None;
                suspect.next = now + doubled(KNOWN, suspect.known, certain);
                suspect.known = suspect.known.saturating_add(1);
            }
            Some(false) => {
                suspect.known = 0;
                let since = *suspect.unknown_since.get_or_insert(now);
                suspect.is_certain = now >= since + certain;
                suspect.next = if suspect.is_certain { now } else { since + certain };
            }
        }
    }

    /// A try to undo something has ended.
    pub(super) fn tried(&mut self, subject: &Subject, is_undone: bool, now: Instant) {
        if is_undone {
            self.suspects.remove(subject);
        } else if let Some(suspect) = self.suspects.get_mut(subject) {
            let pause = doubled(self.first_pause, suspect.failures, LONGEST_PAUSE);
            suspect.failures = suspect.failures.saturating_add(1);
            suspect.is_running = false;
            suspect.next = now + pause;
            // A container is asked for again before the next try: its pod's name may be another's by then.
            (suspect.is_certain, suspect.unknown_since) = (suspect.pod.is_none(), None);
        }
    }

    /// When something is due next.
    pub(super) fn next(&self) -> Option<Instant> {
        self.suspects.values().filter(|suspect| !suspect.is_running).map(|suspect| suspect.next).min()
    }
}

/// A pause that has been doubled so many times, up to the longest.
fn doubled(first: Duration, times: u32, longest: Duration) -> Duration {
    first.saturating_mul(2u32.saturating_pow(times)).min(longest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod() -> PodName {
        PodName { namespace: "web".into(), name: "shop".into(), uid: "1".into() }
    }

    const CERTAIN: Duration = Duration::from_secs(120);
    const FIRST_PAUSE: Duration = Duration::from_secs(60);

    fn container() -> Subject {
        Subject::Container("c".into())
    }

    /// A container whose pod the watch does not list.
    fn suspect(now: Instant) -> Gone {
        let mut gone = Gone::new(CERTAIN, FIRST_PAUSE);
        gone.are(BTreeMap::from([(container(), Some(pod()))]), now);
        gone
    }

    #[test]
    fn the_api_server_is_asked_twice_two_minutes_apart() {
        let now = Instant::now();
        let mut gone = suspect(now);
        assert_eq!(gone.take(now), [Step::Ask(container(), pod())]);
        assert_eq!((gone.take(now), gone.next()), (Vec::new(), None));
        gone.answered(&container(), Some(false), now);
        assert_eq!(gone.next(), Some(now + CERTAIN));
        let later = now + CERTAIN;
        assert_eq!(gone.take(later), [Step::Ask(container(), pod())]);
        gone.answered(&container(), Some(false), later);
        assert_eq!(gone.take(later), [Step::Undo(container())]);
        gone.tried(&container(), true, later);
        assert_eq!(gone.next(), None);
    }

    #[test]
    fn what_is_known_again_or_cannot_be_asked_for_is_not_undone() {
        let now = Instant::now();
        let mut gone = suspect(now);
        gone.take(now);
        gone.answered(&container(), Some(false), now);
        let later = now + CERTAIN;
        gone.take(later);
        gone.answered(&container(), None, later);
        assert_eq!(gone.next(), Some(later + UNANSWERED));
        let later = later + UNANSWERED;
        gone.take(later);
        gone.answered(&container(), Some(true), later);
        // It has to be unknown for two minutes anew.
        let later = later + KNOWN;
        assert_eq!(gone.take(later), [Step::Ask(container(), pod())]);
        gone.answered(&container(), Some(false), later);
        assert_eq!(gone.next(), Some(later + CERTAIN));
        // The watch reports it again.
        gone.are(BTreeMap::new(), later);
        assert_eq!(gone.next(), None);
    }

    /// A pod has finished, and is gone later: the watch tells of the one, and not of the other.
    #[test]
    fn a_pod_that_is_still_known_is_asked_for_soon_and_then_less_often() {
        let mut now = Instant::now();
        let mut gone = suspect(now);
        let mut pauses = Vec::new();
        for _ in 0..7 {
            assert_eq!(gone.take(now), [Step::Ask(container(), pod())]);
            gone.answered(&container(), Some(true), now);
            let next = gone.next().unwrap();
            pauses.push((next - now).as_secs());
            now = next;
        }
        assert_eq!(pauses, [5, 10, 20, 40, 80, 120, 120]);
        gone.take(now);
        gone.answered(&container(), Some(false), now);
        assert_eq!(gone.next(), Some(now + CERTAIN));
    }

    #[test]
    fn debts_are_tried_with_longer_and_longer_pauses_up_to_an_hour() {
        let mut now = Instant::now();
        let mut gone = Gone::new(CERTAIN, FIRST_PAUSE);
        let debt = Subject::Debt("c/eth0".into());
        let all = BTreeMap::from([(debt.clone(), None)]);
        gone.are(all.clone(), now);
        let mut pauses = Vec::new();
        for _ in 0..9 {
            let next = gone.next().unwrap();
            pauses.push((next - now).as_secs());
            now = next;
            assert_eq!(gone.take(now), [Step::Undo(debt.clone())]);
            gone.tried(&debt, false, now);
            gone.are(all.clone(), now);
        }
        assert_eq!(pauses, [60, 60, 120, 240, 480, 960, 1920, 3600, 3600]);
    }

    #[test]
    fn claims_are_taken_back_at_once() {
        let now = Instant::now();
        let mut gone = Gone::new(CERTAIN, FIRST_PAUSE);
        let claims = Subject::Claims("1".into());
        gone.are(BTreeMap::from([(claims.clone(), None)]), now);
        assert_eq!(gone.take(now), [Step::Undo(claims.clone())]);
        gone.tried(&claims, false, now);
        assert_eq!(gone.next(), Some(now + FIRST_PAUSE));
    }

    #[test]
    fn a_container_that_could_not_be_undone_is_asked_for_again() {
        let now = Instant::now();
        let mut gone = suspect(now);
        for at in [now, now + CERTAIN] {
            gone.take(at);
            gone.answered(&container(), Some(false), at);
        }
        let later = now + CERTAIN;
        assert_eq!(gone.take(later), [Step::Undo(container())]);
        gone.tried(&container(), false, later);
        assert_eq!(gone.take(later + FIRST_PAUSE), [Step::Ask(container(), pod())]);
    }
}
