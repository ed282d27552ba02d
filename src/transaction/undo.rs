//! The way back.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::journal::{Event, Journal, Step};
use super::{Tools, device_info};
use crate::cni::CniError;
use crate::netns::{self, Netns, NetnsError};
use crate::plan::Position;
use crate::runtime::chain::Limits;
use crate::runtime::{PluginError, StepError};

use super::store::StoreError;

/// Why something could not be undone.
#[derive(Debug, thiserror::Error)]
pub enum UndoError {
    /// A plugin's DEL failed.
    #[error(transparent)]
    Step(#[from] StepError),
    /// The default routes could not be put back.
    #[error("cannot put the default routes back: {0}")]
    Routes(#[from] NetnsError),
    /// The description of a device could not be removed.
    #[error("cannot remove {}: {source}", path.display())]
    DeviceInfo {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The journal could not be removed.
    #[error(transparent)]
    Journal(#[from] StoreError),
}

/// Something that could not be undone.
#[derive(Debug, thiserror::Error)]
#[error("{label}: {source}")]
pub struct CleanupFailure {
    /// Of which attachment.
    pub label: String,
    /// Why.
    pub source: UndoError,
}

impl CleanupFailure {
    /// The journal itself could not be removed.
    pub(super) fn journal(source: StoreError) -> Self {
        Self { label: "journal".into(), source: source.into() }
    }
}

/// Undoes all that a journal says may have been done: DEL of every step, in reverse, with what ADD was given and what
/// it answered. It goes on after a failure; what failed stays in the journal. `netns` is where the namespace is now,
/// empty if it is gone.
pub fn undo(journal: &mut Journal, tools: Tools<'_>, netns: &str) -> Vec<CleanupFailure> {
    let mut failures = undo_steps(journal, tools, netns, |_| true);
    failures.extend(put_routes_back(journal, netns));
    failures
}

/// Undoes one attachment, as [`undo`] does all.
pub(super) fn undo_attachment(
    journal: &mut Journal,
    tools: Tools<'_>,
    netns: &str,
    attachment: usize,
) -> Vec<CleanupFailure> {
    undo_steps(journal, tools, netns, |Step(index, _)| index == attachment)
}

fn undo_steps(
    journal: &mut Journal,
    tools: Tools<'_>,
    netns: &str,
    which: impl Fn(Step) -> bool,
) -> Vec<CleanupFailure> {
    let plan = journal.state.header.plan.clone();
    let mut failures = Vec::new();
    let mut owed = journal.state.owed();
    owed.retain(|step| which(*step));
    while let Some(step) = owed.pop() {
        let Step(index, plugin) = step;
        let attachment = &plan.attachments[index];
        let prev_result = journal.state.result(index).map(ToOwned::to_owned);
        let parameters = attachment.parameters(&plan.container_id, netns);
        let tools = Tools { limits: share(tools.limits, owed.len()), ..tools };
        let del = || tools.chain(attachment).del_step(plugin, &parameters, prev_result.as_deref());
        let mut outcome = del();
        if outcome.is_err() && journal.state.steps[index][plugin].interrupted {
            // What a plugin leaves that is killed in its ADD can make its DEL fail half-way: the reference bridge's does
            // on packet filter chains that are not there yet. It has removed the interface by then, and succeeds now.
            outcome = del();
        }
        match outcome {
            Ok(()) => journal.note(Event::Undone(step)),
            Err(error) => {
                let own = CniError::from(&error.source);
                if journal.state.lacks_version(step, &own) {
                    journal.note(Event::Undone(step));
                    continue;
                }
                if is_refusal(&error.source) && journal.state.is_refused(step, &own) {
                    tracing::error!(
                        container = plan.container_id,
                        error = %error,
                        "{}: its ADD failed and its DEL keeps failing in the same way; taken for undone",
                        attachment.label()
                    );
                    journal.note(Event::Undone(step));
                    continue;
                }
                journal.note(Event::Owed { step, error: own });
                failures.push(CleanupFailure { label: attachment.label(), source: error.into() });
            }
        }
    }
    let owed = journal.state.owed();
    for (index, attachment) in plan.attachments.iter().enumerate().filter(|(index, _)| which(Step(*index, 0))) {
        let Some(info) = attachment.device_info.as_ref() else { continue };
        if !owed.iter().any(|step| step.0 == index)
            && let Err(source) = device_info::remove(info)
        {
            let source = UndoError::DeviceInfo { path: info.file.clone(), source };
            failures.push(CleanupFailure { label: attachment.label(), source });
        }
    }
    failures
}

/// Whether a plugin said no, or could not even be started. One that was killed, crashed or could not be talked to has not said
/// that there is nothing to undo: it may have been half-way, in ADD as in DEL.
fn is_refusal(error: &PluginError) -> bool {
    match error {
        PluginError::Reported(_) | PluginError::Start { .. } | PluginError::NotFound { .. } => true,
        PluginError::Ended { status, .. } => status.code().is_some(),
        PluginError::NotDurable(_)
        | PluginError::OutOfTime
        | PluginError::Io(_)
        | PluginError::TimedOut { .. }
        | PluginError::TooMuchOutput { .. }
        | PluginError::Output(_) => false,
    }
}

/// The time for one step when `others` come after it: at most half of what is left, so that a plugin that hangs does
/// not take it all, and every retry gets further.
fn share(limits: Limits, others: usize) -> Limits {
    let Some(deadline) = limits.deadline.filter(|_| others > 0) else { return limits };
    let half = deadline.saturating_duration_since(Instant::now()) / 2;
    Limits { plugin: Some(limits.plugin.map_or(half, |plugin| plugin.min(half))), ..limits }
}

/// Where Braid is chained after another plugin, the default routes it removed are that plugin's, whose interface stays.
fn put_routes_back(journal: &mut Journal, netns: &str) -> Option<CleanupFailure> {
    let state = &journal.state;
    if state.header.plan.position != Position::Chained || state.routes.is_empty() || netns.is_empty() {
        return None;
    }
    let put_back = || -> Result<(), NetnsError> {
        let mut namespace = match Netns::open(Path::new(netns)) {
            Err(NetnsError::Gone { .. }) => return Ok(()),
            opened => opened?,
        };
        state.routes.iter().rev().try_for_each(|change| netns::restore(&mut namespace, change))
    };
    match put_back() {
        Ok(()) => {
            journal.note(Event::RoutesUndone);
            None
        }
        Err(error) => Some(CleanupFailure { label: "default routes".into(), source: error.into() }),
    }
}
