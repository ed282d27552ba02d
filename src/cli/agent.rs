//! `agent`: the resident process of a node, and the hidden command with which it enters the node's namespaces.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use super::{CliError, Outcome, StateDir};
use crate::agent::{self, Endpoint, HostProcess, Listen, Settings};
use crate::config::{DEFAULT_BIN_DIR, LogConfig};

/// The arguments of `agent`.
#[derive(Debug, Args)]
pub(super) struct AgentArgs {
    /// The name of this node [default: this machine's host name]
    #[arg(long, env = "NODE_NAME", value_name = "NAME")]
    node: Option<String>,
    /// The credentials for the API server [default: those of the pod that the agent runs in]
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    #[command(flatten)]
    state: StateDir,
    /// Where the node's configurations are
    #[arg(long, value_name = "DIR", default_value = "/etc/cni/net.d")]
    conf_dir: PathBuf,
    /// Where the node's plugins are, as in `CNI_PATH`
    #[arg(long, value_name = "DIRS", default_value = DEFAULT_BIN_DIR)]
    bin_dir: String,
    /// Where the runtime's libcni keeps results
    #[arg(long, value_name = "DIR", default_value = crate::runtime::cache::DEFAULT_DIR)]
    cache_dir: PathBuf,
    /// The node's own braid, which makes the changes [default: braid in the first of --bin-dir]
    #[arg(long, value_name = "FILE")]
    braid: Option<PathBuf>,
    /// The process in whose namespaces changes are made, or `none` for the agent's own
    #[arg(long, value_name = "PID", default_value = "1")]
    host_pid: HostProcess,
    /// How many pods are changed at once
    #[arg(long, value_name = "NUMBER", default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=64))]
    concurrency: u8,
    /// How long a change may take, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..=3600))]
    timeout: u64,
    /// For how many seconds a pod must be unknown before its attachments are undone
    #[arg(long, value_name = "SECONDS", default_value_t = 120, value_parser = clap::value_parser!(u64).range(1..=86400))]
    gone_after: u64,
    /// After how many seconds a debt is tried again, doubled each time up to an hour
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=3600))]
    retry_after: u64,
    /// Where to answer /healthz and /metrics over HTTP, or `none`
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9797")]
    listen: Listen,
    /// Where to export spans of traced calls to, by OTLP over HTTP
    #[arg(long, env = "OTEL_EXPORTER_OTLP_ENDPOINT", value_name = "URL")]
    otlp_endpoint: Option<Endpoint>,
    /// How much to log
    #[arg(long, value_name = "LEVEL", default_value = "info",
        value_parser = ["error", "warning", "info", "debug", "trace"])]
    log_level: String,
}

/// The arguments of `enter`.
#[derive(Debug, Args)]
pub(super) struct Enter {
    /// The process whose mount and network namespaces are entered
    pid: u32,
    /// The program to run there
    program: PathBuf,
    /// Its arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

impl AgentArgs {
    /// The agent's log settings: it logs more than a call does.
    pub(super) fn log(&self) -> LogConfig {
        LogConfig { level: Some(self.log_level.clone()), ..LogConfig::default() }
    }

    fn settings(&self) -> Settings {
        let first = self.bin_dir.split(':').next().unwrap_or(DEFAULT_BIN_DIR);
        Settings {
            node: self.node.clone().filter(|name| !name.is_empty()),
            kubeconfig: self.kubeconfig.clone(),
            state_dir: self.state.state_dir.clone(),
            conf_dir: self.conf_dir.clone(),
            cni_path: self.bin_dir.clone(),
            cache_dir: self.cache_dir.clone(),
            braid: self.braid.clone().unwrap_or_else(|| PathBuf::from(first).join("braid")),
            host: self.host_pid,
            concurrency: self.concurrency.into(),
            timeout: Duration::from_secs(self.timeout),
            gone_after: Duration::from_secs(self.gone_after),
            retry_after: Duration::from_secs(self.retry_after),
            listen: self.listen,
            otlp_endpoint: self.otlp_endpoint.clone(),
        }
    }
}

pub(super) fn agent(args: &AgentArgs) -> Outcome {
    agent::run(&args.settings()).map(|()| ExitCode::SUCCESS).map_err(CliError::from)
}

pub(super) fn enter(args: &Enter) -> Outcome {
    Err(agent::enter(args.pid, &args.program, &args.arguments).into())
}
