//! The holder: kills plugins when the process that called them dies.
//!
//! A [`Holder`] is a small child process in the process group of the plugins. When its parent dies, however it dies, the
//! kernel closes the parent's end of a pair of sockets, the holder's *lifeline*; the holder then kills the whole group, the plugins' own
//! children included. It also keeps the caller's lock files open until nothing of the group is left, so that whoever waits for
//! those locks starts only after the last plugin is dead. Some processes get a moment to finish ([`Grace`]).
//!
//! A group begins with a plugin, and the holder joins it before that plugin gets its input. If this process is killed
//! between the two, the kernel kills the plugin; on DEL the plugin is not killed, and finds its input empty. The holder also
//! syncs the files that must be durable before the input, so that the disk and the plugin's start do not wait for each other.
//!
//! A plugin that is started ahead of its turn waits for its input for longer, and must not find it empty. Its holder is in the
//! group before it is, and keeps the plugin's standard input open ([`Holder::keep_input`]) until its turn comes. If this process
//! is killed before that, the holder kills the group at once, and only then lets the input go.
//!
//! A holder that is no longer needed is dismissed by a byte in its lifeline and by a signal. Either is enough, in case a sandbox
//! forbids signals or the holder is stopped. A holder that does not exit because the disk does not answer is left behind, and
//! no call waits for it.

#![expect(unsafe_code, reason = "to fork has no safe wrapper; each use says why it is sound")]

use std::ffi::c_int;
use std::io::{self, IoSlice, IoSliceMut, PipeReader, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill, killpg};
use nix::unistd::{ForkResult, Pid, fork, getpgrp, setpgid};
use rustix::fs::{fsync, renameat};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use rustix::process as raw;

use super::durable::DiskWork;
use super::group::wait_until_empty;
use super::spawn::new_group;
use crate::runtime::process::{poll_timeout, wait, wait_at_most};

/// How long the holder waits until the processes that it has killed are gone. Only a process that hangs in the kernel takes long.
const DYING: Duration = Duration::from_secs(10);
/// How long to wait until a dismissed holder exits.
const DISMISSAL: Duration = Duration::from_secs(1);

/// Which processes get some time to finish when the process that called a plugin dies, before the group is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Grace {
    /// The processes that the plugin has started. The kernel kills the plugin itself at once. An IPAM plugin that is killed
    /// after it has created the file of an address, and before it has written the owner into it, loses that address for good.
    Children,
    /// The plugin too. This is for DEL: a plugin that has removed an interface, and is killed before it removes the packet
    /// filter's rules for that interface's addresses, can never find these rules again.
    Everyone,
}

impl Grace {
    /// For how long.
    fn period(self) -> Duration {
        match self {
            Self::Children => Duration::from_millis(250),
            Self::Everyone => Duration::from_secs(5),
        }
    }
}

/// What makes a process group die with this process: a process of its own, in the group.
#[derive(Debug)]
pub(in crate::runtime) struct Holder {
    pid: Pid,
    group: Option<Pid>,
    grace: Grace,
    /// Closed by the kernel when this process dies. What is written to it are orders.
    lifeline: UnixStream,
    state: State,
    /// Set when a dismissed holder does not exit, so that its copies of the locks do not close.
    hangs: Arc<AtomicBool>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// It watches over its group.
    Holding,
    /// It has been dismissed.
    LetGo,
    /// It is left behind, to kill what is in its group and to keep the locks until that is gone.
    LeftBehind,
}

/// What the holder says of how syncing went.
#[derive(Debug)]
pub(in crate::runtime) struct SyncOutcome(PipeReader);

/// What a holder has to know.
struct Arguments<'a> {
    /// What it does first, in order, and where to say how that went.
    work: &'a [DiskWork],
    outcome: RawFd,
    lifeline: RawFd,
    /// The descriptors that stay open until that is done, and those that stay open for good; both sorted.
    open_at_first: Vec<RawFd>,
    open: Vec<RawFd>,
    /// The process group of its parent. Where the parent is in a PID namespace, it may have no number there.
    caller: Pid,
    grace: Grace,
}

