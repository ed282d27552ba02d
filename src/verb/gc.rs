//! GC: clean up attachments that the runtime no longer knows.

use std::collections::HashSet;

use super::context::Context;
use super::error::Error;
use super::takeover;
use crate::cni::ValidAttachment;
use crate::cni::Verb;
use crate::cni::error::code;
use crate::cni::{CniError, NetworkConfig};
use crate::config::{Config, InvalidConfig};
use crate::plan::concurrency::Needs;
use crate::runtime::{Chain, Launcher, together};
use crate::source::{self, SourceError};
use crate::transaction::journal::State;
use crate::transaction::multus::{Asking, MultusState};
use crate::transaction::{Container, Debt, Journal, Opened, Sharing, Store, remove_undone, undo};

/// How many interface names to protect on a container that something other than Braid has attached.
const PROTECTED_INTERFACES: usize = 32;

/// Undoes every attachment of this network that is not in the runtime's list, then runs GC of every known network with the
/// attachments that still exist. Continues after failures and reports all of them.
///
/// If the configuration is no longer valid, GC works from the journals alone and reports the configuration's error at the end.
pub(super) fn gc(context: &Context, config: &Config, unusable: Option<InvalidConfig>) -> Result<(), Error> {
    if !config.version.has_status_and_gc() {
        return Err(Error::NoSuchVerb { verb: Verb::Gc, version: config.version });
    }
    if config.disable_gc {
        return Ok(());
    }
    let mut sweep = Sweep::new(config);
    if let Some(store) = Store::open_existing(&config.state_dir, Sharing::Exclusive, context.deadline)? {
        let lock = store.lock_handle();
        let launcher = context.launcher(vec![lock]);
        sweep.journals(context, &store, &launcher)?;
        sweep.debts(context, &store, &launcher);
        sweep.left_by_multus(context, &launcher);
        sweep.networks(context, &launcher);
    } else {
        let launcher = context.launcher(Vec::new());
        sweep.left_by_multus(context, &launcher);
        sweep.networks(context, &launcher);
    }
    if let Some(error) = unusable {
        sweep.failures.push(CniError::new(code::INVALID_CONFIG, error.to_string()));
    }
    if sweep.failures.is_empty() { Ok(()) } else { Err(Error::Gc(sweep.failures)) }
}

/// One GC under way.
struct Sweep<'a> {
    config: &'a Config,
    /// The attachments in the runtime's list. `None` if the runtime gave no list; then no attachment is stale.
    valid: Option<HashSet<(&'a str, &'a str)>>,
    /// The existing attachments, each with the network's name.
    live: Vec<(String, ValidAttachment)>,
    /// The attachments that are in the runtime's list and in a journal, so that it is known what Braid made for them.
    recorded: HashSet<(String, String)>,
    networks: Vec<NetworkConfig>,
    /// Whether a journal could not be read. What it records may exist, so no plugin may clean up based on the other journals.
    has_unreadable_journal: bool,
    failures: Vec<CniError>,
}

impl<'a> Sweep<'a> {
    fn new(config: &'a Config) -> Self {
        let valid = config.valid_attachments.as_ref().map(|list| {
            list.iter().map(|attachment| (attachment.container_id.as_str(), attachment.ifname.as_str())).collect()
        });
        let known = source::every_network(config);
        let networks: Vec<NetworkConfig> = known.networks.into_iter().map(|(network, _)| network).collect();
        let errors: Vec<SourceError> = known.errors.into_iter().chain(known.forgiven).collect();
        for error in errors {
            // It may be a network that only the API server knows. If it was used, a journal records it.
            tracing::warn!(network = config.name, "no GC for a network that cannot be found here: {error}");
        }
        let (live, recorded, failures) = (Vec::new(), HashSet::new(), Vec::new());
        Self { config, valid, live, recorded, networks, has_unreadable_journal: false, failures }
    }

    fn journals(&mut self, context: &Context, store: &Store, launcher: &Launcher) -> Result<(), Error> {
        for id in store.container_ids()? {
            let container = match store.existing_container(&id, context.deadline) {
                Ok(Some(container)) => container,
                Ok(None) => continue,
                Err(error) => {
                    self.cannot_read(code::IO, &error);
                    continue;
                }
            };
            match container.entries() {
                Ok(entries) => {
                    for ifname in entries.ifnames {
                        self.journal(context, store, &container, &ifname, launcher);
                    }
                    if let Err(error) = store.move_set_aside(&container, &entries.set_aside) {
                        self.fail(code::IO, &error);
                    }
                }
                Err(error) => self.cannot_read(code::IO, &error),
            }
            container.tidy();
        }
        Ok(())
    }

