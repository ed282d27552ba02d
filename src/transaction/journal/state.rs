//! The state that a journal describes: its header with every event applied.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use serde_json::value::RawValue;

use super::change::Pending;
use super::format::{Change, Event, Header, Step, boot_id, now_millis};
use crate::cni::CniError;
use crate::cni::error::code;
use crate::netns::{self, DefaultRouteChange, Sameness, Sysctls};
use crate::plan::Attachment;
use crate::transaction::claim::Claim;

/// What is known of one step.
#[derive(Debug, Clone, Default)]
pub struct StepState {
    /// It was started.
    pub started: bool,
    /// It was started, and its outcome is not known or it was killed. It may have done a part of its work.
    pub interrupted: bool,
    /// It has been undone.
    pub undone: bool,
    /// Its result, if it had one.
    pub result: Option<Box<RawValue>>,
    /// How long it took, in microseconds.
    pub micros: Option<u64>,
    /// Why it failed.
    pub failed: Option<CniError>,
    /// Why it could not be undone.
    pub owed: Option<CniError>,
}

impl StepState {
    /// Whether the plugin refuses every call in the same way, given the error of its DEL: its ADD failed with the same error and
    /// had no result, and its DEL has failed before. A plugin that cannot start its work (its parent interface does not exist, it
    /// does not support the version, it rejects an argument) has nothing to undo, and would fail for ever. A plugin whose service
    /// does not answer fails in the same way, but may have done something earlier.
    pub fn is_refused(&self, error: &CniError) -> bool {
        let is_refused = !self.interrupted && self.owed.is_some() && self.failed.as_ref() == Some(error);
        self.result.is_none() && is_refused && !error.is_of_service()
    }

    /// Whether the plugin made nothing because it does not support the version: both its ADD and its DEL failed with that error.
    pub fn lacks_version(&self, error: &CniError) -> bool {
        let is_about_version = |error: &CniError| error.code == code::INCOMPATIBLE_VERSION;
        self.result.is_none() && self.failed.as_ref().is_some_and(is_about_version) && is_about_version(error)
    }
}

/// A step that is to be undone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ToUndo {
    /// Which.
    pub step: Step,
    /// Whether the step was started, or may have been. Then it is owed if its DEL fails. Any other step has most likely never run.
    pub is_owed: bool,
}

/// What a journal says.
#[derive(Debug, Clone)]
pub struct State {
    /// The header.
    pub header: Header,
    /// For each attachment, each of its steps.
    pub steps: Vec<Vec<StepState>>,
    /// Changes of default routes, not put back.
    pub routes: Vec<DefaultRouteChange>,
    /// The answer, if ADD succeeded.
    pub complete: Option<Box<RawValue>>,
    /// What the results list and the namespace did not have when ADD finished, if that is known.
    pub absent: Option<Vec<Claim>>,
    /// How long ADD took, in microseconds.
    pub micros: Option<u64>,
    /// Whether ADD was rolled back. Then no step was started after the last event in the journal.
    pub rolled_back: bool,
    /// When undoing failed for the first time, in milliseconds since 1970.
    pub failing_since: Option<u64>,
    /// The number of lines that could not be read, or are missing.
    pub unreadable: usize,
    /// For each attachment, whether a change has detached it, or has failed to make it.
    pub(super) detached: Vec<bool>,
    /// A change that has begun and not finished.
    pub pending: Option<Pending>,
    /// The changes that were made.
    pub history: Vec<Change>,
    /// The values of kernel parameters before steps set them.
    pub sysctls: BTreeMap<Step, Sysctls>,
    /// The steps whose ADD failed in this call and whose process still existed when Braid stopped waiting for it. The process may
    /// do more after DEL.
    pub lingering: BTreeSet<Step>,
}

/// An event names a step that the plan does not have.
#[derive(Debug, thiserror::Error)]
#[error("it names step {} of attachment {}, which its plan does not have", .0.1, .0.0)]
pub(super) struct NoSuchStep(pub(super) Step);

