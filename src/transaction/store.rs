//! Where journals are kept, and the locks on them.
//!
//! ```text
//! <stateDir>/                                     locked shared by ADD, DEL and CHECK, exclusively by GC
//! <stateDir>/attachments/<containerID>/           locked by whatever works on that container
//! <stateDir>/attachments/<containerID>/<ifname>.jsonl
//! ```
//!
//! The locks are `flock`s on the directories themselves, so there is no lock file to leave behind, and the kernel lets
//! go of them when their holder dies. Directories are 0700 and files 0600. Below `stateDir` no link is followed.

use std::fs::{DirBuilder, File};
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, openat, renameat};
use nix::sys::stat::{Mode, fstatat, mkdirat};
use nix::sys::statfs::{EXT4_SUPER_MAGIC, FsType, fstatfs};
use nix::unistd::{UnlinkatFlags, unlinkat};

use crate::cni::validate;

/// How the names of things begin that stood where a container's directory should: as no container's ID does.
const SET_ASIDE: &str = ".not-a-directory.";

/// As in linux/magic.h.
const XFS_SUPER_MAGIC: FsType = FsType(0x5846_5342);

/// The largest journal read, and so the largest written, in bytes.
pub(super) const MAX_JOURNAL: u64 = 256 << 20;

/// The state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file or directory cannot be used.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Something else stood where a container's directory should.
    #[error("{} was not a directory; it is now {}, and what it told of, if anything, is to be cleaned up by hand", path.display(), set_aside.display())]
    NotADirectory {
        /// Where it stood.
        path: PathBuf,
        /// Where it is now.
        set_aside: PathBuf,
    },
    /// Another call holds a lock for too long.
    #[error("another braid call {holds} and had not ended after {:.1} s", waited.as_secs_f64())]
    Busy {
        /// What it does.
        holds: &'static str,
        /// How long it was waited for.
        waited: Duration,
    },
}

impl StoreError {
    fn io(action: &'static str, path: &Path) -> impl FnOnce(Errno) -> Self {
        let path = path.to_owned();
        move |error| Self::Io { action, path, source: error.into() }
    }
}

/// The state directory, locked.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    /// Keeps the lock; also where `attachments` is opened from.
    root: Arc<File>,
    attachments: Arc<File>,
}

/// How the state directory is locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sharing {
    /// Beside other calls.
    Shared,
    /// Alone, for GC.
    Exclusive,
}

const DIRECTORY: OFlag = OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_CLOEXEC).union(OFlag::O_NOFOLLOW);

fn open_directory(at: impl AsFd, name: &Path) -> nix::Result<OwnedFd> {
    openat(at, name, DIRECTORY, Mode::empty())
}

impl Store {
    /// Opens and locks the state directory, and makes it if it is not there.
    ///
    /// # Errors
    /// When it cannot be made or opened, or the lock is not to be had before `deadline`.
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

    /// Opens and locks the state directory if it is there.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_existing(path: &Path, sharing: Sharing, deadline: Instant) -> Result<Option<Self>, StoreError> {
        // The directory itself is the operator's choice and may be a link; nothing below it may.
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

    /// Locks a container, and makes its directory if it is not there.
    ///
    /// # Errors
    /// When that fails, or the lock is not to be had before `deadline`.
    pub fn container(&self, id: &str, deadline: Instant) -> Result<Container, StoreError> {
        loop {
            if let Some(container) = self.existing_container(id, deadline)? {
                return Ok(container);
            }
            match mkdirat(&self.attachments, id, Mode::S_IRWXU) {
                Ok(()) | Err(Errno::EEXIST) => {}
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
                Err(Errno::ENOTDIR | Errno::ELOOP) => return Err(self.set_aside(id)?),
                Err(error) => return Err(StoreError::io("open", &path)(error)),
            };
            lock(&directory, &path, Sharing::Exclusive, deadline, "works on this container")?;
            // Whoever had the lock before may have removed the directory, and someone else made it anew.
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

    /// A container's directory, only to be looked at.
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

    /// The IDs of all containers that have a directory, in no order.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn container_ids(&self) -> Result<Vec<String>, StoreError> {
        let mut names = names(&self.attachments, &self.path.join("attachments"))?;
        names.retain(|name| validate::container_id(name).is_ok());
        Ok(names)
    }

    /// What stood where a container's directory should, and was set aside.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn not_directories(&self) -> Result<Vec<PathBuf>, StoreError> {
        let directory = self.path.join("attachments");
        let mut names = names(&self.attachments, &directory)?;
        names.retain(|name| name.starts_with(SET_ASIDE));
        Ok(names.into_iter().map(|name| directory.join(name)).collect())
    }

