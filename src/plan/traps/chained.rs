//! Plugins that change what those before them in the chain have made, and do not say so.

use super::trap::Trap;
use crate::cni::config::NetworkConfig;

/// `sbr` moves the routes of the interface to a table of their own, and its result still has them. CHECK looks for them where they
/// were, or for a way to the gateway: Braid's, and that of the reference plugins.
pub(super) fn of_network(network: &NetworkConfig) -> Option<Trap> {
    if network.disable_check || !network.version.has_check() {
        return None;
    }
    network.plugins.iter().skip(1).find(|plugin| plugin.plugin_type() == "sbr")?;
    let message = "plugin \"sbr\" moves the routes of the plugins before it to a table of their own and does not say so, so that \
                   their CHECK fails, which CRI-O calls before a pod starts; add \"disableCheck\": true beside \"plugins\"";
    Some(Trap { is_fatal: false, message: message.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sbr_after_another_plugin() {
        const CHAIN: &str = r#"{"type":"ptp"},{"type":"tuning"},{"type":"sbr"}"#;
        let check = r#""cniVersion":"1.0.0""#;
        for (keys, plugins, is_trap) in [
            (check, CHAIN, true),
            (check, r#"{"type":"sbr"},{"type":"ptp"}"#, false),
            (r#""cniVersion":"1.0.0","disableCheck":true"#, CHAIN, false),
            (r#""cniVersion":"0.3.1""#, CHAIN, false),
        ] {
            let network = format!(r#"{{{keys},"name":"n","plugins":[{plugins}]}}"#);
            let found = of_network(&network.parse().unwrap());
            assert_eq!(found.is_some(), is_trap, "{network}");
        }
    }
}
