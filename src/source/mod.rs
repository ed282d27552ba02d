//! Where networks come from: the configuration itself, directories of configurations, and a Kubernetes API server.
//!
//! | module | what it does |
//! |---|---|
//! | `wanted` | lists what is asked for, by the operator, the runtime and the pod |
//! | `lookup` | finds the network of each, in a definition or on disk |
//! | [`bearer_token`] | what a token says of itself |
//! | [`conf_dir`] | the networks on disk |
//! | [`device`] | hands the devices of a pod out |
//! | [`pod`] | what an API server and the kubelet say of a pod, as data |
//! | [`kubernetes`] | asks them |

pub mod bearer_token;
mod candidate;
pub mod conf_dir;
pub mod device;
mod error;
pub mod kubernetes;
mod lookup;
pub mod pod;
mod wanted;

pub use candidate::Candidate;
pub(crate) use error::appended;
pub use error::{ClusterError, SourceError};
pub use lookup::{Gathered, Known, Surveyed, every_network, every_network_with, gather, look_up, survey};
pub use wanted::{Wanted, operators_definitions};
