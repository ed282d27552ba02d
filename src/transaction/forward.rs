//! Attaching: the primary interface, then the rest.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use super::journal::{Event, Step};
use super::routes::set_default_route_or_undo;
use super::run::micros;
use super::undo::undo_attachment;
use super::{CleanupFailure, Failure, Transaction, device_info};
use crate::cni::{AddResult, CniError, Verb};
use crate::plan::concurrency::Part;
use crate::runtime::{Ahead, Chain, Of, PluginError, Schedule, StepError, together};

/// The result of one attachment. An optional attachment that failed has none.
type Outcome = Result<Option<AddResult>, Failure>;

/// Makes the attachments of the plan, and returns the result of each. An optional attachment that failed has none.
///
/// The primary interface comes first; of the rest those run at once that may by the tools' `concurrency`.
///
/// # Errors
/// The first failure in the order of the plan. What is already under way is waited for, and no more is begun.
///
/// # Panics
/// If a thread that attaches panics.
pub fn attach(tx: &Transaction<'_>) -> Result<Vec<Option<AddResult>>, Failure> {
    let all: Vec<usize> = (0..tx.plan.attachments.len()).collect();
    let parts = tx.tools.parts(tx.plan, &all);
    let schedule = tx.tools.schedule_parts(Verb::Add, &parts);
    let ahead = tx.tools.ahead(schedule.at_once());
    expect(tx, &ahead, &parts, schedule.at_once() > 1);
    let outcome = attach_each(tx, &ahead, &parts, &schedule);
    if outcome.is_err() {
        // Kill the plugins that were started ahead.
        note_acted(tx, &ahead.give_up_all());
    }
    outcome
}

fn attach_each(
    tx: &Transaction<'_>,
    ahead: &Ahead<'_>,
    parts: &[Part],
    schedule: &Schedule,
) -> Result<Vec<Option<AddResult>>, Failure> {
    let concurrency = if schedule.at_once() > 1 { Concurrency::WithOthers } else { Concurrency::Alone };
    let mut results = Vec::with_capacity(tx.plan.attachments.len());
    let failed = AtomicBool::new(false);
    let mut failure = None;
    together(
        schedule,
        |index| {
            // After a failure, the attachments that have not begun are left out.
            let outcome =
                (!failed.load(Ordering::Relaxed)).then(|| attach_part(tx, ahead, &parts[index], concurrency))?;
            failed.fetch_or(outcome.is_err(), Ordering::Relaxed);
            Some(outcome)
        },
        |index, outcome| match outcome {
            Some(Ok(result)) => results.extend(is_last(tx, &parts[index]).then_some(result)),
            Some(Err(error)) => failure = failure.take().or(Some(error)),
            None => {}
        },
    );
    failure.map_or(Ok(results), Err)
}

/// Whether an attachment is made once this part of it is.
fn is_last(tx: &Transaction<'_>, part: &Part) -> bool {
    part.steps.end == length(tx, part.attachment)
}

/// Makes attachments of the plan one after another, and sets the default routes that they ask for.
///
/// # Errors
/// The first failure. No more are begun then.
pub(super) fn attach_in_turn(tx: &Transaction<'_>, mut attachments: Range<usize>) -> Result<(), Failure> {
    let ahead = tx.tools.ahead(1);
    attachments.clone().for_each(|index| expect_steps(tx, &ahead, index, 0..length(tx, index)));
    let outcome = attachments.try_for_each(|index| {
        // An optional one that failed has no result.
        let whole = Part::whole(tx.plan, index);
        if attach_part(tx, &ahead, &whole, Concurrency::Alone)?.is_some() {
            set_default_route_or_undo(tx, index)?;
        }
        Ok(())
    });
    if outcome.is_err() {
        note_acted(tx, &ahead.give_up_all());
    }
    outcome
}

/// Expects every step, in the order in which they are likely to come: where parts are worked on `at_once`, the primary interface's
/// steps, then the first step of each other part, then the second of each.
fn expect(tx: &Transaction<'_>, ahead: &Ahead<'_>, parts: &[Part], at_once: bool) {
    let in_turn = if at_once { parts.iter().take_while(|part| part.makes_primary()).count() } else { parts.len() };
    let (in_turn, beside_others) = parts.split_at(in_turn);
    for part in in_turn {
        expect_steps(tx, ahead, part.attachment, part.steps.clone());
    }
    let longest = beside_others.iter().map(|part| part.steps.len()).max().unwrap_or_default();
    for nth in 0..longest {
        for part in beside_others.iter().filter(|part| nth < part.steps.len()) {
            let step = part.steps.start + nth;
            expect_steps(tx, ahead, part.attachment, step..step + 1);
        }
    }
}

