//! ADD: attach, or leave nothing.

use std::borrow::Cow;
use std::time::{Duration, Instant};

use super::context::Context;
use super::error::Error;
use super::preflight::{
    forgo_without_plugins, names_held_by_others, open_namespace, preflight, refuse_taken_names, refuse_unfit_namespace,
};
use crate::answer;
use crate::cni::AddResult;
use crate::config::{Config, Problems, ResultMode};
use crate::merge::merge;
use crate::plan::{self, Asked, Attachment, Plan, Position};
use crate::request::Request;
use crate::runtime::{Exec, deadline};
use crate::source::kubernetes::{self, Attached, Claimed, Notice, Session};
use crate::source::pod::Pod;
use crate::source::{self, Gathered, SourceError};
use crate::transaction::{
    Container, Failure, Journal, Opened, Sharing, Store, Transaction, absent, attach, read_device_info,
    set_default_routes, undo,
};

/// How long an ADD waits for the readiness file.
const READINESS: Duration = Duration::from_secs(45);

/// Attaches the container to its networks and answers with the result.
pub(super) fn add(context: &Context, request: &Request, config: &Config) -> Result<(), Error> {
    refuse_unfit_namespace(request)?;
    wait_until_ready(context, config)?;
    let cluster = Session::open(config, request, context.deadline).map_err(SourceError::from)?;
    let (request, gathered, cluster) = match cluster {
        Some(session) => {
            let (request, gathered, pod) = session.gather(config, request)?;
            (Cow::Owned(request), gathered, Some((session, pod)))
        }
        None => (Cow::Borrowed(request), source::gather(config, request)?, None),
    };
    let request: &Request = &request;

    let (plan, results) = {
        let store = Store::open(&config.state_dir, Sharing::Shared, context.deadline)?;
        let container = store.container(&request.container_id, context.deadline)?;
        let planned_and_added = || {
            let plan = make_plan(context, request, config, gathered, &container)?;
            let call = Add { context, request, config, plan: &plan, cluster: cluster.as_ref() };
            let results = call.add_locked(&store, &container)?;
            Ok::<_, Error>((plan, results))
        };
        planned_and_added().inspect_err(|_| container.tidy())?
    };
    if let Some((session, pod)) = &cluster {
        report(config, session, pod, &plan, &results);
    }
    Ok(())
}

/// Decides what to attach and under which interface names. The container is locked, so the names are still free when they are used.
fn make_plan(
    context: &Context,
    request: &Request,
    config: &Config,
    gathered: Gathered,
    container: &Container,
) -> Result<Plan, Error> {
    let Gathered { candidates, dropped, warnings } = gathered;
    let taken = names_held_by_others(container, &request.ifname)?;
    let asked = Asked { candidates, dropped: &dropped, taken: &taken };
    let mut problems = Problems::new();
    let planned = plan::build(config, request, asked, &mut problems);
    let mut planned = problems.or_first(planned)?;
    for warning in warnings.iter().chain(&planned.warnings) {
        tracing::warn!("{warning}");
    }
    forgo_without_plugins(&mut planned.plan, &context.finder);
    preflight(&planned.plan, &context.finder)?;
    Ok(planned.plan)
}

/// Writes the status of the pod's claims and an event about its attachments, after the runtime has its answer. A failure does not
/// affect the pod.
fn report(config: &Config, session: &Session, pod: &Pod, plan: &Plan, results: &[Option<AddResult>]) {
    let attachments = || plan.attachments.iter().zip(results);
    if config.kubernetes.claim_status {
        let claimed = |(one, result): (&'_ Attachment, &'_ Option<AddResult>)| {
            Some(Claimed { device: one.allocated.clone()?, ifname: one.ifname.clone(), result: result.clone() })
        };
        session.write_claim_status(pod, &plan.netns, &attachments().filter_map(claimed).collect::<Vec<_>>());
    }
    if config.kubernetes.events {
        let notice = |(one, result): (&Attachment, &Option<AddResult>)| {
            Some(Notice::attached(&one.reference, &one.ifname, result.as_ref()?))
        };
        session.post_events(pod, &attachments().filter_map(notice).collect::<Vec<_>>());
    }
}

