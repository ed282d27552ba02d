//! Which device each attachment of a pod gets. Nothing here asks anybody.
//!
//! A pod has devices from three places: its resource claims, the claim that the scheduler makes for extended resources, and
//! device plugins. An [`Inventory`] holds what is known of them. It hands the devices to the attachments that demand one,
//! each to one, or says what has to be asked first ([`Question`]), the cheapest question first.

mod assign;
mod error;
mod inventory;

pub use assign::{Assignments, Demand};
pub use error::DeviceError;
pub use inventory::{
    AllocatedDevice, ClaimObject, Device, DeviceKey, Devices, ExtendedClaim, Grant, HeldDevice, Identity, Inventory,
    PodClaim, PodClaims, Question, Slice, SliceScope,
};
