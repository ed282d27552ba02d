//! Makes the changes that a pod asks for, with the container locked.

use std::collections::{BTreeMap, VecDeque};

use super::super::super::preflight::{open_namespace, refuse_taken_names};
use super::super::changes::Live;
use super::super::error::LiveError;
use super::super::find::{self, ContainerRef};
use super::super::locked::{LockedContainer, refuse_missing_plugins, request_of};
use super::super::pod_status::{complete_pod_status, is_written, write_pod_status};
use super::super::ports;
use super::super::shared;
use super::planning::{ContainerJournals, New, Planner, Work, difference, origin};
use super::report::{AttachedNow, Failed, Network, PodName, Synced};
use crate::cni::CniError;
use crate::config::Config;
use crate::config::selection::PortMapping;
use crate::plan::difference::Changed;
use crate::plan::update::Update;
use crate::plan::{self, Attachment};
use crate::source::SourceError;
use crate::source::kubernetes::{Notice, Session};
use crate::source::pod::{NETWORKS, Pod, PodNow};
use crate::transaction::journal::State;
use crate::transaction::{self, ChangeError, Journal};

/// How many times to start again because others have changed the container.
const ATTEMPTS: usize = 5;

impl Live {
    /// Changes a running container to match what its pod asks for now, by the rules of ADD: attaches what is missing, detaches what
    /// is no longer asked for, and updates what has changed. Attachments of the operator stay. `config` is Braid's configuration.
    ///
    /// Each selection is handled separately, so that one that fails does not prevent the others; failures are in the outcome. With
    /// `is_trial`, nothing is changed, and the outcome says what would be done.
    ///
    /// # Errors
    /// When the container is not there or not whole, or its pod is gone or cannot be asked. Nothing was done then.
    pub fn sync(&self, config: &Config, container_ref: ContainerRef<'_>, is_trial: bool) -> Result<Synced, LiveError> {
        let live = self.clone().configured_by(config);
        let first = live.look_at(container_ref)?;
        let id = first.state.header.plan.container_id.clone();
        let whole = ContainerRef { container: &id, ifname: Some(&first.state.header.plan.ifname.clone()) };
        let syncing = Syncing { live: &live, config, container_ref: whole, before: first.state.clone() };
        match syncing.run(first, is_trial) {
            // It went away while it was looked at.
            Err(
                error @ (LiveError::NoContainer { .. }
                | LiveError::NoJournal { .. }
                | LiveError::Gone { .. }
                | LiveError::AnotherNamespace { .. }),
            ) => Ok(Synced { skipped: Some(error.to_string()), ..syncing.report(None) }),
            Err(LiveError::NotWhole { .. }) if live.is_being_deleted(whole) => {
                let reason = format!("container {id:?} is being detached");
                Ok(Synced { skipped: Some(reason), ..syncing.report(None) })
            }
            outcome => outcome,
        }
    }

    /// Reads a container's journals without waiting for its lock.
    fn look_at(&self, container_ref: ContainerRef<'_>) -> Result<ContainerJournals, LiveError> {
        let (store, id) = self.open(container_ref)?;
        let container = store.unlocked_container(&id)?.ok_or_else(|| self.no_container(container_ref))?;
        let state = find::look(&container, container_ref)?;
        let mut others = Vec::new();
        for ifname in container.entries()?.ifnames.iter().filter(|ifname| **ifname != state.header.plan.ifname) {
            if let Some(Ok(state)) = State::peek(&container, ifname)? {
                others.extend(state.attachments().map(|(_, attachment)| attachment.clone()));
            }
        }
        Ok(ContainerJournals { state, others })
    }

    /// Whether DEL has begun.
    fn is_being_deleted(&self, container_ref: ContainerRef<'_>) -> bool {
        self.look_at(container_ref)
            .map_or(true, |journals| journals.state.complete.is_some() && journals.state.is_being_undone())
    }
}

/// A sync of one container.
pub(super) struct Syncing<'a> {
    pub(super) live: &'a Live,
    pub(super) config: &'a Config,
    pub(super) container_ref: ContainerRef<'a>,
    /// Its journal when it was looked at first.
    pub(super) before: State,
}

/// Whether the container had changed when it was locked.
enum Found {
    /// It had not changed, and the work is done.
    Done,
    /// It had changed, and the work must be planned again.
    Changed,
}

