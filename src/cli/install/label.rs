//! The `SELinux` label of a file that takes the place of another.
//!
//! A label is the extended attribute `security.selinux`. A new file gets one by the rules for the process that makes it. In a
//! container these are not the rules for the node's own programs, and a runtime may be forbidden to run what they label.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use rustix::fs::{XattrFlags, fgetxattr, fsetxattr, lgetxattr};

use super::report::warn;

/// The name of the attribute.
const NAME: &str = "security.selinux";
/// The longest label, in bytes: categories make them long.
const MAX: usize = 4096;

/// Gives a new file the label of the regular file at `path`, whose place it is to take. If there is none, it gets the label of
/// `directory`, as a file has that a program of the node makes there.
///
/// A label that cannot be set is no reason to fail, because the kernel's rules may have set a good one. Where `SELinux` is in
/// force, there is a warning.
pub(super) fn keep(file: &File, path: &Path, directory: &Path) {
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
        warn(&format!("{} does not get the SELinux label {label}: {}", path.display(), io::Error::from(error)));
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

/// Whether `SELinux` is switched on in the kernel. Without it a label is an attribute like any other.
fn is_in_force() -> bool {
    fs::read_to_string("/proc/filesystems").is_ok_and(|text| text.lines().any(|line| line.ends_with("selinuxfs")))
}
