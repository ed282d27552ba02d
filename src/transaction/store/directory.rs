//! Directories: opened without following links, listed, locked.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::dir::Dir;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;

use super::error::StoreError;

/// How the state directory is locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sharing {
    /// Beside other calls.
    Shared,
    /// Alone, for GC.
    Exclusive,
}

const DIRECTORY: OFlag = OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_CLOEXEC).union(OFlag::O_NOFOLLOW);

/// Opens a directory below another one. A link is an error.
pub(super) fn open_directory(at: impl AsFd, name: &Path) -> nix::Result<OwnedFd> {
    openat(at, name, DIRECTORY, Mode::empty())
}

/// The names in a directory, in no order.
pub(super) fn names(directory: impl AsFd, path: &Path) -> Result<Vec<String>, StoreError> {
    let wrong = StoreError::io;
    // Opened again, so that reading it does not move the position of other readers.
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

/// Locks a directory before `deadline`. `holds` says, for the error message, what the holder of the lock does.
pub(super) fn lock(
    file: &File,
    path: &Path,
    sharing: Sharing,
    deadline: Instant,
    holds: &'static str,
) -> Result<(), StoreError> {
    let started = Instant::now();
    let mut pause = Duration::from_micros(200);
    loop {
        let attempt = match sharing {
            Sharing::Shared => file.try_lock_shared(),
            Sharing::Exclusive => file.try_lock(),
        };
        match attempt {
            Ok(()) => return Ok(()),
            Err(std::fs::TryLockError::WouldBlock) if Instant::now() < deadline => {
                std::thread::sleep(pause);
                pause = (pause * 2).min(Duration::from_millis(10));
            }
            Err(std::fs::TryLockError::WouldBlock) => {
                return Err(StoreError::Busy { holds, waited: started.elapsed() });
            }
            // A signal came meanwhile.
            Err(std::fs::TryLockError::Error(error))
                if error.kind() == io::ErrorKind::Interrupted && Instant::now() < deadline => {}
            Err(std::fs::TryLockError::Error(source)) => {
                return Err(StoreError::Io { action: "lock", path: path.to_owned(), source });
            }
        }
    }
}
