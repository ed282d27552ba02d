//! What will be attached, in which order and under which names: decided without touching anything.

pub mod build;
pub mod difference;
pub mod traps;
pub mod update;

pub use build::{Asked, Attachment, DeviceInfo, Plan, PlanError, Planned, Position, build, refuse_two_default_routes};
