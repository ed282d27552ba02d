//! Which parts of a plan may be worked on at the same time.

mod explain;
mod needs;
mod parts;

pub use explain::explain;
pub use needs::Needs;
pub use parts::{Part, parts, schedule, schedule_parts, whole_parts};
