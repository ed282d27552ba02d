//! Takes the item that is due next, and records the outcome of its run.

use std::time::{Duration, Instant};

use super::item::{Container, Item, Priority, State};
use super::items::Queue;
use super::pause::pause_after;

/// One run of `braid sync`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::agent) struct Work {
    /// The pod's UID.
    pub(in crate::agent) uid: String,
    /// The pod, as `NAMESPACE/NAME`.
    pub(in crate::agent) pod: String,
    /// Its container.
    pub(in crate::agent) container: Container,
}

/// The outcome of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::agent) enum Outcome {
    /// The pod has what it asks for.
    Done,
    /// The pod lacks something, and another run may give it that.
    Failed,
    /// The pod lacks something, and no run gives it that until its annotation or Braid's configuration changes.
    NeedsRepair,
}

impl Queue {
    /// Takes the work that is due next. `None` if nothing is due, or if the limit on concurrent runs is reached.
    pub(in crate::agent) fn take(&mut self, now: Instant) -> Option<Work> {
        if self.running >= self.max_running {
            return None;
        }
        let due = |(uid, item): (&String, &Item)| {
            item.due().filter(|(_, at)| *at <= now).map(|(priority, at)| (priority, at, uid.clone()))
        };
        let (_, _, uid) = self.items.iter().filter_map(due).min()?;
        let item = self.items.get_mut(&uid)?;
        let container = item.container.clone()?;
        item.state = State::Running { again: false };
        self.running += 1;
        Some(Work { pod: format!("{}/{}", item.namespace, item.name), uid, container })
    }

    /// Records the end of a run. `definitions` are those that the pod asks for, if the run has reported them; `random` is between 0
    /// and 1. Returns the pause before the next run, if the run has failed and no other reason makes the item due.
    pub(in crate::agent) fn finished(
        &mut self,
        uid: &str,
        outcome: Outcome,
        definitions: Option<Vec<String>>,
        (now, random): (Instant, f64),
    ) -> Option<Duration> {
        self.running = self.running.saturating_sub(1);
        let item = self.items.get_mut(uid)?;
        let again = matches!(item.state, State::Running { again: true });
        item.last_end = Some(now);
        if let Some(definitions) = definitions {
            item.definitions = definitions;
        }
        let mut pause = None;
        item.failures = if outcome == Outcome::Done { 0 } else { item.failures.saturating_add(1) };
        item.state = match (again, outcome) {
            (true, _) => State::Due(Priority::Change, now),
            (false, Outcome::Done) => State::Idle,
            (false, Outcome::NeedsRepair) => State::NeedsRepair,
            (false, Outcome::Failed) => {
                let next = pause_after(item.failures, random);
                pause = Some(next);
                State::Due(Priority::Check, now + next)
            }
        };
        self.forget_if_gone(uid);
        pause
    }

    /// When the next item is due. `None` if none is, or if the limit on concurrent runs is reached.
    pub(in crate::agent) fn next(&self) -> Option<Instant> {
        if self.running >= self.max_running {
            return None;
        }
        self.items.values().filter_map(Item::due).map(|(_, at)| at).min()
    }
}
