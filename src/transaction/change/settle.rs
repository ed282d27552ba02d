//! Settling a change that did not finish.

use std::time::Instant;

use super::changed::Means;
use super::detach::finish_detach;
use crate::transaction::CleanupFailure;
use crate::transaction::journal::Journal;
use crate::transaction::revert::revert;

/// Settles a change that did not finish. Does nothing if there is none.
pub fn settle(means: Means<'_>, journal: &mut Journal) -> Vec<CleanupFailure> {
    let Some(pending) = journal.state.pending.clone() else { return Vec::new() };
    let mut failures = Vec::new();
    if !pending.attaching.is_empty() || pending.redone.is_some() {
        failures.extend(revert(journal, means.tools));
    }
    if !pending.detaching.is_empty() {
        failures.extend(finish_detach(journal, means, &pending.detaching, Instant::now()));
    }
    failures
}
