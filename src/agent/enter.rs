//! Enters the namespaces of the node.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::errno::Errno;
use nix::sched::{CloneFlags, setns};

use super::error::AgentError;
use super::settings::HostProcess;

/// The kinds of namespaces in which a change is made: the name in messages, and the file below `/proc/PID/ns`.
const NAMESPACES: [(&str, &str, CloneFlags); 2] =
    [("network", "net", CloneFlags::CLONE_NEWNET), ("mount", "mnt", CloneFlags::CLONE_NEWNS)];

/// Replaces this process with a program that runs in the mount and network namespaces of another process. Returns only if that
/// fails.
pub(crate) fn enter(pid: u32, program: &Path, arguments: &[OsString]) -> AgentError {
    // All of them are opened before the first is entered, because /proc is different afterwards.
    let opened: Result<Vec<_>, _> = NAMESPACES
        .iter()
        .map(|(name, file, kind)| File::open(path(pid, file)).map(|file| (*name, file, *kind)))
        .collect();
    let opened = match opened {
        Ok(opened) => opened,
        Err(source) => return AgentError::Host { pid, source },
    };
    for (namespace, file, kind) in opened {
        if let Err(source) = setns(file, kind) {
            return AgentError::Enter { namespace, pid, source };
        }
    }
    let source = Command::new(program).args(arguments).exec();
    AgentError::Run { program: program.to_owned(), source }
}

/// The process whose namespaces must be entered for a change. `None` if the agent is in them already.
///
/// # Errors
/// When the namespaces of that process cannot be inspected or opened.
pub(super) fn process_to_enter(host: HostProcess) -> Result<Option<u32>, AgentError> {
    let HostProcess::Pid(pid) = host else { return Ok(None) };
    let is_inside = || -> io::Result<bool> {
        for (_, file, _) in NAMESPACES {
            if fs::read_link(path(pid, file))? != fs::read_link(own_path(file))? {
                return Ok(false);
            }
        }
        Ok(true)
    };
    match is_inside() {
        Ok(true) => Ok(None),
        Ok(false) => {
            // Opened now, so that a missing right is reported when the agent starts.
            for (_, file, _) in NAMESPACES {
                File::open(path(pid, file)).map_err(|source| AgentError::Host { pid, source })?;
            }
            Ok(Some(pid))
        }
        Err(source) => Err(AgentError::Host { pid, source }),
    }
}

/// The file of a namespace of a process.
fn path(pid: u32, file: &str) -> PathBuf {
    format!("/proc/{pid}/ns/{file}").into()
}

/// The file of a namespace of this process.
fn own_path(file: &str) -> PathBuf {
    Path::new("/proc/self/ns").join(file)
}

/// The name of this node. By default, the kubelet uses the machine's host name too.
pub(super) fn host_name() -> Result<String, Errno> {
    let name = nix::sys::utsname::uname()?.nodename().to_string_lossy().trim().to_lowercase();
    if name.is_empty() { Err(Errno::ENODATA) } else { Ok(name) }
}
