//! The leash: no plugin runs on after the process that called it is dead.
//!
//! A [`Leash`] is a small child process, its *holder*, in the process group of the plugins. When its parent dies, however
//! it dies, the holder kills the whole group, the plugins' own children included. It also keeps the caller's lock files
//! open until nothing of the group is left, so that whoever waits for those locks starts only after the last plugin is
//! dead. Some are given a moment to end by themselves ([`Mercy`]).
//!
//! A group begins with a plugin, and the leash is on it before that plugin gets its input. Should this process be killed
//! between the two, the kernel kills the plugin; one that is to undo something finds its input empty. The holder also syncs
//! the file that has to be durable by then, so that the disk and the plugin's start need not wait for each other.
//!
//! The holder works in its parent's memory, as a thread would: to copy that takes longer than all else that is done here. So
//! it allocates nothing, and writes nowhere but on its own stack. Its calls into the kernel are rustix's, which leave
//! `errno` alone: that is of the thread that made the holder, and gone when that thread is. When the kernel runs out of
//! memory and kills one of two processes that share theirs, it kills both; then what is left is that plugins die with the
//! process that started them.

#![expect(unsafe_code, reason = "starting a process has no safe wrapper; each use says why it is sound")]

use std::ffi::{CStr, c_int, c_void};
use std::io::{self, PipeReader, PipeWriter, Read};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill, killpg};
use nix::unistd::{ForkResult, Pid, fork, getpgrp, setpgid};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, Mode, OFlags, RawDir, fsync, openat};
use rustix::process as raw;

use super::process::{Stack, wait};

/// How long the holder waits for what it has killed to be gone: longer only where a process hangs in the kernel.
const DYING: Duration = Duration::from_secs(10);

/// Who may go on for a while when the process that called a plugin dies, before the group is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mercy {
    /// What the plugin has started: the plugin itself the kernel kills at once. One that hands out addresses, and is killed
    /// when it has made the file that stands for one and not yet written down whose it is, has lost that address for good.
    Children,
    /// The plugin too. This is for DEL: a plugin that has removed an interface, and is killed before it removes the packet
    /// filter's rules for that interface's addresses, can never find these rules again.
    Everyone,
}

impl Mercy {
    /// For how long.
    fn patience(self) -> Duration {
        match self {
            Self::Children => Duration::from_millis(250),
            Self::Everyone => Duration::from_secs(5),
        }
    }
}

/// What makes a process group die with this process: a process of its own, in the group.
#[derive(Debug)]
pub(super) struct Leash {
    holder: Pid,
    group: Option<Pid>,
    mercy: Mercy,
    /// Whether the holder has been told to end.
    ending: bool,
    /// Closed by the kernel when this process dies, which is how the holder learns of it.
    #[cfg_attr(not(test), expect(dead_code, reason = "that it is open is all its use"))]
    line: PipeWriter,
    /// What the holder tells of how syncing went.
    outcome: Option<PipeReader>,
    /// What the holder reads and where it works, for as long as it lives.
    _workplace: Box<Workplace>,
}

/// What a holder is made with.
#[derive(Debug)]
struct Workplace {
    orders: Orders,
    stack: Stack,
}

/// What a holder has to know.
#[derive(Debug)]
struct Orders {
    /// The file to be synced, and where to tell how that went.
    sync: Option<(RawFd, RawFd)>,
    line: RawFd,
    /// The descriptors that stay open, in order.
    keep: Vec<RawFd>,
    /// The process group of its parent. Where the parent is in a PID namespace, it may have no number there.
    caller: Pid,
    mercy: Mercy,
}

/// How a holder comes into the world.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Birth {
    /// It shares its parent's memory.
    Sharing,
    /// It has a copy of it.
    Copying,
}

impl Birth {
    /// What the kernel can do. Where there is no clone3, which this does not use, that is a kernel of before 5.3 or something
    /// that plays one, and some of the latter know no process that shares another's memory. Descriptors must be closed by
    /// calls that cannot fail, which came with 5.9.
    fn possible() -> Self {
        static POSSIBLE: OnceLock<Birth> = OnceLock::new();
        *POSSIBLE.get_or_init(|| {
            // SAFETY: without its argument, the call is refused for that, or for not being known.
            unsafe { libc::syscall(libc::SYS_clone3, std::ptr::null::<c_void>(), 0_usize) };
            let has_clone3 = Errno::last() == Errno::EINVAL;
            let closes_ranges = close_range(libc::c_uint::MAX, libc::c_uint::MAX);
            if has_clone3 && closes_ranges { Self::Sharing } else { Self::Copying }
        })
    }
}

