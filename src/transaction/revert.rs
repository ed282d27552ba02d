//! The way back of a change.

use super::journal::{Event, Journal, now_millis};
use super::restore::Restoring;
use super::routes::give_back_default_route;
use super::undo::{CleanupFailure, undo_one};
use crate::transaction::Tools;

/// Takes a change back: what it made is undone, and what it gave new values gets the old ones.
pub(super) fn revert(journal: &mut Journal, tools: Tools<'_>) -> Vec<CleanupFailure> {
    let Some(pending) = journal.state.pending.clone() else { return Vec::new() };
    let netns = journal.state.header.plan.netns.clone();
    let mut failures = Vec::new();
    let mut owing = Vec::new();
    for index in pending.attaching.iter().rev() {
        let ifname = journal.state.header.plan.attachments[*index].ifname.clone();
        let before = failures.len();
        failures.extend(give_back_default_route(journal, &netns, &ifname));
        failures.extend(undo_one(journal, tools, &netns, *index));
        if failures.len() > before {
            owing.push(*index);
        }
    }
    let mut unrestored = Vec::new();
    if let Some(redone) = &pending.redone {
        unrestored = Restoring { journal, tools, netns: &netns, redone }.restore();
    }
    if unrestored.is_empty() {
        journal.note(Event::Reverted { time: now_millis(), owing });
    }
    failures.extend(unrestored);
    failures
}
