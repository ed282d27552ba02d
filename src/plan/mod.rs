//! What will be attached, in which order and under which names: decided without touching anything.

pub mod build;
pub mod key;
pub mod policy;
pub mod selection;
pub mod selector;

pub use build::{Attachment, DeviceInfo, Plan, PlanError, Planned, Position, build, survey};
pub use selection::{OperatorSelection, Selection};
