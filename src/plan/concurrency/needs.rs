//! What `"concurrency": "auto"` decides by: which plugins are known to allow others beside them, and what those must not share.
//!
//! The specification does not allow two operations on one container at once, so plugins need not support it. The table below lists
//! the plugins that do, each with the reason. Two attachments run at once if all of their plugins are in the table and they do not
//! use the same resource. Every other attachment runs alone.

use std::ops::Range;

use ipnet::IpNet;
use serde_json::value::RawValue;

use crate::cni::config::{NetworkConfig, PluginConfig, RawObject, folds_to, get, get_bool};
use crate::plan::Attachment;

/// A plugin, and whether other plugins may run at the same time.
struct Row {
    plugin: &'static str,
    /// Why other plugins may run at the same time, or why not.
    reason: &'static str,
    uses: Uses,
}

/// The plugins that only add to an interface that a plugin before them has made. (sbr and vrf do, and move its routes.)
const ADD_TO_INTERFACE: [&str; 4] = ["tuning", "bandwidth", "portmap", "firewall"];

/// Whether a plugin only adds to an interface that is there: it makes none, and changes neither addresses nor routes.
pub(super) fn adds_to_interface(plugin_type: &str) -> bool {
    ADD_TO_INTERFACE.contains(&plugin_type)
}

/// What a plugin that runs beside others must not share with them.
enum Uses {
    /// These.
    These(fn(&Use<'_>) -> Result<Vec<Resource>, String>),
    /// Nothing may run beside it.
    Everything,
}

/// A plugin in its network.
struct Use<'a> {
    network: &'a str,
    keys: &'a RawObject,
}

/// A resource for only one attachment at a time, as named in messages.
type Resource = String;

const ROWS: &[Row] = &[
    Row {
        plugin: "bridge",
        reason: "makes a veth pair of its own under a random name, and changes nothing but its bridge",
        uses: Uses::These(|of| {
            let bridge = of.text("bridge").unwrap_or_else(|| "cni0".into());
            let mut used = vec![format!("the bridge {bridge:?}")];
            if of.is_set("isDefaultGateway") {
                used.extend(["0.0.0.0/0", "::/0"].map(route));
            }
            Ok(used)
        }),
    },
    Row {
        plugin: "ptp",
        reason: "makes a veth pair of its own under a random name, and changes the routes of that alone",
        uses: Uses::These(|_| Ok(Vec::new())),
    },
    Row {
        plugin: "macvlan",
        reason: "makes one interface under a random name; the kernel makes the interfaces of one master one after another",
        uses: Uses::These(on_master),
    },
    Row {
        plugin: "tap",
        reason: "makes one interface of its own",
        uses: Uses::These(|of| {
            let bridge = of.text("bridge");
            Ok(bridge.map(|bridge| format!("the bridge {bridge:?}")).into_iter().collect())
        }),
    },
    Row {
        plugin: "host-device",
        reason: "moves one device, which no other attachment can have",
        uses: Uses::These(|_| Ok(Vec::new())),
    },
    Row {
        plugin: "host-local",
        reason: "locks its directory, one for each network",
        uses: Uses::These(|of| {
            let directory = of.text("dataDir").unwrap_or_else(|| "/var/lib/cni/networks".into());
            let directory = format!("{}/{}", directory.trim_end_matches('/'), of.network);
            Ok(vec![format!("the addresses in {directory}")])
        }),
    },
    Row { plugin: "static", reason: "keeps nothing", uses: Uses::These(|_| Ok(Vec::new())) },
    Row {
        plugin: "tuning",
        reason: "sets values of its own interface",
        uses: Uses::These(|of| {
            let sysctls: RawObject = of.value("sysctl").unwrap_or_default();
            match sysctls.keys().find(|name| !name.contains("IFNAME")) {
                Some(name) => Err(format!("plugin \"tuning\" sets {name:?}, which may be about other interfaces too")),
                None => Ok(Vec::new()),
            }
        }),
    },
    Row {
        plugin: "bandwidth",
        reason: "limits its own interface; the ifb device for that is named by container and network",
        uses: Uses::These(|of| Ok(vec![format!("the ifb device of network {:?}", of.network)])),
    },
    Row {
        plugin: "portmap",
        reason: "adds rules to chains of its own, and iptables waits for its lock",
        uses: Uses::These(|_| Ok(vec!["the chains of portmap".into()])),
    },
    Row {
        plugin: "firewall",
        reason: "adds rules to chains of its own, and iptables waits for its lock",
        uses: Uses::These(|_| Ok(vec!["the chains of firewall".into()])),
    },
    Row { plugin: "sbr", reason: "takes the next routing table that is free", uses: Uses::Everything },
    Row { plugin: "vrf", reason: "takes the next routing table that is free", uses: Uses::Everything },
    Row { plugin: "ipvlan", reason: "changes the mode of all on its master", uses: Uses::Everything },
    Row { plugin: "bond", reason: "needs the interfaces that others have made", uses: Uses::Everything },
    Row { plugin: "dhcp", reason: "sets routes that only its server knows", uses: Uses::Everything },
];

/// The resources of an attachment, which others that run at the same time must not use.
#[derive(Debug, Clone)]
pub struct Needs {
    /// What it uses; or why it has to be alone.
    uses: Result<Vec<Resource>, String>,
    /// Why others may run beside its plugins.
    reasons: Vec<String>,
}

impl Default for Needs {
    /// Nothing.
    fn default() -> Self {
        Self { uses: Ok(Vec::new()), reasons: Vec::new() }
    }
}

impl Needs {
    /// Those of a network.
    pub fn of_network(network: &NetworkConfig) -> Self {
        Self::of_steps(network, 0..network.plugins.len())
    }

