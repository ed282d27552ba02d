//! The few calls into the kernel that neither the standard library nor nix wraps safely: the one module of the crate
//! with `unsafe` in it.
//!
//! All but [`start_writing`] are about the same promise: no plugin runs on after the process that called it is dead. A [`Leash`] is a
//! small child process that leads the process group which plugins are started in. When its parent dies, however it
//! dies, the leash kills the whole group, the plugins' own children included. It also keeps the caller's lock files
//! open until then, so that whoever waits for those locks starts only after the last plugin has been killed.

#![expect(unsafe_code, reason = "these calls have no safe wrapper; each use says why it is sound")]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid, fork, getppid, setpgid};

/// Opens a descriptor that becomes readable when the process `pid` ends.
pub(super) fn pidfd_open(pid: Pid) -> io::Result<OwnedFd> {
    // SAFETY: the call takes two integers and touches no memory of ours.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) };
    let fd = RawFd::try_from(Errno::result(fd)?).map_err(io::Error::other)?;
    // SAFETY: the kernel has just given us this descriptor, and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Has the disk begin to write what `file` holds, and does not wait for it. What is to be durable must still be synced;
/// by then much of the way has been gone.
pub(crate) fn start_writing(file: BorrowedFd<'_>) {
    // SAFETY: the call takes integers and touches no memory of ours. That it may fail is no matter: syncing tells.
    unsafe { libc::sync_file_range(file.as_raw_fd(), 0, 0, libc::SYNC_FILE_RANGE_WRITE) };
}

/// A process group that dies with this process.
#[derive(Debug)]
pub(super) struct Leash {
    leader: Pid,
}

impl Leash {
    /// Starts the group's leader. Of this process's descriptors it keeps `keep` open and no other.
    pub(super) fn new(keep: &[BorrowedFd<'_>]) -> io::Result<Self> {
        let parent = pidfd_open(Pid::this())?;
        let parent_pid = Pid::this();
        let mut keep: Vec<RawFd> = keep.iter().map(AsRawFd::as_raw_fd).chain([parent.as_raw_fd()]).collect();
        keep.sort_unstable();
        // SAFETY: the child only makes system calls that are safe after a fork from a process with threads: it takes
        // no lock, allocates nothing and never returns from `hold`.
        match unsafe { fork() }? {
            ForkResult::Child => hold(&parent, parent_pid, &keep),
            ForkResult::Parent { child } => {
                // Both sides set the group, so that it is there whichever of them runs first.
                match setpgid(child, child) {
                    Ok(()) | Err(Errno::EACCES | Errno::ESRCH) => Ok(Self { leader: child }),
                    Err(error) => Err(error.into()),
                }
            }
        }
    }

    /// The group's ID, to start plugins in.
    pub(super) fn group(&self) -> i32 {
        self.leader.as_raw()
    }

    /// Has the leader end, and does not wait for that as `drop` does.
    pub(super) fn begin_to_end(&self) {
        // The leader alone: what a plugin has left running on purpose stays.
        let _ = kill(self.leader, Signal::SIGKILL);
    }

    /// Kills everything in the group.
    pub(super) fn kill_group(self) {
        let _ = killpg(self.leader, Signal::SIGKILL);
        // `drop` reaps the leader.
    }
}

impl Drop for Leash {
    fn drop(&mut self) {
        self.begin_to_end();
        let _ = waitpid(self.leader, None);
    }
}

/// The leader's life: wait for the parent to end, then kill the group.
fn hold(parent: &OwnedFd, parent_pid: Pid, keep: &[RawFd]) -> ! {
    let leader = Pid::this();
    let _ = setpgid(leader, leader);
    let mut from: libc::c_uint = 0;
    for fd in keep {
        let fd = fd.cast_unsigned();
        if fd > from {
            close_range(from, fd - 1);
        }
        from = fd + 1;
    }
    close_range(from, libc::c_uint::MAX);
    if getppid() == parent_pid {
        let mut fds = [PollFd::new(parent.as_fd(), PollFlags::POLLIN)];
        while let Err(Errno::EINTR | Errno::EAGAIN) = poll(&mut fds, PollTimeout::NONE) {}
    }
    let _ = killpg(leader, Signal::SIGKILL);
    // SAFETY: ends this process without running anything of the parent's.
    unsafe { libc::_exit(0) }
}

fn close_range(first: libc::c_uint, last: libc::c_uint) {
    // SAFETY: closes descriptors of this process, which uses none of them any more.
    unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
}

/// A poll time-out, rounded up to whole milliseconds.
pub(super) fn poll_timeout(left: Option<Duration>) -> PollTimeout {
    let Some(left) = left else { return PollTimeout::NONE };
    let millis = left.as_micros().div_ceil(1000);
    PollTimeout::try_from(i32::try_from(millis).unwrap_or(i32::MAX)).unwrap_or(PollTimeout::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::CommandExt;
    use std::process::{Command, Stdio};

    #[test]
    fn a_pidfd_tells_the_end_of_a_process() {
        let mut child = Command::new("sleep").arg("0").spawn().unwrap();
        let fd = pidfd_open(Pid::from_raw(child.id().cast_signed())).unwrap();
        let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
        assert_eq!(poll(&mut fds, PollTimeout::from(5000u16)).unwrap(), 1);
        child.wait().unwrap();
    }

    #[test]
    fn killing_the_group_kills_grandchildren() {
        let leash = Leash::new(&[]).unwrap();
        let mut child = Command::new("sh")
            .args(["-c", "sleep 1000 & wait"])
            .process_group(leash.group())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let group = leash.group();
        leash.kill_group();
        assert!(!child.wait().unwrap().success());
        // The sleeping grandchild is init's to reap now; the group is empty once that is done.
        for _ in 0..500 {
            if killpg(Pid::from_raw(group), None).is_err() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("the process group {group} still has members");
    }

    #[test]
    fn letting_go_leaves_the_group_alone() {
        let leash = Leash::new(&[]).unwrap();
        let mut child = Command::new("sleep").arg("1000").process_group(leash.group()).spawn().unwrap();
        drop(leash);
        assert!(child.try_wait().unwrap().is_none());
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
