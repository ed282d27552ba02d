//! The few calls into the kernel that neither the standard library nor nix wraps safely: the one module of the crate
//! with `unsafe` in it.
//!
//! [`spawn`] starts a plugin. [`prepare_process`], [`take_signals_in_hand`] and [`keep_descriptors_from_plugins`] make up for
//! what a process may have been started with. Most of the rest is about one promise: no plugin runs on after the process
//! that called it is dead. A [`Leash`] is a small child process in the process group of the plugins. When its parent dies,
//! however it dies, the leash kills the whole group, the plugins' own children included. It also keeps the caller's lock
//! files open until nothing of the group is left, so that whoever waits for those locks starts only after the last plugin
//! is dead.
//!
//! A group begins with a plugin, and the leash is on it before that plugin gets its input. Should this process be killed
//! between the two, the kernel kills the plugin; one that is to undo something finds its input empty. What has to be durable by then the leash's holder syncs, so that the disk
//! and the plugin's start need not wait for each other.
//!
//! A plugin that is undoing something is given a moment to end by itself ([`Mercy`]).

#![expect(unsafe_code, reason = "these calls have no safe wrapper; each use says why it is sound")]

use std::ffi::{CStr, c_char, c_int, c_void};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::ptr;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigHandler, SigSet, SigmaskHow, Signal, kill, killpg, signal, sigprocmask};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::{ForkResult, Pid, fork, fsync, getpgrp, getppid, setpgid};

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

/// What Rust's runtime does before `main` and Braid depends on: that standard input, output and error are there, so that no
/// file takes their place, and that a plugin that does not read its input is an error and not a signal.
pub(crate) fn prepare_process() {
    // SAFETY: the call takes integers; ignoring a signal runs no code.
    let _ = unsafe { signal(Signal::SIGPIPE, SigHandler::SigIgn) };
    for fd in 0..3 {
        // SAFETY: the call takes integers. A descriptor that is not there is what it is to find out.
        if unsafe { libc::fcntl(fd, libc::F_GETFD) } == -1 && Errno::last() == Errno::EBADF {
            // An answer that nobody gets is a failure, so what stands for standard output cannot be written.
            let place = if fd == libc::STDOUT_FILENO { "/dev/full" } else { "/dev/null" };
            let null = File::options().read(true).write(true).open(place);
            // The lowest free number is the one that it gets.
            null.into_iter().for_each(std::mem::forget);
        }
    }
}

/// A program to be started.
#[derive(Debug)]
pub(super) struct Program<'a> {
    /// Its executable, which is also its only argument.
    pub(super) path: &'a CStr,
    /// Its environment, each variable as `NAME=value`.
    pub(super) environment: &'a [&'a CStr],
    /// What it gets for standard input, output and error.
    pub(super) stdio: [BorrowedFd<'a>; 3],
    /// The process group it joins; none makes one of its own.
    pub(super) group: Option<Pid>,
    /// Whether the kernel kills it when the thread that started it is no more.
    pub(super) dies_with_us: bool,
}

/// Bytes of stack for a new process, until it has become another program.
const STACK: usize = 16 << 10;

/// What a new process has to know until it has become another program. It is in the memory of this one.
struct Birth {
    arguments: [*const c_char; 2],
    environment: Vec<*const c_char>,
    stdio: [RawFd; 3],
    group: Pid,
    /// The process to die with.
    parent: Option<Pid>,
    /// Why it has not become another program.
    failure: c_int,
}

