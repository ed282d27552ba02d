//! ADD: attach, or leave nothing.

use super::context::Context;
use super::error::Error;
use super::preflight::{preflight, refuse_taken_names};
use crate::answer;
use crate::cni::AddResult;
use crate::config::{Config, ResultMode};
use crate::merge::merge;
use crate::plan::{self, Plan, Position};
use crate::request::Request;
use crate::source;
use crate::transaction::{Container, Journal, Opened, Sharing, Store, Transaction, attach, set_default_routes, undo};

/// Attaches the container to its networks and answers with the result.
pub(super) fn add(request: &Request, config: &Config) -> Result<(), Error> {
    let context = Context::new(request, config);
    let gathered = source::gather(config, request)?;
    let planned = plan::build(config, request, gathered.candidates, &gathered.dropped)?;
    for warning in gathered.warnings.iter().chain(&planned.warnings) {
        tracing::warn!(container = request.container_id, network = config.name, "{warning}");
    }
    let plan = planned.plan;
    preflight(&plan, &context.finder)?;

    let store = Store::open(&config.state_dir, Sharing::Shared, context.deadline)?;
    let container = store.container(&request.container_id, context.deadline)?;
    let outcome = add_locked(&context, config, &plan, &store, &container);
    container.tidy();
    outcome
}

/// The part under the container's lock.
fn add_locked(
    context: &Context,
    config: &Config,
    plan: &Plan,
    store: &Store,
    container: &Container,
) -> Result<(), Error> {
    let locks = store.lock_handle().and_then(|all| Ok(vec![all, container.lock_handle()?]));
    let launcher = context.launcher(locks.map_err(Error::Answer)?);
    let tools = context.tools(&context.finder, &launcher);
    settle_earlier(context, plan, container, &launcher)?;
    refuse_taken_names(plan)?;

    let transaction = Transaction::begin(store, container, plan, tools, config.timeouts.rollback)?;
    transaction.run(|tx| {
        let mut incoming = config.prev_result.clone();
        let mut results = attach(tx, config.concurrency)?;
        set_default_routes(tx, &mut results, incoming.as_mut())?;
        let answer = answer_of(config, plan, incoming, &results);
        tx.complete(&answer, context.began.elapsed())?;
        answer::write_result(&answer, plan.version)
    })?;
    tracing::info!(
        container = plan.container_id,
        network = plan.network,
        interface = plan.ifname,
        attachments = plan.attachments.len(),
        micros = context.began.elapsed().as_micros(),
        "attached"
    );
    Ok(())
}

/// What the runtime gets: everything, or the primary's part.
fn answer_of(config: &Config, plan: &Plan, incoming: Option<AddResult>, results: &[Option<AddResult>]) -> AddResult {
    let own = results.iter().flatten();
    match (config.result.unwrap_or(ResultMode::Merged), incoming) {
        (ResultMode::Merged, incoming) => merge(incoming.iter().chain(own)),
        (ResultMode::Primary, Some(incoming)) => incoming,
        (ResultMode::Primary, None) => {
            debug_assert_eq!(plan.position, Position::Primary);
            own.take(1).next().cloned().unwrap_or_default()
        }
    }
}

/// What an earlier ADD of this interface has left: an attachment is refused a second time, and one that did not end is
/// undone.
fn settle_earlier(
    context: &Context,
    plan: &Plan,
    container: &Container,
    launcher: &crate::runtime::Launcher,
) -> Result<(), Error> {
    let mut journal = match Journal::open(container, &plan.ifname)? {
        Opened::None | Opened::Unborn => return Ok(()),
        Opened::Journal(journal) => journal,
        Opened::Corrupt(reason) => {
            let set_aside = Journal::set_aside(container, &plan.ifname)?;
            tracing::error!(
                container = plan.container_id,
                interface = plan.ifname,
                "an earlier journal of this attachment cannot be used ({reason}); it is now {}",
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
        "an earlier ADD of this attachment did not end; it is undone first"
    );
    let finder = context.finder_for(&journal.state.header.plan.path);
    let netns = journal.state.netns_if_same();
    let failures = undo(&mut journal, context.tools(&finder, launcher), &netns);
    if !failures.is_empty() {
        return Err(Error::Unfinished(failures));
    }
    Ok(Journal::remove(container, &plan.ifname)?)
}
