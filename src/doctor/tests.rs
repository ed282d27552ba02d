//! The checks, on made-up nodes.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use super::*;
use crate::netns::{Device, Identity, Link};
use crate::transaction::journal::State;

const MIN_AGE: Duration = Duration::from_secs(300);
/// An ID as long as those of runtimes.
const ID: &str = "3f9a610b7c2d4e5f8091a2b3c4d5e6f7";

fn empty_node() -> Node {
    Node {
        now: SystemTime::now(),
        running: Running { sees_all: true, ..Running::default() },
        attached: Attached::default(),
        results: Vec::new(),
        known_to_multus: HashSet::new(),
        reservations: Vec::new(),
        rules: Vec::new(),
        links: Vec::new(),
        addressed: HashSet::new(),
        redirected_to: HashSet::new(),
        claims: Vec::new(),
        configurations: Vec::new(),
        missing_plugins: Missing::new(),
        missing_programs: Missing::new(),
        missing_kinds: Missing::new(),
        tokens: Vec::new(),
        state_dirs: Vec::new(),
        unexamined: BTreeMap::new(),
    }
}

fn identity(inode: u64, cookie: impl Into<Value>) -> Identity {
    serde_json::from_value(json!({"device": 4, "inode": inode, "cookie": cookie.into()})).unwrap()
}

fn namespace(identity: Identity) -> Namespace {
    Namespace {
        identity,
        addresses: Vec::new(),
        macs: Vec::new(),
        number: None,
        has_process: true,
        access: Access::Entered,
    }
}

fn state(boot: &str, netns: &str, identity: &Value) -> State {
    let header = json!({"format": 1, "time": 0, "boot": boot, "netnsId": identity, "plan": {
        "network": "pods", "cniVersion": "1.0.0", "containerID": ID, "netns": netns, "ifname": "eth0",
        "path": "/opt/cni/bin", "position": "primary", "attachments": []}});
    State::new(serde_json::from_value(header).unwrap())
}

fn this_boot() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

/// A journal of a container in the namespace with inode 7 and cookie 70, whose path leads to `target` by now.
fn journal(target: PathTarget) -> JournalRecord {
    let state = state(&this_boot(), "/run/netns/web", &json!({"device": 4, "inode": 7, "cookie": 70}));
    JournalRecord { state_dir: "/var/lib/cni/braid".into(), state, target, default_routes: Vec::new() }
}

fn kinds(node: &Node) -> Vec<&'static str> {
    examine(node, MIN_AGE).iter().map(|finding| finding.kind.name()).collect()
}

/// A node that has this journal.
fn node_with(journal: JournalRecord) -> Node {
    let mut node = empty_node();
    node.attached.journals.push(journal);
    node
}

#[test]
fn a_container_is_gone_if_nothing_holds_its_namespace() {
    for target in [
        PathTarget::Nothing,
        PathTarget::SomethingElse,
        PathTarget::Namespace(identity(8, 80)),
        PathTarget::Namespace(identity(7, 71)),
    ] {
        let findings = examine(&node_with(journal(target)), MIN_AGE);
        assert_eq!(findings.len(), 1, "{target:?}");
        let finding = &findings[0];
        assert_eq!((finding.kind, &finding.mending), (Kind::ContainerGone, &Mending::Safe), "{target:?}");
        assert_eq!(finding.subject, format!("{ID}/eth0"));
    }
}

#[test]
fn a_container_lives_where_its_path_leads_to_its_namespace_or_might() {
    for target in [
        PathTarget::Namespace(identity(7, 70)),
        // A namespace whose cookie is not known, with the same inode.
        PathTarget::Namespace(identity(7, Value::Null)),
        PathTarget::Unknown,
    ] {
        assert_eq!(kinds(&node_with(journal(target))), [""; 0], "{target:?}");
    }
}

#[test]
fn a_container_lives_where_something_else_holds_its_namespace() {
    for held in [identity(7, 70), identity(7, Value::Null)] {
        let mut node = node_with(journal(PathTarget::Nothing));
        node.running.namespaces = vec![namespace(identity(9, 90)), namespace(held)];
        assert_eq!(kinds(&node), [""; 0], "{held:?}");
    }
    let mut node = node_with(journal(PathTarget::Nothing));
    node.running.namespaces = vec![namespace(identity(7, 71))];
    assert_eq!(kinds(&node), ["container-gone"], "it is another namespace with the same inode");
    node.running.cgroups.insert(ID.into());
    assert_eq!(kinds(&node), [""; 0], "a process is in the container's cgroup");
}