    /// Moves what stands where a container's directory should out of the way: left there, it would keep the container
    /// from ever being removed. Returns the error that tells so, once.
    fn set_aside(&self, id: &str) -> Result<StoreError, StoreError> {
        let path = self.container_path(id);
        for attempt in 0.. {
            let name = format!("{SET_ASIDE}{id}.{attempt}");
            let is_taken = fstatat(&self.attachments, name.as_str(), AtFlags::AT_SYMLINK_NOFOLLOW).is_ok();
            if is_taken && attempt < 1000 {
                continue;
            }
            renameat(&self.attachments, id, &self.attachments, name.as_str())
                .map_err(StoreError::io("set aside", &path))?;
            return Ok(StoreError::NotADirectory { path, set_aside: self.container_path(&name) });
        }
        unreachable!("the loop returns at the latest in its thousandth round")
    }

    /// Whether the file system, when it syncs a new file, syncs the new directories that lead to it. ext4 does: with a journal
    /// they are in the same transaction or an earlier one, and without it goes from parent to parent. XFS writes its log in
    /// the order of what was done. Each sync of one more directory would be a write to the disk that is waited for.
    pub(super) fn syncs_new_directories(&self) -> bool {
        let file_system = fstatfs(&self.attachments).map(|status| status.filesystem_type());
        matches!(file_system, Ok(EXT4_SUPER_MAGIC | XFS_SUPER_MAGIC))
    }

    /// The directory of attachments.
    pub(super) fn attachments_handle(&self) -> Arc<File> {
        Arc::clone(&self.attachments)
    }

    /// The locked directory, to be kept open by whoever must keep the lock.
    pub fn lock_handle(&self) -> Arc<File> {
        Arc::clone(&self.root)
    }

    fn container_path(&self, id: &str) -> PathBuf {
        self.path.join("attachments").join(id)
    }
}

/// A container's directory, locked.
#[derive(Debug)]
pub struct Container {
    path: PathBuf,
    id: String,
    attachments: Arc<File>,
    directory: Arc<File>,
}

/// What stands where a journal should.
#[derive(Debug)]
pub enum Content {
    /// Nothing.
    Missing,
    /// A regular file, open for reading and appending.
    File(File, Vec<u8>),
    /// Something that is not a regular file, such as a link or a directory.
    NotAFile,
}

impl Container {
    /// The container's ID.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Where a journal is.
    pub fn journal_path(&self, ifname: &str) -> PathBuf {
        self.path.join(format!("{ifname}.jsonl"))
    }

    /// Makes a new journal. There must be none.
    pub(super) fn create(&self, ifname: &str) -> Result<File, StoreError> {
        let flags =
            OFlag::O_RDWR | OFlag::O_APPEND | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
        openat(&self.directory, format!("{ifname}.jsonl").as_str(), flags, Mode::S_IRUSR | Mode::S_IWUSR)
            .map(File::from)
            .map_err(StoreError::io("make", &self.journal_path(ifname)))
    }

