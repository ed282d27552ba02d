//! Attaching: the primary attachment, then the others.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use super::journal::{Event, Step};
use super::routes::set_default_route_or_forgo;
use super::run::micros;
use super::undo::undo_attachment;
use super::{CleanupFailure, Failure, Transaction, device_info};
use crate::cni::{AddResult, CniError, Verb};
use crate::plan::Position;
use crate::plan::concurrency::Needs;
use crate::runtime::{Ahead, Chain, Of, PluginError, Schedule, StepError, StepResult, together};

/// The result of one attachment. An optional attachment that failed has none.
type Outcome = Result<Option<AddResult>, Failure>;

/// Makes the attachments of the plan, and returns the result of each. An optional one that failed has none.
///
/// The primary comes first and alone; of the others those run at once that may by the tools' `concurrency`.
///
/// # Errors
/// The first failure in the order of the plan. Attachments already under way are waited for, and no more are begun.
///
/// # Panics
/// If a thread that attaches panics.
pub fn attach(tx: &Transaction<'_>) -> Result<Vec<Option<AddResult>>, Failure> {
    let first = usize::from(tx.plan.position == Position::Primary).min(tx.plan.attachments.len());
    let schedule = tx.tools.schedule(tx.plan.attachments[first..].iter().map(Needs::of));
    let ahead = tx.tools.ahead(schedule.at_once());
    expect(tx, &ahead, first, schedule.at_once() > 1);
    let outcome = attach_each(tx, &ahead, &schedule);
    if outcome.is_err() {
        // None of those that wait outlives the failure.
        note_acted(tx, &ahead.give_up_all());
    }
    outcome
}

fn attach_each(
    tx: &Transaction<'_>,
    ahead: &Ahead<'_>,
    schedule: &Schedule,
) -> Result<Vec<Option<AddResult>>, Failure> {
    let mut results = Vec::with_capacity(tx.plan.attachments.len());
    if tx.plan.position == Position::Primary {
        results.push(attach_one(tx, ahead, 0, Concurrency::Alone)?);
    }
    let first = results.len();
    let concurrency = if schedule.at_once() > 1 { Concurrency::WithOthers } else { Concurrency::Alone };
    let failed = AtomicBool::new(false);
    let mut failure = None;
    together(
        schedule,
        |index| {
            // Those that are never begun come after one that failed.
            let outcome =
                (!failed.load(Ordering::Relaxed)).then(|| attach_one(tx, ahead, first + index, concurrency))?;
            failed.fetch_or(outcome.is_err(), Ordering::Relaxed);
            Some(outcome)
        },
        |_, outcome| match outcome {
            Some(Ok(result)) => results.push(result),
            Some(Err(error)) => failure = failure.take().or(Some(error)),
            None => {}
        },
    );
    failure.map_or(Ok(results), Err)
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
        if attach_one(tx, &ahead, index, Concurrency::Alone)?.is_some() {
            set_default_route_or_forgo(tx, index)?;
        }
        Ok(())
    });
    if outcome.is_err() {
        note_acted(tx, &ahead.give_up_all());
    }
    outcome
}

/// Expects every step, in the order in which they are likely to come: where the attachments from the `first` on are made at once,
/// the first step of each, then the second of each.
fn expect(tx: &Transaction<'_>, ahead: &Ahead<'_>, first: usize, at_once: bool) {
    let extras = first..tx.plan.attachments.len();
    (0..first).for_each(|index| expect_steps(tx, ahead, index, 0..length(tx, index)));
    if at_once {
        let longest = extras.clone().map(|index| length(tx, index)).max().unwrap_or_default();
        (0..longest).for_each(|step| {
            let has_step = extras.clone().filter(|index| step < length(tx, *index));
            has_step.for_each(|index| expect_steps(tx, ahead, index, step..step + 1));
        });
    } else {
        extras.for_each(|index| expect_steps(tx, ahead, index, 0..length(tx, index)));
    }
}

fn expect_steps(tx: &Transaction<'_>, ahead: &Ahead<'_>, index: usize, steps: Range<usize>) {
    let attachment = &tx.plan.attachments[index];
    let parameters = attachment.parameters(&tx.plan.container_id, &tx.plan.netns);
    ahead.expect(index, &tx.tools.chain(attachment), Verb::Add, steps, Some(&parameters));
}

/// How many plugins an attachment's chain has.
fn length(tx: &Transaction<'_>, index: usize) -> usize {
    tx.plan.attachments[index].network.plugins.len()
}

/// Takes note of plugins that have succeeded without their input, before it was known that they are not needed: they were run,
/// and are to be undone.
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

fn attach_one(tx: &Transaction<'_>, ahead: &Ahead<'_>, index: usize, concurrency: Concurrency) -> Outcome {
    let attachment = &tx.plan.attachments[index];
    let began = Instant::now();
    match run_chain(tx, ahead, index, concurrency) {
        Ok(result) => {
            tracing::info!(
                network = attachment.network.name,
                interface = attachment.ifname,
                reference = attachment.reference,
                durationMs = began.elapsed().as_secs_f64() * 1e3,
                "attached"
            );
            Ok(Some(result))
        }
        Err(failure @ (Failure::Attach { .. } | Failure::DeviceInfo { .. })) if attachment.optional => {
            forgo(tx, index, &failure, || {
                note_acted(tx, &ahead.give_up(index));
                None
            });
            Ok(None)
        }
        Err(failure) => Err(failure),
    }
}

/// Undoes an optional attachment that failed. `first` is what comes before its steps.
pub(super) fn forgo(
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

fn run_chain(
    tx: &Transaction<'_>,
    ahead: &Ahead<'_>,
    index: usize,
    concurrency: Concurrency,
) -> Result<AddResult, Failure> {
    let attachment = &tx.plan.attachments[index];
    let chain = Chain { after: Some(&tx.durable), exec: ahead, ..tx.tools.chain(attachment) };
    let parameters = attachment.parameters(&tx.plan.container_id, &tx.plan.netns);
    if let Some(info) = &attachment.device_info {
        device_info::put(info).map_err(|source| Failure::DeviceInfo {
            label: attachment.label(),
            path: info.file.clone(),
            source,
        })?;
    }
    let mut last: Option<StepResult> = None;
    for step in 0..attachment.network.plugins.len() {
        let began = Instant::now();
        tx.record(Event::Start(Step(index, step)))?;
        match chain.add_step(step, &parameters, last.as_ref().map(|result| &*result.raw)) {
            Ok(result) => {
                let done = Event::Done {
                    step: Step(index, step),
                    micros: micros(began.elapsed()),
                    result: result.raw.clone(),
                };
                match concurrency {
                    // The next step's start, or the end of it all, comes at once.
                    Concurrency::Alone => tx.record_with_next(done)?,
                    Concurrency::WithOthers => tx.record(done)?,
                }
                last = Some(result);
            }
            Err(StepError { source: PluginError::NotDurable(source), .. }) => return Err(tx.journal_failure(source)),
            Err(source) => {
                let error = CniError::from(&source.source);
                let failed = Event::Failed { step: Step(index, step), error, lingers: source.source.lingers() };
                // What failed is the plugin; that the journal cannot say so changes nothing.
                drop(tx.record(failed));
                return Err(Failure::Attach { label: attachment.label(), source });
            }
        }
    }
    Ok(last.map(|result| result.parsed).unwrap_or_default())
}
