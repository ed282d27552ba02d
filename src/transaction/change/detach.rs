//! Fewer attachments.

use std::time::Instant;

use super::changed::{ChangeError, Changed, Means, merged, names};
use crate::cni::Verb;
use crate::plan::Attachment;
use crate::transaction::detaching::{Detached, undo_attachments};
use crate::transaction::journal::{Change, Event, Journal, now_millis};
use crate::transaction::run::{Beginning, begin_change, micros};
use crate::transaction::{CleanupFailure, Tools};

/// Undoes attachments, using only their journal.
///
/// # Errors
/// When a step cannot be undone: the others are, and the next detach, and DEL, try it again.
pub fn detach(means: Means<'_>, mut journal: Journal, indexes: &[usize]) -> Result<Changed, ChangeError> {
    let began = Instant::now();
    let indexes = journal.condense(indexes);
    let events = indexes.iter().map(|index| Event::Detach(*index)).collect();
    let beginning = Beginning { events, verb: Verb::Del };
    let durable = begin_change(means.container, &mut journal, means.tools, beginning)?;
    let means = Means { tools: Tools { after: Some(&durable), ..means.tools }, ..means };
    let left = finish_detach(&mut journal, means, &indexes, began);
    if !left.is_empty() {
        return Err(ChangeError::Incomplete(left));
    }
    let result = merged(&journal.state).map_err(ChangeError::Result)?;
    Ok(Changed { steps: Vec::new(), result })
}

/// Undoes attachments that are being detached. Records that those that were undone are detached, and that the others are owed.
pub(super) fn finish_detach(
    journal: &mut Journal,
    means: Means<'_>,
    indexes: &[usize],
    began: Instant,
) -> Vec<CleanupFailure> {
    let Detached { undone, failures } = undo_attachments(journal, means.tools, indexes);
    means.tools.exec.dismiss_idle();
    if !undone.is_empty() {
        let plan = &journal.state.header.plan;
        let detached: Vec<Attachment> = undone.iter().map(|index| plan.attachments[*index].clone()).collect();
        let detaching = journal.state.pending.as_ref().map(|pending| pending.detaching.clone()).unwrap_or_default();
        journal.note(Event::Changed(Change {
            time: now_millis(),
            micros: micros(began.elapsed()),
            author: means.author.to_owned(),
            what: format!("detach {}", names(&detached)),
            owing: detaching.into_iter().filter(|index| !undone.contains(index)).collect(),
            absent: None,
        }));
    }
    failures
}
