//! GC and STATUS: what they need, which plugins they call, and what they do not touch.

use std::fs;

use rstest::rstest;
use serde_json::{Value, json};

use crate::support::{Case, Namespace, Network, Plugin, braid, bridge, new_plugins, recorder};

/// A recorder that supports GC and STATUS.
fn newest(kind: &str) -> Plugin {
    recorder(kind).version("1.1.0")
}

fn case() -> Case {
    Case::new().cni_version("1.1.0")
}

fn attachment(container: &str, ifname: &str) -> Value {
    json!({"containerID": container, "ifname": ifname})
}

fn add(case: &Case, container: &str) {
    case.call("ADD").env("CNI_CONTAINERID", container).run().succeeds();
}

#[test]
fn each_network_gets_what_braid_made_for_what_the_runtime_has() {
    let chain = Network::new("chain").version("1.1.0").plugin(newest("beta")).plugin(newest("gamma"));
    let case = case().delegate(newest("alpha")).delegate(chain);
    for container in ["c1", "c2", "c3"] {
        add(&case, container);
    }
    let outcome = case.gc(&[("c1", "eth0"), ("c3", "eth0")]).succeeds();
    let order = ["DEL gamma net1", "DEL beta net1", "DEL alpha eth0", "GC alpha", "GC beta", "GC gamma"];
    let outcome = outcome.called(&order);
    for (plugin, ifname) in [("alpha", "eth0"), ("beta", "net1"), ("gamma", "net1")] {
        let config = outcome.call_of("GC", plugin).config();
        let mut valid = config["cni.dev/valid-attachments"].as_array().expect("a list").clone();
        valid.sort_by_key(ToString::to_string);
        assert_eq!(valid, [attachment("c1", ifname), attachment("c3", ifname)], "{plugin}");
        assert_eq!(config["cni.dev/attachments"], config["cni.dev/valid-attachments"], "{plugin}");
        for key in ["prevResult", "runtimeConfig", "capabilities"] {
            assert_eq!(config.get(key), None, "{plugin}: {key}");
        }
        let call = outcome.call_of("GC", plugin);
        assert_eq!((call.var("CNI_CONTAINERID"), call.var("CNI_IFNAME"), call.var("CNI_NETNS")), ("", "", ""));
        assert_ne!(call.var("CNI_PATH"), "");
    }
}

/// Go writes `null` for an empty list. A runtime has an empty list after a reboot.
#[rstest]
#[case::null(&["cni.dev/valid-attachments"])]
#[case::null_under_the_older_key(&["cni.dev/attachments"])]
#[case::null_under_both(&["cni.dev/valid-attachments", "cni.dev/attachments"])]
fn a_list_that_is_null_is_an_empty_one(#[case] keys: &[&str]) {
    let case = case().delegate(newest("alpha"));
    add(&case, "c1");
    let call = keys.iter().fold(case.call("GC"), |call, key| call.key(key, Value::Null));
    let outcome = call.run().succeeds().called(&["DEL alpha eth0", "GC alpha"]);
    assert_eq!(outcome.call_of("GC", "alpha").config()["cni.dev/valid-attachments"], json!([]));
    outcome.leaves_nothing();
}

#[rstest]
#[case::no_list(json!("all"), "\"cni.dev/valid-attachments\" is a string, expected a list of {containerID, ifname}")]
#[case::no_object(json!([{"containerID": "c1", "ifname": "eth0"}, 1]), "\"cni.dev/valid-attachments[1]\" is 1, expected {containerID, ifname}")]
#[case::a_key_is_missing(json!([{"containerID": "c1"}]), "\"cni.dev/valid-attachments[0]\" is an object that cannot be read (missing field `ifname`)")]
#[case::no_text(json!([{"containerID": 5, "ifname": "eth0"}]), "(invalid type: integer `5`, expected a string)")]
fn a_list_that_cannot_be_read_changes_nothing(#[case] list: Value, #[case] message: &str) {
    let case = case().delegate(newest("alpha"));
    add(&case, "c1");
    let outcome = case.call("GC").key("cni.dev/valid-attachments", list).run().fails(7).message_contains(message);
    outcome.called_nothing();
    assert!(case.owes());
}

