//! A running plugin: its input is written and its outputs are read at the same time, whatever their sizes, until its process exits.

use std::fmt;
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

use crate::cni::Verb;
use crate::output;
use crate::runtime::process::{
    FIRST_INTERVAL, LAST_INTERVAL, has_exited, has_exited_with, pidfd, poll_timeout, wait_at_most,
};

/// How much of a plugin's standard output is kept, in bytes.
pub const MAX_STDOUT: usize = 16 << 20;
/// How much of the end of a plugin's standard error is kept for an error message, in bytes.
const STDERR_TAIL: usize = 2048;
/// How often to check, while a plugin waits for the reader of Braid's standard error, whether that reader still exists.
const NOTICE: Duration = Duration::from_millis(200);
/// How long a plugin runs before `meanwhile` is called: it would only delay a plugin that exits sooner.
const SHORT_RUN: Duration = Duration::from_millis(1);
/// How long to wait for a plugin that has been killed.
const DYING: Duration = Duration::from_secs(2);

/// Whether a plugin could be killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Killed {
    /// It is gone.
    Gone,
    /// The kernel refused to kill it, because a sandbox forbids it.
    Refused(Errno),
    /// It will exit when the kernel lets it, for example when a disk answers again.
    Lingers,
}

impl fmt::Display for Killed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gone => f.write_str("was killed"),
            Self::Refused(errno) => write!(f, "could not be killed ({errno})"),
            Self::Lingers => f.write_str("was killed, but hangs in the kernel and is not gone yet"),
        }
    }
}

/// The outcome of a plugin's run.
#[derive(Debug)]
pub(super) enum Outcome {
    Exited(ExitStatus),
    TimedOut,
    TooMuchOutput,
}

/// A plugin that runs. It is over when its process exits, even if a grandchild still holds an output open.
#[derive(Debug)]
pub(super) struct RunningPlugin {
    pid: Pid,
    /// Becomes readable when the process exits, if the kernel has such descriptors (Linux 5.3).
    exit: Option<OwnedFd>,
    stdin: Option<PipeWriter>,
    stdout: Option<PipeReader>,
    stderr: Option<PipeReader>,
    /// Its standard output, up to [`MAX_STDOUT`].
    pub(super) output: Vec<u8>,
    /// The end of its standard error, with a little more than is shown.
    stderr_tail: Vec<u8>,
    /// Whether output beyond [`MAX_STDOUT`] is ignored and not an error: these operations have no result.
    ignores_excess: bool,
}

impl RunningPlugin {
    pub(super) fn new(pid: Pid, verb: Verb, stdin: PipeWriter, stdout: PipeReader, stderr: PipeReader) -> Self {
        Self {
            pid,
            exit: pidfd(pid).ok(),
            stdin: Some(stdin),
            stdout: Some(stdout),
            stderr: Some(stderr),
            // Enough for most results. An empty buffer would be filled in very small reads.
            output: Vec::with_capacity(4 << 10),
            stderr_tail: Vec::new(),
            ignores_excess: !matches!(verb, Verb::Add | Verb::Version),
        }
    }

    pub(super) fn pid(&self) -> Pid {
        self.pid
    }

    /// Whether it has exited with 0. It is not reaped.
    pub(super) fn has_succeeded(&self) -> bool {
        has_exited_with(self.pid, 0)
    }

    /// Kills the plugin, and the group that it leads or has led: it may have moved to another group.
    pub(super) fn kill(&mut self) -> Killed {
        let killed = self.signal();
        self.wait_for_death(killed)
    }

    /// The first half of that.
    pub(super) fn signal(&self) -> nix::Result<()> {
        let _ = killpg(self.pid, Signal::SIGKILL);
        kill(self.pid, Signal::SIGKILL)
    }

    /// Completes the kill, given the outcome of the signal.
    pub(super) fn wait_for_death(&mut self, killed: nix::Result<()>) -> Killed {
        // The input is closed only after the plugin was killed, because a plugin that waits would find the input empty. If it
        // cannot be killed, it may exit when nobody reads its output.
        (self.stdin, self.stdout, self.stderr) = (None, None, None);
        match (wait_at_most(self.pid, DYING), killed) {
            (Ok(Some(_)) | Err(_), _) => Killed::Gone,
            (Ok(None), Err(errno)) => Killed::Refused(errno),
            (Ok(None), Ok(())) => Killed::Lingers,
        }
    }

