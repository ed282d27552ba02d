//! What the runtime gets back.

use rstest::rstest;
use serde_json::{Value, json};

use crate::support::{Case, recorder};

/// Two networks, of 0.3.1 and of 1.0.0, whose results have every key.
fn two_networks() -> Case {
    let one = recorder("alpha")
        .version("0.3.1")
        .ip("10.1.0.5/24")
        .instructed("gateway", "10.1.0.1")
        .instructed("routes", json!([{"dst": "0.0.0.0/0", "gw": "10.1.0.1"}]))
        .instructed("dns", json!({"nameservers": ["10.1.0.1"], "domain": "one.test", "options": ["ndots:2"]}));
    let two = recorder("beta")
        .instructed("ip", json!(["10.2.0.5/24", "fd00:2::5/64"]))
        .instructed("routes", json!([{"dst": "10.20.0.0/16", "gw": "10.2.0.1"}]))
        .instructed(
            "dns",
            json!({"nameservers": ["10.1.0.1", "10.2.0.1"], "domain": "two.test", "search": ["two.test"]}),
        );
    Case::new().delegate(one).delegate(two)
}

fn merged_dns() -> Value {
    json!({
        "nameservers": ["10.1.0.1", "10.2.0.1"],
        "domain": "one.test",
        "search": ["two.test"],
        "options": ["ndots:2"],
    })
}

#[rstest]
#[case("0.3.0")]
#[case("0.3.1")]
#[case("0.4.0")]
#[case("1.0.0")]
#[case("1.1.0")]
fn results_are_merged_in_the_shape_of_the_version(#[case] version: &str) {
    let case = two_networks().cni_version(version);
    let netns = case.pod().path();
    let mut expected = json!({
        "cniVersion": version,
        "interfaces": [{"name": "eth0", "sandbox": netns}, {"name": "net1", "sandbox": netns}],
        "ips": [
            {"address": "10.1.0.5/24", "gateway": "10.1.0.1", "interface": 0},
            {"address": "10.2.0.5/24", "interface": 1},
            {"address": "fd00:2::5/64", "interface": 1},
        ],
        "routes": [{"dst": "0.0.0.0/0", "gw": "10.1.0.1"}, {"dst": "10.20.0.0/16", "gw": "10.2.0.1"}],
        "dns": merged_dns(),
    });
    if version.starts_with("0.") {
        for (index, family) in ["4", "4", "6"].iter().enumerate() {
            expected["ips"][index]["version"] = json!(family);
        }
    }
    assert_eq!(case.add().result(), &expected);
    case.del().succeeds().leaves_nothing();
}

#[rstest]
#[case("0.1.0")]
#[case("0.2.0")]
fn the_oldest_shape_has_the_first_address_of_each_family(#[case] version: &str) {
    let outcome_of = two_networks().cni_version(version);
    let outcome = outcome_of.add();
    let result = outcome.result();
    assert_eq!(result["cniVersion"], version);
    assert_eq!(result["ip4"]["ip"], "10.1.0.5/24");
    assert_eq!(result["ip4"]["gateway"], "10.1.0.1");
    assert_eq!(result["ip4"]["routes"][0], json!({"dst": "0.0.0.0/0", "gw": "10.1.0.1"}));
    assert_eq!(result["ip6"]["ip"], "fd00:2::5/64");
    assert_eq!(result["dns"], merged_dns());
    assert!(result.get("ips").is_none() && result.get("interfaces").is_none());
}

#[rstest]
#[case("0.2.0")]
#[case("0.3.1")]
#[case("0.4.0")]
#[case("1.0.0")]
#[case("1.1.0")]
fn each_delegate_speaks_its_own_version(#[case] version: &str) {
    let case = Case::new()
        .cni_version("1.0.0")
        .delegate(recorder("alpha").ip("10.1.0.5/24"))
        .delegate(recorder("beta").version(version).ip("10.2.0.5/24"));
    let outcome = case.add().succeeds();
    assert_eq!(outcome.call_of("ADD", "beta").config()["cniVersion"], version);
    let ips = outcome.result()["ips"].as_array().expect("a list");
    let addresses: Vec<_> = ips.iter().map(|ip| &ip["address"]).collect();
    assert_eq!(addresses, ["10.1.0.5/24", "10.2.0.5/24"]);
    assert!(ips.iter().all(|ip| ip.get("version").is_none()), "1.0.0 has no `version` in `ips`");
}

#[test]
fn what_is_equal_appears_once() {
    let bridge = json!({"name": "br0", "mac": "02:00:00:00:00:01"});
    let same_route = json!({"dst": "10.9.0.0/16", "gw": "10.1.0.1"});
    let result = |ifname: &str, address: &str| {
        json!({
            "cniVersion": "1.0.0",
            "interfaces": [bridge, {"name": ifname, "sandbox": "/x", "mac": "02:00:00:00:00:02"}],
            "ips": [{"address": address, "interface": 1}],
            "routes": [same_route],
        })
    };
    let case = Case::new()
        .delegate(recorder("alpha").instructed("result", result("eth0", "10.1.0.5/24")))
        .delegate(recorder("beta").instructed("result", result("net1", "10.1.0.6/24")));
    let expected = json!({
        "cniVersion": "1.0.0",
        "interfaces": [
            bridge,
            {"name": "eth0", "sandbox": "/x", "mac": "02:00:00:00:00:02"},
            {"name": "net1", "sandbox": "/x", "mac": "02:00:00:00:00:02"},
        ],
        "ips": [{"address": "10.1.0.5/24", "interface": 1}, {"address": "10.1.0.6/24", "interface": 2}],
        "routes": [same_route],
    });
    assert_eq!(case.add().result(), &expected);
}

