//! The directory of debts: journals that were moved out of the way of their containers.
//!
//! A debt is the whole journal, so nothing else is needed to try it again.

use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, openat};
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::directory::{names, open_directory};
use super::error::StoreError;
use super::file::JournalFile;
use super::{Container, Store};
use crate::cni::validate;

const DEBTS: &str = "debts";
/// The ending of journals that can be used.
const JOURNAL: &str = ".jsonl";

/// The ID of a debt. As text it is `CONTAINER/NAME`. The name is the interface's, with a number if several debts of one interface
/// are parked.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct DebtId {
    container_id: String,
    /// The file's name.
    file: String,
}

impl DebtId {
    /// The container that it is about.
    pub fn container_id(&self) -> &str {
        &self.container_id
    }

    /// The interface. For a journal that cannot be used, it is taken from the file's name.
    pub fn ifname(&self) -> &str {
        self.file.split(JOURNAL).next().unwrap_or_default()
    }

    /// Where it is below a state directory.
    pub fn path(&self, state_dir: &Path) -> PathBuf {
        state_dir.join(DEBTS).join(&self.container_id).join(&self.file)
    }

    /// A message about the debt, with its path below `state_dir`.
    pub fn describe(&self, state_dir: &Path) -> String {
        let path = self.path(state_dir);
        if self.is_journal() {
            format!("what DEL could not undo is parked in {}, and GC tries it again", path.display())
        } else {
            let path = path.display();
            format!("a journal was set aside as unusable: {path}; what it records has to be cleaned up by hand")
        }
    }

    /// Whether it is a journal that can be tried again, rather than something that was set aside as unusable.
    pub fn is_journal(&self) -> bool {
        self.file.ends_with(JOURNAL)
    }
}

impl fmt::Display for DebtId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.container_id, self.file.strip_suffix(JOURNAL).unwrap_or(&self.file))
    }
}

/// A text that is no debt's ID.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not the ID of a debt, expected CONTAINER/INTERFACE as `braid list` shows it")]
pub struct InvalidDebtId(String);

impl FromStr for DebtId {
    type Err = InvalidDebtId;

    fn from_str(text: &str) -> Result<Self, InvalidDebtId> {
        let invalid = || InvalidDebtId(text.into());
        let (container_id, name) = text.split_once('/').ok_or_else(invalid)?;
        if validate::container_id(container_id).is_err()
            || name.is_empty()
            || name.starts_with('.')
            || name.contains('/')
        {
            return Err(invalid());
        }
        let is_unusable = name.contains(JOURNAL) || name.starts_with(NOT_A_DIRECTORY);
        let file = if is_unusable { name.to_owned() } else { format!("{name}{JOURNAL}") };
        Ok(Self { container_id: container_id.into(), file })
    }
}

/// The name of something that was in the place of a container's directory.
const NOT_A_DIRECTORY: &str = "attachments.not-a-directory";

/// The debts below a state directory, in order. Takes no lock, and reads no journal.
///
/// # Errors
/// When a directory is there and cannot be read.
pub fn debts(state_dir: &Path) -> Result<Vec<DebtId>, StoreError> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    match openat(AT_FDCWD, state_dir, flags, Mode::empty()) {
        Ok(root) => list(&root, state_dir),
        Err(Errno::ENOENT | Errno::ENOTDIR) => Ok(Vec::new()),
        Err(error) => Err(StoreError::io("open the state directory", state_dir)(error)),
    }
}

fn list(root: impl AsFd, state_dir: &Path) -> Result<Vec<DebtId>, StoreError> {
    let path = state_dir.join(DEBTS);
    let Some(directory) = open_if_there(root, Path::new(DEBTS), &path)? else { return Ok(Vec::new()) };
    let mut debts = Vec::new();
    for container_id in names(&directory, &path)? {
        let path = path.join(&container_id);
        let Some(container) = open_if_there(&directory, Path::new(&container_id), &path)? else { continue };
        let files = names(&container, &path)?.into_iter();
        debts.extend(files.map(|file| DebtId { container_id: container_id.clone(), file }));
    }
    debts.sort();
    Ok(debts)
}

fn open_if_there(at: impl AsFd, name: &Path, path: &Path) -> Result<Option<File>, StoreError> {
    match open_directory(at, name) {
        Ok(directory) => Ok(Some(directory.into())),
        Err(Errno::ENOENT | Errno::ENOTDIR) => Ok(None),
        Err(error) => Err(StoreError::io("open", path)(error)),
    }
}

impl Store {
    /// The debts, in order.
    ///
    /// # Errors
    /// When a directory is there and cannot be read.
    pub fn debts(&self) -> Result<Vec<DebtId>, StoreError> {
        list(&self.root, &self.path)
    }

