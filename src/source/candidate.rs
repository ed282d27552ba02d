//! An attachment whose network has been found.

use super::device::AllocatedDevice;
use crate::cni::{NetworkConfig, RawObject};
use crate::config::{Author, Selection};

/// An attachment whose network is found, before its name and arguments are decided.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// The network.
    pub network: NetworkConfig,
    /// What was asked for.
    pub selection: Selection,
    /// What a pod asked for, as it wrote it, before anything was looked up or chosen. `None` if the operator asked.
    pub asked: Option<RawObject>,
    /// The name with which the network was found on disk, for a NetworkAttachmentDefinition without a configuration. A policy
    /// checks both this name and the definition's.
    pub on_disk_name: Option<String>,
    /// Whether the container may do without it.
    pub optional: bool,
    /// Who asked.
    pub author: Author,
    /// The place of the request, such as `delegates[1]`.
    pub origin: String,
    /// Why it applies.
    pub reason: String,
    /// The device resource of the selection's device, if a NetworkAttachmentDefinition names one.
    pub resource: Option<String>,
    /// The name of the selection's device in its claim, if it is from one.
    pub allocated: Option<AllocatedDevice>,
}
