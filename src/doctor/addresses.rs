//! Checks of the addresses that host-local has assigned.

use std::collections::HashSet;
use std::net::IpAddr;
use std::time::Duration;

use super::{Finding, Kind, Mending, Node, Reservation};

/// The containers and addresses that a record, a process or a namespace on the node accounts for.
pub(super) struct InUse<'a> {
    node: &'a Node,
    containers: HashSet<&'a str>,
    cached: HashSet<IpAddr>,
}

impl<'a> InUse<'a> {
    pub(super) fn of(node: &'a Node) -> Self {
        let containers = node
            .attached
            .container_ids()
            .chain(node.results.iter().map(|result| result.cached.container_id.as_str()))
            .chain(node.known_to_multus.iter().map(String::as_str))
            .collect();
        let results = node.results.iter().flat_map(|result| result.result().ips);
        Self { node, containers, cached: results.map(|ip| ip.address.addr()).collect() }
    }

    /// Whether a record names a container, a process runs in it, or a plugin runs for it.
    pub(super) fn has_container(&self, id: &str) -> bool {
        let running = &self.node.running;
        self.containers.contains(id) || running.has_process_of(id) || running.called_for.contains(id)
    }

    /// Whether an address is in a cached result, or on an interface in a namespace.
    pub(super) fn has_address(&self, address: IpAddr) -> bool {
        self.cached.contains(&address) || self.node.running.has_address(address)
    }
}

/// All findings of this family. Addresses that were assigned less than `min_age` ago are not released: they may belong to an ADD
/// that is under way, of which there is no record yet.
pub(super) fn check(node: &Node, min_age: Duration) -> Vec<Finding> {
    let in_use = InUse::of(node);
    let is_unused = |one: &&Reservation| !in_use.has_container(&one.container_id) && !in_use.has_address(one.address);
    let leaked = node.reservations.iter().filter(is_unused);
    let findings = leaked.map(|one| {
        let network = one.pool.file_name().unwrap_or_default().to_string_lossy();
        let owner = match one.container_id.as_str() {
            "" => "without an owner".to_owned(),
            id => format!("for container {id}"),
        };
        let meaning = format!(
            "host-local keeps an address of {network:?} {owner}: no journal, no cached result and no namespace accounts for it"
        );
        let mending = if node.running.has_refused_namespace() {
            Mending::Not("there are namespaces that must not be looked into".into())
        } else if let Some(age) = one.age.filter(|age| *age < min_age) {
            Mending::Not(format!("it was given {} s ago, and an ADD may be under way", age.as_secs()))
        } else {
            Mending::Safe
        };
        let finding = Finding::safe(Kind::AddressLeaked, one.file().display().to_string(), meaning, "release it");
        Finding { mending, ..finding }
    });
    findings.collect()
}
