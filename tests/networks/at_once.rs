//! `"concurrency": "auto"` with the reference plugins: those that its table allows to run at once work at once.

use std::fs;
use std::path::PathBuf;

use rstest::rstest;
use serde_json::{Value, json};

use crate::support::{
    Case, Json as _, Network, Plugin, bandwidth, bridge, firewall, macvlan, new_plugins, portmap, ptp, recorder,
    reference_plugins, tuning,
};

/// The number of rounds: 2, or `BRAID_TEST_ROUNDS`.
fn rounds() -> usize {
    std::env::var("BRAID_TEST_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(2)
}

fn fixed(address: &str) -> Value {
    json!({"type": "static", "addresses": [{"address": address}]})
}

/// Each plugin that the table allows beside others is used at least once, and few attachments have to wait for each other. The
/// primary network has a chain, whose last plugins run beside them.
fn every_row(folder: PathBuf, concurrency: Value) -> Case {
    let is_new = new_plugins().is_some_and(|new| new == folder);
    let case = Case::new().host_link("par0");
    // It is down, because its plugin returns it like that.
    case.host().ip("link add dev0 type veth peer name dev0-peer");
    let arp_filter = tuning().without("mtu").key("sysctl", json!({"net.ipv4.conf.IFNAME.arp_filter": "1"}));
    let own = |name: &str, plugin: Plugin| Network::new(name).plugin(plugin);
    // The CHECK of portmap before 1.2 looks for the IPv4 rules in ip6tables and always fails.
    let ports = own("ports", bridge("br-a", "10.11.6.0/24")).plugin(portmap()).key("disableCheck", !is_new);
    // The CHECK of tuning before 1.2 does not replace IFNAME.
    let arped = |name: &str, plugin: Plugin| own(name, plugin).plugin(arp_filter.clone()).key("disableCheck", !is_new);
    let one = macvlan("par0", "10.11.1.0/24");
    let other = macvlan("par0", "10.11.2.0/24");
    let device = Plugin::new("d", "host-device").key("device", "dev0").key("ipam", fixed("10.11.5.2/24"));
    let case = case
        .plugins_in(folder)
        .key("concurrency", concurrency)
        .delegate(arped("primary", bridge("br-p", "10.11.9.0/24")).plugin(firewall()).plugin(bandwidth()))
        .delegate(json!({
            "interface": "ports0",
            "portMappings": [{"hostPort": 8081, "containerPort": 80, "protocol": "tcp"}],
            "config": serde_json::from_str::<Value>(&ports.into_json()).expect("a network"),
        }))
        .delegate(own("walled", bridge("br-b", "10.11.7.0/24")).plugin(firewall()))
        .delegate(own("limited", ptp("10.11.8.0/24").key("ipMasq", true)).plugin(bandwidth()))
        .delegate(arped("one", one))
        .delegate(arped("other", other))
        .delegate(own("device", device));
    if !is_new {
        return case;
    }
    let tap = Plugin::new("t", "tap").key("ipam", fixed("10.11.10.2/24"));
    case.delegate(own("tap", tap))
}

/// The state of the host, without random names and numbers.
fn made(case: &Case) -> Vec<String> {
    let word = |word: &str| {
        let is_mac = word.len() == 17 && word.matches(':').count() == 5;
        let is_veth = word.starts_with("veth") && word.len() > 8;
        let plain = if is_mac {
            "MAC"
        } else if is_veth {
            "VETH"
        } else {
            word
        };
        plain.to_owned()
    };
    let line = |line: &str| line.split(' ').map(word).collect::<Vec<_>>().join(" ");
    let is_told = |line: &&str| !line.contains("qdisc") && !line.contains("recorder/");
    let mut lines: Vec<_> = case.changes().lines().filter(is_told).map(line).collect();
    lines.sort();
    lines
}

#[rstest]
#[case::stable(Some(reference_plugins()))]
#[case::new(new_plugins())]
fn what_runs_at_once_makes_and_leaves_what_it_does_one_by_one(#[case] folder: Option<PathBuf>) {
    let Some(folder) = folder else { return eprintln!("skipped: BRAID_TEST_CNI_PATH_NEW names no folder of plugins") };
    let one_by_one = every_row(folder.clone(), json!(1));
    one_by_one.add().succeeds();
    let expected = made(&one_by_one);
    assert!(expected.len() > 20, "{expected:#?}");
    one_by_one.del().succeeds().leaves_nothing();

    let at_once = every_row(folder.clone(), json!("auto"));
    let failing = every_row(folder, json!("auto")).delegate(recorder("beta").failing("ADD", 142));
    for _ in 0..rounds() {
        // host-local continues with the next address.
        drop(fs::remove_dir_all(at_once.dir().join("ipam")));
        at_once.add().succeeds();
        assert_eq!(made(&at_once), expected);
        at_once.check().succeeds();
        at_once.del().succeeds().leaves_nothing();
        failing.add().fails(142).leaves_nothing();
    }
}