#[test]
fn what_either_key_lists_is_valid() {
    let case = case().delegate(newest("alpha"));
    add(&case, "c1");
    let call = case.call("GC").key("cni.dev/valid-attachments", Value::Null);
    call.key("cni.dev/attachments", vec![attachment("c1", "eth0")]).run().succeeds().called(&["GC alpha"]);
}

#[test]
fn the_older_key_means_the_same() {
    let case = case().delegate(newest("alpha"));
    add(&case, "c1");
    add(&case, "c2");
    let outcome = case.call("GC").key("cni.dev/attachments", vec![attachment("c2", "eth0")]).run().succeeds();
    assert_eq!(outcome.call_of("DEL", "alpha").var("CNI_CONTAINERID"), "c1");
}

#[test]
fn without_a_list_nothing_is_stale() {
    let case = case().delegate(newest("alpha"));
    add(&case, "c1");
    case.call("GC").run().succeeds().called_nothing();
    assert!(case.owes());
}

#[test]
fn a_network_that_only_a_journal_names_gets_gc_too() {
    let selection = json!([{"name": "later"}]);
    let case = case()
        .configuration("later.conflist", Network::new("later").version("1.1.0").plugin(newest("beta")))
        .key("confDir", "@DIR@/net.d")
        .delegate(newest("alpha"))
        .runtime_config(json!({"networks": selection}));
    add(&case, "c1");
    add(&case, "c2");
    // No journal names the network any more.
    let case = case.without("runtimeConfig");
    fs::remove_file(case.dir().join("net.d/later.conflist")).expect("remove the configuration");
    let outcome = case.gc(&[("c2", "eth0")]).succeeds();
    let outcome = outcome.called(&["DEL beta net1", "DEL alpha eth0", "GC alpha", "GC beta"]);
    assert_eq!(outcome.call_of("GC", "beta").config()["cni.dev/valid-attachments"], json!([attachment("c2", "net1")]));
    // The last attachment of the network is removed, and GC removes what that may have leaked.
    let outcome = case.gc(&[]).succeeds();
    let outcome = outcome.called(&["DEL beta net1", "DEL alpha eth0", "GC alpha", "GC beta"]);
    assert_eq!(outcome.call_of("GC", "beta").config()["cni.dev/valid-attachments"], json!([]));
    case.gc(&[]).succeeds().called(&["GC alpha"]).leaves_nothing();
}

#[test]
fn another_networks_attachments_are_not_ours_to_delete() {
    let shared = || newest("alpha").key("name", "shared");
    let case = case().delegate(shared());
    case.call("ADD").key("name", "neighbour").env("CNI_CONTAINERID", "theirs").run().succeeds();
    add(&case, "ours");
    let outcome = case.gc(&[]).succeeds().called(&["DEL alpha eth0", "GC alpha"]);
    assert_eq!(outcome.call_of("DEL", "alpha").var("CNI_CONTAINERID"), "ours");
    // On a network that both configurations use, the other's attachment is still valid.
    let valid = outcome.call_of("GC", "alpha").config()["cni.dev/valid-attachments"].clone();
    assert_eq!(valid, json!([attachment("theirs", "eth0")]));
}

/// Containers that another meta-plugin attached, before Braid replaced it, have no journals.
#[test]
fn a_container_without_a_journal_keeps_what_it_may_have() {
    let case = case().delegate(newest("alpha")).delegate(newest("beta"));
    add(&case, "c1");
    let outcome = case.gc(&[("c1", "eth0"), ("older", "eth0")]).succeeds();
    let valid = outcome.call_of("GC", "beta").config()["cni.dev/valid-attachments"].as_array().expect("a list").clone();
    assert!(valid.contains(&attachment("c1", "net1")) && !valid.contains(&attachment("c1", "eth0")), "{valid:?}");
    for ifname in ["eth0", "net1", "net2"] {
        assert!(valid.contains(&attachment("older", ifname)), "{ifname}: {valid:?}");
    }
}

