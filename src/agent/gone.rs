//! When to undo the attachments of containers that are gone, debts, and the entries for such containers in the status of claims; and
//! when to try again. There is no I/O and no clock here: the time is a parameter.
//!
//! containerd calls no GC, and a runtime that has lost a container calls no DEL. If the API server does not know a container's pod,
//! the container may be gone. The agent requests the pod by its name, and again two minutes later; it never relies on the watch
//! alone. `braid doctor --fix` then checks whether the container's namespace is gone, and only then undoes what the journal
//! records.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// The pause before repeating a request that could not be made.
const UNANSWERED_PAUSE: Duration = Duration::from_secs(30);
/// The pause before the next request for a pod that the API server still knows. It doubles each time. The watch does not report the
/// removal of a finished pod, and the object is usually removed a moment later.
const KNOWN_PAUSE: Duration = Duration::from_secs(5);
/// After so many answers that the API server knows a pod, it is strange that the watch does not list it.
const UNLISTED_AFTER: u32 = 4;
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
    /// The entries in the status of claims for a pod that is no longer attached, by the pod's UID.
    Claims(String),
}

/// A step towards undoing something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// Request the pod of a container from the API server.
    RequestPod(Subject, PodName),
    /// Undo it.
    Undo(Subject),
}

/// Something that may have to be undone, and when the next step is due.
#[derive(Debug)]
struct Suspect {
    /// The pod of a container. `None` for everything else.
    pod: Option<PodName>,
    /// When the API server first answered that it does not know the pod, if no other answer has followed.
    unknown_since: Option<Instant>,
    /// Whether the pod has been unknown for long enough.
    is_confirmed: bool,
    /// How many times in a row the API server has answered that it knows the pod.
    known_answers: u32,
    next: Instant,
    failures: u32,
    is_running: bool,
}

/// Containers that may be gone, debts, and claims.
#[derive(Debug)]
pub(super) struct Gone {
    suspects: BTreeMap<Subject, Suspect>,
    /// How long the API server must not know a pod before its container counts as gone.
    confirm_after: Duration,
    /// The first pause between two attempts. It doubles each time.
    first_pause: Duration,
}

impl Gone {
    /// Starts empty. A pod counts as gone if the API server does not know it for the time `confirm_after`. A failed attempt is repeated
    /// after `first_pause`, and later after up to an hour.
    pub(super) fn new(confirm_after: Duration, first_pause: Duration) -> Self {
        Self { suspects: BTreeMap::new(), confirm_after, first_pause }
    }

    /// Sets the complete list: containers whose pod the watch does not list, debts, and claims that name a pod which is no longer
    /// attached. The pod of each container is known.
    pub(super) fn set(&mut self, all: BTreeMap<Subject, Option<PodName>>, now: Instant) {
        self.suspects.retain(|subject, suspect| suspect.is_running || all.contains_key(subject));
        for (subject, pod) in all {
            // DEL has just tried to settle a debt.
            let next = if matches!(subject, Subject::Debt(_)) { now + self.first_pause } else { now };
            let is_confirmed = pod.is_none();
            let suspect = Suspect {
                pod,
                unknown_since: None,
                is_confirmed,
                known_answers: 0,
                next,
                failures: 0,
                is_running: false,
            };
            self.suspects.entry(subject).or_insert(suspect);
        }
    }

    /// Takes the steps that are due. They count as started.
    pub(super) fn take(&mut self, now: Instant) -> Vec<Step> {
        let due = self.suspects.iter_mut().filter(|(_, suspect)| !suspect.is_running && suspect.next <= now);
        due.map(|(subject, suspect)| {
            suspect.is_running = true;
            match &suspect.pod {
                Some(pod) if !suspect.is_confirmed => Step::RequestPod(subject.clone(), pod.clone()),
                _ => Step::Undo(subject.clone()),
            }
        })
        .collect()
    }

    /// Records whether the API server knows the pod of a container. `None` if the request could not be made. Returns the pod when the
    /// API server has known it several times in a row, though the watch does not list it.
    pub(super) fn record_answer(&mut self, subject: &Subject, knows: Option<bool>, now: Instant) -> Option<PodName> {
        let confirm_after = self.confirm_after;
        let suspect = self.suspects.get_mut(subject)?;
        suspect.is_running = false;
        match knows {
            None => suspect.next = now + UNANSWERED_PAUSE,
            Some(true) => {
                suspect.unknown_since = None;
                suspect.next = now + doubled(KNOWN_PAUSE, suspect.known_answers, confirm_after);
                suspect.known_answers = suspect.known_answers.saturating_add(1);
                return suspect.pod.clone().filter(|_| suspect.known_answers == UNLISTED_AFTER);
            }
            Some(false) => {
                suspect.known_answers = 0;
                let since = *suspect.unknown_since.get_or_insert(now);
                suspect.is_confirmed = now >= since + confirm_after;
                suspect.next = if suspect.is_confirmed { now } else { since + confirm_after };
            }
        }
        None
    }

    /// Records the outcome of an attempt to undo something.
    pub(super) fn record_attempt(&mut self, subject: &Subject, is_undone: bool, now: Instant) {
        if is_undone {
            self.suspects.remove(subject);
        } else if let Some(suspect) = self.suspects.get_mut(subject) {
            let pause = doubled(self.first_pause, suspect.failures, LONGEST_PAUSE);
            suspect.failures = suspect.failures.saturating_add(1);
            suspect.is_running = false;
            suspect.next = now + pause;
            // The pod is requested again before the next attempt, because its name may be another pod's by then.
            (suspect.is_confirmed, suspect.unknown_since) = (suspect.pod.is_none(), None);
        }
    }

