//! The networks for the tests with runtimes.

use serde_json::{Value, json};

use crate::support::{bandwidth, bridge, firewall, macvlan, portmap};

/// host-local with 10.10.`digit`.0/24 and the default data directory.
pub(super) fn ipam(digit: u8) -> Value {
    json!({"type": "host-local", "ranges": [[{"subnet": format!("10.10.{digit}.0/24")}]]})
}

/// A network of one Braid with these delegates.
pub(super) fn outer(name: &str, delegates: &str) -> String {
    format!(
        r#"{{"cniVersion":"1.0.0","name":"{name}","plugins":[
            {{"type":"braid","capabilities":{{"portMappings":true}},"delegates":{delegates}}}, {{"type":"firewall"}}]}}"#
    )
}

/// A bridge with port mappings, a bridge with bandwidth limits, and a macvlan on the LAN.
pub(super) fn three_networks(name: &str) -> Value {
    with_third(name, &macvlan("eth0", "10.10.3.0/24").key("name", "lan").key("ipam", ipam(3)).value())
}

/// The same, but without a free address for a third network.
pub(super) fn failing(name: &str) -> Value {
    let range = json!([[{"subnet": "10.10.9.0/24", "rangeStart": "10.10.9.1", "rangeEnd": "10.10.9.1"}]]);
    with_third(
        name,
        &bridge("br-full", "10.10.9.0/24")
            .key("name", "full")
            .key("ipam", json!({"type": "host-local", "ranges": range}))
            .value(),
    )
}

fn with_third(name: &str, third: &Value) -> Value {
    // If the container's namespace is gone before DEL, the reference bridge leaves its masquerading rules, with Braid or without.
    // So the networks do no masquerading.
    let bridge = |name: &str, digit| bridge(name, "").without("ipMasq").key("ipam", ipam(digit));
    let first = bridge("br-a", 1).key("isDefaultGateway", true).value();
    let first = json!({"plugins": [first, portmap().value()]});
    let second = json!({"name": "store", "plugins": [bridge("br-b", 2).value(), bandwidth().value()]});
    let delegates = json!([first, second, third]);
    let mut outer: Value = serde_json::from_str(&outer(name, &delegates.to_string())).expect("a configuration");
    outer["plugins"][1] = firewall().value();
    outer
}
