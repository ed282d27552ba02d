//! Changes of a container that lives: attach, detach, update.
//!
//! Each is a transaction of its own over the container's journal. It ends whole, or everything is as before. One that was cut
//! short is settled by whoever comes next: an attach or an update is undone, a detach is finished.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::value::RawValue;

use super::bandwidth::{BandwidthError, Reshape, refuse_foreign, reshape};
use super::claim::absent;
use super::forward::{Concurrency, attach_one};
use super::journal::{Change, Event, Journal, Redone, State, Step, now_millis};
use super::routes::{give_back_default_route, set_default_route_or_forgo};
use super::run::micros;
use super::undo::undo_one;
use super::{CleanupFailure, Container, Failure, RolledBack, StoreError, Tools, Transaction, UndoError};
use crate::cni::config::{PluginConfig, RawObject, folds_to};
use crate::cni::error::code;
use crate::cni::{AddResult, CniError};
use crate::merge::{follow_default_route, merge};
use crate::netns::{self, Sysctls};
use crate::plan::Attachment;
use crate::plan::update::{How, Kind, Limits, PlannedUpdate, Redo, UpdateError};
use crate::runtime::StepError;

/// What a change is made with, its container locked.
#[derive(Debug, Clone, Copy)]
pub struct Means<'a> {
    /// The container.
    pub container: &'a Container,
    /// What runs plugins.
    pub tools: Tools<'a>,
    /// Who makes it, for the journal.
    pub author: &'a str,
}

/// A change that was made.
#[derive(Debug, Clone)]
pub struct Changed {
    /// What was run for it, in order.
    pub steps: Vec<StepReport>,
    /// All that the container's attachments are now, merged.
    pub result: AddResult,
}

/// One step of a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepReport {
    /// The interface of its attachment.
    pub interface: String,
    /// Its place in the chain, counted from 0.
    pub step: usize,
    /// The plugin's type.
    pub plugin: String,
    /// `ADD` or `DEL`; `change` where Braid itself changed what the plugin had made.
    pub verb: &'static str,
    /// How long it took.
    pub took: Duration,
    /// Why it failed, if it did.
    pub error: Option<CniError>,
}

