//! A change that was cut short or has failed.

use std::time::Instant;

use super::changed::Means;
use super::detach::finish_detach;
use super::restore::Restoring;
use crate::transaction::journal::{Event, Journal, now_millis};
use crate::transaction::routes::give_back_default_route;
use crate::transaction::undo::undo_one;
use crate::transaction::{CleanupFailure, Tools};

/// Settles a change that was cut short. Nothing happens where there is none.
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

/// Takes a change back: what it made is undone, and what it gave new values gets the old ones.
pub(in crate::transaction) fn revert(journal: &mut Journal, tools: Tools<'_>) -> Vec<CleanupFailure> {
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
