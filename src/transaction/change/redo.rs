//! Steps get new values.

use std::path::Path;
use std::time::Instant;

use serde_json::value::RawValue;

use super::changed::StepReport;
use crate::cni::{AddResult, CniError};
use crate::netns;
use crate::plan::Attachment;
use crate::plan::update::{How, Kind, Limits, Redo, UpdateError};
use crate::runtime::StepError;
use crate::transaction::bandwidth::{BandwidthError, Reshape, Shaper};
use crate::transaction::journal::{Event, State, Step};
use crate::transaction::run::micros;
use crate::transaction::sysctls::{only_in, restorable, sysctls};
use crate::transaction::{Failure, Tools, Transaction};

/// Steps of an attachment are being redone.
pub(super) struct Redoing<'a, 'b> {
    pub(super) tx: &'a Transaction<'b>,
    pub(super) index: usize,
    pub(super) old: &'a Attachment,
    pub(super) new: &'a Attachment,
}

impl Redoing<'_, '_> {
    /// Redoes the planned steps, and the later steps whose input has changed.
    pub(super) fn redo(&self, planned: &[Redo]) -> Result<Vec<StepReport>, Failure> {
        let mut reports = Vec::new();
        let mut changed_by = None;
        let Some(first) = planned.first().map(|redo| redo.step) else { return Ok(reports) };
        for step in first..self.new.network.plugins.len() {
            let how = planned.iter().find(|redo| redo.step == step).map(|redo| redo.how);
            let Some(how) = how.or_else(|| changed_by.and_then(|_| self.again(step))) else {
                if let Some(by) = changed_by {
                    return Err(self.later(by, step));
                }
                continue;
            };
            let (prev, before) = self.tx.with_state(|state| self.results(state, step));
            let mut shaper = self.shaper(step, how, prev.as_deref(), before.as_deref())?;
            self.tx.wait_until_durable()?;
            self.tx.record(Event::Start(Step(self.index, step)))?;
            let began = Instant::now();
            let result = match &mut shaper {
                Some(shaper) if how != How::Add => self.reshaped(step, shaper, &mut reports)?,
                _ => self.rerun(step, how, prev.as_deref(), &mut reports)?,
            };
            let is_other = before.is_some_and(|before| self.differs(&before, &result));
            if is_other {
                changed_by = Some(step);
            }
            self.tx.record(Event::Done { step: Step(self.index, step), micros: micros(began.elapsed()), result })?;
        }
        Ok(reports)
    }

