//! Attach, detach and update, under the container's lock.

use std::cell::RefCell;
use std::path::PathBuf;
use std::time::Instant;

use super::super::context::Context;
use super::error::LiveError;
use super::find::{self, ContainerRef};
use super::locked::{LockedContainer, refuse_missing_plugins, request_of};
use super::pod_status::write_pod_status;
use super::ports;
use super::shared;
use super::tried;
use crate::cni::Version;
use crate::config::{Config, OperatorSelection, Timeouts};
use crate::plan::update::{PlannedUpdate, Update, update};
use crate::plan::{Attachment, Plan};
use crate::runtime::{LookAhead, deadline};
use crate::source::kubernetes::{is_configured, pod_of};
use crate::transaction::journal::State;
use crate::transaction::{self, ChangeError, Changed, Container, Journal, Sharing, Store};

/// The containers of a node, for changes while they run.
#[derive(Debug, Clone)]
pub struct Live {
    state_dir: PathBuf,
    pub(super) timeouts: Timeouts,
    look_ahead: usize,
    no_look_ahead: Vec<String>,
    author: String,
    pods: Option<Config>,
}

/// A container that was changed.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// Its ID.
    pub container_id: String,
    /// The interface that the runtime asked for.
    pub ifname: String,
    /// The version of its network.
    pub version: Version,
    /// What was done, and what is there now.
    pub changed: Changed,
}

impl Live {
    /// The containers whose journals are in a state directory.
    pub fn new(state_dir: impl Into<PathBuf>) -> Self {
        Self {
            state_dir: state_dir.into(),
            timeouts: Timeouts::default(),
            look_ahead: 0,
            no_look_ahead: Vec::new(),
            author: "library".into(),
            pods: None,
        }
    }

    /// The same with other time limits than the configuration's defaults.
    #[must_use]
    pub fn with_timeouts(self, timeouts: Timeouts) -> Self {
        Self { timeouts, ..self }
    }

    /// The same with the time limits and the look-ahead of Braid's configuration.
    #[must_use]
    pub fn configured_by(self, config: &Config) -> Self {
        let Config { timeouts, look_ahead, .. } = *config;
        Self { timeouts, look_ahead, no_look_ahead: config.no_look_ahead.clone(), ..self }
    }

    /// The same with another author for the changes, whom the journal records.
    #[must_use]
    pub fn by(self, author: &str) -> Self {
        Self { author: author.to_owned(), ..self }
    }

    /// The same, and after each change, Braid updates what is written about the container's pod, as far as the configuration asks
    /// for that: its `network-status`, and the status of its resource claims. If that fails, the change stays, and the failure is
    /// logged.
    #[must_use]
    pub fn writing_pod_status(self, config: Config) -> Self {
        Self { pods: Some(config), ..self }
    }

    /// The pod of a container, as namespace and name, if it has one.
    ///
    /// # Errors
    /// When there is no such container.
    pub fn pod_of(&self, container_ref: ContainerRef<'_>) -> Result<Option<(String, String)>, LiveError> {
        let request = self.look_at_plan(container_ref, request_of)??;
        Ok(pod_of(&request).map(|(namespace, name)| (namespace.to_owned(), name.to_owned())))
    }

    /// The name of the network that a container was attached to.
    ///
    /// # Errors
    /// When there is no such container.
    pub fn network_of(&self, container_ref: ContainerRef<'_>) -> Result<String, LiveError> {
        self.look_at_plan(container_ref, |plan| plan.network.clone())
    }

    /// Attaches a container to more networks. Several are one transaction: all of them, or none. They are looked up and checked
    /// with `config`, Braid's configuration, as in ADD.
    ///
    /// # Errors
    /// When the container is not there or not whole, a network cannot be found, or a plugin fails.
    pub fn attach(
        &self,
        config: &Config,
        container_ref: ContainerRef<'_>,
        selections: Vec<OperatorSelection>,
    ) -> Result<Outcome, LiveError> {
        self.change(container_ref, |locked, journal| {
            find::refuse_debts(&journal.state)?;
            let attachments = locked.plan(config, &journal.state, selections)?;
            if attachments.is_empty() {
                return unchanged(&journal.state);
            }
            ports::refuse_taken_by_new(locked.store, locked.container, &journal.state, &attachments)?;
            shared::refuse_with_new(locked.container, &journal.state, &attachments)?;
            locked.reported("attach", journal, |means, journal| transaction::attach_more(means, journal, attachments))
        })
    }

