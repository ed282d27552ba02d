//! Why the executable must stay on the node: existing attachments, and records of them that cannot be read.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::places::Places;
use super::primary::calling_braid;
use crate::cli::CliError;
use crate::runtime::deadline;
use crate::transaction::journal::State;
use crate::transaction::store::debts;
use crate::transaction::{DebtId, Sharing, Store};

/// How long to wait for another call's lock.
const LOCK_TIMEOUT: Duration = Duration::from_secs(5);

/// Detaches a container that is gone. An error is the reason why it is still attached.
pub(super) type Detach<'a> = dyn FnMut(&str, &State) -> Result<(), String> + 'a;

/// What keeps the executable on the node.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Left {
    /// Containers that are attached.
    pub(super) attached: Vec<String>,
    /// Files that record attachments and cannot be read, with the reason. Somebody has to clean up after them by hand.
    unreadable: Vec<String>,
    /// How many debts are parked.
    debts: usize,
    /// Configurations that call Braid, apart from its own.
    configurations: Vec<PathBuf>,
}

impl Left {
    pub(super) fn is_empty(&self) -> bool {
        self.attached.is_empty() && self.unreadable.is_empty() && self.debts == 0 && self.configurations.is_empty()
    }
}

impl fmt::Display for Left {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let attached = match self.attached.len() {
            0 => None,
            1 => Some("1 container is still attached by it".to_owned()),
            many => Some(format!("{many} containers are still attached by it")),
        };
        let unreadable = (!self.unreadable.is_empty()).then(|| {
            let journals = self.unreadable.join(", ");
            format!("what is attached by these journals must be cleaned up by hand, as they cannot be used: {journals}")
        });
        let debts = match self.debts {
            0 => None,
            1 => Some("1 debt is parked, which `braid list` shows".to_owned()),
            many => Some(format!("{many} debts are parked, which `braid list` shows")),
        };
        let configurations = self.configurations.iter().map(|path| format!("{} still calls it", path.display()));
        let parts: Vec<String> = attached.into_iter().chain(unreadable).chain(debts).chain(configurations).collect();
        f.write_str(&parts.join("; "))
    }
}

/// Checks all attachments, and passes the containers that are gone to `detach`. This is needed because not every runtime calls DEL
/// with the configuration of ADD: containerd calls the plugins of the configuration that comes first at that time. Returns what is
/// left, and why containers that are gone are among it.
pub(super) fn look(places: &Places, detach: &mut Detach<'_>) -> Result<(Left, Vec<String>), CliError> {
    let (parked, set_aside): (Vec<_>, Vec<_>) = debts(&places.state_dir)?.into_iter().partition(DebtId::is_journal);
    let mut left = Left { debts: parked.len(), configurations: calling_braid(&places.conf_dir), ..Left::default() };
    let unusable = set_aside.iter().map(|id| format!("{} (set aside)", id.path(&places.state_dir).display()));
    left.unreadable.extend(unusable);
    let mut failures = Vec::new();
    let Some(store) = Store::open_existing(&places.state_dir, Sharing::Shared, deadline::after(LOCK_TIMEOUT))? else {
        return Ok((left, failures));
    };
    let mut ids = store.container_ids()?;
    ids.sort();
    for id in ids {
        let Some(container) = store.unlocked_container(&id)? else { continue };
        let entries = container.entries()?;
        let mut is_attached = entries.ifnames.is_empty() && entries.set_aside.is_empty();
        left.unreadable.extend(entries.set_aside.iter().map(|path| format!("{} (set aside)", path.display())));
        for ifname in entries.ifnames {
            match State::peek(&container, &ifname)? {
                Some(Ok(state)) if !state.is_container_gone() => is_attached = true,
                Some(Ok(state)) => {
                    if let Err(reason) = detach(&id, &state) {
                        failures.push(format!("{id} is gone and cannot be detached: {reason}"));
                        is_attached = true;
                    }
                }
                Some(Err(reason)) => {
                    let path = container.journal_path(&ifname);
                    left.unreadable.push(format!("{} ({reason})", path.display()));
                }
                None => {}
            }
        }
        if is_attached && attachments(places).join(&id).exists() {
            left.attached.push(id);
        }
    }
    left.unreadable.extend(store.not_directories()?.iter().map(|path| format!("{} (set aside)", path.display())));
    Ok((left, failures))
}

/// Each container has a directory there, which the DEL of its last attachment removes.
pub(super) fn attachments(places: &Places) -> PathBuf {
    places.state_dir.join("attachments")
}
