//! Opening a network namespace.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt,
    path::Path,
    thread,
};

use nix::{
    errno::Errno,
    libc,
    sched::{CloneFlags, setns},
    sys::statfs::{NSFS_MAGIC, fstatfs},
};

use super::{Identity, NetlinkError, NetnsError, socket::RouteSocket};
use crate::runtime::own_network_namespace;

/// The namespace of the calling thread.
const OF_THIS_THREAD: &str = "/proc/thread-self/ns/net";

/// An open network namespace: a route-netlink socket that was created inside it.
///
/// The socket keeps the namespace alive, so no request can affect another namespace that now has the same path.
#[derive(Debug)]
pub struct Netns {
    /// How errors name the namespace.
    pub(super) name: String,
    /// The namespace's file.
    pub(super) file: File,
    pub(super) socket: RouteSocket,
}

impl Netns {
    /// Opens the namespace at `path` (`CNI_NETNS`), such as `/var/run/netns/NAME` or `/proc/PID/ns/net`.
    ///
    /// A short-lived thread enters the namespace to create the socket. If the calling thread entered and could not return, its
    /// later work would happen in the container.
    ///
    /// # Errors
    ///
    /// [`Gone`](NetnsError::Gone) if there is nothing at the path or its process has exited,
    /// [`NotANamespace`](NetnsError::NotANamespace) if it is something else, [`Forbidden`](NetnsError::Forbidden) without the right
    /// to enter it.
    pub fn open(path: &Path) -> Result<Self, NetnsError> {
        // Does not block, in case the path is a named pipe without a writer.
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(path)
            .map_err(|source| opening(path, source))?;
        let filesystem = fstatfs(&file).map_err(|errno| opening(path, errno.into()))?;
        if filesystem.filesystem_type() != NSFS_MAGIC {
            return Err(NetnsError::NotANamespace { path: path.into() });
        }
        let socket = socket_by_thread(&file, path)?;
        Ok(Self { name: path.display().to_string(), file, socket })
    }

    /// Opens the namespace of the calling thread.
    pub fn current() -> Result<Self, NetnsError> {
        let failed = |source| NetnsError::Open { path: OF_THIS_THREAD.into(), source };
        let file = File::open(OF_THIS_THREAD).map_err(failed)?;
        let socket = RouteSocket::open().map_err(failed)?;
        Ok(Self { name: "this process's network namespace".into(), file, socket })
    }

    /// Which namespace it is.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn identity(&self) -> io::Result<Identity> {
        self.file.metadata().map(|metadata| Identity::new(&metadata, self.socket.netns_cookie()))
    }

    /// Makes the error for a failed request, with the attempted action.
    pub(super) fn failed(&self, action: impl Into<String>) -> impl FnOnce(NetlinkError) -> NetnsError {
        let (netns, action) = (self.name.clone(), action.into());
        move |source| NetnsError::Netlink { netns, action, source }
    }
}

/// The network namespace of the calling thread.
#[derive(Debug)]
pub struct OwnNetns(File);

impl OwnNetns {
    /// Opens it.
    ///
    /// # Errors
    /// Without `/proc`, and with no descriptor left.
    pub fn of_this_thread() -> io::Result<Self> {
        // The way through /proc takes three times as long.
        own_network_namespace().map(File::from).or_else(|_| File::open(OF_THIS_THREAD)).map(Self)
    }

    /// Whether `path` leads to it.
    pub fn is_at(&self, path: &Path) -> bool {
        let own = self.0.metadata().map(|metadata| Identity::new(&metadata, None));
        matches!((own, Identity::of_file(path)), (Ok(own), Ok(other)) if own.is_same_file(&other))
    }
}

/// Starts a thread that enters the namespace, creates the socket and ends.
fn socket_by_thread(namespace: &File, path: &Path) -> Result<RouteSocket, NetnsError> {
    thread::scope(|scope| {
        thread::Builder::new()
            .name("netns".into())
            .spawn_scoped(scope, || socket_inside(namespace, path))
            .map_err(|source| NetnsError::Open { path: path.into(), source })?
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Runs a function in the namespace at `path`, in a short-lived thread.
pub(super) fn inside<T: Send>(path: &Path, work: impl FnOnce() -> T + Send) -> Result<T, NetnsError> {
    let namespace = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
        .map_err(|source| opening(path, source))?;
    thread::scope(|scope| {
        let enter_and_work = || enter(&namespace, path).map(|()| work());
        thread::Builder::new()
            .name("netns".into())
            .spawn_scoped(scope, enter_and_work)
            .map_err(|source| NetnsError::Open { path: path.into(), source })?
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Moves the calling thread into the namespace.
fn enter(namespace: &File, path: &Path) -> Result<(), NetnsError> {
    setns(namespace, CloneFlags::CLONE_NEWNET).map_err(|errno| match errno {
        // A namespace, but of another kind.
        Errno::EINVAL => NetnsError::NotANamespace { path: path.into() },
        errno => opening(path, errno.into()),
    })
}

/// Moves the calling thread into the namespace, and opens a socket there.
fn socket_inside(namespace: &File, path: &Path) -> Result<RouteSocket, NetnsError> {
    enter(namespace, path)?;
    RouteSocket::open().map_err(|source| NetnsError::Open { path: path.into(), source })
}

/// Finds out why a namespace cannot be opened.
fn opening(path: &Path, source: io::Error) -> NetnsError {
    let path = path.into();
    match source.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ENOENT | Errno::ENOTDIR | Errno::ESRCH | Errno::ENAMETOOLONG | Errno::ELOOP) => {
            NetnsError::Gone { path }
        }
        Some(Errno::EPERM | Errno::EACCES) => NetnsError::Forbidden { path, source },
        _ => NetnsError::Open { path, source },
    }
}
