//! The program of the holder's process, which was forked from a process with several threads: it takes no lock and allocates
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
use super::lifeline::{KEEP_INPUT, LET_INPUT_GO, read_order};
use super::sync_outcome::report;

/// How long the holder waits until the processes that it has killed are gone. Only a process that hangs in the kernel takes long.
const DYING: Duration = Duration::from_secs(10);

/// What a holder has to know.
pub(super) struct Arguments<'a> {
    /// What it does first, in order, and where to say how that went.
    pub(super) work: &'a [DiskWork],
    pub(super) outcome: BorrowedFd<'a>,
    pub(super) lifeline: BorrowedFd<'a>,
    /// The descriptors that stay open until that is done, and those that stay open for good; both sorted.
    pub(super) open_at_first: Vec<RawFd>,
    pub(super) open: Vec<RawFd>,
    /// The process group of its parent. Where the parent is in a PID namespace, it may have no number there.
    pub(super) caller: Pid,
    pub(super) grace: Grace,
}

/// Forks the holder's process.
///
/// # Errors
/// When there can be no such process.
pub(super) fn start(arguments: &Arguments<'_>) -> nix::Result<Pid> {
    // What asks everything here to end, such as a service manager, asks the plugins too, and one of them may not heed it.
    // Nor is a handler of ours to run in the holder.
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

/// All that a holder does: it syncs what is to be synced, and waits until the parent dies or dismisses it. If the parent has died,
/// it kills the group. The parent has decided by then which group that is; it is the parent's own if no plugin was
/// started.
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
            Err(rustix::io::Errno::INTR) | Ok(Some(KEEP_INPUT)) => {}
            Ok(Some(LET_INPUT_GO)) => input = None,
            Ok(Some(_)) => break,
            // A plugin that waits has done nothing that it could end.
            Ok(None) | Err(_) => {
                let period = if input.is_some() { Duration::ZERO } else { grace.period() };
                end_group(*caller, period);
                break;
            }
        }
    }
    // SAFETY: ends this process without running anything of the parent's.
    unsafe { libc::_exit(0) }
}

/// Has everything in the holder's group end, within `period` by itself.
fn end_group(caller: Pid, period: Duration) {
    let group = getpgrp();
    let group = raw::Pid::from_raw(group.as_raw()).filter(|_| group != caller);
    // Out of the group, to kill it and outlive that.
    if let Some(group) = group.filter(|_| raw::setpgid(None, None).is_ok()) {
        wait_until_empty(group, period, None);
        wait_until_empty(group, DYING, Some(raw::Signal::KILL));
    }
}

/// Closes this process's descriptors but those of a sorted list.
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
    // A kernel before 5.9, or a sandbox that forbids this.
    // SAFETY: the call takes an integer.
    let most = libc::c_uint::try_from(unsafe { libc::sysconf(libc::_SC_OPEN_MAX) }).unwrap_or(1 << 20);
    for fd in first..=last.min(most) {
        // SAFETY: closes descriptors of this process, which uses none of them any more.
        unsafe { libc::close(fd.cast_signed()) };
    }
}

/// Whether the kernel could do it.
fn close_range(first: libc::c_uint, last: libc::c_uint) -> bool {
    // SAFETY: closes descriptors of this process, which uses none of them any more.
    unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) == 0 }
}
