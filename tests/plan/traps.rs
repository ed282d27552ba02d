//! Known plugins fail with some configurations. `plan` and `validate` warn of these.

use rstest::rstest;
use serde_json::{Value, json};

use crate::support::{Case, bridge, recorder};

/// A network of one bridge with this IPAM.
fn with_ipam(ipam: &Value) -> Value {
    json!({"cniVersion": "1.0.0", "name": "net", "type": "bridge", "bridge": "br-t", "ipam": ipam})
}

fn braid(delegates: &Value) -> Value {
    json!({"cniVersion": "1.0.0", "name": "pods", "plugins": [{"type": "braid", "delegates": delegates}]})
}

/// The messages are based on the plugins' own errors.
#[rstest]
#[case::static_address(json!({"type": "static", "addresses": [{"address": "10.1.0.5"}]}), "addresses[0].address")]
#[case::subnet(json!({"type": "host-local", "subnet": "10.1.0.0"}), "ipam.subnet")]
#[case::range(json!({"type": "host-local", "ranges": [[{"subnet": "10.1.0.0"}]]}), "ranges[0][0].subnet")]
fn an_address_without_a_prefix_length_is_reported_and_fails(#[case] ipam: Value, #[case] place: &str) {
    let case = Case::with_reference_plugins().delegate(with_ipam(&ipam));
    case.add().fails_with_any_code().says("CIDR");
    let case = case.configuration("pods.conflist", braid(&json!([with_ipam(&ipam)])));
    for command in [&["plan", "pods"][..], &["validate", "@DIR@/net.d/pods.conflist"]] {
        let output = case.braid(command).output();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(!output.status.success() && text.contains(place), "{command:?}: {text}");
    }
}

#[rstest]
#[case::gateway(json!({"type": "static", "addresses": [{"address": "10.1.0.5/24", "gateway": "10.1.0"}]}), "addresses[0].gateway")]
#[case::range(json!({"type": "host-local", "subnet": "10.1.0.0/24", "rangeStart": "10.1.0.999"}), "ipam.rangeStart")]
#[case::next_hop(json!({"type": "host-local", "subnet": "10.1.0.0/24", "routes": [{"dst": "0.0.0.0/0", "gw": "gw"}]}), "routes[0].gw")]
#[case::host_bits(json!({"type": "host-local", "subnet": "10.1.0.5/24"}), "ipam.subnet")]
#[case::too_small(json!({"type": "host-local", "subnet": "10.1.0.4/31"}), "ipam.subnet")]
#[case::outside(json!({"type": "host-local", "ranges": [[{"subnet": "10.1.0.0/24", "rangeEnd": "10.2.0.9"}]]}), "ranges[0][0].rangeEnd")]
fn an_address_that_the_plugin_refuses_is_reported_and_fails(#[case] ipam: Value, #[case] place: &str) {
    let case = Case::with_reference_plugins().delegate(with_ipam(&ipam));
    case.add().fails_with_any_code();
    case.del().leaves_nothing();
    let case = case.configuration("pods.conflist", braid(&json!([with_ipam(&ipam)])));
    let output = case.braid(&["validate", "@DIR@/net.d/pods.conflist"]).output();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(!output.status.success() && text.contains(place), "{text}");
}

/// The plugins' own CHECK fails even without Braid.
#[rstest]
#[case::with_check(false)]
#[case::without(true)]
fn sbr_after_another_plugin(#[case] disable_check: bool) {
    let ipam = json!({"type": "host-local", "subnet": "10.1.0.0/24", "dataDir": "@DIR@/ipam"});
    let bridge = json!({"type": "bridge", "bridge": "br-t", "isGateway": true, "ipam": ipam});
    let network = json!({"cniVersion": "1.0.0", "name": "net", "disableCheck": disable_check, "plugins": [bridge, {"type": "sbr"}]});
    let case = Case::with_reference_plugins().delegate(network.clone());
    case.add().succeeds();
    if disable_check {
        case.check().succeeds();
    } else {
        case.check().fails_with_any_code().says("Failed to find Gateway 10.1.0.1");
    }
    case.del().succeeds();
    let case = case.configuration("pods.conflist", braid(&json!([network])));
    for command in [&["plan", "pods"][..], &["validate", "@DIR@/net.d/pods.conflist"]] {
        let text = String::from_utf8(case.braid(command).output().stdout).expect("text");
        assert_eq!(text.contains("add \"disableCheck\": true"), !disable_check, "{command:?}: {text}");
    }
}

/// Two attachments with an egress limit on networks of these names.
fn limited(first: &str, second: &str) -> Value {
    let network = |name: &str, bridge_name: &str, subnet: &str| {
        let bandwidth = json!({"type": "bandwidth", "egressRate": 1_000_000, "egressBurst": 1_000_000});
        let bridge = bridge(bridge_name, subnet).value();
        json!({"cniVersion": "1.0.0", "name": name, "plugins": [bridge, bandwidth]})
    };
    json!([network(first, "br-a", "10.1.0.0/24"), network(second, "br-b", "10.2.0.0/24")])
}

#[rstest]
#[case::of_one_network("net", "net", true)]
#[case::of_two_networks("net", "other", false)]
fn two_egress_limits(#[case] first: &str, #[case] second: &str, #[case] is_trap: bool) {
    let delegates = limited(first, second);
    let list = delegates.as_array().expect("a list");
    let case = Case::with_reference_plugins().delegate(list[0].clone()).delegate(list[1].clone());
    if is_trap {
        case.add().fails_with_any_code().says("file exists");
    } else {
        case.add().succeeds();
        case.del().succeeds();
    }
    let case = case.configuration("pods.conflist", braid(&delegates));
    let text = String::from_utf8(case.braid(&["plan", "pods"]).output().stdout).expect("text");
    assert_eq!(text.contains("limit the egress of one of them only"), is_trap, "{text}");
}

#[rstest]
#[case::flannel(json!({"type": "flannel"}), json!({"type": "flannel"}), Some("give each a \"dataDir\" of its own"))]
#[case::flannel_apart(json!({"type": "flannel"}), json!({"type": "flannel", "dataDir": "/var/lib/cni/flannel2"}), None)]
#[case::flannel_slash(json!({"type": "flannel", "dataDir": "/x"}), json!({"type": "flannel", "dataDir": "/x//"}), Some("dataDir"))]
#[case::flannel_default(json!({"type": "flannel"}), json!({"type": "flannel", "dataDir": "/var/lib/cni/flannel"}), Some("dataDir"))]
#[case::portmap(
    json!({"type": "portmap", "backend": "nftables"}),
    json!({"type": "portmap", "backend": "nftables"}),
    Some("use \"backend\": \"iptables\"")
)]
#[case::portmap_iptables(json!({"type": "portmap"}), json!({"type": "portmap", "backend": "nftables"}), None)]
fn two_of_a_kind(#[case] first: Value, #[case] second: Value, #[case] warning: Option<&str>) {
    let alpha: Value = recorder("alpha").value();
    let list = |name: &str, plugin: &Value| json!({"cniVersion": "1.0.0", "name": name, "plugins": [alpha, plugin]});
    let delegates = json!([list("one", &first), list("two", &second)]);
    let case = Case::new().configuration("pods.conflist", braid(&delegates));
    for command in [&["plan", "pods"][..], &["validate", "@DIR@/net.d/pods.conflist"]] {
        let text = String::from_utf8(case.braid(command).output().stdout).expect("text");
        assert_eq!(text.contains("use plugin"), warning.is_some(), "{command:?}: {text}");
        assert!(warning.is_none_or(|warning| text.contains(warning)), "{command:?}: {text}");
    }
}
