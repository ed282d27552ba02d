//! Starting processes and waiting for them, and what a process may have been started with, where neither the standard
//! library nor nix wraps the call into the kernel safely. Only here, in [`leash`](super::leash) and in `main` is there
//! `unsafe`.
//!
//! [`spawn`] starts a plugin. [`prepare_process`], [`take_signals_in_hand`] and [`keep_descriptors_from_plugins`] make up for
//! what this process was started with.

#![expect(unsafe_code, reason = "these calls have no safe wrapper; each use says why it is sound")]

use std::ffi::{CStr, c_char, c_int, c_void};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::ptr;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use nix::poll::PollTimeout;
use nix::sys::signal::{SigHandler, SigSet, SigmaskHow, Signal, signal, sigprocmask};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::{Pid, getppid, gettid, setpgid};

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

/// The stack of a process that shares our memory.
#[derive(Debug)]
pub(super) struct Stack(Vec<u128>);

impl Stack {
    /// Its size, in bytes.
    const SIZE: usize = 16 << 10;

    pub(super) fn new() -> Self {
        Self(Vec::with_capacity(Self::SIZE / size_of::<u128>()))
    }

    /// Where it begins: its end, aligned as stacks are.
    pub(super) fn top(&mut self) -> *mut c_void {
        self.0.spare_capacity_mut().as_mut_ptr_range().end.cast()
    }
}

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
    let mut stack = Stack::new();
    // Handlers of ours are not to run in the new process, which has our memory.
    let mask = SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK)?;
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
    // SAFETY: nothing else uses the stack. The new process shares our memory, and this thread stands still until it has become
    // another program or has ended, so that all that `birth` points to outlives its use. It runs `become_program` alone.
    let pid = unsafe { libc::clone(become_program, stack.top(), flags, (&raw mut birth).cast()) };
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
    open_pidfd(pid, 0)
}

fn open_pidfd(pid: Pid, flags: libc::c_uint) -> io::Result<OwnedFd> {
    // SAFETY: the call takes two integers and touches no memory of ours.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), flags) };
    let fd = RawFd::try_from(Errno::result(fd)?).map_err(io::Error::other)?;
    // SAFETY: the kernel has just given us this descriptor, and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Opens the network namespace of the calling thread (Linux 6.11).
pub(crate) fn own_network_namespace() -> io::Result<OwnedFd> {
    // linux/pidfd.h: PIDFD_THREAD, and PIDFD_GET_NET_NAMESPACE, which is _IO(0xFF, 4).
    const OF_A_THREAD: libc::c_uint = libc::O_EXCL.cast_unsigned();
    const GET: libc::Ioctl = 0xFF04;
    let thread = open_pidfd(gettid(), OF_A_THREAD)?;
    // SAFETY: the request takes no memory of ours. A kernel that does not know it says so.
    let fd = Errno::result(unsafe { libc::ioctl(thread.as_raw_fd(), GET, 0) })?;
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

/// A poll time-out, rounded up to whole milliseconds.
pub(super) fn poll_timeout(left: Option<Duration>) -> PollTimeout {
    let Some(left) = left else { return PollTimeout::NONE };
    let millis = left.as_micros().div_ceil(1000);
    PollTimeout::try_from(i32::try_from(millis).unwrap_or(i32::MAX)).unwrap_or(PollTimeout::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::poll::{PollFd, PollFlags, poll};
    use std::ffi::CString;
    use std::io::{Read, Write};
    use std::os::fd::AsFd;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::PermissionsExt;
    use std::process::Command;

    #[test]
    fn a_pidfd_tells_the_end_of_a_process() {
        let mut child = Command::new("sleep").arg("0").spawn().unwrap();
        let fd = pidfd_open(Pid::from_raw(child.id().cast_signed())).unwrap();
        let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
        assert_eq!(poll(&mut fds, PollTimeout::from(5000u16)).unwrap(), 1);
        child.wait().unwrap();
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
}
