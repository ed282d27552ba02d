//! The contents of Braid's state directories: journals, debts, and files that cannot be used.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::running::{PathTarget, Running};
use super::unexamined::Unexamined;
use crate::netns::{DefaultRoute, Family, Netns, Sameness};
use crate::runtime::deadline;
use crate::transaction::journal::State;
use crate::transaction::{DebtId, Parked, Sharing, Store, StoreError, look_at_debt};

/// How long to wait for another call that holds the lock of a state directory, or of a pool of host-local.
pub(super) const LOCK_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(5);

/// Whether a container still exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContainerState {
    /// It exists, or may exist.
    Alive,
    /// It certainly does not exist.
    Gone,
}

/// A journal.
#[derive(Debug, Clone)]
pub struct JournalRecord {
    /// The state directory.
    pub state_dir: PathBuf,
    /// Its contents.
    pub state: State,
    /// What the path of its network namespace leads to now.
    pub target: PathTarget,
    /// The default routes of its container. Empty if the path may lead to another namespace.
    pub default_routes: Vec<DefaultRoute>,
}

impl JournalRecord {
    /// The ID of the container.
    pub fn container_id(&self) -> &str {
        &self.state.header.plan.container_id
    }

    /// Its ID: `CONTAINER/INTERFACE`.
    pub fn id(&self) -> String {
        format!("{}/{}", self.container_id(), self.state.header.plan.ifname)
    }

    /// Whether its container still exists.
    pub fn container_state(&self, running: &Running) -> ContainerState {
        if self.state.is_of_another_boot() {
            return ContainerState::Gone;
        }
        let identity = self.state.header.netns_id;
        let may_be_there = match self.target {
            PathTarget::Namespace(now) => match identity {
                Some(then) => then.compare(&now) != Sameness::Different,
                None => true,
            },
            PathTarget::Nothing | PathTarget::SomethingElse => false,
            // If the path belongs to a process, that process has exited. Other processes may be in the namespace.
            PathTarget::Unknown => {
                let is_process_path = Path::new(&self.state.header.plan.netns).starts_with("/proc");
                !(is_process_path && running.sees_all && identity.is_some())
            }
        };
        let has_namespace = identity.is_some_and(|identity| running.has(&identity));
        if may_be_there || has_namespace || running.has_process_of(self.container_id()) {
            ContainerState::Alive
        } else {
            ContainerState::Gone
        }
    }
}

/// A debt that can be retried.
#[derive(Debug, Clone)]
pub struct DebtRecord {
    /// The state directory.
    pub state_dir: PathBuf,
    /// Its ID.
    pub id: DebtId,
    /// Its journal.
    pub state: State,
}

/// A file that cannot be used. It shows that its container may have attachments.
#[derive(Debug, Clone)]
pub struct UnusableRecord {
    /// The file.
    pub path: PathBuf,
    /// The container.
    pub container_id: String,
    /// Why.
    pub reason: String,
    /// Its ID as a debt, if it was moved to the debts.
    pub debt: Option<DebtId>,
}

/// The contents of all state directories.
#[derive(Debug, Clone, Default)]
pub struct Attached {
    /// The journals of attachments.
    pub journals: Vec<JournalRecord>,
    /// The debts.
    pub debts: Vec<DebtRecord>,
    /// The files that cannot be used.
    pub unusable: Vec<UnusableRecord>,
    /// What could not be read, and why.
    pub unexamined: BTreeMap<PathBuf, Unexamined>,
}

impl Attached {
    /// Reads state directories without locking containers.
    pub(super) fn read(state_dirs: &[PathBuf]) -> Self {
        let mut all = Self::default();
        for state_dir in state_dirs {
            match Store::open_existing(state_dir, Sharing::Shared, deadline::after(LOCK_TIMEOUT)) {
                Ok(Some(store)) => all.read_store(&store),
                Ok(None) => {}
                Err(error) => all.note_unexamined(state_dir, &error),
            }
        }
        all
    }

