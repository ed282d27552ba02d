//! Decides what to attach, in which order and under which names. Has no side effects.

mod arguments;
mod attachment;
mod build;
mod checks;
pub mod concurrency;
mod device;
pub mod difference;
mod error;
mod names;
pub mod traps;
pub mod update;

pub use attachment::{Attachment, DeviceInfo, Plan, Position};
pub use build::{Asked, Planned, build};
pub use checks::refuse_two_default_routes;
pub use error::PlanError;
