//! DEL: undo what ADD did, from its journal alone.

use std::path::Path;
use std::time::Duration;

use serde_json::value::RawValue;

use super::context::Context;
use super::error::Error;
use super::preflight::{is_namespace_of_another, names_held_by_others};
use super::takeover;
use crate::cni::{NetworkConfig, Verb};
use crate::config::{Config, InvalidConfig, Problems};
use crate::netns::has_no_process;
use crate::plan::concurrency::Part;
use crate::plan::{self, Asked, Attachment, Plan};
use crate::request::Request;
use crate::runtime::cache::{self, Cache, Cached};
use crate::runtime::{Chain, Exec, Launcher, Shares, StepError, chain, together};
use crate::source::{self, Candidate};
use crate::transaction::journal::State;
use crate::transaction::{Container, Journal, Opened, Sharing, Store, StoreError, Tools, remove_undone, undo};

/// Detaches the container from everything that ADD attached it to.
///
/// The journal that ADD wrote is enough for that, so DEL also works with a configuration that has become invalid. `config` then
/// only says where the journal is, and `unusable` is the reason.
pub(super) fn del(
    context: &Context,
    request: &Request,
    config: &Config,
    unusable: Option<InvalidConfig>,
) -> Result<(), Error> {
    if let Some(file) = config.readiness_file.as_ref().filter(|file| !file.exists()) {
        tracing::warn!(container = request.container_id, "the readiness file {} is not there", file.display());
    }
    let known = Store::open_existing(&config.state_dir, Sharing::Shared, context.deadline)?;
    let call = Del { context, request, config, unusable, has_state: known.is_some() };
    let store = match known {
        Some(store) => Some(store),
        None => if_writable(Store::open(&config.state_dir, Sharing::Shared, context.deadline))?,
    };
    // Locked even if there is nothing to read, because a concurrent ADD has to wait.
    let container = match &store {
        Some(store) => match store.existing_container(&request.container_id, context.deadline)? {
            Some(container) => Some(container),
            None => if_writable(store.container(&request.container_id, context.deadline))?,
        },
        None => None,
    };
    let (Some(store), Some(container)) = (store, container) else {
        return call.best_effort(&context.launcher(Vec::new()), &[]);
    };
    let locks = vec![store.lock_handle(), container.lock_handle()];
    let outcome = call.with_lock(&store, &container, &context.launcher(locks));
    container.tidy();
    outcome
}

