//! The address pools of `host-local`: the ranges in its configuration, and the addresses in use in its directory.
//!
//! Every container gets one address from each list of `ranges`, so a network has no more addresses as soon as one list has none.
//! The metrics are those of the list with the fewest free addresses.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use serde::Deserialize;
use serde_json::Value;

use crate::cni::config::NetworkConfig;
use crate::runtime::host_local::{DEFAULT_DATA_DIR, addresses};
use crate::runtime::load;

/// How many addresses of a pool are in use and how many are free.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pool {
    /// Taken.
    pub used: u128,
    /// Free.
    pub free: u128,
}

/// The pools of a node, each once.
#[derive(Debug, Default)]
pub(super) struct Pools(BTreeMap<(String, PathBuf), Vec<Vec<Range>>>);

/// Addresses from the first to the last, as numbers, without the gateway's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Range {
    is_ipv4: bool,
    first: u128,
    last: u128,
    gateway: u128,
}

/// The keys of `ipam` that matter here.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct HostLocal {
    #[serde(rename = "type")]
    plugin_type: String,
    #[serde(default)]
    data_dir: Option<PathBuf>,
    #[serde(default)]
    ranges: Vec<Vec<RangeKeys>>,
    /// The form from before there were several ranges.
    #[serde(flatten)]
    only: RangeKeys,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RangeKeys {
    subnet: Option<IpNet>,
    range_start: Option<IpAddr>,
    range_end: Option<IpAddr>,
    gateway: Option<IpAddr>,
}

impl Pools {
    /// Finds the pools of the configurations in a directory. Configurations that cannot be read are skipped.
    pub(super) fn of_directory(&mut self, conf_dir: &Path) {
        for path in load::files(conf_dir).unwrap_or_default() {
            if let Ok(bytes) = load::read(&path)
                && let Ok(value) = serde_json::from_slice(&bytes)
            {
                self.within(&value, "");
            }
        }
    }

    /// Knows the pools of a network.
    pub(super) fn of_network(&mut self, network: &NetworkConfig) {
        for plugin in &network.plugins {
            if let Some(ipam) = plugin.keys().get("ipam")
                && let Ok(ipam) = serde_json::from_str(ipam.get())
            {
                self.of_ipam(ipam, &network.name);
            }
        }
    }

    /// Finds the pools anywhere in a configuration: of its plugins, and of its delegates. `name` is the name of the enclosing
    /// network.
    fn within(&mut self, value: &Value, name: &str) {
        match value {
            Value::Array(list) => list.iter().for_each(|one| self.within(one, name)),
            Value::Object(object) => {
                let name = object.get("name").and_then(Value::as_str).unwrap_or(name);
                if let Some(ipam) = object.get("ipam") {
                    self.of_ipam(ipam.clone(), name);
                }
                for key in ["plugins", "delegates", "config"] {
                    object.get(key).into_iter().for_each(|inner| self.within(inner, name));
                }
            }
            _ => {}
        }
    }

    fn of_ipam(&mut self, ipam: Value, network: &str) {
        let Ok(ipam) = serde_json::from_value::<HostLocal>(ipam) else { return };
        if ipam.plugin_type != "host-local" || network.is_empty() {
            return;
        }
        let sets = std::iter::once(vec![ipam.only]).chain(ipam.ranges);
        let sets: Vec<Vec<Range>> = sets.map(|set| set.iter().filter_map(Range::of).collect()).collect();
        let directory = ipam.data_dir.unwrap_or_else(|| DEFAULT_DATA_DIR.into()).join(network);
        let sets = sets.into_iter().filter(|set: &Vec<Range>| !set.is_empty()).collect();
        self.0.insert((network.to_owned(), directory), sets);
    }

    /// Counts the addresses in use. Networks of the same name are counted together.
    pub(super) fn counted(self) -> BTreeMap<String, Pool> {
        let mut pools: BTreeMap<String, Pool> = BTreeMap::new();
        for ((network, directory), sets) in self.0 {
            let taken = addresses(&directory).into_iter().collect();
            let Some(pool) = sets.iter().map(|set| count(set, &taken)).min_by_key(|pool| pool.free) else { continue };
            let sum = pools.entry(network).or_default();
            *sum = Pool { used: sum.used + pool.used, free: sum.free.saturating_add(pool.free) };
        }
        pools
    }
}

