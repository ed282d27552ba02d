//! Running one plugin once (SPEC §2).
//!
//! [`Exec`] is what the rest of the crate depends on, so that a test can put its own in; [`Launcher`] is the real one.

use std::ffi::OsStr;
use std::fmt;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, poll};
use nix::unistd::Pid;

use super::process::{Leash, Mercy, pidfd_open, poll_timeout};
use crate::cni::CniError;

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
/// How long "text file busy" is retried: as long as copying a plugin over a running one may take.
const BUSY_FOR: Duration = Duration::from_secs(2);

/// An operation (SPEC §2, "CNI operations").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// Attach.
    Add,
    /// Detach.
    Del,
    /// Is it as it should be?
    Check,
    /// Could it attach?
    Status,
    /// Clean up what is stale.
    Gc,
    /// Which versions does it speak?
    Version,
}

impl Verb {
    /// The word in `CNI_COMMAND`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
            Self::Check => "CHECK",
            Self::Status => "STATUS",
            Self::Gc => "GC",
            Self::Version => "VERSION",
        }
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

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

    /// Does what can be done before it is known what to run, so that the first [`run`](Self::run) need not.
    fn prepare(&self) {}

    /// Says that no [`run`](Self::run) is under way and none is likely to come, so that what is kept for it can begin to
    /// go. Should one come after all, it works as ever.
    fn rest(&self) {}
}

impl<E: Exec + ?Sized> Exec for &E {
    fn run(&self, call: &Call<'_>) -> Result<Stdout, PluginError> {
        (**self).run(call)
    }

    fn prepare(&self) {
        (**self).prepare();
    }

    fn rest(&self) {
        (**self).rest();
    }
}

/// Runs plugins as processes: the environment inherited with the `CNI_*` variables replaced, standard error passed
/// on, and every plugin in a process group that is killed when its time is over or this process dies. A DEL that is under
/// way when this process dies is given a few seconds to end.
#[derive(Debug, Default)]
pub struct Launcher {
    /// Set in every plugin's environment, beside the protocol's variables.
    guard: Option<(String, String)>,
    /// Held open until the last plugin is dead, should this process be killed.
    locks: Vec<OwnedFd>,
    /// Process groups not in use.
    idle: Mutex<Vec<Leash>>,
    /// Process groups that will not be used again, whose leaders are about to end.
    leaving: Mutex<Vec<Leash>>,
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
    pub fn holding(mut self, locks: Vec<OwnedFd>) -> Self {
        self.locks = locks;
        self
    }

    fn leash(&self, verb: Verb) -> Result<Leash, PluginError> {
        let mercy = if verb == Verb::Del { Mercy::LastMoment } else { Mercy::None };
        let mut idle = self.idle.lock().expect("no holder panics");
        if let Some(at) = idle.iter().position(|leash| leash.mercy() == mercy) {
            return Ok(idle.swap_remove(at));
        }
        drop(idle);
        let keep: Vec<BorrowedFd<'_>> = self.locks.iter().map(AsFd::as_fd).collect();
        Leash::new(&keep, mercy).map_err(PluginError::Io)
    }

    fn release(&self, leash: Leash) {
        self.idle.lock().expect("no holder panics").push(leash);
    }

    fn spawn(&self, call: &Call<'_>, leash: &Leash) -> Result<Child, PluginError> {
        let mut command = Command::new(call.executable);
        for name in ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_ARGS", "CNI_PATH"] {
            if !call.environment.iter().any(|(set, _)| *set == name) {
                command.env_remove(name);
            }
        }
        command.env("CNI_COMMAND", call.verb.as_str());
        command.envs(call.environment.iter().map(|(name, value)| (OsStr::new(name), OsStr::new(value))));
        command.envs(self.guard.as_ref().map(|(name, value)| (name, value)));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.process_group(leash.group());
        let started = Instant::now();
        loop {
            match command.spawn() {
                Ok(child) => return Ok(child),
                Err(error) if error.raw_os_error() == Some(Errno::ETXTBSY as i32) && started.elapsed() < BUSY_FOR => {
                    std::thread::sleep(Duration::from_millis(10));
                }
                Err(source) => return Err(PluginError::Start { path: call.executable.to_owned(), source }),
            }
        }
    }
}

impl Exec for Launcher {
    fn prepare(&self) {
        // The first plugin tries again, and has someone to tell if it fails.
        if let Ok(leash) = self.leash(Verb::Add) {
            self.release(leash);
        }
    }

    fn rest(&self) {
        let mut idle = self.idle.lock().expect("no holder panics");
        idle.iter().for_each(Leash::begin_to_end);
        self.leaving.lock().expect("no holder panics").append(&mut idle);
    }

