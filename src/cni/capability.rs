//! Capability arguments and the `runtimeConfig` derived from them (SPEC §3, "Deriving `runtimeConfig`").

use super::config::{PluginConfig, RawObject};

/// The part of `given` that `plugin` declares: what goes into its `runtimeConfig`, in the order given.
pub fn derive<'a>(
    plugin: &'a PluginConfig,
    given: &'a RawObject,
) -> impl Iterator<Item = (&'a str, &'a serde_json::value::RawValue)> {
    given.iter().filter(|(name, _)| plugin.declares(name)).map(|(name, value)| (name.as_str(), &**value))
}

/// A limit as the capability `bandwidth` states it (CONVENTIONS.md, "bandwidth").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateLimit {
    /// Bits per second.
    pub rate: u64,
    /// Bits that may pass at once.
    pub burst: u64,
}
