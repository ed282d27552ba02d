//! Which plugins are meta-plugins: Braid, and those that it replaces.

use crate::cni::PluginConfig;

/// Plugin types that lead back to a meta-plugin, whatever executable they name.
pub const META_PLUGINS: [&str; 3] = ["braid", "multus", "multus-shim"];

/// Whether a plugin type is that of a meta-plugin.
pub fn is_meta_plugin(plugin_type: &str) -> bool {
    META_PLUGINS.contains(&plugin_type)
}

/// Whether a plugin's configuration is one for Braid, by its type or by keys that only meta-plugins have.
pub fn is_braid(plugin: &PluginConfig) -> bool {
    is_meta_plugin(plugin.plugin_type())
        || ["delegates", "clusterNetwork"].iter().any(|key| plugin.keys().contains_key(*key))
}
