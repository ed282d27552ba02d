//! Gives steps their old values back.

use std::path::Path;
use std::time::Instant;

use serde_json::value::RawValue;

use super::sysctls::{only_in, restorable, sysctls};
use crate::cni::CniError;
use crate::cni::error::code;
use crate::netns;
use crate::plan::Attachment;
use crate::plan::update::{Kind, Limits};
use crate::runtime::undo_in_reverse;
use crate::transaction::bandwidth::{BandwidthError, Reshape, reshape};
use crate::transaction::journal::{Event, Journal, Redone, Step};
use crate::transaction::run::micros;
use crate::transaction::{CleanupFailure, Tools, UndoError};

/// An attachment gets its old values back.
pub(super) struct Restoring<'a> {
    pub(super) journal: &'a mut Journal,
    pub(super) tools: Tools<'a>,
    pub(super) netns: &'a str,
    pub(super) redone: &'a Redone,
}

impl Restoring<'_> {
    /// Restores the old values. Returns what could not be undone or redone, which is owed.
    pub(super) fn restore(&mut self) -> Vec<CleanupFailure> {
        let index = self.redone.attachment;
        let new = self.journal.state.header.plan.attachments[index].clone();
        let mut begun = self.redone.begun.clone();
        begun.sort_unstable();
        let mut left = undo_in_reverse(begun.iter().copied(), self.tools.limits, |step, limits| {
            self.undo(&new, step, Tools { limits, ..self.tools }).map_err(|source| (step, source))?;
            let lingers = self.journal.state.lingering.contains(&Step(index, step));
            if lingers { Err((step, UndoError::lingers(&new, step))) } else { Ok(()) }
        });
        for step in begun.into_iter().filter(|step| *step < self.redone.old.network.plugins.len()) {
            if let Err(source) = self.redo(&new, step) {
                left.push((step, source));
            }
        }
        // Recorded as owed even if the old values are in force again: what could not be undone is still there.
        left.into_iter().map(|(step, source)| self.note_owed(step, source)).collect()
    }

    fn note_owed(&mut self, step: usize, source: UndoError) -> CleanupFailure {
        let error = match &source {
            UndoError::Step(error) => CniError::from(&error.source),
            UndoError::Lingers { .. } => CniError::new(code::TIMED_OUT, source.to_string()),
            other => CniError::new(code::NAMESPACE, other.to_string()),
        };
        self.journal.note(Event::Owed { step: Step(self.redone.attachment, step), error });
        CleanupFailure { label: self.redone.old.label(), source }
    }

    /// Undoes a step with both its new and its old values, because it is not known which are in force.
    fn undo(&self, new: &Attachment, step: usize, tools: Tools<'_>) -> Result<(), UndoError> {
        let container_id = self.journal.state.header.plan.container_id.clone();
        let is_added = step >= self.redone.old.network.plugins.len();
        if Kind::of(&new.network.plugins[step]) == Some(Kind::Bandwidth) && !is_added {
            return Ok(());
        }
        let known = &self.journal.state.steps[self.redone.attachment];
        let result = known.iter().rev().find_map(|step| step.result.as_deref());
        let parameters = new.parameters(&container_id, self.netns);
        match tools.chain(new).del_step(step, &parameters, result) {
            // If ADD with the new values failed with the same error, the plugin refuses them and has done nothing with them.
            Err(error) if known[step].failed.as_ref() == Some(&CniError::from(&error.source)) => {}
            outcome => outcome?,
        }
        if is_added {
            // The plugin relies on the interface being removed, but here the interface stays.
            return self.reshape(tools, new, step, Limits::default()).map(drop);
        }
        let parameters = self.redone.old.parameters(&container_id, self.netns);
        Ok(tools.chain(&self.redone.old).del_step(step, &parameters, self.redone.old_result.as_deref())?)
    }

    /// Does a step with its old values.
    fn redo(&mut self, new: &Attachment, step: usize) -> Result<(), UndoError> {
        let (index, old) = (self.redone.attachment, &self.redone.old);
        let plan = &self.journal.state.header.plan;
        let began = Instant::now();
        let result = if Kind::of(&old.network.plugins[step]) == Some(Kind::Bandwidth) {
            self.reshape(self.tools, new, step, Limits::of(&old.network.plugins[step], &old.capability_args))?
        } else {
            let parameters = old.parameters(&plan.container_id, self.netns);
            let prev = step.checked_sub(1).and_then(|step| self.journal.state.steps[index][step].result.as_deref());
            self.tools.chain(old).add_step(step, &parameters, prev)?.raw
        };
        if Kind::of(&old.network.plugins[step]) == Some(Kind::Tuning) {
            let remembered = self.journal.state.sysctls.get(&Step(index, step)).cloned();
            let added = only_in(&sysctls(&new.network.plugins[step]), &sysctls(&old.network.plugins[step]));
            netns::write_sysctls(Path::new(self.netns), &old.ifname, &restorable(remembered, &added))?;
        }
        self.journal.note(Event::Done { step: Step(index, step), micros: micros(began.elapsed()), result });
        Ok(())
    }

    /// Gives a `bandwidth` step limits, whatever limits it has now.
    fn reshape(&self, tools: Tools<'_>, new: &Attachment, step: usize, to: Limits) -> Result<Box<RawValue>, UndoError> {
        let (state, index) = (&self.journal.state, self.redone.attachment);
        let old = &self.redone.old;
        let of = |attachment: &Attachment| {
            attachment.network.plugins.get(step).map(|plugin| Limits::of(plugin, &attachment.capability_args))
        };
        let prev = step.checked_sub(1).and_then(|step| state.steps[index][step].result.as_deref());
        let own = state.steps[index][step].result.as_deref().or(prev).unwrap_or(RawValue::NULL);
        let wanted = Reshape {
            attachment: if step < old.network.plugins.len() { old } else { new },
            step,
            container_id: &state.header.plan.container_id,
            netns: self.netns,
            ours: [of(old).unwrap_or_default(), of(new).unwrap_or_default()],
            to,
            prev_result: prev,
            result: own,
        };
        reshape(tools, wanted).map_err(|error| match error {
            BandwidthError::Step(error) => UndoError::Step(error),
            other => UndoError::Bandwidth(other),
        })
    }
}
