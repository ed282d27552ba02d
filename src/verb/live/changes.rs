//! Attach, detach and update, under the container's lock.

use std::cell::RefCell;
use std::path::PathBuf;
use std::time::Instant;

use super::super::context::Context;
use super::super::error::Error;
use super::super::preflight::{forgo_without_plugins, held_by_others, preflight, refuse_taken_names};
use super::error::LiveError;
use super::find::{self, Which};
use super::pod_status::write_pod_status;
use super::ports;
use super::tried;
use crate::cni::{AddResult, Args, CniError, RawObject, Verb, Version};
use crate::config::{Config, Delegate, MultusKeys, OperatorSelection, Problems, Timeouts};
use crate::netns::Netns;
use crate::plan::update::{PlannedUpdate, Update, update};
use crate::plan::{self, Asked, Attachment, Plan};
use crate::request::Request;
use crate::runtime::{LookAhead, deadline};
use crate::source::device::HeldDevice;
use crate::source::kubernetes::{Session, is_configured, pod_of};
use crate::source::{self, SourceError};
use crate::telemetry::{self, Report, Subject};
use crate::transaction::journal::State;
use crate::transaction::{self, ChangeError, Changed, Container, Journal, Means, Sharing, Store};

/// The containers of a node, to be changed while they live.
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

    /// The same with other limits of time than the defaults of the configuration.
    #[must_use]
    pub fn with_timeouts(self, timeouts: Timeouts) -> Self {
        Self { timeouts, ..self }
    }

    /// The same with the limits of time of Braid's configuration, and with plugins that are started ahead of their turns as it says.
    #[must_use]
    pub fn configured_by(self, config: &Config) -> Self {
        let Config { timeouts, look_ahead, .. } = *config;
        Self { timeouts, look_ahead, no_look_ahead: config.no_look_ahead.clone(), ..self }
    }

    /// The same with another name for who makes the changes. The journal records it.
    #[must_use]
    pub fn by(self, author: &str) -> Self {
        Self { author: author.to_owned(), ..self }
    }

    /// The same, and what is written about a pod follows the changes of its container, as far as Braid's configuration asks for
    /// that: its `network-status`, and the status of its resource claims. A change that cannot be written there is made all the
    /// same, and the log says so.
    #[must_use]
    pub fn writing_pod_status(self, config: Config) -> Self {
        Self { pods: Some(config), ..self }
    }

    /// Whether a container is a pod's, as namespace and name.
    ///
    /// # Errors
    /// When there is no such container.
    pub fn pod_of(&self, which: Which<'_>) -> Result<Option<(String, String)>, LiveError> {
        let request = self.look_at_plan(which, request_of)??;
        Ok(pod_of(&request).map(|(namespace, name)| (namespace.to_owned(), name.to_owned())))
    }

    /// The name of the network that a container was attached to.
    ///
    /// # Errors
    /// When there is no such container.
    pub fn network_of(&self, which: Which<'_>) -> Result<String, LiveError> {
        self.look_at_plan(which, |plan| plan.network.clone())
    }

    /// Attaches a container to more networks. Several are one transaction: all of them, or none. `config` is Braid's
    /// configuration: they are looked up and checked by it as in ADD.
    ///
    /// # Errors
    /// When the container is not there or not whole, a network cannot be found, or a plugin fails.
    pub fn attach(
        &self,
        config: &Config,
        which: Which<'_>,
        selections: Vec<OperatorSelection>,
    ) -> Result<Outcome, LiveError> {
        self.change(which, |call, journal| {
            find::refuse_debts(&journal.state)?;
            let attachments = call.plan(config, &journal.state, selections)?;
            if attachments.is_empty() {
                return unchanged(&journal.state);
            }
            ports::refuse_taken_by_new(call.store, call.container, &journal.state, &attachments)?;
            call.reported("attach", journal, |means, journal| transaction::attach_more(means, journal, attachments))
        })
    }

    /// Detaches a container from networks, by their interfaces, from its journal alone.
    ///
    /// # Errors
    /// When there is no such interface, or it is the primary's, or a plugin fails. What could not be undone is then owed: the
    /// next detach of the interface tries it again, and DEL does.
    pub fn detach(&self, which: Which<'_>, interfaces: &[&str]) -> Result<Outcome, LiveError> {
        self.change_unsettled(which, |call, mut journal| {
            let settled = call.settle_for(&mut journal, interfaces)?;
            let mut indexes = Vec::new();
            for ifname in interfaces.iter().filter(|ifname| !settled.contains(*ifname)) {
                let index = find::attachment(&journal.state, ifname)?;
                if find::is_primary(&journal.state, index) {
                    let container_id = call.container.id().to_owned();
                    return Err(LiveError::Primary { container_id, ifname: (*ifname).to_owned() });
                }
                if !indexes.contains(&index) {
                    indexes.push(index);
                }
            }
            if indexes.is_empty() {
                return unchanged(&journal.state);
            }
            ports::refuse_shared_with_rest(call.store, call.container, &journal.state, &indexes)?;
            call.reported("detach", journal, |means, journal| transaction::detach(means, journal, &indexes))
        })
    }

    /// Gives an attachment new values.
    ///
    /// # Errors
    /// When there is no such interface, the values cannot be given, or a plugin refuses them. The old values are then in force
    /// again.
    pub fn update(&self, which: Which<'_>, interface: &str, values: &Update) -> Result<Outcome, LiveError> {
        self.change(which, |call, journal| {
            find::refuse_debts(&journal.state)?;
            let (index, planned) = planned(&journal.state, interface, values)?;
            ports::refuse_taken(call.store, call.container, &journal.state, index, &planned)?;
            call.refuse_missing_plugins(&journal.state, &planned.attachment)?;
            if planned.steps.is_empty() {
                return unchanged(&journal.state);
            }
            call.reported("update", journal, |means, journal| transaction::update(means, journal, index, &planned))
        })
    }

    /// What [`Self::update`] would do: the attachment as it is and as it would be, with the steps to be redone.
    ///
    /// # Errors
    /// When it could not be done, as far as is known without doing it.
    pub fn plan_update(
        &self,
        which: Which<'_>,
        interface: &str,
        values: &Update,
    ) -> Result<(Attachment, PlannedUpdate), LiveError> {
        self.look(which, |state| {
            let (index, planned) = planned(state, interface, values)?;
            Ok((state.header.plan.attachments[index].clone(), planned))
        })?
    }

    /// Looks at a container's journal.
    fn look<T>(&self, which: Which<'_>, look: impl FnOnce(&State) -> T) -> Result<T, LiveError> {
        let (store, id) = self.open(which)?;
        let container = store.unlocked_container(&id)?.ok_or_else(|| self.no_container(which))?;
        Ok(look(&find::look(&container, which)?))
    }

    /// Looks at what a container's journal begins with. On a container that has been changed often, the rest is much longer.
    fn look_at_plan<T>(&self, which: Which<'_>, look: impl FnOnce(&Plan) -> T) -> Result<T, LiveError> {
        let (store, id) = self.open(which)?;
        let container = store.unlocked_container(&id)?.ok_or_else(|| self.no_container(which))?;
        Ok(look(&find::plan(&container, which)?))
    }

    pub(super) fn state_dir(&self) -> &std::path::Path {
        &self.state_dir
    }

    pub(super) fn open(&self, which: Which<'_>) -> Result<(Store, String), LiveError> {
        let deadline = deadline::from(Instant::now(), self.timeouts.total);
        let store = Store::open_existing(&self.state_dir, Sharing::Shared, deadline)?;
        let store = store.ok_or_else(|| self.no_container(which))?;
        let id = find::container_id(&store, which)?;
        Ok((store, id))
    }

    /// The means of a change of a container.
    pub(super) fn context(&self, id: &str) -> Context {
        let look_ahead = LookAhead { plugins: self.look_ahead, except: &self.no_look_ahead };
        Context::of_container(id, self.timeouts, look_ahead)
    }

    pub(super) fn no_container(&self, which: Which<'_>) -> LiveError {
        LiveError::NoContainer { prefix: which.container.to_owned(), state_dir: self.state_dir.clone() }
    }

    /// Changes a container that is whole, what an earlier change has left settled.
    fn change(
        &self,
        which: Which<'_>,
        work: impl FnOnce(&Call<'_>, Journal) -> Result<Changed, LiveError>,
    ) -> Result<Outcome, LiveError> {
        self.change_unsettled(which, |call, mut journal| {
            call.settle(&mut journal)?;
            work(call, journal)
        })
    }

    fn change_unsettled(
        &self,
        which: Which<'_>,
        work: impl FnOnce(&Call<'_>, Journal) -> Result<Changed, LiveError>,
    ) -> Result<Outcome, LiveError> {
        self.locked(which, |call, journal| {
            let plan = &journal.state.header.plan;
            let (container_id, ifname, version) = (plan.container_id.clone(), plan.ifname.clone(), plan.version);
            let (before, plan) =
                (self.pods_of(&journal.state).map(|config| (config, journal.state.clone())), plan.clone());
            let outcome = work(call, journal);
            // A change that failed may have settled an earlier one.
            if let Some((config, before)) = before {
                follow(config, call.container, &before);
            }
            let tried = |error| tried::complete(error, call.container, &plan, call.context.runs().take());
            Ok(Outcome { container_id, ifname, version, changed: outcome.map_err(tried)? })
        })
    }

    /// Works on a container that is locked and lives.
    pub(super) fn locked<T>(
        &self,
        which: Which<'_>,
        work: impl FnOnce(&Call<'_>, Journal) -> Result<T, LiveError>,
    ) -> Result<T, LiveError> {
        let (store, id) = self.open(which)?;
        let context = self.context(&id);
        let container = store.existing_container(&id, context.deadline)?.ok_or_else(|| self.no_container(which))?;
        let journal = find::journal(&container, which)?;
        let netns = find::refuse_unfit(&journal.state)?;
        let plan = &journal.state.header.plan;
        let finder = context.finder_for(&plan.path);
        let launcher = context.launcher(vec![store.lock_handle(), container.lock_handle()]);
        let call = Call {
            store: &store,
            container: &container,
            context: &context,
            tools: context.tools(&finder, &launcher),
            author: &self.author,
            netns: RefCell::new(netns),
        };
        work(&call, journal)
    }

    /// The configuration by which what is written about a container's pod follows its changes, if anything is.
    fn pods_of(&self, state: &State) -> Option<&Config> {
        let config = self.pods.as_ref()?;
        request_of(&state.header.plan)
            .is_ok_and(|request| is_configured(config, &request) && pod_of(&request).is_some())
            .then_some(config)
    }
}

/// Has what is written about the pod follow what is in the journal now. No change depends on it.
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

/// The place of an attachment, and what giving it new values takes.
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

/// A change under way, its container locked.
pub(super) struct Call<'a> {
    pub(super) store: &'a Store,
    pub(super) container: &'a Container,
    pub(super) context: &'a Context,
    pub(super) tools: transaction::Tools<'a>,
    pub(super) author: &'a str,
    /// The container's.
    pub(super) netns: RefCell<Netns>,
}

impl<'a> Call<'a> {
    pub(super) fn means(&self) -> Means<'a> {
        Means { container: self.container, tools: self.tools, author: self.author }
    }

    /// Makes a change, and reports to whoever listens what it took.
    pub(super) fn reported(
        &self,
        kind: &str,
        journal: Journal,
        change: impl FnOnce(Means<'a>, Journal) -> Result<Changed, ChangeError>,
    ) -> Result<Changed, LiveError> {
        let Plan { network, ifname, args, .. } = &journal.state.header.plan;
        let (network, ifname, args) = (network.clone(), ifname.clone(), args.clone());
        let (began, before) = (Instant::now(), self.context.runs().count());
        let mut outcome = change(self.means(), journal).map_err(LiveError::from);
        if let Some(changed) = outcome.as_mut().ok().filter(|changed| changed.steps.is_empty()) {
            changed.steps = self.context.runs().after(before).into_iter().map(tried::report).collect();
        }
        let code = outcome.as_ref().err().map_or(0, |error| CniError::from(error).code);
        let (runs, took) = (self.context.runs(), began.elapsed());
        let args: Args = args.parse().unwrap_or_default();
        telemetry::send(self.store.path(), || {
            let subject = Subject {
                verb: kind,
                network: &network,
                container: self.container.id(),
                interface: &ifname,
                pod_uid: args.get("K8S_POD_UID").unwrap_or_default(),
            };
            Report::of(subject, took, code, (runs, before))
        });
        outcome
    }

    pub(super) fn settle(&self, journal: &mut Journal) -> Result<(), LiveError> {
        let means = self.means();
        let failures = transaction::settle(means, journal);
        if failures.is_empty() { Ok(()) } else { Err(ChangeError::Unsettled(failures).into()) }
    }

    /// Settles what an earlier change has left. Returns the interfaces among these that are detached by that.
    fn settle_for<'b>(&self, journal: &mut Journal, interfaces: &[&'b str]) -> Result<Vec<&'b str>, LiveError> {
        let pending = journal.state.pending.clone().unwrap_or_default();
        let plan = &journal.state.header.plan;
        let detaching: Vec<String> =
            pending.detaching.iter().map(|index| plan.attachments[*index].ifname.clone()).collect();
        let failures = transaction::settle(self.means(), journal);
        let settled = interfaces.iter().copied().filter(|ifname| detaching.iter().any(|one| one == ifname)).collect();
        if failures.is_empty() {
            return Ok(settled);
        }
        Err(ChangeError::Incomplete(failures).into())
    }

    pub(super) fn refuse_missing_plugins(&self, state: &State, attachment: &Attachment) -> Result<(), LiveError> {
        let mut plan = state.header.plan.clone();
        plan.attachments = vec![attachment.clone()];
        Ok(preflight(&plan, self.tools.finder)?)
    }

    /// Plans attachments as ADD does, beside those that there are.
    fn plan(
        &self,
        config: &Config,
        state: &State,
        selections: Vec<OperatorSelection>,
    ) -> Result<Vec<Attachment>, LiveError> {
        let request = request_of(&state.header.plan)?;
        let taken = self.taken_names(state)?;
        let config = config_for(config, selections);
        let gathered = match Session::open(&config, &request, self.context.deadline)
            .map_err(SourceError::from)
            .map_err(Error::from)?
        {
            Some(session) => session.gather_for_operator(&config, &request, &self.held_devices(state)?),
            None => source::gather(&config, &request),
        }
        .map_err(Error::from)?;
        let asked = Asked { candidates: gathered.candidates, dropped: &gathered.dropped, taken: &taken };
        let mut problems = Problems::new();
        let planned = plan::build(&config, &request, asked, &mut problems);
        let planned = problems.or_first(planned).map_err(Error::from)?;
        for warning in gathered.warnings.iter().chain(&planned.warnings) {
            tracing::warn!("{warning}");
        }
        let mut plan = planned.plan;
        forgo_without_plugins(&mut plan, self.tools.finder);
        preflight(&plan, self.tools.finder)?;
        if let Some(attachment) = plan.attachments.iter().find(|attachment| taken.contains(&attachment.ifname)) {
            let container_id = self.container.id().to_owned();
            return Err(LiveError::Taken { container_id, ifname: attachment.ifname.clone() });
        }
        refuse_taken_names(&plan, Some(&mut self.netns.borrow_mut()))?;
        Ok(plan.attachments)
    }

    /// The interfaces that attachments of the container have.
    fn taken_names(&self, state: &State) -> Result<Vec<String>, LiveError> {
        let mut taken = self.of_each(state, |attachment| Some(attachment.ifname.clone()))?;
        taken.push(state.header.plan.ifname.clone());
        Ok(taken)
    }

    /// The devices that attachments of the container have.
    fn held_devices(&self, state: &State) -> Result<Vec<HeldDevice>, LiveError> {
        self.of_each(state, Attachment::held_device)
    }

    /// What `part` says of each attachment of the container.
    fn of_each<T>(&self, state: &State, part: impl Fn(&Attachment) -> Option<T>) -> Result<Vec<T>, LiveError> {
        let mut parts = held_by_others(self.container, &state.header.plan.ifname, &part)?;
        let there = state.attachments().filter(|(index, _)| !state.is_forgone(*index));
        parts.extend(there.filter_map(|(_, attachment)| part(attachment)));
        Ok(parts)
    }
}