    fn journal(&mut self, context: &Context, store: &Store, container: &Container, ifname: &str, launcher: &Launcher) {
        let mut journal = match Journal::open(container, ifname) {
            Ok(Opened::Journal(journal)) => journal,
            Ok(Opened::None | Opened::Unfinished) => return,
            Ok(Opened::Corrupt(reason)) => {
                let message = match store.set_aside(container, ifname) {
                    Ok(path) => format!("a journal cannot be used ({reason}); it is now {}", path.display()),
                    Err(error) => format!("a journal cannot be used ({reason}) nor set aside: {error}"),
                };
                return self.cannot_read(code::CLEANUP_INCOMPLETE, &message);
            }
            Err(error) => return self.cannot_read(code::IO, &error),
        };
        self.add_networks(&journal.state);
        if !self.is_stale(container.id(), ifname, &journal.state) {
            return self.record(&journal.state);
        }
        let finder = context.finder_for(&journal.state.header.plan.path);
        let netns = journal.state.netns_if_same();
        let failures = undo(&mut journal, context.tools(&finder, launcher), &netns);
        for failure in &failures {
            self.fail(code::CLEANUP_INCOMPLETE, &format!("container {:?}, {failure}", container.id()));
        }
        if failures.is_empty() {
            tracing::info!(container = container.id(), interface = ifname, "stale attachment cleaned up");
            if let Err(error) = remove_undone(store, container, &journal.state) {
                self.fail(code::IO, &error);
            }
        } else {
            // Attachments that are owed still need what the plugins hold for them.
            self.record(&journal.state);
        }
    }

    /// Tries the debts again. A debt that fails again is not a failure of GC, because it was reported when it was parked.
    fn debts(&mut self, context: &Context, store: &Store, launcher: &Launcher) {
        let debts = match store.debts() {
            Ok(debts) => debts,
            Err(error) => return self.fail(code::IO, &error),
        };
        for id in debts.iter().filter(|id| id.is_journal()) {
            let mut debt = match Debt::open(store, id, context.deadline) {
                Ok(Some(debt)) => debt,
                Ok(None) => continue,
                Err(error) => {
                    self.cannot_read(code::IO, &error);
                    continue;
                }
            };
            let Some(state) = debt.state().filter(|state| state.header.plan.network == self.config.name) else {
                continue;
            };
            self.add_networks(state);
            let finder = context.finder_for(&state.header.plan.path);
            let failures = debt.retry(context.tools(&finder, launcher));
            if failures.is_empty() {
                tracing::info!(container = id.container_id(), debt = %id, "a debt is paid");
                continue;
            }
            for failure in failures {
                tracing::warn!(container = id.container_id(), debt = %id, error = %failure, "a debt is still owed");
            }
            if let Some(state) = debt.state().cloned() {
                self.record_debt(&state);
            }
        }
    }

    /// Whether the runtime no longer knows an attachment of this network.
    fn is_stale(&self, container_id: &str, ifname: &str, state: &State) -> bool {
        state.header.plan.network == self.config.name
            && self.valid.as_ref().is_some_and(|valid| !valid.contains(&(container_id, ifname)))
    }

    /// Adds the networks of a journal, so that they get GC even if no configuration names them any more.
    fn add_networks(&mut self, state: &State) {
        let plan = &state.header.plan;
        for network in plan.attachments.iter().map(|attachment| &attachment.network) {
            let is_known = self.networks.iter().any(|known| known.name == network.name);
            if !is_known && plan.network == self.config.name {
                self.networks.push(network.clone());
            }
        }
    }

