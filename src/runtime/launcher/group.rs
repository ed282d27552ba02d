//! Finds out which processes of a process group still run. Allocates nothing, because it is used by a process that was forked from
//! one with several threads.

use std::ffi::{CStr, c_int};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::{Timespec, poll};
use rustix::fs::{CWD, Mode, OFlags, RawDir, openat};
use rustix::process as raw;

/// Waits until nothing in a group runs. Sends the signal again and again, because a process that is just being started may join the
/// group late.
pub(super) fn wait_until_empty(group: raw::Pid, at_most: Duration, with: Option<raw::Signal>) {
    let began = Instant::now();
    let mut pause = Duration::from_millis(1);
    let is_there = || match with {
        Some(signal) => raw::kill_process_group(group, signal) != Err(rustix::io::Errno::SRCH),
        None => raw::test_kill_process_group(group) != Err(rustix::io::Errno::SRCH),
    };
    while is_there() && runs(group) && began.elapsed() < at_most {
        let _ = poll(&mut [], Timespec::try_from(pause).as_ref().ok());
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

/// Whether a process of the group runs. A dead process stays in the group until its parent reaps it, which in a container may never
/// happen. Without `/proc`, every process of the group counts as running.
pub(super) fn runs(group: raw::Pid) -> bool {
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

/// Whether the entry `name` of `/proc` is a process of the group that is not dead.
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
    // The second field is a name in parentheses, which may contain anything.
    let after_name = stat.iter().rposition(|byte| *byte == b')').map_or(&[][..], |at| &stat[at + 1..]);
    let mut fields = after_name.split(u8::is_ascii_whitespace).filter(|field| !field.is_empty());
    let number = |field: Option<&[u8]>| str::from_utf8(field?).ok()?.parse::<c_int>().ok();
    let (state, own_group, threads) = (fields.next(), number(fields.nth(1)), number(fields.nth(14)));
    // A process has the state of its first thread. If that is dead, another thread may still be writing a file.
    let is_dead = matches!(state, Some(b"Z" | b"X")) && threads.is_none_or(|threads| threads <= 1);
    own_group == Some(group.as_raw_nonzero().get()) && !is_dead
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::signal::{Signal, killpg};
    use nix::unistd::Pid;
    use std::os::unix::process::CommandExt;
    use std::process::Command;

    #[test]
    fn the_dead_do_not_run() {
        let mut shell = Command::new("sleep").arg("1000").process_group(0).spawn().unwrap();
        let group = Pid::from_raw(shell.id().cast_signed());
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
}
