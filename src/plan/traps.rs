//! Known plugins that fail, or leave something behind, in ways that their configuration already shows.
//!
//! `validate` and `plan` report them. Each row of the tables says why, and what to do about it.

use std::collections::BTreeMap;
use std::path::Path;

use ipnet::IpNet;
use serde_json::value::RawValue;

use super::{Attachment, Plan};
use crate::cni::config::{NetworkConfig, PluginConfig, RawObject, get};

/// Something that will go wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trap {
    /// Whether ADD is certain to fail.
    pub is_fatal: bool,
    /// What goes wrong, why, and what to do about it.
    pub message: String,
}

/// A plugin that keeps state under a name which two attachments of one container share.
struct Shared {
    plugin: &'static str,
    /// What the state is named by beside the container, or none where the plugin keeps no such state.
    named_by: fn(&Attachment, &PluginConfig) -> Option<String>,
    reason: &'static str,
    remedy: &'static str,
}

const SHARED: &[Shared] = &[
    Shared {
        plugin: "bandwidth",
        named_by: |attachment, plugin| limits_egress(attachment, plugin).then(|| attachment.network.name.clone()),
        reason: "its ifb device for the egress limit is named by network and container alone, so that the second ADD fails with \"adding link: file exists\"",
        remedy: "limit the egress of one of them only, or use a network of another name",
    },
    Shared {
        plugin: "flannel",
        named_by: |_, plugin| {
            let directory = text(plugin.keys(), "dataDir").unwrap_or_else(|| "/var/lib/cni/flannel".into());
            // However it is written.
            Some(Path::new(&directory).components().as_path().display().to_string())
        },
        reason: "it keeps one file for each container in its dataDir, so that DEL undoes one of them and says success for the other, whose veth and address stay",
        remedy: "give each a \"dataDir\" of its own",
    },
    Shared {
        plugin: "portmap",
        named_by: |_, plugin| text(plugin.keys(), "backend").filter(|backend| backend == "nftables"),
        reason: "its nftables backend marks rules with the container alone, so that the DEL of one of them removes the port forwards of all",
        remedy: "use \"backend\": \"iptables\", or forward ports on one of them only",
    },
];

/// A plugin that assigns addresses and takes some keys as addresses with a prefix length only.
struct Addresses {
    plugin: &'static str,
    /// Whether it fails on any other value, in every release.
    is_fatal: bool,
    /// The values, each with its place below `ipam`.
    values: fn(&RawObject) -> Vec<(String, String)>,
    example: &'static str,
}

const ADDRESSES: &[Addresses] = &[
    Addresses {
        plugin: "static",
        is_fatal: true,
        values: |ipam| [of_objects(ipam, "addresses", "address"), of_objects(ipam, "routes", "dst")].concat(),
        example: "10.1.0.5/24",
    },
    Addresses {
        plugin: "host-local",
        is_fatal: true,
        values: |ipam| {
            let own = text(ipam, "subnet").map(|subnet| ("subnet".to_owned(), subnet)).into_iter().collect();
            [own, host_local_ranges(ipam), of_objects(ipam, "routes", "dst")].concat()
        },
        example: "10.1.0.0/24",
    },
    Addresses {
        plugin: "whereabouts",
        is_fatal: false,
        values: |ipam| {
            let own = text(ipam, "range").map(|range| ("range".to_owned(), range)).into_iter().collect();
            let of_lists = [of_objects(ipam, "ipRanges", "range"), of_objects(ipam, "addresses", "address")];
            [own, of_lists.concat(), of_objects(ipam, "routes", "dst")].concat()
        },
        example: "10.1.0.0/24",
    },
];

/// Values that other programs replace before the plugin reads them.
const REPLACED: [&str; 2] = ["usePodCidr", "usePodCidrIPv6"];

/// What goes wrong whenever a network is attached.
pub fn of_network(network: &NetworkConfig) -> Vec<Trap> {
    network.plugins.iter().flat_map(of_addresses).collect()
}

fn of_addresses(plugin: &PluginConfig) -> Vec<Trap> {
    let ipam: RawObject = get(plugin.keys(), "ipam", "an object").ok().flatten().unwrap_or_default();
    let kind = text(&ipam, "type");
    let Some(row) = ADDRESSES.iter().find(|row| kind.as_deref() == Some(row.plugin)) else { return Vec::new() };
    let is_wrong = |value: &str| !has_prefix(value) && !REPLACED.contains(&value);
    let wrong = (row.values)(&ipam).into_iter().filter(|(_, value)| is_wrong(value));
    wrong
        .map(|(place, value)| Trap {
            is_fatal: row.is_fatal,
            message: format!(
                "plugin {:?}: ipam.{place} is {value:?}, which {} does not take; expected an address with a prefix length such as {}",
                plugin.plugin_type(),
                row.plugin,
                row.example
            ),
        })
        .collect()
}

/// Whether a value is an address with a prefix length. whereabouts also takes a range of addresses with one.
fn has_prefix(value: &str) -> bool {
    let (first, last) = value.split_once('-').map_or((None, value), |(first, last)| (Some(first), last));
    last.trim().parse::<IpNet>().is_ok()
        && first
            .is_none_or(|first| first.trim().split('/').next().is_some_and(|ip| ip.parse::<std::net::IpAddr>().is_ok()))
}

