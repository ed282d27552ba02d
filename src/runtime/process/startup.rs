//! Repairs the state in which this process was started.

#![expect(unsafe_code, reason = "these calls have no safe wrapper; each use says why it is sound")]

use std::os::fd::{AsRawFd, RawFd};

use nix::libc;
use nix::sys::signal::{SigHandler, Signal, signal};
use rustix::fs::{Mode, OFlags};

/// Replaces a closed standard output with something that cannot be written. It runs before `main`.
pub(crate) fn refuse_closed_stdout() {
    if rustix::io::fcntl_getfd(rustix::stdio::stdout()).is_ok() {
        return;
    }
    // If standard input is closed too, the file opened here gets its number.
    if let Ok(full) = rustix::fs::open(c"/dev/full", OFlags::WRONLY, Mode::empty()) {
        let _ = rustix::stdio::dup2_stdout(&full);
        if full.as_raw_fd() == nix::libc::STDOUT_FILENO {
            std::mem::forget(full);
        }
    }
}

/// Resets what a careless parent process may have changed: with `SIGCHLD` ignored, Braid could not wait for plugins, and with a
/// limit on file sizes, a write would kill Braid instead of failing.
pub(crate) fn reset_signals() {
    extern "C" fn ignore_signal(_: libc::c_int) {}
    // SAFETY: neither call replaces a handler of this process, and the handler that is set does nothing. A handler is set rather
    // than ignoring the signal, because plugins would inherit an ignored signal.
    unsafe {
        let _ = signal(Signal::SIGCHLD, SigHandler::SigDfl);
        let _ = signal(Signal::SIGXFSZ, SigHandler::Handler(ignore_signal));
    }
}

/// Prevents child processes from inheriting the descriptors that this process was started with, apart from the three of the
/// protocol. Descriptors that this process opens itself are never inherited.
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
