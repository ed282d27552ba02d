//! Running one plugin once (SPEC §2).
//!
//! [`Exec`] is what the rest of the crate depends on, so that a test can put its own in; [`Launcher`] is the real one.

use std::ffi::{CStr, CString, OsStr, OsString};
use std::fs::File;
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

use super::leash::{Leash, Mercy};
use super::process::{Program, has_ended, pidfd_open, poll_timeout, spawn, wait};
use crate::cni::error::code;
use crate::cni::{CniError, Verb};

/// A descriptor that becomes readable when a process ends.
///
/// # Errors
/// When there is no such process.
pub fn pidfd(pid: Pid) -> io::Result<OwnedFd> {
    pidfd_open(pid)
}

/// The most a plugin may print on standard output, in bytes.
pub const MAX_STDOUT: usize = 16 << 20;
/// How much of the end of a plugin's standard error is kept for an error message, in bytes.
const STDERR_TAIL: usize = 2048;
/// How often it is looked whether a plugin has ended, where the kernel does not tell: twice as long is waited each time that
/// nothing has happened.
const GLANCE: Duration = Duration::from_millis(1);
const LAST_GLANCE: Duration = Duration::from_millis(32);
/// The protocol's variables (SPEC §2, "Parameters").
const PROTOCOL: [&str; 6] = ["CNI_COMMAND", "CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_ARGS", "CNI_PATH"];
/// How long "text file busy" is retried: as long as copying a plugin over a running one may take.
const BUSY_FOR: Duration = Duration::from_secs(2);

/// One call of one plugin.
#[derive(Debug, Clone, Copy)]
pub struct Call<'a> {
    /// The executable.
    pub executable: &'a Path,
    /// The operation.
    pub verb: Verb,
    /// The other `CNI_*` variables; those not here are removed from the environment.
    pub environment: &'a [(&'static str, &'a str)],
    /// The request configuration.
    pub stdin: &'a [u8],
    /// When it has to be done.
    pub deadline: Option<Instant>,
}

/// What a plugin that exited with 0 printed.
pub type Stdout = Vec<u8>;