    /// Moves a usable journal of an interface to the debts, so that its container can be removed.
    ///
    /// # Errors
    /// When it cannot be moved; it is then where it was.
    pub fn park(&self, container: &Container, ifname: &str) -> Result<DebtId, StoreError> {
        let name = |attempt| match attempt {
            0 => format!("{ifname}{JOURNAL}"),
            _ => format!("{ifname}.{attempt}{JOURNAL}"),
        };
        self.move_to_debts(container.id(), &container.journal(ifname), &name)
    }

    /// Moves an unusable journal of an interface to the debts, so that its container can be removed. An operator has to look at it,
    /// and remove it.
    ///
    /// # Errors
    /// When it cannot be moved.
    pub fn set_aside(&self, container: &Container, ifname: &str) -> Result<PathBuf, StoreError> {
        let name = |attempt| numbered(format!("{ifname}{JOURNAL}.corrupt"), attempt);
        let id = self.move_to_debts(container.id(), &container.journal(ifname), &name)?;
        Ok(id.path(&self.path))
    }

    /// Moves something that is in the place of a container's directory to the debts: otherwise the container could never be
    /// removed. Returns the error that reports this once.
    pub(super) fn set_aside_no_directory(&self, container_id: &str) -> Result<StoreError, StoreError> {
        let path = self.container_path(container_id);
        let from = JournalFile::new(self.attachments_handle(), &self.path.join("attachments"), container_id.into());
        let id = self.move_to_debts(container_id, &from, &|attempt| numbered(NOT_A_DIRECTORY.into(), attempt))?;
        Ok(StoreError::NotADirectory { path, set_aside: id.path(&self.path) })
    }

    /// Moves files that an earlier version set aside beside the journals to the debts.
    ///
    /// # Errors
    /// When one cannot be moved.
    pub fn move_set_aside(&self, container: &Container, paths: &[PathBuf]) -> Result<(), StoreError> {
        for path in paths {
            let name: OsString = path.file_name().unwrap_or_default().into();
            let name = name.to_string_lossy().into_owned();
            let from = JournalFile::new(Arc::clone(&container.directory), &container.path, name.clone());
            self.move_to_debts(container.id(), &from, &|attempt| numbered(name.clone(), attempt))?;
        }
        Ok(())
    }

    fn move_to_debts(
        &self,
        container_id: &str,
        from: &JournalFile,
        name: &dyn Fn(u32) -> String,
    ) -> Result<DebtId, StoreError> {
        let directory = self.make_debts_of(container_id)?;
        // Never overwrites a debt, however many there are.
        for attempt in 0.. {
            let id = DebtId { container_id: container_id.into(), file: name(attempt) };
            let to = self.file_in(&directory, &id);
            if !to.exists() {
                from.move_to(&to)?;
                return Ok(id);
            }
        }
        unreachable!("a directory does not hold that many files")
    }

    fn make_debts_of(&self, container_id: &str) -> Result<Arc<File>, StoreError> {
        let mut at = Arc::clone(&self.root);
        let mut path = self.path.clone();
        for name in [DEBTS, container_id] {
            path.push(name);
            match mkdirat(&at, name, Mode::S_IRWXU) {
                Ok(()) | Err(Errno::EEXIST) => {}
                Err(error) => return Err(StoreError::io("make", &path)(error)),
            }
            at = Arc::new(open_directory(&at, Path::new(name)).map_err(StoreError::io("open", &path))?.into());
        }
        Ok(at)
    }

    /// The file of a debt, if its directory exists.
    pub(in crate::transaction) fn debt_file(&self, id: &DebtId) -> Result<Option<JournalFile>, StoreError> {
        let path = self.path.join(DEBTS);
        let Some(debts) = open_if_there(&self.root, Path::new(DEBTS), &path)? else { return Ok(None) };
        let container = open_if_there(debts, Path::new(&id.container_id), &path.join(&id.container_id))?;
        Ok(container.map(|directory| self.file_in(&Arc::new(directory), id)))
    }

    fn file_in(&self, directory: &Arc<File>, id: &DebtId) -> JournalFile {
        let path = self.path.join(DEBTS).join(&id.container_id);
        JournalFile::new(Arc::clone(directory), &path, id.file.clone())
    }

    /// Removes the directory of a container's debts if none is left.
    pub(in crate::transaction) fn tidy_debts(&self, id: &DebtId) {
        if let Ok(Some(debts)) = open_if_there(&self.root, Path::new(DEBTS), &self.path) {
            // Not empty is the usual reason why not.
            let _ = unlinkat(&debts, id.container_id.as_str(), UnlinkatFlags::RemoveDir);
        }
    }
}

fn numbered(name: String, attempt: u32) -> String {
    if attempt == 0 { name } else { format!("{name}.{attempt}") }
}
