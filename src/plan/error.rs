//! Why a plan cannot be made.

use super::checks::MAX_SIZE;
use crate::config::selection::MAX_ATTACHMENTS;
use crate::source::appended;

/// A plan that cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// More attachments are requested than a container may have.
    #[error("{found}, and a container gets at most {MAX_ATTACHMENTS} attachments with {} MiB of configuration", MAX_SIZE >> 20)]
    TooMuch {
        /// How much.
        found: String,
    },
    /// No attachment is left to be the primary one.
    #[error(
        "none of the delegates applies to this container, and one has to be the primary{}",
        appended("; ", reasons)
    )]
    NoPrimary {
        /// Why each was dropped.
        reasons: Vec<String>,
    },
    /// The primary is marked optional.
    #[error("{origin}: the primary attachment cannot be optional")]
    OptionalPrimary {
        /// Which.
        origin: String,
    },
    /// Two attachments want one interface name.
    #[error("{first} and {second} would both get the interface {ifname:?}; give one of them another \"interface\"")]
    DuplicateInterface {
        /// The name.
        ifname: String,
        /// One.
        first: String,
        /// The other.
        second: String,
    },
    /// A delegate would lead back to Braid.
    #[error(
        "{origin} (network {network:?}) has a plugin of type {plugin_type:?}, which would lead back to braid; a delegate must be another plugin"
    )]
    SelfDelegation {
        /// Which.
        origin: String,
        /// The network.
        network: String,
        /// The type.
        plugin_type: String,
    },
    /// More than one attachment asks for a default route of the same family.
    #[error("{first} and {second} both ask for the {family} default route, and only one can have it")]
    DefaultRoutes {
        /// The family.
        family: &'static str,
        /// One.
        first: String,
        /// The other.
        second: String,
    },
    /// A selection asks for a capability that no plugin of the network declares.
    #[error("{origin}: {capability:?} is asked for, but no plugin of network {network:?} declares that capability")]
    Capability {
        /// Which.
        origin: String,
        /// The capability.
        capability: String,
        /// The network.
        network: String,
    },
    /// Policy forbids an attachment.
    #[error("{origin}: the policy of this node does not let namespace {namespace:?} use network {reference:?} (plugins {})", plugins.join(", "))]
    Forbidden {
        /// Which.
        origin: String,
        /// The pod's namespace.
        namespace: String,
        /// The network.
        reference: String,
        /// Its plugins.
        plugins: Vec<String>,
    },
}
