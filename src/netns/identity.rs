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
/// A path is not enough: `/proc/PID/ns/net` leads to another namespace when the process ID is reused. Device and inode distinguish
/// only namespaces that exist at the same time: the kernel reuses the number of a deleted namespace. The cookie is unique until the
/// machine is restarted.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct Identity {
    device: u64,
    inode: u64,
    /// Unknown before Linux 5.14, and if this process may not enter the namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cookie: Option<u64>,
}

/// Whether two identities, taken at different times of the same boot, are of the same namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sameness {
    /// They are.
    Same,
    /// They are not.
    Different,
    /// Device and inode are the same, which is not enough, and a cookie is missing.
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
            // It is not a namespace, or this process may not enter it.
            Err(_) => Self::of_file(path),
        }
    }

    /// The same without the cookie, which is cheaper. It only distinguishes namespaces that exist at the same time.
    ///
    /// # Errors
    /// When the path leads nowhere.
    pub fn of_file(path: &Path) -> io::Result<Self> {
        path.metadata().map(|metadata| Self::new(&metadata, None))
    }

    /// The identity of a namespace, given the metadata of its file and its `cookie`.
    pub(super) fn new(metadata: &Metadata, cookie: Option<u64>) -> Self {
        Self { device: metadata.dev(), inode: metadata.ino(), cookie }
    }

    /// The identity of an existing namespace of which only the inode is known.
    #[must_use]
    pub fn of_inode(&self, inode: u64) -> Self {
        Self { device: self.device, inode, cookie: None }
    }

    /// Its inode, as in the links of `/proc/PID/ns`.
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

    /// Whether device and inode are the same. Two namespaces that both exist now are then the same.
    pub fn is_same_file(&self, other: &Self) -> bool {
        (self.device, self.inode) == (other.device, other.inode)
    }
}

/// Whether a namespace exists and has no process in it: a runtime may keep a container's namespace until DEL has succeeded. False
/// if this is not known, as in a PID namespace, which hides the processes outside.
pub fn has_no_process(path: &Path) -> bool {
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

/// Whether this process sees all other processes. A PID namespace hides those outside.
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

    /// The cookie exists since Linux 5.14, and the tests run on later kernels.
    #[test]
    fn this_kernel_knows_cookies() {
        let own = Netns::current().unwrap().identity().unwrap();
        assert!(own.cookie.is_some_and(|cookie| cookie != 0), "{own:?}");
    }
}
