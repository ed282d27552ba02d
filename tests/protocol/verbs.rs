//! VERSION, CHECK, STATUS, GC, and calls in the wrong order.

use rstest::rstest;
use serde_json::{Value, json};

use crate::support::{Case, Network, bridge, recorder};

#[rstest]
#[case("0.1.0")]
#[case("0.4.0")]
#[case("1.0.0")]
#[case("1.1.0")]
fn version_lists_all_versions(#[case] version: &str) {
    let case = Case::new().stdin(json!({"cniVersion": version}).to_string());
    let outcome = case.call("VERSION").run();
    let supported = ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];
    assert_eq!(outcome.result(), &json!({"cniVersion": version, "supportedVersions": supported}));
}

#[test]
fn a_second_add_is_refused_and_harms_nothing() {
    let case = Case::new().delegate(recorder("alpha")).delegate(recorder("beta"));
    case.add().succeeds();
    let attached = case.changes();
    case.add().fails_with_any_code().says(Case::CONTAINER).says("eth0").called_nothing();
    assert_eq!(case.changes(), attached);
    case.del().succeeds().called(&["DEL beta net1", "DEL alpha eth0"]).leaves_nothing();
}

#[test]
fn one_container_can_be_attached_under_two_names() {
    let case = Case::new().delegate(recorder("alpha"));
    case.add().succeeds().called(&["ADD alpha eth0"]);
    case.call("ADD").env("CNI_IFNAME", "eth1").run().succeeds().called(&["ADD alpha eth1"]);
    case.del().succeeds().called(&["DEL alpha eth0"]);
    case.call("DEL").env("CNI_IFNAME", "eth1").run().succeeds().called(&["DEL alpha eth1"]).leaves_nothing();
}

#[test]
fn del_of_what_was_never_added_succeeds() {
    Case::new().delegate(recorder("alpha")).del().succeeds().leaves_nothing();
}

#[test]
fn del_twice_succeeds() {
    let case = Case::new().delegate(recorder("alpha")).delegate(recorder("beta"));
    case.add().succeeds();
    case.del().succeeds().called(&["DEL beta net1", "DEL alpha eth0"]).leaves_nothing();
    case.del().succeeds().leaves_nothing();
}

#[test]
fn check_asks_every_plugin_with_the_final_result() {
    let chain = Network::new("one").plugin(recorder("alpha").ip("10.1.0.5/24").link()).plugin(recorder("beta"));
    let case = Case::new().delegate(chain).delegate(recorder("gamma").ip("10.2.0.5/24").link());
    case.add().succeeds();
    let outcome = case.check().succeeds().called(&["CHECK alpha eth0", "CHECK beta eth0", "CHECK gamma net1"]);
    for plugin in ["alpha", "beta"] {
        let ips = &outcome.call_of("CHECK", plugin).config()["prevResult"]["ips"];
        assert_eq!(ips, &json!([{"address": "10.1.0.5/24", "interface": 0}]), "{plugin}");
    }
    case.del().succeeds().leaves_nothing();
}

#[test]
fn check_skips_networks_without_check() {
    let old = Network::new("old").version("0.3.1").plugin(recorder("beta").link());
    let disabled = Network::new("disabled").key("disableCheck", true).plugin(recorder("gamma").link());
    let case = Case::new().delegate(recorder("alpha").link()).delegate(old).delegate(disabled);
    case.add().succeeds();
    case.check().succeeds().called(&["CHECK alpha eth0"]);
}

#[test]
fn check_of_what_was_never_added_fails() {
    Case::new().delegate(recorder("alpha")).check().fails_with_any_code().called_nothing();
}

#[test]
fn check_reports_everything_that_is_wrong_at_once() {
    let routed = json!({
        "name": "routed", "default-route": ["10.20.1.1"],
        "config": bridge("br-b", "10.20.1.0/24").value(),
    });
    let case = Case::with_reference_plugins()
        .delegate(recorder("alpha").ip("10.1.0.5/24").link())
        .delegate(recorder("beta").ip("10.2.0.5/24").link())
        .delegate(routed)
        .delegate(recorder("gamma").ip("10.3.0.5/24").link().failing("CHECK", 142));
    case.add().succeeds();
    let pod = case.pod();
    pod.ip("link del eth0");
    pod.ip("addr del 10.2.0.5/24 dev net1");
    pod.ip("route del default");
    let outcome = case.check().fails_with_any_code();
    let outcome =
        outcome.says("eth0").says("10.2.0.5").says("net1").says("10.20.1.1").says("net2").says("gamma refuses CHECK");
    // The details contain the rest.
    let details = "delegate \"net-gamma\" on net3: plugin \"gamma\": code 142";
    assert!(outcome.error_text().ends_with(&format!("; {details}")), "{}", outcome.error_text());
    assert_eq!(outcome.error_text().matches("is gone").count(), 3, "{}", outcome.error_text());
    case.del().succeeds().leaves_nothing();
}

#[test]
fn check_says_what_one_plugin_says_once() {
    let case = Case::new().delegate(recorder("alpha").ip("10.1.0.5/24").link().failing("CHECK", 142));
    case.add().succeeds();
    let text = case.check().fails(142).error_text();
    assert_eq!(text.matches("alpha refuses CHECK").count(), 1, "{text}");
}

