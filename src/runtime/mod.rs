//! libcni in Rust: what a container runtime needs to run network configurations (SPEC §3).
//!
//! [`Networks`] is where a runtime begins: add, check and delete a container, with the results kept where libcni keeps
//! them. Below it, [`load`] reads configurations from directories, [`find`] looks up executables, [`exec`] runs one
//! plugin once, and [`chain`] runs the plugins of a network in order. It depends on [`crate::cni`] only.

pub mod cache;
pub mod chain;
pub(crate) mod deadline;
pub mod exec;
pub mod find;
mod leash;
pub mod load;
mod networks;
mod process;

pub use chain::{Attachment, Chain, StepError, StepResult};
pub use exec::{Call, Exec, Launcher, PluginError};
pub use find::Finder;
pub use networks::{NetworkError, Networks};
pub(crate) use process::{keep_descriptors_from_plugins, own_network_namespace, prepare_process, take_signals_in_hand};
