//! The work on a disk that makes something durable.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::sync::Arc;

/// What is done so that something is on disk.
#[derive(Debug, Clone)]
pub enum DiskWork {
    /// A file or a directory is synced.
    Sync(Arc<File>),
    /// A file gets another name in its directory, in place of whatever had it.
    Rename {
        /// The directory.
        directory: Arc<File>,
        /// Its name now.
        from: CString,
        /// Its name afterwards.
        to: CString,
    },
}

impl DiskWork {
    /// Does it, for as long as the disk takes.
    ///
    /// # Errors
    /// When it cannot be done.
    pub fn run(&self) -> io::Result<()> {
        match self {
            Self::Sync(file) => file.sync_all(),
            Self::Rename { directory, from, to } => Ok(rustix::fs::renameat(directory, from, directory, to)?),
        }
    }
}
