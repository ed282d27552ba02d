//! Changes of a running container, as its journal records them.
//!
//! A change begins with one or more lines `attach`, `detach` or `redo`, which are synced before its first plugin gets its input. It
//! ends with `changed`, or with `reverted` if it failed and everything is as before. A change with neither did not finish, and the
//! next call settles it. Attachments that could not be undone stay in the state of being detached, and other changes may be made
//! meanwhile.

use serde_json::value::RawValue;

use super::format::{CHANGED_FORMAT, Change, Event, Header, Step};
use super::state::{NoSuchStep, State, StepState};
use crate::netns::DefaultRoute;
use crate::plan::Attachment;

/// How many changes a journal remembers when it is rewritten.
const HISTORY: usize = 100;

/// A change that has begun and not finished.
#[derive(Debug, Clone, Default)]
pub struct Pending {
    /// Attachments that are being made.
    pub attaching: Vec<usize>,
    /// Attachments that are being undone.
    pub detaching: Vec<usize>,
    /// An attachment of which some steps get new values.
    pub redone: Option<Box<Redone>>,
}

/// An attachment of which some steps get new values.
#[derive(Debug, Clone)]
pub struct Redone {
    /// Which.
    pub attachment: usize,
    /// What it was before.
    pub old: Attachment,
    /// The result that it had before.
    pub old_result: Option<Box<RawValue>>,
    /// The steps that may be redone.
    pub steps: Vec<usize>,
    /// Those of them that were begun.
    pub begun: Vec<usize>,
}

impl State {
    /// The attachments that no change has detached, with their indexes in the plan.
    pub fn attachments(&self) -> impl Iterator<Item = (usize, &Attachment)> {
        self.header.plan.attachments.iter().enumerate().filter(|(index, _)| !self.is_detached(*index))
    }

    /// Whether a change has detached an attachment, or has failed to make it.
    pub fn is_detached(&self, attachment: usize) -> bool {
        self.detached.get(attachment).copied().unwrap_or(false)
    }

    /// Whether an attachment was optional, and failed and was undone. Its interface name is free again.
    pub fn is_failed_optional(&self, attachment: usize) -> bool {
        let is_over = self.complete.is_some() && !self.is_changing(attachment);
        is_over
            && self.header.plan.attachments[attachment].optional
            && self.steps[attachment].iter().all(|step| step.undone || !step.started)
    }

    /// Whether an unfinished change concerns an attachment.
    pub fn is_changing(&self, attachment: usize) -> bool {
        self.pending.as_ref().is_some_and(|pending| {
            pending.attaching.contains(&attachment)
                || pending.detaching.contains(&attachment)
                || pending.redone.as_ref().is_some_and(|redone| redone.attachment == attachment)
        })
    }

    /// The attachment before an unfinished change, if that change may have touched the step.
    pub fn before_change(&self, attachment: usize, step: usize) -> Option<&Redone> {
        let redone = self.pending.as_ref()?.redone.as_deref()?;
        let is_it =
            redone.attachment == attachment && redone.steps.contains(&step) && step < redone.old.network.plugins.len();
        is_it.then_some(redone)
    }

    /// Begins or ends a change.
    pub(super) fn apply_change(&mut self, event: Event) -> Result<(), NoSuchStep> {
        match event {
            Event::Attach { index, attachment } => self.begin_attach(index, *attachment)?,
            Event::Detach(index) => self.begin_detach(index)?,
            Event::Redo { index, attachment, steps } => self.begin_redo(index, *attachment, steps)?,
            Event::Changed(change) => self.end_changed(change),
            Event::Reverted { owing, .. } => self.end_reverted(&owing),
            _ => {}
        }
        Ok(())
    }

    fn begin_attach(&mut self, index: usize, attachment: Attachment) -> Result<(), NoSuchStep> {
        if index != self.header.plan.attachments.len() || attachment.network.plugins.is_empty() {
            return Err(NoSuchStep(Step(index, 0)));
        }
        self.steps.push(vec![StepState::default(); attachment.network.plugins.len()]);
        self.header.plan.attachments.push(attachment);
        self.pending.get_or_insert_default().attaching.push(index);
        Ok(())
    }

    fn begin_detach(&mut self, index: usize) -> Result<(), NoSuchStep> {
        if index >= self.steps.len() {
            return Err(NoSuchStep(Step(index, 0)));
        }
        let detaching = &mut self.pending.get_or_insert_default().detaching;
        if !detaching.contains(&index) {
            detaching.push(index);
        }
        Ok(())
    }

    fn begin_redo(&mut self, index: usize, attachment: Attachment, steps: Vec<usize>) -> Result<(), NoSuchStep> {
        let length = attachment.network.plugins.len();
        let known = self.steps.get_mut(index).filter(|known| known.len() <= length);
        let known = known.ok_or(NoSuchStep(Step(index, 0)))?;
        if let Some(step) = steps.iter().find(|step| **step >= length) {
            return Err(NoSuchStep(Step(index, *step)));
        }
        let old_result = known.iter().rev().find_map(|step| step.result.clone());
        known.resize(length, StepState::default());
        let old = std::mem::replace(&mut self.header.plan.attachments[index], attachment);
        self.pending.get_or_insert_default().redone =
            Some(Box::new(Redone { attachment: index, old, old_result, steps, begun: Vec::new() }));
        Ok(())
    }