#[test]
fn a_container_of_an_earlier_boot_is_gone() {
    let mut one = journal(PathTarget::Namespace(identity(7, 70)));
    one.state.header.boot = "another".into();
    assert_eq!(kinds(&node_with(one)), ["container-gone"]);
}

#[test]
fn the_namespace_of_a_process_that_has_exited_must_be_known_and_all_processes_seen() {
    let mut one = journal(PathTarget::Unknown);
    one.state.header.plan.netns = "/proc/4711/ns/net".into();
    let mut node = node_with(one);
    assert_eq!(kinds(&node), ["container-gone"]);
    node.running.sees_all = false;
    assert_eq!(kinds(&node), [""; 0]);
    node.running.sees_all = true;
    node.attached.journals[0].state.header.netns_id = None;
    assert_eq!(kinds(&node), [""; 0]);
}

fn reservation(container_id: &str, age: u64) -> Reservation {
    Reservation {
        pool: "/var/lib/cni/networks/pods".into(),
        address: "10.1.0.7".parse().unwrap(),
        container_id: container_id.into(),
        age: Some(Duration::from_secs(age)),
    }
}

fn result(netns: &str, result: &Value) -> ResultRecord {
    let cached = json!({"kind": "cniCacheV1", "containerId": ID, "config": "e30=", "ifName": "eth0",
        "networkName": "pods", "netns": netns, "result": result});
    ResultRecord {
        cache_dir: "/var/lib/cni".into(),
        cached: serde_json::from_value(cached).unwrap(),
        target: PathTarget::Nothing,
        is_of_another_boot: false,
    }
}

#[test]
fn an_address_that_nothing_accounts_for_is_leaked() {
    let mut node = empty_node();
    node.reservations = vec![reservation(ID, 301), reservation("", 301), reservation(ID, 299)];
    let findings = examine(&node, MIN_AGE);
    assert!(findings.iter().all(|finding| finding.kind == Kind::AddressLeaked));
    let safe: Vec<bool> = findings.iter().map(|finding| finding.mending == Mending::Safe).collect();
    assert_eq!(safe, [true, true, false], "an ADD may be under way");
    // A namespace that may not be entered may have the address.
    node.running.namespaces = vec![Namespace { access: Access::Refused, ..namespace(identity(1, 1)) }];
    assert!(examine(&node, MIN_AGE).iter().all(|finding| finding.mending != Mending::Safe));
}

/// Changes a node.
type Change = fn(&mut Node);

#[test]
fn an_address_is_accounted_for_by_any_record_of_its_container_and_by_whoever_has_it() {
    let account: [(&str, Change); 7] = [
        ("a journal", |node| node.attached.journals.push(journal(PathTarget::Namespace(identity(7, 70))))),
        ("a debt", |node| {
            let (state_dir, id) = (PathBuf::from("/s"), format!("{ID}/eth0").parse().unwrap());
            node.attached.debts.push(DebtRecord { state_dir, id, state: state("", "", &Value::Null) });
        }),
        ("a journal that cannot be used", |node| {
            let (path, reason) = (PathBuf::from("/s/x"), String::new());
            node.attached.unusable.push(UnusableRecord { path, container_id: ID.into(), reason, debt: None });
        }),
        ("a cached result", |node| {
            node.results.push(ResultRecord { target: PathTarget::Unknown, ..result("/elsewhere/web", &json!({})) });
        }),
        ("Multus", |node| node.known_to_multus.extend([ID.to_owned()])),
        ("a namespace", |node| {
            let addresses = vec!["10.1.0.7".parse().unwrap()];
            node.running.namespaces = vec![Namespace { addresses, ..namespace(identity(1, 1)) }];
        }),
        ("a process", |node| node.running.cgroups.extend([ID.to_owned()])),
    ];
    for (what, account) in account {
        let mut node = empty_node();
        node.reservations = vec![reservation(ID, 1000)];
        assert_eq!(kinds(&node), ["address-leaked"]);
        account(&mut node);
        assert!(!kinds(&node).contains(&"address-leaked"), "{what}");
    }
    // Another container's cached result has the address, whatever host-local has recorded.
    let mut node = empty_node();
    node.reservations = vec![reservation("other", 1000)];
    let answer = json!({"cniVersion": "1.0.0", "ips": [{"address": "10.1.0.7/24"}]});
    node.results.push(ResultRecord { target: PathTarget::Unknown, ..result("/elsewhere/web", &answer) });
    assert_eq!(kinds(&node), [""; 0]);
}

