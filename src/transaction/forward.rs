//! Attaching: the primary attachment, then the others.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use super::journal::{Event, Step};
use super::run::micros;
use super::undo::undo_attachment;
use super::{CleanupFailure, Failure, Transaction, device_info};
use crate::cni::{AddResult, CniError, Verb};
use crate::plan::{Attachment, Position};
use crate::runtime::{Ahead, Chain, Of, PluginError, StepError, StepResult, together};

/// The result of one attachment. An optional attachment that failed has none.
type Outcome = Result<Option<AddResult>, Failure>;

/// Makes the attachments of the plan, and returns the result of each. An optional one that failed has none.
///
/// The primary comes first and alone; of the others up to the tools' `concurrency` run at once.
///
/// # Errors
/// The first failure in the order of the plan. Attachments already under way are waited for, and no more are begun.
///
/// # Panics
/// If a thread that attaches panics.
pub fn attach(tx: &Transaction<'_>) -> Result<Vec<Option<AddResult>>, Failure> {
    let concurrency = tx.tools.concurrency;
    let ahead = tx.tools.ahead(concurrency);
    for (index, attachment) in tx.plan.attachments.iter().enumerate() {
        expect(tx, &ahead, index, attachment);
    }
    let outcome = attach_each(tx, &ahead, concurrency);
    if outcome.is_err() {
        // None of those that wait outlives the failure.
        note_acted(tx, &ahead.give_up_all());
    }
    outcome
}

fn attach_each(tx: &Transaction<'_>, ahead: &Ahead<'_>, concurrency: usize) -> Result<Vec<Option<AddResult>>, Failure> {
    let count = tx.plan.attachments.len();
    let mut results = Vec::with_capacity(count);
    if tx.plan.position == Position::Primary {
        results.push(attach_one(tx, ahead, 0, Concurrency::Alone)?);
    }
    let first = results.len();
    let at_once = concurrency.min(count - first);
    let concurrency = if at_once > 1 { Concurrency::WithOthers } else { Concurrency::Alone };
    let failed = AtomicBool::new(false);
    let mut failure = None;
    together(
        count - first,
        at_once,
        |index| {
            // Those that are never begun come after the one that failed.
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

fn expect(tx: &Transaction<'_>, ahead: &Ahead<'_>, index: usize, attachment: &Attachment) {
    let parameters = attachment.parameters(&tx.plan.container_id, &tx.plan.netns);
    let steps = 0..attachment.network.plugins.len();
    ahead.expect(index, &tx.tools.chain(attachment), Verb::Add, steps, Some(&parameters));
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
pub(super) enum Concurrency {
    Alone,
    WithOthers,
}

pub(super) fn attach_one(tx: &Transaction<'_>, ahead: &Ahead<'_>, index: usize, concurrency: Concurrency) -> Outcome {
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
