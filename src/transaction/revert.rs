//! Reverting a change that failed or did not finish.

use super::detaching::{Detached, undo_attachments};
use super::journal::{Event, Journal, now_millis};
use super::restore::Restoring;
use super::undo::CleanupFailure;
use crate::transaction::Tools;

/// Reverts a change: undoes the attachments that it made, and restores the values that it replaced.
pub(super) fn revert(journal: &mut Journal, tools: Tools<'_>) -> Vec<CleanupFailure> {
    let Some(pending) = journal.state.pending.clone() else { return Vec::new() };
    let netns = journal.state.header.plan.netns.clone();
    let Detached { undone, mut failures } = undo_attachments(journal, tools, &pending.attaching);
    let mut unrestored = Vec::new();
    if let Some(redone) = &pending.redone {
        unrestored = Restoring { journal, tools, netns: &netns, redone }.restore();
    }
    if unrestored.is_empty() {
        let owing = pending.attaching.into_iter().filter(|index| !undone.contains(index)).collect();
        journal.note(Event::Reverted { time: now_millis(), owing });
    }
    failures.extend(unrestored);
    failures
}
