//! Undoing attachments of a container that goes on running.

use super::journal::Journal;
use super::routes::give_back_default_route;
use super::undo::{CleanupFailure, UndoError, undo_one};
use crate::plan::Attachment;
use crate::transaction::Tools;

/// The outcome of undoing attachments.
pub(super) struct Detached {
    /// The indexes of those that were undone completely, in ascending order.
    pub(super) undone: Vec<usize>,
    /// The failures of the others.
    pub(super) failures: Vec<CleanupFailure>,
}

/// Undoes attachments, the last one first. Continues after a failure. Before an attachment is undone, the default route that it had
/// taken is given back, so that the container is never without a default route.
pub(super) fn undo_attachments(journal: &mut Journal, tools: Tools<'_>, indexes: &[usize]) -> Detached {
    let netns = journal.state.header.plan.netns.clone();
    let mut detached = Detached { undone: Vec::new(), failures: Vec::new() };
    for index in indexes.iter().rev().copied() {
        let attachment = journal.state.header.plan.attachments[index].clone();
        let route = give_back_when_durable(journal, tools, &netns, &attachment);
        let steps = undo_one(journal, tools, &netns, index);
        if route.is_none() && steps.is_empty() {
            detached.undone.push(index);
        }
        detached.failures.extend(route.into_iter().chain(steps));
    }
    detached.undone.reverse();
    detached
}

/// Gives back the default route that an attachment had taken. If there is one, waits first until the journal is on disk, as is done
/// before a plugin gets its input.
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
