//! Running plugins as processes.
//!
//! [`Launcher`] starts a plugin (`spawn`) in a process group that dies with this process (`holder`, `group`), and talks to
//! it (`running`). That a plugin gets its input only once something is on disk is a [`Durable`]'s to see to.

mod durable;
mod group;
mod holder;
mod launch;
mod running;
mod spawn;

pub use durable::Durable;
pub use launch::{Launcher, Started};
pub use running::{Killed, MAX_STDOUT};