/// Why a plugin's call failed.
#[derive(Debug, thiserror::Error)]
pub enum PluginError {
    /// No directory holds an executable of that name.
    #[error("no executable called {plugin_type:?} is in {}", if searched.is_empty() { "CNI_PATH, which is empty" } else { searched })]
    NotFound {
        /// The type.
        plugin_type: String,
        /// The directories, as in `CNI_PATH`.
        searched: String,
    },
    /// It could not be started.
    #[error("{} cannot be started: {source}", path.display())]
    Start {
        /// The executable.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Talking to it failed.
    #[error("talking to the plugin failed: {0}")]
    Io(#[source] io::Error),
    /// It got no input, because the files that had to be synced first could not be.
    #[error("it was not told what to do, as a file could not be synced: {0}")]
    Withheld(#[source] io::Error),
    /// It reported a CNI error. Shown is its message; its details are for whoever shows details.
    #[error("{}", if .0.msg.is_empty() { "it reported an error without a message" } else { &.0.msg })]
    Reported(CniError),
    /// It ended without a CNI error.
    #[error("{}{}", describe_status(*status), tail(stderr))]
    Ended {
        /// How it ended.
        status: ExitStatus,
        /// The end of its standard error.
        stderr: String,
    },
    /// It was killed, with its process group, as its time was over.
    #[error("it had not ended after {:.1} s and was killed{}", after.as_secs_f64(), tail(stderr))]
    TimedOut {
        /// How long it had.
        after: Duration,
        /// The end of its standard error.
        stderr: String,
    },
    /// It printed too much.
    #[error("it printed more than {} MiB on standard output and was killed", MAX_STDOUT >> 20)]
    Flood,
    /// It succeeded, but what it printed is not what the operation asks for.
    #[error("it succeeded, but {0}")]
    Output(String),
}

impl From<&PluginError> for CniError {
    /// The CNI error of a plugin's failure: its own, if it gave one.
    fn from(error: &PluginError) -> Self {
        let own = match error {
            PluginError::Reported(own) => return own.clone(),
            PluginError::NotFound { .. } => code::INVALID_CONFIG,
            PluginError::Start { .. } | PluginError::Withheld(_) | PluginError::Io(_) => code::IO,
            PluginError::Ended { .. } => code::PLUGIN_FAILED,
            PluginError::TimedOut { .. } => code::TIMED_OUT,
            PluginError::Flood | PluginError::Output(_) => code::DECODE,
        };
        Self::new(own, error.to_string())
    }
}

fn describe_status(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("it exited with status {code} and no CNI error"),
        (None, Some(signal)) => match nix::sys::signal::Signal::try_from(signal) {
            Ok(name) => format!("it was killed by signal {signal} ({name})"),
            Err(_) => format!("it was killed by signal {signal}"),
        },
        (None, None) => "it ended in an unknown way".into(),
    }
}

fn tail(stderr: &str) -> String {
    let stderr = stderr.trim();
    if stderr.is_empty() {
        "; it printed nothing on standard error".into()
    } else {
        format!("; its standard error ends: {stderr}")
    }
}

/// Runs plugins.
pub trait Exec: Sync {
    /// Runs one plugin to its end and returns what it printed.
    ///
    /// # Errors
    /// When it could not be run, exited with anything but 0, or ran out of time.
    fn run(&self, call: &Call<'_>) -> Result<Stdout, PluginError>;

    /// Has `files` synced before the next plugin's ADD gets its input: what it is to do may depend on something that must
    /// be durable first. Where that fails, the plugin gets none. This may begin at once and does not wait.
    ///
    /// # Errors
    /// When it has failed already.
    fn sync_first(&self, files: Vec<Arc<File>>) -> io::Result<()> {
        files.iter().try_for_each(|file| file.sync_all())
    }

    /// Says that no [`run`](Self::run) is under way and none is likely to come, so that what is kept for it can begin to
    /// go. Should one come after all, it works as ever.
    fn rest(&self) {}
}

impl<E: Exec + ?Sized> Exec for &E {
    fn run(&self, call: &Call<'_>) -> Result<Stdout, PluginError> {
        (**self).run(call)
    }

    fn sync_first(&self, files: Vec<Arc<File>>) -> io::Result<()> {
        (**self).sync_first(files)
    }

    fn rest(&self) {
        (**self).rest();
    }
}

/// Runs plugins as processes: the environment inherited with the `CNI_*` variables replaced, standard error passed
/// on, and every plugin in a process group that is killed when its time is over or this process dies. A DEL that is under
/// way when this process dies is given a few seconds to end, and what another call's plugin has started a quarter of one.
#[derive(Debug, Default)]
pub struct Launcher {
    /// Set in every plugin's environment, beside the protocol's variables.
    guard: Option<(String, String)>,
    /// What every plugin's environment has in common.
    inherited: OnceLock<Vec<CString>>,
    /// To be synced before the next plugin gets its input. Locked while that is under way.
    sync_first: Mutex<SyncFirst>,
    /// Held open until the last plugin is dead, should this process be killed.
    locks: Vec<Arc<File>>,
    /// Leashes of process groups in which nothing runs now.
    idle: Mutex<Vec<Leash>>,
    /// Leashes that will not be used again, whose holders are about to end.
    leaving: Mutex<Vec<Leash>>,
}

/// What is to be synced.
#[derive(Debug, Default)]
enum SyncFirst {
    #[default]
    Nothing,
    /// The leash's holder is at the first file. The others are left for whoever starts the plugin: while that starts, and
    /// on most file systems together with the first.
    UnderWay(Leash, Vec<Arc<File>>),
    /// It could not be: no plugin's ADD gets any input.
    Failed,
}

impl Launcher {
    /// A launcher that sets nothing but the protocol's variables.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets one more variable in every plugin's environment.
    #[must_use]
    pub fn with_variable(mut self, name: &str, value: &str) -> Self {
        self.guard = Some((name.into(), value.into()));
        self
    }

    /// Keeps `locks` open until the last plugin is dead, should this process be killed.
    #[must_use]
    pub fn holding(mut self, locks: Vec<Arc<File>>) -> Self {
        self.locks = locks;
        self
    }

    /// The leash of a process group in which nothing runs now.
    fn idle(&self, mercy: Mercy) -> Option<Leash> {
        let mut idle = self.idle.lock().expect("no holder panics");
        let at = idle.iter().position(|leash| leash.mercy() == mercy)?;
        Some(idle.swap_remove(at))
    }

    fn leash(&self, mercy: Mercy, sync: Option<BorrowedFd<'_>>) -> io::Result<Leash> {
        let keep: Vec<BorrowedFd<'_>> = self.locks.iter().map(AsFd::as_fd).collect();
        Leash::new(&keep, mercy, sync)
    }

    /// Starts a plugin on a leash. It has been told nothing yet.
    fn start<'a>(&self, call: &Call<'a>) -> Result<(Conversation<'a>, Leash), PluginError> {
        let mercy = if call.verb == Verb::Del { Mercy::Everyone } else { Mercy::Children };
        let start = |group| {
            let talk = self.spawn(call, group, mercy);
            talk.map_err(|source| PluginError::Start { path: call.executable.to_owned(), source })
        };
        // Whoever comes meanwhile waits.
        let mut sync_first = self.sync_first.lock().expect("no holder panics");
        // What undoes may run all the same.
        if call.verb == Verb::Add {
            match std::mem::replace(&mut *sync_first, SyncFirst::Failed) {
                SyncFirst::Nothing => *sync_first = SyncFirst::Nothing,
                SyncFirst::Failed => {
                    return Err(PluginError::Withheld(io::Error::other("an attempt at it has failed before")));
                }
                SyncFirst::UnderWay(mut leash, others) => {
                    let talk = match start(None) {
                        Ok(talk) => talk,
                        Err(error) => {
                            *sync_first = SyncFirst::UnderWay(leash, others);
                            return Err(error);
                        }
                    };
                    leash.join(talk.pid);
                    let others = others.iter().try_for_each(|file| file.sync_all());
                    if let Err(error) = others.and_then(|()| leash.has_synced()) {
                        talk.kill();
                        return Err(PluginError::Withheld(error));
                    }
                    *sync_first = SyncFirst::Nothing;
                    return Ok((talk, leash));
                }
            }
        }
        drop(sync_first);
        if let Some(leash) = self.idle(mercy) {
            return Ok((start(leash.group())?, leash));
        }
        // The plugin starts while the leash is made.
        let talk = start(None)?;
        match self.leash(mercy, None) {
            Ok(mut leash) => {
                leash.join(talk.pid);
                Ok((talk, leash))
            }
            Err(error) => {
                talk.kill();
                Err(PluginError::Io(error))
            }
        }
    }

    fn release(&self, leash: Leash) {
        if leash.group().is_none() {
            return;
        }
        self.idle.lock().expect("no holder panics").push(leash);
    }

    /// Starts a plugin. It is alive, and waits for its standard input.
    fn spawn<'a>(&self, call: &Call<'a>, group: Option<Pid>, mercy: Mercy) -> io::Result<Conversation<'a>> {
        let (stdin, to_plugin) = io::pipe()?;
        let (from_plugin, stdout) = io::pipe()?;
        let (errors_of_plugin, stderr) = io::pipe()?;
        for ours in [to_plugin.as_fd(), from_plugin.as_fd(), errors_of_plugin.as_fd()] {
            fcntl(ours, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        }
        let path = CString::new(call.executable.as_os_str().as_bytes())?;
        let command = [("CNI_COMMAND", call.verb.as_str())];
        let own = command.iter().chain(call.environment).map(|(name, value)| CString::new(format!("{name}={value}")));
        let own = own.collect::<Result<Vec<_>, _>>()?;
        let environment: Vec<&CStr> = self.inherited().iter().chain(&own).map(CString::as_c_str).collect();
        let program = Program {
            path: &path,
            environment: &environment,
            stdio: [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()],
            group,
            dies_with_us: mercy == Mercy::Children,
        };
        let started = Instant::now();
        loop {
            match spawn(&program) {
                Ok(pid) => {
                    return Ok(Conversation::new(pid, to_plugin, from_plugin, errors_of_plugin, call.stdin));
                }
                Err(error) if error.raw_os_error() == Some(Errno::ETXTBSY as i32) && started.elapsed() < BUSY_FOR => {
                    std::thread::sleep(Duration::from_millis(10));
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// What every plugin's environment has beside its call's: ours without the protocol's variables, and the guard.
    #[expect(clippy::disallowed_methods, reason = "plugins inherit the environment, and the library has no request")]
    fn inherited(&self) -> &[CString] {
        self.inherited.get_or_init(|| {
            let guard = self.guard.iter().map(|(name, value)| (name.into(), value.into()));
            let is_guard = |name: &OsStr| self.guard.as_ref().is_some_and(|(guard, _)| name == guard.as_str());
            std::env::vars_os()
                .filter(|(name, _)| !PROTOCOL.iter().any(|of| name == of) && !is_guard(name))
                .chain(guard)
                .map(|(mut variable, value): (OsString, OsString)| {
                    variable.push("=");
                    variable.push(value);
                    CString::new(variable.into_vec()).expect("what the kernel gave as a C string is one")
                })
                .collect()
        })
    }
}

impl Exec for Launcher {
    fn sync_first(&self, files: Vec<Arc<File>>) -> io::Result<()> {
        let mut files = files.into_iter();
        let Some(first) = files.next() else { return Ok(()) };
        let leash = self.leash(Mercy::Children, Some(first.as_fd()))?;
        *self.sync_first.lock().expect("no holder panics") = SyncFirst::UnderWay(leash, files.collect());
        Ok(())
    }

    fn rest(&self) {
        let mut idle = self.idle.lock().expect("no holder panics");
        idle.iter_mut().for_each(Leash::begin_to_end);
        self.leaving.lock().expect("no holder panics").append(&mut idle);
    }

    fn run(&self, call: &Call<'_>) -> Result<Stdout, PluginError> {
        let started = Instant::now();
        let (mut talk, leash) = self.start(call)?;
        let end = talk.hold(call.deadline);
        if let Ok(End::Exited) = end {
            let status = wait(talk.pid).map_err(PluginError::Io)?;
            self.release(leash);
            return talk.judge(status);
        }
        leash.kill_group();
        talk.kill();
        Err(match end {
            Ok(End::Flood) => PluginError::Flood,
            Ok(_) => PluginError::TimedOut { after: started.elapsed(), stderr: talk.stderr_text() },
            Err(error) => PluginError::Io(error),
        })
    }
}

/// How the conversation with a plugin ended.
#[derive(PartialEq, Eq)]
enum End {
    Exited,
    TimedOut,
    Flood,
}

/// A plugin that runs. Its standard input is fed and its outputs are drained, all at once and at any size, until its
/// process ends. A grandchild that holds an output open is not waited for.
struct Conversation<'a> {
    pid: Pid,
    /// Tells the end of the process, where the kernel has such descriptors (Linux 5.3).
    ended: Option<OwnedFd>,
    stdin: Option<PipeWriter>,
    to_write: &'a [u8],
    stdout: Option<PipeReader>,
    stderr: Option<PipeReader>,
    printed: Vec<u8>,
    complained: Vec<u8>,
}

impl<'a> Conversation<'a> {
    fn new(pid: Pid, stdin: PipeWriter, stdout: PipeReader, stderr: PipeReader, to_write: &'a [u8]) -> Self {
        Self {
            pid,
            ended: pidfd_open(pid).ok(),
            stdin: Some(stdin),
            to_write,
            stdout: Some(stdout),
            stderr: Some(stderr),
            // Room for most results: a buffer without any would be read into byte by byte, nearly.
            printed: Vec::with_capacity(4 << 10),
            complained: Vec::new(),
        }
    }

    /// Ends the plugin, and what is in the group that it leads or has led. It may have gone into another since.
    fn kill(&self) {
        let _ = killpg(self.pid, Signal::SIGKILL);
        let _ = kill(self.pid, Signal::SIGKILL);
        let _ = wait(self.pid);
    }

    fn hold(&mut self, deadline: Option<Instant>) -> io::Result<End> {
        let mut glance = GLANCE;
        self.feed()?;
        loop {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return Ok(End::TimedOut);
            }
            let mut fds: Vec<_> = self.ended.iter().map(|fd| PollFd::new(fd.as_fd(), PollFlags::POLLIN)).collect();
            fds.extend(self.stdout.as_ref().map(|fd| PollFd::new(fd.as_fd(), PollFlags::POLLIN)));
            fds.extend(self.stderr.as_ref().map(|fd| PollFd::new(fd.as_fd(), PollFlags::POLLIN)));
            fds.extend(self.stdin.as_ref().map(|fd| PollFd::new(fd.as_fd(), PollFlags::POLLOUT)));
            let patience = if self.ended.is_some() { left } else { Some(left.map_or(glance, |left| left.min(glance))) };
            match poll(&mut fds, poll_timeout(patience)) {
                Ok(0) => glance = (glance * 2).min(LAST_GLANCE),
                // Something has happened, and more may soon.
                Ok(_) => glance = GLANCE,
                Err(Errno::EINTR | Errno::EAGAIN) => {}
                Err(error) => return Err(error.into()),
            }
            let ended = match &self.ended {
                Some(_) => fds[0].any().unwrap_or(false),
                None => has_ended(self.pid),
            };
            if self.stdin.is_some() && !ended {
                self.feed()?;
            }
            drain(&mut self.stdout, &mut self.printed)?;
            if self.printed.len() > MAX_STDOUT {
                return Ok(End::Flood);
            }
            self.drain_stderr()?;
            if ended {
                return Ok(End::Exited);
            }
        }
    }

    /// Writes what the pipe takes; closes it at the end, and when the plugin has closed its side.
    fn feed(&mut self) -> io::Result<()> {
        while let Some(stdin) = &mut self.stdin {
            if self.to_write.is_empty() {
                self.stdin = None;
                break;
            }
            match stdin.write(self.to_write) {
                Ok(written) => self.to_write = &self.to_write[written..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => self.stdin = None,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Passes standard error on to ours and keeps its end.
    fn drain_stderr(&mut self) -> io::Result<()> {
        let before = self.complained.len();
        drain(&mut self.stderr, &mut self.complained)?;
        // A runtime that has closed our standard error is no reason to fail.
        drop(io::stderr().write_all(&self.complained[before..]));
        if self.complained.len() > 2 * STDERR_TAIL {
            self.complained.drain(..self.complained.len() - STDERR_TAIL);
        }
        Ok(())
    }

    fn stderr_text(&self) -> String {
        let from = self.complained.len().saturating_sub(STDERR_TAIL);
        String::from_utf8_lossy(&self.complained[from..]).into_owned()
    }

    fn judge(self, status: ExitStatus) -> Result<Stdout, PluginError> {
        if status.success() {
            return Ok(self.printed);
        }
        Err(match CniError::parse(&self.printed) {
            Some(error) => PluginError::Reported(error),
            None => PluginError::Ended { status, stderr: self.stderr_text() },
        })
    }
}

/// Reads what is there, but not more than a pipe can hold at the most: one that is written to without end is not to keep us
/// here.
fn drain(from: &mut Option<PipeReader>, into: &mut Vec<u8>) -> io::Result<()> {
    const MOST: u64 = 1 << 20;
    let Some(reader) = from else { return Ok(()) };
    match reader.take(MOST).read_to_end(into) {
        Ok(read) if (read as u64) < MOST => *from = None,
        Ok(_) => {}
        // What had been read before is kept.
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
        Err(error) => return Err(error),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    /// A plugin that writes down its input.
    fn plugin(dir: &Path) -> PathBuf {
        let path = dir.join("plugin");
        std::fs::write(&path, format!("#!/bin/sh\ncat >>{}\n", dir.join("told").display())).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    fn call(executable: &Path, verb: Verb) -> Call<'_> {
        Call { executable, verb, environment: &[], stdin: b"input", deadline: None }
    }

    #[test]
    fn what_is_to_be_synced_first_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = plugin(dir.path());
        let launcher = Launcher::new();
        launcher.sync_first(vec![Arc::new(tempfile::tempfile().unwrap())]).unwrap();
        launcher.run(&call(&path, Verb::Add)).unwrap();
        launcher.run(&call(&path, Verb::Add)).unwrap();
        assert_eq!(std::fs::read_to_string(dir.path().join("told")).unwrap(), "inputinput");
    }

    #[test]
    fn what_cannot_be_synced_first_is_an_add_that_is_told_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = plugin(dir.path());
        let told = || std::fs::read_to_string(dir.path().join("told")).unwrap_or_default();
        let launcher = Launcher::new();
        // A pipe cannot be synced.
        let (reader, _writer) = io::pipe().unwrap();
        launcher.sync_first(vec![Arc::new(OwnedFd::from(reader).into())]).unwrap();
        for _ in 0..2 {
            assert!(matches!(launcher.run(&call(&path, Verb::Add)), Err(PluginError::Withheld(_))));
        }
        assert_eq!(told(), "");
        launcher.run(&call(&path, Verb::Del)).unwrap();
        assert_eq!(told(), "input");
    }
}