/// Why a change was not made.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// The journal cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The values cannot be.
    #[error(transparent)]
    Update(#[from] UpdateError),
    /// It failed, and everything is as before but for what could not be undone.
    #[error(transparent)]
    RolledBack(#[from] RolledBack),
    /// What was to be detached could not be undone whole. What is left is owed, and tried again by the next detach and by DEL.
    #[error("detaching is not complete; it is tried again by the next detach and by DEL")]
    Incomplete(Vec<CleanupFailure>),
    /// What an earlier change has left cannot be settled.
    #[error("an earlier change of this container that did not end cannot be settled")]
    Unsettled(Vec<CleanupFailure>),
    /// The new state cannot be read.
    #[error("the results of the attachments cannot be read: {0}")]
    Result(String),
}

/// Makes more attachments.
///
/// # Errors
/// When one of them fails, and then none is made.
pub fn attach_more(means: Means<'_>, journal: Journal, attachments: Vec<Attachment>) -> Result<Changed, ChangeError> {
    let first = journal.state.header.plan.attachments.len();
    let mut plan = journal.state.header.plan.clone();
    plan.attachments.extend(attachments.iter().cloned());
    let what = format!("attach {}", names(&attachments));
    let events = attachments.into_iter().zip(first..);
    let events = events.map(|(attachment, index)| Event::Attach { index, attachment: Box::new(attachment) });
    let change = Begun { means, began: Instant::now(), what };
    let transaction = Transaction::begin_change(means.container, journal, &plan, means.tools, events.collect())?;
    let changed = transaction.run(|tx| {
        let ahead = means.tools.ahead(1);
        for index in first..plan.attachments.len() {
            // An optional one that failed has no result.
            if attach_one(tx, &ahead, index, Concurrency::Alone)?.is_some() {
                set_default_route_or_forgo(tx, index)?;
            }
        }
        let steps = (first..plan.attachments.len()).flat_map(|index| tx.with_state(|state| reports(state, index)));
        let steps = steps.collect();
        change.end(tx, steps)
    })?;
    Ok(changed)
}

/// Undoes attachments, from their journal alone.
///
/// # Errors
/// When a step cannot be undone: the others are, and the next detach, and DEL, try it again.
pub fn detach(means: Means<'_>, mut journal: Journal, indexes: &[usize]) -> Result<Changed, ChangeError> {
    let began = Instant::now();
    let events = indexes.iter().map(|index| Event::Detach(*index)).collect();
    for file in journal.begin_change(means.container, events)? {
        let path = means.container.journal_path(&journal.state.header.plan.ifname);
        file.sync_all().map_err(|source| StoreError::Io { action: "sync", path, source })?;
    }
    let Finished { steps, failures, .. } = finish_detach(&mut journal, means, indexes, began);
    if !failures.is_empty() {
        return Err(ChangeError::Incomplete(failures));
    }
    let result = merged(&journal.state).map_err(ChangeError::Result)?;
    Ok(Changed { steps, result })
}

/// Gives steps of an attachment new values.
///
/// # Errors
/// When one of them fails. The old values are then in force again, or what is not is owed and shown.
pub fn update(
    means: Means<'_>,
    journal: Journal,
    index: usize,
    planned: &PlannedUpdate,
) -> Result<Changed, ChangeError> {
    let old = journal.state.header.plan.attachments[index].clone();
    refuse_unknown_sysctls(&journal.state, index, &old, planned)?;
    let mut plan = journal.state.header.plan.clone();
    plan.attachments[index] = planned.attachment.clone();
    let what = format!("update {} ({})", old.ifname, types(planned));
    let event = Event::Redo { index, attachment: Box::new(planned.attachment.clone()), steps: redoable(planned) };
    let change = Begun { means, began: Instant::now(), what };
    let transaction = Transaction::begin_change(means.container, journal, &plan, means.tools, vec![event])?;
    let changed = transaction.run(|tx| {
        tx.wait_until_durable()?;
        let steps = Redoing { tx, index, old: &old, new: &planned.attachment }.redo(&planned.steps)?;
        change.end(tx, steps)
    })?;
    Ok(changed)
}

/// Settles a change that was cut short. Nothing happens where there is none.
pub fn settle(means: Means<'_>, journal: &mut Journal) -> Vec<CleanupFailure> {
    let Some(pending) = journal.state.pending.clone() else { return Vec::new() };
    let mut failures = Vec::new();
    if !pending.attaching.is_empty() || pending.redone.is_some() {
        failures.extend(revert(journal, means.tools));
    }
    if !pending.detaching.is_empty() {
        failures.extend(finish_detach(journal, means, &pending.detaching, Instant::now()).failures);
    }
    failures
}

/// All that the container's attachments are, merged.
///
/// # Errors
/// When a result cannot be read, in words.
pub fn merged(state: &State) -> Result<AddResult, String> {
    Ok(merge(results(state)?.iter().map(|(_, result)| result)))
}

/// The result of each attachment that is there, with its place in the plan and with the default routes that there are now.
///
/// # Errors
/// When one cannot be read, in words.
pub fn results(state: &State) -> Result<Vec<(usize, AddResult)>, String> {
    let mut results = Vec::new();
    for (index, attachment) in state.attachments().filter(|(index, _)| state.is_attached(*index)) {
        let Some(raw) = state.result(index) else { continue };
        let result = AddResult::parse(raw.get().as_bytes(), attachment.network.version)
            .map_err(|error| format!("{}: {error}", attachment.label()))?;
        results.push((index, result));
    }
    let ifname = |index: usize| state.header.plan.attachments[index].ifname.as_str();
    for change in &state.routes {
        follow_default_route(results.iter_mut().map(|(index, result)| (Some(ifname(*index)), result)), change);
    }
    Ok(results)
}

/// A change in progress.
struct Begun<'a> {
    means: Means<'a>,
    began: Instant,
    what: String,
}