/// What goes wrong because several attachments are made for one container.
pub fn of_plan(plan: &Plan) -> Vec<Trap> {
    let mut traps = Vec::new();
    for row in SHARED {
        let mut users: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for attachment in &plan.attachments {
            let mut plugins = attachment.network.plugins.iter().filter(|plugin| plugin.plugin_type() == row.plugin);
            if let Some(name) = plugins.find_map(|plugin| (row.named_by)(attachment, plugin)) {
                users.entry(name).or_default().push(attachment.label());
            }
        }
        for labels in users.into_values().filter(|labels| labels.len() > 1) {
            let message =
                format!("{} all use plugin {:?}: {}; {}", labels.join(" and "), row.plugin, row.reason, row.remedy);
            traps.push(Trap { is_fatal: false, message });
        }
    }
    traps
}

/// Whether the bandwidth plugin of an attachment limits what the container sends.
fn limits_egress(attachment: &Attachment, plugin: &PluginConfig) -> bool {
    let rate = |object: &RawObject| get::<u64>(object, "egressRate", "a number").ok().flatten().unwrap_or(0);
    let asked: Option<RawObject> = get(&attachment.capability_args, "bandwidth", "an object").ok().flatten();
    rate(plugin.keys()) > 0 || plugin.declares("bandwidth") && asked.is_some_and(|asked| rate(&asked) > 0)
}

fn text(object: &RawObject, key: &str) -> Option<String> {
    get(object, key, "a string").ok().flatten().filter(|text: &String| !text.is_empty())
}

/// The values of one key in the objects of a list.
fn of_objects(object: &RawObject, list: &str, key: &str) -> Vec<(String, String)> {
    let objects: Vec<RawObject> = get(object, list, "a list").ok().flatten().unwrap_or_default();
    let values = objects.iter().enumerate();
    values.filter_map(|(index, one)| Some((format!("{list}[{index}].{key}"), text(one, key)?))).collect()
}

/// host-local's `ranges`: a list of lists of ranges.
fn host_local_ranges(ipam: &RawObject) -> Vec<(String, String)> {
    let sets: Vec<Box<RawValue>> = get(ipam, "ranges", "a list").ok().flatten().unwrap_or_default();
    let sets = sets.iter().map(|set| serde_json::from_str::<Vec<RawObject>>(set.get()).unwrap_or_default());
    let ranges = sets.enumerate().flat_map(|(set, ranges)| {
        let values = ranges.into_iter().enumerate();
        values
            .filter_map(move |(index, range)| Some((format!("ranges[{set}][{index}].subnet"), text(&range, "subnet")?)))
            .collect::<Vec<_>>()
    });
    ranges.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(plugin: &str) -> Vec<String> {
        let json = format!(r#"{{"cniVersion":"1.0.0","name":"n","plugins":[{plugin}]}}"#);
        let network: NetworkConfig = json.parse().unwrap();
        of_network(&network).into_iter().map(|trap| trap.message).collect()
    }

    #[test]
    fn an_address_without_a_prefix_length_is_found_wherever_it_stands() {
        for (ipam, place) in [
            (
                r#"{"type":"static","addresses":[{"address":"10.0.0.1/24"},{"address":"10.0.0.5"}]}"#,
                "addresses[1].address",
            ),
            (r#"{"type":"static","routes":[{"dst":"10.0.0.0"}]}"#, "routes[0].dst"),
            (r#"{"type":"host-local","subnet":"10.0.0.0"}"#, "ipam.subnet"),
            (
                r#"{"type":"host-local","ranges":[[{"subnet":"10.0.0.0/24"}],[{"subnet":"fd00::"}]]}"#,
                "ranges[1][0].subnet",
            ),
            (r#"{"type":"whereabouts","range":"10.0.0.0"}"#, "ipam.range"),
            (r#"{"type":"whereabouts","ipRanges":[{"range":"10.0.0.1-10.0.0.9"}]}"#, "ipRanges[0].range"),
        ] {
            let found = messages(&format!(r#"{{"type":"bridge","ipam":{ipam}}}"#));
            assert_eq!(found.len(), 1, "{ipam}: {found:?}");
            assert!(found[0].contains(place), "{ipam}: {found:?}");
        }
    }

    #[test]
    fn good_addresses_are_no_trap() {
        for ipam in [
            r#"{"type":"host-local","subnet":"10.0.0.0/24","routes":[{"dst":"0.0.0.0/0"}]}"#,
            r#"{"type":"host-local","subnet":"usePodCidr"}"#,
            r#"{"type":"whereabouts","range":"10.0.0.1-10.0.0.9/24"}"#,
            r#"{"type":"whereabouts","range":"10.0.0.1/28"}"#,
            r#"{"type":"other","subnet":"10.0.0.0"}"#,
            r#"{"type":"static","addresses":5}"#,
            "{}",
        ] {
            assert!(messages(&format!(r#"{{"type":"bridge","ipam":{ipam}}}"#)).is_empty(), "{ipam}");
        }
    }
}
