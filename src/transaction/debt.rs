//! Debts: retrying what DEL has given up on, or dropping it on an operator's request.

use std::time::Instant;

use super::Tools;
use super::journal::{Journal, Opened, State};
use super::released::note_released;
use super::store::{Container, DebtId, JournalFile, Store, StoreError};
use super::undo::{CleanupFailure, UndoError, undo};

/// A debt, with its container locked.
#[derive(Debug)]
pub struct Debt<'a> {
    store: &'a Store,
    id: DebtId,
    file: JournalFile,
    container: Container,
    content: Parked,
}

/// What a debt is.
#[derive(Debug)]
pub enum Parked {
    /// The journal, with the steps that are owed.
    Journal(Box<Journal>),
    /// Something that cannot be used, and why.
    Unusable(String),
}

impl<'a> Debt<'a> {
    /// Opens a debt and locks its container. `None` if there is no such debt.
    ///
    /// # Errors
    /// When it cannot be read, or the lock cannot be taken before `deadline`.
    pub fn open(store: &'a Store, id: &DebtId, deadline: Instant) -> Result<Option<Self>, StoreError> {
        let container = store.container(id.container_id(), deadline)?;
        let opened = store.debt_file(id).and_then(|file| {
            let Some(file) = file else { return Ok(None) };
            Ok(look_at(&file, id)?.map(|content| (file, content)))
        });
        match opened {
            Ok(Some((file, content))) => Ok(Some(Self { store, id: id.clone(), file, container, content })),
            other => {
                container.tidy();
                other.map(|_| None)
            }
        }
    }

    /// The state of its journal. Nothing if the journal cannot be used.
    pub fn state(&self) -> Option<&State> {
        match &self.content {
            Parked::Journal(journal) => Some(&journal.state),
            Parked::Unusable(_) => None,
        }
    }

    /// Undoes what is owed. A step that succeeds is not tried again. When no step is owed any more, the debt is removed.
    ///
    /// A container of the same ID may have been attached again. If it has an attachment on the debt's interface, undoing the debt
    /// would undo that attachment too. The debt is then left unchanged.
    pub fn retry(&mut self, tools: Tools<'_>) -> Vec<CleanupFailure> {
        let journal = match &mut self.content {
            Parked::Unusable(reason) => {
                return vec![CleanupFailure::of_journal(UndoError::Unusable { reason: reason.clone() })];
            }
            Parked::Journal(journal) => journal,
        };
        match attached_again(&self.container, &journal.state) {
            Ok(None) => {}
            Ok(Some(ifname)) => return vec![CleanupFailure::of_journal(UndoError::AttachedAgain { ifname })],
            Err(error) => return vec![CleanupFailure::of_journal(error.into())],
        }
        let netns = journal.state.netns_if_same();
        let failures = undo(journal, tools, &netns);
        if !failures.is_empty() {
            return failures;
        }
        note_released(self.store, &journal.state);
        self.remove().err().map(|error| CleanupFailure::of_journal(error.into())).into_iter().collect()
    }

    /// Drops the debt: Braid will never undo what is owed.
    ///
    /// # Errors
    /// When its file cannot be removed.
    pub fn forget(self) -> Result<(), StoreError> {
        self.remove()
    }

    fn remove(&self) -> Result<(), StoreError> {
        self.file.remove()?;
        self.store.tidy_debts(&self.id);
        Ok(())
    }
}

impl Drop for Debt<'_> {
    fn drop(&mut self) {
        self.container.tidy();
    }
}

/// Reads a debt without locking its container. `None` if there is no such debt.
///
/// # Errors
/// When it cannot be read.
pub fn look_at_debt(store: &Store, id: &DebtId) -> Result<Option<Parked>, StoreError> {
    match store.debt_file(id)? {
        Some(file) => look_at(&file, id),
        None => Ok(None),
    }
}

fn look_at(file: &JournalFile, id: &DebtId) -> Result<Option<Parked>, StoreError> {
    if !id.is_journal() {
        return Ok(Some(Parked::Unusable(format!("set aside: {}", file.path().display()))));
    }
    Ok(match Journal::open_file(file)? {
        Opened::None => None,
        Opened::Unfinished => Some(Parked::Unusable("it ends within its first line".into())),
        Opened::Corrupt(reason) => Some(Parked::Unusable(reason)),
        Opened::Journal(journal) if journal.state.header.plan.container_id != id.container_id() => {
            let reason = format!("it is of container {:?}", journal.state.header.plan.container_id);
            Some(Parked::Unusable(reason))
        }
        Opened::Journal(journal) => Some(Parked::Journal(journal)),
    })
}

/// The interface of an owed attachment on which the container is attached again.
fn attached_again(container: &Container, debt: &State) -> Result<Option<String>, StoreError> {
    let owed = debt.owed();
    for ifname in container.entries()?.ifnames {
        let again = match Journal::look(container, &ifname)? {
            Opened::None | Opened::Unfinished => continue,
            Opened::Corrupt(_) => return Ok(Some(ifname)),
            Opened::Journal(journal) => journal,
        };
        let live: Vec<&str> = again.state.attachments().map(|(_, one)| one.ifname.as_str()).collect();
        let mut owed = owed.iter().map(|step| &debt.header.plan.attachments[step.0].ifname);
        if let Some(ifname) = owed.find(|ifname| live.contains(&ifname.as_str())) {
            return Ok(Some(ifname.clone()));
        }
    }
    Ok(None)
}
