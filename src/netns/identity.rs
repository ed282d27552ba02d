//! Which namespace a path leads to.

use std::ffi::OsStr;
use std::fs::{self, Metadata};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::sys::socket::getsockopt;
use nix::{getsockopt_impl, libc, sockopt_impl};
use serde::{Deserialize, Serialize};

use super::Netns;

sockopt_impl!(
    /// The cookie of the network namespace that a socket belongs to (Linux 5.14).
    NetnsCookie,
    GetOnly,
    libc::SOL_SOCKET,
    libc::SO_NETNS_COOKIE,
    u64
);

/// What identifies a network namespace.
///
/// A path does not: `/proc/PID/ns/net` leads to another namespace once the process is another. Nor do device and inode, except
/// among namespaces that exist at the same time: the kernel gives the number of a deleted namespace to the next one. The
/// cookie it gives once a boot.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct Identity {
    device: u64,
    inode: u64,
    /// Unknown before Linux 5.14, and to a process that may not enter the namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cookie: Option<u64>,
}

/// Whether two identities, taken at different times of one boot, are of the same namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sameness {
    /// They are.
    Same,
    /// They are not.
    Different,
    /// Device and inode are the same, which proves nothing, and a cookie is missing.
    Unknown,
}

impl Identity {
    /// The namespace that `path` leads to now.
    ///
    /// # Errors
    /// When it leads nowhere.
    pub fn of(path: &Path) -> io::Result<Self> {
        match Netns::open(path) {
            Ok(netns) => netns.identity(),
            // It is no namespace, or none that this process may enter.
            Err(_) => Self::of_file(path),
        }
    }

    /// The same without the cookie, which costs less. It only distinguishes namespaces that exist at the same time.
    ///
    /// # Errors
    /// When the path leads nowhere.
    pub fn of_file(path: &Path) -> io::Result<Self> {
        path.metadata().map(|metadata| Self::new(&metadata, None))
    }

    /// The identity of the namespace whose file has this metadata and whose cookie is `cookie`.
    pub(super) fn new(metadata: &Metadata, cookie: Option<u64>) -> Self {
        Self { device: metadata.dev(), inode: metadata.ino(), cookie }
    }

    /// What is known of another namespace that exists, by its inode alone.
    #[must_use]
    pub fn of_inode(&self, inode: u64) -> Self {
        Self { device: self.device, inode, cookie: None }
    }

    /// Its inode, as links in `/proc/PID/ns` name it.
    pub fn inode(&self) -> u64 {
        self.inode
    }

    /// Compares with the identity of a namespace that existed at another time of the same boot.
    pub fn compare(&self, other: &Self) -> Sameness {
        match (self.cookie, other.cookie) {
            (Some(one), Some(another)) if one == another => Sameness::Same,
            (Some(_), Some(_)) => Sameness::Different,
            _ if self.is_same_file(other) => Sameness::Unknown,
            _ => Sameness::Different,
        }
    }

    /// Whether device and inode are the same: of two namespaces that both exist now, that they are one.
    pub fn is_same_file(&self, other: &Self) -> bool {
        (self.device, self.inode) == (other.device, other.inode)
    }
}

/// Whether a namespace exists and no process is in it: a runtime may keep the namespace of a container until DEL has succeeded.
/// False where that cannot be known, as in a PID namespace, which hides the processes outside.
pub fn is_deserted(path: &Path) -> bool {
    let (true, Ok(netns), Ok(processes)) = (sees_all_processes(), Identity::of_file(path), fs::read_dir("/proc"))
    else {
        return false;
    };
    // The first process is the machine's own, and may have more rights than this one.
    let is_process = |name: &OsStr| name.as_bytes()[0].is_ascii_digit() && name != "1";
    !processes.flatten().filter(|entry| is_process(&entry.file_name())).any(|process| {
        match Identity::of_file(&process.path().join("ns/net")) {
            Ok(of_process) => of_process.is_same_file(&netns),
            // It has exited meanwhile, or is a zombie.
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            Err(_) => true,
        }
    })
}

/// Whether this process sees all others: a PID namespace hides the processes outside.
pub fn sees_all_processes() -> bool {
    // PROC_PID_INIT_INO of linux/proc_ns.h.
    const FIRST_PID_NAMESPACE: u64 = 0xEFFF_FFFC;
    Path::new("/proc/self/ns/pid").metadata().is_ok_and(|own| own.ino() == FIRST_PID_NAMESPACE)
}

/// The cookie of the namespace that a socket belongs to.
pub(super) fn cookie(socket: &impl AsFd) -> Option<u64> {
    getsockopt(socket, NetnsCookie).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(inode: u64, cookie: Option<u64>) -> Identity {
        Identity { device: 4, inode, cookie }
    }

    #[test]
    fn an_inode_proves_that_two_are_different_and_never_that_they_are_one() {
        assert_eq!(identity(1, None).compare(&identity(2, Some(7))), Sameness::Different);
        assert_eq!(identity(1, None).compare(&identity(1, Some(7))), Sameness::Unknown);
        assert_eq!(identity(1, None).compare(&identity(1, None)), Sameness::Unknown);
        assert_eq!(identity(1, Some(6)).compare(&identity(1, Some(7))), Sameness::Different);
        assert_eq!(identity(1, Some(7)).compare(&identity(1, Some(7))), Sameness::Same);
    }

    /// The cookie came with Linux 5.14, and this crate is developed on later ones.
    #[test]
    fn this_kernel_knows_cookies() {
        let own = Netns::current().unwrap().identity().unwrap();
        assert!(own.cookie.is_some_and(|cookie| cookie != 0), "{own:?}");
    }
}