impl Begun<'_> {
    fn end(&self, tx: &Transaction<'_>, steps: Vec<StepReport>) -> Result<Changed, Failure> {
        let results = tx.with_state(results).map_err(Failure::Result)?;
        let ifname = |index: usize| tx.plan.attachments[index].ifname.as_str();
        let attached = results.iter().map(|(index, result)| (ifname(*index), result));
        let change = Change {
            time: now_millis(),
            micros: micros(self.began.elapsed()),
            author: self.means.author.to_owned(),
            what: self.what.clone(),
            owing: Vec::new(),
            absent: absent(&tx.plan.netns, attached),
        };
        tx.record(Event::Changed(change))?;
        Ok(Changed { steps, result: merge(results.iter().map(|(_, result)| result)) })
    }
}

fn names(attachments: &[Attachment]) -> String {
    let names = attachments.iter().map(|attachment| format!("{}@{}", attachment.reference, attachment.ifname));
    names.collect::<Vec<_>>().join(", ")
}

fn types(planned: &PlannedUpdate) -> String {
    let plugins = &planned.attachment.network.plugins;
    planned.steps.iter().map(|redo| plugins[redo.step].plugin_type()).collect::<Vec<_>>().join(", ")
}

/// The steps that may be redone: those that are planned, and those after the first of them that could be.
fn redoable(planned: &PlannedUpdate) -> Vec<usize> {
    let plugins = &planned.attachment.network.plugins;
    let first = planned.steps.first().map_or(plugins.len(), |redo| redo.step);
    (first..plugins.len()).filter(|step| Kind::of(&plugins[*step]).is_some()).collect()
}

fn reports(state: &State, index: usize) -> Vec<StepReport> {
    let attachment = &state.header.plan.attachments[index];
    let steps = attachment.network.plugins.iter().zip(&state.steps[index]).enumerate();
    let reports = steps.map(|(step, (plugin, known))| StepReport {
        interface: attachment.ifname.clone(),
        step,
        plugin: plugin.plugin_type().to_owned(),
        verb: "ADD",
        took: Duration::from_micros(known.micros.unwrap_or(0)),
        error: None,
    });
    reports.collect()
}

/// What became of attachments that were to be undone.
struct Finished {
    steps: Vec<StepReport>,
    failures: Vec<CleanupFailure>,
}

/// Undoes attachments that are being detached. A default route that one had taken goes back first, so that the container is never
/// without one. Those that are undone are ended, and of the others it is known that they are owed.
fn finish_detach(journal: &mut Journal, means: Means<'_>, indexes: &[usize], began: Instant) -> Finished {
    let netns = journal.state.header.plan.netns.clone();
    let mut finished = Finished { steps: Vec::new(), failures: Vec::new() };
    let mut undone = Vec::new();
    for index in indexes.iter().rev().copied() {
        let attachment = journal.state.header.plan.attachments[index].clone();
        let began = Instant::now();
        let mut failures: Vec<CleanupFailure> =
            give_back_default_route(journal, &netns, &attachment.ifname).into_iter().collect();
        failures.extend(undo_one(journal, means.tools, &netns, index));
        let count = u32::try_from(attachment.network.plugins.len()).unwrap_or(1).max(1);
        let took = began.elapsed() / count;
        finished.steps.extend(attachment.network.plugins.iter().enumerate().rev().map(|(step, plugin)| StepReport {
            interface: attachment.ifname.clone(),
            step,
            plugin: plugin.plugin_type().to_owned(),
            verb: "DEL",
            took,
            error: None,
        }));
        if failures.is_empty() {
            undone.push(index);
        }
        finished.failures.extend(failures);
    }
    if !undone.is_empty() {
        undone.reverse();
        let plan = &journal.state.header.plan;
        let detached: Vec<Attachment> = undone.iter().map(|index| plan.attachments[*index].clone()).collect();
        let detaching = journal.state.pending.as_ref().map(|pending| pending.detaching.clone()).unwrap_or_default();
        journal.note(Event::Changed(Change {
            time: now_millis(),
            micros: micros(began.elapsed()),
            author: means.author.to_owned(),
            what: format!("detach {}", names(&detached)),
            owing: detaching.into_iter().filter(|index| !undone.contains(index)).collect(),
            absent: None,
        }));
    }
    finished
}

