//! Calls that are still running.

use std::io::{Read, Write as _};
use std::process::{Child, ExitStatus, Output};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const WAIT: Duration = Duration::from_secs(20);
use super::{Case, Outcome};

/// A running call. It is killed when dropped, so that a failing test leaves no process behind.
pub(crate) struct Running<'a> {
    case: &'a Case,
    command: String,
    stdin: Vec<u8>,
    child: Child,
    stdout: Option<JoinHandle<Vec<u8>>>,
    stderr: Option<JoinHandle<Vec<u8>>>,
    first_call: usize,
    started: Instant,
}

impl<'a> Running<'a> {
    pub(super) fn new(case: &'a Case, command: String, stdin: Vec<u8>, mut child: Child, first_call: usize) -> Self {
        let mut pipe = child.stdin.take().expect("a pipe");
        let text = stdin.clone();
        // A call that is killed does not read to the end.
        thread::spawn(move || drop(pipe.write_all(&text)));
        let stdout = Some(read(child.stdout.take().expect("a pipe")));
        let stderr = Some(read(child.stderr.take().expect("a pipe")));
        Self { case, command, stdin, child, stdout, stderr, first_call, started: Instant::now() }
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    pub(crate) fn signal(&self, signal: Signal) {
        // A process that has exited is no longer signalled. It is not reaped yet, so no other process has its ID.
        kill(self.pid(), signal).expect("signal the call");
    }

    /// Its exit status, if it has exited.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("look at the call")
    }

    pub(crate) fn has_exited(&mut self) -> bool {
        self.ended().is_some()
    }

    /// Kills it, and waits until it is dead.
    pub(crate) fn kill(mut self) -> ExitStatus {
        self.signal(Signal::SIGKILL);
        self.child.wait().expect("wait for the call")
    }

    /// Waits until it exits, and checks the outcome against the rules of CNI for every plugin.
    #[track_caller]
    pub(crate) fn wait(mut self) -> Outcome<'a> {
        let status = wait_for("the end of a call", || self.ended());
        let output = |handle: &mut Option<JoinHandle<Vec<u8>>>| {
            handle.take().expect("read once").join().expect("the thread that reads")
        };
        let output = Output { status, stdout: output(&mut self.stdout), stderr: output(&mut self.stderr) };
        let (command, stdin) = (self.command.clone(), std::mem::take(&mut self.stdin));
        Outcome::new(self.case, command, stdin, output, self.first_call, self.started.elapsed())
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read(mut pipe: impl Read + Send + 'static) -> JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        pipe.read_to_end(&mut bytes).expect("read what the call prints");
        bytes
    })
}

/// Waits until there is a value, with a long time limit.
#[track_caller]
pub(crate) fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + WAIT;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        thread::sleep(Duration::from_millis(2));
    }
}