#[test]
fn a_result_is_stale_where_everything_says_that_its_container_is_gone() {
    let answer = json!({"cniVersion": "1.0.0", "ips": [{"address": "10.1.0.7/24"}], "interfaces": [
        {"name": "eth0", "mac": "02:00:00:00:00:07", "sandbox": "/run/netns/web"}]});
    let node = |result: ResultRecord| Node { results: vec![result], ..empty_node() };
    assert_eq!(kinds(&node(result("/run/netns/web", &answer))), ["result-stale"]);
    let with = |target| node(ResultRecord { target, ..result("/run/netns/web", &answer) });
    assert_eq!(kinds(&with(PathTarget::SomethingElse)), ["result-stale"]);
    // libcni keeps no identity, so any namespace there may be the container's.
    assert_eq!(kinds(&with(PathTarget::Namespace(identity(7, 70)))), [""; 0]);
    assert_eq!(kinds(&with(PathTarget::Unknown)), [""; 0]);
    let old =
        ResultRecord { is_of_another_boot: true, target: PathTarget::Unknown, ..result("/run/netns/web", &answer) };
    assert_eq!(kinds(&node(old.clone())), ["result-stale"]);
    let mut set_clock = node(old);
    let addresses: Vec<std::net::IpAddr> = vec!["10.1.0.7".parse().unwrap()];
    set_clock.running.namespaces = vec![Namespace { addresses, ..namespace(identity(1, 1)) }];
    assert_eq!(kinds(&set_clock), [""; 0], "the clock was set forward, and the container lives");

    let loopback = json!({"cniVersion": "1.0.0", "ips": [{"address": "127.0.0.1/8", "interface": 0}, {"address": "::1/128"}],
        "interfaces": [{"name": "lo", "mac": "00:00:00:00:00:00", "sandbox": "/run/netns/web"}]});
    let mut beside = node(result("/run/netns/web", &loopback));
    let addresses = vec!["127.0.0.1".parse().unwrap(), "::1".parse().unwrap()];
    let macs = vec!["00:00:00:00:00:00".into()];
    beside.running.namespaces = vec![Namespace { addresses, macs, ..namespace(identity(1, 1)) }];
    assert_eq!(kinds(&beside), ["result-stale"], "every namespace has these");

    let mut moved = with(PathTarget::Nothing);
    let macs = vec!["02:00:00:00:00:07".into()];
    moved.running.namespaces = vec![Namespace { macs, ..namespace(identity(1, 1)) }];
    assert_eq!(kinds(&moved), [""; 0], "a namespace that lives has its interface");
    let mut known = with(PathTarget::Unknown);
    // Another network may give the same address.
    let addresses = vec!["10.1.0.7".parse().unwrap()];
    known.running.namespaces = vec![Namespace { addresses, ..namespace(identity(1, 1)) }];
    known.attached.journals.push(journal(PathTarget::Nothing));
    assert_eq!(kinds(&known), ["container-gone", "result-stale"], "the journal knows which namespace it was");
    known.attached.journals[0].target = PathTarget::Namespace(identity(7, 70));
    assert_eq!(kinds(&known), [""; 0]);

    let silent = result("", &answer);
    assert_eq!(silent.netns(), "/run/netns/web", "libcni before 1.2 does not write it down");
    assert_eq!(kinds(&node(silent)), ["result-stale"]);

    let process = |answer| node(ResultRecord { target: PathTarget::Unknown, ..result("/proc/4711/ns/net", answer) });
    assert_eq!(kinds(&process(&answer)), ["result-stale"]);
    assert_eq!(kinds(&process(&json!({"cniVersion": "1.0.0"}))), [""; 0], "it is not known whether others are in it");
}

fn veth(index: u32, name: &str, other_end: u32) -> Device {
    let link = Link { index, name: name.into(), mac: None, mtu: 1500, up: false };
    Device { link, kind: "veth".into(), other_end: Some(other_end), other_netns: None, master: None }
}

