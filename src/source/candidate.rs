//! An attachment whose network has been found.

use super::device::AllocatedDevice;
use crate::cni::{NetworkConfig, RawObject};
use crate::config::{Author, Selection};

/// An attachment to be made, with its network found and nothing else decided.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// The network.
    pub network: NetworkConfig,
    /// What was asked for.
    pub selection: Selection,
    /// All that a pod asked of the network, in its own words: nothing was looked up or chosen for it. None where the operator
    /// asked.
    pub asked: Option<RawObject>,
    /// The name by which the network was found on disk, where a NetworkAttachmentDefinition without a configuration stands
    /// for it. A policy checks this name as well as the definition's own.
    pub on_disk_name: Option<String>,
    /// Whether the container may do without it.
    pub optional: bool,
    /// Who asked.
    pub author: Author,
    /// Where it was asked for, such as `delegates[1]`.
    pub origin: String,
    /// Why it applies.
    pub reason: String,
    /// The device resource of the selection's device, if a NetworkAttachmentDefinition names one.
    pub resource: Option<String>,
    /// The selection's device as its claim names it, if it is from one.
    pub allocated: Option<AllocatedDevice>,
}
