//! One item of the queue: a pod, and when work on it is due.

use std::time::Instant;

use super::pause::MIN_PAUSE;

/// Which item goes first. Items of equal priority are ordered by the time at which they became due.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Priority {
    /// A pod's annotation or a definition has changed.
    Change,
    /// Nothing is known to have changed: the run checks whether the pod has what it asks for.
    Check,
}

/// Whether an item needs work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// It needs none.
    Idle,
    /// Only `"repair": true` would give the pod what it lacks. This has been reported.
    NeedsRepair,
    /// It needs work, from this time on.
    Due(Priority, Instant),
    /// A run is under way. If `again` is set, another run follows.
    Running { again: bool },
}

/// The container of a pod.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::agent) enum Container {
    /// Braid has a journal of it.
    Attached(String),
    /// Another plugin has attached it, according to libcni's cache.
    Foreign(String),
}

impl Container {
    /// Its ID.
    pub(in crate::agent) fn id(&self) -> &str {
        let (Self::Attached(id) | Self::Foreign(id)) = self;
        id
    }
}

/// What the network status of a pod says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NetworkStatus {
    /// The hash of the text, if there is one.
    pub(super) hash: Option<u64>,
    /// Whether it is a list with any entry.
    pub(super) has_entries: bool,
}

/// A pod, and the work on it.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) namespace: String,
    pub(super) name: String,
    /// The version of the pod object.
    pub(super) version: String,
    /// The hash of the pod's annotation of networks, if it has one.
    pub(super) networks: Option<u64>,
    /// Its network status. Braid itself writes that.
    pub(super) status: NetworkStatus,
    /// Whether the pod is being deleted.
    pub(super) is_terminating: bool,
    /// Whether the API server no longer knows the pod. The item is removed when no run is under way for it.
    pub(super) is_gone: bool,
    /// Whether the annotation has changed since the pod was first reported.
    pub(super) is_edited: bool,
    /// The pod's container, if it is known.
    pub(super) container: Option<Container>,
    pub(super) state: State,
    /// How many runs in a row have failed.
    pub(super) failures: u32,
    /// When the last run ended.
    pub(super) last_end: Option<Instant>,
    /// The definitions that the pod asks for, as `NAMESPACE/NAME`.
    pub(super) definitions: Vec<String>,
}

impl Item {
    /// The priority of the item, and the time from which work on it is due. `None` if it cannot be worked on.
    pub(super) fn due(&self) -> Option<(Priority, Instant)> {
        match self.state {
            // A pod that is being deleted loses all its attachments in any case.
            State::Due(priority, at) if self.container.is_some() && !self.is_terminating && !self.is_gone => {
                Some((priority, at))
            }
            _ => None,
        }
    }

    /// Whether the last run has failed and another one is planned.
    pub(super) fn is_retried(&self) -> bool {
        self.failures > 0 && !self.needs_repair()
    }

    /// Whether the pod waits for `"repair": true`.
    pub(super) fn needs_repair(&self) -> bool {
        self.state == State::NeedsRepair
    }

    /// Makes the item due now, or after the run that is under way.
    pub(super) fn make_due(&mut self, priority: Priority, now: Instant) {
        self.state = match self.state {
            State::Running { .. } => State::Running { again: true },
            State::Idle | State::NeedsRepair => State::Due(priority, now),
            State::Due(before, at) => State::Due(priority.min(before), at.min(now)),
        };
    }

    /// Shortens the pause after a failure, because what the pod lacked may exist by now.
    pub(super) fn retry_soon(&mut self, now: Instant) {
        if let (State::Due(priority, at), 1..) = (self.state, self.failures) {
            self.state = State::Due(priority, at.min(self.soon(now)));
        }
    }

    /// Now, or a moment after the last run.
    pub(super) fn soon(&self, now: Instant) -> Instant {
        self.last_end.map_or(now, |end| now.max(end + MIN_PAUSE))
    }
}
