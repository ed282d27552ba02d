//! New values for one attachment of a running container: which steps are redone, how, and which values cannot be changed.
//!
//! Each plugin needs its own way to redo a step, because the reference plugins are not made to be called twice:
//!
//! | plugin | redone by | why not simply DEL and ADD |
//! |---|---|---|
//! | `bandwidth` | changing its token buckets in place | its DEL does not remove the qdiscs, and its ADD refuses an interface that
//! has some |
//! | `portmap` | DEL with the old mappings, ADD with the new ones | its ADD only adds, and its DEL without mappings does nothing |
//! | `firewall` | DEL, ADD | its DEL leaves the rules of `ingressPolicy` and the jump to an administrator's chain: these two are
//! refused |
//! | `tuning` | DEL, which restores the link, and ADD; Braid records and restores sysctls | its ADD records the current values as
//! the original ones, and its DEL does not restore sysctls |
//!
//! Other plugins make interfaces and addresses. Their attachments are detached and attached again.
mod error;
mod limits;
mod planned;
mod planner;
mod values;

pub use error::UpdateError;
pub use limits::Limits;
pub use planned::{How, Kind, PlannedUpdate, Redo};
pub use planner::{ask, update};
pub use values::{BandwidthUpdate, LimitUpdate, PluginUpdate, Update};
