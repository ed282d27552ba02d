//! libcni in Rust: what a container runtime needs to run network configurations (SPEC §3).
//!
//! [`Networks`] is where a runtime begins: add, check and delete a container, with the results kept where libcni keeps
//! them. Below it, [`load`] reads configurations from directories, [`find`] looks up executables, [`exec`] runs one
//! plugin once as [`launcher`] does, and [`chain`] runs the plugins of a network in order. It depends on [`crate::cni`] and
//! [`crate::output`] only.

mod ahead;
pub mod cache;
pub mod chain;
pub(crate) mod deadline;
pub mod exec;
pub mod find;
pub mod host_local;
pub mod launcher;
pub mod load;
mod network_error;
mod networks;
mod process;
mod reverse;
mod runs;
mod together;

pub use ahead::{ACT_BEFORE_INPUT, Ahead, LookAhead, Of};
pub use chain::{Attachment, Chain, StepError, StepResult};
pub use exec::{Call, Exec, PluginError, Waiting};
pub use find::Finder;
pub use launcher::{DiskWork, Durable, Launcher};
pub use network_error::NetworkError;
pub use networks::Networks;
pub use process::pidfd;
pub(crate) use process::{keep_descriptors_from_plugins, own_network_namespace, refuse_closed_stdout, reset_signals};
pub use reverse::{Shares, undo_in_reverse};
pub use runs::{Run, Runs, SpanId, Trace};
pub use together::{Schedule, together};
