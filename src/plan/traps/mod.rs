//! Known plugins that fail, or leave something behind, for reasons that can be seen in their configuration.
//!
//! `validate` and `plan` report them. Each row of the tables has the reason and a remedy.

mod addresses;
mod checks;
mod network;
mod shared;
mod trap;

pub use network::of_network;
pub use shared::of_plan;
pub use trap::Trap;
