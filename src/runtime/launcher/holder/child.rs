//! The program of the holder's process. The process was forked from one with several threads, so it takes no lock and allocates
//! nothing.

#![expect(unsafe_code, reason = "to fork has no safe wrapper; each use says why it is sound")]

use std::os::fd::{BorrowedFd, OwnedFd, RawFd};
use std::time::Duration;

use nix::libc;
use nix::sys::signal::{SigSet, SigmaskHow};
use nix::unistd::{ForkResult, Pid, fork, getpgrp};
use rustix::fs::{fsync, renameat};
use rustix::process as raw;

use super::super::disk_work::DiskWork;
use super::super::group::wait_until_empty;
use super::grace::Grace;
use super::lifeline::{CLOSE_INPUT, KEEP_INPUT_OPEN, read_order};
use super::sync_outcome::report;

/// How long the holder waits until the processes that it has killed are gone. Only a process that hangs in the kernel takes long.
const DYING: Duration = Duration::from_secs(10);

/// What a holder has to know.
pub(super) struct Arguments<'a> {
    /// The work that the holder does first, in order, and the pipe for its outcome.
    pub(super) work: &'a [DiskWork],
    pub(super) outcome: BorrowedFd<'a>,
    pub(super) lifeline: BorrowedFd<'a>,
    /// The descriptors that stay open during the work, and those that stay open afterwards. Both are sorted.
    pub(super) open_at_first: Vec<RawFd>,
    pub(super) open: Vec<RawFd>,
    /// The process group of the holder's parent. If the parent is in a PID namespace, this may be 0.
    pub(super) caller: Pid,
    pub(super) grace: Grace,
}

/// Forks the holder's process.
///
/// # Errors
/// When there can be no such process.
pub(super) fn start(arguments: &Arguments<'_>) -> nix::Result<Pid> {
    // A service manager that terminates all of Braid's processes signals the plugins too, and one of them may ignore the signal. So
    // the holder must stay. The parent's signal handlers must not run in it either.
    let mask = SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK)?;
    // SAFETY: the child runs `run_holder`, which takes no lock, allocates nothing and never returns.
    let forked = match unsafe { fork() } {
        Ok(ForkResult::Child) => run_holder(arguments),
        Ok(ForkResult::Parent { child }) => Ok(child),
        Err(error) => Err(error),
    };
    mask.thread_set_mask()?;
    forked
}

/// All that a holder does: it does its work, and waits until the parent dies or dismisses it. If the parent has died, the holder
/// kills its group. The parent decides which group that is. If no plugin was started, the holder is still in the parent's group,
/// and kills nothing.
fn run_holder(arguments: &Arguments<'_>) -> ! {
    let Arguments { work, outcome, lifeline, open_at_first, open, caller, grace } = arguments;
    close_all_but(open_at_first);
    if !work.is_empty() {
        let done = work.iter().try_for_each(|work| match work {
            DiskWork::Sync(file) => fsync(file),
            DiskWork::Rename { directory, from, to } => renameat(directory, from, directory, to),
        });
        report(done, *outcome);
    }
    close_all_but(open);
    let mut input: Option<OwnedFd> = None;
    loop {
        match read_order(*lifeline, &mut input) {
            Err(rustix::io::Errno::INTR) | Ok(Some(KEEP_INPUT_OPEN)) => {}
            Ok(Some(CLOSE_INPUT)) => input = None,
            Ok(Some(_)) => break,
            // A plugin that still waits for its input has done nothing that it would have to finish.
            Ok(None) | Err(_) => {
                let period = if input.is_some() { Duration::ZERO } else { grace.period() };
                end_group(*caller, period);
                break;
            }
        }
    }
    // SAFETY: ends this process, and runs no exit handlers of the parent.
    unsafe { libc::_exit(0) }
}

/// Waits for up to `period` until all processes of the holder's group have exited, and then kills the rest.
fn end_group(caller: Pid, period: Duration) {
    let group = getpgrp();
    let group = raw::Pid::from_raw(group.as_raw()).filter(|_| group != caller);
    // The holder leaves the group, so that it does not kill itself.
    if let Some(group) = group.filter(|_| raw::setpgid(None, None).is_ok()) {
        wait_until_empty(group, period, None);
        wait_until_empty(group, DYING, Some(raw::Signal::KILL));
    }
}

/// Closes this process's descriptors, except those in a sorted list.
fn close_all_but(kept_open: &[RawFd]) {
    let mut from: libc::c_uint = 0;
    for fd in kept_open {
        let fd = fd.cast_unsigned();
        if fd > from {
            close_each(from, fd - 1);
        }
        from = fd + 1;
    }
    close_each(from, libc::c_uint::MAX);
}

fn close_each(first: libc::c_uint, last: libc::c_uint) {
    if close_range(first, last) {
        return;
    }
    // Needed for a kernel before 5.9, or a sandbox that forbids the system call.
    // SAFETY: the call takes an integer.
    let most = libc::c_uint::try_from(unsafe { libc::sysconf(libc::_SC_OPEN_MAX) }).unwrap_or(1 << 20);
    for fd in first..=last.min(most) {
        // SAFETY: closes descriptors of this process, which no longer uses them.
        unsafe { libc::close(fd.cast_signed()) };
    }
}

/// Whether the kernel could do it.
fn close_range(first: libc::c_uint, last: libc::c_uint) -> bool {
    // SAFETY: closes descriptors of this process, which no longer uses them.
    unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) == 0 }
}