impl Syncing<'_> {
    pub(super) fn run(&self, first: ContainerJournals, is_trial: bool) -> Result<Synced, LiveError> {
        let mut journals = first;
        let (mut is_settled, mut unsettled) = (false, None);
        for attempt in 0..ATTEMPTS {
            if attempt > 0 {
                journals = self.live.look_at(self.container_ref)?;
            }
            find::refuse_unfit(&journals.state)?;
            let context = self.live.context(self.container_ref.container);
            let request = request_of(&journals.state.header.plan)?;
            let no_pod = |why| LiveError::NoPod { container_id: self.container_ref.container.to_owned(), why };
            if crate::source::kubernetes::pod_of(&request).is_none() {
                return Err(no_pod("its journal names no pod"));
            }
            let session = Session::open(self.config, &request, context.deadline).map_err(cluster_error)?;
            let session = session.ok_or_else(|| no_pod("braid's configuration has no \"kubeconfig\""))?;
            let now = session.pod_now(&request).map_err(cluster_error)?;
            let mut report = self.report(Some(&now.pod));
            if now.is_deleting {
                return Ok(Synced { skipped: Some("the pod is being deleted".into()), ..report });
            }
            if !is_trial && is_owing(&journals.state) && !is_settled {
                // Tried once only. If something stays owed, the other changes are made nevertheless.
                is_settled = true;
                unsettled = self.settle()?;
                continue;
            }
            unsettled.iter().cloned().for_each(|failed| report.fail_to_detach(failed));
            if let Some(problem) = now.problems.iter().next() {
                report.fail_to_attach(Failed {
                    selection: Some(NETWORKS.into()),
                    network: String::new(),
                    interface: None,
                    error: CniError::from(&SourceError::Annotation(problem.clone())),
                });
                self.post_events(&session, &now.pod, &report, is_trial);
                return Ok(report);
            }
            let finder = context.finder_for(&journals.state.header.plan.path);
            let planner =
                Planner { config: self.config, request: &request, session: &session, pod: &now.pod, finder: &finder };
            let work = planner.plan(&journals, difference(&journals.state, &now.pod))?;
            if is_trial {
                report_planned(&mut report, &journals.state, &work);
                return Ok(report);
            }
            if let Found::Changed = self.apply_if_unchanged(&session, &now, &journals, work, &mut report)? {
                continue;
            }
            self.post_events(&session, &now.pod, &report, is_trial);
            return Ok(report);
        }
        Err(LiveError::KeepsChanging { container_id: self.container_ref.container.to_owned() })
    }

    pub(super) fn report(&self, pod: Option<&Pod>) -> Synced {
        let name =
            pod.map(|pod| PodName { namespace: pod.namespace.clone(), name: pod.name.clone(), uid: pod.uid.clone() });
        let mut definitions: Vec<String> = pod
            .map(|pod| pod.networks.iter().filter_map(|one| pod.references(one).into_iter().next()).collect())
            .unwrap_or_default();
        definitions.sort();
        definitions.dedup();
        Synced {
            container: self.container_ref.container.to_owned(),
            interface: self.before.header.plan.ifname.clone(),
            pod: name.unwrap_or_default(),
            definitions,
            ..Synced::default()
        }
    }

    pub(super) fn post_events(&self, session: &Session, pod: &Pod, report: &Synced, is_trial: bool) {
        if self.config.kubernetes.events && !is_trial && !report.notices.is_empty() {
            session.post_events(pod, &report.notices);
        }
    }

    /// Tries again what is owed. Returns what is still owed afterwards.
    fn settle(&self) -> Result<Option<Failed>, LiveError> {
        self.live.locked(self.container_ref, |locked, mut journal| {
            let settled = locked.settle(&mut journal).and_then(|()| {
                let owed: Vec<usize> = owed(&journal.state);
                if owed.is_empty() { Ok(()) } else { locked.detach(journal, &owed) }
            });
            let Err(error) = settled else { return Ok(None) };
            let state = locked.state(self.container_ref)?;
            let owing = state.attachments().find(|(index, _)| state.is_changing(*index) || owed_by(&state, *index));
            let owing = owing.map(|(_, attachment)| network(attachment));
            Ok(Some(Failed {
                selection: None,
                network: owing.as_ref().map(|one| one.network.clone()).unwrap_or_default(),
                interface: owing.map(|one| one.interface),
                error: CniError::from(&error),
            }))
        })
    }

    /// Does the work, if the container has not changed since the plan was made.
    fn apply_if_unchanged(
        &self,
        session: &Session,
        now: &PodNow,
        journals: &ContainerJournals,
        work: Work,
        report: &mut Synced,
    ) -> Result<Found, LiveError> {
        let is_settled = work.difference.is_empty() && work.new.is_empty();
        let has_changed = !is_same(&self.before, &journals.state);
        self.live.locked(self.container_ref, |locked, journal| {
            // Only under the lock is it certain that nothing is to be done: another sync may be applying an older annotation.
            if !is_same(&journals.state, &journal.state) {
                return Ok(Found::Changed);
            }
            if is_settled && !has_changed && is_written(&journals.state, &now.status)? {
                return Ok(Found::Done);
            }
            // While this sync waited for the lock, the annotation may have changed and others may have applied the change.
            let latest = session.pod_now(&request_of(&journal.state.header.plan)?).map_err(cluster_error)?;
            if latest.networks != now.networks || latest.is_deleting != now.is_deleting {
                return Ok(Found::Changed);
            }
            drop(journal);
            LockedSync { locked, container_ref: self.container_ref, journals, report }.apply(work);
            let after = locked.state(self.container_ref)?;
            let written = write_pod_status(self.config, Some(&self.before), &after);
            let written = written.and_then(|()| {
                if is_settled && !is_written(&after, &now.status)? {
                    complete_pod_status(session, &after)
                } else {
                    Ok(())
                }
            });
            if let Err(error) = written {
                report.failed.push(Failed {
                    selection: None,
                    network: String::new(),
                    interface: None,
                    error: CniError::from(&error),
                });
            }
            Ok(Found::Done)
        })
    }
}

