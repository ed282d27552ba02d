//! The launcher: starts plugins, gives them their input, and kills them when their time is over.

use std::ffi::{CStr, CString, OsStr, OsString};
use std::fs::File;
use std::io::{self, PipeReader, PipeWriter};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::unistd::Pid;

use super::disk_work::DiskWork;
use super::durable::Durable;
use super::holder::{Grace, Holder};
use super::running::{Killed, RunningPlugin};
use super::spawn::{Program, spawn};
use super::started::Started;
use crate::cni::Verb;
use crate::runtime::exec::{Call, Exec, PluginError, Stdout, Waiting};
use crate::runtime::runs::{Runs, SpanId, TRACEPARENT};

/// The protocol's variables (SPEC §2, "Parameters").
const PROTOCOL: [&str; 6] = ["CNI_COMMAND", "CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_ARGS", "CNI_PATH"];
/// How long "text file busy" is retried: the longest time that replacing a running plugin may take.
const BUSY_FOR: Duration = Duration::from_secs(2);

/// Runs plugins as processes. They inherit the environment, with the `CNI_*` variables replaced, and their standard error is passed
/// on. Every plugin is in a process group that is killed when its time is over or this process dies. If this process dies during
/// DEL, the plugins get a few seconds to finish. During other operations, only processes that a plugin has started get a quarter of
/// a second.
#[derive(Debug, Default)]
pub struct Launcher {
    /// Set in every plugin's environment, in addition to the protocol's variables.
    guard: Option<(String, String)>,
    /// Where the runs of plugins are recorded, if they are.
    pub(super) runs: Option<Arc<Runs>>,
    /// The variables that all plugins have in common.
    inherited: OnceLock<Vec<CString>>,
    /// If this process is killed, these stay open until the last plugin is dead.
    locks: Vec<Arc<File>>,
    holders: Mutex<Holders>,
    /// Whether a dismissed holder has not exited.
    holder_hangs: Arc<AtomicBool>,
}

/// The holders of process groups in which no plugin runs now.
#[derive(Debug, Default)]
struct Holders {
    idle: Vec<Holder>,
    dismissed: Vec<Holder>,
    /// Whether a holder was left behind, because a process in its group has not exited.
    is_one_left_behind: bool,
}

/// Which processes get time to finish when this process dies.
fn grace_of(verb: Verb) -> Grace {
    if verb == Verb::Del { Grace::Everyone } else { Grace::Children }
}

impl Launcher {
    /// A launcher that sets only the protocol's variables.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets one more variable in every plugin's environment.
    #[must_use]
    pub fn with_variable(mut self, name: &str, value: &str) -> Self {
        self.guard = Some((name.into(), value.into()));
        self
    }

    /// If this process is killed, `locks` stay open until the last plugin is dead.
    #[must_use]
    pub fn holding(mut self, locks: Vec<Arc<File>>) -> Self {
        self.locks = locks;
        self
    }

    /// Records every plugin's run in `runs`. If they are part of a trace, every plugin gets a span of its own.
    #[must_use]
    pub fn recording(mut self, runs: Arc<Runs>) -> Self {
        self.runs = Some(runs);
        self
    }