/// The call that a journal is of.
pub(super) fn request_of(plan: &Plan) -> Result<Request, LiveError> {
    let args = plan.args.parse().map_err(|error| Error::Request(crate::request::RequestError::Args(error)))?;
    Ok(Request {
        verb: Verb::Add,
        container_id: plan.container_id.clone(),
        netns: plan.netns.clone(),
        own_netns_allowed: false,
        ifname: plan.ifname.clone(),
        args,
        args_text: plan.args.clone(),
        cni_path: plan.path.clone(),
        in_cluster: false,
        traceparent: None,
        stdin: Vec::new(),
    })
}

/// A selection as messages and the journal name it, which stands in no configuration.
fn numbered((index, operator): (usize, OperatorSelection)) -> Delegate {
    let place = format!("selection {} ({})", index + 1, operator.shown());
    Delegate::Selection(Box::new(OperatorSelection { place, ..operator }))
}

/// Braid's configuration with these selections alone.
pub(super) fn config_for(config: &Config, selections: Vec<OperatorSelection>) -> Config {
    Config {
        delegates: selections.into_iter().enumerate().map(numbered).collect(),
        // There is a primary attachment already, whoever made it.
        prev_result: Some(AddResult::default()),
        runtime_config: RawObject::new(),
        runtime_selections: Vec::new(),
        multus: MultusKeys { cluster_network: None, auxiliary_chain: None, ..config.multus.clone() },
        ..config.clone()
    }
}