#[test]
fn a_veth_with_both_ends_on_the_host_is_orphaned_if_nobody_uses_it() {
    let node = Node { links: vec![veth(5, "veth0badcafe", 6), veth(6, "tmp0", 5)], ..empty_node() };
    let findings = examine(&node, MIN_AGE);
    assert_eq!((findings.len(), &*findings[0].subject, &findings[0].mending), (1, "veth0badcafe", &Mending::Safe));
    // Two such names are the two ends of one pair.
    let pair = Node { links: vec![veth(5, "veth0badcafe", 6), veth(6, "veth1badcafe", 5)], ..empty_node() };
    assert_eq!(examine(&pair, MIN_AGE).len(), 1);

    let mut in_a_bridge = node.clone();
    in_a_bridge.links[1].master = Some(2);
    assert_eq!(kinds(&in_a_bridge), [""; 0]);
    let addressed = Node { addressed: HashSet::from([5]), ..node.clone() };
    assert_eq!(kinds(&addressed), [""; 0]);
    let own =
        Node { links: vec![veth(5, "veth0", 6), veth(6, "veth1", 5), veth(7, "vethlab12345", 8)], ..empty_node() };
    assert_eq!(kinds(&own), [""; 0], "no plugin gives such names");
}

#[test]
fn a_veth_into_a_namespace_that_lives_is_that_containers() {
    let into = |number| Device { other_netns: Some(number), ..veth(5, "veth0badcafe", 2) };
    let mut node = Node { links: vec![into(3)], ..empty_node() };
    node.running.namespaces = vec![Namespace { number: Some(3), ..namespace(identity(7, 70)) }];
    assert_eq!(kinds(&node), [""; 0]);
    node.links = vec![into(4)];
    let findings = examine(&node, MIN_AGE);
    assert_eq!(findings[0].kind, Kind::InterfaceOrphaned);
    assert!(matches!(findings[0].mending, Mending::Not(_)), "a socket may hold the namespace");
    node.running.sees_all = false;
    assert_eq!(kinds(&node), [""; 0]);
}

#[test]
fn an_ifb_that_nothing_is_sent_through_is_orphaned() {
    let link = Link { index: 9, name: "bwp0123456789ab".into(), mac: None, mtu: 1500, up: true };
    let ifb = Device { link, kind: "ifb".into(), other_end: None, other_netns: None, master: None };
    let mut node = Node { links: vec![ifb.clone()], ..empty_node() };
    assert_eq!(kinds(&node), ["interface-orphaned"]);
    node.redirected_to.insert(9);
    assert_eq!(kinds(&node), [""; 0]);
    let own = Device { link: Link { name: "ifb0".into(), ..ifb.link.clone() }, ..ifb };
    assert_eq!(kinds(&Node { links: vec![own], ..empty_node() }), [""; 0]);
}

#[test]
fn an_interface_that_a_record_names_is_not_orphaned() {
    let answer = json!({"cniVersion": "1.0.0", "interfaces": [{"name": "veth0badcafe"}]});
    let mut node = Node { links: vec![veth(5, "veth0badcafe", 6), veth(6, "tmp0", 5)], ..empty_node() };
    node.results.push(ResultRecord { target: PathTarget::Unknown, ..result("/elsewhere/web", &answer) });
    assert_eq!(kinds(&node), [""; 0]);
}

/// The configurations of a directory with these files.
fn configurations(files: &[(&str, &str)]) -> Vec<Configuration> {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        fs::write(dir.path().join(name), text).unwrap();
    }
    setup::configurations(dir.path()).0
}

fn findings_of_files(files: &[(&str, &str)]) -> Vec<Finding> {
    examine(&Node { configurations: configurations(files), ..empty_node() }, MIN_AGE)
}

const BRAID: &str =
    r#"{"cniVersion":"1.0.0","name":"braid","plugins":[{"type":"braid","delegates":[{"type":"alpha"}]}]}"#;
const OTHER: &str = r#"{"cniVersion":"1.0.0","name":"other","plugins":[{"type":"alpha"}]}"#;

#[test]
fn what_comes_before_braids_configuration_hides_it() {
    let names = |files: &[(&str, &str)]| findings_of_files(files).iter().map(|one| one.kind.name()).collect::<Vec<_>>();
    let findings = findings_of_files(&[("10-braid.conflist", BRAID), ("05-other.conflist", OTHER)]);
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert_eq!(findings[0].kind, Kind::ConfigurationHidden);
    assert!(findings[0].subject.ends_with("10-braid.conflist") && findings[0].meaning.contains("05-other.conflist"));
    assert_eq!(names(&[("00-braid.conflist", BRAID), ("05-other.conflist", OTHER)]), [""; 0]);
    // Runtimes skip a file that cannot be read.
    assert_eq!(names(&[("00-broken.conflist", "{"), ("10-braid.conflist", BRAID)]), [""; 0]);
    // The file name decides, whatever its ending.
    let single = r#"{"cniVersion":"1.0.0","name":"other","type":"alpha"}"#;
    assert_eq!(names(&[("05-other.conf", single), ("10-braid.conflist", BRAID)]), ["configuration-hidden"]);
    let same = OTHER.replace("other", "braid");
    let findings = findings_of_files(&[("00-a.conflist", &same), ("10-braid.conflist", BRAID)]);
    assert_eq!(findings.len(), 2, "it comes first, and has the same name: {findings:?}");
}

