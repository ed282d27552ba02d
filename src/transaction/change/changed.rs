//! What a change needs, and its outcome.

use std::time::{Duration, Instant};

use crate::cni::{AddResult, CniError};
use crate::merge::{follow_default_route, merge};
use crate::plan::Attachment;
use crate::plan::update::UpdateError;
use crate::transaction::claim::absent;
use crate::transaction::journal::{Change, Event, State, now_millis};
use crate::transaction::run::micros;
use crate::transaction::{CleanupFailure, Container, Failure, RolledBack, StoreError, Tools, Transaction};

/// What a change needs. The container is locked.
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
    /// What was done to the steps that got new values, in order. Empty for attach and detach, whose plugin runs the caller can
    /// observe.
    pub steps: Vec<StepReport>,
    /// The merged result of all attachments that the container has now.
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
    /// `ADD` or `DEL`; `change` if Braid itself changed what the plugin had made.
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
    /// The change failed, and everything is as before, except for what could not be undone.
    #[error(transparent)]
    RolledBack(#[from] RolledBack),
    /// Not everything could be detached. The rest is owed, and the next detach and DEL try it again.
    #[error("detaching is not complete; it is tried again by the next detach and by DEL")]
    Incomplete(Vec<CleanupFailure>),
    /// An earlier change did not finish, and cannot be settled.
    #[error("an earlier, unfinished change of this container cannot be settled")]
    Unsettled(Vec<CleanupFailure>),
    /// The new state cannot be read.
    #[error("the results of the attachments cannot be read: {0}")]
    Result(String),
}

/// The merged result of all attachments of the container.
///
/// # Errors
/// When a result cannot be read, in words.
pub fn merged(state: &State) -> Result<AddResult, String> {
    Ok(merge(results(state)?.iter().map(|(_, result)| result)))
}

/// The result of each existing attachment, with its index in the plan and with the current default routes.
///
/// # Errors
/// When one cannot be read, in words.
pub fn results(state: &State) -> Result<Vec<(usize, AddResult)>, String> {
    let mut results = Vec::new();
    for (index, attachment) in state.attached() {
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
pub(super) struct Begun<'a> {
    pub(super) means: Means<'a>,
    pub(super) began: Instant,
    pub(super) what: String,
}

impl Begun<'_> {
    /// Ends it: writes down what it has led to.
    pub(super) fn end(&self, tx: &Transaction<'_>, steps: Vec<StepReport>) -> Result<Changed, Failure> {
        self.means.tools.exec.dismiss_idle();
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

/// The networks and interfaces of attachments, for the journal's history.
pub(super) fn names(attachments: &[Attachment]) -> String {
    let names = attachments.iter().map(|attachment| format!("{}@{}", attachment.reference, attachment.ifname));
    names.collect::<Vec<_>>().join(", ")
}