    /// Those of some steps of a network's chain.
    pub fn of_steps(network: &NetworkConfig, steps: Range<usize>) -> Self {
        let mut needs = Self::default();
        for plugin in &network.plugins[steps] {
            needs.add(plugin.plugin_type(), &Use { network: &network.name, keys: plugin.keys() });
            needs.add_ipam(&network.name, plugin);
        }
        needs
    }

    /// The resources of an attachment: those of its network, and the requested addresses.
    pub fn of(attachment: &Attachment) -> Self {
        let mut needs = Self::of_network(&attachment.network);
        let addresses: Vec<String> =
            get(&attachment.capability_args, "ips", "a list").ok().flatten().unwrap_or_default();
        if let Ok(uses) = &mut needs.uses {
            uses.extend(addresses.iter().map(|address| subnet(address)));
        }
        needs
    }

    fn add(&mut self, plugin_type: &str, of: &Use<'_>) {
        let Ok(uses) = &mut self.uses else { return };
        let row = ROWS.iter().find(|row| row.plugin == plugin_type);
        let more = match row.map(|row| (&row.uses, row.reason)) {
            Some((Uses::These(these), reason)) => these(of).map(|these| (these, reason)),
            Some((Uses::Everything, reason)) => Err(format!("plugin {plugin_type:?} {reason}")),
            None => Err(format!("plugin {plugin_type:?} is not known to allow others beside it")),
        };
        match more {
            Ok((these, reason)) => {
                uses.extend(these);
                let reason = format!("{plugin_type} {reason}");
                if !self.reasons.contains(&reason) {
                    self.reasons.push(reason);
                }
            }
            Err(why) => self.uses = Err(why),
        }
    }

