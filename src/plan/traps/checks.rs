//! Networks whose CHECK always fails, with or without Braid. CRI-O calls CHECK before a pod starts.

use super::trap::{Trap, text};
use crate::cni::config::{NetworkConfig, PluginConfig, RawObject, get};

/// Plugins that make CHECK fail.
struct Row {
    /// Whether one of them is among the plugins of a network.
    is_in: fn(&[PluginConfig]) -> bool,
    reason: &'static str,
}

const ROWS: &[Row] = &[
    Row {
        is_in: |plugins| plugins.iter().skip(1).any(|plugin| plugin.plugin_type() == "sbr"),
        reason: "plugin \"sbr\" moves the routes of the plugins before it to a table of their own and does not say so, so that their CHECK fails",
    },
    Row {
        is_in: |plugins| plugins.iter().any(|plugin| ipam_type(plugin).as_deref() == Some("whereabouts")),
        reason: "plugin \"whereabouts\" has no CHECK and answers with an error, so that the CHECK of the plugin that calls it fails",
    },
];

/// Why a network's CHECK always fails.
pub(super) fn of_network(network: &NetworkConfig) -> Vec<Trap> {
    if network.disable_check || !network.version.has_check() {
        return Vec::new();
    }
    let rows = ROWS.iter().filter(|row| (row.is_in)(&network.plugins));
    rows.map(|row| Trap {
        is_fatal: false,
        message: format!(
            "{}, which CRI-O calls before a pod starts; add \"disableCheck\": true to the list that has \"plugins\"",
            row.reason
        ),
    })
    .collect()
}

/// The plugin that assigns addresses for a plugin.
fn ipam_type(plugin: &PluginConfig) -> Option<String> {
    let ipam: RawObject = get(plugin.keys(), "ipam", "an object").ok().flatten()?;
    text(&ipam, "type")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_whose_check_fails() {
        const CHAIN: &str = r#"{"type":"ptp"},{"type":"tuning"},{"type":"sbr"}"#;
        const ADDRESSES: &str = r#"{"type":"ptp","ipam":{"type":"whereabouts"}}"#;
        let check = r#""cniVersion":"1.0.0""#;
        for (keys, plugins, count) in [
            (check, CHAIN.to_owned(), 1),
            (check, ADDRESSES.to_owned(), 1),
            (check, format!(r#"{ADDRESSES},{{"type":"sbr"}}"#), 2),
            (check, r#"{"type":"sbr"},{"type":"ptp","ipam":{"type":"static"}}"#.to_owned(), 0),
            (r#""cniVersion":"1.0.0","disableCheck":true"#, format!("{CHAIN},{ADDRESSES}"), 0),
            (r#""cniVersion":"0.3.1""#, format!("{CHAIN},{ADDRESSES}"), 0),
        ] {
            let network = format!(r#"{{{keys},"name":"n","plugins":[{plugins}]}}"#);
            assert_eq!(of_network(&network.parse().unwrap()).len(), count, "{network}");
        }
    }
}