    /// Starts a plugin, which then waits for its input. [`Started::run`] gives it the input, after the files that it depends on are
    /// on disk. `stdin` and `deadline` of the call are not used yet.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start<'a>(&'a self, call: &Call<'a>) -> Result<Started<'a>, PluginError> {
        let span = self.new_span();
        let parts = self.start_parts(call, self.traceparent(span).as_deref())?;
        Ok(Started { launcher: self, parts: Some(parts), call: Some(*call), span, waits_ahead: false })
    }

    /// Starts a plugin ahead of its turn, in a group of its own, so that it can be killed without affecting other processes.
    fn start_waiting(&self, call: &Call<'_>, traceparent: Option<&str>) -> io::Result<(RunningPlugin, Holder)> {
        let grace = grace_of(call.verb);
        let pipes = Pipes::new()?;
        let mut holder = self.idle_holder(grace).map_or_else(|| self.new_holder(grace), Ok)?;
        holder.join_new_group()?;
        holder.keep_input_open(pipes.to_plugin.as_fd())?;
        let started =
            self.spawn(call, pipes, Environment { group: holder.group(), traceparent, busy_for: Duration::ZERO });
        match started {
            Ok(plugin) => Ok((plugin, holder)),
            Err(error) => {
                holder.close_input();
                self.keep_idle(holder);
                Err(error)
            }
        }
    }

    fn start_parts(&self, call: &Call<'_>, traceparent: Option<&str>) -> Result<(RunningPlugin, Holder), PluginError> {
        let grace = grace_of(call.verb);
        let start = |group| {
            let plugin = Pipes::new()
                .and_then(|pipes| self.spawn(call, pipes, Environment { group, traceparent, busy_for: BUSY_FOR }));
            plugin.map_err(|source| PluginError::Start { path: call.executable.to_owned(), source })
        };
        if let Some(holder) = self.idle_holder(grace) {
            return match start(holder.group()) {
                Ok(plugin) => Ok((plugin, holder)),
                Err(error) => {
                    self.holders().idle.push(holder);
                    Err(error)
                }
            };
        }
        // The plugin starts while the holder is made or syncs.
        let mut plugin = start(None)?;
        match call.after.and_then(|durable| durable.take_holder(grace)).map_or_else(|| self.new_holder(grace), Ok) {
            Ok(mut holder) => {
                holder.join(plugin.pid());
                Ok((plugin, holder))
            }
            Err(error) => {
                plugin.kill();
                Err(PluginError::Io(error))
            }
        }
    }

    fn holders(&self) -> MutexGuard<'_, Holders> {
        self.holders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A holder of a process group in which no plugin runs now.
    fn idle_holder(&self, grace: Grace) -> Option<Holder> {
        let mut holders = self.holders();
        let at = holders.idle.iter().position(|holder| holder.grace() == grace)?;
        Some(holders.idle.swap_remove(at))
    }

    fn new_holder(&self, grace: Grace) -> io::Result<Holder> {
        Ok(Holder::new(&self.open_locks(), grace)?.reporting_to(&self.holder_hangs))
    }

    /// The span of a plugin that is about to be started, if the call is traced.
    fn new_span(&self) -> Option<SpanId> {
        self.runs.as_ref()?.new_span()
    }

    fn traceparent(&self, span: Option<SpanId>) -> Option<String> {
        self.runs.as_ref()?.traceparent(span)
    }

    fn open_locks(&self) -> Vec<BorrowedFd<'_>> {
        self.locks.iter().map(AsFd::as_fd).collect()
    }

    /// Keeps the holder of a group whose plugin has exited.
    pub(super) fn keep_idle(&self, holder: Holder) {
        if holder.group().is_some() {
            self.holders().idle.push(holder);
        }
    }

    /// Kills a plugin and its process group. If that is not possible, the holder is left behind, and keeps the locks.
    pub(super) fn end(&self, plugin: &mut RunningPlugin, mut holder: Holder) -> Killed {
        let signalled = plugin.signal();
        if signalled.is_err() {
            // A plugin that waits for its input may exit when the input is empty.
            holder.close_input();
        }
        let killed = plugin.wait_for_death(signalled);
        if killed == Killed::Gone {
            holder.kill_group();
        } else {
            self.holders().is_one_left_behind = true;
            holder.leave_behind();
        }
        killed
    }

    /// Starts a plugin, which then waits for its standard input.
    fn spawn(&self, call: &Call<'_>, pipes: Pipes, environment: Environment<'_>) -> io::Result<RunningPlugin> {
        let Environment { group, traceparent, busy_for } = environment;
        let Pipes { stdin, to_plugin, from_plugin, stdout, errors_of_plugin, stderr } = pipes;
        let path = CString::new(call.executable.as_os_str().as_bytes())?;
        let command = [("CNI_COMMAND", call.verb.as_str())];
        let traceparent = traceparent.map(|value| (TRACEPARENT, value));
        let own = command
            .iter()
            .chain(call.environment)
            .chain(&traceparent)
            .map(|(name, value)| CString::new(format!("{name}={value}")));
        let own = own.collect::<Result<Vec<_>, _>>()?;
        let environment: Vec<&CStr> = self.inherited().iter().chain(&own).map(CString::as_c_str).collect();
        let program = Program {
            path: &path,
            environment: &environment,
            stdio: [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()],
            group,
            dies_with_us: grace_of(call.verb) == Grace::Children,
        };
        let started = Instant::now();
        loop {
            match spawn(&program) {
                Ok(pid) => {
                    return Ok(RunningPlugin::new(pid, call.verb, to_plugin, from_plugin, errors_of_plugin));
                }
                Err(error) if error.raw_os_error() == Some(Errno::ETXTBSY as i32) && started.elapsed() < busy_for => {
                    std::thread::sleep(Duration::from_millis(10));
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// The variables that every plugin has in addition to those of its call: this process's environment without the protocol's
    /// variables, and the guard.
    #[expect(clippy::disallowed_methods, reason = "plugins inherit the environment, and the library has no request")]
    fn inherited(&self) -> &[CString] {
        self.inherited.get_or_init(|| {
            let guard = self.guard.iter().map(|(name, value)| (name.into(), value.into()));
            let is_guard = |name: &OsStr| self.guard.as_ref().is_some_and(|(guard, _)| name == guard.as_str());
            let is_traced = self.runs.as_ref().is_some_and(|runs| runs.trace().is_some());
            let is_trace = |name: &OsStr| is_traced && name == TRACEPARENT;
            std::env::vars_os()
                .filter(|(name, _)| !PROTOCOL.iter().any(|of| name == of) && !is_guard(name) && !is_trace(name))
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

/// The pipes of a plugin. Braid's ends do not block.
#[derive(Debug)]
struct Pipes {
    stdin: PipeReader,
    to_plugin: PipeWriter,
    from_plugin: PipeReader,
    stdout: PipeWriter,
    errors_of_plugin: PipeReader,
    stderr: PipeWriter,
}

impl Pipes {
    fn new() -> io::Result<Self> {
        let (stdin, to_plugin) = io::pipe()?;
        let (from_plugin, stdout) = io::pipe()?;
        let (errors_of_plugin, stderr) = io::pipe()?;
        for ours in [to_plugin.as_fd(), from_plugin.as_fd(), errors_of_plugin.as_fd()] {
            fcntl(ours, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        }
        Ok(Self { stdin, to_plugin, from_plugin, stdout, errors_of_plugin, stderr })
    }
}

/// What a plugin is started in.
#[derive(Debug, Clone, Copy)]
struct Environment<'a> {
    /// The process group that it joins. Without one, it makes a group of its own.
    group: Option<Pid>,
    traceparent: Option<&'a str>,
    /// For how long "text file busy" is retried.
    busy_for: Duration,
}

impl Drop for Launcher {
    fn drop(&mut self) {
        let holders = std::mem::take(&mut *self.holders());
        let is_one_left_behind = holders.is_one_left_behind;
        drop(holders);
        if self.holder_hangs.load(Ordering::Relaxed) && !is_one_left_behind {
            // No plugin runs any more, but a process that hangs has the locks open.
            self.locks.iter().for_each(|lock| drop(lock.unlock()));
        }
    }
}

impl Exec for Launcher {
    fn sync(&self, verb: Verb, work: &[DiskWork]) -> io::Result<Durable> {
        if work.is_empty() {
            return Ok(Durable::reached());
        }
        let (holder, outcome) = Holder::syncing(&self.open_locks(), grace_of(verb), work)?;
        Ok(Durable::under_way(holder.reporting_to(&self.holder_hangs), outcome))
    }

    fn run(&self, call: &Call<'_>) -> Result<Stdout, PluginError> {
        self.run_meanwhile(call, &mut || ())
    }

    fn run_meanwhile(&self, call: &Call<'_>, meanwhile: &mut dyn FnMut()) -> Result<Stdout, PluginError> {
        refuse_late(call)?;
        Box::new(self.start(call)?).run_meanwhile(call, meanwhile)
    }

    /// Dismisses the holders of groups in which no plugin runs.
    fn dismiss_idle(&self) {
        let mut holders = self.holders();
        let mut idle = std::mem::take(&mut holders.idle);
        idle.iter_mut().for_each(Holder::dismiss);
        holders.dismissed.append(&mut idle);
    }

    fn start_ahead(&self, call: &Call<'_>) -> Option<Box<dyn Waiting + '_>> {
        let span = self.new_span();
        let parts = self.start_waiting(call, self.traceparent(span).as_deref()).ok()?;
        Some(Box::new(Started { launcher: self, parts: Some(parts), call: None, span, waits_ahead: true }))
    }
}

pub(super) fn refuse_late(call: &Call<'_>) -> Result<(), PluginError> {
    if call.deadline.is_some_and(|deadline| deadline <= Instant::now()) {
        return Err(PluginError::OutOfTime);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::OwnedFd;
    use std::os::unix::fs::PermissionsExt;
    use std::path::{Path, PathBuf};

    /// A plugin that writes down its input.
    fn plugin(dir: &Path) -> PathBuf {
        let path = dir.join("plugin");
        std::fs::write(&path, format!("#!/bin/sh\ncat >>{}\n", dir.join("input").display())).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    fn call(executable: &Path, verb: Verb) -> Call<'_> {
        Call { executable, verb, step: 0, environment: &[], stdin: b"input", deadline: None, after: None }
    }

    #[test]
    fn a_plugin_gets_its_input_once_the_files_are_synced() {
        let dir = tempfile::tempdir().unwrap();
        let path = plugin(dir.path());
        let launcher = Launcher::new();
        let durable = launcher.sync(Verb::Add, &[DiskWork::Sync(Arc::new(tempfile::tempfile().unwrap()))]).unwrap();
        let call = Call { after: Some(&durable), ..call(&path, Verb::Add) };
        launcher.run(&call).unwrap();
        launcher.run(&call).unwrap();
        assert_eq!(std::fs::read_to_string(dir.path().join("input")).unwrap(), "inputinput");
    }

    #[test]
    fn a_plugin_gets_no_input_when_a_file_cannot_be_synced() {
        let dir = tempfile::tempdir().unwrap();
        let path = plugin(dir.path());
        let input = || std::fs::read_to_string(dir.path().join("input")).unwrap_or_default();
        let launcher = Launcher::new();
        // A pipe cannot be synced.
        let (reader, _writer) = io::pipe().unwrap();
        let durable = launcher.sync(Verb::Add, &[DiskWork::Sync(Arc::new(OwnedFd::from(reader).into()))]).unwrap();
        for _ in 0..2 {
            let call = Call { after: Some(&durable), ..call(&path, Verb::Add) };
            assert!(matches!(launcher.run(&call), Err(PluginError::NotDurable(_))));
        }
        assert_eq!(input(), "");
        launcher.run(&call(&path, Verb::Del)).unwrap();
        assert_eq!(input(), "input");
    }

    #[test]
    fn a_plugin_that_is_started_and_not_run_does_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("plugin");
        std::fs::write(&path, format!("#!/bin/sh\nread line && touch {}\n", dir.path().join("ran").display())).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        let launcher = Launcher::new();
        let first = launcher.start(&call(&path, Verb::Add)).unwrap();
        let second = launcher.start(&call(&path, Verb::Add)).unwrap();
        drop(first);
        second.run(b"input\n", None).unwrap();
        assert!(dir.path().join("ran").exists());
        std::fs::remove_file(dir.path().join("ran")).unwrap();
        drop(launcher.start(&call(&path, Verb::Add)).unwrap());
        assert!(!dir.path().join("ran").exists());
    }

    #[test]
    fn without_time_nothing_is_started() {
        let deadline = Some(Instant::now());
        let call = Call { deadline, ..call(Path::new("/nonexistent"), Verb::Add) };
        assert!(matches!(Launcher::new().run(&call), Err(PluginError::OutOfTime)));
    }
}
