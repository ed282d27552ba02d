//! Changes a running container to match what its pod asks for now.
//!
//! `planning` decides what to do. It changes nothing and takes no lock, because the API server may be slow and DEL must not wait
//! for it. `repair` begins a journal for a container that another plugin has attached. `work` locks the container, makes sure that
//! it has not changed meanwhile, and makes the changes.

mod planning;
mod repair;
mod report;
mod work;

pub use repair::ForeignContainer;
pub use report::{AttachedNow, Failed, Network, PodName, Synced};
