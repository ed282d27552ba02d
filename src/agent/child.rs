//! The node's own Braid as a child process, with limits.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::queue::Container;
use super::report::Report;
use super::settings::Settings;

/// How much of a child's standard output is kept, in bytes.
const MAX_STDOUT: usize = 1 << 20;
/// How much of a child's standard error is kept, in bytes.
const MAX_STDERR: usize = 16 << 10;
/// How long to wait for the end of a child's output after it has exited. Another process may hold the pipe open.
const OUTPUT_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a killed child may take to exit.
const KILL_TIMEOUT: Duration = Duration::from_secs(5);
/// The `PATH` of children. Plugins call `iptables` and other programs.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// The exit status for an unknown command.
const USAGE_ERROR: i32 = 2;

/// The outcome of a `braid sync`.
#[derive(Debug)]
pub(super) enum SyncOutcome {
    /// It has printed a report.
    Answered {
        /// The report.
        report: Report,
        /// Whether the pod has everything that it asks for.
        is_whole: bool,
    },
    /// The node's Braid has no command `sync`.
    UnknownCommand,
    /// It has printed no report, for this reason.
    NoAnswer(String),
}

/// Runs the node's own Braid.
#[derive(Debug)]
pub(super) struct Children {
    /// The program that is started.
    program: PathBuf,
    /// The arguments that stand before those of the node's Braid.
    prefix: Vec<OsString>,
    state_dir: PathBuf,
    conf_dir: PathBuf,
    cni_path: String,
    cache_dir: PathBuf,
    limit: Duration,
}

impl Children {
    /// Children run in the namespaces of the process `host`. Without one, they run in the agent's own namespaces.
    pub(super) fn new(settings: &Settings, host: Option<u32>) -> Self {
        let braid = settings.braid.clone();
        let (program, prefix) = match host {
            None => (braid, Vec::new()),
            Some(pid) => {
                let arguments = ["enter".into(), pid.to_string().into(), braid.into_os_string()];
                (PathBuf::from("/proc/self/exe"), arguments.into())
            }
        };
        Self {
            program,
            prefix,
            state_dir: settings.state_dir.clone(),
            conf_dir: settings.conf_dir.clone(),
            cni_path: settings.cni_path.clone(),
            cache_dir: settings.cache_dir.clone(),
            limit: settings.timeout,
        }
    }

    /// Changes a container to match what its pod asks for. For a container without a journal, this uses the given configuration of
    /// Braid.
    pub(super) async fn sync(&self, container: &Container, configuration: Option<&Path>) -> SyncOutcome {
        let mut arguments: Vec<OsString> = vec!["sync".into(), container.id().into(), "--by".into(), "agent".into()];
        if let (Container::Foreign(_), Some(configuration)) = (container, configuration) {
            arguments.extend(["--network".into(), configuration.into()]);
        }
        match self.run(&arguments).await {
            Ok(ran) => ran.outcome(),
            Err(reason) => SyncOutcome::NoAnswer(reason),
        }
    }

    /// Undoes the attachments of a container that is gone, or a debt. If the container's namespace still exists, the node's Braid
    /// refuses.
    ///
    /// # Errors
    /// The reason why it is not undone.
    pub(super) async fn undo(&self, id: &str) -> Result<(), String> {
        let arguments: [OsString; 4] = ["doctor".into(), "--fix".into(), "--only".into(), id.into()];
        let ran = self.run(&arguments).await?;
        if ran.status.success() {
            return Ok(());
        }
        let details = serde_json::from_slice::<Vec<Value>>(&ran.stdout).unwrap_or_default();
        let details: Vec<&str> = details.iter().filter_map(|line| line["detail"].as_str()).collect();
        Err(if details.is_empty() { ran.error_text() } else { details.join("; ") })
    }

    fn command(&self, arguments: &[OsString]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.prefix).args(arguments);
        command.arg("--state-dir").arg(&self.state_dir).args(["-o", "json"]);
        // The agent's own environment is not passed on: it may contain values that plugins must not see.
        command.env_clear().env("PATH", PATH).env("NETCONFPATH", &self.conf_dir).env("CNI_PATH", &self.cni_path);
        command.env("CNI_CACHE_DIR", &self.cache_dir);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.process_group(0).current_dir(Path::new("/"));
        command
    }

    /// Runs the node's Braid until it exits, or until its time limit.
    async fn run(&self, arguments: &[OsString]) -> Result<ChildOutput, String> {
        let program = self.prefix.last().map_or_else(|| self.program.clone(), PathBuf::from);
        let mut child =
            self.command(arguments).spawn().map_err(|error| format!("cannot run {}: {error}", program.display()))?;
        if let Ok(ran) = timeout(self.limit, wait_with_output(&mut child)).await {
            return ran.map_err(|error| format!("cannot wait for {}: {error}", program.display()));
        }
        kill(&mut child).await;
        Err(format!("it did not exit within {} s and was killed", self.limit.as_secs()))
    }
}

/// The exit status and the output of a child.
#[derive(Debug)]
struct ChildOutput {
    status: ExitStatus,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

impl ChildOutput {
    fn outcome(self) -> SyncOutcome {
        let stderr = String::from_utf8_lossy(&self.stderr);
        if self.status.code() == Some(USAGE_ERROR) && stderr.contains("unrecognized subcommand") {
            return SyncOutcome::UnknownCommand;
        }
        match (self.status.code(), Report::parse(&self.stdout)) {
            (Some(0), Some(report)) => SyncOutcome::Answered { is_whole: report.failed.is_empty(), report },
            (Some(1), Some(report)) if !report.failed.is_empty() => SyncOutcome::Answered { is_whole: false, report },
            _ => SyncOutcome::NoAnswer(self.error_text()),
        }
    }

    /// The last line of its standard error, or how it exited.
    fn error_text(&self) -> String {
        let stderr = String::from_utf8_lossy(&self.stderr);
        match stderr.trim().lines().last() {
            Some(line) if !line.is_empty() => line.to_owned(),
            _ => format!("{} and no answer", self.status),
        }
    }
}

/// Waits until a child has exited, and reads its output.
async fn wait_with_output(child: &mut Child) -> io::Result<ChildOutput> {
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let mut output = pin!(async { tokio::join!(read_to_end(stdout, MAX_STDOUT), read_to_end(stderr, MAX_STDERR)) });
    let (status, (stdout, stderr)) = tokio::select! {
        output = &mut output => (child.wait().await?, output),
        status = child.wait() => (status?, timeout(OUTPUT_TIMEOUT, &mut output).await.unwrap_or_default()),
    };
    Ok(ChildOutput { status, stdout, stderr })
}

/// Reads a pipe to its end, and keeps the first `limit` bytes.
async fn read_to_end(pipe: Option<impl AsyncRead + Unpin>, limit: usize) -> Vec<u8> {
    let Some(mut pipe) = pipe else { return Vec::new() };
    let mut kept = Vec::new();
    let mut buffer = [0; 4 << 10];
    while let Ok(read @ 1..) = pipe.read(&mut buffer).await {
        let room = limit - kept.len();
        kept.extend_from_slice(&buffer[..read.min(room)]);
    }
    kept
}

/// Kills a child with the processes of its group, and waits until it has exited.
async fn kill(child: &mut Child) {
    if let Some(pid) = child.id().and_then(|id| i32::try_from(id).ok()) {
        let _ = killpg(Pid::from_raw(pid), Signal::SIGKILL);
    }
    drop(timeout(KILL_TIMEOUT, child.wait()).await);
}