    /// Detaches a container from networks, given their interfaces, using only its journal.
    ///
    /// # Errors
    /// When there is no such interface, or it is the primary's, or a plugin fails. What could not be undone is then owed: the
    /// next detach of the interface tries it again, and DEL does.
    pub fn detach(&self, container_ref: ContainerRef<'_>, interfaces: &[&str]) -> Result<Outcome, LiveError> {
        self.change_unsettled(container_ref, |locked, mut journal| {
            let settled = locked.settle_for(&mut journal, interfaces)?;
            let mut indexes = Vec::new();
            for ifname in interfaces.iter().filter(|ifname| !settled.contains(*ifname)) {
                let index = find::attachment(&journal.state, ifname)?;
                if find::is_primary(&journal.state, index) {
                    let container_id = locked.container.id().to_owned();
                    return Err(LiveError::Primary { container_id, ifname: (*ifname).to_owned() });
                }
                if !indexes.contains(&index) {
                    indexes.push(index);
                }
            }
            if indexes.is_empty() {
                return unchanged(&journal.state);
            }
            shared::refuse_with_rest(locked.container, &journal.state, &indexes)?;
            locked.reported("detach", journal, |means, journal| transaction::detach(means, journal, &indexes))
        })
    }

    /// Gives an attachment new values.
    ///
    /// # Errors
    /// When there is no such interface, the values cannot be given, or a plugin refuses them. The old values are then in force
    /// again.
    pub fn update(
        &self,
        container_ref: ContainerRef<'_>,
        interface: &str,
        values: &Update,
    ) -> Result<Outcome, LiveError> {
        self.change(container_ref, |locked, journal| {
            find::refuse_debts(&journal.state)?;
            let (index, planned) = planned(&journal.state, interface, values)?;
            ports::refuse_taken(locked.store, locked.container, &journal.state, index, &planned)?;
            shared::refuse_for_update(locked.container, &journal.state, index, &planned)?;
            refuse_missing_plugins(&journal.state.header.plan, &planned.attachment, locked.tools.finder)?;
            if planned.steps.is_empty() {
                return unchanged(&journal.state);
            }
            locked.reported("update", journal, |means, journal| transaction::update(means, journal, index, &planned))
        })
    }

    /// What [`Self::update`] would do: the attachment before and after, with the steps that would be redone.
    ///
    /// # Errors
    /// When it could not be done, as far as is known without doing it.
    pub fn plan_update(
        &self,
        container_ref: ContainerRef<'_>,
        interface: &str,
        values: &Update,
    ) -> Result<(Attachment, PlannedUpdate), LiveError> {
        let (store, id) = self.open(container_ref)?;
        let container = store.unlocked_container(&id)?.ok_or_else(|| self.no_container(container_ref))?;
        let state = find::look(&container, container_ref)?;
        find::refuse_unfit(&state)?;
        find::refuse_debts(&state)?;
        let (index, planned) = planned(&state, interface, values)?;
        ports::refuse_taken(&store, &container, &state, index, &planned)?;
        shared::refuse_for_update(&container, &state, index, &planned)?;
        let plan = &state.header.plan;
        refuse_missing_plugins(plan, &planned.attachment, &self.context(&id).finder_for(&plan.path))?;
        Ok((plan.attachments[index].clone(), planned))
    }

    /// Reads the plan at the beginning of a container's journal. The rest is much longer if the container has been changed often.
    fn look_at_plan<T>(&self, container_ref: ContainerRef<'_>, look: impl FnOnce(&Plan) -> T) -> Result<T, LiveError> {
        let (store, id) = self.open(container_ref)?;
        let container = store.unlocked_container(&id)?.ok_or_else(|| self.no_container(container_ref))?;
        Ok(look(&find::plan(&container, container_ref)?))
    }

    pub(super) fn state_dir(&self) -> &std::path::Path {
        &self.state_dir
    }

    pub(super) fn open(&self, container_ref: ContainerRef<'_>) -> Result<(Store, String), LiveError> {
        let deadline = deadline::from(Instant::now(), self.timeouts.total);
        let store = Store::open_existing(&self.state_dir, Sharing::Shared, deadline)?;
        let store = store.ok_or_else(|| self.no_container(container_ref))?;
        let id = find::container_id(&store, container_ref)?;
        Ok((store, id))
    }