    /// Reads a state directory, whose lock the caller holds.
    pub(super) fn read_store(&mut self, store: &Store) {
        match store.container_ids() {
            Ok(ids) => {
                for id in ids {
                    if let Err(error) = self.read_container(store, &id) {
                        self.note_unexamined(&store.path().join("attachments").join(&id), &error);
                    }
                }
            }
            Err(error) => self.note_unexamined(store.path(), &error),
        }
        match store.debts() {
            Ok(debts) => debts.into_iter().for_each(|id| self.read_debt(store, id)),
            Err(error) => self.note_unexamined(store.path(), &error),
        }
        for path in store.not_directories().unwrap_or_default() {
            let container_id = path.extension().unwrap_or_default().to_string_lossy().into_owned();
            let reason = "it is not a directory".into();
            self.unusable.push(UnusableRecord { path, container_id, reason, debt: None });
        }
        self.journals.sort_by_cached_key(JournalRecord::id);
    }

    fn note_unexamined(&mut self, path: &Path, error: &StoreError) {
        self.unexamined.insert(path.to_owned(), Unexamined::record(error));
    }

    fn read_container(&mut self, store: &Store, id: &str) -> Result<(), StoreError> {
        let Some(container) = store.unlocked_container(id)? else { return Ok(()) };
        let entries = container.entries()?;
        for ifname in entries.ifnames {
            match State::peek(&container, &ifname)? {
                Some(Ok(state)) => self.journals.push(read_record(store.path(), state)),
                Some(Err(reason)) => {
                    let path = container.journal_path(&ifname);
                    self.unusable.push(UnusableRecord { path, container_id: id.into(), reason, debt: None });
                }
                None => {}
            }
        }
        for path in entries.set_aside {
            let reason = "it was set aside".into();
            self.unusable.push(UnusableRecord { path, container_id: id.into(), reason, debt: None });
        }
        Ok(())
    }

    fn read_debt(&mut self, store: &Store, id: DebtId) {
        let reason = match look_at_debt(store, &id) {
            Ok(None) => return,
            Ok(Some(Parked::Journal(journal))) => {
                return self.debts.push(DebtRecord { state_dir: store.path().into(), id, state: journal.state });
            }
            Ok(Some(Parked::Unusable(_))) if !id.is_journal() => "it was set aside".to_owned(),
            Ok(Some(Parked::Unusable(reason))) => reason,
            Err(error) => error.to_string(),
        };
        let (path, container_id) = (id.path(store.path()), id.container_id().to_owned());
        self.unusable.push(UnusableRecord { path, container_id, reason, debt: Some(id) });
    }

    /// The IDs of all containers that have a record, whether or not they still exist.
    pub fn container_ids(&self) -> impl Iterator<Item = &str> {
        let journals = self.journals.iter().map(JournalRecord::container_id);
        let debts = self.debts.iter().map(|debt| debt.id.container_id());
        journals.chain(debts).chain(self.unusable.iter().map(|one| one.container_id.as_str()))
    }

    /// The contents of all journals, including those of debts.
    pub fn states(&self) -> impl Iterator<Item = &State> {
        self.journals.iter().map(|journal| &journal.state).chain(self.debts.iter().map(|debt| &debt.state))
    }
}

/// Looks at the namespace that a journal names.
fn read_record(state_dir: &Path, state: State) -> JournalRecord {
    let path = Path::new(&state.header.plan.netns);
    let target = PathTarget::of(path);
    let is_same = match (target, state.header.netns_id) {
        (PathTarget::Namespace(now), Some(then)) => then.compare(&now) == Sameness::Same,
        _ => false,
    };
    let default_routes = if is_same { default_routes(path) } else { Vec::new() };
    JournalRecord { state_dir: state_dir.to_owned(), state, target, default_routes }
}

/// The default routes in the namespace at a path. Empty if they cannot be read, which is no fault: the container may be stopping.
fn default_routes(path: &Path) -> Vec<DefaultRoute> {
    let Ok(mut netns) = Netns::open(path) else { return Vec::new() };
    [Family::V4, Family::V6].into_iter().flat_map(|family| netns.default_routes(family).unwrap_or_default()).collect()
}