#[test]
fn the_primary_alone_answers_where_that_is_asked_for() {
    let case = two_networks().key("result", "primary");
    let outcome = case.add();
    let result = outcome.result();
    assert_eq!(result["interfaces"], json!([{"name": "eth0", "sandbox": case.pod().path()}]));
    assert_eq!(result["ips"].as_array().map(Vec::len), Some(1));
    assert_eq!(result["dns"]["nameservers"], json!(["10.1.0.1"]));
    case.del().succeeds().called(&["DEL beta net1", "DEL alpha eth0"]).leaves_nothing();
}

/// The result of a plugin before Braid in the runtime's list.
fn previous_result(case: &Case) -> Value {
    json!({
        "cniVersion": "1.0.0",
        "interfaces": [{"name": "cni0"}, {"name": "eth0", "sandbox": case.pod().path()}],
        "ips": [{"address": "10.9.0.2/24", "gateway": "10.9.0.1", "interface": 1}],
        "routes": [{"dst": "0.0.0.0/0"}],
        "dns": {"nameservers": ["10.9.0.1"]},
    })
}

#[test]
fn chained_after_another_plugin_all_delegates_are_extras() {
    let case = Case::new().delegate(recorder("alpha").ip("10.1.0.5/24")).delegate(recorder("beta").ip("10.2.0.5/24"));
    let previous = previous_result(&case);
    let mut expected = previous.clone();
    for (index, (ifname, address)) in [("net1", "10.1.0.5/24"), ("net2", "10.2.0.5/24")].iter().enumerate() {
        expected["interfaces"]
            .as_array_mut()
            .expect("a list")
            .push(json!({"name": ifname, "sandbox": case.pod().path()}));
        let ip = json!({"address": address, "interface": index + 2});
        expected["ips"].as_array_mut().expect("a list").push(ip);
    }
    let add = case.call("ADD").key("prevResult", previous).run();
    assert_eq!(add.result(), &expected);
    let add = add.called(&["ADD alpha net1", "ADD beta net2"]);
    // Each has a network of its own, and must not change the result of the primary network.
    assert_eq!(add.call_of("ADD", "alpha").config().get("prevResult"), None);

    // As a runtime does, DEL gets the result of the whole list.
    let del = case.call("DEL").key("prevResult", expected).run();
    del.succeeds().called(&["DEL beta net2", "DEL alpha net1"]).leaves_nothing();
}

#[rstest]
#[case::first(&["braid", "gamma", "delta"])]
#[case::middle(&["gamma", "braid", "delta"])]
#[case::last(&["gamma", "delta", "braid"])]
fn braid_stands_anywhere_in_the_runtimes_list(#[case] list: &[&str]) {
    let case = Case::new().delegate(recorder("alpha").ip("10.1.0.5/24")).delegate(recorder("beta").ip("10.2.0.5/24"));
    let is_first = list[0] == "braid";
    let call = |command, kind: &&str, previous: &Value| {
        let call = if *kind == "braid" {
            case.call(command)
        } else {
            let conf = json!({"cniVersion": "1.0.0", "name": "outer", "type": kind, "prevResult": previous});
            case.call_plugin(&case.plugin_path(kind), command).stdin(conf.to_string())
        };
        if previous.is_null() { call.run() } else { call.key("prevResult", previous.clone()).run() }
    };
    let result = list.iter().fold(Value::Null, |previous, kind| call("ADD", kind, &previous).result().clone());
    let names: Vec<_> = result["interfaces"].as_array().expect("a list").iter().map(|i| i["name"].clone()).collect();
    let expected = if is_first { vec!["eth0", "net1"] } else { vec!["eth0", "net1", "net2"] };
    assert_eq!(names, expected);
    for kind in list.iter().rev() {
        call("DEL", kind, &result).succeeds();
    }
    let (alpha, beta) = if is_first { ("eth0", "net1") } else { ("net1", "net2") };
    let order = case.order();
    let of_delegates: Vec<_> = order.iter().filter(|call| call.contains("alpha") || call.contains("beta")).collect();
    let expected = [
        format!("ADD alpha {alpha}"),
        format!("ADD beta {beta}"),
        format!("DEL beta {beta}"),
        format!("DEL alpha {alpha}"),
    ];
    assert_eq!(of_delegates, expected.iter().collect::<Vec<_>>());
    assert_eq!(case.changes(), "");
}

#[test]
fn a_failing_delegate_leaves_the_network_before_braid_alone() {
    let case = Case::new().delegate(recorder("alpha")).delegate(recorder("beta").failing("ADD", 142));
    let previous = previous_result(&case);
    let outcome = case.call("ADD").key("prevResult", previous).run().fails(142).message_contains("net2");
    outcome.called(&["ADD alpha net1", "ADD beta net2", "DEL beta net2", "DEL alpha net1"]).leaves_nothing();
}
