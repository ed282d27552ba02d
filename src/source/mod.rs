//! Where networks come from: the configuration itself, and directories of configurations.

pub mod conf_dir;
mod gather;

pub use gather::{Gathered, SourceError, every_network, gather};