/// Without a journal, DEL needs no place for one, so failing to make it does no harm.
fn if_writable<T>(made: Result<T, StoreError>) -> Result<Option<T>, StoreError> {
    match made {
        Ok(made) => Ok(Some(made)),
        Err(StoreError::Io { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// One DEL.
struct Del<'a> {
    context: &'a Context,
    request: &'a Request,
    config: &'a Config,
    unusable: Option<InvalidConfig>,
    /// Whether the state directory existed before.
    has_state: bool,
}

impl Del<'_> {
    fn with_lock(self, store: &Store, container: &Container, launcher: &Launcher) -> Result<(), Error> {
        let held = || names_held_by_others(container, &self.request.ifname);
        let damaged = match Journal::open(container, &self.request.ifname)? {
            Opened::Journal(journal) => return self.replay(store, container, *journal, launcher),
            Opened::None | Opened::Unfinished => None,
            Opened::Corrupt(reason) => Some((reason, store.set_aside(container, &self.request.ifname)?)),
        };
        let (held, request) = (held()?, self.request_without_foreign_namespace(store));
        let call = Del { request: &request, ..self };
        match damaged {
            None => call.best_effort(launcher, &held),
            Some((reason, set_aside)) => {
                Err(Error::Corrupt { reason, set_aside, failures: call.by_configuration(launcher, &held) })
            }
        }
    }

    /// The request for a DEL without a journal. The container may be long gone, and the path may lead to another container's
    /// namespace by now. In that case DEL acts without the namespace.
    fn request_without_foreign_namespace(&self, store: &Store) -> Request {
        let mut request = self.request.clone();
        if is_namespace_of_another(store, &request.container_id, &request.netns) {
            tracing::warn!(
                container = request.container_id,
                "{} is another container's namespace by now, and is left alone",
                request.netns
            );
            request.netns.clear();
        }
        request
    }

    /// Undoes what the journal records, with the configuration and the results in it.
    fn replay(
        self,
        store: &Store,
        container: &Container,
        mut journal: Journal,
        launcher: &Launcher,
    ) -> Result<(), Error> {
        let (context, request) = (self.context, self.request);
        let finder = context.finder_for(&journal.state.header.plan.path);
        let netns = journal.state.netns_for_del(&request.netns);
        let failing_for = journal.state.failing_for();
        let failures = undo(&mut journal, context.tools(&finder, launcher), &netns);
        if failures.is_empty() {
            let is_repair = journal.state.header.plan.is_repair;
            if !is_repair {
                launcher.dismiss_idle();
            }
            remove_undone(store, container, &journal.state)?;
            if is_repair {
                // The primary attachment belongs to another plugin, so it is deleted as if there were no journal.
                let request = Request { netns, ..request.clone() };
                let held = names_held_by_others(container, &request.ifname)?;
                return Del { request: &request, ..self }.best_effort(launcher, &held);
            }
            return Ok(());
        }
        let Some(failing_for) = failing_for.filter(|failing| self.gives_up(*failing, &journal.state, &netns)) else {
            return Err(Error::Incomplete(failures));
        };
        match store.park(container, &request.ifname) {
            Ok(debt) => {
                for failure in &failures {
                    tracing::error!(
                        container = request.container_id,
                        error = %failure,
                        "could not be undone for {:.0} s; it is now the debt {debt}, and the container can go",
                        failing_for.as_secs_f64()
                    );
                }
                Ok(())
            }
            Err(error) => {
                tracing::error!(container = request.container_id, "the debt cannot be parked: {error}");
                Err(Error::Incomplete(failures))
            }
        }
    }

    /// Whether to give up on what has not been undone for this long: the configuration allows that, and the container's namespace
    /// is gone. `netns` is the namespace's path, empty if it leads to another namespace by now.
    fn gives_up(&self, failing_for: Duration, state: &State, netns: &str) -> bool {
        self.config.debts.give_up_after.is_some_and(|after| failing_for >= after)
            && (netns.is_empty() || state.is_container_gone() || has_no_process(Path::new(netns)))
    }

    /// Without a journal, Braid knows of no attachment. Multus may have attached the container before Braid replaced it. Otherwise
    /// the plugins of the configuration get DEL, in case Braid's state directory was lost.
    fn best_effort(self, launcher: &Launcher, held: &[String]) -> Result<(), Error> {
        let Self { context, request, config, .. } = &self;
        if takeover::del(context, request, config, launcher)? {
            return Ok(());
        }
        let (has_state, container) = (self.has_state, self.request.container_id.as_str());
        let failures = self.by_configuration(launcher, held);
        if failures.is_empty() {
            return Ok(());
        }
        if has_state {
            // The state directory exists and knows of no attachment, so nothing can leak.
            for (label, error) in &failures {
                tracing::warn!(container, "no attachment is recorded, but {label}: {error}");
            }
            return Ok(());
        }
        Err(Error::BestEffort(failures))
    }

    /// Runs DEL of every plugin of the configuration, except for interfaces that are `held` by other networks. Returns the
    /// failures.
    fn by_configuration(self, launcher: &Launcher, held: &[String]) -> Vec<(String, StepError)> {
        let Self { context, request, config, .. } = self;
        let plan = match self.unusable.map_or_else(|| plan_by_configuration(request, config), |error| Err(error.into()))
        {
            Ok(plan) => plan,
            Err(error) => {
                // Nothing can be done, now or later. An error would only prevent the removal of the container.
                tracing::warn!(container = request.container_id, network = config.name, "nothing to delete: {error}");
                return Vec::new();
            }
        };
        let tools = context.tools(&context.finder, launcher);
        let is_there = |attachment: &Attachment| {
            let missing = attachment.network.plugins.iter().find_map(|p| context.finder.find(p.plugin_type()).err());
            if let Some(error) = &missing {
                tracing::warn!(container = request.container_id, "{} is not deleted: {error}", attachment.label());
            }
            missing.is_none()
        };
        let is_ours = |attachment: &Attachment| !held.contains(&attachment.ifname);
        let attachments: Vec<usize> = (0..plan.attachments.len())
            .rev()
            .filter(|index| is_ours(&plan.attachments[*index]) && is_there(&plan.attachments[*index]))
            .collect();
        let parts = tools.whole_parts(&plan, &attachments);
        let schedule = tools.schedule_parts(Verb::Del, &parts);
        let ahead = tools.ahead(schedule.at_once());
        for Part { attachment: index, steps, .. } in &parts {
            let attachment = &plan.attachments[*index];
            let parameters = attachment.parameters(&request.container_id, &request.netns);
            ahead.expect(*index, &tools.chain(attachment), Verb::Del, steps.clone().rev(), Some(&parameters));
        }
        let shares = Shares::new(tools.limits, parts.len());
        let mut failures = Vec::new();
        let del = |part: usize| {
            let tools = Tools { exec: &ahead, limits: shares.next(), ..tools };
            del_by_configuration(request, &plan.attachments[parts[part].attachment], tools)
        };
        together(&schedule, del, |_, failed| failures.extend(failed));
        failures
    }
}

/// Runs DEL of every plugin of an attachment without a journal. Returns the failures, with the attachment's name.
fn del_by_configuration(request: &Request, attachment: &Attachment, tools: Tools<'_>) -> Vec<(String, StepError)> {
    let chain = tools.chain(attachment);
    let parameters = attachment.parameters(&request.container_id, &request.netns);
    let cached = CachedAttachment::of_runtime(&request.container_id, attachment);
    let failed = match &cached {
        Some(cached) => {
            Chain { network: &cached.network, ..chain }.del(&cached.parameters(parameters), cached.result())
        }
        None => chain.del(&parameters, None),
    };
    if let Some(cached) = cached.filter(|_| failed.is_empty()) {
        cached.forget(&request.container_id, attachment);
    }
    failed.into_iter().map(|error| (attachment.label(), error)).collect()
}

/// An attachment in libcni's cache that the runtime made itself, before Braid managed the network. Without the result of ADD, some
/// plugins leave resources behind.
struct CachedAttachment {
    cache: Cache,
    entry: Cached,
    network: NetworkConfig,
}

impl CachedAttachment {
    fn of_runtime(container_id: &str, attachment: &Attachment) -> Option<Self> {
        let cache = Cache::new(Path::new(cache::DEFAULT_DIR));
        let entry = cache.load(&attachment.network.name, container_id, &attachment.ifname).ok()??;
        let network = entry.network().ok()?;
        // The cached attachment may be the one of Braid itself, if its network has the same name.
        let types =
            |network: &NetworkConfig| network.plugins.iter().map(|plugin| plugin.plugin_type().to_owned()).collect();
        let (then, now): (Vec<_>, Vec<_>) = (types(&network), types(&attachment.network));
        (then == now).then_some(Self { cache, entry, network })
    }

    /// The parameters of ADD, with the current namespace.
    fn parameters(&self, now: chain::Attachment) -> chain::Attachment {
        chain::Attachment { netns: now.netns, ..self.entry.attachment() }
    }

    fn result(&self) -> Option<&RawValue> {
        self.entry.result.as_deref()
    }

    fn forget(&self, container_id: &str, attachment: &Attachment) {
        let network = &attachment.network.name;
        if let Err(error) = self.cache.remove(network, container_id, &attachment.ifname) {
            tracing::warn!(container = container_id, network, "its cached result stays: {error}");
        }
    }
}

fn plan_by_configuration(request: &Request, config: &Config) -> Result<Plan, Error> {
    let gathered = source::gather(config, request)?;
    // On DEL, optional attachments are undone like the others.
    let candidates =
        gathered.candidates.into_iter().map(|one| one.map(|candidate| Candidate { optional: false, ..candidate }));
    let mut problems = Problems::new();
    // Interfaces that other networks hold are left out by their names. So names are given as if the container had no other network.
    let asked = Asked { candidates: candidates.collect(), dropped: &gathered.dropped, taken: &[] };
    let planned = plan::build(config, request, asked, &mut problems);
    Ok(problems.or_first(planned)?.plan)
}