    /// When something is due next.
    pub(super) fn next(&self) -> Option<Instant> {
        self.suspects.values().filter(|suspect| !suspect.is_running).map(|suspect| suspect.next).min()
    }
}

/// A pause that has been doubled this many times, up to the longest.
fn doubled(first: Duration, times: u32, longest: Duration) -> Duration {
    first.saturating_mul(2u32.saturating_pow(times)).min(longest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod() -> PodName {
        PodName { namespace: "web".into(), name: "shop".into(), uid: "1".into() }
    }

    const CONFIRM_AFTER: Duration = Duration::from_secs(120);
    const FIRST_PAUSE: Duration = Duration::from_secs(60);

    fn container() -> Subject {
        Subject::Container("c".into())
    }

    /// A container whose pod the watch does not list.
    fn suspect(now: Instant) -> Gone {
        let mut gone = Gone::new(CONFIRM_AFTER, FIRST_PAUSE);
        gone.set(BTreeMap::from([(container(), Some(pod()))]), now);
        gone
    }

    #[test]
    fn the_pod_is_requested_twice_two_minutes_apart() {
        let now = Instant::now();
        let mut gone = suspect(now);
        assert_eq!(gone.take(now), [Step::RequestPod(container(), pod())]);
        assert_eq!((gone.take(now), gone.next()), (Vec::new(), None));
        gone.record_answer(&container(), Some(false), now);
        assert_eq!(gone.next(), Some(now + CONFIRM_AFTER));
        let later = now + CONFIRM_AFTER;
        assert_eq!(gone.take(later), [Step::RequestPod(container(), pod())]);
        gone.record_answer(&container(), Some(false), later);
        assert_eq!(gone.take(later), [Step::Undo(container())]);
        gone.record_attempt(&container(), true, later);
        assert_eq!(gone.next(), None);
    }

    #[test]
    fn a_container_whose_pod_is_known_again_or_cannot_be_requested_is_not_undone() {
        let now = Instant::now();
        let mut gone = suspect(now);
        gone.take(now);
        gone.record_answer(&container(), Some(false), now);
        let later = now + CONFIRM_AFTER;
        gone.take(later);
        gone.record_answer(&container(), None, later);
        assert_eq!(gone.next(), Some(later + UNANSWERED_PAUSE));
        let later = later + UNANSWERED_PAUSE;
        gone.take(later);
        gone.record_answer(&container(), Some(true), later);
        // It has to be unknown for two minutes again.
        let later = later + KNOWN_PAUSE;
        assert_eq!(gone.take(later), [Step::RequestPod(container(), pod())]);
        gone.record_answer(&container(), Some(false), later);
        assert_eq!(gone.next(), Some(later + CONFIRM_AFTER));
        // The watch reports it again.
        gone.set(BTreeMap::new(), later);
        assert_eq!(gone.next(), None);
    }

    /// The watch reports that a pod has finished. It does not report that the pod is removed later.
    #[test]
    fn a_pod_that_is_still_known_is_requested_soon_and_then_less_often() {
        let mut now = Instant::now();
        let mut gone = suspect(now);
        let mut pauses = Vec::new();
        for _ in 0..7 {
            assert_eq!(gone.take(now), [Step::RequestPod(container(), pod())]);
            let unlisted = gone.record_answer(&container(), Some(true), now);
            assert_eq!(unlisted, (pauses.len() == 3).then(pod), "it is reported once");
            let next = gone.next().unwrap();
            pauses.push((next - now).as_secs());
            now = next;
        }
        assert_eq!(pauses, [5, 10, 20, 40, 80, 120, 120]);
        gone.take(now);
        gone.record_answer(&container(), Some(false), now);
        assert_eq!(gone.next(), Some(now + CONFIRM_AFTER));
    }

    #[test]
    fn debts_are_tried_with_longer_and_longer_pauses_up_to_an_hour() {
        let mut now = Instant::now();
        let mut gone = Gone::new(CONFIRM_AFTER, FIRST_PAUSE);
        let debt = Subject::Debt("c/eth0".into());
        let all = BTreeMap::from([(debt.clone(), None)]);
        gone.set(all.clone(), now);
        let mut pauses = Vec::new();
        for _ in 0..9 {
            let next = gone.next().unwrap();
            pauses.push((next - now).as_secs());
            now = next;
            assert_eq!(gone.take(now), [Step::Undo(debt.clone())]);
            gone.record_attempt(&debt, false, now);
            gone.set(all.clone(), now);
        }
        assert_eq!(pauses, [60, 60, 120, 240, 480, 960, 1920, 3600, 3600]);
    }

    #[test]
    fn claims_are_taken_back_at_once() {
        let now = Instant::now();
        let mut gone = Gone::new(CONFIRM_AFTER, FIRST_PAUSE);
        let claims = Subject::Claims("1".into());
        gone.set(BTreeMap::from([(claims.clone(), None)]), now);
        assert_eq!(gone.take(now), [Step::Undo(claims.clone())]);
        gone.record_attempt(&claims, false, now);
        assert_eq!(gone.next(), Some(now + FIRST_PAUSE));
    }

    #[test]
    fn the_pod_of_a_container_that_could_not_be_undone_is_requested_again() {
        let now = Instant::now();
        let mut gone = suspect(now);
        for at in [now, now + CONFIRM_AFTER] {
            gone.take(at);
            gone.record_answer(&container(), Some(false), at);
        }
        let later = now + CONFIRM_AFTER;
        assert_eq!(gone.take(later), [Step::Undo(container())]);
        gone.record_attempt(&container(), false, later);
        assert_eq!(gone.take(later + FIRST_PAUSE), [Step::RequestPod(container(), pod())]);
    }
}