/// Takes a change back: what it made is undone, and what it gave new values gets the old ones.
pub(super) fn revert(journal: &mut Journal, tools: Tools<'_>) -> Vec<CleanupFailure> {
    let Some(pending) = journal.state.pending.clone() else { return Vec::new() };
    let netns = journal.state.header.plan.netns.clone();
    let mut failures = Vec::new();
    let mut owing = Vec::new();
    for index in pending.attaching.iter().rev() {
        let ifname = journal.state.header.plan.attachments[*index].ifname.clone();
        let before = failures.len();
        failures.extend(give_back_default_route(journal, &netns, &ifname));
        failures.extend(undo_one(journal, tools, &netns, *index));
        if failures.len() > before {
            owing.push(*index);
        }
    }
    let mut unrestored = Vec::new();
    if let Some(redone) = &pending.redone {
        unrestored = Restoring { journal, tools, netns: &netns, redone }.restore();
    }
    if unrestored.is_empty() {
        journal.note(Event::Reverted { time: now_millis(), owing });
    }
    failures.extend(unrestored);
    failures
}

/// Steps of an attachment are being redone.
struct Redoing<'a, 'b> {
    tx: &'a Transaction<'b>,
    index: usize,
    old: &'a Attachment,
    new: &'a Attachment,
}

