//! Files that must be on disk before a plugin gets its input.

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::holder::{Grace, Holder, SyncOutcome};

/// Files that are on disk already, or are being synced. The plugin of a [`Call`](crate::runtime::Call) that has one gets no input
/// before the files are on disk.
///
/// [`Exec::sync`](crate::runtime::Exec::sync) makes one, for every call that depends on these files.
#[derive(Debug)]
pub struct Durable {
    state: Mutex<State>,
    /// The process that syncs the files, until the first plugin's process group takes it as its holder.
    holder: Mutex<Option<Holder>>,
}

#[derive(Debug)]
enum State {
    UnderWay(SyncOutcome),
    Reached,
    Failed,
}

impl Durable {
    /// What is on disk already.
    pub fn reached() -> Self {
        Self { state: Mutex::new(State::Reached), holder: Mutex::new(None) }
    }

    pub(super) fn under_way(holder: Holder, outcome: SyncOutcome) -> Self {
        Self { state: Mutex::new(State::UnderWay(outcome)), holder: Mutex::new(Some(holder)) }
    }

    /// The process that syncs, to be the holder of the first plugin's group. Nothing if it has another `grace` than that plugin
    /// needs.
    pub(super) fn take_holder(&self, grace: Grace) -> Option<Holder> {
        self.holder.lock().unwrap_or_else(PoisonError::into_inner).take_if(|holder| holder.grace() == grace)
    }

    /// Waits until everything is on disk.
    ///
    /// # Errors
    /// When something could not be synced, or was not by `deadline`; and ever after.
    pub fn wait(&self, deadline: Option<Instant>) -> io::Result<()> {
        // Whoever comes meanwhile waits here.
        let mut state: MutexGuard<'_, State> = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *state {
            State::Reached => Ok(()),
            State::Failed => Err(io::Error::other("an attempt at it has failed before")),
            State::UnderWay(outcome) => {
                let waited = outcome.wait(deadline);
                *state = if waited.is_ok() { State::Reached } else { State::Failed };
                waited
            }
        }
    }
}