impl State {
    /// The state of a plan of which no step has run.
    pub fn new(header: Header) -> Self {
        let steps = header
            .plan
            .attachments
            .iter()
            .map(|attachment| vec![StepState::default(); attachment.network.plugins.len()])
            .collect();
        Self {
            header,
            steps,
            routes: Vec::new(),
            complete: None,
            absent: None,
            micros: None,
            rolled_back: false,
            failing_since: None,
            unreadable: 0,
            detached: Vec::new(),
            pending: None,
            history: Vec::new(),
            sysctls: BTreeMap::new(),
            lingering: BTreeSet::new(),
        }
    }

    /// The result of an attachment: that of its last step that has one.
    pub fn result(&self, attachment: usize) -> Option<&RawValue> {
        self.steps[attachment].iter().rev().find_map(|step| step.result.as_deref())
    }

    /// How long the plugins of an attachment took in ADD.
    pub fn plugins_took(&self, attachment: usize) -> Duration {
        Duration::from_micros(self.steps[attachment].iter().filter_map(|step| step.micros).sum())
    }

    /// Whether an attachment exists: its last step has a result, and no step has been undone.
    pub fn is_attached(&self, attachment: usize) -> bool {
        let steps = &self.steps[attachment];
        !self.is_detached(attachment)
            && steps.last().is_some_and(|step| step.result.is_some())
            && !steps.iter().any(|step| step.undone)
    }

    /// The attachments that exist, with their indexes in the plan.
    pub fn attached(&self) -> impl Iterator<Item = (usize, &Attachment)> {
        self.attachments().filter(|(index, _)| self.is_attached(*index))
    }

    /// The steps that still have to be undone, in the order of ADD.
    ///
    /// If the journal has neither the end of ADD nor its rollback, events may be missing at the end. Then steps without events are
    /// included.
    pub fn to_undo(&self) -> Vec<ToUndo> {
        let has_finished = self.complete.is_some() || self.rolled_back;
        let steps = self.steps.iter().enumerate().flat_map(|(a, steps)| {
            // An ADD that succeeded has run every step of attachments that are not optional.
            let is_optional = self.header.plan.attachments[a].optional;
            let is_ended = self.complete.is_some() && !is_optional && !self.is_changing(a);
            let has_run = !self.is_detached(a) && (self.lost_events() || is_ended);
            let has_finished = has_finished && !self.is_changing(a);
            steps.iter().enumerate().filter(|(_, step)| !step.undone).filter_map(move |(s, step)| {
                let is_owed = step.started || has_run;
                (is_owed || !(has_finished || self.is_detached(a))).then_some(ToUndo { step: Step(a, s), is_owed })
            })
        });
        steps.collect()
    }

    /// The owed steps: those still to be undone that were started, or may have been.
    pub fn owed(&self) -> Vec<Step> {
        self.to_undo().into_iter().filter(|one| one.is_owed).map(|one| one.step).collect()
    }

    /// How long undoing has been failing. `None` if it has not failed, or if the clock was set back since.
    pub fn failing_for(&self) -> Option<Duration> {
        now_millis().checked_sub(self.failing_since?).map(Duration::from_millis)
    }

    /// Whether undoing it has begun.
    pub fn is_being_undone(&self) -> bool {
        let plan = &self.header.plan;
        let required = |attachment: usize| {
            !plan.attachments[attachment].optional && !self.is_detached(attachment) && !self.is_changing(attachment)
        };
        self.steps.iter().enumerate().any(|(a, steps)| required(a) && steps.iter().any(|step| step.undone))
    }

    /// The path of the namespace, if it certainly still leads to the same namespace. Otherwise nothing, so that Braid does not
    /// touch the interfaces of another namespace.
    pub fn netns_if_same(&self) -> String {
        let path = &self.header.plan.netns;
        if self.compare_netns(path) == Sameness::Same { path.clone() } else { String::new() }
    }

    /// The namespace's path for DEL, given the runtime's `path`. Nothing if that leads to something else or to another namespace
    /// than ADD's, whose interfaces are not Braid's. A path that does not exist is returned unchanged.
    pub fn netns_for_del(&self, path: &str) -> String {
        if self.compare_netns(path) == Sameness::Different { String::new() } else { path.to_owned() }
    }

