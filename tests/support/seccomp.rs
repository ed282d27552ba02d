//! A sandbox in which system calls are forbidden, as by seccomp profiles and `AppArmor`, or hang.

#![expect(unsafe_code, reason = "a filter is set between fork and exec, which std leaves to its caller")]

use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use nix::errno::Errno;
use nix::libc::{self, c_long, sock_filter, sock_fprog};

/// The calls that send signals.
pub(crate) const SIGNALS: [c_long; 4] =
    [libc::SYS_kill, libc::SYS_tkill, libc::SYS_tgkill, libc::SYS_pidfd_send_signal];

/// Makes these system calls fail with `EPERM`, in the program and in all processes that it starts.
pub(crate) fn refuse(command: &mut Command, calls: &[c_long]) {
    fail(command, calls, Errno::EPERM);
}

/// Makes these system calls fail with an error, in the program and in all processes that it starts.
pub(crate) fn fail(command: &mut Command, calls: &[c_long], with: Errno) {
    let filter = filter(calls, libc::SECCOMP_RET_ERRNO | with as u32);
    // SAFETY: between fork and exec it makes two system calls. It allocates only for an error, which ends the process.
    unsafe { command.pre_exec(move || set(&filter, 0).map(drop)) };
}

/// Makes these system calls hang as long as the program runs, in the program and in all processes that it starts. They are sent to
/// a listener, which the program has open without knowing it.
pub(crate) fn hang(command: &mut Command, calls: &[c_long]) {
    let filter = filter(calls, libc::SECCOMP_RET_USER_NOTIF);
    let set = move || {
        let listener = set(&filter, libc::SECCOMP_FILTER_FLAG_NEW_LISTENER)?;
        let listener = listener.try_into().map_err(io::Error::other)?;
        // SAFETY: the call takes integers.
        Errno::result(unsafe { libc::fcntl(listener, libc::F_SETFD, 0) })?;
        Ok(())
    };
    // SAFETY: as above.
    unsafe { command.pre_exec(set) };
}

/// What happens to these system calls. All others are allowed.
fn filter(calls: &[c_long], action: u32) -> Vec<sock_filter> {
    let statement =
        |code: u32, jt: u8, jf: u8, k: u32| sock_filter { code: code.try_into().expect("a code"), jt, jf, k };
    // The number of the system call is at the beginning of a filter's input.
    let mut filter = vec![statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0)];
    for call in calls {
        filter.push(statement(
            libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K,
            0,
            1,
            (*call).try_into().expect("a number"),
        ));
        filter.push(statement(libc::BPF_RET | libc::BPF_K, 0, 0, action));
    }
    filter.push(statement(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW));
    filter
}

/// Sets a filter for the calling process, and returns the kernel's answer.
fn set(filter: &[sock_filter], flags: libc::c_ulong) -> io::Result<c_long> {
    let program =
        sock_fprog { len: filter.len().try_into().map_err(io::Error::other)?, filter: filter.as_ptr().cast_mut() };
    // SAFETY: the call takes integers.
    Errno::result(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) })?;
    // SAFETY: the filter outlives the call, which copies it.
    let set = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program) };
    Ok(Errno::result(set)?)
}
