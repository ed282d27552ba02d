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
/// How much of its standard error is kept, in bytes.
const MAX_STDERR: usize = 16 << 10;
/// How long to wait for the end of its output after it has exited: another process may hold the pipe open.
const LEFTOVER: Duration = Duration::from_secs(1);
/// How long a killed child may take to exit.
const KILLED: Duration = Duration::from_secs(5);
/// The directories of the node's programs. Plugins call `iptables` and others.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// The error of a command line that does not have the command.
const NO_SUCH_COMMAND: i32 = 2;

/// How a `braid sync` ended.
#[derive(Debug)]
pub(super) enum Ended {
    /// It has answered.
    Answered {
        /// What.
        report: Report,
        /// Whether the pod has what it asks for.
        is_whole: bool,
    },
    /// The node's Braid has no such command.
    Unknown,
    /// It has not answered, and this is why.
    Broken(String),
}

/// Starts children.
#[derive(Debug)]
pub(super) struct Children {
    /// The program, and the arguments before its own.
    program: PathBuf,
    before: Vec<OsString>,
    state_dir: PathBuf,
    conf_dir: PathBuf,
    cni_path: String,
    cache_dir: PathBuf,
    limit: Duration,
}

impl Children {
    /// Runs children in the namespaces of a process, or in the agent's own.
    pub(super) fn new(settings: &Settings, enters: Option<u32>) -> Self {
        let braid = settings.braid.clone();
        let (program, before) = match enters {
            None => (braid, Vec::new()),
            Some(pid) => {
                let words = ["enter".into(), pid.to_string().into(), braid.into_os_string()];
                (PathBuf::from("/proc/self/exe"), words.into())
            }
        };
        Self {
            program,
            before,
            state_dir: settings.state_dir.clone(),
            conf_dir: settings.conf_dir.clone(),
            cni_path: settings.cni_path.clone(),
            cache_dir: settings.cache_dir.clone(),
            limit: settings.timeout,
        }
    }

    /// Changes a container to match what its pod asks for. For a container without a journal, this uses the given configuration of
    /// Braid.
    pub(super) async fn sync(&self, container: &Container, configuration: Option<&Path>) -> Ended {
        let mut words: Vec<OsString> = vec!["sync".into(), container.id().into(), "--by".into(), "agent".into()];
        if let (Container::Unknown(_), Some(configuration)) = (container, configuration) {
            words.extend(["--network".into(), configuration.into()]);
        }
        match self.run(&words).await {
            Ok(ran) => ran.outcome(),
            Err(reason) => Ended::Broken(reason),
        }
    }

    /// Undoes the attachments of a container that is gone, or a debt. If the container's namespace still exists, the node's Braid
    /// refuses.
    ///
    /// # Errors
    /// Why it is not undone.
    pub(super) async fn undo(&self, id: &str) -> Result<(), String> {
        let words: [OsString; 4] = ["doctor".into(), "--fix".into(), "--only".into(), id.into()];
        let ran = self.run(&words).await?;
        if ran.status.success() {
            return Ok(());
        }
        let details = serde_json::from_slice::<Vec<Value>>(&ran.stdout).unwrap_or_default();
        let details: Vec<&str> = details.iter().filter_map(|line| line["detail"].as_str()).collect();
        Err(if details.is_empty() { ran.error_text() } else { details.join("; ") })
    }

    fn command(&self, words: &[OsString]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.before).args(words);
        command.arg("--state-dir").arg(&self.state_dir).args(["-o", "json"]);
        // The agent's own environment is not passed on: it may contain values that plugins must not see.
        command.env_clear().env("PATH", PATH).env("NETCONFPATH", &self.conf_dir).env("CNI_PATH", &self.cni_path);
        command.env("CNI_CACHE_DIR", &self.cache_dir);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.process_group(0).current_dir(Path::new("/"));
        command
    }

    /// Runs the node's Braid until it exits, or until its time limit.
    async fn run(&self, words: &[OsString]) -> Result<Ran, String> {
        let program = self.before.last().map_or_else(|| self.program.clone(), PathBuf::from);
        let mut child =
            self.command(words).spawn().map_err(|error| format!("cannot run {}: {error}", program.display()))?;
        if let Ok(ran) = timeout(self.limit, to_the_end(&mut child)).await {
            return ran.map_err(|error| format!("cannot wait for {}: {error}", program.display()));
        }
        kill(&mut child).await;
        Err(format!("it did not exit within {} s and was killed", self.limit.as_secs()))
    }
}

/// The exit status and the output of a child.
#[derive(Debug)]
struct Ran {
    status: ExitStatus,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

impl Ran {
    fn outcome(self) -> Ended {
        let said = String::from_utf8_lossy(&self.stderr);
        if self.status.code() == Some(NO_SUCH_COMMAND) && said.contains("unrecognized subcommand") {
            return Ended::Unknown;
        }
        match (self.status.code(), Report::parse(&self.stdout)) {
            (Some(0), Some(report)) => Ended::Answered { is_whole: report.failed.is_empty(), report },
            (Some(1), Some(report)) if !report.failed.is_empty() => Ended::Answered { is_whole: false, report },
            _ => Ended::Broken(self.error_text()),
        }
    }

    /// The last line of its standard error, or how it exited.
    fn error_text(&self) -> String {
        let said = String::from_utf8_lossy(&self.stderr);
        match said.trim().lines().last() {
            Some(line) if !line.is_empty() => line.to_owned(),
            _ => format!("{} and no answer", self.status),
        }
    }
}

async fn to_the_end(child: &mut Child) -> io::Result<Ran> {
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let mut output = pin!(async { tokio::join!(read_to_end(stdout, MAX_STDOUT), read_to_end(stderr, MAX_STDERR)) });
    let (status, (stdout, stderr)) = tokio::select! {
        output = &mut output => (child.wait().await?, output),
        status = child.wait() => (status?, timeout(LEFTOVER, &mut output).await.unwrap_or_default()),
    };
    Ok(Ran { status, stdout, stderr })
}

/// Reads to the end, and keeps at most this much.
async fn read_to_end(pipe: Option<impl AsyncRead + Unpin>, at_most: usize) -> Vec<u8> {
    let Some(mut pipe) = pipe else { return Vec::new() };
    let mut kept = Vec::new();
    let mut buffer = [0; 4 << 10];
    while let Ok(read @ 1..) = pipe.read(&mut buffer).await {
        let room = at_most - kept.len();
        kept.extend_from_slice(&buffer[..read.min(room)]);
    }
    kept
}

/// Kills a child with the processes of its group, and waits until it has exited.
async fn kill(child: &mut Child) {
    if let Some(pid) = child.id().and_then(|id| i32::try_from(id).ok()) {
        let _ = killpg(Pid::from_raw(pid), Signal::SIGKILL);
    }
    drop(timeout(KILLED, child.wait()).await);
}