/// Starts a program. It has the three descriptors that are given, and of this process's others those without the
/// close-on-exec flag; no signal is blocked. When this returns, it is the process's program.
///
/// This does what `posix_spawn` does, but for dying with us, and for the hundred calls by which the C library looks at
/// every signal.
pub(super) fn spawn(program: &Program<'_>) -> io::Result<Pid> {
    // A descriptor that is one of the three would be closed before its turn comes.
    let mut copies = Vec::new();
    let mut stdio = program.stdio.map(|fd| fd.as_raw_fd());
    for fd in &mut stdio {
        if *fd < 3 {
            let borrowed = program.stdio.iter().find(|own| own.as_raw_fd() == *fd).expect("it is one of them");
            *fd = fcntl(borrowed, FcntlArg::F_DUPFD_CLOEXEC(3))?;
            // SAFETY: the kernel has just given us this descriptor, and nothing else owns it.
            copies.push(unsafe { OwnedFd::from_raw_fd(*fd) });
        }
    }
    let ended_by_null = |list: &[&CStr]| list.iter().map(|text| text.as_ptr()).chain([ptr::null()]).collect();
    let mut birth = Birth {
        arguments: [program.path.as_ptr(), ptr::null()],
        environment: ended_by_null(program.environment),
        stdio,
        group: program.group.unwrap_or(Pid::from_raw(0)),
        parent: program.dies_with_us.then(Pid::this),
        failure: 0,
    };
    let mut stack = Vec::<u128>::with_capacity(STACK / size_of::<u128>());
    // Handlers of ours are not to run in the new process, which has our memory.
    let mask = SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK)?;
    // SAFETY: `stack` is memory of that size that nothing else uses, aligned as stacks are; its end is where a stack
    // begins. The new process shares our memory, and this thread stands still until it has become another program or has
    // ended, so that all that `birth` points to outlives its use. It runs `become_program` alone.
    let pid = unsafe {
        let top = stack.as_mut_ptr().add(stack.capacity()).cast::<c_void>();
        let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
        libc::clone(become_program, top, flags, (&raw mut birth).cast())
    };
    let pid = Errno::result(pid).map(Pid::from_raw);
    mask.thread_set_mask()?;
    let pid = pid?;
    if birth.failure != 0 {
        wait(pid)?;
        return Err(io::Error::from_raw_os_error(birth.failure));
    }
    Ok(pid)
}

/// The new process's life until it is another program.
extern "C" fn become_program(birth: *mut c_void) -> c_int {
    // SAFETY: it is what `spawn` has given, and `spawn` does not touch it while this runs.
    let birth = unsafe { &mut *birth.cast::<Birth>() };
    let ready = || -> nix::Result<()> {
        setpgid(Pid::from_raw(0), birth.group)?;
        if let Some(parent) = birth.parent {
            nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
            if getppid() != parent {
                return Err(Errno::ESRCH);
            }
        }
        for (fd, number) in birth.stdio.into_iter().zip(0..) {
            // SAFETY: the call takes integers. Descriptors are this process's own.
            Errno::result(unsafe { libc::dup2(fd, number) })?;
        }
        // SAFETY: neither the default nor doing nothing at all runs any code of ours. Rust's runtime has this signal
        // ignored, and what is ignored would stay so.
        unsafe { signal(Signal::SIGPIPE, SigHandler::SigDfl) }?;
        sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)
    };
    let failure = match ready() {
        Ok(()) => {
            let [path, _] = birth.arguments;
            // SAFETY: three pointers that `spawn` has made as the call wants them: a path, and two lists that end with null.
            unsafe { libc::execve(path, birth.arguments.as_ptr(), birth.environment.as_ptr()) };
            Errno::last()
        }
        Err(error) => error,
    };
    birth.failure = failure as c_int;
    // SAFETY: ends this process without running anything of the parent's.
    unsafe { libc::_exit(127) }
}