impl Leash {
    /// Makes a leash that is on no group yet. Its holder syncs the file `sync`. Of this process's descriptors it keeps `keep`
    /// open and no other.
    pub(super) fn new(keep: &[BorrowedFd<'_>], mercy: Mercy, sync: Option<BorrowedFd<'_>>) -> io::Result<Self> {
        Self::born(Birth::possible(), keep, mercy, sync)
    }

    fn born(birth: Birth, keep: &[BorrowedFd<'_>], mercy: Mercy, sync: Option<BorrowedFd<'_>>) -> io::Result<Self> {
        let (far_end, line) = io::pipe()?;
        let (outcome, tell) = sync.map(|_| io::pipe()).transpose()?.unzip();
        let mut keep: Vec<RawFd> = keep.iter().map(AsRawFd::as_raw_fd).chain([far_end.as_raw_fd()]).collect();
        keep.sort_unstable();
        let sync = sync.zip(tell.as_ref()).map(|(file, tell)| (file.as_raw_fd(), tell.as_raw_fd()));
        let orders = Orders { sync, line: far_end.as_raw_fd(), keep, caller: getpgrp(), mercy };
        let mut workplace = Box::new(Workplace { orders, stack: Stack::new() });
        // What asks everything here to end, such as a service manager, asks the plugins too, and one of them may not heed it.
        // Nor is a handler of ours to run in the holder.
        let mask = SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK)?;
        let holder = match birth {
            Birth::Sharing => {
                let orders = (&raw mut workplace.orders).cast::<c_void>();
                // SAFETY: the orders are not moved, written or freed, nor the stack touched, while the holder lives: `drop`
                // waits for its end before the workplace goes. It never returns from `hold`, which writes to no other memory
                // of ours, takes no lock and allocates nothing.
                let pid = unsafe { libc::clone(hold, workplace.stack.top(), libc::CLONE_VM | libc::SIGCHLD, orders) };
                Errno::result(pid).map(Pid::from_raw)
            }
            // SAFETY: as above, and in memory of its own.
            Birth::Copying => match unsafe { fork() } {
                Ok(ForkResult::Child) => {
                    hold((&raw mut workplace.orders).cast());
                    unreachable!("holding has no end")
                }
                Ok(ForkResult::Parent { child }) => Ok(child),
                Err(error) => Err(error),
            },
        };
        // Whatever fails from here on, the workplace does not go before the holder.
        let leash = holder.map(|holder| Self {
            holder,
            group: None,
            mercy,
            ending: false,
            line,
            outcome,
            _workplace: workplace,
        });
        mask.thread_set_mask()?;
        Ok(leash?)
    }

    /// Puts it on the process group `group`.
    pub(super) fn join(&mut self, group: Pid) {
        // A plugin that has left its group as soon as it ran has left nothing behind to join, and is on its own.
        self.group = setpgid(self.holder, group).is_ok().then_some(group);
    }

    /// Waits until the file is synced, if there is one.
    pub(super) fn has_synced(&self) -> io::Result<()> {
        let Some(mut outcome) = self.outcome.as_ref() else { return Ok(()) };
        let mut error = [0; size_of::<c_int>()];
        outcome.read_exact(&mut error)?;
        match c_int::from_ne_bytes(error) {
            0 => Ok(()),
            error => Err(io::Error::from_raw_os_error(error)),
        }
    }

    /// The group it is on, for plugins to join.
    pub(super) fn group(&self) -> Option<Pid> {
        self.group
    }

    /// What becomes of its plugins when this process dies.
    pub(super) fn mercy(&self) -> Mercy {
        self.mercy
    }

    /// Has the holder end, and does not wait for that as `drop` does.
    pub(super) fn begin_to_end(&mut self) {
        self.ending = true;
        // The holder alone: what a plugin has left running on purpose stays.
        let _ = kill(self.holder, Signal::SIGKILL);
    }

    /// Kills everything in the group.
    pub(super) fn kill_group(self) {
        if let Some(group) = self.group {
            let _ = killpg(group, Signal::SIGKILL);
        }
        // `drop` reaps the holder.
    }
}

impl Drop for Leash {
    fn drop(&mut self) {
        if !self.ending {
            self.begin_to_end();
        }
        // It fails where someone else has reaped it.
        let _ = wait(self.holder);
    }
}

/// The holder's life: sync what is to be synced, wait for the parent to end, which closes its side of the line, then see to
/// it that the group does. Which group that is the parent has settled by then; it is the parent's own where no plugin was
/// started.
extern "C" fn hold(orders: *mut c_void) -> c_int {
    // SAFETY: it is what `Leash::born` has given, which leaves it alone.
    let Orders { sync, line, keep, caller, mercy } = unsafe { &*orders.cast::<Orders>() };
    // SAFETY: it is among those that are kept open.
    let line = unsafe { BorrowedFd::borrow_raw(*line) };
    if let Some((file, tell)) = sync {
        // SAFETY: this process has a copy of the parent's descriptors, and has closed none.
        let (file, tell) = unsafe { (BorrowedFd::borrow_raw(*file), BorrowedFd::borrow_raw(*tell)) };
        let outcome = fsync(file).map_or_else(rustix::io::Errno::raw_os_error, |()| 0);
        let _ = rustix::io::write(tell, &outcome.to_ne_bytes());
    }
    close_all_but(keep);
    while poll(&mut [PollFd::new(&line, PollFlags::IN)], None).is_err() {}
    // This cannot fail, so that it touches no `errno`.
    let group = getpgrp();
    let group = raw::Pid::from_raw(group.as_raw()).filter(|_| group != *caller);
    // Out of the group, to kill it and outlive that.
    if let Some(group) = group.filter(|_| raw::setpgid(None, None).is_ok()) {
        until_empty(group, mercy.patience(), None);
        until_empty(group, DYING, Some(raw::Signal::KILL));
    }
    // SAFETY: ends this process without running anything of the parent's.
    unsafe { libc::_exit(0) }
}

/// Waits until nothing in a group runs, and signals it meanwhile: one that is just being started may join late.
fn until_empty(group: raw::Pid, at_most: Duration, with: Option<raw::Signal>) {
    let began = Instant::now();
    let mut glance = Duration::from_millis(1);
    let is_there = || match with {
        Some(signal) => raw::kill_process_group(group, signal) != Err(rustix::io::Errno::SRCH),
        None => raw::test_kill_process_group(group) != Err(rustix::io::Errno::SRCH),
    };
    while is_there() && runs(group) && began.elapsed() < at_most {
        let _ = poll(&mut [], Timespec::try_from(glance).as_ref().ok());
        glance = (glance * 2).min(Duration::from_millis(50));
    }
}

/// Whether a process of the group runs. The dead stay in it for as long as whoever adopted them takes to notice, which in
/// a container may be for ever. Without `/proc`, what is in the group counts as running.
fn runs(group: raw::Pid) -> bool {
    let directory = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let Ok(processes) = openat(CWD, c"/proc", directory, Mode::empty()) else { return true };
    let mut entries = [const { std::mem::MaybeUninit::uninit() }; 1024];
    let mut listing = RawDir::new(&processes, &mut entries);
    while let Some(process) = listing.next() {
        let Ok(process) = process else { return true };
        if is_alive_in(group, &processes, process.file_name()) {
            return true;
        }
    }
    false
}

/// Whether what is called so in `/proc` is a process of the group, and not dead.
fn is_alive_in(group: raw::Pid, processes: &OwnedFd, name: &CStr) -> bool {
    let name = name.to_bytes();
    let mut path = [0; 32];
    let end = name.len() + c"/stat".count_bytes();
    if !name.first().is_some_and(u8::is_ascii_digit) || end >= path.len() {
        return false;
    }
    path[..name.len()].copy_from_slice(name);
    path[name.len()..end].copy_from_slice(b"/stat");
    let mut stat = [0; 512];
    let Ok(path) = CStr::from_bytes_until_nul(&path) else { return false };
    let read = openat(processes, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .and_then(|file| rustix::io::read(&file, &mut stat));
    let stat = &stat[..read.unwrap_or(0)];
    // The second field is a name in parentheses, with anything in it.
    let after_name = stat.iter().rposition(|byte| *byte == b')').map_or(&[][..], |at| &stat[at + 1..]);
    let mut fields = after_name.split(u8::is_ascii_whitespace).filter(|field| !field.is_empty());
    let number = |field: Option<&[u8]>| str::from_utf8(field?).ok()?.parse::<c_int>().ok();
    let (life, own_group, threads) = (fields.next(), number(fields.nth(1)), number(fields.nth(14)));
    // A process counts as dead when its first thread is, and another may still be writing a file.
    let is_dead = matches!(life, Some(b"Z" | b"X")) && threads.is_none_or(|threads| threads <= 1);
    own_group == Some(group.as_raw_nonzero().get()) && !is_dead
}

/// Closes this process's descriptors but those of a sorted list.
fn close_all_but(keep: &[RawFd]) {
    let mut from: libc::c_uint = 0;
    for fd in keep {
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
    // A kernel of before 5.9, or one that is told not to do this.
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
    use rstest::rstest;
    use std::os::fd::AsFd;
    use std::os::unix::process::CommandExt;
    use std::process::{Child, Command, Stdio};

    /// A shell with a child, in a group of their own.
    fn family() -> (Child, Pid) {
        let mut shell = Command::new("sh");
        let shell = shell.args(["-c", "sleep 1000 & wait"]).process_group(0).stdout(Stdio::null()).spawn().unwrap();
        let group = Pid::from_raw(shell.id().cast_signed());
        (shell, group)
    }

    fn is_empty_soon(group: Pid) -> bool {
        // What is dead is init's to reap.
        (0..500).any(|_| {
            std::thread::sleep(Duration::from_millis(10));
            killpg(group, None).is_err()
        })
    }

    #[rstest]
    fn killing_the_group_kills_grandchildren(#[values(Birth::Sharing, Birth::Copying)] birth: Birth) {
        let (mut shell, group) = family();
        let mut leash = Leash::born(birth, &[], Mercy::Children, None).unwrap();
        leash.join(group);
        leash.kill_group();
        assert!(!shell.wait().unwrap().success());
        assert!(is_empty_soon(group));
    }

    #[rstest]
    fn the_group_dies_with_the_process_that_made_the_leash(#[values(Birth::Sharing, Birth::Copying)] birth: Birth) {
        let (mut shell, group) = family();
        let mut leash = Leash::born(birth, &[], Mercy::Children, None).unwrap();
        leash.join(group);
        // This is what the kernel does for the dead.
        leash.line = io::pipe().unwrap().1;
        assert!(!shell.wait().unwrap().success());
        assert!(is_empty_soon(group));
    }

    #[test]
    fn the_dead_do_not_run() {
        let (mut shell, group) = family();
        let raw_group = raw::Pid::from_raw(group.as_raw()).unwrap();
        assert!(runs(raw_group));
        killpg(group, Signal::SIGKILL).unwrap();
        // Dead, and not reaped.
        assert!((0..500).any(|_| {
            std::thread::sleep(Duration::from_millis(10));
            !runs(raw_group)
        }));
        killpg(group, None).expect("the dead are still in the group");
        shell.wait().unwrap();
    }

    #[rstest]
    fn letting_go_leaves_the_group_alone(#[values(Birth::Sharing, Birth::Copying)] birth: Birth) {
        let (mut shell, group) = family();
        let mut leash = Leash::born(birth, &[], Mercy::Children, None).unwrap();
        leash.join(group);
        drop(leash);
        assert!(shell.try_wait().unwrap().is_none());
        killpg(group, Signal::SIGKILL).unwrap();
        shell.wait().unwrap();
    }

    #[rstest]
    fn only_what_is_to_be_kept_stays_open(#[values(Birth::Sharing, Birth::Copying)] birth: Birth) {
        let (kept, writer_of_kept) = io::pipe().unwrap();
        let (other, writer_of_other) = io::pipe().unwrap();
        let leash = Leash::born(birth, &[writer_of_kept.as_fd()], Mercy::Children, None).unwrap();
        drop((writer_of_kept, writer_of_other));
        let is_open = |reader: &io::PipeReader, millis: i64| {
            let patience = Timespec { tv_sec: 0, tv_nsec: millis * 1_000_000 };
            poll(&mut [PollFd::new(reader, PollFlags::IN)], Some(&patience)).unwrap() == 0
        };
        assert!(!is_open(&other, 999));
        assert!(is_open(&kept, 10));
        drop(leash);
        assert!(!is_open(&kept, 0));
    }

    #[rstest]
    fn the_holder_tells_how_syncing_went(#[values(Birth::Sharing, Birth::Copying)] birth: Birth) {
        let file = tempfile::tempfile().unwrap();
        let leash = Leash::born(birth, &[], Mercy::Children, Some(file.as_fd())).unwrap();
        leash.has_synced().unwrap();
        // A pipe cannot be synced.
        let (reader, _writer) = io::pipe().unwrap();
        let leash = Leash::born(birth, &[], Mercy::Children, Some(reader.as_fd())).unwrap();
        assert_eq!(leash.has_synced().unwrap_err().raw_os_error(), Some(Errno::EINVAL as i32));
    }

    #[test]
    fn a_group_that_is_gone_is_not_joined() {
        let mut child = Command::new("true").process_group(0).spawn().unwrap();
        let group = Pid::from_raw(child.id().cast_signed());
        child.wait().unwrap();
        let mut leash = Leash::new(&[], Mercy::Children, None).unwrap();
        leash.join(group);
        assert_eq!(leash.group(), None);
    }
}