#[rstest]
#[case::interface("link del net1", "net1")]
#[case::address("addr del 10.2.0.5/24 dev net1", "10.2.0.5")]
fn check_sees(#[case] damage: &str, #[case] finding: &str) {
    let case = Case::new()
        .delegate(recorder("alpha").ip("10.1.0.5/24").link())
        .delegate(recorder("beta").ip("10.2.0.5/24").link());
    case.add().succeeds();
    case.check().succeeds();
    case.pod().ip(damage);
    case.check().fails_with_any_code().says(finding);
    case.del().succeeds().leaves_nothing();
}

#[test]
fn status_asks_the_delegates_that_have_it() {
    let case = Case::new()
        .cni_version("1.1.0")
        .delegate(recorder("alpha").version("1.1.0"))
        .delegate(recorder("beta").version("1.0.0"));
    case.status().succeeds().called(&["STATUS alpha"]).leaves_nothing();
}

#[rstest]
#[case(50)]
#[case(51)]
fn status_passes_the_delegates_code_on(#[case] code: u32) {
    let case = Case::new()
        .cni_version("1.1.0")
        .delegate(recorder("alpha").version("1.1.0"))
        .delegate(recorder("beta").version("1.1.0").failing("STATUS", code));
    case.status().fails(code.into()).says("beta refuses STATUS");
}

/// The bridge plugin of 1.1.1 would answer "missing containerID".
#[test]
fn status_names_a_plugin_that_is_too_old_for_it() {
    let bridge = json!({"cniVersion": "1.1.0", "name": "old", "type": "bridge",
        "ipam": {"type": "host-local", "subnet": "10.88.0.0/24"}});
    let case = Case::with_reference_plugins().cni_version("1.1.0").delegate(bridge);
    case.status().fails(50).says("\"old\"").says("\"bridge\"").says("does not speak CNI 1.1.0, only 0.1.0,");
}

#[test]
fn status_misses_a_plugin() {
    let absent = json!({"cniVersion": "1.0.0", "name": "x", "type": "absent"});
    let case = Case::new().cni_version("1.1.0").delegate(recorder("alpha")).delegate(absent);
    case.status().fails(50).says("absent");
}

#[test]
fn gc_deletes_what_the_runtime_no_longer_knows() {
    let case = Case::new().cni_version("1.1.0").delegate(recorder("alpha")).delegate(recorder("beta"));
    case.add().succeeds();
    case.call("ADD").env("CNI_CONTAINERID", "container-2").run().succeeds();
    case.gc(&[(Case::CONTAINER, "eth0"), ("container-2", "eth0")]).succeeds().called_nothing();
    let outcome = case.gc(&[("container-2", "eth0")]).succeeds().called(&["DEL beta net1", "DEL alpha eth0"]);
    assert_eq!(outcome.call_of("DEL", "beta").var("CNI_CONTAINERID"), Case::CONTAINER);
    let outcome = case.gc(&[]).succeeds().called(&["DEL beta net1", "DEL alpha eth0"]).leaves_nothing();
    assert_eq!(outcome.call_of("DEL", "beta").var("CNI_CONTAINERID"), "container-2");
}

#[test]
fn gc_passes_each_network_what_is_still_valid() {
    let case = Case::new()
        .cni_version("1.1.0")
        .delegate(recorder("alpha").version("1.1.0"))
        .delegate(recorder("beta").version("1.1.0"));
    case.add().succeeds();
    let outcome = case.gc(&[(Case::CONTAINER, "eth0")]).succeeds();
    let valid = |plugin| -> Value { outcome.call_of("GC", plugin).config()["cni.dev/valid-attachments"].clone() };
    let (eth0, net1) = (
        json!({"containerID": Case::CONTAINER, "ifname": "eth0"}),
        json!({"containerID": Case::CONTAINER, "ifname": "net1"}),
    );
    assert_eq!(valid("alpha"), json!([eth0]));
    // An attachment that the runtime lists is valid, on whichever network it is.
    assert!(valid("beta").as_array().expect("a list").contains(&net1), "{}", valid("beta"));
}

#[test]
fn gc_goes_on_after_a_failure() {
    let case = Case::new().cni_version("1.1.0").delegate(recorder("alpha")).delegate(recorder("beta"));
    case.add().succeeds();
    case.behave("beta", json!({"fail": {"DEL": {"code": 142, "msg": "beta is stuck"}}}));
    case.gc(&[]).fails_with_any_code().says("beta is stuck").called(&["DEL beta net1", "DEL alpha eth0"]);
    assert!(case.owes());
    case.behave("beta", json!({}));
    case.gc(&[]).succeeds().called(&["DEL beta net1"]).leaves_nothing();
}

/// A runtime calls DEL even after a refused ADD.
#[test]
fn del_without_a_journal_leaves_the_interfaces_of_another_network_alone() {
    let beta = recorder("beta").ip("10.2.0.5/24").link().value();
    let on_net1 = json!({"name": "beta", "interface": "net1", "config": beta});
    let case = Case::new().delegate(recorder("alpha")).delegate(on_net1);
    case.add().succeeds();
    let there = case.changes();
    case.call("ADD").env("CNI_IFNAME", "eth1").run().fails(7).message_contains("net1");
    case.call("DEL").env("CNI_IFNAME", "eth1").run().succeeds().called(&["DEL alpha eth1"]);
    assert_eq!(case.changes(), there);
    case.del().succeeds().leaves_nothing();
}
