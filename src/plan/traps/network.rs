//! Problems that can be seen in a network's own configuration.

use super::trap::Trap;
use super::{addresses, checks};
use crate::cni::config::NetworkConfig;

/// Problems that occur whenever a network is attached.
pub fn of_network(network: &NetworkConfig) -> Vec<Trap> {
    let of_addresses = network.plugins.iter().flat_map(addresses::of_plugin);
    of_addresses.chain(checks::of_network(network)).collect()
}
