//! DEL: undo what ADD did, from its journal alone.

use super::context::Context;
use super::error::Error;
use crate::config::Config;
use crate::plan::build::{Candidate, Planned};
use crate::plan::{self, Plan};
use crate::request::Request;
use crate::runtime::{Attachment, Chain, Exec, StepError};
use crate::source;
use crate::transaction::{Container, Journal, Opened, Sharing, Store, undo};

/// Detaches the container from all that ADD attached it to.
pub(super) fn del(request: &Request, config: &Config) -> Result<(), Error> {
    let context = Context::new(request, config);
    let store = Store::open_existing(&config.state_dir, Sharing::Shared, context.deadline)?;
    let container = match &store {
        Some(store) => store.existing_container(&request.container_id, context.deadline)?,
        None => None,
    };
    let (Some(store), Some(container)) = (store, container) else {
        return best_effort(&context, request, config);
    };
    let outcome = match Journal::open(&container, &request.ifname)? {
        Opened::Journal(journal) => replay(&context, request, &store, &container, *journal),
        Opened::None => best_effort(&context, request, config),
        Opened::Corrupt(reason) => {
            let set_aside = Journal::set_aside(&container, &request.ifname)?;
            let failures = failures_by_configuration(&context, request, config);
            Err(Error::Corrupt { reason, set_aside, failures })
        }
    };
    container.tidy();
    outcome
}

/// Undoes what the journal tells of, with what it tells.
fn replay(
    context: &Context,
    request: &Request,
    store: &Store,
    container: &Container,
    mut journal: Journal,
) -> Result<(), Error> {
    let locks = store.lock_handle().and_then(|all| Ok(vec![all, container.lock_handle()?]));
    let launcher = context.launcher(locks.map_err(Error::Answer)?);
    let finder = context.finder_for(&journal.state.header.plan.path);
    let failures = undo(&mut journal, context.tools(&finder, &launcher), &request.netns);
    if !failures.is_empty() {
        return Err(Error::Incomplete(failures));
    }
    launcher.rest();
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
fn best_effort(context: &Context, request: &Request, config: &Config) -> Result<(), Error> {
    let failures = failures_by_configuration(context, request, config);
    if failures.is_empty() { Ok(()) } else { Err(Error::BestEffort(failures)) }
}

fn failures_by_configuration(context: &Context, request: &Request, config: &Config) -> Vec<(String, StepError)> {
    let plan = match plan_by_configuration(request, config) {
        Ok(plan) => plan,
        Err(error) => {
            // Nothing can be done, now or later: an error would only keep the container from being removed.
            tracing::warn!(container = request.container_id, network = config.name, "nothing to delete: {error}");
            return Vec::new();
        }
    };
    let launcher = context.launcher(Vec::new());
    let mut failures = Vec::new();
    for attachment in plan.attachments.iter().rev() {
        let missing = attachment.network.plugins.iter().find_map(|p| context.finder.find(p.plugin_type()).err());
        if let Some(error) = missing {
            tracing::warn!(container = request.container_id, "{} is not deleted: {error}", attachment.label());
            continue;
        }
        let chain =
            Chain { network: &attachment.network, finder: &context.finder, exec: &launcher, limits: context.limits() };
        let parameters = Attachment {
            container_id: request.container_id.clone(),
            netns: request.netns.clone(),
            ifname: attachment.ifname.clone(),
            args: attachment.args.clone(),
            capability_args: attachment.capability_args.clone(),
            plugin_args: attachment.plugin_args.clone(),
        };
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
