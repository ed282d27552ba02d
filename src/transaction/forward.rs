//! Attaching: the primary attachment, then the others.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use super::journal::{Event, Step};
use super::run::micros;
use super::undo::undo_attachment;
use super::{Failure, Transaction, device_info};
use crate::cni::{AddResult, CniError};
use crate::plan::Position;
use crate::runtime::{Chain, PluginError, StepError, StepResult};

/// The result of one attachment. An optional attachment that failed has none.
type Outcome = Result<Option<AddResult>, Failure>;

/// Makes the attachments of the plan, and returns the result of each. An optional one that failed has none.
///
/// The primary comes first and alone; of the others up to `concurrency` run at once.
///
/// # Errors
/// The first failure in the order of the plan. Attachments already under way are waited for, and no more are begun.
///
/// # Panics
/// If a thread that attaches panics.
pub fn attach(tx: &Transaction<'_>, concurrency: usize) -> Result<Vec<Option<AddResult>>, Failure> {
    let count = tx.plan.attachments.len();
    let mut results = Vec::with_capacity(count);
    if tx.plan.position == Position::Primary {
        results.push(attach_one(tx, 0, Concurrency::Alone)?);
    }
    let first = results.len();
    if concurrency <= 1 || count - first <= 1 {
        for index in first..count {
            results.push(attach_one(tx, index, Concurrency::Alone)?);
        }
        return Ok(results);
    }
    let next = AtomicUsize::new(first);
    let failed = AtomicBool::new(false);
    let outcomes: Mutex<Vec<Option<Outcome>>> = Mutex::new((first..count).map(|_| None).collect());
    std::thread::scope(|scope| {
        for _ in 0..concurrency.min(count - first) {
            scope.spawn(|| {
                while !failed.load(Ordering::Relaxed) {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    if index >= count {
                        break;
                    }
                    let outcome = attach_one(tx, index, Concurrency::WithOthers);
                    failed.fetch_or(outcome.is_err(), Ordering::Relaxed);
                    outcomes.lock().expect("no holder panics")[index - first] = Some(outcome);
                }
            });
        }
    });
    let outcomes = outcomes.into_inner().expect("no holder panics");
    // Those that were never begun come after the one that failed.
    for outcome in outcomes.into_iter().flatten() {
        results.push(outcome?);
    }
    Ok(results)
}

/// Whether other attachments are made at the same time.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Concurrency {
    Alone,
    WithOthers,
}

pub(super) fn attach_one(tx: &Transaction<'_>, index: usize, concurrency: Concurrency) -> Outcome {
    let attachment = &tx.plan.attachments[index];
    let began = Instant::now();
    match run_chain(tx, index, concurrency) {
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
            tracing::warn!(
                network = attachment.network.name,
                interface = attachment.ifname,
                error = %failure,
                "{} failed; it is optional, so it is undone and the container goes without it",
                attachment.label()
            );
            for failure in undo_attachment(&tx.journal, tx.tools.for_rollback(), &tx.plan.netns, index) {
                tracing::error!(error = %failure, "could not be undone now; DEL will try again");
            }
            Ok(None)
        }
        Err(failure) => Err(failure),
    }
}

fn run_chain(tx: &Transaction<'_>, index: usize, concurrency: Concurrency) -> Result<AddResult, Failure> {
    let attachment = &tx.plan.attachments[index];
    let chain = Chain { after: Some(&tx.durable), ..tx.tools.chain(attachment) };
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
                let failed = Event::Failed { step: Step(index, step), error: CniError::from(&source.source) };
                // What failed is the plugin; that the journal cannot say so changes nothing.
                drop(tx.record(failed));
                return Err(Failure::Attach { label: attachment.label(), source });
            }
        }
    }
    Ok(last.map(|result| result.parsed).unwrap_or_default())
}