#[test]
fn braid_and_multus_side_by_side_are_two_defaults() {
    let multus = r#"{"cniVersion":"1.0.0","name":"multus-cni-network","plugins":[{"type":"multus","delegates":[{"type":"alpha"}]}]}"#;
    let findings = findings_of_files(&[("00-braid.conflist", BRAID), ("00-multus.conflist", multus)]);
    assert_eq!(findings.iter().map(|one| one.kind).collect::<Vec<_>>(), [Kind::TwoDefaults], "{findings:?}");
    assert_eq!(findings_of_files(&[("00-multus.conflist", multus)]), []);
}

#[test]
fn two_networks_that_set_a_default_route_are_two_defaults_unless_one_is_chosen() {
    let ipam = r#"{"type":"host-local","ranges":[[{"subnet":"10.1.0.0/24"}]]}"#;
    let gateway = format!(r#"{{"name":"front","type":"bridge","isDefaultGateway":true,"ipam":{ipam}}}"#);
    let routed = r#"{"name":"back","type":"macvlan","ipam":{"type":"host-local","subnet":"10.2.0.0/24","routes":[{"dst":"0.0.0.0/0"}]}}"#;
    let six = r#"{"name":"six","type":"macvlan","ipam":{"type":"host-local","subnet":"fd00::/64","routes":[{"dst":"::/0"}]}}"#;
    let plain = r#"{"name":"back","type":"macvlan","ipam":{"type":"host-local","subnet":"10.2.0.0/24"}}"#;
    let found = |delegates: &[&str]| {
        let conf = format!(
            r#"{{"cniVersion":"1.0.0","name":"braid","plugins":[{{"type":"braid","delegates":[{}]}}]}}"#,
            delegates.join(",")
        );
        findings_of_files(&[("00-braid.conflist", &conf)]).into_iter().map(|one| one.meaning).collect::<Vec<_>>()
    };
    let findings = found(&[&gateway, routed]);
    assert_eq!(findings, ["networks front and back all set a default route of IPv4"]);
    assert_eq!(found(&[&gateway, plain]), [""; 0]);
    assert_eq!(found(&[&gateway, six]), [""; 0], "they are of two families");
    let chosen = format!(r#"{{"default-route":["10.2.0.1"],"config":{routed}}}"#);
    assert_eq!(found(&[&gateway, &chosen]), [""; 0]);
    let some = format!(r#"{{"when":{{"namespace":["prod"]}},"config":{routed}}}"#);
    assert_eq!(found(&[&gateway, &some]), [""; 0], "only some containers get it");
}

#[test]
fn two_default_routes_of_a_container_are_two_defaults() {
    let route = |interface: &str, metric: Option<u32>| crate::netns::DefaultRoute {
        metric,
        ..crate::netns::DefaultRoute::via(interface, "10.1.0.1".parse().unwrap())
    };
    let with = |routes: Vec<crate::netns::DefaultRoute>| {
        node_with(JournalRecord { default_routes: routes, ..journal(PathTarget::Namespace(identity(7, 70))) })
    };
    assert_eq!(kinds(&with(vec![route("eth0", None), route("net1", None)])), ["two-defaults"]);
    assert_eq!(kinds(&with(vec![route("eth0", None), route("net1", Some(100))])), [""; 0]);
    assert_eq!(kinds(&with(vec![route("eth0", None)])), [""; 0]);
}

#[test]
fn the_state_directories_of_configurations_are_looked_at_too() {
    let conf = BRAID.replace(r#""type":"braid""#, r#""type":"braid","stateDir":"/run/own""#);
    let found = setup::state_dirs(Path::new("/run/given"), &configurations(&[("00-braid.conflist", &conf)]));
    assert_eq!(found, ["/run/given", "/run/own", "/var/lib/cni/braid"].map(PathBuf::from));
}