impl Holder {
    /// Makes a holder that is in no plugin's group yet. Of this process's descriptors it keeps `kept_open` open and no other.
    pub(super) fn new(kept_open: &[BorrowedFd<'_>], grace: Grace) -> io::Result<Self> {
        Self::syncing(kept_open, grace, &[]).map(|(holder, _)| holder)
    }

    /// The same, and it does `work` first.
    pub(super) fn syncing(
        kept_open: &[BorrowedFd<'_>],
        grace: Grace,
        work: &[DiskWork],
    ) -> io::Result<(Self, SyncOutcome)> {
        let (holders_end, lifeline) = UnixStream::pair()?;
        let (outcome, report) = io::pipe()?;
        let of_work = work.iter().map(|work| match work {
            DiskWork::Sync(file) | DiskWork::Rename { directory: file, .. } => file.as_raw_fd(),
        });
        let mut open: Vec<RawFd> = kept_open.iter().map(AsRawFd::as_raw_fd).chain([holders_end.as_raw_fd()]).collect();
        let mut open_at_first: Vec<RawFd> = open.iter().copied().chain(of_work).chain([report.as_raw_fd()]).collect();
        open.sort_unstable();
        open_at_first.sort_unstable();
        let arguments = Arguments {
            work,
            outcome: report.as_raw_fd(),
            lifeline: holders_end.as_raw_fd(),
            open_at_first,
            open,
            caller: getpgrp(),
            grace,
        };
        // What asks everything here to end, such as a service manager, asks the plugins too, and one of them may not heed it.
        // Nor is a handler of ours to run in the holder.
        let mask = SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK)?;
        // SAFETY: the child runs `hold`, which takes no lock, allocates nothing and never returns.
        let forked = match unsafe { fork() } {
            Ok(ForkResult::Child) => run_holder(&arguments),
            Ok(ForkResult::Parent { child }) => Ok(child),
            Err(error) => Err(error),
        };
        mask.thread_set_mask()?;
        let holder = Self { pid: forked?, group: None, grace, lifeline, state: State::Holding, hangs: Arc::default() };
        Ok((holder, SyncOutcome(outcome)))
    }

    /// Sets `hangs` if the holder does not exit when it is dismissed.
    pub(super) fn reporting_to(mut self, hangs: &Arc<AtomicBool>) -> Self {
        self.hangs = Arc::clone(hangs);
        self
    }

    /// Puts it into the process group `group`.
    pub(super) fn join(&mut self, group: Pid) {
        // A plugin that has left its group as soon as it ran has left nothing behind to join, and is on its own.
        self.group = setpgid(self.pid, group).is_ok().then_some(group);
    }

    /// Puts it into a group in which nothing else is. What has been left running in the group that it was in is not its any more.
    ///
    /// # Errors
    /// When no group can be made.
    pub(super) fn join_new_group(&mut self) -> io::Result<()> {
        let leader = new_group()?;
        self.join(leader);
        // The group is there for as long as something is in it.
        wait(leader)?;
        self.group.map(drop).ok_or_else(|| io::Error::other("its process group cannot be joined"))
    }

    /// Keeps the standard input of a plugin open, until [`Self::let_input_go`] or it is not needed any more.
    ///
    /// # Errors
    /// When the message cannot be sent.
    pub(super) fn keep_input(&self, input: BorrowedFd<'_>) -> io::Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let inputs = [input];
        let _has_room = control.push(SendAncillaryMessage::ScmRights(&inputs));
        sendmsg(&self.lifeline, &[IoSlice::new(&[KEEP_INPUT])], &mut control, SendFlags::NOSIGNAL)?;
        Ok(())
    }

    /// Has it close the input that it keeps open: the plugin's turn has come.
    pub(super) fn let_input_go(&mut self) {
        // One that is gone has nothing open.
        let _ = self.lifeline.write(&[LET_INPUT_GO]);
    }

    /// The group it is in, for plugins to join.
    pub(super) fn group(&self) -> Option<Pid> {
        self.group
    }

    /// What happens to its plugins when this process dies.
    pub(super) fn grace(&self) -> Grace {
        self.grace
    }

    /// Dismisses it, and does not wait for its exit as `drop` does. What a plugin has left running on
    /// purpose stays.
    pub(super) fn let_go(&mut self) {
        if self.state == State::Holding {
            self.state = State::LetGo;
            let _ = self.lifeline.write(&[LET_GO]);
            let _ = kill(self.pid, Signal::SIGKILL);
        }
    }

    /// Kills everything in the group, itself included.
    pub(super) fn kill_group(mut self) {
        if let Some(group) = self.group {
            let _ = killpg(group, Signal::SIGKILL);
        }
        self.let_go();
    }

    /// Leaves the holder to kill its group, as if this process had died, because something in the group has not exited.
    pub(super) fn leave_behind(mut self) {
        self.state = State::LeftBehind;
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        if self.state == State::LeftBehind {
            return;
        }
        self.let_go();
        if matches!(wait_at_most(self.pid, DISMISSAL), Ok(None)) {
            // It ends when the kernel lets it.
            self.hangs.store(true, Ordering::Relaxed);
        }
    }
}

impl SyncOutcome {
    /// Waits until the files are synced.
    ///
    /// # Errors
    /// When one could not be, or `deadline` is over.
    pub(in crate::runtime) fn wait(&mut self, deadline: Option<Instant>) -> io::Result<()> {
        let began = Instant::now();
        loop {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            match poll(&mut [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)], poll_timeout(left)) {
                Ok(0) if left.is_some_and(|left| left.is_zero()) => {
                    let message = format!("the disk has not answered for {:.1} s", began.elapsed().as_secs_f64());
                    return Err(io::Error::new(io::ErrorKind::TimedOut, message));
                }
                Ok(0) | Err(Errno::EINTR | Errno::EAGAIN) => {}
                Ok(_) => break,
                Err(error) => return Err(error.into()),
            }
        }
        let mut error = [0; size_of::<c_int>()];
        self.0.read_exact(&mut error)?;
        match c_int::from_ne_bytes(error) {
            0 => Ok(()),
            error => Err(io::Error::from_raw_os_error(error)),
        }
    }
}

