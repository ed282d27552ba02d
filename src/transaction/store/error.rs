//! The errors of the state directory.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;

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
    /// Another kind of file was in the place of a container's directory.
    #[error("{} was not a directory; it is now {}, and what it recorded, if anything, has to be cleaned up by hand", path.display(), set_aside.display())]
    NotADirectory {
        /// Where it stood.
        path: PathBuf,
        /// Where it is now.
        set_aside: PathBuf,
    },
    /// Another call holds a lock for too long.
    #[error("another braid call {holds} and had not finished after {:.1} s", waited.as_secs_f64())]
    Busy {
        /// What it does.
        holds: &'static str,
        /// How long it was waited for.
        waited: Duration,
    },
}

impl StoreError {
    pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(Errno) -> Self {
        let path = path.to_owned();
        move |error| Self::Io { action, path, source: error.into() }
    }
}
