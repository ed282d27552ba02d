//! What the state directory of a node says.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use super::pool::{Pool, Pools};
use crate::transaction::journal::State;
use crate::transaction::{Parked, Sharing, Store, StoreError, look_at_debt};

/// What there is on a node at one moment.
#[derive(Debug, Default)]
pub struct Node {
    /// How many attachments each network has.
    pub attachments: BTreeMap<String, u64>,
    /// The number of containers with something owed: in one of their journals, or as a parked debt.
    pub debts: u64,
    /// How long the oldest of these has been owed.
    pub oldest_debt: Duration,
    /// The number of journals that were set aside as unusable.
    pub set_aside: u64,
    /// The pools of `host-local`, by the name of the network.
    pub pools: BTreeMap<String, Pool>,
}

impl Node {
    /// Reads the metrics of a node. Does not wait for locks of other calls. `conf_dir` is the directory of network configurations.
    ///
    /// # Errors
    /// When the state directory is there and cannot be read.
    pub fn read(state_dir: &Path, conf_dir: &Path, deadline: Instant) -> Result<Self, StoreError> {
        let mut node = Self::default();
        let mut pools = Pools::default();
        pools.of_directory(conf_dir);
        if let Some(store) = Store::open_existing(state_dir, Sharing::Shared, deadline)? {
            for id in store.container_ids()? {
                // A container that is removed meanwhile is not an error, and a problem with one container does not hide the others.
                if let Err(error) = node.container(&store, &id, &mut pools) {
                    tracing::warn!(container = id, "its journals were not counted: {error}");
                }
            }
            for id in store.debts()? {
                match look_at_debt(&store, &id) {
                    Ok(Some(Parked::Journal(journal))) => node.debt(&journal.state),
                    Ok(None) => {}
                    Ok(Some(Parked::Unusable(_))) | Err(_) => node.set_aside += 1,
                }
            }
            node.set_aside += u64::try_from(store.not_directories()?.len()).unwrap_or(u64::MAX);
        }
        node.pools = pools.counted();
        Ok(node)
    }

    fn container(&mut self, store: &Store, id: &str, pools: &mut Pools) -> Result<(), StoreError> {
        let Some(container) = store.unlocked_container(id)? else { return Ok(()) };
        let entries = container.entries()?;
        self.set_aside += u64::try_from(entries.set_aside.len()).unwrap_or(u64::MAX);
        for ifname in entries.ifnames {
            match State::peek(&container, &ifname)? {
                Some(Ok(state)) => {
                    self.attached(&state);
                    state.attachments().for_each(|(_, attachment)| pools.of_network(&attachment.network));
                }
                Some(Err(_)) => self.set_aside += 1,
                None => {}
            }
        }
        Ok(())
    }

    fn attached(&mut self, state: &State) {
        for (_, attachment) in state.attached() {
            *self.attachments.entry(attachment.reference.clone()).or_default() += 1;
        }
        if state.steps.iter().flatten().any(|step| step.owed.is_some()) {
            self.debt(state);
        }
    }

    fn debt(&mut self, state: &State) {
        self.debts += 1;
        self.oldest_debt = self.oldest_debt.max(state.failing_for().unwrap_or_default());
    }
}
