//! What this process may have been started with.

#![expect(unsafe_code, reason = "these calls have no safe wrapper; each use says why it is sound")]

use std::os::fd::{AsRawFd, RawFd};

use nix::libc;
use nix::sys::signal::{SigHandler, Signal, signal};
use rustix::fs::{Mode, OFlags};

/// Puts something that cannot be written in the place of a standard output that is closed. It runs before `main`.
pub(crate) fn refuse_closed_stdout() {
    if rustix::io::fcntl_getfd(rustix::stdio::stdout()).is_ok() {
        return;
    }
    // Where standard input is closed too, this is its number until it is closed again.
    if let Ok(full) = rustix::fs::open(c"/dev/full", OFlags::WRONLY, Mode::empty()) {
        let _ = rustix::stdio::dup2_stdout(&full);
        if full.as_raw_fd() == nix::libc::STDOUT_FILENO {
            std::mem::forget(full);
        }
    }
}

/// Undoes what a careless parent may have left to this process, and would turn against it: with `SIGCHLD` ignored no plugin could
/// be waited for, and a limit on the size of files would kill this process half-way, where writing can fail instead.
pub(crate) fn reset_signals() {
    extern "C" fn go_on(_: libc::c_int) {}
    // SAFETY: neither replaces a handler of this process's own, and the one that is set does nothing. It is a handler, and
    // not that the signal is ignored, since plugins would inherit that.
    unsafe {
        let _ = signal(Signal::SIGCHLD, SigHandler::SigDfl);
        let _ = signal(Signal::SIGXFSZ, SigHandler::Handler(go_on));
    }
}

/// Keeps the descriptors that this process was started with, beyond the three of the protocol, from those it starts. This
/// process's own are never passed on.
pub(crate) fn keep_descriptors_from_plugins() {
    // SAFETY: sets a flag of descriptors and closes none.
    let outcome = unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    if outcome == 0 {
        return;
    }
    // A kernel before 5.11, or a sandbox that forbids this.
    for fd in std::fs::read_dir("/proc/self/fd").into_iter().flatten().flatten() {
        let fd: Option<RawFd> = fd.file_name().to_str().and_then(|name| name.parse().ok());
        // SAFETY: as above.
        fd.filter(|fd| *fd > 2).map(|fd| unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) });
    }
}
