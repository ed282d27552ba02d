//! Waiting for processes.

#![expect(unsafe_code, reason = "these calls have no safe wrapper; each use says why it is sound")]

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::{Pid, gettid};

use crate::runtime::deadline;

/// How often Braid first checks whether a process has exited, if the kernel does not report it. The pause doubles each time.
pub(in crate::runtime) const FIRST_INTERVAL: Duration = Duration::from_millis(1);
/// The longest pause between two checks.
pub(in crate::runtime) const LAST_INTERVAL: Duration = Duration::from_millis(32);

/// A descriptor that becomes readable when the process `pid` exits (Linux 5.3).
///
/// # Errors
/// When there is no such process.
pub fn pidfd(pid: Pid) -> io::Result<OwnedFd> {
    open_pidfd(pid, 0)
}

fn open_pidfd(pid: Pid, flags: libc::c_uint) -> io::Result<OwnedFd> {
    // SAFETY: the call takes two integers and touches no memory of this process.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), flags) };
    let fd = RawFd::try_from(Errno::result(fd)?).map_err(io::Error::other)?;
    // SAFETY: the kernel has just returned this descriptor, and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Opens the network namespace of the calling thread (Linux 6.11).
pub(crate) fn own_network_namespace() -> io::Result<OwnedFd> {
    // linux/pidfd.h: PIDFD_THREAD, and PIDFD_GET_NET_NAMESPACE, which is _IO(0xFF, 4).
    const OF_A_THREAD: libc::c_uint = libc::O_EXCL.cast_unsigned();
    const GET: libc::Ioctl = 0xFF04;
    let thread = open_pidfd(gettid(), OF_A_THREAD)?;
    // SAFETY: the request takes no memory of this process. A kernel that does not know it returns an error.
    let fd = Errno::result(unsafe { libc::ioctl(thread.as_raw_fd(), GET, 0) })?;
    // SAFETY: the kernel has just returned this descriptor, and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Waits until a child process has exited, and reaps it.
pub(in crate::runtime) fn wait(pid: Pid) -> io::Result<ExitStatus> {
    loop {
        if let Some(status) = take_status(pid, 0)? {
            return Ok(status);
        }
    }
}

/// Waits until a child process has exited, but not longer than `at_most`, and reaps it.
pub(in crate::runtime) fn wait_at_most(pid: Pid, at_most: Duration) -> io::Result<Option<ExitStatus>> {
    if let Some(status) = take_status(pid, libc::WNOHANG)? {
        return Ok(Some(status));
    }
    let until = deadline::after(at_most);
    let exit = pidfd(pid).ok();
    let mut interval = FIRST_INTERVAL;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let patience = if exit.is_some() { left } else { left.min(interval) };
        let mut fds: Vec<_> = exit.iter().map(|fd| PollFd::new(fd.as_fd(), PollFlags::POLLIN)).collect();
        // The outcome of the poll does not matter: the process's status is checked each time.
        let _ = poll(&mut fds, poll_timeout(Some(patience)));
        let status = take_status(pid, libc::WNOHANG)?;
        if status.is_some() || left.is_zero() {
            return Ok(status);
        }
        interval = (interval * 2).min(LAST_INTERVAL);
    }
}

/// Reaps a child process if it has exited, and returns its status.
fn take_status(pid: Pid, flags: libc::c_int) -> io::Result<Option<ExitStatus>> {
    let mut status = 0;
    // SAFETY: the call writes one integer to a valid place. nix's wrapper rejects signals that it has no name for.
    match Errno::result(unsafe { libc::waitpid(pid.as_raw(), &raw mut status, flags) }) {
        Ok(0) | Err(Errno::EINTR) => Ok(None),
        Ok(_) => Ok(Some(ExitStatus::from_raw(status))),
        Err(error) => Err(error.into()),
    }
}

/// Whether a child process has exited. It is not reaped.
pub(in crate::runtime) fn has_exited(pid: Pid) -> bool {
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    !matches!(waitid(Id::Pid(pid), flags), Ok(WaitStatus::StillAlive))
}

/// Whether a child process has exited with this status. It is not reaped.
pub(in crate::runtime) fn has_exited_with(pid: Pid, status: i32) -> bool {
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    matches!(waitid(Id::Pid(pid), flags), Ok(WaitStatus::Exited(_, with)) if with == status)
}

/// A poll time-out, rounded up to whole milliseconds.
pub(in crate::runtime) fn poll_timeout(left: Option<Duration>) -> PollTimeout {
    let Some(left) = left else { return PollTimeout::NONE };
    let millis = left.as_micros().div_ceil(1000);
    PollTimeout::try_from(i32::try_from(millis).unwrap_or(i32::MAX)).unwrap_or(PollTimeout::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_pidfd_reports_the_exit_of_a_process() {
        let mut child = Command::new("sleep").arg("0").spawn().unwrap();
        let fd = pidfd(Pid::from_raw(child.id().cast_signed())).unwrap();
        let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
        assert_eq!(poll(&mut fds, PollTimeout::from(20_000u16)).unwrap(), 1);
        child.wait().unwrap();
    }

    #[test]
    fn a_process_that_does_not_end_is_not_waited_for_for_ever() {
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let pid = Pid::from_raw(child.id().cast_signed());
        assert!(wait_at_most(pid, Duration::from_millis(10)).unwrap().is_none());
        child.kill().unwrap();
        assert!(wait_at_most(pid, Duration::from_secs(20)).unwrap().is_some());
        child.wait().unwrap_err();
    }
}