    /// Reads a journal.
    pub(super) fn read(&self, ifname: &str) -> Result<Content, StoreError> {
        let path = self.journal_path(ifname);
        let name = format!("{ifname}.jsonl");
        let flags = OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
        let open = |flags| openat(&self.directory, name.as_str(), flags, Mode::empty());
        let opened = match open(flags | OFlag::O_RDWR | OFlag::O_APPEND) {
            // What cannot be written can still be read, and what it tells of be undone.
            Err(Errno::EROFS | Errno::EACCES | Errno::EPERM) => open(flags | OFlag::O_RDONLY),
            opened => opened,
        };
        let mut file = match opened {
            Ok(file) => File::from(file),
            Err(Errno::ENOENT) => return Ok(Content::Missing),
            Err(Errno::ELOOP | Errno::EISDIR | Errno::ENXIO) => return Ok(Content::NotAFile),
            Err(error) => return Err(StoreError::io("open", &path)(error)),
        };
        let io = |source| StoreError::Io { action: "read", path: path.clone(), source };
        let metadata = file.metadata().map_err(io)?;
        if !metadata.is_file() || metadata.len() > MAX_JOURNAL {
            return Ok(Content::NotAFile);
        }
        let mut bytes = Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or(0));
        file.read_to_end(&mut bytes).map_err(io)?;
        Ok(Content::File(file, bytes))
    }

    /// Moves what stands where a journal should out of the way. Returns where it is now.
    pub(super) fn set_aside(&self, ifname: &str) -> Result<PathBuf, StoreError> {
        let from = format!("{ifname}.jsonl");
        for attempt in 0.. {
            let suffix = if attempt == 0 { String::new() } else { format!(".{attempt}") };
            let to = format!("{from}.corrupt{suffix}");
            // A journal that was set aside before is kept, however many there are.
            if attempt < 1000 && fstatat(&self.directory, to.as_str(), AtFlags::AT_SYMLINK_NOFOLLOW).is_ok() {
                continue;
            }
            renameat(&self.directory, from.as_str(), &self.directory, to.as_str())
                .map_err(StoreError::io("set aside", &self.journal_path(ifname)))?;
            return Ok(self.path.join(to));
        }
        unreachable!("the loop returns at the latest in its thousandth round")
    }

    /// Removes a journal.
    pub(super) fn unlink(&self, ifname: &str) -> Result<(), StoreError> {
        match unlinkat(&self.directory, format!("{ifname}.jsonl").as_str(), UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => {}
            Err(error) => return Err(StoreError::io("remove", &self.journal_path(ifname))(error)),
        }
        Ok(())
    }

    /// Removes the directory if nothing is in it.
    pub fn tidy(&self) {
        // A directory that has been removed already may have been made anew by someone else, whose it then is.
        if self.directory.metadata().is_ok_and(|metadata| metadata.nlink() == 0) {
            return;
        }
        // Not empty is the usual reason why not, and the others are no one's loss.
        let _ = unlinkat(&self.attachments, self.id.as_str(), UnlinkatFlags::RemoveDir);
    }

    /// The names of the interfaces that have a journal, and of the files set aside.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn entries(&self) -> Result<Entries, StoreError> {
        let mut entries = Entries::default();
        for name in names(&self.directory, &self.path)? {
            match name.strip_suffix(".jsonl") {
                Some(ifname) => entries.ifnames.push(ifname.to_owned()),
                None => entries.set_aside.push(self.path.join(name)),
            }
        }
        entries.ifnames.sort();
        entries.set_aside.sort();
        Ok(entries)
    }

    /// The locked directory, to be kept open by whoever must keep the lock.
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

fn names(directory: impl AsFd, path: &Path) -> Result<Vec<String>, StoreError> {
    let wrong = StoreError::io;
    // Opened anew, so that reading it moves no one else's position.
    let mut listing = Dir::openat(directory, ".", DIRECTORY, Mode::empty()).map_err(wrong("read", path))?;
    let mut names = Vec::new();
    for entry in listing.iter() {
        let entry = entry.map_err(wrong("read", path))?;
        match entry.file_name().to_str() {
            Ok("." | "..") | Err(_) => {}
            Ok(name) => names.push(name.to_owned()),
        }
    }
    Ok(names)
}

fn lock(file: &File, path: &Path, sharing: Sharing, deadline: Instant, holds: &'static str) -> Result<(), StoreError> {
    let started = Instant::now();
    let mut pause = Duration::from_micros(200);
    loop {
        let attempt = match sharing {
            Sharing::Shared => file.try_lock_shared(),
            Sharing::Exclusive => file.try_lock(),
        };
        match attempt {
            Ok(()) => return Ok(()),
            // A signal came meanwhile.
            Err(std::fs::TryLockError::Error(error)) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(std::fs::TryLockError::WouldBlock) if Instant::now() < deadline => {
                std::thread::sleep(pause);
                pause = (pause * 2).min(Duration::from_millis(10));
            }
            Err(std::fs::TryLockError::WouldBlock) => {
                return Err(StoreError::Busy { holds, waited: started.elapsed() });
            }
            Err(std::fs::TryLockError::Error(source)) => {
                return Err(StoreError::Io { action: "lock", path: path.to_owned(), source });
            }
        }
    }
}
