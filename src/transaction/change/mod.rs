//! Changes of a running container: attach, detach, update.
//!
//! Each is a transaction over the container's journal. Either it succeeds, or everything is as before. The next call settles a
//! change that did not finish: it undoes an attach or an update, and finishes a detach.

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
