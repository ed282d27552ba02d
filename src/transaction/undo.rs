//! Undoing what a journal says was done.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use serde_json::value::RawValue;

use super::bandwidth::BandwidthError;
use super::journal::{Event, Journal, State, Step, StepState, ToUndo};
use super::store::StoreError;
use super::{Tools, device_info};
use crate::cni::error::code;
use crate::cni::{CniError, Verb};
use crate::netns::{self, Netns, NetnsError};
use crate::plan::concurrency::Part;
use crate::plan::{Attachment, Plan, Position};
use crate::runtime::{Ahead, PluginError, Schedule, Shares, StepError, together};

/// The plugin that moves a device of the host into the container.
const HOST_DEVICE: &str = "host-device";

/// Why something could not be undone.
#[derive(Debug, thiserror::Error)]
pub enum UndoError {
    /// A plugin's DEL failed.
    #[error(transparent)]
    Step(#[from] StepError),
    /// A plugin's DEL succeeded, but the process of its ADD still exists and may do more.
    #[error("plugin {plugin:?} (step {step}): its DEL has succeeded, but its ADD could not be stopped and may do more")]
    Lingers {
        /// Its type.
        plugin: String,
        /// Its place in the chain, counted from 1.
        step: usize,
    },
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
    /// The journal could not be read or removed.
    #[error(transparent)]
    Journal(#[from] StoreError),
    /// What is to be undone is not on disk.
    #[error("nothing was put back, because the journal could not be synced: {0}")]
    NotDurable(#[source] io::Error),
    /// The limits of a `bandwidth` step could not be put back.
    #[error(transparent)]
    Bandwidth(BandwidthError),
    /// A debt cannot be used.
    #[error("it cannot be used ({reason}); what it records has to be cleaned up by hand")]
    Unusable {
        /// Why not.
        reason: String,
    },
    /// The debt is about an interface on which the container is attached again.
    #[error("the container is attached on {ifname:?} again, which would be undone too")]
    AttachedAgain {
        /// The interface.
        ifname: String,
    },
}

impl UndoError {
    /// The process of a step's ADD, given by its index, still exists.
    pub(super) fn lingers(attachment: &Attachment, step: usize) -> Self {
        Self::Lingers { plugin: attachment.network.plugins[step].plugin_type().to_owned(), step: step + 1 }
    }
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
    /// It is the journal that is in the way.
    pub(super) fn of_journal(source: UndoError) -> Self {
        Self { label: "journal".into(), source }
    }
}

/// Undoes everything that may have been done according to a journal: DEL of every step, in reverse, with the input and the result
/// of its ADD. Continues after a failure; steps that failed stay in the journal. `netns` is the current path of the namespace,
/// empty if the namespace is gone.
pub fn undo(journal: &mut Journal, tools: Tools<'_>, netns: &str) -> Vec<CleanupFailure> {
    let work = Work::of(&journal.state, |_| true);
    let mut failures = work.undo(tools, netns, &mut |event| journal.note(event));
    failures.extend(put_routes_back(journal, netns));
    if !failures.is_empty() {
        journal.note_failing();
    }
    failures
}

/// Undoes one attachment, in the same way as [`undo`]. The journal is locked only while it is read or written, so that other
/// attachments can run meanwhile.
pub(super) fn undo_attachment(
    journal: &Mutex<Journal>,
    tools: Tools<'_>,
    netns: &str,
    attachment: usize,
) -> Vec<CleanupFailure> {
    let lock = || journal.lock().expect("no holder panics");
    let work = Work::of(&lock().state, |index| index == attachment);
    work.undo(tools, netns, &mut |event| lock().note(event))
}

/// Undoes one attachment of a journal that no other thread uses.
pub(super) fn undo_one(journal: &mut Journal, tools: Tools<'_>, netns: &str, attachment: usize) -> Vec<CleanupFailure> {
    let work = Work::of(&journal.state, |index| index == attachment);
    work.undo(tools, netns, &mut |event| journal.note(event))
}

/// The steps to be undone, taken from a journal.
struct Work {
    plan: Plan,
    /// The attachments that it is about.
    attachments: Vec<usize>,
    steps: Vec<StepToUndo>,
}

struct StepToUndo {
    step: Step,
    is_owed: bool,
    lingers: bool,
    known: StepState,
    prev_result: Option<Box<RawValue>>,
    /// The attachment and its result before a change that did not finish. It is not known which values are in force.
    before: Option<(Attachment, Option<Box<RawValue>>)>,
}

impl Work {
    fn of(state: &State, which: impl Fn(usize) -> bool) -> Self {
        let plan = state.header.plan.clone();
        let attachments: Vec<usize> = (0..plan.attachments.len()).filter(|index| which(*index)).collect();
        let steps = state.to_undo().into_iter().filter(|one| which(one.step.0)).map(|ToUndo { step, is_owed }| {
            let known = state.steps[step.0][step.1].clone();
            let before = state.before_change(step.0, step.1);
            let before = before.map(|redone| (redone.old.clone(), redone.old_result.clone()));
            let lingers = state.lingering.contains(&step);
            StepToUndo {
                step,
                is_owed,
                lingers,
                known,
                prev_result: state.result(step.0).map(ToOwned::to_owned),
                before,
            }
        });
        let steps = steps.collect();
        Self { plan, attachments, steps }
    }

    /// Undoes it in reverse, and has every event noted. The primary interface comes last and alone, and of the rest those are
    /// undone at once that may be by the tools. Events and failures come in the order in which one after another would have them: those of
    /// a part once all that come before it are undone.
    fn undo(&self, tools: Tools<'_>, netns: &str, note: &mut (dyn FnMut(Event) + Send)) -> Vec<CleanupFailure> {
        let parts = tools.parts(&self.plan, &self.attachments);
        let (pieces, schedule) = self.pieces(&parts, tools);
        let ahead = tools.ahead(schedule.at_once());
        self.expect(&ahead, tools, netns);
        let shares = Shares::new(tools.limits, self.steps.len());
        let mut left = BTreeSet::new();
        let mut failures = Vec::new();
        let undo = |one| self.undo_step(one, Tools { exec: &ahead, limits: shares.next(), ..tools }, netns);
        together(
            &schedule,
            |piece| pieces[piece].iter().rev().map(|one| (one, undo(one))).collect::<Vec<_>>(),
            |_, undone| {
                for (one, outcome) in undone {
                    let (event, failure) = self.classify(one, outcome, netns);
                    event.into_iter().for_each(&mut *note);
                    left.extend(failure.is_some().then_some(one.step.0));
                    failures.extend(failure);
                }
            },
        );
        failures.extend(self.remove_device_info(&left));
        failures
    }

    /// What is undone in one go, in order, and what of it at once. Where nothing runs beside it, that is a single step, so that
    /// its outcome is noted at once.
    fn pieces(&self, parts: &[Part], tools: Tools<'_>) -> (Vec<&[StepToUndo]>, Schedule) {
        let piece = |part: &Part| if part.makes_primary() { 1 } else { part.steps.len().max(1) };
        let of_part = |part| self.steps_of(part).rchunks(piece(part)).map(move |steps| (part, steps));
        let (parts, pieces): (Vec<&Part>, Vec<_>) = parts.iter().rev().flat_map(of_part).unzip();
        let schedule = tools.schedule_parts(Verb::Del, &parts);
        if schedule.at_once() > 1 {
            return (pieces, schedule);
        }
        (self.steps.rchunks(1).collect(), Schedule::at_most(1, self.steps.len()))
    }

    /// What is to be undone of a part.
    fn steps_of(&self, part: &Part) -> &[StepToUndo] {
        let before = |end: usize| self.steps.partition_point(|one| one.step < Step(part.attachment, end));
        &self.steps[before(part.steps.start)..before(part.steps.end)]
    }

    /// What the outcome of a step's DEL means: the event for the journal, and the failure if something is left.
    fn classify(
        &self,
        one: &StepToUndo,
        outcome: Result<(), StepError>,
        netns: &str,
    ) -> (Option<Event>, Option<CleanupFailure>) {
        let undone = Some(Event::Undone(one.step));
        let error = match outcome {
            Ok(()) if one.lingers => return self.keep_owed(one),
            Ok(()) => return (undone, None),
            Err(error) => error,
        };
        let (container, label) = (&self.plan.container_id, self.plan.attachments[one.step.0].label());
        if !one.is_owed {
            tracing::warn!(container, "{label}: {error}; the journal does not say that its ADD was started");
            return (None, None);
        }
        let own = CniError::from(&error.source);
        if one.known.lacks_version(&own) {
            return (undone, None);
        }
        if is_refusal(&error.source) && one.known.is_refused(&own) {
            tracing::error!(
                container,
                error = %error,
                "{label}: its ADD failed and its DEL fails again with the same error, so it has nothing to undo"
            );
            return (undone, None);
        }
        if self.lacks_device(one.step, &own, netns) {
            tracing::warn!(container, error = %error, "{label}: there is no device to be moved back, so nothing is left to undo");
            return (undone, None);
        }
        (Some(Event::Owed { step: one.step, error: own }), Some(CleanupFailure { label, source: error.into() }))
    }

    /// Whether this is a DEL of `host-device` that has failed only because its interface is not in the namespace: its ADD has found
    /// no device, or the device was removed from the machine. The plugin fails so for ever, and by then it has released the
    /// addresses. Others do not fail when something is missing.
    fn lacks_device(&self, Step(index, plugin): Step, error: &CniError, netns: &str) -> bool {
        let attachment = &self.plan.attachments[index];
        let is_host_device = attachment.network.plugins[plugin].plugin_type() == HOST_DEVICE;
        let is_missing = || error.msg.starts_with(&format!("failed to find {:?}", attachment.ifname));
        let has_link = || Netns::open(Path::new(netns))?.has_link(&attachment.ifname);
        is_host_device && is_missing() && has_link().is_ok_and(|has_link| !has_link)
    }

    /// Keeps a step owed whose ADD still runs. Its process may be gone by the next DEL. Until then the holder keeps the container
    /// locked, which works only while the journal exists.
    fn keep_owed(&self, one: &StepToUndo) -> (Option<Event>, Option<CleanupFailure>) {
        let Step(index, plugin) = one.step;
        let attachment = &self.plan.attachments[index];
        let source = UndoError::lingers(attachment, plugin);
        let error = CniError::new(code::TIMED_OUT, source.to_string());
        (Some(Event::Owed { step: one.step, error }), Some(CleanupFailure { label: attachment.label(), source }))
    }

    /// Expects the DEL of every step.
    fn expect(&self, ahead: &Ahead<'_>, tools: Tools<'_>, netns: &str) {
        for StepToUndo { step: Step(index, plugin), .. } in self.steps.iter().rev() {
            let attachment = &self.plan.attachments[*index];
            let parameters = attachment.parameters(&self.plan.container_id, netns);
            ahead.expect(*index, &tools.chain(attachment), Verb::Del, *plugin..=*plugin, Some(&parameters));
        }
    }

    fn undo_step(&self, one: &StepToUndo, tools: Tools<'_>, netns: &str) -> Result<(), StepError> {
        let attachment = &self.plan.attachments[one.step.0];
        let parameters = attachment.parameters(&self.plan.container_id, netns);
        let del = || tools.chain(attachment).del_step(one.step.1, &parameters, one.prev_result.as_deref());
        match del() {
            // A plugin that was killed during ADD can leave something on which its DEL fails half-way: the reference bridge's DEL
            // fails on packet filter chains that do not exist yet. By then it has removed the interface, so a second DEL succeeds.
            // A DEL that timed out is not repeated, because it would time out again.
            Err(error) if one.known.interrupted && !error.source.is_out_of_time() => del(),
            outcome => outcome,
        }?;
        if let Some((attachment, result)) = &one.before {
            let parameters = attachment.parameters(&self.plan.container_id, netns);
            tools.chain(attachment).del_step(one.step.1, &parameters, result.as_deref())?;
        }
        Ok(())
    }

    /// Removes the device descriptions of all attachments, except those in `left`, of which something is left.
    fn remove_device_info(&self, left: &BTreeSet<usize>) -> Vec<CleanupFailure> {
        let mut failures = Vec::new();
        for index in self.attachments.iter().filter(|index| !left.contains(index)) {
            let attachment = &self.plan.attachments[*index];
            let Some(info) = attachment.device_info.as_ref() else { continue };
            if let Err(source) = device_info::remove(info) {
                let source = UndoError::DeviceInfo { path: info.file.clone(), source };
                failures.push(CleanupFailure { label: attachment.label(), source });
            }
        }
        failures
    }
}

/// Whether a plugin said no, or could not even be started. One that was killed, crashed or could not be talked to has not said
/// that there is nothing to undo: it may have been half-way, in ADD as in DEL.
fn is_refusal(error: &PluginError) -> bool {
    match error {
        PluginError::Reported(_)
        | PluginError::Start { .. }
        | PluginError::NotFound { .. }
        | PluginError::TooOld { .. } => true,
        PluginError::Exited { status, .. } => status.code().is_some(),
        PluginError::NotDurable(_)
        | PluginError::OutOfTime
        | PluginError::Io(_)
        | PluginError::TimedOut { .. }
        | PluginError::TooMuchOutput { .. }
        | PluginError::Output(_) => false,
    }
}

/// If Braid is chained after another plugin, the default routes that it removed belong to that plugin, whose interface stays.
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
