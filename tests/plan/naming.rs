//! Names of interfaces and networks.

use rstest::rstest;
use serde_json::json;

use crate::support::{Case, Outcome, Plugin, recorder};

/// A selection that asks for an interface name.
fn on(ifname: &str, plugin: Plugin) -> serde_json::Value {
    let plugin = plugin.value();
    json!({"name": plugin["name"], "config": plugin, "interface": ifname})
}

#[test]
fn interfaces_are_named_by_their_place_in_the_list() {
    let case = Case::new().ifname("eth7");
    let case = ["alpha", "beta", "gamma"].iter().fold(case, |case, kind| case.delegate(recorder(kind)));
    case.add().succeeds().called(&["ADD alpha eth7", "ADD beta net1", "ADD gamma net2"]);
}

#[test]
fn after_another_plugin_every_network_is_an_extra() {
    let previous = json!({"cniVersion": "1.0.0", "interfaces": [{"name": "eth0", "sandbox": "/run/netns/any"}]});
    let case = Case::new().prev_result(previous).delegate(recorder("alpha")).delegate(recorder("beta"));
    case.add().succeeds().called(&["ADD alpha net1", "ADD beta net2"]);
}

#[test]
fn a_selection_names_its_interface_and_the_others_keep_theirs() {
    let case =
        Case::new().delegate(recorder("alpha")).delegate(on("storage0", recorder("beta"))).delegate(recorder("gamma"));
    case.add().succeeds().called(&["ADD alpha eth0", "ADD beta storage0", "ADD gamma net2"]);
    case.del().succeeds().called(&["DEL gamma net2", "DEL beta storage0", "DEL alpha eth0"]).leaves_nothing();
}

#[rstest]
#[case::of_the_primary("eth0", "gamma0")]
#[case::of_each_other("same0", "same0")]
#[case::of_a_default_name("net2", "")]
fn a_name_is_given_once(#[case] first: &str, #[case] second: &str) {
    let case = Case::new().delegate(recorder("alpha")).delegate(on(first, recorder("beta")));
    let case = match second {
        "" => case.delegate(recorder("gamma")),
        second => case.delegate(on(second, recorder("gamma"))),
    };
    case.add().fails(7).says(first).called_nothing().leaves_nothing();
}

/// The second of two networks of one container, as `podman run --network a,b` attaches them.
fn second<'a>(case: &'a Case, delegates: &serde_json::Value) -> Outcome<'a> {
    let state_dir = case.dir().join("state");
    let conf = json!({
        "cniVersion": "1.0.0", "name": "second", "type": "braid", "stateDir": state_dir, "delegates": delegates,
    });
    case.call("ADD").env("CNI_IFNAME", "eth1").stdin(conf.to_string()).run()
}

#[test]
fn a_name_that_nobody_asked_for_is_not_that_of_another_network_of_the_container() {
    let case =
        Case::new().delegate(recorder("alpha")).delegate(recorder("beta")).delegate(on("net4", recorder("gamma")));
    case.add().succeeds().called(&["ADD alpha eth0", "ADD beta net1", "ADD gamma net4"]);
    let delegates = json!([
        recorder("alpha").value(),
        recorder("beta").value(),
        on("net2", recorder("gamma")),
        recorder("beta").key("name", "x").value(),
        recorder("gamma").key("name", "y").value(),
    ]);
    let outcome = second(&case, &delegates).succeeds();
    outcome.called(&["ADD alpha eth1", "ADD beta net3", "ADD gamma net2", "ADD beta net5", "ADD gamma net6"]);
    let del = case.call("DEL").env("CNI_IFNAME", "eth1").key("name", "second").run().succeeds();
    del.called(&["DEL gamma net6", "DEL beta net5", "DEL gamma net2", "DEL beta net3", "DEL alpha eth1"]);
    case.del().succeeds().called(&["DEL gamma net4", "DEL beta net1", "DEL alpha eth0"]).leaves_nothing();
}

#[test]
fn a_name_that_is_asked_for_and_that_another_network_of_the_container_has_is_an_error() {
    let case = Case::new().delegate(recorder("alpha")).delegate(recorder("beta"));
    case.add().succeeds();
    let delegates = json!([recorder("alpha").value(), on("net1", recorder("gamma"))]);
    second(&case, &delegates).fails(7).says("net1").says("another network of this container").called_nothing();
    case.del().succeeds().leaves_nothing();
}

#[rstest]
#[case::too_long("sixteen-bytes-16")]
#[case::slash("a/b")]
#[case::colon("a:b")]
#[case::space("a b")]
#[case::tab("a\tb")]
#[case::dot(".")]
#[case::dots("..")]
fn a_name_that_no_interface_can_have_is_refused(#[case] ifname: &str) {
    let case = Case::new().delegate(recorder("alpha")).delegate(on(ifname, recorder("beta")));
    case.add().fails(7).says("interface").called_nothing().leaves_nothing();
}

#[rstest]
#[case::of_a_pod_network("net1")]
#[case::of_the_primary("eth0")]
fn an_interface_that_exists_is_not_taken_over(#[case] ifname: &str) {
    let case = Case::new().delegate(recorder("alpha")).delegate(recorder("beta"));
    case.pod().ip(&format!("link add {ifname} type bridge"));
    case.add().fails_with_any_code().says(ifname).called_nothing().leaves_nothing();
}

#[rstest]
#[case::slash("a/b")]
#[case::parent("../x")]
#[case::dash("-a")]
#[case::space("a b")]
fn a_network_name_that_could_be_a_path_is_refused(#[case] name: &str) {
    let case = Case::new().delegate(recorder("alpha")).delegate(recorder("beta").key("name", name));
    case.add().fails(7).says(name).called_nothing().leaves_nothing();
}
