//! Starting a program.

#![expect(
    unsafe_code,
    reason = "to start a process that shares our memory has no safe wrapper; each use says why it is sound"
)]

use std::ffi::{CStr, c_char, c_int, c_void};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use nix::sys::signal::{SigHandler, SigSet, SigmaskHow, Signal, signal, sigprocmask};
use nix::unistd::{Pid, getppid, setpgid};

use crate::runtime::process::wait;

/// A program to be started.
#[derive(Debug)]
pub(super) struct Program<'a> {
    /// Its executable, which is also its only argument.
    pub(super) path: &'a CStr,
    /// Its environment, each variable as `NAME=value`.
    pub(super) environment: &'a [&'a CStr],
    /// Its standard input, output and error.
    pub(super) stdio: [BorrowedFd<'a>; 3],
    /// The process group that it joins. Without one, it makes a group of its own.
    pub(super) group: Option<Pid>,
    /// Whether the kernel kills it when the thread that started it ends.
    pub(super) dies_with_us: bool,
}

/// The stack of a process that shares this process's memory.
#[derive(Debug)]
struct Stack(Vec<u128>);

impl Stack {
    /// Its size, in bytes.
    const SIZE: usize = 16 << 10;

    fn new() -> Self {
        Self(Vec::with_capacity(Self::SIZE / size_of::<u128>()))
    }

    /// The address where the stack begins: the end of the memory, aligned as the platform requires.
    fn top(&mut self) -> *mut c_void {
        self.0.spare_capacity_mut().as_mut_ptr_range().end.cast()
    }
}

/// What a new process needs until it runs its own program. It shares this process's memory until then.
struct NewProcess {
    arguments: [*const c_char; 2],
    environment: Vec<*const c_char>,
    stdio: [RawFd; 3],
    group: Pid,
    /// The process to die with.
    parent: Option<Pid>,
    /// Why it has not become another program.
    failure: c_int,
}

/// Starts a program with the three given descriptors. It also inherits descriptors without the close-on-exec flag. No signal is
/// blocked in it. When this returns, the process runs its program.
///
/// This does what `posix_spawn` does. In addition, the process can die with this one, and this saves the hundred system calls with
/// which the C library looks at every signal.
pub(super) fn spawn(program: &Program<'_>) -> io::Result<Pid> {
    // Move descriptors 0 to 2 out of the way, so that `dup2` does not overwrite one before it is copied.
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
    let mut new = NewProcess {
        arguments: [program.path.as_ptr(), ptr::null()],
        environment: ended_by_null(program.environment),
        stdio,
        group: program.group.unwrap_or(Pid::from_raw(0)),
        parent: program.dies_with_us.then(Pid::this),
        failure: 0,
    };
    let mut stack = Stack::new();
    // This process's signal handlers must not run in the new process, which shares its memory.
    let mask = SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK)?;
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
    // SAFETY: nothing else uses the stack. The new process shares this process's memory. This thread is suspended until the new
    // process runs another program or has exited, so everything that `new` points to outlives its use. The new process runs only
    // `become_program`.
    let pid = unsafe { libc::clone(become_program, stack.top(), flags, (&raw mut new).cast()) };
    let pid = Errno::result(pid).map(Pid::from_raw);
    mask.thread_set_mask()?;
    let pid = pid?;
    if new.failure != 0 {
        wait(pid)?;
        return Err(io::Error::from_raw_os_error(new.failure));
    }
    Ok(pid)
}

/// Makes a process group in which nothing runs. Returns the ID of its leader, which has exited and must be waited for. The group
/// disappears with the leader, unless another process has joined it by then.
pub(super) fn new_group() -> io::Result<Pid> {
    let mut stack = Stack::new();
    let mask = SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK)?;
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
    // SAFETY: nothing else uses the stack. The new process shares this process's memory, and this thread is suspended until it has
    // exited. It runs only `exit_as_leader`, which touches no memory but the stack.
    let pid = unsafe { libc::clone(exit_as_leader, stack.top(), flags, ptr::null_mut()) };
    let pid = Errno::result(pid).map(Pid::from_raw);
    mask.thread_set_mask()?;
    Ok(pid?)
}

/// The program of a process that only makes a group.
extern "C" fn exit_as_leader(_: *mut c_void) -> c_int {
    // If this fails, joining the group fails too.
    let _ = setpgid(Pid::from_raw(0), Pid::from_raw(0));
    // SAFETY: ends this process, and runs no exit handlers of the parent.
    unsafe { libc::_exit(0) }
}

/// The new process's program until it becomes another one.
extern "C" fn become_program(new: *mut c_void) -> c_int {
    // SAFETY: the pointer is the one that `spawn` passes, and `spawn` does not touch the value while this runs.
    let new = unsafe { &mut *new.cast::<NewProcess>() };
    let ready = || -> nix::Result<()> {
        setpgid(Pid::from_raw(0), new.group)?;
        if let Some(parent) = new.parent {
            nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
            if getppid() != parent {
                return Err(Errno::ESRCH);
            }
        }
        for (fd, number) in new.stdio.into_iter().zip(0..) {
            // SAFETY: the call takes integers. The new process has its own descriptors.
            Errno::result(unsafe { libc::dup2(fd, number) })?;
        }
        // SAFETY: resetting a signal to its default runs none of Braid's code. Rust's runtime ignores this signal, and the new
        // program would inherit that.
        unsafe { signal(Signal::SIGPIPE, SigHandler::SigDfl) }?;
        sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)
    };
    let failure = match ready() {
        Ok(()) => {
            let [path, _] = new.arguments;
            // SAFETY: `spawn` has made the three pointers as the call requires: a path, and two lists that end with null.
            unsafe { libc::execve(path, new.arguments.as_ptr(), new.environment.as_ptr()) };
            Errno::last()
        }
        Err(error) => error,
    };
    new.failure = failure as c_int;
    // SAFETY: ends this process, and runs no exit handlers of the parent.
    unsafe { libc::_exit(127) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::CString;
    use std::fs::File;
    use std::io::{Read, Write};
    use std::os::fd::AsFd;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::process::ExitStatusExt;

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
