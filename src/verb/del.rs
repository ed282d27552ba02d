//! DEL: undo what ADD did, from its journal alone.

use std::os::fd::OwnedFd;

use super::context::Context;
use super::error::Error;
use crate::config::Config;
use crate::plan::build::{Candidate, Planned};
use crate::plan::{self, Plan};
use crate::request::Request;
use crate::runtime::StepError;
use crate::source;
use crate::transaction::{Container, Journal, Opened, Sharing, Store, StoreError, undo};

/// Detaches the container from all that ADD attached it to.
pub(super) fn del(request: &Request, config: &Config) -> Result<(), Error> {
    let context = Context::new(request, config);
    let store = match Store::open_existing(&config.state_dir, Sharing::Shared, context.deadline)? {
        Some(store) => Some(store),
        None => if_writable(Store::open(&config.state_dir, Sharing::Shared, context.deadline))?,
    };
    // Locked even if there is nothing to read: an ADD that comes meanwhile has to wait.
    let container = match &store {
        Some(store) => match store.existing_container(&request.container_id, context.deadline)? {
            Some(container) => Some(container),
            None => if_writable(store.container(&request.container_id, context.deadline))?,
        },
        None => None,
    };
    let (Some(store), Some(container)) = (store, container) else {
        return best_effort(&context, request, config, Vec::new());
    };
    let outcome = del_locked(&context, request, config, &store, &container);
    container.tidy();
    outcome
}

/// The part under the container's lock.
fn del_locked(
    context: &Context,
    request: &Request,
    config: &Config,
    store: &Store,
    container: &Container,
) -> Result<(), Error> {
    let locks = store.lock_handle().and_then(|all| Ok(vec![all, container.lock_handle()?])).map_err(Error::Answer)?;
    match Journal::open(container, &request.ifname)? {
        Opened::Journal(journal) => replay(context, request, container, *journal, locks),
        Opened::None | Opened::Unborn => best_effort(context, request, config, locks),
        Opened::Corrupt(reason) => {
            let set_aside = Journal::set_aside(container, &request.ifname)?;
            let failures = failures_by_configuration(context, request, config, locks);
            Err(Error::Corrupt { reason, set_aside, failures })
        }
    }
}

/// Without a journal there is nothing to lose by not being able to make a place for one.
fn if_writable<T>(made: Result<T, StoreError>) -> Result<Option<T>, StoreError> {
    match made {
        Ok(made) => Ok(Some(made)),
        Err(StoreError::Io { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Undoes what the journal tells of, with what it tells.
fn replay(
    context: &Context,
    request: &Request,
    container: &Container,
    mut journal: Journal,
    locks: Vec<OwnedFd>,
) -> Result<(), Error> {
    let plan = &journal.state.header.plan;
    let launcher = context.launcher(locks);
    let finder = context.finder_for(&plan.path);
    let netns = journal.state.netns_for_del(&request.netns);
    let failures = undo(&mut journal, context.tools(&finder, &launcher), &netns);
    if !failures.is_empty() {
        return Err(Error::Incomplete(failures));
    }
    Journal::remove(container, &request.ifname)?;
    tracing::info!(
        container = request.container_id,
        network = journal.state.header.plan.network,
        interface = request.ifname,
        micros = context.began.elapsed().as_micros(),
        "detached"
    );
    Ok(())
}

/// There is no journal: as far as Braid knows nothing is attached. Plugins are told all the same, by the
/// configuration, in case its state directory was lost.
fn best_effort(context: &Context, request: &Request, config: &Config, locks: Vec<OwnedFd>) -> Result<(), Error> {
    let failures = failures_by_configuration(context, request, config, locks);
    if failures.is_empty() { Ok(()) } else { Err(Error::BestEffort(failures)) }
}

fn failures_by_configuration(
    context: &Context,
    request: &Request,
    config: &Config,
    locks: Vec<OwnedFd>,
) -> Vec<(String, StepError)> {
    let plan = match plan_by_configuration(request, config) {
        Ok(plan) => plan,
        Err(error) => {
            // Nothing can be done, now or later: an error would only keep the container from being removed.
            tracing::warn!(container = request.container_id, network = config.name, "nothing to delete: {error}");
            return Vec::new();
        }
    };
    let launcher = context.launcher(locks);
    let tools = context.tools(&context.finder, &launcher);
    let mut failures = Vec::new();
    for attachment in plan.attachments.iter().rev() {
        let missing = attachment.network.plugins.iter().find_map(|p| context.finder.find(p.plugin_type()).err());
        if let Some(error) = missing {
            tracing::warn!(container = request.container_id, "{} is not deleted: {error}", attachment.label());
            continue;
        }
        let chain = tools.chain(attachment);
        let parameters = attachment.parameters(&request.container_id, &request.netns);
        failures.extend(chain.del(&parameters, None).into_iter().map(|error| (attachment.label(), error)));
    }
    failures
}

fn plan_by_configuration(request: &Request, config: &Config) -> Result<Plan, Error> {
    let gathered = source::gather(config, request)?;
    // Whether the container may do without an attachment is of no matter when it goes.
    let candidates =
        gathered.candidates.into_iter().map(|candidate| Candidate { optional: false, ..candidate }).collect();
    let Planned { plan, .. } = plan::build(config, request, candidates, &gathered.dropped)?;
    Ok(plan)
}