    /// The resources of the plugin that assigns addresses, and the addresses and routes that are known in advance. If two routes
    /// have the same destination, or two connected routes the same subnet, the order in which they are set matters.
    fn add_ipam(&mut self, network: &str, plugin: &PluginConfig) {
        let own = Use { network, keys: plugin.keys() };
        let Some(keys) = own.value::<RawObject>("ipam") else { return };
        let ipam = Use { network, keys: &keys };
        let Some(plugin_type) = ipam.text("type") else { return };
        self.add(&plugin_type, &ipam);
        let Ok(uses) = &mut self.uses else { return };
        uses.extend(ipam.texts("routes", "dst").iter().map(|destination| route(destination)));
        uses.extend(ipam.texts("addresses", "address").iter().map(|address| subnet(address)));
        uses.extend(ipam.text("subnet").iter().map(|own| subnet(own)));
        let sets: Vec<Vec<RawObject>> = ipam.value("ranges").unwrap_or_default();
        let ranges = sets.iter().flatten().filter_map(|keys| Use { network, keys }.text("subnet"));
        uses.extend(ranges.map(|range| subnet(&range)));
    }

    /// Why others may run beside these plugins, or else why these have to be alone.
    pub(super) fn reasons(&self) -> Result<&[String], &str> {
        self.uses.as_ref().map(|_| &*self.reasons).map_err(String::as_str)
    }

    /// Why the two cannot run at the same time, if they cannot.
    pub fn conflict(&self, other: &Self) -> Option<String> {
        let (own, others) = match (&self.uses, &other.uses) {
            (Ok(own), Ok(others)) => (own, others),
            (Err(why), _) | (_, Err(why)) => return Some(why.clone()),
        };
        let shared = own.iter().find(|one| others.contains(one))?;
        Some(format!("both use {shared}"))
    }
}

impl Use<'_> {
    /// Looks up a key without regard to case, as Go's decoder does.
    fn raw(&self, key: &str) -> Option<&RawValue> {
        let own = self.keys.get(key).or_else(|| Some(self.keys.iter().find(|(name, _)| folds_to(name, key))?.1));
        own.map(AsRef::as_ref)
    }

    fn value<T: serde::de::DeserializeOwned>(&self, key: &str) -> Option<T> {
        serde_json::from_str(self.raw(key)?.get()).ok()
    }

    fn text(&self, key: &str) -> Option<String> {
        self.value(key).filter(|text: &String| !text.is_empty())
    }

    fn is_set(&self, key: &str) -> bool {
        let Some(raw) = self.raw(key) else { return false };
        get_bool(&std::iter::once((key.to_owned(), raw.to_owned())).collect(), key).unwrap_or(true)
    }

    /// The values of one key in the objects of a list.
    fn texts(&self, list: &str, key: &str) -> Vec<String> {
        let objects: Vec<RawObject> = self.value(list).unwrap_or_default();
        objects.iter().filter_map(|keys| Use { network: self.network, keys }.text(key)).collect()
    }
}

/// The resources of an interface on a master. None, unless the master is in the container.
fn on_master(of: &Use<'_>) -> Result<Vec<Resource>, String> {
    if of.is_set("linkInContainer") {
        return Err("its master may be another attachment's interface (\"linkInContainer\")".into());
    }
    Ok(Vec::new())
}

fn route(destination: &str) -> Resource {
    format!("the route to {}", truncated(destination))
}

fn subnet(address: &str) -> Resource {
    format!("the subnet {}", truncated(address))
}

