//! The file of one journal.

use std::ffi::CString;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, renameat};
use nix::sys::stat::{Mode, fstatat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::error::StoreError;
use crate::runtime::DiskWork;

/// The largest journal that is read or written, in bytes.
pub(in crate::transaction) const MAX_JOURNAL: u64 = 256 << 20;

/// The place of a journal, whether or not it exists: a name in an open directory.
#[derive(Debug, Clone)]
pub(in crate::transaction) struct JournalFile {
    directory: Arc<File>,
    path: PathBuf,
    name: String,
}

/// What stands where a journal should.
#[derive(Debug)]
pub(in crate::transaction) enum Content {
    /// Nothing.
    Missing,
    /// A regular file, open for reading and appending.
    File(File, Vec<u8>),
    /// Something that is not a regular file, such as a link or a directory.
    NotAFile,
}

impl JournalFile {
    /// The file `name` in the directory at `path`.
    pub(super) fn new(directory: Arc<File>, path: &Path, name: String) -> Self {
        Self { directory, path: path.join(&name), name }
    }

    /// Where it is.
    pub(in crate::transaction) fn path(&self) -> PathBuf {
        self.path.clone()
    }

    /// Makes it. There must be none.
    pub(in crate::transaction) fn create(&self) -> Result<File, StoreError> {
        let flags =
            OFlag::O_RDWR | OFlag::O_APPEND | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
        openat(&self.directory, self.name.as_str(), flags, Mode::S_IRUSR | Mode::S_IWUSR)
            .map(File::from)
            .map_err(StoreError::io("make", &self.path))
    }

    /// Reads it.
    pub(in crate::transaction) fn read(&self) -> Result<Content, StoreError> {
        let flags = OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
        let open = |flags| openat(&self.directory, self.name.as_str(), flags, Mode::empty());
        let opened = match open(flags | OFlag::O_RDWR | OFlag::O_APPEND) {
            // A journal without write permission can still be read and undone.
            Err(Errno::EROFS | Errno::EACCES | Errno::EPERM) => open(flags | OFlag::O_RDONLY),
            opened => opened,
        };
        let mut file = match opened {
            Ok(file) => File::from(file),
            Err(Errno::ENOENT) => return Ok(Content::Missing),
            Err(Errno::ELOOP | Errno::EISDIR | Errno::ENXIO) => return Ok(Content::NotAFile),
            Err(error) => return Err(StoreError::io("open", &self.path)(error)),
        };
        let io = |source| StoreError::Io { action: "read", path: self.path.clone(), source };
        let metadata = file.metadata().map_err(io)?;
        if !metadata.is_file() || metadata.len() > MAX_JOURNAL {
            return Ok(Content::NotAFile);
        }
        let mut bytes = Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or(0));
        file.read_to_end(&mut bytes).map_err(io)?;
        Ok(Content::File(file, bytes))
    }

    /// Whether something is there.
    pub(super) fn exists(&self) -> bool {
        fstatat(&self.directory, self.name.as_str(), AtFlags::AT_SYMLINK_NOFOLLOW).is_ok()
    }

    /// Renames the file to a name that is not in use. The new name is on disk when this returns.
    pub(super) fn move_to(&self, to: &Self) -> Result<(), StoreError> {
        renameat(&self.directory, self.name.as_str(), &to.directory, to.name.as_str())
            .map_err(StoreError::io("set aside", &self.path))?;
        for directory in [&to.directory, &self.directory] {
            let synced = directory.sync_all();
            synced.map_err(|source| StoreError::Io { action: "sync", path: to.path.clone(), source })?;
        }
        Ok(())
    }

    /// The file in which the journal is written anew. It does not count as a journal.
    pub(in crate::transaction) fn beside(&self) -> Self {
        let name = format!(".{}", self.name);
        let path = self.path.with_file_name(&name);
        Self { directory: Arc::clone(&self.directory), path, name }
    }

    /// The work that replaces another file of the same directory with this one.
    pub(in crate::transaction) fn to_replace(&self, other: &Self) -> DiskWork {
        let name = |name: &str| CString::new(name).expect("the name of a file has no NUL");
        DiskWork::Rename { directory: Arc::clone(&self.directory), from: name(&self.name), to: name(&other.name) }
    }

    /// Removes it, if it is there.
    pub(in crate::transaction) fn remove(&self) -> Result<(), StoreError> {
        match unlinkat(&self.directory, self.name.as_str(), UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => Ok(()),
            Err(error) => Err(StoreError::io("remove", &self.path)(error)),
        }
    }
}
