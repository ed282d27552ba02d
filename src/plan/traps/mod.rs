//! Known plugins that fail, or leave something behind, in ways that their configuration already shows.
//!
//! `validate` and `plan` report them. Each row of the tables says why, and what to do about it.

mod addresses;
mod checks;
mod network;
mod shared;
mod trap;

pub use network::of_network;
pub use shared::of_plan;
pub use trap::Trap;