/// Waits for the file that exists when the primary network is ready.
fn wait_until_ready(context: &Context, config: &Config) -> Result<(), Error> {
    let Some(file) = &config.readiness_file else { return Ok(()) };
    let until = context.deadline.min(deadline::from(context.began, READINESS));
    while !file.exists() {
        if Instant::now() >= until {
            return Err(Error::NotReadyYet { file: file.clone(), waited: context.began.elapsed() });
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

/// An ADD whose plan is made.
struct Add<'a> {
    context: &'a Context,
    request: &'a Request,
    config: &'a Config,
    plan: &'a Plan,
    cluster: Option<&'a (Session, Pod)>,
}

impl Add<'_> {
    /// The part of ADD that needs the container's lock. Returns the result of each attachment.
    fn add_locked(&self, store: &Store, container: &Container) -> Result<Vec<Option<AddResult>>, Error> {
        let Self { context, plan, .. } = *self;
        let locks = vec![store.lock_handle(), container.lock_handle()];
        let launcher = context.launcher(locks);
        let tools = context.tools(&context.finder, &launcher);
        settle_earlier(context, plan, store, container, &launcher)?;

        let mut netns = open_namespace(plan)?;
        let identity = netns.as_ref().and_then(|netns| netns.identity().ok());
        let transaction = Transaction::begin(store, container, plan, identity, tools)?;
        // The plan is being synced meanwhile.
        if let Err(error) = refuse_taken_names(plan, netns.as_mut()) {
            transaction.abandon();
            return Err(error);
        }
        // Close the namespace: an open descriptor would keep it alive if it is deleted meanwhile.
        drop(netns);
        transaction
            .run(|tx| {
                let mut incoming = self.config.prev_result.clone();
                let mut results = attach(tx)?;
                set_default_routes(tx, &mut results, incoming.as_mut())?;
                self.write_status(tx, incoming.as_ref(), &results)?;
                launcher.dismiss_idle();
                let answer = self.answer(incoming, &results).to_raw(plan.version);
                let attached = plan.attachments.iter().zip(&results);
                let attached = attached.filter_map(|(one, result)| Some((one.ifname.as_str(), result.as_ref()?)));
                let absent = absent(&plan.netns, attached);
                tx.complete(&answer, absent, context.began.elapsed())?;
                answer::write(&answer).map_err(Failure::Answer)?;
                Ok(results)
            })
            .map_err(Error::from)
    }

    /// Writes the pod's network status, if Kubernetes is configured.
    fn write_status(
        &self,
        tx: &Transaction<'_>,
        incoming: Option<&AddResult>,
        results: &[Option<AddResult>],
    ) -> Result<(), Failure> {
        let Some((session, pod)) = self.cluster else { return Ok(()) };
        tx.write_queued()?;
        let plan = self.plan;
        let before =
            incoming.map(|result| Attached { network: &plan.network, ifname: &plan.ifname, result, device_info: None });
        let own = plan.attachments.iter().zip(results).filter_map(|(one, result)| {
            let device_info = one.device_info.as_ref().and_then(read_device_info);
            Some(Attached { network: &one.reference, ifname: &one.ifname, result: result.as_ref()?, device_info })
        });
        let attached: Vec<_> = before.into_iter().chain(own).collect();
        let status = kubernetes::network_status(&plan.netns, &attached);
        session.write_status(pod, &status).map_err(|error| Failure::Status((&error).into()))
    }

    /// The answer for the runtime: the merged result, or the primary attachment's part of it.
    fn answer(&self, incoming: Option<AddResult>, results: &[Option<AddResult>]) -> AddResult {
        let own = results.iter().flatten();
        // In Kubernetes, runtimes take every address of the answer for an address of the pod.
        let in_cluster = kubernetes::is_configured(self.config, self.request);
        let default = if in_cluster { ResultMode::Primary } else { ResultMode::Merged };
        match (self.config.result.unwrap_or(default), incoming) {
            (ResultMode::Merged, incoming) => merge(incoming.iter().chain(own)),
            (ResultMode::Primary, Some(incoming)) => incoming,
            (ResultMode::Primary, None) => {
                debug_assert_eq!(self.plan.position, Position::Primary);
                own.take(1).next().cloned().unwrap_or_default()
            }
        }
    }
}

/// Handles the journal of an earlier ADD of this interface: a complete ADD is refused a second time, and one that did not finish is
/// undone.
fn settle_earlier(
    context: &Context,
    plan: &Plan,
    store: &Store,
    container: &Container,
    launcher: &crate::runtime::Launcher,
) -> Result<(), Error> {
    let mut journal = match Journal::open(container, &plan.ifname)? {
        Opened::None | Opened::Unfinished => return Ok(()),
        Opened::Journal(journal) => journal,
        Opened::Corrupt(reason) => {
            let set_aside = store.set_aside(container, &plan.ifname)?;
            tracing::error!(
                container = plan.container_id,
                interface = plan.ifname,
                "an earlier journal of this attachment cannot be used ({reason}); it is now the debt {}, and what it records has \
                 to be cleaned up by hand",
                set_aside.display()
            );
            return Ok(());
        }
    };
    if journal.state.complete.is_some() && !journal.state.is_being_undone() {
        return Err(Error::AlreadyAttached {
            container_id: plan.container_id.clone(),
            ifname: plan.ifname.clone(),
            network: journal.state.header.plan.network.clone(),
        });
    }
    tracing::warn!(
        container = plan.container_id,
        interface = plan.ifname,
        "an earlier ADD of this attachment did not finish; it is undone first"
    );
    let finder = context.finder_for(&journal.state.header.plan.path);
    let netns = journal.state.netns_if_same();
    let failures = undo(&mut journal, context.tools(&finder, launcher), &netns);
    if !failures.is_empty() {
        return Err(Error::Unfinished(failures));
    }
    Ok(container.remove_journal(&plan.ifname)?)
}
