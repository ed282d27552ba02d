//! Runs a program to its end one instruction at a time, and prints how many it took: its own process's, in user space,
//! not those of its children nor of the kernel.
//!
//! `instructions.sh` runs it. Unlike a time, the number does not depend on what else the machine does. Valgrind would
//! count too, but releases of it that are still common do not know `pidfd_open` and so cannot run Braid, and a virtual
//! machine seldom has the processor's counters.
//!
//! Usage: `bench-instructions STDIN-FILE STDOUT-FILE PROGRAM`

#![expect(clippy::disallowed_macros, reason = "a program of its own, not a part of Braid")]
#![expect(unsafe_code, reason = "the way to be traced from the first instruction on")]

use std::error::Error;
use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [stdin, stdout, program] = words.as_slice() else { return Err("three arguments, please".into()) };
    let mut command = Command::new(program);
    command.stdin(File::open(stdin)?).stdout(File::create(stdout)?);
    // SAFETY: between fork and exec only ptrace is called, which is safe there.
    unsafe { command.pre_exec(|| ptrace::traceme().map_err(io::Error::from)) };
    let pid = Pid::from_raw(command.spawn()?.id().cast_signed());
    let mut count = 0_u64;
    loop {
        let signal = match waitpid(pid, None)? {
            WaitStatus::Stopped(_, Signal::SIGTRAP) => None,
            WaitStatus::Stopped(_, signal) => Some(signal),
            WaitStatus::Exited(_, 0) => break,
            other => return Err(format!("{program} ended otherwise than well: {other:?}").into()),
        };
        ptrace::step(pid, signal)?;
        count += 1;
    }
    println!("{count}");
    Ok(ExitCode::SUCCESS)
}
