//! Where networks come from: the configuration itself, directories of configurations, and a Kubernetes API server.

pub mod conf_dir;
mod gather;
pub mod kubernetes;
pub mod pod;

pub use gather::{
    Gathered, SourceError, Surveyed, Wanted, every_network, every_network_with, gather, gather_for_pod,
    operators_definitions, survey,
};