impl Redoing<'_, '_> {
    fn redo(&self, planned: &[Redo]) -> Result<Vec<StepReport>, Failure> {
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
            let before = self.tx.with_state(|state| state.steps[self.index][step].result.clone());
            self.refuse_foreign(step, how)?;
            self.tx.record(Event::Start(Step(self.index, step)))?;
            let began = Instant::now();
            let result = self.step(step, how, &mut reports)?;
            let is_other = before.is_some_and(|before| self.differs(&before, &result));
            if is_other {
                changed_by = Some(step);
            }
            self.tx.record(Event::Done { step: Step(self.index, step), micros: micros(began.elapsed()), result })?;
        }
        Ok(reports)
    }

    /// What is on the interface and is not the step's must be found before it begins: taking it back would remove that.
    fn refuse_foreign(&self, step: usize, how: How) -> Result<(), Failure> {
        let from = match how {
            How::InPlace { from, .. } => from,
            How::Add => Limits::default(),
            How::Again(_) => return Ok(()),
        };
        let (prev, own) = self.tx.with_state(|state| self.results(state, step));
        let own = own.or_else(|| prev.clone()).unwrap_or_else(|| RawValue::NULL.to_owned());
        let wanted = self.reshape(step, from, from, prev.as_deref(), &own);
        let began = Instant::now();
        refuse_foreign(self.tx.tools, wanted).map_err(|source| self.not_reshaped(step, began, source))
    }

    fn not_reshaped(&self, step: usize, began: Instant, source: BandwidthError) -> Failure {
        let (label, took) = (self.new.label(), began.elapsed());
        Failure::Bandwidth { label, step, took, source }
    }

    /// The results of the step before, and of the step.
    fn results(&self, state: &State, step: usize) -> (Option<Box<RawValue>>, Option<Box<RawValue>>) {
        let result = |step: usize| state.steps[self.index][step].result.clone();
        (step.checked_sub(1).and_then(result), result(step))
    }

    fn reshape<'c>(
        &'c self,
        step: usize,
        from: Limits,
        to: Limits,
        prev_result: Option<&'c RawValue>,
        result: &'c RawValue,
    ) -> Reshape<'c> {
        Reshape {
            attachment: self.new,
            step,
            container_id: &self.tx.plan.container_id,
            netns: &self.tx.plan.netns,
            ours: [from, from],
            to,
            prev_result,
            result,
        }
    }

    /// How a step is redone whose own values are as they were.
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

    fn step(&self, step: usize, how: How, reports: &mut Vec<StepReport>) -> Result<Box<RawValue>, Failure> {
        let (plan, tools) = (self.tx.plan, self.tx.tools);
        let (prev, own, last) = self.tx.with_state(|state| {
            let (prev, own) = self.results(state, step);
            let redone = state.before_change(self.index, step);
            (prev, own, redone.and_then(|redone| redone.old_result.clone()))
        });
        let failed = |source: StepError| {
            let error = CniError::from(&source.source);
            let failed = Event::Failed { step: Step(self.index, step), error, lingers: source.source.lingers() };
            drop(self.tx.record(failed));
            Failure::Attach { label: self.new.label(), source }
        };
        let mut report = |verb, began: Instant| {
            reports.push(StepReport {
                interface: self.new.ifname.clone(),
                step,
                plugin: self.new.network.plugins[step].plugin_type().to_owned(),
                verb,
                took: began.elapsed(),
                error: None,
            });
        };
        if let How::InPlace { from, to } = how {
            let began = Instant::now();
            let own = own.ok_or_else(|| Failure::Result(format!("{}: step {step} has none", self.new.label())))?;
            let wanted = self.reshape(step, from, to, prev.as_deref(), &own);
            let result = reshape(tools, wanted).map_err(|error| match error {
                BandwidthError::Step(source) => failed(source),
                source => self.not_reshaped(step, began, source),
            })?;
            report("change", began);
            return Ok(result);
        }
        let netns = Path::new(&plan.netns);
        if let How::Again(kind) = how {
            let began = Instant::now();
            let parameters = self.old.parameters(&plan.container_id, &plan.netns);
            tools.chain(self.old).del_step(step, &parameters, last.as_deref()).map_err(failed)?;
            report("DEL", began);
            if kind == Kind::Tuning {
                self.remember_sysctls(step).map_err(|source| Failure::Sysctl { label: self.new.label(), source })?;
            }
        }
        let began = Instant::now();
        let parameters = self.new.parameters(&plan.container_id, &plan.netns);
        let result = tools.chain(self.new).add_step(step, &parameters, prev.as_deref()).map_err(failed)?;
        report("ADD", began);
        if how == How::Again(Kind::Tuning) {
            let remembered = self.tx.with_state(|state| state.sysctls.get(&Step(self.index, step)).cloned());
            let dropped = only_in(&sysctls(&self.old.network.plugins[step]), &sysctls(&self.new.network.plugins[step]));
            let values = restorable(remembered, &dropped);
            netns::write_sysctls(netns, &self.new.ifname, &values)
                .map_err(|source| Failure::Sysctl { label: self.new.label(), source })?;
        }
        Ok(result.raw)
    }

    /// Writes down what parameters were before they are set for the first time.
    fn remember_sysctls(&self, step: usize) -> Result<(), netns::NetnsError> {
        let plan = self.tx.plan;
        let set_now = only_in(&sysctls(&self.new.network.plugins[step]), &sysctls(&self.old.network.plugins[step]));
        let names = set_now.iter().map(String::as_str);
        let values = netns::read_sysctls(Path::new(&plan.netns), &self.new.ifname, names)?;
        if !values.is_empty() {
            // Without it, a later update cannot take the parameter back, and says so.
            drop(self.tx.record(Event::Sysctls { step: Step(self.index, step), values }));
        }
        Ok(())
    }
}

/// An attachment gets its old values back.
struct Restoring<'a> {
    journal: &'a mut Journal,
    tools: Tools<'a>,
    netns: &'a str,
    redone: &'a Redone,
}