fn expect_steps(tx: &Transaction<'_>, ahead: &Ahead<'_>, index: usize, steps: Range<usize>) {
    let attachment = &tx.plan.attachments[index];
    let parameters = attachment.parameters(&tx.plan.container_id, &tx.plan.netns);
    ahead.expect(index, &tx.tools.chain(attachment), Verb::Add, steps, Some(&parameters));
}

/// The number of plugins of an attachment's chain.
fn length(tx: &Transaction<'_>, index: usize) -> usize {
    tx.plan.attachments[index].network.plugins.len()
}

/// Records plugins that were started ahead and have succeeded without their input, although they are no longer needed. They have
/// run, so they must be undone.
fn note_acted(tx: &Transaction<'_>, acted: &[Of]) {
    for Of { network, step } in acted {
        tx.note(Event::Start(Step(*network, *step)));
    }
}

/// Whether other attachments are made at the same time.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Concurrency {
    Alone,
    WithOthers,
}

fn attach_part(tx: &Transaction<'_>, ahead: &Ahead<'_>, part: &Part, concurrency: Concurrency) -> Outcome {
    let index = part.attachment;
    let attachment = &tx.plan.attachments[index];
    match run_part(tx, ahead, part, concurrency) {
        Ok(result) if !is_last(tx, part) => Ok(Some(result)),
        Ok(result) => {
            tracing::info!(
                network = attachment.network.name,
                interface = attachment.ifname,
                reference = attachment.reference,
                durationMs = tx.with_state(|state| state.plugins_took(index)).as_secs_f64() * 1e3,
                "attached"
            );
            Ok(Some(result))
        }
        Err(failure @ (Failure::Attach { .. } | Failure::DeviceInfo { .. })) if attachment.optional => {
            undo_optional(tx, index, &failure, || {
                note_acted(tx, &ahead.give_up(index));
                None
            });
            Ok(None)
        }
        Err(failure) => Err(failure),
    }
}

/// Undoes an optional attachment that failed. `first` runs before its steps are undone, and may return a failure of its own.
pub(super) fn undo_optional(
    tx: &Transaction<'_>,
    index: usize,
    failure: &Failure,
    first: impl FnOnce() -> Option<CleanupFailure>,
) {
    let attachment = &tx.plan.attachments[index];
    tracing::warn!(
        network = attachment.network.name,
        interface = attachment.ifname,
        error = %failure,
        "{} failed; it is optional, so it is undone and the container goes without it",
        attachment.label()
    );
    let first = first();
    let undone = undo_attachment(&tx.journal, tx.tools.for_rollback(), &tx.plan.netns, index);
    for failure in first.into_iter().chain(undone) {
        tracing::error!(error = %failure, "could not be undone now; DEL will try again");
    }
}

/// Runs the steps of a part. The first gets the result of the step before it, if there is one.
fn run_part(
    tx: &Transaction<'_>,
    ahead: &Ahead<'_>,
    part: &Part,
    concurrency: Concurrency,
) -> Result<AddResult, Failure> {
    let index = part.attachment;
    let attachment = &tx.plan.attachments[index];
    let chain = Chain { after: Some(&tx.durable), exec: ahead, ..tx.tools.chain(attachment) };
    let parameters = attachment.parameters(&tx.plan.container_id, &tx.plan.netns);
    if let Some(info) = attachment.device_info.as_ref().filter(|_| part.steps.start == 0) {
        device_info::put(info).map_err(|source| Failure::DeviceInfo {
            label: attachment.label(),
            path: info.file.clone(),
            source,
        })?;
    }
    let is_begun = part.steps.start > 0;
    let mut prev_result = is_begun.then(|| tx.with_state(|state| state.result(index).map(ToOwned::to_owned))).flatten();
    let mut last = AddResult::default();
    for step in part.steps.clone() {
        let began = Instant::now();
        tx.record(Event::Start(Step(index, step)))?;
        match chain.add_step(step, &parameters, prev_result.as_deref()) {
            Ok(result) => {
                let done = Event::Done {
                    step: Step(index, step),
                    micros: micros(began.elapsed()),
                    result: result.raw.clone(),
                };
                match concurrency {
                    // Either the next step's start or the end of the chain follows immediately.
                    Concurrency::Alone => tx.record_with_next(done)?,
                    Concurrency::WithOthers => tx.record(done)?,
                }
                (last, prev_result) = (result.parsed, Some(result.raw));
            }
            Err(StepError { source: PluginError::NotDurable(source), .. }) => return Err(tx.journal_failure(source)),
            Err(source) => {
                let error = CniError::from(&source.source);
                let failed = Event::Failed { step: Step(index, step), error, lingers: source.source.lingers() };
                // The error to report is the plugin's, even if it cannot be written to the journal.
                drop(tx.record(failed));
                return Err(Failure::Attach { label: attachment.label(), source });
            }
        }
    }
    Ok(last)
}
