//! Changes of a container that lives: attach, detach, update.
//!
//! Each is a transaction of its own over the container's journal. It ends whole, or everything is as before. One that was cut
//! short is settled by the next call: an attach or an update is undone, a detach is finished.

mod attach;
mod changed;
mod detach;
mod redo;
mod settle;
mod update;

pub use attach::attach_more;
pub use changed::{ChangeError, Changed, Means, StepReport, merged, results};
pub use detach::detach;
pub use settle::settle;
pub use update::update;