pub(super) fn cluster_error(error: crate::source::ClusterError) -> LiveError {
    LiveError::Plan(SourceError::from(error).into())
}

/// Whether a change did not finish, or an attachment of the container could not be undone.
fn is_owing(state: &State) -> bool {
    state.pending.is_some() || !owed(state).is_empty()
}

fn owed(state: &State) -> Vec<usize> {
    state.attachments().map(|(index, _)| index).filter(|index| owed_by(state, *index)).collect()
}

fn owed_by(state: &State, index: usize) -> bool {
    !state.is_attached(index) && state.steps[index].iter().any(|step| step.owed.is_some())
}

/// Whether a container has not changed between two readings of its journal: the attachments, those being changed, and the last
/// change are the same.
fn is_same(earlier: &State, later: &State) -> bool {
    let attachments = |state: &State| {
        let attachments =
            state.attachments().map(|(index, attachment)| (index, serde_json::to_string(attachment).ok()));
        attachments.collect::<Vec<_>>()
    };
    let is_changing =
        |state: &State| state.attachments().map(|(index, _)| state.is_changing(index)).collect::<Vec<_>>();
    is_changing(earlier) == is_changing(later)
        && earlier.history.last() == later.history.last()
        && attachments(earlier) == attachments(later)
}

fn network(attachment: &Attachment) -> Network {
    Network { network: attachment.reference.clone(), interface: attachment.ifname.clone() }
}

/// Says what would be done.
fn report_planned(report: &mut Synced, state: &State, work: &Work) {
    let of = |index: usize| network(&state.header.plan.attachments[index]);
    report.detached.extend(work.difference.detach.iter().map(|index| of(*index)));
    for one in &work.difference.update {
        match &one.planned {
            Ok(_) => report.updated.push(of(one.pair.attachment)),
            Err(error) => {
                report.failed.push(failed(one.pair.selection, of(one.pair.attachment), CniError::from(error)));
            }
        }
    }
    for one in &work.new {
        match &one.planned {
            Ok(attachment) => {
                report.detached.extend(one.replaced.map(of));
                report.attached.push(attached(one.selection, attachment, Vec::new()));
            }
            Err(error) => report.failed.push(unplanned(one, error)),
        }
    }
}

fn failed(selection: usize, network: Network, error: CniError) -> Failed {
    let Network { network, interface } = network;
    Failed { selection: Some(origin(selection)), network, interface: Some(interface), error }
}

