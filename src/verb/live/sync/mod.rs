//! A container that lives is brought to what its pod asks for now.
//!
//! `planning` decides without changing anything, and while the container is not locked: the API server may be slow, and DEL does
//! not wait for it. `repair` begins a journal for a container that another plugin has attached. `work` locks the container, makes sure that it is still as it was, and brings the difference about.

mod planning;
mod repair;
mod report;
mod work;

pub use repair::Unknown;
pub use report::{AttachedNow, Failed, Network, PodName, Synced};
