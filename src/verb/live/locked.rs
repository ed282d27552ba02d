//! A container that is locked for a change, with what a change needs for planning, running plugins and reporting.

use std::cell::RefCell;
use std::time::Instant;

use super::super::context::Context;
use super::super::error::Error;
use super::super::preflight::{forgo_without_plugins, held_by_others, preflight, refuse_taken_names};
use super::error::LiveError;
use super::tried;
use crate::cni::{AddResult, Args, CniError, RawObject, Verb};
use crate::config::{Config, Delegate, MultusKeys, OperatorSelection, Problems};
use crate::netns::Netns;
use crate::plan::{self, Asked, Attachment, Plan};
use crate::request::Request;
use crate::runtime::Finder;
use crate::source::device::HeldDevice;
use crate::source::kubernetes::Session;
use crate::source::{self, SourceError};
use crate::telemetry::{self, Report, Subject};
use crate::transaction::journal::State;
use crate::transaction::{self, ChangeError, Changed, Container, Journal, Means, Store};

/// A running container, locked for a change.
pub(super) struct LockedContainer<'a> {
    pub(super) store: &'a Store,
    pub(super) container: &'a Container,
    pub(super) context: &'a Context,
    pub(super) tools: transaction::Tools<'a>,
    pub(super) author: &'a str,
    /// The container's.
    pub(super) netns: RefCell<Netns>,
}

impl<'a> LockedContainer<'a> {
    pub(super) fn means(&self) -> Means<'a> {
        Means { container: self.container, tools: self.tools, author: self.author }
    }

    /// Makes a change, and reports to a listener how long it took.
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

    /// Settles an earlier change that did not finish. Returns those of these interfaces that this has detached.
    pub(super) fn settle_for<'b>(
        &self,
        journal: &mut Journal,
        interfaces: &[&'b str],
    ) -> Result<Vec<&'b str>, LiveError> {
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

    /// Plans additional attachments by the rules of ADD.
    pub(super) fn plan(
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
        for reason in &gathered.dropped {
            tracing::warn!(container = self.container.id(), "not attached: {reason}");
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

    /// The interfaces of the container's attachments.
    fn taken_names(&self, state: &State) -> Result<Vec<String>, LiveError> {
        let mut taken = self.of_each(state, |attachment| Some(attachment.ifname.clone()))?;
        taken.push(state.header.plan.ifname.clone());
        Ok(taken)
    }

    /// The devices of the container's attachments.
    fn held_devices(&self, state: &State) -> Result<Vec<HeldDevice>, LiveError> {
        self.of_each(state, Attachment::held_device)
    }

    /// Collects `part` of each attachment of the container.
    fn of_each<T>(&self, state: &State, part: impl Fn(&Attachment) -> Option<T>) -> Result<Vec<T>, LiveError> {
        let mut parts = held_by_others(self.container, &state.header.plan.ifname, &part)?;
        let there = state.attachments().filter(|(index, _)| !state.is_failed_optional(*index));
        parts.extend(there.filter_map(|(_, attachment)| part(attachment)));
        Ok(parts)
    }
}

/// Every plugin of an attachment with new values has an executable.
pub(super) fn refuse_missing_plugins(plan: &Plan, attachment: &Attachment, finder: &Finder) -> Result<(), LiveError> {
    let plan = Plan { attachments: vec![attachment.clone()], ..plan.clone() };
    Ok(preflight(&plan, finder)?)
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

/// The name of a selection from the command line, in messages and in the journal.
fn numbered((index, operator): (usize, OperatorSelection)) -> Delegate {
    let place = format!("selection {} ({})", index + 1, operator.shown());
    Delegate::Selection(Box::new(OperatorSelection { place, ..operator }))
}

/// Braid's configuration with only these selections.
pub(super) fn config_for(config: &Config, selections: Vec<OperatorSelection>) -> Config {
    Config {
        delegates: selections.into_iter().enumerate().map(numbered).collect(),
        // There is a primary attachment already.
        prev_result: Some(AddResult::default()),
        runtime_config: RawObject::new(),
        runtime_selections: Vec::new(),
        multus: MultusKeys { cluster_network: None, auxiliary_chain: None, ..config.multus.clone() },
        ..config.clone()
    }
}