fn unplanned(new: &New, error: &CniError) -> Failed {
    Failed {
        selection: Some(origin(new.selection)),
        network: new.network.clone(),
        interface: new.interface.clone(),
        error: error.clone(),
    }
}

fn attached(selection: usize, attachment: &Attachment, ips: Vec<String>) -> AttachedNow {
    let Network { network, interface } = network(attachment);
    AttachedNow { selection: origin(selection), network, interface, ips }
}

/// The work on a container that is locked.
struct LockedSync<'a, 'b> {
    locked: &'a LockedContainer<'a>,
    container_ref: ContainerRef<'a>,
    journals: &'a ContainerJournals,
    report: &'b mut Synced,
}

impl LockedSync<'_, '_> {
    /// Detaches first, because that may free names, addresses, ports and devices.
    fn apply(&mut self, work: Work) {
        let mut going = work.difference.detach;
        let is_planned = |new: &&New| new.planned.is_ok();
        going.extend(work.new.iter().filter(is_planned).filter_map(|new| new.replaced));
        going.sort_unstable();
        let mut staying = Vec::new();
        for index in going.into_iter().rev() {
            if !self.detach(index) {
                staying.push(index);
            }
        }
        self.update_all(work.difference.update);
        for new in work.new {
            match &new.planned {
                Ok(_) if new.replaced.is_some_and(|index| staying.contains(&index)) => {}
                Ok(attachment) => self.attach(new.selection, attachment),
                Err(error) => self.report.fail_to_attach(unplanned(&new, error)),
            }
        }
    }

    /// The journal. A change that did not finish is settled first, except that attachments may still be in the state of being
    /// detached.
    fn journal(&self) -> Result<Journal, LiveError> {
        let mut journal = find::journal(self.locked.container, self.container_ref)?;
        if journal.state.pending.as_ref().is_some_and(|one| !one.attaching.is_empty() || one.redone.is_some()) {
            self.locked.settle(&mut journal)?;
        }
        Ok(journal)
    }

    fn detach(&mut self, index: usize) -> bool {
        let network = network(&self.journals.state.header.plan.attachments[index]);
        let outcome = self.journal().and_then(|journal| {
            let index = find::attachment(&journal.state, &network.interface)?;
            self.locked.detach(journal, &[index])
        });
        match outcome {
            Ok(()) => {
                self.report.notices.push(Notice::detached(&network.network, &network.interface));
                self.report.detached.push(network);
                true
            }
            Err(error) => {
                let Network { network, interface } = network;
                let error = CniError::from(&error);
                self.report.fail_to_detach(Failed { selection: None, network, interface: Some(interface), error });
                false
            }
        }
    }

    /// Updates attachments. One that takes a host port comes after the one that frees it. If they wait for one another, the first
    /// gives up its ports meanwhile.
    fn update_all(&mut self, updates: Vec<Changed>) {
        let attachments = &self.journals.state.header.plan.attachments;
        let mut mappings: BTreeMap<usize, Vec<PortMapping>> = updates
            .iter()
            .map(|one| (one.pair.attachment, ports::mappings(&attachments[one.pair.attachment])))
            .collect();
        let mut left = VecDeque::from(updates);
        let mut deferred = 0;
        while let Some(next) = left.pop_front() {
            let held = mappings.iter().filter(|(index, _)| **index != next.pair.attachment);
            let held: Vec<&PortMapping> = held.flat_map(|(_, mappings)| mappings).collect();
            let wanted = next.planned.as_ref().map(|planned| ports::mappings(&planned.attachment)).unwrap_or_default();
            let waits = wanted.iter().any(|mapping| held.iter().any(|held| mapping.overlaps(held)));
            if !waits {
                mappings.remove(&next.pair.attachment);
                self.update(next);
                deferred = 0;
            } else if deferred < left.len() {
                left.push_back(next);
                deferred += 1;
            } else {
                mappings.insert(next.pair.attachment, Vec::new());
                let next = self.give_up_ports(next);
                left.push_back(next);
                deferred = 0;
            }
        }
    }

