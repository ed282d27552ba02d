//! Writes files completely or not at all, and reads them without trusting what is in their place.
//!
//! A file is written under a random name beside its place, and then renamed. It is closed before that, because the kernel refuses
//! to run a program that is open for writing. While the temporary file is being written, it is locked, so that another installer
//! can tell it from one that a killed installer has left.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Cursor, Read, Seek, Write as _};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::libc::{O_CLOEXEC, O_NOFOLLOW, O_NONBLOCK};
use nix::unistd::{AccessFlags, access, geteuid};

use super::label;

/// The largest file that is read as a whole, in bytes.
const MAX_SIZE: u64 = 1 << 20;
/// The size of each write: a program that is in many small pieces of the page cache is slower to start.
const PIECE: u64 = 1 << 20;
/// How many times a file is written again if its temporary file has disappeared before it was renamed.
const ATTEMPTS: u32 = 5;
/// The ending of temporary names. Runtimes ignore files with this ending.
const TEMPORARY: &str = ".tmp";

/// Whether to follow a link in the place of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Links {
    /// Followed: Kubernetes mounts the files of a service account as links.
    Followed,
    /// It counts as something else than a file.
    Refused,
}

/// Opens a regular file for reading. Anything else is an error. Does not wait for the writer of a named pipe.
pub(super) fn open(path: &Path, links: Links) -> io::Result<(File, Metadata)> {
    let no_follow = if links == Links::Refused { O_NOFOLLOW } else { 0 };
    let file = OpenOptions::new().read(true).custom_flags(O_CLOEXEC | O_NONBLOCK | no_follow).open(path)?;
    let metadata = file.metadata()?;
    if metadata.is_file() { Ok((file, metadata)) } else { Err(io::Error::other("it is not a regular file")) }
}

