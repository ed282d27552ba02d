//! Decides which device each attachment of a pod gets. Nothing here makes a request.
//!
//! A pod has devices from three sources: its resource claims, the claim that the scheduler makes for extended resources, and device
//! plugins. An [`Inventory`] contains what is known about them. It assigns each attachment that needs a device one of its own, or
//! returns what must be requested first ([`Question`]), beginning with the cheapest request.

mod assign;
mod error;
mod inventory;

pub use assign::{Assignments, Demand};
pub use error::DeviceError;
pub use inventory::{
    AllocatedDevice, ClaimObject, Device, DeviceKey, Devices, ExtendedClaim, Grant, HeldDevice, Identity, Inventory,
    PodClaim, PodClaims, Question, Slice, SliceScope,
};
