//! The `SELinux` label of a file that replaces another one.
//!
//! A label is the extended attribute `security.selinux`. The label of a new file depends on the process that makes it. For a
//! process in a container, the label differs from that of the node's own programs, and a runtime may be forbidden to run the file.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use rustix::fs::{XattrFlags, fgetxattr, fsetxattr, lgetxattr};

use super::report::warn;

/// The name of the attribute.
const NAME: &str = "security.selinux";
/// The longest label, in bytes. Categories make labels long.
const MAX: usize = 4096;

/// Gives a new file the label of the regular file at `path`, which it will replace. If there is none, it gets the label of
/// `directory`, as a file that a program of the node makes there.
///
/// If the label cannot be set, this does not fail, because the kernel may have set a suitable one. If `SELinux` is enforced, there
/// is a warning.
pub(super) fn apply(file: &File, path: &Path, directory: &Path) {
    let is_file = path.symlink_metadata().is_ok_and(|metadata| metadata.is_file());
    let replaced = if is_file { label_at(path) } else { None };
    let Some(wanted) = replaced.or_else(|| label_at(directory)) else { return };
    if read(|buffer| fgetxattr(file, NAME, buffer)).as_ref() == Some(&wanted) {
        return;
    }
    if let Err(error) = fsetxattr(file, NAME, &wanted, XattrFlags::empty())
        && is_in_force()
    {
        let label = String::from_utf8_lossy(&wanted);
        let label = label.trim_end_matches('\0');
        warn(&format!("{} cannot be given the SELinux label {label}: {}", path.display(), io::Error::from(error)));
    }
}

fn label_at(path: &Path) -> Option<Vec<u8>> {
    read(|buffer| lgetxattr(path, NAME, buffer))
}

fn read(get: impl FnOnce(&mut [u8]) -> rustix::io::Result<usize>) -> Option<Vec<u8>> {
    let mut label = vec![0; MAX];
    let length = get(&mut label).ok()?;
    label.truncate(length);
    Some(label)
}

/// Whether `SELinux` is enabled in the kernel. Without it, a label has no effect.
fn is_in_force() -> bool {
    fs::read_to_string("/proc/filesystems").is_ok_and(|text| text.lines().any(|line| line.ends_with("selinuxfs")))
}