/// Reads a regular file of bounded size.
pub(super) fn read(path: &Path, links: Links) -> io::Result<Vec<u8>> {
    let (file, _) = open(path, links)?;
    let mut bytes = Vec::new();
    file.take(MAX_SIZE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_SIZE {
        return Err(io::Error::other(format!("it is larger than {} MiB", MAX_SIZE >> 20)));
    }
    Ok(bytes)
}

/// Whether a file belongs to this user and has exactly these permissions.
pub(super) fn has_mode(metadata: &Metadata, mode: u32) -> bool {
    metadata.mode() & 0o7777 == mode && metadata.uid() == geteuid().as_raw()
}

/// Whether a file exists with this content and these permissions.
pub(super) fn is_as(path: &Path, content: &[u8], mode: u32) -> bool {
    let is_ours = open(path, Links::Refused).is_ok_and(|(_, metadata)| has_mode(&metadata, mode));
    is_ours && read(path, Links::Refused).is_ok_and(|now| now == content)
}

/// Writes a file completely or not at all, and replaces whatever is in its place.
pub(super) fn write(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    write_from(path, &mut Cursor::new(content), mode)
}

/// Copies another file completely or not at all.
pub(super) fn write_from(path: &Path, content: &mut (impl Read + Seek), mode: u32) -> io::Result<()> {
    let directory = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    for attempt in 1.. {
        match write_beside(path, directory, content, mode) {
            // Another installer has removed it as left behind, because it was not locked yet, or no longer locked.
            Err(error) if error.kind() == io::ErrorKind::NotFound && directory.is_dir() && attempt < ATTEMPTS => {}
            Err(error) => return Err(error),
            Ok(()) => break,
        }
    }
    File::open(directory)?.sync_all()
}

fn write_beside(path: &Path, directory: &Path, content: &mut (impl Read + Seek), mode: u32) -> io::Result<()> {
    content.rewind()?;
    let create = |path: &Path| {
        // For nobody else until it is whole.
        let flags = O_CLOEXEC | O_NOFOLLOW;
        OpenOptions::new().write(true).create_new(true).mode(0o600).custom_flags(flags).open(path)
    };
    let temporary = tempfile::Builder::new().prefix(&prefix_of(path)).suffix(TEMPORARY).make_in(directory, create)?;
    // A read-only descriptor keeps the lock when the writer is closed.
    let (locked, _) = open(temporary.path(), Links::Refused)?;
    locked.try_lock().map_err(io::Error::from)?;
    let (mut file, temporary) = temporary.into_parts();
    let mut piece = Vec::new();
    while content.by_ref().take(PIECE).read_to_end(&mut piece)? > 0 {
        file.write_all(&piece)?;
        piece.clear();
    }
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    label::apply(&file, path, directory);
    file.sync_all()?;
    drop(file);
    Ok(temporary.persist(path)?)
}

/// The beginning of the names of a file's temporary files.
fn prefix_of(path: &Path) -> String {
    format!(".{}.", path.file_name().unwrap_or_default().display())
}

/// Whether a file could be written, or why not: the errors with which [`write`] would fail before changing anything.
pub(super) fn could_write(path: &Path) -> io::Result<()> {
    if path.symlink_metadata().is_ok_and(|metadata| metadata.is_dir()) {
        return Err(io::Error::from(io::ErrorKind::IsADirectory));
    }
    Ok(access(path.parent().unwrap_or(path), AccessFlags::W_OK | AccessFlags::X_OK)?)
}

/// Removes temporary files that killed installers have left beside a file.
pub(super) fn remove_temporaries(path: &Path) {
    for path in temporaries(path) {
        drop(fs::remove_file(path));
    }
}

/// The temporary files that killed installers have left beside a file.
pub(super) fn temporaries(path: &Path) -> Vec<PathBuf> {
    let prefix = prefix_of(path);
    let entries = path.parent().map(fs::read_dir).into_iter().flatten().flatten().flatten();
    let names = entries.filter(|entry| {
        let name = entry.file_name();
        name.to_str().is_some_and(|name| name.starts_with(&prefix) && name.ends_with(TEMPORARY))
    });
    let left = names.filter(|entry| match open(&entry.path(), Links::Refused) {
        Ok((file, _)) => file.try_lock().is_ok(),
        // A link. No installer makes one, and none follows it.
        Err(_) => entry.file_type().is_ok_and(|kind| kind.is_symlink()),
    });
    left.map(|entry| entry.path()).collect()
}

/// What would happen to a file, and its future content.
#[derive(Debug)]
pub(super) enum Change {
    /// It is not there, and is made.
    Write(String),
    /// Something else exists, and would be replaced.
    Replace(String),
    /// It is there already.
    Leave(String),
}

impl Change {
    /// What would happen to the file at `path`, whose content should be `wanted`.
    pub(super) fn of(path: &Path, is_there: bool, wanted: &str) -> Self {
        let is_taken = path.symlink_metadata().is_ok();
        let change = if is_there {
            Self::Leave
        } else if is_taken {
            Self::Replace
        } else {
            Self::Write
        };
        change(wanted.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_file_is_written_over_whatever_is_in_its_place() {
        let dir = tempfile::tempdir().unwrap();
        let (path, other) = (dir.path().join("f"), dir.path().join("other"));
        fs::write(&other, "kept").unwrap();
        symlink(&other, &path).unwrap();
        assert!(!is_as(&path, b"kept", 0o644), "a link is no file");
        write(&path, b"new", 0o600).unwrap();
        assert!(is_as(&path, b"new", 0o600));
        assert_eq!(fs::read_to_string(&other).unwrap(), "kept");
        fs::remove_file(&path).unwrap();
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(!is_as(&path, b"", 0o700) && read(&path, Links::Followed).is_err(), "nobody waits for its writer");
        write(&path, b"new", 0o755).unwrap();
        assert!(is_as(&path, b"new", 0o755));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(!is_as(&path, b"new", 0o755), "its mode is wrong");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "no temporary stays");
    }

    #[test]
    fn only_temporaries_of_dead_installers_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let names = [".f.1.tmp", ".f.dead00.tmp", ".f.living.tmp", ".f.link.tmp", ".g.dead00.tmp", "f.tmp"];
        let file = |index: usize| dir.path().join(names[index]);
        for index in [0, 1, 2, 4, 5] {
            fs::write(file(index), "").unwrap();
        }
        symlink(file(5), file(3)).unwrap();
        let living = File::open(file(2)).unwrap();
        living.lock().unwrap();
        remove_temporaries(&path);
        let stays = names.map(|name| dir.path().join(name).symlink_metadata().is_ok());
        assert_eq!(stays, [false, false, true, false, true, true]);
    }

    #[test]
    fn installers_at_once_write_whole_files() {
        let dir = tempfile::tempdir().unwrap();
        let path = &dir.path().join("f");
        std::thread::scope(|scope| {
            for letter in *b"abcd" {
                scope.spawn(move || {
                    for _ in 0..10 {
                        write(path, &vec![letter; 100_000], 0o600).unwrap();
                        remove_temporaries(path);
                        let found = read(path, Links::Refused).unwrap();
                        assert!(found.len() == 100_000 && found.iter().all(|byte| *byte == found[0]));
                    }
                });
            }
        });
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
