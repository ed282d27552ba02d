//! What is wrong with `ipam`: addresses that the plugin cannot use, or no plugin at all.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::value::RawValue;

use super::trap::{Trap, text};
use crate::cni::config::{PluginConfig, RawObject, get};

/// A value and its place below `ipam`.
type Value = (String, String);

/// A plugin that assigns addresses, and the values that it parses as addresses.
struct Row {
    plugin: &'static str,
    /// Whether every release of the plugin rejects any other value.
    is_fatal: bool,
    /// The values that need a prefix length.
    with_prefix: fn(&RawObject) -> Vec<Value>,
    /// The values that are to have none.
    plain: fn(&RawObject) -> Vec<Value>,
    /// What else is wrong with its subnets.
    of_subnets: fn(&RawObject) -> Vec<String>,
    example: &'static str,
}

const ROWS: &[Row] = &[
    Row {
        plugin: "static",
        is_fatal: true,
        with_prefix: |ipam| [of_objects(ipam, "addresses", "address"), of_objects(ipam, "routes", "dst")].concat(),
        plain: |ipam| [of_objects(ipam, "addresses", "gateway"), of_objects(ipam, "routes", "gw")].concat(),
        of_subnets: |_| Vec::new(),
        example: "10.1.0.5/24",
    },
    Row {
        plugin: "host-local",
        is_fatal: true,
        with_prefix: |ipam| [of_ranges(ipam, &["subnet"]), of_objects(ipam, "routes", "dst")].concat(),
        plain: |ipam| {
            [of_ranges(ipam, &["gateway", "rangeStart", "rangeEnd"]), of_objects(ipam, "routes", "gw")].concat()
        },
        of_subnets: |ipam| ranges(ipam).iter().flat_map(|(place, range)| unusable(place, range)).collect(),
        example: "10.1.0.0/24",
    },
    Row {
        plugin: "whereabouts",
        is_fatal: false,
        with_prefix: |ipam| {
            let lists = [of_objects(ipam, "ipRanges", "range"), of_objects(ipam, "addresses", "address")];
            [of_keys(ipam, "", &["range"]), lists.concat(), of_objects(ipam, "routes", "dst")].concat()
        },
        plain: |ipam| {
            let lists = ["range_start", "range_end"].map(|key| of_objects(ipam, "ipRanges", key)).concat();
            let of_static = of_objects(ipam, "addresses", "gateway");
            [of_keys(ipam, "", &["gateway", "range_start", "range_end"]), lists, of_static].concat()
        },
        of_subnets: |_| Vec::new(),
        example: "10.1.0.0/24",
    },
];

/// Placeholders that other programs replace before the plugin reads them.
const REPLACED: [&str; 2] = ["usePodCidr", "usePodCidrIPv6"];

/// The plugins that always call an address plugin, on DEL too. Without `ipam`, both their ADD and their DEL fail.
const NEED_IPAM: [&str; 2] = ["ptp", "vlan"];

/// What is wrong with a plugin's `ipam`.
pub(super) fn of_plugin(plugin: &PluginConfig) -> Vec<Trap> {
    let ipam: RawObject = get(plugin.keys(), "ipam", "an object").ok().flatten().unwrap_or_default();
    let kind = text(&ipam, "type");
    if kind.is_none() && NEED_IPAM.contains(&plugin.plugin_type()) {
        let message = format!(
            "plugin {:?}: ipam.type is missing, without which its ADD and its DEL fail; expected the type of a plugin that assigns addresses, such as \"host-local\"",
            plugin.plugin_type()
        );
        return vec![Trap { is_fatal: true, message }];
    }
    let Some(row) = ROWS.iter().find(|row| kind.as_deref() == Some(row.plugin)) else { return Vec::new() };
    let wrong = |(place, value): Value, expected: String| {
        format!("{place} is {value:?}, which {} does not take; expected {expected}", row.plugin)
    };
    let is_meant = |value: &str| REPLACED.contains(&value);
    let with_prefix = (row.with_prefix)(&ipam).into_iter().filter(|(_, value)| !has_prefix(value) && !is_meant(value));
    let plain = (row.plain)(&ipam).into_iter().filter(|(_, value)| value.parse::<IpAddr>().is_err());
    with_prefix
        .map(|value| wrong(value, format!("an address with a prefix length such as {}", row.example)))
        .chain(plain.map(|value| wrong(value, "an address without a prefix length such as 10.1.0.1".into())))
        .chain((row.of_subnets)(&ipam))
        .map(|message| Trap {
            is_fatal: row.is_fatal,
            message: format!("plugin {:?}: ipam.{message}", plugin.plugin_type()),
        })
        .collect()
}

