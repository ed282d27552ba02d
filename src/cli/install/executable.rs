//! The copy of Braid in the runtime's directory of plugins.

use std::fs::{File, Metadata};
use std::io::{self, BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::downgrade::newer_journals;
use super::files::{self, Change, Links};
use super::places::Places;
use super::report::{say, warn};

/// The permissions of a program.
const MODE: u32 = 0o755;

/// Keeps a copy of this program in the directory in which the runtime looks for plugins.
#[derive(Debug)]
pub(super) struct Executable {
    path: PathBuf,
    /// The directory of journals. If this program cannot read one of them, it is not installed.
    state_dir: PathBuf,
    /// The file that was compared last. It is compared again only after it has changed.
    known: Option<Stamp>,
}

impl Executable {
    pub(super) fn new(places: &Places) -> Self {
        Self { path: places.executable(), state_dir: places.state_dir.clone(), known: None }
    }

    /// What [`Self::maintain`] would do.
    ///
    /// # Errors
    /// When it could not be done.
    pub(super) fn change(&self) -> io::Result<Change> {
        let own = File::open("/proc/self/exe")?;
        let is_there = Stamp::of(&self.path).is_some() && is_copy(&own, &self.path).unwrap_or(false);
        if !is_there {
            self.refuse_downgrade()?;
            files::could_write(&self.path)?;
        }
        Ok(Change::of(&self.path, is_there, &format!("this program, braid {}", env!("CARGO_PKG_VERSION"))))
    }

    /// Refuses to replace a newer program whose journals this one cannot read.
    fn refuse_downgrade(&self) -> io::Result<()> {
        newer_journals(&self.state_dir)
            .map_or(Ok(()), |newer| Err(io::Error::other(format!("it stays as it is: {newer}"))))
    }

    /// Installs this program, unless it is installed already. The old copy may be running.
    pub(super) fn maintain(&mut self) -> io::Result<()> {
        let stamp = Stamp::of(&self.path);
        if stamp.is_some() && stamp == self.known {
            return Ok(());
        }
        let path = self.path.display();
        // The program is large, and the memory of the DaemonSet's container is limited, so neither file is read as a whole.
        let mut own = File::open("/proc/self/exe")?;
        let is_there = stamp.is_some() && is_copy(&own, &self.path).unwrap_or(false);
        if !is_there {
            self.refuse_downgrade()?;
            if self.known.is_some() {
                let what = if stamp.is_some() { "was changed" } else { "was removed" };
                warn(&format!("{path} {what} by someone else; it is written again"));
            }
            files::write_from(&self.path, &mut own, MODE)?;
        }
        if self.known.is_none() {
            say(&format!("installed {path}"));
        }
        self.known = Stamp::of(&self.path);
        Ok(())
    }
}

/// Values that change with a file's content, owner or permissions.
#[derive(Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    changed: (i64, i64),
}

impl Stamp {
    /// The stamp of a program that every user can run.
    fn of(path: &Path) -> Option<Self> {
        let metadata = path.symlink_metadata().ok()?;
        let is_program = metadata.is_file() && files::has_mode(&metadata, MODE);
        is_program.then(|| Self::from(&metadata))
    }
}

impl From<&Metadata> for Stamp {
    fn from(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// Whether a file has the same content as this program.
fn is_copy(own: &File, path: &Path) -> io::Result<bool> {
    let (copy, metadata) = files::open(path, Links::Refused)?;
    Ok(metadata.len() == own.metadata()?.len() && is_equal(BufReader::new(own), BufReader::new(copy))?)
}

fn is_equal(mut one: impl BufRead, mut other: impl BufRead) -> io::Result<bool> {
    loop {
        let (left, right) = (one.fill_buf()?, other.fill_buf()?);
        let common = left.len().min(right.len());
        if left[..common] != right[..common] {
            return Ok(false);
        }
        if common == 0 {
            return Ok(left.is_empty() && right.is_empty());
        }
        one.consume(common);
        other.consume(common);
    }
}
