//! A container's directory.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;

use nix::sys::statfs::{EXT4_SUPER_MAGIC, FsType, fstatfs};
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::directory::names;
use super::error::StoreError;
use super::file::JournalFile;

/// As in linux/magic.h.
const XFS_SUPER_MAGIC: FsType = FsType(0x5846_5342);

/// A container's directory, locked.
#[derive(Debug)]
pub struct Container {
    pub(super) path: PathBuf,
    pub(super) id: String,
    pub(super) attachments: Arc<File>,
    pub(super) directory: Arc<File>,
}

impl Container {
    /// The container's ID.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The journal of an interface.
    pub(in crate::transaction) fn journal(&self, ifname: &str) -> JournalFile {
        JournalFile::new(Arc::clone(&self.directory), &self.path, format!("{ifname}.jsonl"))
    }

    /// Where the journal of an interface is.
    pub fn journal_path(&self, ifname: &str) -> PathBuf {
        self.path.join(format!("{ifname}.jsonl"))
    }

    /// Removes the journal of an interface, if there is one.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn remove_journal(&self, ifname: &str) -> Result<(), StoreError> {
        self.journal(ifname).remove()
    }

    /// Removes the directory if nothing is in it.
    pub fn tidy(&self) {
        // The directory may have been removed by another call and made anew by a third, which uses it now.
        if self.directory.metadata().is_ok_and(|metadata| metadata.nlink() == 0) {
            return;
        }
        self.remove_unfinished();
        // The usual reason for a failure is that the directory is not empty. No other reason does harm.
        let _ = unlinkat(&self.attachments, self.id.as_str(), UnlinkatFlags::RemoveDir);
    }

    /// Removes what a crash has left of a journal that was being written anew.
    fn remove_unfinished(&self) {
        for name in names(&self.directory, &self.path).unwrap_or_default() {
            if name.starts_with('.') {
                let _ = unlinkat(&self.directory, name.as_str(), UnlinkatFlags::NoRemoveDir);
            }
        }
    }

    /// The names of the interfaces that have a journal, and of the files set aside.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn entries(&self) -> Result<Entries, StoreError> {
        let mut entries = Entries::default();
        for name in names(&self.directory, &self.path)? {
            if name.starts_with('.') {
                continue;
            }
            match name.strip_suffix(".jsonl") {
                Some(ifname) => entries.ifnames.push(ifname.to_owned()),
                None => entries.set_aside.push(self.path.join(name)),
            }
        }
        entries.ifnames.sort();
        entries.set_aside.sort();
        Ok(entries)
    }

    /// Whether syncing a file also syncs earlier changes of directories: new directories that lead to the file, and the name that
    /// the file was given. ext4 does: with a journal, these changes are in the same transaction or an earlier one; without a
    /// journal, it syncs the parents too. XFS writes its log in order. Each sync of one more directory would be another write to
    /// the disk that has to be waited for.
    pub(in crate::transaction) fn is_in_order_on_disk(&self) -> bool {
        let file_system = fstatfs(&self.directory).map(|status| status.filesystem_type());
        matches!(file_system, Ok(EXT4_SUPER_MAGIC | XFS_SUPER_MAGIC))
    }

    /// The locked directory. A process that must keep the lock keeps it open.
    pub fn lock_handle(&self) -> Arc<File> {
        Arc::clone(&self.directory)
    }
}

/// What a container's directory holds.
#[derive(Debug, Default)]
pub struct Entries {
    /// Interfaces with a journal.
    pub ifnames: Vec<String>,
    /// Files that were set aside.
    pub set_aside: Vec<PathBuf>,
}
