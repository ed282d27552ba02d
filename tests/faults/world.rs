//! Others change namespaces, interfaces, addresses and configurations between calls.

use std::collections::HashMap;
use std::fs;
use std::process::Command;
use std::thread;
use std::time::Duration;

use rstest::rstest;
use serde_json::{Value, json};

use crate::support::{Case, Namespace, Network, Plugin, bridge, edit_header, firewall, ptp, recorder};

/// It does no masquerading: the reference bridge finds the rules to remove by the addresses in the namespace, and leaves them if
/// the namespace is gone, with Braid or without.
fn real() -> Case {
    let chain = Network::new("net-a").plugin(bridge("br-w", "10.75.1.0/24").key("ipMasq", false)).plugin(firewall());
    Case::with_reference_plugins().delegate(chain).delegate(ptp("10.75.2.0/24").without("name").key("name", "net-b"))
}

/// Removes the container's namespace, as a runtime may do before it calls DEL.
fn remove_namespace(case: &Case) {
    let name = case.pod().path().file_name().expect("a name").to_owned();
    let status = Command::new("ip").args(["netns", "del"]).arg(name).status().expect("run ip");
    assert!(status.success());
}

fn make_namespace(case: &Case) {
    let name = case.pod().path().file_name().expect("a name").to_owned();
    let status = Command::new("ip").args(["netns", "add"]).arg(name).status().expect("run ip");
    assert!(status.success());
    case.pod().ip("link set lo up");
}

/// The addresses that host-local has assigned.
fn reserved(case: &Case) -> Vec<String> {
    let networks = fs::read_dir(case.dir().join("ipam")).into_iter().flatten().flatten();
    let files = networks.flat_map(|network| fs::read_dir(network.path()).into_iter().flatten().flatten());
    let names = files.map(|file| file.file_name().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with("10.")).collect()
}

#[test]
fn the_namespace_is_gone_before_del() {
    let case = real();
    case.add().succeeds();
    remove_namespace(&case);
    case.del().succeeds();
    case.del().succeeds();
    assert!(!case.owes());
    assert_eq!(reserved(&case), [""; 0]);
    make_namespace(&case);
    assert_eq!(case.changes(), "");
}

#[test]
fn the_namespace_is_gone_before_check() {
    let case = real();
    case.add().succeeds();
    remove_namespace(&case);
    case.check().fails_with_any_code().says("eth0").says("net1");
    case.del().succeeds();
    make_namespace(&case);
    assert_eq!(case.changes(), "");
}

#[test]
fn the_namespace_goes_between_two_steps() {
    let case = Case::with_reference_plugins()
        .script("remover", "cat >/dev/null; [ $CNI_COMMAND = ADD ] && ip netns del $(basename $CNI_NETNS); echo '{\"cniVersion\":\"1.0.0\"}'")
        .delegate(bridge("br-x", "10.75.3.0/24").key("ipMasq", false))
        .delegate(Plugin::new("net-remover", "remover"))
        .delegate(ptp("10.75.4.0/24"));
    case.add().fails_with_any_code().message_contains("\"ptp\"");
    case.del().succeeds();
    assert!(!case.owes());
    assert_eq!(reserved(&case), [""; 0]);
    make_namespace(&case);
    assert_eq!(case.changes(), "");
}

/// A path that now leads to another namespace, or to none. The interfaces there are not the container's.
#[rstest]
#[case::another_namespace(true)]
#[case::a_plain_file(false)]
fn the_path_of_the_namespace_leads_elsewhere(#[case] namespace: bool) {
    let case = Case::new().delegate(recorder("alpha")).delegate(recorder("beta"));
    case.add().succeeds();
    let (other, file) = (Namespace::new("other"), case.dir().join("file"));
    fs::write(&file, "").expect("write a file");
    let path = if namespace { other.path() } else { file };
    let del = case.call("DEL").env("CNI_NETNS", path).run().succeeds();
    del.leaves_nothing();
    for call in case.calls().iter().filter(|call| call.command == "DEL") {
        assert_eq!(call.var("CNI_NETNS"), "", "{call}");
    }
}

