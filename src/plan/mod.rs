//! What will be attached, in which order and under which names: decided without touching anything.

pub mod build;

pub use build::{Attachment, DeviceInfo, Plan, PlanError, Planned, Position, build};