impl Range {
    /// The range, with the plugin's defaults for missing keys. `None` if the plugin would reject it.
    fn of(keys: &RangeKeys) -> Option<Self> {
        let subnet = keys.subnet?;
        let is_ipv4 = subnet.addr().is_ipv4();
        let within = |address: Option<IpAddr>| address.filter(|address| subnet.contains(address)).map(number);
        let (network, end) = (number(subnet.network()), number(subnet.broadcast()));
        let first = match within(keys.range_start) {
            Some(first) => first,
            None => network.checked_add(1)?,
        };
        // The last address of an IPv4 subnet is the broadcast address.
        let last = within(keys.range_end).unwrap_or(if is_ipv4 { end.checked_sub(1)? } else { end });
        let gateway = keys.gateway.map_or(network.saturating_add(1), number);
        (first <= last).then_some(Self { is_ipv4, first, last, gateway })
    }

    fn has(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.is_ipv4 && (self.first..=self.last).contains(&number(address))
    }

    fn size(&self) -> u128 {
        let has_gateway = (self.first..=self.last).contains(&self.gateway);
        // A whole ::/0 has one address more than the largest number.
        (self.last - self.first).saturating_add(1) - u128::from(has_gateway)
    }
}

fn count(set: &[Range], taken: &BTreeSet<IpAddr>) -> Pool {
    let used = taken.iter().filter(|address| set.iter().any(|range| range.has(**address))).count() as u128;
    let size = set.iter().fold(0_u128, |sum, range| sum.saturating_add(range.size()));
    Pool { used, free: size.saturating_sub(used) }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits(),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn pools(ipam: &str, taken: &[&str]) -> Option<(u128, u128)> {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("lan")).unwrap();
        for name in taken.iter().chain(&["lock", "last_reserved_ip.0"]) {
            fs::write(dir.path().join("lan").join(name), "c1\r\neth0").unwrap();
        }
        let data_dir = dir.path().display();
        let text = format!(
            r#"{{"name": "outer", "plugins": [{{"type": "braid", "delegates": [{{"name": "lan", "type": "bridge",
               "ipam": {{"type": "host-local", "dataDir": "{data_dir}", {ipam}}}}}]}}]}}"#
        );
        let mut pools = Pools::default();
        pools.within(&serde_json::from_str(&text).unwrap(), "");
        let pools = pools.counted();
        assert!(pools.keys().all(|name| name == "lan"));
        pools.get("lan").map(|pool| (pool.used, pool.free))
    }

    #[test]
    fn a_pool_is_what_the_plugin_would_give() {
        // 254 hosts, less the gateway.
        assert_eq!(pools(r#""subnet": "10.1.0.0/24""#, &["10.1.0.2", "10.1.0.3"]), Some((2, 251)));
        let range = r#""ranges": [[{"subnet": "10.1.0.0/24", "rangeStart": "10.1.0.10", "rangeEnd": "10.1.0.19"}]]"#;
        assert_eq!(pools(range, &["10.1.0.10", "10.1.0.9", "fd00::1"]), Some((1, 9)));
        let two = r#""ranges": [[{"subnet": "10.1.0.0/29"}, {"subnet": "10.2.0.0/29", "gateway": "10.2.0.6"}]]"#;
        assert_eq!(pools(two, &["10.2.0.1"]), Some((1, 9)));
        assert_eq!(pools(r#""ranges": [[{"subnet": "fd00::/125"}]]"#, &["fd00::7"]), Some((1, 5)));
    }

    #[test]
    fn the_list_that_runs_out_first_counts() {
        let both = r#""ranges": [[{"subnet": "fd00::/64"}], [{"subnet": "10.1.0.0/29"}]]"#;
        assert_eq!(pools(both, &["fd00::2", "10.1.0.2", "10.1.0.3"]), Some((2, 3)));
    }

    #[test]
    fn what_the_plugin_would_refuse_is_no_pool() {
        for wrong in [r#""subnet": "10.1.0.0""#, r#""ranges": []"#, r#""subnet": "10.1.0.0/32""#, r#""ranges": 7"#] {
            assert_eq!(pools(wrong, &[]), None, "{wrong}");
        }
        assert_eq!(pools(r#""ranges": [[{"subnet": "::/0"}]]"#, &[]).map(|(used, _)| used), Some(0));
    }
}
