//! New values for an attachment.

use crate::cni::config::RawObject;
use crate::config::selection::PortMapping;

/// New values for an attachment. Values that are not given stay.
#[derive(Debug, Clone, Default)]
pub struct Update {
    /// Limits of `bandwidth`.
    pub bandwidth: Option<BandwidthUpdate>,
    /// The whole list of mappings of `portmap`.
    pub port_mappings: Option<Vec<PortMapping>>,
    /// Keys of plugins' configurations.
    pub plugins: Vec<PluginUpdate>,
}

/// New limits. A direction that is not given keeps its limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BandwidthUpdate {
    /// Into the container.
    pub ingress: Option<LimitUpdate>,
    /// Out of the container.
    pub egress: Option<LimitUpdate>,
}

/// A new limit of one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LimitUpdate {
    /// None.
    Unlimited,
    /// A rate in bits per second, and a burst in bits. Without a burst, the previous one stays; if there was none, it is a tenth of
    /// a second's traffic, and at least ten full packets.
    Limited {
        /// Bits per second.
        rate: u64,
        /// Bits.
        burst: Option<u64>,
    },
}

/// New keys of one plugin's configuration.
#[derive(Debug, Clone, Default)]
pub struct PluginUpdate {
    /// The plugin's type.
    pub plugin_type: String,
    /// Which plugin of that type, counted from 1, if the chain has several.
    pub number: Option<usize>,
    /// Keys and their new values.
    pub set: RawObject,
    /// Keys to leave out.
    pub unset: Vec<String>,
}