    /// The means of a change of a container.
    pub(super) fn context(&self, id: &str) -> Context {
        let look_ahead = LookAhead { plugins: self.look_ahead, except: &self.no_look_ahead };
        Context::of_container(id, self.timeouts, look_ahead)
    }

    pub(super) fn no_container(&self, container_ref: ContainerRef<'_>) -> LiveError {
        LiveError::NoContainer { prefix: container_ref.container.to_owned(), state_dir: self.state_dir.clone() }
    }

    /// Changes a container after settling an earlier change that did not finish.
    fn change(
        &self,
        container_ref: ContainerRef<'_>,
        work: impl FnOnce(&LockedContainer<'_>, Journal) -> Result<Changed, LiveError>,
    ) -> Result<Outcome, LiveError> {
        self.change_unsettled(container_ref, |locked, mut journal| {
            locked.settle(&mut journal)?;
            work(locked, journal)
        })
    }

    fn change_unsettled(
        &self,
        container_ref: ContainerRef<'_>,
        work: impl FnOnce(&LockedContainer<'_>, Journal) -> Result<Changed, LiveError>,
    ) -> Result<Outcome, LiveError> {
        self.locked(container_ref, |locked, journal| {
            let plan = &journal.state.header.plan;
            let (container_id, ifname, version) = (plan.container_id.clone(), plan.ifname.clone(), plan.version);
            let (before, plan) =
                (self.pods_of(&journal.state).map(|config| (config, journal.state.clone())), plan.clone());
            let outcome = work(locked, journal);
            // A change that failed may still have settled an earlier one.
            if let Some((config, before)) = before {
                follow(config, locked.container, &before);
            }
            let tried = |error| tried::complete(error, locked.container, &plan, locked.context.runs().take());
            Ok(Outcome { container_id, ifname, version, changed: outcome.map_err(tried)? })
        })
    }

    /// Locks a running container and works on it.
    pub(super) fn locked<T>(
        &self,
        container_ref: ContainerRef<'_>,
        work: impl FnOnce(&LockedContainer<'_>, Journal) -> Result<T, LiveError>,
    ) -> Result<T, LiveError> {
        let (store, id) = self.open(container_ref)?;
        let context = self.context(&id);
        let container =
            store.existing_container(&id, context.deadline)?.ok_or_else(|| self.no_container(container_ref))?;
        let journal = find::journal(&container, container_ref)?;
        let netns = find::refuse_unfit(&journal.state)?;
        let plan = &journal.state.header.plan;
        let finder = context.finder_for(&plan.path);
        let launcher = context.launcher(vec![store.lock_handle(), container.lock_handle()]);
        let locked = LockedContainer {
            store: &store,
            container: &container,
            context: &context,
            tools: context.tools(&finder, &launcher),
            author: &self.author,
            netns: RefCell::new(netns),
        };
        work(&locked, journal)
    }

    /// The configuration for updating what is written about a container's pod, if anything is to be written.
    fn pods_of(&self, state: &State) -> Option<&Config> {
        let config = self.pods.as_ref()?;
        request_of(&state.header.plan)
            .is_ok_and(|request| is_configured(config, &request) && pod_of(&request).is_some())
            .then_some(config)
    }
}

/// Updates what is written about the pod from the current journal. The change does not depend on it.
fn follow(config: &Config, container: &Container, before: &State) {
    let ifname = &before.header.plan.ifname;
    let written = match State::peek(container, ifname) {
        Ok(Some(Ok(after))) => write_pod_status(config, Some(before), &after).map_err(|error| error.to_string()),
        Ok(Some(Err(reason))) => Err(reason),
        Ok(None) => Ok(()),
        Err(error) => Err(error.to_string()),
    };
    if let Err(reason) = written {
        tracing::warn!(
            container = container.id(),
            interface = ifname,
            "the container is changed, but what is written about its pod is not: {reason}"
        );
    }
}

/// The index of an attachment, and the plan for its new values.
fn planned(state: &State, interface: &str, values: &Update) -> Result<(usize, PlannedUpdate), LiveError> {
    let index = find::attachment(state, interface)?;
    if !state.is_attached(index) {
        return Err(LiveError::NotMade { ifname: interface.to_owned() });
    }
    Ok((index, update(&state.header.plan.attachments[index], values)?))
}

/// Nothing was to be done.
fn unchanged(state: &State) -> Result<Changed, LiveError> {
    let result = transaction::merged(state).map_err(ChangeError::Result)?;
    Ok(Changed { steps: Vec::new(), result })
}