#[test]
fn plugins_get_no_gc_while_a_journal_cannot_be_read() {
    let case = case().delegate(newest("alpha"));
    add(&case, "c1");
    add(&case, "c2");
    fs::write(case.dir().join("state/attachments/c1/eth0.jsonl"), "{\"format\": no journal\n{}\n").expect("spoil it");
    let outcome = case.gc(&[("c1", "eth0")]).fails_with_any_code().says("journal").called(&["DEL alpha eth0"]);
    assert_eq!(outcome.call_of("DEL", "alpha").var("CNI_CONTAINERID"), "c2");
    // The journal is reported, and what c1 may have is not cleaned up.
    let outcome = case.gc(&[("c1", "eth0")]).succeeds().called(&["GC alpha"]);
    let valid = outcome.call_of("GC", "alpha").config()["cni.dev/valid-attachments"].clone();
    assert!(valid.as_array().expect("a list").contains(&attachment("c1", "eth0")), "{valid}");
}

#[test]
fn gc_reports_every_failure_and_calls_everyone() {
    let case = case()
        .delegate(newest("alpha").failing("GC", 142))
        .delegate(newest("beta").failing("GC", 143))
        .delegate(newest("gamma"));
    add(&case, "c1");
    case.behave("gamma", json!({"fail": {"DEL": {"code": 144, "msg": "gamma is stuck"}}}));
    let outcome = case.gc(&[]).fails_with_any_code();
    let outcome = outcome.says("alpha refuses GC").says("beta refuses GC").says("gamma is stuck").says("c1");
    let order = ["DEL gamma net2", "DEL beta net1", "DEL alpha eth0", "GC alpha", "GC beta", "GC gamma"];
    let outcome = outcome.called(&order);
    // What is owed is still valid for the plugins.
    let valid = outcome.call_of("GC", "gamma").config()["cni.dev/valid-attachments"].clone();
    assert_eq!(valid, json!([attachment("c1", "net2")]));
}

#[rstest]
#[case::of_the_network(json!(true), &["GC beta"])]
#[case::by_a_string(json!("true"), &["GC beta"])]
#[case::not(json!("False"), &["GC alpha", "GC beta"])]
fn gc_is_not_called_for_a_network_that_disables_it(#[case] disabled: Value, #[case] calls: &[&str]) {
    let quiet = Network::new("quiet").version("1.1.0").key("disableGC", disabled).plugin(newest("alpha"));
    case().delegate(quiet).delegate(newest("beta")).gc(&[]).succeeds().called(calls);
}

#[test]
fn braid_itself_may_be_kept_from_gc() {
    let case = case().key("disableGC", true).delegate(newest("alpha"));
    add(&case, "c1");
    case.gc(&[]).succeeds().called_nothing();
    assert!(case.owes());
}

#[rstest]
fn before_1_1_0_there_is_neither_gc_nor_status(#[values("0.3.1", "0.4.0", "1.0.0")] version: &str) {
    let case = Case::new().cni_version(version).delegate(newest("alpha"));
    case.gc(&[]).fails(1).says("GC").called_nothing();
    case.status().fails(1).says("STATUS").called_nothing();
}

#[test]
fn a_delegate_before_1_1_0_gets_no_gc() {
    let case = case().delegate(recorder("alpha").version("1.0.0")).delegate(newest("beta"));
    add(&case, "c1");
    case.gc(&[]).succeeds().called(&["DEL beta net1", "DEL alpha eth0", "GC beta"]).leaves_nothing();
}

/// The reference plugins accept GC but do nothing. The DEL of the stale attachment releases the address.
#[test]
fn an_address_of_a_container_that_is_gone_is_free_again() {
    let Some(folder) = new_plugins() else {
        return eprintln!("skipped: no reference plugins of CNI 1.1.0 (BRAID_TEST_CNI_PATH_NEW)");
    };
    // Without the namespace, the bridge plugin does not find its masquerading rules.
    let network = |name: &str, subnet| bridge(name, subnet).version("1.1.0").key("ipMasq", false);
    let case =
        case().plugins_in(folder).delegate(network("br-a", "10.10.1.0/24")).delegate(network("br-b", "10.20.1.0/24"));
    let gone = Namespace::new("gone");
    let outcome = case.call("ADD").env("CNI_CONTAINERID", "gone").env("CNI_NETNS", gone.path()).run();
    outcome.succeeds();
    case.add().succeeds();
    // As after a power failure, addresses are reserved for a container that no longer exists.
    drop(gone);
    case.gc(&[(Case::CONTAINER, "eth0")]).succeeds();
    let is_taken = |address: &str| case.dir().join("ipam").join(address).exists();
    assert!(!is_taken("net-br-a/10.10.1.2") && !is_taken("net-br-b/10.20.1.2"), "the addresses are still taken");
    assert!(is_taken("net-br-a/10.10.1.3") && is_taken("net-br-b/10.20.1.3"), "addresses in use were freed");
    case.check().succeeds();
    case.del().succeeds().leaves_nothing();
}

