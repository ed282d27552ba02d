//! The file that describes the device of an attachment (NPWG device information specification, §3). It is written before the
//! attachment's first plugin runs, and removed once the attachment is undone. The plan in the journal contains its path.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde_json::value::RawValue;

use crate::plan::DeviceInfo;
use crate::runtime::load;

/// The largest description accepted, in bytes.
const MAX: u64 = 1 << 20;

/// Copies the description that the device plugin has written, if there is one.
pub(super) fn put(info: &DeviceInfo) -> io::Result<()> {
    let content = match info.source.as_deref().map(read_file) {
        None => None,
        Some(Err(error)) if error.kind() == io::ErrorKind::NotFound => None,
        Some(content) => Some(content?),
    };
    if let Some(directory) = info.file.parent() {
        DirBuilder::new().recursive(true).mode(0o755).create(directory)?;
    }
    let Some(content) = content else { return Ok(()) };
    let temporary = temporary(&info.file);
    // Left by a killed process that had the same process ID.
    drop(fs::remove_file(&temporary));
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o444).open(&temporary)?;
    let written = file.write_all(&content).and_then(|()| fs::rename(&temporary, &info.file));
    if written.is_err() {
        drop(fs::remove_file(&temporary));
    }
    written
}

/// Removes the description. Succeeds if it does not exist.
pub(super) fn remove(info: &DeviceInfo) -> io::Result<()> {
    match fs::remove_file(&info.file) {
        // If the directory's place is taken by another kind of file, the description cannot exist.
        Err(error) if !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Err(error),
        _ => Ok(()),
    }
}

/// The description, if there is one. A description that cannot be used is reported in the log.
pub fn read_device_info(info: &DeviceInfo) -> Option<Box<RawValue>> {
    let bytes = match read_file(&info.file) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => {
            tracing::warn!("the description of a device cannot be read: {error}");
            return None;
        }
    };
    serde_json::from_slice(&bytes)
        .inspect_err(|error| {
            tracing::warn!("the description of a device, {}, is not JSON: {error}", info.file.display());
        })
        .ok()
}

fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    load::read_regular_file(path, MAX)?.ok_or_else(|| {
        io::Error::other(format!("{} is not a regular file of at most {} MiB", path.display(), MAX >> 20))
    })
}

fn temporary(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(format!(".{}", std::process::id()));
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_description_that_is_too_large_is_not_cut() {
        let directory = tempfile::tempdir().unwrap();
        let info = DeviceInfo { file: directory.path().join("file"), source: Some(directory.path().join("source")) };
        let source = info.source.as_deref().unwrap();
        let mut text = vec![b' '; usize::try_from(MAX).unwrap()];
        text[0] = b'1';
        fs::write(source, &text).unwrap();
        put(&info).unwrap();
        assert_eq!(read_device_info(&info).unwrap().get(), "1");
        text.push(b' ');
        fs::write(source, &text).unwrap();
        assert!(put(&info).unwrap_err().to_string().contains("regular file of at most 1 MiB"));
        fs::write(&info.file, "x").unwrap();
        assert!(read_device_info(&info).is_none());
    }

    #[test]
    fn a_pipe_in_the_place_of_a_description_is_not_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let info = DeviceInfo { file: directory.path().join("file"), source: Some(directory.path().join("source")) };
        for pipe in [&info.file, info.source.as_ref().unwrap()] {
            nix::unistd::mkfifo(pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        }
        assert!(put(&info).unwrap_err().to_string().contains("is not a regular file"));
        assert!(read_device_info(&info).is_none());
    }

    #[test]
    fn what_a_killed_process_has_left_is_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let info = DeviceInfo { file: directory.path().join("file"), source: Some(directory.path().join("source")) };
        fs::write(info.source.as_deref().unwrap(), "{}").unwrap();
        fs::write(temporary(&info.file), "half").unwrap();
        put(&info).unwrap();
        assert_eq!(read_device_info(&info).unwrap().get(), "{}");
    }
}