    fn run(&self, call: &Call<'_>) -> Result<Stdout, PluginError> {
        let started = Instant::now();
        let leash = self.leash(call.verb)?;
        let mut child = self.spawn(call, &leash)?;
        let conversation = Conversation::new(&mut child, call.stdin).and_then(|mut talk| {
            let end = talk.hold(call.deadline)?;
            Ok((talk, end))
        });
        match conversation {
            Ok((talk, End::Exited)) => {
                let status = child.wait().map_err(PluginError::Io)?;
                self.release(leash);
                talk.judge(status)
            }
            Ok((talk, end)) => {
                leash.kill_group();
                child.wait().map_err(PluginError::Io)?;
                Err(match end {
                    End::Flood => PluginError::Flood,
                    _ => PluginError::TimedOut { after: started.elapsed(), stderr: talk.stderr_text() },
                })
            }
            Err(error) => {
                leash.kill_group();
                child.wait().map_err(PluginError::Io)?;
                Err(PluginError::Io(error))
            }
        }
    }
}

/// How the conversation with a plugin ended.
#[derive(PartialEq, Eq)]
enum End {
    Exited,
    TimedOut,
    Flood,
}

/// Feeds a plugin's standard input and drains its outputs, all at once and at any size, until its process ends. A
/// grandchild that holds an output open is not waited for.
struct Conversation<'a> {
    ended: OwnedFd,
    stdin: Option<std::process::ChildStdin>,
    to_write: &'a [u8],
    stdout: Option<ChildStdout>,
    stderr: Option<ChildStderr>,
    printed: Vec<u8>,
    complained: Vec<u8>,
    /// What is read goes through here. Once for all, as it is larger than most of what passes.
    chunk: Vec<u8>,
}

impl<'a> Conversation<'a> {
    fn new(child: &mut Child, stdin: &'a [u8]) -> io::Result<Self> {
        let ended = pidfd_open(Pid::from_raw(child.id().cast_signed()))?;
        let talk = Self {
            ended,
            stdin: child.stdin.take(),
            to_write: stdin,
            stdout: child.stdout.take(),
            stderr: child.stderr.take(),
            printed: Vec::new(),
            complained: Vec::new(),
            chunk: vec![0; 16 << 10],
        };
        for fd in [
            talk.stdin.as_ref().map(AsFd::as_fd),
            talk.stdout.as_ref().map(AsFd::as_fd),
            talk.stderr.as_ref().map(AsFd::as_fd),
        ]
        .into_iter()
        .flatten()
        {
            fcntl(fd, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        }
        Ok(talk)
    }

    fn hold(&mut self, deadline: Option<Instant>) -> io::Result<End> {
        self.feed()?;
        loop {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return Ok(End::TimedOut);
            }
            let mut fds = vec![PollFd::new(self.ended.as_fd(), PollFlags::POLLIN)];
            fds.extend(self.stdout.as_ref().map(|fd| PollFd::new(fd.as_fd(), PollFlags::POLLIN)));
            fds.extend(self.stderr.as_ref().map(|fd| PollFd::new(fd.as_fd(), PollFlags::POLLIN)));
            fds.extend(self.stdin.as_ref().map(|fd| PollFd::new(fd.as_fd(), PollFlags::POLLOUT)));
            match poll(&mut fds, poll_timeout(left)) {
                Ok(0) | Err(Errno::EINTR | Errno::EAGAIN) => continue,
                Ok(_) => {}
                Err(error) => return Err(error.into()),
            }
            let ended = fds[0].any().unwrap_or(false);
            if self.stdin.is_some() && !ended {
                self.feed()?;
            }
            if !drain(&mut self.stdout, &mut self.chunk, &mut self.printed, MAX_STDOUT)? {
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
        drain(&mut self.stderr, &mut self.chunk, &mut self.complained, usize::MAX)?;
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
        match CniError::parse(&self.printed) {
            _ if status.success() => Ok(self.printed),
            Some(error) => Err(PluginError::Reported(error)),
            None => Err(PluginError::Ended { status, stderr: self.stderr_text() }),
        }
    }
}

/// Reads what is there into `into`, by way of `chunk`. False if there would be more than `limit` bytes.
fn drain<R: Read>(from: &mut Option<R>, chunk: &mut [u8], into: &mut Vec<u8>, limit: usize) -> io::Result<bool> {
    // As much as a pipe can hold, so that one that is written to without end does not keep us here.
    for _ in 0..64 {
        let Some(reader) = from else { break };
        match reader.read(chunk) {
            Ok(0) => *from = None,
            Ok(read) => into.extend_from_slice(&chunk[..read]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        if into.len() > limit {
            return Ok(false);
        }
    }
    Ok(true)
}
