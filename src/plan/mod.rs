//! What will be attached, in which order and under which names: decided without touching anything.

pub mod build;
pub mod traps;
pub mod update;

pub use build::{Asked, Attachment, DeviceInfo, Plan, PlanError, Planned, Position, build};
