//! Fewer attachments.

use std::time::Instant;

use super::changed::{ChangeError, Changed, Means, merged, names};
use crate::cni::Verb;
use crate::plan::Attachment;
use crate::transaction::journal::{Change, Event, Journal, now_millis};
use crate::transaction::routes::give_back_default_route;
use crate::transaction::run::{Beginning, begin_change, micros};
use crate::transaction::undo::undo_one;
use crate::transaction::{CleanupFailure, Tools, UndoError};

/// Undoes attachments, from their journal alone.
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

/// Gives back the default route that an attachment had taken. It waits for the journal to be on disk where there is one to be
/// given back; plugins wait for themselves.
fn give_back_when_durable(
    journal: &mut Journal,
    tools: Tools<'_>,
    netns: &str,
    attachment: &Attachment,
) -> Option<CleanupFailure> {
    if !journal.state.routes.iter().any(|change| change.interface == attachment.ifname) {
        return None;
    }
    match tools.after.map_or(Ok(()), |durable| durable.wait(tools.limits.deadline())) {
        Ok(()) => give_back_default_route(journal, netns, &attachment.ifname),
        Err(source) => Some(CleanupFailure { label: attachment.label(), source: UndoError::NotDurable(source) }),
    }
}

/// Undoes attachments that are being detached. A default route that one had taken goes back first, so that the container is never
/// without one. Those that are undone are closed, and the others are recorded as owed.
pub(super) fn finish_detach(
    journal: &mut Journal,
    means: Means<'_>,
    indexes: &[usize],
    began: Instant,
) -> Vec<CleanupFailure> {
    let netns = journal.state.header.plan.netns.clone();
    let mut left = Vec::new();
    let mut undone = Vec::new();
    for index in indexes.iter().rev().copied() {
        let attachment = journal.state.header.plan.attachments[index].clone();
        let mut failures: Vec<CleanupFailure> =
            give_back_when_durable(journal, means.tools, &netns, &attachment).into_iter().collect();
        failures.extend(undo_one(journal, means.tools, &netns, index));
        if failures.is_empty() {
            undone.push(index);
        }
        left.extend(failures);
    }
    means.tools.exec.let_go();
    if !undone.is_empty() {
        undone.reverse();
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
    left
}