    /// Does the same as for journals with what Multus left.
    fn left_by_multus(&mut self, context: &Context, launcher: &Launcher) {
        let ids = match MultusState::container_ids(&self.config.multus_dir) {
            Ok(ids) => ids,
            Err(error) => return self.fail(code::IO, &format!("{}: {error}", self.config.multus_dir.display())),
        };
        for id in ids {
            // If the runtime has forgotten the container, its namespace is gone, or may be another one by now.
            let asking = Asking { container_id: &id, ifname: "eth0", netns: "", args: "" };
            let state = match takeover::read(self.config, asking) {
                Ok(Some(state)) => state,
                Ok(None) => continue,
                Err(error) => {
                    self.fail(code::IO, &error);
                    continue;
                }
            };
            let is_known = self.valid.as_ref().is_none_or(|valid| valid.iter().any(|(known, _)| *known == id));
            if !is_known {
                match takeover::undo(context, &state, &id, launcher) {
                    Ok(()) => {
                        takeover::forget_result(&self.config.name, &id);
                        continue;
                    }
                    Err(error) => self.fail(code::CLEANUP_INCOMPLETE, &format!("container {id:?}: {error}")),
                }
            }
            for left in &state.attachments {
                let one = ValidAttachment { container_id: id.clone(), ifname: left.parameters.ifname.clone() };
                self.live.push((left.network.name.clone(), one));
            }
        }
    }

    /// Records what exists, so that no plugin's GC cleans it up.
    fn record(&mut self, state: &State) {
        let plan = &state.header.plan;
        self.recorded.insert((plan.container_id.clone(), plan.ifname.clone()));
        self.record_debt(state);
    }

    /// Does the same for a debt, which does not count as recorded for the runtime's list.
    fn record_debt(&mut self, state: &State) {
        let plan = &state.header.plan;
        for (_, attachment) in state.attachments() {
            let valid = ValidAttachment { container_id: plan.container_id.clone(), ifname: attachment.ifname.clone() };
            self.live.push((attachment.network.name.clone(), valid));
        }
    }

    /// The attachments that a network's plugins must not clean up.
    fn valid_on(&self, network: &str) -> Vec<ValidAttachment> {
        let mut valid: Vec<ValidAttachment> =
            self.live.iter().filter(|(name, _)| name == network).map(|(_, one)| one.clone()).collect();
        let mut listed: HashSet<ValidAttachment> = valid.iter().cloned().collect();
        // Attachments in the runtime's list without a journal were made by other means, for example by another meta-plugin before
        // Braid. They may be on any network, under any of the numbered names.
        for (container_id, ifname) in self.valid.iter().flatten() {
            if self.recorded.contains(&((*container_id).to_owned(), (*ifname).to_owned())) {
                continue;
            }
            let by_place = (1..PROTECTED_INTERFACES).map(|index| format!("net{index}"));
            for ifname in std::iter::once((*ifname).to_owned()).chain(by_place) {
                let one = ValidAttachment { container_id: (*container_id).to_owned(), ifname };
                if listed.insert(one.clone()) {
                    valid.push(one);
                }
            }
        }
        valid
    }

    fn networks(&mut self, context: &Context, launcher: &Launcher) {
        // Without the runtime's list, plugins would clean up everything.
        if self.valid.is_none() {
            return;
        }
        if self.has_unreadable_journal {
            let message =
                "no GC was passed on to the networks, as a journal that cannot be read may record what they hold";
            return self.fail(code::CLEANUP_INCOMPLETE, &message);
        }
        let networks = std::mem::take(&mut self.networks);
        let tools = context.tools(&context.finder, launcher);
        let schedule = tools.schedule(Verb::Gc, networks.iter().map(Needs::of_network));
        let ahead = tools.ahead(schedule.at_once());
        let chain = |network| Chain { network, finder: tools.finder, exec: &ahead, limits: tools.limits, after: None };
        for (index, chain) in networks.iter().map(chain).enumerate().filter(|(_, chain)| chain.is_called(Verb::Gc)) {
            ahead.expect(index, &chain, Verb::Gc, 0..chain.network.plugins.len(), None);
        }
        let valid: Vec<_> = networks.iter().map(|network| self.valid_on(&network.name)).collect();
        let gc = |index: usize| chain(&networks[index]).gc(&valid[index]);
        together(&schedule, gc, |index, failures| {
            let network = &networks[index];
            for error in failures {
                let own = CniError::from(&error.source);
                let message = format!("network {:?}: {error}", network.name);
                self.failures.push(CniError { code: own.code, msg: message, details: own.details });
            }
        });
    }

    fn cannot_read(&mut self, code: u32, message: &dyn std::fmt::Display) {
        self.has_unreadable_journal = true;
        self.fail(code, message);
    }

    fn fail(&mut self, code: u32, message: &dyn std::fmt::Display) {
        self.failures.push(CniError::new(code, message.to_string()));
    }
}
