//! Why the agent cannot run.

use std::io;
use std::path::PathBuf;

use nix::errno::Errno;
use tokio::task::JoinError;

/// Why the agent cannot run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AgentError {
    /// The state directory cannot be used.
    #[error("cannot {action} {}: {source}", path.display())]
    State {
        /// What was attempted.
        action: &'static str,
        /// The path.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A part of the agent has panicked. Whatever has started the agent should start it again.
    #[error("a defect of the agent: {0}")]
    Defect(#[from] JoinError),
    /// The kernel refuses something that the agent needs.
    #[error("the agent cannot start: {0}")]
    Start(#[source] io::Error),
    /// The HTTP server cannot listen.
    #[error("cannot listen on {address}: {source}; --listen takes another address, or none")]
    Listen {
        /// The address.
        address: String,
        /// Why not.
        source: io::Error,
    },
    /// The socket for the reports of calls cannot be made.
    #[error("cannot listen for the reports of calls on {}: {source}", path.display())]
    Events {
        /// The socket.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Spans cannot be exported.
    #[error("cannot export spans to {endpoint}: {reason}")]
    Export {
        /// The collector.
        endpoint: String,
        /// Why not.
        reason: String,
    },
    /// The name of the node is not known.
    #[error("this machine's host name cannot be the name of a node; give it with --node")]
    NodeName,
    /// The namespaces of the node are not visible.
    #[error(
        "cannot look at the namespaces of process {pid}, in which changes are made: {source}; in a pod this takes hostPID and the \
         capability SYS_PTRACE, and `--host-pid none` makes changes where the agent itself is"
    )]
    Host {
        /// The process.
        pid: u32,
        /// Why not.
        source: io::Error,
    },
    /// The namespaces of the node cannot be entered.
    #[error(
        "cannot enter the {namespace} namespace of process {pid}: {source}; it takes the capabilities SYS_ADMIN, SYS_CHROOT and \
         SYS_PTRACE"
    )]
    Enter {
        /// The kind of the namespace.
        namespace: &'static str,
        /// The process.
        pid: u32,
        /// Why not.
        source: Errno,
    },
    /// The program cannot be run in these namespaces.
    #[error("cannot run {}: {source}", program.display())]
    Run {
        /// The program.
        program: PathBuf,
        /// Why not.
        source: io::Error,
    },
}