#[test]
fn status_of_the_reference_plugins_is_passed_on() {
    let Some(folder) = new_plugins() else {
        return eprintln!("skipped: no reference plugins of CNI 1.1.0 (BRAID_TEST_CNI_PATH_NEW)");
    };
    let case = case().plugins_in(folder).delegate(bridge("br-a", "10.10.1.0/24").version("1.1.0"));
    case.status().succeeds().leaves_nothing();
    // Only the bridge plugin itself looks at its IPAM plugin.
    let lacking = bridge("br-b", "10.20.1.0/24").version("1.1.0").key("ipam", json!({"type": "no-such-ipam"}));
    case.delegate(lacking).status().fails(50).says("net-br-b").says("no-such-ipam");
}

#[test]
fn status_reports_everything_that_is_missing_at_once() {
    let case = case()
        .configuration("there.conflist", Network::new("there").version("1.1.0").plugin(newest("beta")))
        .key("confDir", "@DIR@/net.d")
        .key("readinessindicatorfile", "@DIR@/ready")
        .key("stateDir", "/proc/version/state")
        .delegate(newest("alpha").failing("STATUS", 50))
        .delegate(json!({"cniVersion": "1.1.0", "name": "x", "type": "absent"}))
        .delegate(json!("there"))
        .delegate(json!("nowhere"));
    let outcome = case.status().fails(50).called(&["STATUS alpha", "STATUS beta"]);
    let outcome = outcome.says("alpha refuses STATUS").says("\"absent\"").says("\"nowhere\"");
    outcome.says("/ready").says("/proc/version is not a directory");
}

#[test]
fn status_tries_the_state_directory() {
    let case = case().delegate(newest("alpha"));
    let folder = case.dir().join("read-only");
    fs::create_dir(&folder).expect("make a folder");
    let configuration = json!({
        "cniVersion": "1.1.0", "name": "n", "type": "braid", "stateDir": folder.join("state"),
        "delegates": [newest("alpha").value()],
    });
    let braid = braid();
    let script = "mount -t tmpfs -o ro none \"$1\" && exec \"$2\"";
    let (folder, braid) = (folder.to_str().expect("UTF-8"), braid.to_str().expect("UTF-8"));
    let words = ["unshare", "--mount", "sh", "-euc", script, "sh", folder, braid];
    let call = case.command("/usr/bin/env".as_ref(), &words).env("CNI_COMMAND", "STATUS");
    call.stdin(configuration.to_string()).run().fails(50).says("cannot be written: Read-only file system");
}

#[test]
fn status_waits_for_the_readiness_file() {
    let case = case().key("readinessindicatorfile", "@DIR@/ready").delegate(newest("alpha"));
    case.status().fails(50).says("/ready");
    fs::write(case.dir().join("ready"), "").expect("write the file");
    case.status().succeeds().called(&["STATUS alpha"]).leaves_nothing();
}

#[test]
fn limited_connectivity_takes_precedence_over_no_new_containers() {
    let case = case().delegate(newest("alpha").failing("STATUS", 50)).delegate(newest("beta").failing("STATUS", 51));
    case.status().fails(51).says("alpha refuses STATUS").says("beta refuses STATUS");
}

#[test]
fn status_changes_nothing_and_prevents_nothing() {
    let case = case().delegate(newest("alpha").failing("STATUS", 50));
    case.status().fails(50).leaves_nothing();
    case.add().succeeds();
    case.del().succeeds().leaves_nothing();
}
