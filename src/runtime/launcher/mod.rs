//! Running plugins as processes.
//!
//! [`Launcher`] starts a plugin (`spawn`) in a process group that dies with this process (`holder`, `group`). The plugin waits
//! for its input (`started`), and then this process communicates with it (`running`). A [`Durable`] holds a plugin's input back until something is on disk.

mod disk_work;
mod durable;
mod group;
mod holder;
mod launch;
mod running;
mod spawn;
mod started;

pub use disk_work::DiskWork;
pub use durable::Durable;
pub use launch::Launcher;
pub use running::{Killed, MAX_STDOUT};
pub use started::Started;