/// Opens a descriptor that becomes readable when the process `pid` ends.
pub(super) fn pidfd_open(pid: Pid) -> io::Result<OwnedFd> {
    // SAFETY: the call takes two integers and touches no memory of ours.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) };
    let fd = RawFd::try_from(Errno::result(fd)?).map_err(io::Error::other)?;
    // SAFETY: the kernel has just given us this descriptor, and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Waits for a child process to end, and takes its status.
pub(super) fn wait(pid: Pid) -> io::Result<ExitStatus> {
    let mut status = 0;
    loop {
        // SAFETY: the call writes one integer, to where there is one. nix's refuses signals that it has no name for.
        match Errno::result(unsafe { libc::waitpid(pid.as_raw(), &raw mut status, 0) }) {
            Ok(_) => return Ok(ExitStatus::from_raw(status)),
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Whether a child process has ended. Its status can still be taken.
pub(super) fn has_ended(pid: Pid) -> bool {
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    !matches!(waitid(Id::Pid(pid), flags), Ok(WaitStatus::StillAlive))
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
    let outcome = unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    if outcome == 0 {
        return;
    }
    // A kernel of before 5.11, or one that is told not to do this.
    for fd in std::fs::read_dir("/proc/self/fd").into_iter().flatten().flatten() {
        let fd: Option<RawFd> = fd.file_name().to_str().and_then(|name| name.parse().ok());
        // SAFETY: as above.
        fd.filter(|fd| *fd > 2).map(|fd| unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) });
    }
}

/// What makes a process group die with this process: a process of its own, in the group.
#[derive(Debug)]
pub(super) struct Leash {
    holder: Pid,
    group: Option<Pid>,
    mercy: Mercy,
    /// Closed by the kernel when this process dies, which is how the holder learns of it. The holder's side tells how
    /// syncing went.
    line: UnixStream,
}

impl Leash {
    /// Makes a leash that is on no group yet. Its holder syncs the files `sync`, in this order. Of this process's
    /// descriptors it keeps `keep` open and no other.
    pub(super) fn new(keep: &[BorrowedFd<'_>], mercy: Mercy, sync: &[OwnedFd]) -> io::Result<Self> {
        let (line, far_end) = UnixStream::pair()?;
        let mut keep: Vec<RawFd> = keep.iter().map(AsRawFd::as_raw_fd).chain([far_end.as_raw_fd()]).collect();
        keep.sort_unstable();
        let caller = getpgrp();
        // SAFETY: the child only makes system calls that are safe after a fork from a process with threads: it takes
        // no lock, allocates nothing while the parent lives (see `runs`) and never returns from `hold`.
        match unsafe { fork() }? {
            ForkResult::Child => {
                // What asks everything here to end, such as a service manager, asks the plugins too. One of them may
                // not heed it.
                let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), None);
                let outcome = sync.iter().try_for_each(fsync).map_or_else(|error| error as c_int, |()| 0);
                let _ = (&far_end).write_all(&outcome.to_ne_bytes());
                hold(&far_end, caller, &keep, mercy)
            }
            ForkResult::Parent { child } => Ok(Self { holder: child, group: None, mercy, line }),
        }
    }

    /// Puts it on the process group `group`.
    pub(super) fn join(&mut self, group: Pid) {
        // A plugin that has left its group as soon as it ran has left nothing behind to join, and is on its own.
        self.group = setpgid(self.holder, group).is_ok().then_some(group);
    }

    /// Waits until the files are synced.
    pub(super) fn has_synced(&self) -> io::Result<()> {
        let mut outcome = [0; size_of::<c_int>()];
        (&self.line).read_exact(&mut outcome)?;
        match c_int::from_ne_bytes(outcome) {
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
    pub(super) fn begin_to_end(&self) {
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
        self.begin_to_end();
        let _ = waitpid(self.holder, None);
    }
}

/// The holder's life: wait for the parent to end, which closes its side of `line`, then see to it that the group does.
/// Which group that is the parent has settled by then; it is `caller`, the parent's own, where no plugin was started.
fn hold(line: &UnixStream, caller: Pid, keep: &[RawFd], mercy: Mercy) -> ! {
    let mut from: libc::c_uint = 0;
    for fd in keep {
        let fd = fd.cast_unsigned();
        if fd > from {
            close_range(from, fd - 1);
        }
        from = fd + 1;
    }
    close_range(from, libc::c_uint::MAX);
    let mut fds = [PollFd::new(line.as_fd(), PollFlags::POLLIN)];
    while let Err(Errno::EINTR | Errno::EAGAIN) = poll(&mut fds, PollTimeout::NONE) {}
    let group = getpgrp();
    // Out of the group, to kill it and outlive that.
    if group != caller && setpgid(Pid::from_raw(0), Pid::from_raw(0)).is_ok() {
        if mercy == Mercy::LastMoment {
            until_empty(group, LAST_MOMENT, None);
        }
        until_empty(group, DYING, Some(Signal::SIGKILL));
    }
    // SAFETY: ends this process without running anything of the parent's.
    unsafe { libc::_exit(0) }
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
    // SAFETY: closes descriptors of this process, which uses none of them any more; the other call takes an integer.
    unsafe {
        if libc::syscall(libc::SYS_close_range, first, last, 0) == 0 {
            return;
        }
        // A kernel of before 5.9, or one that is told not to do this.
        let most = libc::c_uint::try_from(libc::sysconf(libc::_SC_OPEN_MAX)).unwrap_or(1 << 20);
        for fd in first..=last.min(most) {
            libc::close(fd.cast_signed());
        }
    }
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
    use std::ffi::CString;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::PermissionsExt;
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
        let mut child = Command::new("sh")
            .args(["-c", "sleep 1000 & wait"])
            .process_group(0)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let group = Pid::from_raw(child.id().cast_signed());
        let mut leash = Leash::new(&[], Mercy::None, &[]).unwrap();
        leash.join(group);
        leash.kill_group();
        assert!(!child.wait().unwrap().success());
        // The sleeping grandchild is init's to reap now; the group is empty once that is done.
        for _ in 0..500 {
            if killpg(group, None).is_err() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("the process group {group} still has members");
    }

    #[test]
    fn the_holder_tells_how_syncing_went() {
        let file = tempfile::tempfile().unwrap();
        let leash = Leash::new(&[], Mercy::None, &[file.into()]).unwrap();
        leash.has_synced().unwrap();
        // A pipe cannot be synced.
        let (reader, _writer) = io::pipe().unwrap();
        let leash = Leash::new(&[], Mercy::None, &[reader.into()]).unwrap();
        assert_eq!(leash.has_synced().unwrap_err().raw_os_error(), Some(Errno::EINVAL as i32));
    }

    #[test]
    fn a_group_that_is_gone_is_not_joined() {
        let mut child = Command::new("true").process_group(0).spawn().unwrap();
        let group = Pid::from_raw(child.id().cast_signed());
        child.wait().unwrap();
        let mut leash = Leash::new(&[], Mercy::None, &[]).unwrap();
        leash.join(group);
        assert_eq!(leash.group(), None);
    }

    #[test]
    fn a_program_gets_what_it_is_given() {
        let script = "cat; echo \"$A $B\"; kill -PIPE $$";
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("program");
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        let (stdin, mut to_program) = io::pipe().unwrap();
        let (mut from_program, stdout) = io::pipe().unwrap();
        let pid = spawn(&Program {
            path: &CString::new(path.as_os_str().as_bytes()).unwrap(),
            environment: &[c"A=a", c"B=b"],
            stdio: [stdin.as_fd(), stdout.as_fd(), stdout.as_fd()],
            group: None,
            dies_with_us: true,
        });
        let pid = pid.unwrap();
        drop((stdin, stdout));
        to_program.write_all(b"input\n").unwrap();
        drop(to_program);
        let mut printed = String::new();
        from_program.read_to_string(&mut printed).unwrap();
        assert_eq!(printed, "input\na b\n");
        assert_eq!(wait(pid).unwrap().signal(), Some(Signal::SIGPIPE as i32));
    }

    #[test]
    fn what_is_no_program_is_not_started() {
        let null = File::open("/dev/null").unwrap();
        let error = spawn(&Program {
            path: c"/dev/null",
            environment: &[],
            stdio: [null.as_fd(), null.as_fd(), null.as_fd()],
            group: None,
            dies_with_us: false,
        });
        assert_eq!(error.unwrap_err().raw_os_error(), Some(Errno::EACCES as i32));
    }

    #[test]
    fn letting_go_leaves_the_group_alone() {
        let mut child = Command::new("sleep").arg("1000").process_group(0).spawn().unwrap();
        let mut leash = Leash::new(&[], Mercy::None, &[]).unwrap();
        leash.join(Pid::from_raw(child.id().cast_signed()));
        drop(leash);
        assert!(child.try_wait().unwrap().is_none());
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