/// Path, device and inode are those of a container that is gone. The interfaces belong to another one.
///
/// The kernel assigns the lowest free inode number. The number of a deleted namespace becomes free after a while. Other processes
/// take numbers too, so the test makes and removes containers until a number is used again.
#[rstest]
#[case::gc("GC")]
#[case::late_del("DEL")]
#[case::del_after_gc("DEL after GC")]
#[case::add_that_settles("ADD")]
fn another_namespace_with_the_same_inode_is_not_touched(#[case] verb: &str) {
    let case = Case::with_reference_plugins().cni_version("1.1.0");
    let case = case.delegate(bridge("br-i", "10.75.9.0/24").key("ipMasq", false)).delegate(recorder("alpha"));
    let call = |verb: &str, container: &str| case.call(verb).env("CNI_CONTAINERID", container);
    let mut gone = HashMap::new();
    let found = (0..60).find_map(|attempt| {
        let container = format!("gone-{attempt}");
        if verb == "ADD" {
            case.behave("alpha", json!({"hold": {"at": "before", "name": container}, "on": ["ADD"]}));
            let running = call("ADD", &container).start();
            case.held(&container);
            running.kill();
            case.behave("alpha", json!({}));
        } else {
            call("ADD", &container).run().succeeds();
        }
        gone.insert(case.pod().inode(), container);
        remove_namespace(&case);
        thread::sleep(Duration::from_millis(100));
        make_namespace(&case);
        gone.get(&case.pod().inode()).cloned()
    });
    let container = found.expect("the kernel gives a number again");
    call("ADD", "c2").run().succeeds();
    match verb {
        "GC" => drop(case.gc(&[("c2", "eth0")]).succeeds()),
        "DEL" => {
            call("DEL", &container).run().succeeds();
            // There is no journal any more.
            call("DEL", &container).run().succeeds();
        }
        "DEL after GC" => {
            case.gc(&[("c2", "eth0")]).succeeds();
            call("DEL", &container).run().succeeds();
        }
        // c2 has interfaces of these names, so the new ADD fails after the earlier one is undone.
        _ => drop(call("ADD", &container).run().fails(7).says("eth0")),
    }
    case.pod().ip("link show eth0");
    call("DEL", "c2").run().succeeds();
}

/// A journal from before cookies were recorded proves nothing, so GC calls the plugins without the namespace.
#[test]
fn without_a_cookie_gc_does_not_enter_the_namespace() {
    let case = Case::new().cni_version("1.1.0").delegate(recorder("alpha").version("1.1.0"));
    case.add().succeeds();
    let journal = case.dir().join("state/attachments").join(Case::CONTAINER).join("eth0.jsonl");
    edit_header(&journal, |header| {
        header["netnsId"].as_object_mut().expect("an identity").remove("cookie").expect("a cookie");
    });
    let outcome = case.gc(&[]).succeeds();
    assert_eq!(outcome.call_of("DEL", "alpha").var("CNI_NETNS"), "");
}

#[rstest]
#[case::renamed("link set eth0 down", "link set eth0 name other0", "\"eth0\" is gone")]
#[case::removed("link set eth0 down", "link del eth0", "\"eth0\" is gone")]
#[case::without_its_address("link set eth0 up", "addr flush dev eth0", "is gone from \"eth0\"")]
fn an_interface_is_not_as_it_was(#[case] first: &str, #[case] then: &str, #[case] says: &str) {
    let case = real();
    case.add().succeeds();
    case.pod().ip(first);
    case.pod().ip(then);
    case.check().fails_with_any_code().says(says);
    case.del().succeeds();
    assert!(!case.owes());
    assert_eq!(reserved(&case), [""; 0]);
}

#[test]
fn an_interface_is_in_another_namespace_by_now() {
    let case = real();
    let other = Namespace::new("other");
    case.add().succeeds();
    let name = other.path().file_name().expect("a name").to_string_lossy().into_owned();
    case.pod().ip(&format!("link set eth0 netns {name}"));
    case.check().fails_with_any_code().says("\"eth0\" is gone");
    case.del().succeeds();
    assert!(!case.owes());
    assert_eq!(reserved(&case), [""; 0]);
}

