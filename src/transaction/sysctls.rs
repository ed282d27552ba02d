//! Kernel parameters that a `tuning` step sets, and their earlier values, which Braid records.

use crate::cni::RawObject;
use crate::cni::config::{PluginConfig, find_folded};
use crate::netns::Sysctls;

/// The parameters that a `tuning` step sets.
pub(super) fn sysctls(plugin: &PluginConfig) -> RawObject {
    let object = find_folded(plugin.keys(), "sysctl");
    object.and_then(|raw| serde_json::from_str(raw.get()).ok()).unwrap_or_default()
}

/// The names that are in the first list and not in the second.
pub(super) fn only_in(a: &RawObject, b: &RawObject) -> Vec<String> {
    a.keys().filter(|name| !b.contains_key(*name)).cloned().collect()
}

/// What is remembered of these parameters.
pub(super) fn restorable(remembered: Option<Sysctls>, names: &[String]) -> Sysctls {
    let mut values = remembered.unwrap_or_default();
    values.retain(|name, _| names.contains(name));
    values
}