    /// The interface of a step whose limits are changed in place, or that has no limits yet. If anything on the interface was not
    /// made by the step, the change fails before it begins, because undoing it would remove that too.
    fn shaper<'c>(
        &'c self,
        step: usize,
        how: How,
        prev: Option<&'c RawValue>,
        own: Option<&'c RawValue>,
    ) -> Result<Option<Shaper<'c>>, Failure> {
        let (from, to) = match how {
            How::InPlace { from, to } => (from, to),
            How::Add => (Limits::default(), Limits::default()),
            How::Again(_) => return Ok(None),
        };
        let began = Instant::now();
        let wanted = Reshape {
            attachment: self.new,
            step,
            container_id: &self.tx.plan.container_id,
            netns: &self.tx.plan.netns,
            ours: [from, from],
            to,
            prev_result: prev,
            result: own.or(prev).unwrap_or(RawValue::NULL),
        };
        let mut shaper = Shaper::open(self.tools(), wanted).map_err(|source| self.not_reshaped(step, began, source))?;
        shaper.refuse_foreign().map_err(|source| self.not_reshaped(step, began, source))?;
        Ok(Some(shaper))
    }

    /// The transaction's tools. Its plugins wait for the journal, and the first one takes over the process that has synced it.
    fn tools(&self) -> Tools<'_> {
        Tools { after: Some(&self.tx.durable), ..self.tx.tools }
    }

    fn not_reshaped(&self, step: usize, began: Instant, source: BandwidthError) -> Failure {
        let (label, took) = (self.new.label(), began.elapsed());
        Failure::Bandwidth { label, step, took, source }
    }

    /// The results of the previous step and of this step.
    fn results(&self, state: &State, step: usize) -> (Option<Box<RawValue>>, Option<Box<RawValue>>) {
        let result = |step: usize| state.steps[self.index][step].result.clone();
        (step.checked_sub(1).and_then(result), result(step))
    }

    /// How to redo a step whose own values have not changed.
    fn again(&self, step: usize) -> Option<How> {
        let plugin = &self.new.network.plugins[step];
        Some(match Kind::of(plugin)? {
            Kind::Bandwidth => {
                let limits = Limits::of(plugin, &self.new.capability_args);
                How::InPlace { from: limits, to: limits }
            }
            kind => How::Again(kind),
        })
    }

    fn later(&self, by: usize, step: usize) -> Failure {
        let plugins = &self.new.network.plugins;
        Failure::Update(UpdateError::Later {
            label: self.new.label(),
            plugin_type: plugins[by].plugin_type().to_owned(),
            later: plugins[step].plugin_type().to_owned(),
        })
    }

    /// Whether two results differ in interfaces or addresses.
    fn differs(&self, a: &RawValue, b: &RawValue) -> bool {
        let read = |raw: &RawValue| AddResult::parse(raw.get().as_bytes(), self.new.network.version).ok();
        match (read(a), read(b)) {
            (Some(a), Some(b)) => a.interfaces != b.interfaces || a.ips != b.ips,
            _ => true,
        }
    }

    fn report(&self, step: usize, verb: &'static str, began: Instant) -> StepReport {
        StepReport {
            interface: self.new.ifname.clone(),
            step,
            plugin: self.new.network.plugins[step].plugin_type().to_owned(),
            verb,
            took: began.elapsed(),
            error: None,
        }
    }

    fn failed(&self, step: usize, source: StepError) -> Failure {
        let error = CniError::from(&source.source);
        let failed = Event::Failed { step: Step(self.index, step), error, lingers: source.source.lingers() };
        // The error to report is the plugin's, even if it cannot be written to the journal.
        drop(self.tx.record(failed));
        Failure::Attach { label: self.new.label(), source }
    }

    /// Gives a step its limits in place.
    fn reshaped(
        &self,
        step: usize,
        shaper: &mut Shaper<'_>,
        reports: &mut Vec<StepReport>,
    ) -> Result<Box<RawValue>, Failure> {
        let began = Instant::now();
        let result = shaper.reshape().map_err(|error| match error {
            BandwidthError::Step(source) => self.failed(step, source),
            source => self.not_reshaped(step, began, source),
        })?;
        reports.push(self.report(step, "change", began));
        Ok(result)
    }

    /// Runs the plugin's DEL for an existing step, and its ADD with the new values.
    fn rerun(
        &self,
        step: usize,
        how: How,
        prev: Option<&RawValue>,
        reports: &mut Vec<StepReport>,
    ) -> Result<Box<RawValue>, Failure> {
        let (plan, tools) = (self.tx.plan, self.tools());
        if let How::Again(kind) = how {
            let began = Instant::now();
            let last = self
                .tx
                .with_state(|state| state.before_change(self.index, step).and_then(|redone| redone.old_result.clone()));
            let parameters = self.old.parameters(&plan.container_id, &plan.netns);
            let undone = tools.chain(self.old).del_step(step, &parameters, last.as_deref());
            undone.map_err(|source| self.failed(step, source))?;
            reports.push(self.report(step, "DEL", began));
            if kind == Kind::Tuning {
                self.remember_sysctls(step).map_err(|source| self.sysctl_failure(source))?;
            }
        }
        let began = Instant::now();
        let parameters = self.new.parameters(&plan.container_id, &plan.netns);
        let result = tools.chain(self.new).add_step(step, &parameters, prev);
        let result = result.map_err(|source| self.failed(step, source))?;
        reports.push(self.report(step, "ADD", began));
        if how == How::Again(Kind::Tuning) {
            self.restore_sysctls(step).map_err(|source| self.sysctl_failure(source))?;
        }
        Ok(result.raw)
    }

    fn sysctl_failure(&self, source: netns::NetnsError) -> Failure {
        Failure::Sysctl { label: self.new.label(), source }
    }

    /// Restores the previous values of parameters that the step no longer sets.
    fn restore_sysctls(&self, step: usize) -> Result<(), netns::NetnsError> {
        let remembered = self.tx.with_state(|state| state.sysctls.get(&Step(self.index, step)).cloned());
        let dropped = only_in(&sysctls(&self.old.network.plugins[step]), &sysctls(&self.new.network.plugins[step]));
        netns::write_sysctls(Path::new(&self.tx.plan.netns), &self.new.ifname, &restorable(remembered, &dropped))
    }

    /// Records the values of parameters before they are set for the first time.
    fn remember_sysctls(&self, step: usize) -> Result<(), netns::NetnsError> {
        let plan = self.tx.plan;
        let set_now = only_in(&sysctls(&self.new.network.plugins[step]), &sysctls(&self.old.network.plugins[step]));
        let names = set_now.iter().map(String::as_str);
        let values = netns::read_sysctls(Path::new(&plan.netns), &self.new.ifname, names)?;
        if !values.is_empty() {
            // Without this record, a later update refuses to restore the parameter.
            drop(self.tx.record(Event::Sysctls { step: Step(self.index, step), values }));
        }
        Ok(())
    }
}