    /// Whether `path` leads to the namespace for which ADD was called.
    pub fn compare_netns(&self, path: &str) -> Sameness {
        self.compare_identity(netns::Identity::of(Path::new(path)).ok())
    }

    /// Whether ADD was called for the namespace of this identity.
    pub fn compare_identity(&self, now: Option<netns::Identity>) -> Sameness {
        match (now, self.header.netns_id) {
            (Some(now), Some(then)) => match then.compare(&now) {
                // The kernel counts from the start again.
                Sameness::Same if self.is_of_another_boot() => Sameness::Unknown,
                sameness => sameness,
            },
            _ => Sameness::Unknown,
        }
    }

    /// Whether ADD was certainly called for this namespace, which exists now.
    pub fn is_of_namespace(&self, identity: &netns::Identity) -> bool {
        !self.is_of_another_boot() && self.header.netns_id.is_some_and(|then| then.compare(identity) == Sameness::Same)
    }

    /// Whether the machine has been restarted since ADD.
    pub fn is_of_another_boot(&self) -> bool {
        let (then, now) = (&self.header.boot, boot_id());
        !then.is_empty() && !now.is_empty() && *then != now
    }

    /// Whether the container is certainly gone: the machine has been restarted since, or its namespace's name is no longer in its
    /// directory. If the directory does not exist, nothing is certain, because it may only be invisible to this process.
    pub fn is_container_gone(&self) -> bool {
        let path = Path::new(&self.header.plan.netns);
        self.is_of_another_boot() || (path.parent().is_some_and(Path::is_dir) && matches!(path.try_exists(), Ok(false)))
    }

    /// Whether events may be missing.
    fn lost_events(&self) -> bool {
        self.unreadable > 0 || self.header.boot != boot_id()
    }

    /// Applies an event.
    pub(super) fn apply(&mut self, event: Event) -> Result<(), NoSuchStep> {
        match event {
            Event::Start(step) => {
                self.begin_step(step.0, step.1);
                let step = self.step(step)?;
                (step.started, step.interrupted, step.undone) = (true, true, false);
            }
            Event::Done { step, micros, result } => {
                let step = self.step(step)?;
                (step.started, step.interrupted) = (true, false);
                (step.failed, step.owed) = (None, None);
                step.micros = Some(micros);
                step.result = Some(result);
            }
            Event::Failed { step, error, lingers } => {
                self.lingering.extend(lingers.then_some(step));
                let step = self.step(step)?;
                (step.started, step.interrupted, step.undone) = (true, error.code == code::TIMED_OUT, false);
                step.failed = Some(error);
            }
            Event::Undone(step) => {
                let step = self.step(step)?;
                step.undone = true;
                step.owed = None;
            }
            Event::Owed { step, error } => self.step(step)?.owed = Some(error),
            Event::Rollback => self.rolled_back = true,
            // The earliest failure counts. If the clock was set back, it is the one with the later time.
            Event::Failing { time } => {
                self.failing_since = Some(self.failing_since.map_or(time, |since| since.min(time)));
            }
            Event::Routes(change) => self.routes.push(change),
            Event::RoutesUndone => self.routes.clear(),
            Event::RoutesReturned { interface } => self.return_routes(&interface),
            Event::Sysctls { step, values } => {
                let known = self.sysctls.entry(step).or_default();
                for (name, value) in values {
                    known.entry(name).or_insert(value);
                }
            }
            event @ (Event::Attach { .. }
            | Event::Detach(_)
            | Event::Redo { .. }
            | Event::Changed(_)
            | Event::Reverted { .. }) => self.apply_change(event)?,
            Event::Complete { micros, result, absent } => {
                self.complete = Some(result);
                self.absent = absent;
                self.micros = Some(micros);
            }
        }
        Ok(())
    }

    fn step(&mut self, step: Step) -> Result<&mut StepState, NoSuchStep> {
        let Step(attachment, plugin) = step;
        self.steps.get_mut(attachment).and_then(|steps| steps.get_mut(plugin)).ok_or(NoSuchStep(step))
    }
}