    /// Removes the port mappings of an attachment that gets others afterwards.
    fn give_up_ports(&self, changed: Changed) -> Changed {
        let Changed { pair, planned } = changed;
        let Ok(wanted) = planned else { return Changed { pair, planned } };
        let ifname = &self.journals.state.header.plan.attachments[pair.attachment].ifname;
        let none = Update { port_mappings: Some(Vec::new()), ..Update::default() };
        let without = || -> Result<Attachment, LiveError> {
            let journal = self.journal()?;
            let index = find::attachment(&journal.state, ifname)?;
            let planned = plan::update::update(&journal.state.header.plan.attachments[index], &none)?;
            self.locked
                .reported("update", journal, |means, journal| transaction::update(means, journal, index, &planned))?;
            let mut state = self.locked.state(self.container_ref)?;
            Ok(state.header.plan.attachments.swap_remove(index))
        };
        // If it keeps its ports, the update says what is wrong.
        let planned = match (without(), &wanted.attachment.asked) {
            (Ok(attachment), Some(asked)) => plan::update::ask(&attachment, asked),
            _ => Ok(wanted),
        };
        Changed { pair, planned }
    }

    fn update(&mut self, changed: Changed) {
        let Changed { pair, planned } = changed;
        let network = network(&self.journals.state.header.plan.attachments[pair.attachment]);
        let outcome = planned.map_err(LiveError::from).and_then(|planned| {
            let journal = self.journal()?;
            let index = find::attachment(&journal.state, &network.interface)?;
            let locked = self.locked;
            ports::refuse_taken(locked.store, locked.container, &journal.state, index, &planned)?;
            shared::refuse_for_update(locked.container, &journal.state, index, &planned)?;
            refuse_missing_plugins(&journal.state.header.plan, &planned.attachment, locked.tools.finder)?;
            locked.reported("update", journal, |means, journal| transaction::update(means, journal, index, &planned))
        });
        match outcome {
            Ok(_) => self.report.updated.push(network),
            Err(error) => self.report.fail_to_attach(failed(pair.selection, network, CniError::from(&error))),
        }
    }

    fn attach(&mut self, selection: usize, attachment: &Attachment) {
        match self.attached(attachment) {
            Ok(ips) => {
                let one = attached(selection, attachment, ips);
                self.report.notices.push(Notice::attached_with(&one.network, &one.interface, &one.ips));
                self.report.attached.push(one);
            }
            Err(error) => {
                let failed = failed(selection, network(attachment), CniError::from(&error));
                self.report.fail_to_attach(failed);
            }
        }
    }

    /// Attaches, and returns the addresses.
    fn attached(&self, attachment: &Attachment) -> Result<Vec<String>, LiveError> {
        let (journal, locked) = (self.journal()?, self.locked);
        let ifname = &attachment.ifname;
        let state = &journal.state;
        let is_taken =
            state.attachments().any(|(index, one)| one.ifname == *ifname && !state.is_failed_optional(index));
        if is_taken {
            let container_id = locked.container.id().to_owned();
            return Err(LiveError::Taken { container_id, ifname: ifname.clone() });
        }
        let new = [attachment.clone()];
        ports::refuse_taken_by_new(locked.store, locked.container, &journal.state, &new)?;
        shared::refuse_with_new(locked.container, &journal.state, &new)?;
        let mut plan = journal.state.header.plan.clone();
        plan.attachments = new.to_vec();
        let mut netns = open_namespace(&plan)?;
        refuse_taken_names(&plan, netns.as_mut())?;
        drop(netns);
        locked.reported("attach", journal, |means, journal| transaction::attach_more(means, journal, new.to_vec()))?;
        let state = locked.state(self.container_ref)?;
        let results = transaction::results(&state).map_err(ChangeError::Result)?;
        let own = results.into_iter().find(|(index, _)| state.header.plan.attachments[*index].ifname == *ifname);
        let ips = own.map(|(_, result)| result.ips).unwrap_or_default();
        Ok(ips.iter().map(|ip| ip.address.to_string()).collect())
    }
}

impl LockedContainer<'_> {
    /// Undoes attachments.
    fn detach(&self, journal: Journal, indexes: &[usize]) -> Result<(), LiveError> {
        shared::refuse_with_rest(self.container, &journal.state, indexes)?;
        self.reported("detach", journal, |means, journal| transaction::detach(means, journal, indexes))?;
        Ok(())
    }

    /// What the journal says now.
    fn state(&self, container_ref: ContainerRef<'_>) -> Result<State, LiveError> {
        find::look(self.container, container_ref)
    }
}
