//! What a change that failed has run.

use std::time::Duration;

use super::error::{LiveError, Tried};
use crate::cni::CniError;
use crate::cni::error::code;
use crate::plan::Plan;
use crate::runtime::Run;
use crate::transaction::journal::State;
use crate::transaction::{self, ChangeError, Container, Failure, StepReport};

/// Completes the error of a failed change: what was run for it, and the result now.
pub(super) fn complete(error: LiveError, container: &Container, plan: &Plan, runs: Vec<Run>) -> LiveError {
    let LiveError::Change(tried) = error else { return error };
    let now = State::peek(container, &plan.ifname).ok().flatten().and_then(Result::ok);
    let mut steps: Vec<StepReport> = runs.into_iter().map(report).collect();
    if let ChangeError::RolledBack(rolled_back) = &tried.error {
        note_cause(&rolled_back.cause, now.as_ref().map_or(plan, |state| &state.header.plan), &mut steps);
    }
    let result = now.and_then(|state| transaction::merged(&state).ok());
    let (container_id, ifname, version) = (container.id().to_owned(), plan.ifname.clone(), plan.version);
    LiveError::Change(Box::new(Tried { container_id, ifname, version, steps, result, ..*tried }))
}

/// What the run of a plugin says about its step.
pub(super) fn report(run: Run) -> StepReport {
    StepReport {
        interface: run.ifname,
        step: run.step,
        plugin: run.plugin_type,
        verb: run.verb.as_str(),
        took: run.took,
        error: run.error,
    }
}

/// Adds what the runs do not show: an answer that is not a result, a plugin that could not be started, and a limit that could not
/// be changed, for which no plugin runs.
fn note_cause(cause: &Failure, plan: &Plan, steps: &mut Vec<StepReport>) {
    let (label, step, plugin, verb, took, error) = match cause {
        Failure::Attach { label, source } => {
            let error = CniError::from(&source.source);
            (label, source.step, source.plugin_type.as_str(), source.verb.as_str(), Duration::ZERO, error)
        }
        Failure::Bandwidth { label, step, took, source } => {
            (label, *step, "bandwidth", "change", *took, CniError::new(code::NAMESPACE, source.to_string()))
        }
        _ => return,
    };
    let interface = plan.attachments.iter().find(|attachment| attachment.label() == *label);
    let interface = interface.map_or_else(String::new, |attachment| attachment.ifname.clone());
    let is_it = |report: &&mut StepReport| {
        report.interface == interface && report.step == step && report.plugin == plugin && report.verb == verb
    };
    if let Some(report) = steps.iter_mut().find(is_it) {
        report.error.get_or_insert(error);
        return;
    }
    // All that came before succeeded.
    let at = steps.iter().position(|report| report.verb == "DEL").unwrap_or(steps.len());
    steps.insert(at, StepReport { interface, step, plugin: plugin.to_owned(), verb, took, error: Some(error) });
}