/// Whether a value is an address with a prefix length. whereabouts also accepts a range of addresses with one.
fn has_prefix(value: &str) -> bool {
    let (first, last) = value.split_once('-').map_or((None, value), |(first, last)| (Some(first), last));
    last.trim().parse::<IpNet>().is_ok()
        && first.is_none_or(|first| first.trim().split('/').next().is_some_and(|ip| ip.parse::<IpAddr>().is_ok()))
}

/// Why host-local cannot assign addresses from a range that it can parse.
fn unusable(place: &str, range: &RawObject) -> Vec<String> {
    let Some(subnet) = text(range, "subnet").and_then(|subnet| subnet.parse::<IpNet>().ok()) else { return Vec::new() };
    if subnet.addr() != subnet.network() {
        let network = subnet.trunc();
        return vec![format!("{place}subnet is \"{subnet}\", which has host bits set; expected \"{network}\"")];
    }
    if subnet.max_prefix_len() - subnet.prefix_len() < 2 {
        return vec![format!(
            "{place}subnet is \"{subnet}\", which host-local finds too small; expected 4 addresses at least"
        )];
    }
    let bounds = of_keys(range, place, &["rangeStart", "rangeEnd"]);
    let is_outside = |value: &str| value.parse::<IpAddr>().is_ok_and(|address| !subnet.contains(&address));
    let outside = bounds.into_iter().filter(|(_, value)| is_outside(value));
    outside.map(|(place, value)| format!("{place} is {value:?}, which is not in the subnet {subnet}")).collect()
}

/// The values of these keys of the object at `place`.
fn of_keys(object: &RawObject, place: &str, keys: &[&str]) -> Vec<Value> {
    keys.iter().filter_map(|key| Some((format!("{place}{key}"), text(object, key)?))).collect()
}

/// The values of one key in the objects of a list.
fn of_objects(object: &RawObject, list: &str, key: &str) -> Vec<Value> {
    let objects: Vec<RawObject> = get(object, list, "a list").ok().flatten().unwrap_or_default();
    let values = objects.iter().enumerate();
    values.filter_map(|(index, one)| Some((format!("{list}[{index}].{key}"), text(one, key)?))).collect()
}

/// The values of these keys in each of host-local's ranges.
fn of_ranges(ipam: &RawObject, keys: &[&str]) -> Vec<Value> {
    ranges(ipam).iter().flat_map(|(place, range)| of_keys(range, place, keys)).collect()
}

