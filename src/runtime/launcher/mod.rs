//! Running plugins as processes.
//!
//! [`Launcher`] starts a plugin (`spawn`) in a process group that dies with this process (`holder`, `group`). The plugin waits for
//! its input (`started`), and then this process writes the input and reads the output (`running`). A [`Durable`] delays a plugin's
//! input until files are on disk.

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
