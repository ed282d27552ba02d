//! The state that the parts of the agent share.

use std::cell::RefCell;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::queue::Queue;
use crate::metrics::Calls;
use crate::source::kubernetes::node::Node;

/// The state that the parts of the agent share. The loop writes it, and the HTTP server reads it.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) node: Node,
    pub(super) queue: RefCell<Queue>,
    /// Why the node's own Braid cannot be used, if it cannot.
    pub(super) braid_problem: RefCell<Option<String>>,
    pub(super) started: Instant,
    /// How long a pod may wait for its turn.
    pub(super) longest_wait: Duration,
    /// What calls have reported.
    pub(super) calls: Calls,
    /// Notified when an ADD reports that it has ended.
    pub(super) attached: Notify,
    /// Where the journals are.
    pub(super) state_dir: PathBuf,
    /// Where the node's configurations are.
    pub(super) conf_dir: PathBuf,
}