/// DEL and CHECK work from the journal, that is, from what ADD ran, even if the configuration has changed.
#[rstest]
#[case::changed(Some(json!({"cniVersion": "1.0.0", "name": "by-name", "plugins": [{"type": "gamma"}]})))]
#[case::deleted(None)]
fn the_configuration_changes_between_add_and_del(#[case] changed: Option<serde_json::Value>) {
    let case = Case::new().key("confDir", "@DIR@/conf").delegate("\"by-name\"").delegate(recorder("beta"));
    let file = case.dir().join("conf/by-name.conflist");
    fs::create_dir(case.dir().join("conf")).expect("make a folder");
    let conf = json!({"cniVersion": "1.0.0", "name": "by-name", "plugins": [{"type": "alpha", "secret": "kept"}]});
    fs::write(&file, conf.to_string()).expect("write the configuration");
    case.add().succeeds();
    match changed {
        Some(conf) => fs::write(&file, conf.to_string()).expect("write the configuration"),
        None => fs::remove_file(&file).expect("remove the configuration"),
    }
    let case = case.clear().delegate("\"by-name\"");
    let outcome = case.del().succeeds().called(&["DEL beta net1", "DEL alpha eth0"]);
    assert_eq!(outcome.call_of("DEL", "alpha").config()["secret"], "kept");
    outcome.leaves_nothing();
}

/// To undo what journals record, DEL needs only the state directory.
#[rstest]
#[case::timeouts("timeouts", json!({"plugin": 0}))]
#[case::timeouts_that_are_none("timeouts", json!("long"))]
#[case::bin_dir("binDir", json!("opt/cni/bin"))]
#[case::log("logOptions", json!("all"))]
#[case::gc("disableGC", json!("perhaps"))]
#[case::valid("cni.dev/valid-attachments", json!("none"))]
#[case::delegates("delegates", json!({}))]
fn a_key_that_has_become_unusable_keeps_no_container_from_being_removed(#[case] key: &str, #[case] value: Value) {
    let case = Case::new().delegate(recorder("alpha")).delegate(recorder("beta"));
    case.add().succeeds();
    let case = if key == "delegates" { case.clear() } else { case };
    let case = case.key(key, value);
    case.add().fails(7).called_nothing();
    case.del().succeeds().called(&["DEL beta net1", "DEL alpha eth0"]).leaves_nothing();
    case.del().succeeds();
    assert!(!case.owes());
}

/// A relative path leads elsewhere if DEL is called from another folder. The plugins would then take the namespace for gone.
#[test]
fn a_relative_path_of_a_namespace_is_refused() {
    let case = Case::new().delegate(recorder("alpha"));
    for path in ["pod", "./pod", "../run/netns/pod"] {
        case.call("ADD").env("CNI_NETNS", path).run().fails(4).says("CNI_NETNS").says("relative").called_nothing();
    }
    case.call("DEL").env("CNI_NETNS", "pod").run().succeeds();
    assert!(!case.owes());
}

/// The reference plugins of 1.9 refuse this after they have made the interface. They refuse DEL too, and leave the interface.
#[test]
fn the_hosts_own_namespace_is_refused() {
    let case = Case::with_reference_plugins().delegate(bridge("br-w", "10.75.1.0/24"));
    for path in ["/proc/self/ns/net", "/proc/thread-self/ns/net"] {
        case.call("ADD").env("CNI_NETNS", path).run().fails(4).says("CNI_NETNS").leaves_nothing();
    }
    let own =
        case.clear().delegate(recorder("alpha")).env("CNI_NETNS", "/proc/self/ns/net").env("CNI_NETNS_OVERRIDE", "1");
    own.add().succeeds();
    own.del().succeeds();
    assert!(!own.owes());
}

/// No path can be this long.
#[test]
fn a_path_that_cannot_be_is_refused() {
    let case = Case::new().delegate(recorder("alpha"));
    let path = format!("/run/{}", "x".repeat(5000));
    case.call("ADD").env("CNI_NETNS", path).run().fails(4).says("CNI_NETNS").called_nothing();
}
