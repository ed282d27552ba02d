//! New values for an attachment.

use std::time::Instant;

use super::changed::{Begun, ChangeError, Changed, Means};
use super::redo::Redoing;
use crate::cni::Verb;
use crate::plan::Attachment;
use crate::plan::update::{How, Kind, PlannedUpdate, UpdateError};
use crate::transaction::Transaction;
use crate::transaction::journal::{Event, Journal, State, Step};
use crate::transaction::run::Beginning;
use crate::transaction::sysctls::{only_in, sysctls};

/// Gives steps of an attachment new values.
///
/// # Errors
/// When one of them fails. The old values are then in force again, or what is not is owed and shown.
pub fn update(
    means: Means<'_>,
    mut journal: Journal,
    index: usize,
    planned: &PlannedUpdate,
) -> Result<Changed, ChangeError> {
    let index = journal.condense(&[index])[0];
    let old = journal.state.header.plan.attachments[index].clone();
    refuse_unknown_sysctls(&journal.state, index, &old, planned)?;
    let mut plan = journal.state.header.plan.clone();
    plan.attachments[index] = planned.attachment.clone();
    let what = format!("update {} ({})", old.ifname, types(planned));
    let event = Event::Redo { index, attachment: Box::new(planned.attachment.clone()), steps: redoable(planned) };
    let verb = match planned.steps.first().map(|redo| redo.how) {
        Some(How::Again(_)) => Verb::Del,
        _ => Verb::Add,
    };
    let change = Begun { means, began: Instant::now(), what };
    let beginning = Beginning { events: vec![event], verb };
    let transaction = Transaction::begin_change(means.container, journal, &plan, means.tools, beginning)?;
    let changed = transaction.run(|tx| {
        let steps = Redoing { tx, index, old: &old, new: &planned.attachment }.redo(&planned.steps)?;
        change.end(tx, steps)
    })?;
    Ok(changed)
}

fn types(planned: &PlannedUpdate) -> String {
    let plugins = &planned.attachment.network.plugins;
    planned.steps.iter().map(|redo| plugins[redo.step].plugin_type()).collect::<Vec<_>>().join(", ")
}

/// The steps that may be redone: the planned ones, and all after the first of them that may be redone.
fn redoable(planned: &PlannedUpdate) -> Vec<usize> {
    let plugins = &planned.attachment.network.plugins;
    let first = planned.steps.first().map_or(plugins.len(), |redo| redo.step);
    (first..plugins.len()).filter(|step| Kind::of(&plugins[*step]).is_some()).collect()
}

/// A parameter that `tuning` set during ADD keeps its value while the interface exists, because its earlier value is not known.
fn refuse_unknown_sysctls(
    state: &State,
    index: usize,
    old: &Attachment,
    planned: &PlannedUpdate,
) -> Result<(), UpdateError> {
    for redo in planned.steps.iter().filter(|redo| redo.how == How::Again(Kind::Tuning)) {
        let of = |attachment: &Attachment| sysctls(&attachment.network.plugins[redo.step]);
        let remembered = state.sysctls.get(&Step(index, redo.step));
        let unknown = only_in(&of(old), &of(&planned.attachment))
            .into_iter()
            .find(|name| !remembered.is_some_and(|values| values.contains_key(name)));
        if let Some(name) = unknown {
            return Err(UpdateError::Value {
                label: old.label(),
                plugin_type: "tuning".into(),
                key: name,
                why: "ADD has set it, so its value from before is not known; set the value that it is to have".into(),
            });
        }
    }
    Ok(())
}
