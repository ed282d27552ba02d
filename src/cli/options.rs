//! Arguments that several commands have.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::config::DEFAULT_STATE_DIR;

/// The attachment that `add`, `check` and `del` are about. The environment is cnitool's: `NETCONFPATH`, `CNI_PATH`,
/// `CNI_ARGS`, `CAP_ARGS` and `CNI_IFNAME`.
#[derive(Debug, Args)]
pub(super) struct AttachmentArgs {
    /// The network: its name, or the file of its configuration
    pub(super) network: String,
    /// The network namespace: its path, or its name among those of `ip netns`
    pub(super) netns: PathBuf,
    /// The interface's name in the namespace [default: `CNI_IFNAME`, else eth0]
    #[arg(short, long)]
    pub(super) ifname: Option<String>,
    /// The container's ID [default: derived from the namespace's path, as cnitool does]
    #[arg(long)]
    pub(super) container_id: Option<String>,
    /// Print on standard error how long each plugin and Braid itself took
    #[arg(long)]
    pub(super) timings: bool,
}

#[derive(Debug, Args)]
pub(super) struct StateDir {
    /// Where the journals are
    #[arg(long, default_value = DEFAULT_STATE_DIR)]
    pub(super) state_dir: PathBuf,
}

/// What a command prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    Table,
    Json,
}
