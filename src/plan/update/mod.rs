//! New values for one attachment of a container that lives: which steps are redone for them, how, and what cannot be changed.
//!
//! What redoing a step means differs from plugin to plugin, as the reference plugins were not written to be called twice:
//!
//! | plugin | redone by | why not plainly DEL and ADD |
//! |---|---|---|
//! | `bandwidth` | changing its token buckets in place | its DEL leaves the qdiscs to the interface, its ADD refuses an interface that has some |
//! | `portmap` | DEL with the old mappings, ADD with the new ones | its ADD adds, and its DEL without mappings does nothing |
//! | `firewall` | DEL, ADD | its DEL leaves the rules of `ingressPolicy` and the jump to an administrator's chain: these two are refused |
//! | `tuning` | DEL, which restores the link, ADD; sysctls are remembered and restored by Braid | its ADD takes the values it finds for the original ones, its DEL restores no sysctl |
//!
//! Other plugins make interfaces and addresses; these are detached and attached anew.
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