/// What is written to a lifeline to let the holder go.
const LET_GO: u8 = 1;
/// What comes with a plugin's standard input, which is to be kept open.
const KEEP_INPUT: u8 = 2;
/// What is written to a lifeline to have that closed.
const LET_INPUT_GO: u8 = 3;

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
        let error = done.map_or_else(rustix::io::Errno::raw_os_error, |()| 0);
        // SAFETY: as above.
        let _ = rustix::io::write(unsafe { BorrowedFd::borrow_raw(*outcome) }, &error.to_ne_bytes());
    }
    close_all_but(open);
    // SAFETY: it is among those that stay open.
    let lifeline = unsafe { BorrowedFd::borrow_raw(*lifeline) };
    let mut input: Option<OwnedFd> = None;
    loop {
        match read_order(lifeline, &mut input) {
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

/// Reads the next order, and an input that comes with it; nothing once the parent is gone.
fn read_order(lifeline: BorrowedFd<'_>, input: &mut Option<OwnedFd>) -> Result<Option<u8>, rustix::io::Errno> {
    let mut order = [0];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(lifeline, &mut [IoSliceMut::new(&mut order)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(inputs) = message {
            *input = inputs.last();
        }
    }
    Ok((received.bytes == 1).then_some(order[0]))
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::unix::process::CommandExt;
    use std::process::{Child, Command, Stdio};

    /// A shell with a child, in a group of their own.
    fn family() -> (Child, Pid) {
        let mut shell = Command::new("sh");
        let shell = shell.args(["-c", "sleep 1000 & wait"]).process_group(0).stdout(Stdio::null()).spawn().unwrap();
        let group = Pid::from_raw(shell.id().cast_signed());
        (shell, group)
    }

    fn holder_of(group: Pid) -> Holder {
        let mut holder = Holder::new(&[], Grace::Children).unwrap();
        holder.join(group);
        holder
    }

    fn is_empty_soon(group: Pid) -> bool {
        // What is dead is init's to reap.
        (0..500).any(|_| {
            std::thread::sleep(Duration::from_millis(10));
            killpg(group, None).is_err()
        })
    }

    #[test]
    fn killing_the_group_kills_grandchildren() {
        let (mut shell, group) = family();
        holder_of(group).kill_group();
        assert!(!shell.wait().unwrap().success());
        assert!(is_empty_soon(group));
    }

    #[test]
    fn the_group_dies_with_the_process_that_made_the_holder() {
        let (mut shell, group) = family();
        // What is left behind has its lifeline closed, as the kernel does for the dead.
        holder_of(group).leave_behind();
        assert!(!shell.wait().unwrap().success());
        assert!(is_empty_soon(group));
    }

    #[test]
    fn letting_go_leaves_the_group_alone() {
        let (mut shell, group) = family();
        drop(holder_of(group));
        assert!(shell.try_wait().unwrap().is_none());
        killpg(group, Signal::SIGKILL).unwrap();
        shell.wait().unwrap();
    }

    /// A sandbox may forbid signals.
    #[test]
    fn a_holder_that_is_dismissed_exits_without_a_signal() {
        let (mut shell, group) = family();
        let mut holder = holder_of(group);
        holder.lifeline.write_all(&[LET_GO]).unwrap();
        assert!(wait_at_most(holder.pid, Duration::from_secs(20)).unwrap().is_some_and(|status| status.success()));
        assert!(shell.try_wait().unwrap().is_none());
        holder.state = State::LeftBehind;
        killpg(group, Signal::SIGKILL).unwrap();
        shell.wait().unwrap();
    }

    #[test]
    fn only_what_is_to_be_kept_stays_open() {
        let (kept, writer_of_kept) = io::pipe().unwrap();
        let (other, writer_of_other) = io::pipe().unwrap();
        let holder = Holder::new(&[writer_of_kept.as_fd()], Grace::Children).unwrap();
        drop((writer_of_kept, writer_of_other));
        let is_open = |reader: &PipeReader, patience: u16| {
            poll(&mut [PollFd::new(reader.as_fd(), PollFlags::POLLIN)], patience).unwrap() == 0
        };
        assert!(!is_open(&other, 20_000));
        assert!(is_open(&kept, 10));
        drop(holder);
        assert!(!is_open(&kept, 20_000));
    }

    #[test]
    fn the_holder_says_how_syncing_went() {
        let (first, second) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        let sync = |file: File| DiskWork::Sync(Arc::new(file));
        let files = [sync(first), sync(second)];
        let (_holder, mut outcome) = Holder::syncing(&[], Grace::Children, &files).unwrap();
        outcome.wait(None).unwrap();
        // A pipe cannot be synced.
        let (reader, _writer) = io::pipe().unwrap();
        let (_holder, mut outcome) =
            Holder::syncing(&[], Grace::Children, &[sync(OwnedFd::from(reader).into())]).unwrap();
        assert_eq!(outcome.wait(None).unwrap_err().raw_os_error(), Some(Errno::EINVAL as i32));
    }

    #[test]
    fn a_file_gets_its_name_once_all_before_it_is_done() {
        let folder = tempfile::tempdir().unwrap();
        let directory = Arc::new(File::open(folder.path()).unwrap());
        let text = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap_or_default();
        let rename = DiskWork::Rename { directory: Arc::clone(&directory), from: c".new".into(), to: c"old".into() };
        let (reader, _writer) = io::pipe().unwrap();
        for (first, expected) in [(OwnedFd::from(reader).into(), "old"), (tempfile::tempfile().unwrap(), "new")] {
            std::fs::write(folder.path().join("old"), "old").unwrap();
            std::fs::write(folder.path().join(".new"), "new").unwrap();
            let work = [DiskWork::Sync(Arc::new(first)), rename.clone(), DiskWork::Sync(Arc::clone(&directory))];
            let (_holder, mut outcome) = Holder::syncing(&[], Grace::Children, &work).unwrap();
            assert_eq!(outcome.wait(None).is_ok(), expected == "new");
            assert_eq!(text("old"), expected);
        }
        assert_eq!(text(".new"), "");
    }

    /// A holder that is stopped stands for one whose disk does not answer.
    #[test]
    fn syncing_is_not_waited_for_for_ever() {
        let (holder, _) = Holder::syncing(&[], Grace::Children, &[]).unwrap();
        let (reader, writer) = io::pipe().unwrap();
        let deadline = Some(Instant::now() + Duration::from_millis(20));
        assert_eq!(SyncOutcome(reader).wait(deadline).unwrap_err().kind(), io::ErrorKind::TimedOut);
        drop(writer);
        kill(holder.pid, Signal::SIGSTOP).unwrap();
        drop(holder);
    }

    #[test]
    fn a_group_that_is_gone_is_not_joined() {
        let mut child = Command::new("true").process_group(0).spawn().unwrap();
        let group = Pid::from_raw(child.id().cast_signed());
        child.wait().unwrap();
        assert_eq!(holder_of(group).group(), None);
    }
}
