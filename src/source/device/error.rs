//! Why an attachment has no device.

use crate::cni::CniError;
use crate::cni::error::code;
use crate::config::claim::ClaimRequest;
use crate::config::object::KeyError;

/// Why an attachment cannot get a device.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    /// The pod has some of the resource, but too few.
    #[error(
        "the pod has {had} devices of resource {resource:?}, and all of them are taken by its other networks{}",
        also(found)
    )]
    Taken {
        /// The resource.
        resource: String,
        /// How many the pod has.
        had: usize,
        /// What its claims have.
        found: String,
    },
    /// The pod has none of the resource.
    #[error("the pod has no device of resource {resource:?}; one of its containers has to request it{}", also(found))]
    None {
        /// The resource.
        resource: String,
        /// What its claims have.
        found: String,
    },
    /// The pod asks for a device that it does not have.
    #[error("the device {device:?} is not one of the pod's devices of resource {resource:?}, or is asked for twice")]
    NotTheirs {
        /// The resource.
        resource: String,
        /// The device.
        device: String,
    },
    /// The pod has no such claim.
    #[error("the pod has no resource claim {claim:?}; {}", claims(has))]
    NoClaim {
        /// The name that was asked for.
        claim: String,
        /// Those it has.
        has: Vec<String>,
    },
    /// A claim has not yet been made from its template.
    #[error("resource claim {claim:?} of the pod has not been made from its template yet")]
    ClaimPending {
        /// Its name in the pod.
        claim: String,
    },
    /// Nothing has been allocated to a claim yet.
    #[error("{wanted}: ResourceClaim {object:?} has no device allocated yet")]
    Unallocated {
        /// The claim and request, or the resource.
        wanted: String,
        /// The `ResourceClaim`.
        object: String,
    },
    /// The pod has a claim for which no `ResourceClaim` is needed.
    #[error("{wanted}: no ResourceClaim has been made for it, as the pod does not need one")]
    NotNeeded {
        /// The claim and request.
        wanted: ClaimRequest,
    },
    /// A claim has no suitable device.
    #[error("{wanted} (ResourceClaim {object:?}): {reason}; found {found}")]
    NotInClaim {
        /// The claim and request.
        wanted: ClaimRequest,
        /// The `ResourceClaim`.
        object: String,
        /// Why none of them will do.
        reason: String,
        /// The content of the claim: requests, drivers, devices and what is known about them.
        found: String,
    },
    /// An annotation of a definition cannot be read.
    #[error("network-attachment-definition {definition}: {source}")]
    Annotation {
        /// The definition.
        definition: String,
        /// What is wrong with it.
        source: KeyError,
    },
    /// There is no pod whose claim it could be.
    #[error("{wanted}: there is no pod with resource claims: Kubernetes is not configured, or the call is for no pod")]
    NoPod {
        /// The claim and request.
        wanted: ClaimRequest,
    },
}

impl From<&DeviceError> for CniError {
    fn from(error: &DeviceError) -> Self {
        let code = match error {
            // The scheduler, or the controller of claims, may not have finished.
            DeviceError::ClaimPending { .. } | DeviceError::Unallocated { .. } => code::TRY_AGAIN,
            DeviceError::Taken { .. }
            | DeviceError::None { .. }
            | DeviceError::NotTheirs { .. }
            | DeviceError::NoClaim { .. }
            | DeviceError::NotNeeded { .. }
            | DeviceError::NotInClaim { .. }
            | DeviceError::Annotation { .. }
            | DeviceError::NoPod { .. } => code::INVALID_CONFIG,
        };
        Self::new(code, error.to_string())
    }
}

fn also(found: &str) -> String {
    if found.is_empty() { String::new() } else { format!(". Its resource claims have {found}") }
}

fn claims(has: &[String]) -> String {
    if has.is_empty() { "it has none".into() } else { format!("it has {}", has.join(", ")) }
}