/// host-local's ranges, each with its place: one in `ipam` itself, and those of `ranges`, a list of lists.
fn ranges(ipam: &RawObject) -> Vec<(String, RawObject)> {
    let sets: Vec<Box<RawValue>> = get(ipam, "ranges", "a list").ok().flatten().unwrap_or_default();
    let sets = sets.iter().map(|set| serde_json::from_str::<Vec<RawObject>>(set.get()).unwrap_or_default());
    let listed = sets.enumerate().flat_map(|(set, ranges)| {
        let ranges = ranges.into_iter().enumerate();
        ranges.map(move |(index, range)| (format!("ranges[{set}][{index}]."), range)).collect::<Vec<_>>()
    });
    let own = ipam.contains_key("subnet").then(|| (String::new(), ipam.clone()));
    own.into_iter().chain(listed).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cni::config::NetworkConfig;

    fn messages(plugin: &str) -> Vec<String> {
        let json = format!(r#"{{"cniVersion":"1.0.0","name":"n","plugins":[{plugin}]}}"#);
        let network: NetworkConfig = json.parse().unwrap();
        network.plugins.iter().flat_map(of_plugin).map(|trap| trap.message).collect()
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
    fn an_address_that_is_none_is_found_wherever_it_stands() {
        for (ipam, place) in [
            (r#"{"type":"static","addresses":[{"address":"10.0.0.1/24","gateway":"10.0.0"}]}"#, "addresses[0].gateway"),
            (r#"{"type":"static","routes":[{"dst":"0.0.0.0/0","gw":"10.0.0.1/24"}]}"#, "routes[0].gw"),
            (r#"{"type":"host-local","subnet":"10.0.0.0/24","gateway":"10.0.0.300"}"#, "ipam.gateway"),
            (r#"{"type":"host-local","subnet":"10.0.0.0/24","gateway":"10.0.0.01"}"#, "ipam.gateway"),
            (r#"{"type":"host-local","ranges":[[{"subnet":"10.0.0.0/24","rangeEnd":"x"}]]}"#, "ranges[0][0].rangeEnd"),
            (r#"{"type":"whereabouts","range":"10.0.0.0/24","gateway":"gw"}"#, "ipam.gateway"),
            (
                r#"{"type":"whereabouts","ipRanges":[{"range":"10.0.0.0/24","range_end":"10.0.0.9/24"}]}"#,
                "ipRanges[0].range_end",
            ),
        ] {
            let found = messages(&format!(r#"{{"type":"bridge","ipam":{ipam}}}"#));
            assert_eq!(found.len(), 1, "{ipam}: {found:?}");
            assert!(found[0].contains(place) && found[0].contains("without a prefix length"), "{ipam}: {found:?}");
        }
    }

    #[test]
    fn a_range_that_gives_no_address_is_found() {
        for (ipam, message) in [
            (
                r#"{"type":"host-local","subnet":"10.0.0.5/24"}"#,
                "ipam.subnet is \"10.0.0.5/24\", which has host bits set; expected \"10.0.0.0/24\"",
            ),
            (
                r#"{"type":"host-local","ranges":[[{"subnet":"fd00::/127"}]]}"#,
                "ipam.ranges[0][0].subnet is \"fd00::/127\", which host-local finds too small",
            ),
            (
                r#"{"type":"host-local","subnet":"10.0.0.0/24","rangeStart":"10.0.1.5"}"#,
                "ipam.rangeStart is \"10.0.1.5\", which is not in the subnet",
            ),
        ] {
            let found = messages(&format!(r#"{{"type":"bridge","ipam":{ipam}}}"#));
            assert!(found.len() == 1 && found[0].contains(message), "{ipam}: {found:?}");
        }
    }

    #[test]
    fn some_plugins_need_ipam() {
        for plugin in [r#"{"type":"vlan","master":"eth0"}"#, r#"{"type":"ptp","ipam":{}}"#] {
            let found = messages(plugin);
            assert!(found.len() == 1 && found[0].contains("ipam.type is missing"), "{plugin}: {found:?}");
        }
        for plugin in [r#"{"type":"macvlan"}"#, r#"{"type":"vlan","ipam":{"type":"own"}}"#] {
            assert!(messages(plugin).is_empty(), "{plugin}");
        }
    }

    #[test]
    fn good_addresses_are_no_trap() {
        for ipam in [
            r#"{"type":"host-local","subnet":"10.0.0.0/24","routes":[{"dst":"0.0.0.0/0"}]}"#,
            r#"{"type":"host-local","subnet":"usePodCidr"}"#,
            r#"{"type":"host-local","subnet":"10.0.0.0/30","rangeStart":"10.0.0.2","rangeEnd":"10.0.0.2","gateway":"10.9.0.1"}"#,
            r#"{"type":"host-local","ranges":[[{"subnet":"fd00::/64","gateway":""}]]}"#,
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
