//! Which plugins are meta-plugins: Braid, and those whose place it takes.

use crate::cni::PluginConfig;

/// Plugin types that lead back to a meta-plugin, whatever the executable is.
pub const META_PLUGINS: [&str; 3] = ["braid", "multus", "multus-shim"];

/// Whether a plugin type is a meta-plugin's.
pub fn is_meta_plugin(plugin_type: &str) -> bool {
    META_PLUGINS.contains(&plugin_type)
}

/// Whether a plugin's configuration is one that Braid can be called with: by its type, or by the keys that only a
/// meta-plugin's has.
pub fn is_braid(plugin: &PluginConfig) -> bool {
    is_meta_plugin(plugin.plugin_type())
        || ["delegates", "clusterNetwork"].iter().any(|key| plugin.keys().contains_key(*key))
}
