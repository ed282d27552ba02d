//! The few calls into the kernel that neither the standard library nor nix wraps safely: the one module of the crate
//! with `unsafe` in it.
//!
//! [`take_signals_in_hand`] and [`keep_descriptors_from_plugins`] make up for what a process may have been started with. All
//! others but [`start_writing`] are about the same promise: no plugin runs on after the process that called it is dead. A [`Leash`] is a
//! small child process that leads the process group which plugins are started in. When its parent dies, however it
//! dies, the leash kills the whole group, the plugins' own children included. It also keeps the caller's lock files
//! open until nothing of the group is left, so that whoever waits for those locks starts only after the last plugin is
//! dead.
//!
//! A plugin that is undoing something is given a moment to end by itself ([`Mercy`]).

#![expect(unsafe_code, reason = "these calls have no safe wrapper; each use says why it is sound")]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigHandler, SigSet, SigmaskHow, Signal, kill, killpg, signal, sigprocmask};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid, fork, getppid, setpgid};

/// How long a plugin that is undoing something may go on after the process that called it is dead.
const LAST_MOMENT: Duration = Duration::from_secs(5);
/// How long the leash waits for what it has killed to be gone: longer only where a process hangs in the kernel.
const DYING: Duration = Duration::from_secs(10);

/// What becomes of a plugin when the process that called it dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mercy {
    /// It is killed.
    None,
    /// It is killed unless it ends within a few seconds. This is for DEL: a plugin that has removed an interface, and is
    /// killed before it removes the packet filter's rules for that interface's addresses, can never find these rules again.
    LastMoment,
}

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

/// Undoes what a careless parent may have left to this process, and would turn against it: with `SIGCHLD` ignored no plugin could
/// be waited for, and a limit on the size of files would kill this process half-way, where writing can fail instead.
pub(crate) fn take_signals_in_hand() {
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
    unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) };
}

/// A process group that dies with this process.
#[derive(Debug)]
pub(super) struct Leash {
    leader: Pid,
    mercy: Mercy,
}

impl Leash {
    /// Starts the group's leader. Of this process's descriptors it keeps `keep` open and no other.
    pub(super) fn new(keep: &[BorrowedFd<'_>], mercy: Mercy) -> io::Result<Self> {
        let parent = pidfd_open(Pid::this())?;
        let parent_pid = Pid::this();
        let mut keep: Vec<RawFd> = keep.iter().map(AsRawFd::as_raw_fd).chain([parent.as_raw_fd()]).collect();
        keep.sort_unstable();
        // SAFETY: the child only makes system calls that are safe after a fork from a process with threads: it takes
        // no lock, allocates nothing while the parent lives (see `runs`) and never returns from `hold`.
        match unsafe { fork() }? {
            ForkResult::Child => hold(&parent, parent_pid, &keep, mercy),
            ForkResult::Parent { child } => {
                // Both sides set the group, so that it is there whichever of them runs first.
                match setpgid(child, child) {
                    Ok(()) | Err(Errno::EACCES | Errno::ESRCH) => Ok(Self { leader: child, mercy }),
                    Err(error) => Err(error.into()),
                }
            }
        }
    }

    /// The group's ID, to start plugins in.
    pub(super) fn group(&self) -> i32 {
        self.leader.as_raw()
    }

    /// What becomes of its plugins when this process dies.
    pub(super) fn mercy(&self) -> Mercy {
        self.mercy
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

/// The leader's life: wait for the parent to end, then see to it that the group does.
fn hold(parent: &OwnedFd, parent_pid: Pid, keep: &[RawFd], mercy: Mercy) -> ! {
    let leader = Pid::this();
    // What asks everything here to end, such as a service manager, asks the plugins too. One of them may not heed it.
    let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), None);
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
    if leave_group(leader) {
        if mercy == Mercy::LastMoment {
            until_empty(leader, LAST_MOMENT, None);
        }
        until_empty(leader, DYING, Some(Signal::SIGKILL));
    }
    let _ = killpg(leader, Signal::SIGKILL);
    // SAFETY: ends this process without running anything of the parent's.
    unsafe { libc::_exit(0) }
}

/// Moves the leader into another process group, so that it can kill its own and outlive that. A process cannot be
/// without a group, and an own one it has; so a child is made for the sake of its group.
fn leave_group(leader: Pid) -> bool {
    // SAFETY: as in `Leash::new`; this process has one thread, and the child makes no more than one system call.
    let Ok(fork) = (unsafe { fork() }) else { return false };
    match fork {
        ForkResult::Child => loop {
            let _ = poll(&mut [], PollTimeout::NONE);
        },
        ForkResult::Parent { child } => {
            let has_left = setpgid(child, child).and_then(|()| setpgid(leader, child)).is_ok();
            let _ = kill(child, Signal::SIGKILL);
            let _ = waitpid(child, None);
            has_left
        }
    }
}

/// Waits until nothing in a group runs, and signals it meanwhile: one that is just being started may join late.
fn until_empty(group: Pid, at_most: Duration, with: Option<Signal>) {
    let began = Instant::now();
    let mut glance = Duration::from_millis(1);
    while killpg(group, with) != Err(Errno::ESRCH) && runs(group) && began.elapsed() < at_most {
        let _ = poll(&mut [], poll_timeout(Some(glance)));
        glance = (glance * 2).min(Duration::from_millis(50));
    }
}

/// Whether a process of the group runs. The dead stay in it for as long as whoever adopted them takes to notice, which in
/// a container may be for ever. Without `/proc`, what is in the group counts as running.
///
/// This allocates memory in the child of a process that may have had other threads. The C libraries that Rust is built
/// with keep their allocators usable there, and the parent, which could be waiting for something, is dead.
fn runs(group: Pid) -> bool {
    let Ok(processes) = std::fs::read_dir("/proc") else { return true };
    let mut stats = processes.flatten().filter_map(|process| std::fs::read(process.path().join("stat")).ok());
    stats.any(|stat| {
        // The second field is a name in parentheses, with anything in it.
        let after_name = stat.iter().rposition(|byte| *byte == b')').map_or(&[][..], |at| &stat[at + 1..]);
        let mut fields = after_name.split(u8::is_ascii_whitespace).filter(|field| !field.is_empty());
        let (life, own_group) = (fields.next(), fields.nth(1));
        own_group == Some(group.as_raw().to_string().as_bytes()) && !matches!(life, Some(b"Z" | b"X"))
    })
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
        let leash = Leash::new(&[], Mercy::None).unwrap();
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
        let leash = Leash::new(&[], Mercy::None).unwrap();
        let mut child = Command::new("sleep").arg("1000").process_group(leash.group()).spawn().unwrap();
        drop(leash);
        assert!(child.try_wait().unwrap().is_none());
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
