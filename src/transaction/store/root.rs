//! The state directory.

use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, openat};
use nix::sys::stat::{Mode, fstatat, mkdirat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::container::Container;
use super::directory::{Sharing, lock, names, open_directory};
use super::error::StoreError;
use crate::cni::validate;

/// The beginning of the names that earlier versions gave to things in the place of a container's directory. No container's ID
/// begins like this. Today such things are moved to the debts.
const SET_ASIDE: &str = ".not-a-directory.";

/// The state directory, locked.
#[derive(Debug)]
pub struct Store {
    pub(super) path: PathBuf,
    /// Holds the lock. `attachments` is opened relative to it.
    pub(super) root: Arc<File>,
    attachments: Arc<File>,
}

impl Store {
    /// Opens and locks the state directory. Makes it if it does not exist.
    ///
    /// # Errors
    /// When it cannot be created or opened, or the lock is not free before `deadline`.
    pub fn open(path: &Path, sharing: Sharing, deadline: Instant) -> Result<Self, StoreError> {
        if let Some(store) = Self::open_existing(path, sharing, deadline)? {
            Ok(store)
        } else {
            DirBuilder::new().recursive(true).mode(0o700).create(path.join("attachments")).map_err(|source| {
                StoreError::Io { action: "make the state directory", path: path.to_owned(), source }
            })?;
            Self::open_existing(path, sharing, deadline)?.ok_or_else(|| StoreError::Io {
                action: "open the state directory",
                path: path.to_owned(),
                source: io::ErrorKind::NotFound.into(),
            })
        }
    }

    /// Opens and locks the state directory, if it exists.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_existing(path: &Path, sharing: Sharing, deadline: Instant) -> Result<Option<Self>, StoreError> {
        // The state directory itself is the operator's choice and may be a link. Below it, links are not followed.
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let root = match openat(AT_FDCWD, path, flags, Mode::empty()) {
            Ok(root) => Arc::new(File::from(root)),
            Err(Errno::ENOENT) => return Ok(None),
            Err(error) => return Err(StoreError::io("open the state directory", path)(error)),
        };
        lock(&root, path, sharing, deadline, "holds the state directory")?;
        match open_directory(&root, Path::new("attachments")) {
            Ok(attachments) => {
                Ok(Some(Self { path: path.to_owned(), root, attachments: Arc::new(attachments.into()) }))
            }
            Err(Errno::ENOENT) => Ok(None),
            Err(error) => Err(StoreError::io("open", &path.join("attachments"))(error)),
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Locks a container. Makes its directory if it does not exist.
    ///
    /// # Errors
    /// When that fails, or the lock is not free before `deadline`.
    pub fn container(&self, id: &str, deadline: Instant) -> Result<Container, StoreError> {
        let mut is_made = false;
        loop {
            match self.existing_container(id, deadline) {
                Ok(Some(container)) => return Ok(container),
                Ok(None) => {}
                Err(error) => {
                    if is_made {
                        // A call that gets the lock now finds that the directory is gone, and makes it anew.
                        let _ = unlinkat(&self.attachments, id, UnlinkatFlags::RemoveDir);
                    }
                    return Err(error);
                }
            }
            match mkdirat(&self.attachments, id, Mode::S_IRWXU) {
                Ok(()) => is_made = true,
                Err(Errno::EEXIST) => {}
                Err(error) => return Err(StoreError::io("make", &self.container_path(id))(error)),
            }
        }
    }

    /// Locks a container if it has a directory.
    ///
    /// # Errors
    /// As [`Self::container`].
    pub fn existing_container(&self, id: &str, deadline: Instant) -> Result<Option<Container>, StoreError> {
        let path = self.container_path(id);
        loop {
            let directory = match open_directory(&self.attachments, Path::new(id)) {
                Ok(directory) => File::from(directory),
                Err(Errno::ENOENT) => return Ok(None),
                Err(Errno::ENOTDIR | Errno::ELOOP) => return Err(self.set_aside_no_directory(id)?),
                Err(error) => return Err(StoreError::io("open", &path)(error)),
            };
            lock(&directory, &path, Sharing::Exclusive, deadline, "works on this container")?;
            // The previous holder of the lock may have removed the directory, and another call may have made it anew.
            let locked = directory.metadata().map_err(|source| StoreError::Io {
                action: "look at",
                path: path.clone(),
                source,
            })?;
            let current = match fstatat(&self.attachments, id, AtFlags::AT_SYMLINK_NOFOLLOW) {
                Ok(now) => Some(now.st_ino),
                Err(Errno::ENOENT) => None,
                Err(error) => return Err(StoreError::io("look at", &path)(error)),
            };
            if current == Some(locked.ino()) {
                let attachments = Arc::clone(&self.attachments);
                return Ok(Some(Container { path, id: id.to_owned(), attachments, directory: Arc::new(directory) }));
            }
        }
    }

    /// A container's directory, opened for reading without a lock.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn unlocked_container(&self, id: &str) -> Result<Option<Container>, StoreError> {
        let path = self.container_path(id);
        match open_directory(&self.attachments, Path::new(id)) {
            Ok(directory) => {
                let (attachments, directory) = (Arc::clone(&self.attachments), Arc::new(directory.into()));
                Ok(Some(Container { path, id: id.to_owned(), attachments, directory }))
            }
            Err(Errno::ENOENT) => Ok(None),
            Err(error) => Err(StoreError::io("open", &path)(error)),
        }
    }

    /// The IDs of all containers that have a directory, in no particular order.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn container_ids(&self) -> Result<Vec<String>, StoreError> {
        let mut names = names(&self.attachments, &self.path.join("attachments"))?;
        names.retain(|name| validate::container_id(name).is_ok());
        Ok(names)
    }

    /// Things that an earlier version set aside because they were in the place of a container's directory.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn not_directories(&self) -> Result<Vec<PathBuf>, StoreError> {
        let directory = self.path.join("attachments");
        let mut names = names(&self.attachments, &directory)?;
        names.retain(|name| name.starts_with(SET_ASIDE));
        Ok(names.into_iter().map(|name| directory.join(name)).collect())
    }

    /// The directory of attachments.
    pub(in crate::transaction) fn attachments_handle(&self) -> Arc<File> {
        Arc::clone(&self.attachments)
    }

    /// The locked directory. A process that must keep the lock keeps it open.
    pub fn lock_handle(&self) -> Arc<File> {
        Arc::clone(&self.root)
    }

    pub(super) fn container_path(&self, id: &str) -> PathBuf {
        self.path.join("attachments").join(id)
    }
}