impl Restoring<'_> {
    fn restore(&mut self) -> Vec<CleanupFailure> {
        let index = self.redone.attachment;
        let new = self.journal.state.header.plan.attachments[index].clone();
        let mut begun = self.redone.begun.clone();
        begun.sort_unstable();
        let mut left = Vec::new();
        for step in begun.iter().rev().copied() {
            let undone = self.undo(&new, step);
            let lingers = self.journal.state.lingering.contains(&Step(index, step));
            if let Some(source) = undone.err().or_else(|| lingers.then(|| UndoError::lingers(&new, step))) {
                left.push((step, source));
            }
        }
        for step in begun.into_iter().filter(|step| *step < self.redone.old.network.plugins.len()) {
            if let Err(source) = self.redo(&new, step) {
                left.push((step, source));
            }
        }
        // After the old values are in force again, too: what could not be undone before that is still there.
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

    /// Undoes a step with its new values and with its old ones, as it is not known which of them are in force.
    fn undo(&self, new: &Attachment, step: usize) -> Result<(), UndoError> {
        let container_id = self.journal.state.header.plan.container_id.clone();
        let is_added = step >= self.redone.old.network.plugins.len();
        if Kind::of(&new.network.plugins[step]) == Some(Kind::Bandwidth) && !is_added {
            return Ok(());
        }
        let known = &self.journal.state.steps[self.redone.attachment];
        let result = known.iter().rev().find_map(|step| step.result.as_deref());
        let parameters = new.parameters(&container_id, self.netns);
        match self.tools.chain(new).del_step(step, &parameters, result) {
            // A plugin that refuses its new values whatever it is asked has done nothing with them.
            Err(error) if known[step].failed.as_ref() == Some(&CniError::from(&error.source)) => {}
            outcome => outcome?,
        }
        if is_added {
            // The plugin leaves what is at the interface to go with it, and the interface stays.
            return self.reshape(new, step, Limits::default()).map(drop);
        }
        let parameters = self.redone.old.parameters(&container_id, self.netns);
        Ok(self.tools.chain(&self.redone.old).del_step(step, &parameters, self.redone.old_result.as_deref())?)
    }

    /// Does a step with its old values.
    fn redo(&mut self, new: &Attachment, step: usize) -> Result<(), UndoError> {
        let (index, old) = (self.redone.attachment, &self.redone.old);
        let plan = &self.journal.state.header.plan;
        let began = Instant::now();
        let result = if Kind::of(&old.network.plugins[step]) == Some(Kind::Bandwidth) {
            self.reshape(new, step, Limits::of(&old.network.plugins[step], &old.capability_args))?
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

    /// Gives a `bandwidth` step limits, whichever it has.
    fn reshape(&self, new: &Attachment, step: usize, to: Limits) -> Result<Box<RawValue>, UndoError> {
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
        reshape(self.tools, wanted).map_err(|error| match error {
            BandwidthError::Step(error) => UndoError::Step(error),
            other => UndoError::Bandwidth(other),
        })
    }
}

/// The parameters that a `tuning` step sets.
fn sysctls(plugin: &PluginConfig) -> RawObject {
    let object = plugin.keys().iter().rev().find(|(key, _)| folds_to(key, "sysctl"));
    object.and_then(|(_, raw)| serde_json::from_str(raw.get()).ok()).unwrap_or_default()
}

/// The names that are in the first and not in the second.
fn only_in(a: &RawObject, b: &RawObject) -> Vec<String> {
    a.keys().filter(|name| !b.contains_key(*name)).cloned().collect()
}

/// What is remembered of these parameters.
fn restorable(remembered: Option<Sysctls>, names: &[String]) -> Sysctls {
    let mut values = remembered.unwrap_or_default();
    values.retain(|name, _| names.contains(name));
    values
}

/// A parameter that `tuning` has set at ADD keeps its value for as long as the interface lives: nobody knows what it was before.
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