    fn end_changed(&mut self, change: Change) {
        let mut pending = self.pending.take().unwrap_or_default();
        // A change that makes attachments does not finish those that are being detached.
        if pending.attaching.is_empty() && pending.redone.is_none() {
            let undone = pending.detaching.iter().filter(|index| !change.owing.contains(index));
            undone.for_each(|index| self.mark_detached(*index));
            pending.detaching.retain(|index| change.owing.contains(index));
        }
        self.keep_detaching(pending.detaching);
        self.absent = change.absent.clone().or(self.absent.take());
        self.history.push(change);
    }

    fn end_reverted(&mut self, owing: &[usize]) {
        let mut pending = self.pending.take().unwrap_or_default();
        for index in pending.attaching {
            if owing.contains(&index) {
                pending.detaching.push(index);
            } else {
                self.mark_detached(index);
            }
        }
        self.keep_detaching(pending.detaching);
        if let Some(redone) = pending.redone {
            self.steps[redone.attachment].truncate(redone.old.network.plugins.len());
            self.header.plan.attachments[redone.attachment] = redone.old;
        }
    }

    /// Attachments stay in the state of being detached, whatever other change has finished.
    fn keep_detaching(&mut self, detaching: Vec<usize>) {
        if !detaching.is_empty() {
            self.pending = Some(Pending { detaching, ..Pending::default() });
        }
    }

    fn mark_detached(&mut self, index: usize) {
        self.detached.resize(self.steps.len(), false);
        self.detached[index] = true;
    }

    /// Records that a step of a change has begun.
    pub(super) fn begin_step(&mut self, attachment: usize, step: usize) {
        if let Some(redone) = self.pending.as_mut().and_then(|pending| pending.redone.as_mut())
            && redone.attachment == attachment
            && !redone.begun.contains(&step)
        {
            redone.begun.push(step);
        }
    }

    /// The shortest list of events that leads to the same state: without detached attachments, and with only the last changes.
    /// `None` during a change.
    pub(super) fn condensed(&self) -> Option<(Header, Vec<Event>)> {
        if self.pending.is_some() || self.unreadable > 0 {
            return None;
        }
        let mut header = Header { format: CHANGED_FORMAT, ..self.header.clone() };
        let mut events = Vec::new();
        header.plan.attachments.clear();
        for (index, attachment) in self.attachments() {
            let place = header.plan.attachments.len();
            header.plan.attachments.push(attachment.clone());
            for (number, step) in self.steps[index].iter().enumerate() {
                events.extend(step.events(Step(place, number)));
                let sysctls = self.sysctls.get(&Step(index, number)).cloned();
                events.extend(sysctls.map(|values| Event::Sysctls { step: Step(place, number), values }));
            }
        }
        events.extend(self.rolled_back.then_some(Event::Rollback));
        events.extend(self.failing_since.map(|time| Event::Failing { time }));
        events.extend(self.routes.iter().cloned().map(Event::Routes));
        events.extend(self.complete.clone().map(|result| Event::Complete {
            micros: self.micros.unwrap_or(0),
            result,
            absent: self.absent.clone(),
        }));
        let kept = self.history.len().saturating_sub(HISTORY);
        events.extend(self.history[kept..].iter().cloned().map(Event::Changed));
        Some((header, events))
    }
}

impl State {
    /// Records that the default routes that an attachment had taken are given back. If another attachment took them from it, that
    /// one now counts as having taken them from their previous owner.
    pub(super) fn return_routes(&mut self, interface: &str) {
        let Some(at) = self.routes.iter().position(|change| change.interface == interface) else { return };
        let returned = self.routes.remove(at);
        for family in &returned.families {
            let Some(later) = self.routes[at..].iter_mut().find(|change| change.families.contains(family)) else {
                continue;
            };
            let is_its =
                |route: &DefaultRoute| route.interface.as_deref() == Some(interface) && route.family == *family;
            later.removed.retain(|route| !is_its(route));
            later.removed.extend(returned.removed.iter().filter(|route| route.family == *family).cloned());
        }
    }
}

impl StepState {
    /// The events that lead to it.
    fn events(&self, step: Step) -> Vec<Event> {
        let mut events = Vec::new();
        events.extend(self.started.then_some(Event::Start(step)));
        events.extend(self.result.clone().map(|result| Event::Done { step, micros: self.micros.unwrap_or(0), result }));
        events.extend(self.failed.clone().map(|error| Event::Failed { step, error, lingers: false }));
        events.extend(self.undone.then_some(Event::Undone(step)));
        events.extend(self.owed.clone().map(|error| Event::Owed { step, error }));
        events
    }
}