    /// Writes `input` and reads the outputs until the plugin exits, or until `deadline`. Calls `meanwhile` once, if the plugin
    /// still runs a moment after it got its input.
    pub(super) fn run(
        &mut self,
        input: &[u8],
        deadline: Option<Instant>,
        meanwhile: &mut dyn FnMut(),
    ) -> io::Result<Outcome> {
        let mut input = input;
        let mut interval = FIRST_INTERVAL;
        self.write(&mut input)?;
        let began = Instant::now();
        let mut meanwhile = Some(meanwhile);
        loop {
            if began.elapsed() >= SHORT_RUN
                && let Some(meanwhile) = meanwhile.take()
            {
                meanwhile();
            }
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return Ok(Outcome::TimedOut);
            }
            let patience =
                if self.exit.is_some() { left } else { Some(left.map_or(interval, |left| left.min(interval))) };
            let patience = if meanwhile.is_some() {
                Some(patience.map_or(SHORT_RUN, |patience| patience.min(SHORT_RUN)))
            } else {
                patience
            };
            let happened = self.wait_for_event(patience)?;
            interval = if happened { FIRST_INTERVAL } else { (interval * 2).min(LAST_INTERVAL) };
            // Checked before the outputs are read, so that everything that the plugin printed before its exit is read.
            let exited = has_exited(self.pid);
            if !exited {
                self.write(&mut input)?;
            }
            self.read_stdout()?;
            if self.output.len() > MAX_STDOUT {
                return Ok(Outcome::TooMuchOutput);
            }
            // A plugin that prints faster than the reader of Braid's standard error reads has to wait, unless that reader is gone.
            output::write_stderr(&[]);
            if exited || !output::is_stderr_behind() {
                self.read_stderr()?;
            }
            if exited {
                output::flush_stderr();
                let status = wait_at_most(self.pid, DYING)?;
                return Ok(status.map_or(Outcome::TimedOut, Outcome::Exited));
            }
        }
    }

    /// Waits until there is something to read, room to write, or the plugin exits. Returns false if the time was over first.
    fn wait_for_event(&self, patience: Option<Duration>) -> io::Result<bool> {
        let ours = io::stderr();
        let mut fds: Vec<_> = self.exit.iter().map(|fd| PollFd::new(fd.as_fd(), PollFlags::POLLIN)).collect();
        fds.extend(self.stdout.as_ref().map(|fd| PollFd::new(fd.as_fd(), PollFlags::POLLIN)));
        let is_behind = output::is_stderr_behind();
        fds.extend(self.stderr.as_ref().filter(|_| !is_behind).map(|fd| PollFd::new(fd.as_fd(), PollFlags::POLLIN)));
        fds.extend(self.stdin.as_ref().map(|fd| PollFd::new(fd.as_fd(), PollFlags::POLLOUT)));
        fds.extend(output::has_backlog().then(|| PollFd::new(ours.as_fd(), PollFlags::POLLOUT)));
        // Notices that our reader is gone.
        let patience =
            if is_behind { Some(patience.map_or(NOTICE, |patience| patience.min(NOTICE))) } else { patience };
        match poll(&mut fds, poll_timeout(patience)) {
            Ok(ready) => Ok(ready > 0),
            Err(Errno::EINTR | Errno::EAGAIN) => Ok(true),
            Err(error) => Err(error.into()),
        }
    }

    /// Writes as much as the pipe takes. Closes the pipe when everything is written, or when the plugin has closed its end.
    fn write(&mut self, input: &mut &[u8]) -> io::Result<()> {
        while let Some(stdin) = &mut self.stdin {
            if input.is_empty() {
                self.stdin = None;
                break;
            }
            match stdin.write(input) {
                Ok(written) => *input = &input[written..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => self.stdin = None,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn read_stdout(&mut self) -> io::Result<()> {
        read_available(&mut self.stdout, &mut self.output)?;
        if self.ignores_excess {
            self.output.truncate(MAX_STDOUT);
        }
        Ok(())
    }

    /// Passes standard error on to Braid's own, and keeps the end of it.
    fn read_stderr(&mut self) -> io::Result<()> {
        let before = self.stderr_tail.len();
        read_available(&mut self.stderr, &mut self.stderr_tail)?;
        output::write_stderr(&self.stderr_tail[before..]);
        if self.stderr_tail.len() > 2 * STDERR_TAIL {
            self.stderr_tail.drain(..self.stderr_tail.len() - STDERR_TAIL);
        }
        Ok(())
    }

    /// The end of the plugin's standard error.
    pub(super) fn stderr_text(&self) -> String {
        let from = self.stderr_tail.len().saturating_sub(STDERR_TAIL);
        String::from_utf8_lossy(&self.stderr_tail[from..]).into_owned()
    }
}

/// Reads what is available, but at most what a pipe can hold: a plugin that writes without end must not keep Braid here.
fn read_available(from: &mut Option<PipeReader>, into: &mut Vec<u8>) -> io::Result<()> {
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