/// A subnet in one spelling, if it is one.
fn truncated(address: &str) -> String {
    address.parse::<IpNet>().map_or_else(|_| address.to_owned(), |net| net.trunc().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    fn needs(plugins: &str) -> Needs {
        let json = format!(r#"{{"cniVersion":"1.0.0","name":"n","plugins":[{plugins}]}}"#);
        Needs::of_network(&json.parse().unwrap())
    }

    #[rstest]
    #[case::bridges_of_two_names(r#"{"type":"bridge","bridge":"a"}"#, r#"{"type":"bridge","bridge":"b"}"#)]
    #[case::macvlans_of_one_master(r#"{"type":"macvlan","master":"e"}"#, r#"{"type":"macvlan","master":"e"}"#)]
    #[case::two_directories(
        r#"{"type":"ptp","ipam":{"type":"host-local","dataDir":"/a","subnet":"10.1.0.0/24"}}"#,
        r#"{"type":"ptp","ipam":{"type":"host-local","dataDir":"/b","subnet":"10.2.0.0/24"}}"#
    )]
    #[case::sysctls_of_an_interface(
        r#"{"type":"tuning","sysctl":{"net.ipv4.conf.IFNAME.arp_filter":"1"}}"#,
        r#"{"type":"tuning","sysctl":{"net.ipv4.conf.IFNAME.arp_filter":"0"}}"#
    )]
    #[case::portmap_and_firewall(r#"{"type":"portmap"}"#, r#"{"type":"firewall"}"#)]
    fn these_run_at_once(#[case] one: &str, #[case] other: &str) {
        assert_eq!(needs(one).conflict(&needs(other)), None);
        assert_eq!(needs(other).conflict(&needs(one)), None);
    }

    #[rstest]
    #[case::one_bridge(r#"{"type":"bridge"}"#, r#"{"type":"bridge","Bridge":"cni0"}"#, "both use the bridge \"cni0\"")]
    #[case::a_mode_of_all(
        r#"{"type":"ptp"}"#,
        r#"{"type":"ipvlan","master":"e"}"#,
        "plugin \"ipvlan\" changes the mode of all on its master"
    )]
    #[case::one_directory(
        r#"{"type":"ptp","ipam":{"type":"host-local"}}"#,
        r#"{"type":"macvlan","ipam":{"type":"host-local"}}"#,
        "both use the addresses in /var/lib/cni/networks/n"
    )]
    #[case::one_route(
        r#"{"type":"ptp","ipam":{"type":"static","routes":[{"dst":"0.0.0.0/0"}]}}"#,
        r#"{"type":"bridge","isDefaultGateway":true}"#,
        "both use the route to 0.0.0.0/0"
    )]
    #[case::one_subnet(
        r#"{"type":"ptp","ipam":{"type":"static","addresses":[{"address":"10.1.0.5/24"}]}}"#,
        r#"{"type":"macvlan","ipam":{"type":"host-local","dataDir":"/b","ranges":[[{"subnet":"10.1.0.0/24"}]]}}"#,
        "both use the subnet 10.1.0.0/24"
    )]
    #[case::rules_in_an_order(r#"{"type":"portmap"}"#, r#"{"type":"portmap"}"#, "both use the chains of portmap")]
    #[case::sysctls_of_all(
        r#"{"type":"ptp"}"#,
        r#"{"type":"tuning","sysctl":{"net.ipv4.conf.default.rp_filter":"2"}}"#,
        "plugin \"tuning\" sets \"net.ipv4.conf.default.rp_filter\", which may be about other interfaces too"
    )]
    #[case::a_master_in_the_container(
        r#"{"type":"ptp"}"#,
        r#"{"type":"macvlan","master":"net1","linkInContainer":true}"#,
        "its master may be another attachment's interface (\"linkInContainer\")"
    )]
    #[case::tables(
        r#"{"type":"ptp"},{"type":"sbr"}"#,
        r#"{"type":"ptp"}"#,
        "plugin \"sbr\" takes the next routing table that is free"
    )]
    #[case::unknown(r#"{"type":"ptp"}"#, r#"{"type":"own"}"#, "plugin \"own\" is not known to allow others beside it")]
    #[case::unknown_addresses(
        r#"{"type":"ptp"}"#,
        r#"{"type":"ptp","ipam":{"type":"whereabouts"}}"#,
        "plugin \"whereabouts\" is not known to allow others beside it"
    )]
    fn these_do_not(#[case] one: &str, #[case] other: &str, #[case] why: &str) {
        assert_eq!(needs(one).conflict(&needs(other)).as_deref(), Some(why));
        assert_eq!(needs(other).conflict(&needs(one)).as_deref(), Some(why));
    }

    #[test]
    fn the_documentation_has_each_row() {
        let page = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/how-braid-decides.md");
        let page = std::fs::read_to_string(page).unwrap();
        for Row { plugin, reason, .. } in ROWS {
            assert!(page.contains(&format!("| `{plugin}` | {reason} |")), "{plugin}");
        }
    }
}
