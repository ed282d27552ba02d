//! New values for the reference plugins `bandwidth`, `portmap`, `firewall` and `tuning`.
//!
//! Each result is compared with a container that had the new values from the start.

use std::path::PathBuf;

use rstest::rstest;
use serde_json::{Value, json};

use super::{change, interfaces, live, update};
use crate::support::{
    Case, Network, Plugin, bridge, firewall, new_plugins, portmap, recorder, reference_plugins, tuning,
};

/// A bridge with these plugins after it.
fn chain(plugins: &[Plugin]) -> Value {
    let first = Network::new("one").plugin(bridge("br-one", "10.61.1.0/24"));
    let network = plugins.iter().cloned().fold(first, Network::plugin);
    serde_json::from_str(&crate::support::Json::into_json(network)).expect("JSON")
}

fn case(folder: PathBuf, plugins: &[Plugin]) -> Case {
    live(Case::new().plugins_in(folder), &[chain(plugins)])
}

fn limits(values: &[(&str, u64)]) -> Plugin {
    values.iter().fold(Plugin::new("net-bandwidth", "bandwidth"), |plugin, (key, value)| plugin.key(key, *value))
}

const INGRESS: [(&str, u64); 2] = [("ingressRate", 8_000_000), ("ingressBurst", 800_000)];
const EGRESS: [(&str, u64); 2] = [("egressRate", 4_000_000), ("egressBurst", 400_000)];

/// The qdiscs and filters of the host, without the numbers and names that the kernel generates.
fn qdiscs(case: &Case) -> Vec<String> {
    let text = case.host().run("tc -d qdisc show");
    let mut lines: Vec<String> = text
        .lines()
        .map(|line| {
            let words = line.split_whitespace().map(|word| if word.starts_with("veth") { "veth" } else { word });
            words.collect::<Vec<_>>().join(" ")
        })
        .collect();
    lines.sort();
    lines
}

#[rstest]
fn limits_are_as_a_fresh_add_makes_them(
    #[values(true, false)] is_new: bool,
    #[values(&[("ingressRate", 0), ("ingressBurst", 0)][..], &INGRESS[..], &EGRESS[..], &[INGRESS[0], INGRESS[1], EGRESS[0], EGRESS[1]][..])]
    from: &[(&str, u64)],
    #[values("ingress=16M,egress=2M,egressBurst=1M", "ingress=none,egress=3M", "egress=none,ingress=9M", "none")]
    to: &str,
) {
    let Some(folder) = (if is_new { new_plugins() } else { Some(reference_plugins()) }) else { return };
    let changed = case(folder.clone(), &[limits(from)]);
    changed.add().succeeds();
    let outcome = update(&changed, &["eth0", "--bandwidth", to]).succeeds();
    let result = outcome.result().clone();
    assert_eq!(interfaces(&result), ["eth0"]);

    // A new ADD gets the values that are in the journal now.
    let shown = changed.braid(&["show", Case::CONTAINER, "--state-dir", "@DIR@/state", "-o", "json"]).output();
    let shown: Value = serde_json::from_slice(&shown.stdout).expect("JSON");
    let config = shown[0]["attachments"][0]["plugins"][1]["config"].clone();
    let fresh = live(
        Case::new().plugins_in(folder),
        &[json!({"cniVersion": "1.0.0", "name": "one", "plugins": [
        chain(&[])["plugins"][0], config]})],
    );
    fresh.add().succeeds();
    assert_eq!(qdiscs(&changed), qdiscs(&fresh));
    let has_ifb = |result: &Value| {
        result["interfaces"]
            .as_array()
            .is_some_and(|all| all.iter().any(|one| one["name"].as_str().is_some_and(|name| name.starts_with("bwp"))))
    };
    assert_eq!(has_ifb(&result), qdiscs(&changed).iter().any(|line| line.contains("ingress")), "{result:#}");

    changed.check().succeeds();
    changed.del().succeeds().leaves_nothing();
    fresh.del().succeeds();
}

/// Braid does not change a qdisc of another program.
#[rstest]
#[case::root("qdisc add dev VETH root handle 1: tbf rate 1mbit burst 10000 limit 20000", "a qdisc (tbf)")]
#[case::ingress("qdisc add dev VETH ingress", "a qdisc (ingress)")]
fn what_is_foreign_is_an_error_and_stays(#[case] command: &str, #[case] what: &str) {
    let case = case(reference_plugins(), &[limits(&[("ingressRate", 0), ("ingressBurst", 0)])]);
    case.add().succeeds();
    let links = case.host().ip_json("link show type veth");
    let veth = links.iter().filter_map(|link| link["ifname"].as_str()).find(|name| name.starts_with("veth"));
    case.host().run(&format!("tc {}", command.replace("VETH", veth.expect("the host's end"))));
    let before = qdiscs(&case);
    update(&case, &["eth0", "--bandwidth", "ingress=8M,egress=8M"])
        .fails_with_any_code()
        .says(what)
        .says("move it into");
    assert_eq!(qdiscs(&case), before);
    case.check().succeeds();
    case.del().succeeds().leaves_nothing();
}

/// There is another program's filter next to the redirection. Removing the limit would remove that filter.
#[test]
fn a_foreign_filter_is_an_error_and_stays() {
    let case = case(reference_plugins(), &[limits(&EGRESS)]);
    case.add().succeeds();
    let before = qdiscs(&case);
    let text = case.host().run("tc qdisc show");
    let veth = text.lines().find(|line| line.contains("ingress")).and_then(|line| line.split_whitespace().nth(4));
    let veth = veth.expect("the host's end").to_owned();
    let filter = format!("dev {veth} parent ffff: protocol ip prio 9");
    case.host().run(&format!("tc filter add {filter} u32 match u32 0 0 flowid 1:1"));
    for limits in ["egress=none", "egress=9M", "none"] {
        update(&case, &["eth0", "--bandwidth", limits]).fails_with_any_code().says("a filter (u32)");
        assert_eq!(qdiscs(&case), before);
        assert!(case.host().run(&format!("tc filter show dev {veth} parent ffff:")).contains("pref 9"));
    }
    case.host().run(&format!("tc filter del {filter}"));
    update(&case, &["eth0", "--bandwidth", "egress=9M"]).succeeds();
    case.check().succeeds();
    case.del().succeeds().leaves_nothing();
}

/// Limits that came as arguments of the capability stay there, and CHECK agrees with the new ones.
#[rstest]
#[case::stable(Some(reference_plugins()))]
#[case::new(new_plugins())]
fn limits_of_the_capability(#[case] folder: Option<PathBuf>) {
    let Some(folder) = folder else { return eprintln!("skipped: BRAID_TEST_CNI_PATH_NEW names no folder of plugins") };
    let declaring = Plugin::new("", "bandwidth").key("capabilities", json!({"bandwidth": true}));
    let case = case(folder, &[]);
    let case = super::network(case, "two", &[bridge("br-two", "10.61.2.0/24"), declaring]);
    case.add().succeeds();
    let limited = json!({"name": "two", "interface": "net1",
        "bandwidth": {"ingressRate": 8_000_000, "ingressBurst": 800_000}});
    super::attach(&case, &[&limited.to_string()]).succeeds();
    let rates = || {
        let lines = qdiscs(&case).into_iter().filter_map(|line| {
            let (_, rest) = line.split_once("rate ")?;
            rest.split_whitespace().next().map(str::to_owned)
        });
        lines.collect::<Vec<_>>()
    };
    assert_eq!(rates(), ["8Mbit"]);
    for (limits, expected) in [
        ("egress=4M", &["4Mbit", "8Mbit"][..]),
        ("ingress=none,egress=5M", &["5Mbit"]),
        ("none", &[]),
        ("ingress=6M", &["6Mbit"]),
    ] {
        update(&case, &["net1", "--bandwidth", limits]).succeeds();
        let mut now = rates();
        now.sort();
        assert_eq!(now, expected, "{limits}");
        case.check().succeeds();
    }
    super::detach(&case, &["net1"]).succeeds();
    assert!(rates().is_empty());
    case.del().succeeds().leaves_nothing();
}

#[test]
fn a_limit_adds_a_step_where_the_chain_has_none() {
    let case = case(reference_plugins(), &[]);
    case.add().succeeds();
    let outcome = update(&case, &["eth0", "--bandwidth", "egress=8M", "-o", "json"]).succeeds();
    let report = outcome.result().clone();
    assert_eq!(report["container"], Case::CONTAINER);
    assert_eq!(report["interface"], "eth0");
    let steps: Vec<_> = report["steps"].as_array().expect("a list").iter().collect();
    assert_eq!(
        (steps.len(), &steps[0]["plugin"], &steps[0]["verb"], &steps[0]["step"]),
        (1, &json!("bandwidth"), &json!("ADD"), &json!(1))
    );
    assert!(steps[0]["ms"].as_f64().is_some_and(|ms| ms > 0.0), "{report:#}");
    assert!(qdiscs(&case).iter().any(|line| line.contains("rate 8Mbit")), "{:?}", qdiscs(&case));
    case.check().succeeds();
    update(&case, &["eth0", "--bandwidth", "egress=16M"]).succeeds();
    assert!(qdiscs(&case).iter().any(|line| line.contains("rate 16Mbit")), "{:?}", qdiscs(&case));
    case.check().succeeds();
    case.del().succeeds().leaves_nothing();
}

/// Setting values that are already set runs no plugin, and prints that.
#[test]
fn equal_values_run_nothing() {
    let case = case(reference_plugins(), &[limits(&INGRESS)]);
    case.add().succeeds();
    let outcome = update(&case, &["eth0", "--bandwidth", "ingress=8M", "-o", "json"]).succeeds();
    assert_eq!(outcome.result()["steps"], json!([]));
    case.del().succeeds().leaves_nothing();
}

#[test]
fn a_dry_run_says_what_would_be_done_and_does_nothing() {
    let case = case(reference_plugins(), &[limits(&INGRESS), portmap()]);
    case.add().succeeds();
    let before = (qdiscs(&case), nat(&case));
    let dry = super::change(
        &case,
        "update",
        &["eth0", "--bandwidth", "ingress=1M", "--port-mappings", "8080:80", "--dry-run"],
    );
    let output = dry.output();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{output:?}");
    for line in ["change  eth0       bandwidth", "DEL     eth0       portmap", "ADD     eth0       portmap"] {
        assert!(text.contains(line), "{line:?} is not in\n{text}");
    }
    assert_eq!((qdiscs(&case), nat(&case)), before);
    case.del().succeeds().leaves_nothing();
}

/// The rules, without counters and without the chains that the plugin leaves by design.
fn nat(case: &Case) -> Vec<String> {
    let text = case.host().run("iptables-save -t nat");
    let mut lines: Vec<String> = text
        .lines()
        .filter(|line| line.starts_with("-A") && !line.contains("CNI-HOSTPORT"))
        .map(str::to_owned)
        .collect();
    lines.sort();
    lines
}

#[rstest]
#[case::stable(Some(reference_plugins()))]
#[case::new(new_plugins())]
fn port_mappings_are_as_a_fresh_add_makes_them(#[case] folder: Option<PathBuf>) {
    let Some(folder) = folder else { return eprintln!("skipped: BRAID_TEST_CNI_PATH_NEW names no folder of plugins") };
    let mapped = |mappings: Value| case(folder.clone(), &[portmap()]).runtime_config(json!({"portMappings": mappings}));
    let one = json!([{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]);
    let two = json!([
        {"hostPort": 8081, "containerPort": 80, "protocol": "tcp"},
        {"hostPort": 5353, "containerPort": 53, "protocol": "udp"},
    ]);
    let changed = mapped(one.clone());
    changed.add().succeeds();
    for (text, mappings) in [("8081:80,5353:53/udp", two), ("none", json!([])), ("8080:80/tcp", one)] {
        update(&changed, &["eth0", "--port-mappings", text]).succeeds();
        let fresh = mapped(mappings);
        fresh.add().succeeds();
        assert_eq!(nat(&changed), nat(&fresh), "{text}");
        fresh.del().succeeds();
    }
    changed.del().succeeds().leaves_nothing();
}

/// This backend marks its rules only with the container's ID, so a DEL removes those of all its attachments.
#[test]
fn port_mappings_by_nftables() {
    let Some(folder) = new_plugins() else { return eprintln!("skipped: there are no plugins that know nftables") };
    let by_nft = portmap().key("backend", "nftables");
    let case = case(folder, std::slice::from_ref(&by_nft))
        .runtime_config(json!({"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]}));
    let case = super::network(case, "two", &[bridge("br-two", "10.61.2.0/24"), by_nft]);
    case.add().succeeds();
    let ports = || {
        let rules = case.host().run("nft list ruleset");
        let ports = [8080, 8081, 9090].into_iter().filter(|port| rules.contains(&format!("dport {port} dnat")));
        ports.collect::<Vec<_>>()
    };
    assert_eq!(ports(), [8080]);
    update(&case, &["eth0", "--port-mappings", "8081:80"]).succeeds();
    assert_eq!(ports(), [8081]);
    let mapped = json!([{"hostPort": 9090, "containerPort": 90, "protocol": "tcp"}]);
    let second = json!({"name": "two", "interface": "net1", "portMappings": mapped}).to_string();
    super::attach(&case, &[&second]).fails(7).says("nftables");
    assert_eq!(ports(), [8081]);
    // Without rules of its own, nothing can be removed by mistake.
    super::attach(&case, &["two@net1"]).succeeds();
    update(&case, &["net1", "--port-mappings", "9090:90"]).fails(7).says("nftables");
    super::detach(&case, &["net1"]).succeeds();
    assert_eq!(ports(), [8081]);
    update(&case, &["eth0", "--port-mappings", "none"]).succeeds();
    assert!(ports().is_empty());
    case.check().succeeds();
    case.del().succeeds().leaves_nothing();
}

/// Open connections continue. New connections reach the new port and not the old one.
#[test]
fn a_port_moves_under_an_open_connection() {
    use std::io::{Read as _, Write as _};
    use std::net::{SocketAddr, TcpListener, TcpStream};
    use std::time::Duration;

    let case = case(reference_plugins(), &[portmap()])
        .runtime_config(json!({"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]}));
    case.add().succeeds();
    let listener = case.pod().inside(|| TcpListener::bind("0.0.0.0:80")).expect("listen");
    let connect = |port: u16| {
        let address: SocketAddr = format!("10.61.1.1:{port}").parse().expect("an address");
        case.host().inside(|| TcpStream::connect_timeout(&address, Duration::from_secs(2)))
    };
    let mut client = connect(8080).expect("the mapped port");
    let (mut served, _) = listener.accept().expect("a connection");
    update(&case, &["eth0", "--port-mappings", "8081:80"]).succeeds();
    client.write_all(b"still here").expect("write");
    let mut text = [0; 10];
    served.read_exact(&mut text).expect("read");
    assert_eq!(&text, b"still here");
    assert!(connect(8080).is_err());
    assert!(connect(8081).is_ok());
    case.del().succeeds().leaves_nothing();
}

/// The plugin does not check whether a host port is taken.
#[test]
fn a_host_port_of_another_container_is_refused() {
    let case = case(reference_plugins(), &[portmap()])
        .runtime_config(json!({"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]}));
    case.add().succeeds();
    let other = crate::support::Namespace::new("other");
    let second = |verb: &str| {
        case.call(verb)
            .env("CNI_CONTAINERID", "container-2")
            .env("CNI_NETNS", other.path())
            .key("runtimeConfig", json!({"portMappings": [{"hostPort": 9090, "containerPort": 80, "protocol": "tcp"}]}))
            .run()
            .succeeds()
    };
    second("ADD");
    let before = nat(&case);
    for words in
        [&["eth0", "--port-mappings", "9080-9099:80-99"][..], &["eth0", "--port-mappings", "9090:80", "--dry-run"]]
    {
        update(&case, words).fails(7).says("9090/tcp").says("container-2");
    }
    assert_eq!(nat(&case), before);
    update(&case, &["eth0", "--port-mappings", "9090:80/udp"]).succeeds();
    second("DEL");
    case.del().succeeds().leaves_nothing();
}

/// The values of links inside, as far as `tuning` sets them.
fn tuned(case: &Case) -> (u64, String, String, bool) {
    let link = case.pod().ip_json("-d link show eth0").swap_remove(0);
    let sysctl = case.pod().run("cat /proc/sys/net/ipv4/conf/eth0/log_martians");
    (
        link["mtu"].as_u64().expect("a number"),
        link["address"].as_str().expect("text").to_owned(),
        sysctl.trim().to_owned(),
        link["promiscuity"].as_u64().is_some_and(|count| count > 0),
    )
}

#[rstest]
#[case::stable(Some(reference_plugins()))]
#[case::new(new_plugins())]
fn tuned_values_are_changed_and_taken_back(#[case] folder: Option<PathBuf>) {
    let Some(folder) = folder else { return eprintln!("skipped: BRAID_TEST_CNI_PATH_NEW names no folder of plugins") };
    let case = case(folder, &[tuning(), firewall()]);
    case.add().succeeds();
    let original = tuned(&case);
    assert_eq!((original.0, original.2.as_str()), (1400, "0"));
    let mac = "02:00:00:00:00:07";
    let outcome = update(
        &case,
        &[
            "eth0",
            "--plugin",
            "tuning",
            "--set",
            "mtu=1300",
            "--set",
            "mac=\"02:00:00:00:00:07\"",
            "--set",
            "promisc=true",
            "--set",
            "sysctl={\"net.ipv4.conf.eth0.log_martians\":\"1\"}",
        ],
    )
    .succeeds();
    assert_eq!(tuned(&case), (1300, mac.into(), "1".into(), true));
    let eth0 =
        outcome.result()["interfaces"].as_array().expect("a list").iter().find(|one| one["name"] == "eth0").cloned();
    assert_eq!(eth0.expect("eth0")["mac"], mac);
    case.check().succeeds();

    // An update can remove what an update has set.
    update(
        &case,
        &[
            "eth0", "--plugin", "tuning", "--unset", "sysctl", "--unset", "mac", "--unset", "promisc", "--set",
            "mtu=1400",
        ],
    )
    .succeeds();
    assert_eq!(tuned(&case), original);
    case.check().succeeds();
    case.del().succeeds().leaves_nothing();
}

/// The value of a parameter before the ADD that set it is not known.
#[test]
fn a_parameter_that_add_has_set_is_not_taken_back() {
    let set = tuning().key("sysctl", json!({"net.ipv4.conf.eth0.log_martians": "1"}));
    let case = case(reference_plugins(), &[set]);
    case.add().succeeds();
    update(&case, &["eth0", "--plugin", "tuning", "--unset", "sysctl"]).fails(7).says("log_martians").says("not known");
    assert_eq!(tuned(&case).2, "1");
    update(&case, &["eth0", "--plugin", "tuning", "--set", "sysctl={\"net.ipv4.conf.eth0.log_martians\":\"0\"}"])
        .succeeds();
    assert_eq!(tuned(&case).2, "0");
    case.del().succeeds().leaves_nothing();
}

/// If a plugin fails with its new values, the old ones stay in force.
#[rstest]
#[case::tuning("tuning", "sysctl={\"net.ipv4.conf.IFNAME.no_such\":\"1\"}")]
#[case::bandwidth("bandwidth", "ingressBurst=0")]
#[case::firewall("firewall", "backend=\"firewalld\"")]
fn a_plugin_that_refuses_its_new_values_has_its_old_ones(#[case] plugin: &str, #[case] value: &str) {
    let case = case(reference_plugins(), &[tuning(), limits(&INGRESS), firewall()]);
    case.add().succeeds();
    let filter = |case: &Case| {
        case.host()
            .run("iptables-save -t filter")
            .lines()
            .filter(|line| line.starts_with("-A") && !line.contains("CNI-HOSTPORT"))
            .collect::<String>()
    };
    let state = |case: &Case| (qdiscs(case), filter(case), tuned(case));
    let before = state(&case);
    update(&case, &["eth0", "--plugin", plugin, "--set", value]).fails_with_any_code();
    assert_eq!(state(&case), before);
    case.check().succeeds();
    case.del().succeeds().leaves_nothing();
}

#[test]
fn what_cannot_be_changed_is_refused_with_what_to_do() {
    let case = live(Case::new(), &[recorder("alpha").link().ip("10.1.0.5/24").value()]);
    case.add().succeeds();
    let refused = |words: &[&str], says: &str| drop(update(&case, words).fails(7).says(says));
    refused(&["eth0", "--plugin", "alpha", "--set", "a=1"], "braid detach and braid attach");
    refused(&["eth0", "--port-mappings", "80:80"], "move it into the delegate's chain");
    refused(&["net9", "--bandwidth", "none"], "net9");
    assert_eq!(case.order(), ["ADD alpha eth0"]);
    case.del().succeeds().leaves_nothing();
}

/// A wrong command line is refused, and the message says what is expected.
#[test]
fn values_that_contradict_themselves_are_refused() {
    let case = case(reference_plugins(), &[limits(&INGRESS), tuning(), portmap()]);
    case.add().succeeds();
    let before = qdiscs(&case);
    let refused = |words: &[&str], code: u64, says: &str| drop(update(&case, words).fails(code).says(says));
    refused(&["eth0", "--plugin", "tuning", "--set", "mtu=1300", "--unset", "mtu"], 7, "give only one of them");
    refused(&["eth0", "--plugin", "tuning#2", "--set", "mtu=1300"], 7, "no tuning#2, only 1");
    refused(&["eth0", "--plugin", "bandwidth", "--set", "shapedSubnets=[]"], 7, "only its limits");
    refused(&["eth0", "--port-mappings", "8080:80,8080:81"], 7, "8080/tcp is given twice");
    refused(&["eth0", "--bandwidth", "ingress=400G,ingressBurst=80k"], 7, "ingressBurst=400000");
    refused(&["eth0", "--plugin", "tuning"], 7, "--set KEY=JSON");
    assert_eq!(qdiscs(&case), before);
    // The burst of a tenth of a second would be larger than the plugin's type allows.
    update(&case, &["eth0", "--bandwidth", "ingress=none"]).succeeds();
    update(&case, &["eth0", "--bandwidth", "ingress=400G"]).succeeds();
    case.del().succeeds().leaves_nothing();
}

/// `--set a=1 b=2` and `--unset c d`, before and after the container's ID.
#[test]
fn several_keys_follow_one_option() {
    let case = case(reference_plugins(), &[tuning()]);
    case.add().succeeds();
    let show = |words: &[&str]| {
        let words = [&["eth0", "--dry-run", "--plugin", "tuning"], words].concat();
        String::from_utf8(change(&case, "update", &words).output().stdout).expect("UTF-8")
    };
    let shown = show(&["--set", "mtu=1300", "promisc=true", "allmulti=true"]);
    assert!(shown.contains(r#""mtu":1300,"promisc":true,"allmulti":true"#), "{shown}");
    assert_eq!(shown, show(&["--set", "mtu=1300", "--set", "promisc=true", "allmulti=true"]));
    let shown = show(&["--unset", "allmulti", "mtu", "--set", "promisc=true"]);
    assert!(!shown.lines().any(|line| line.starts_with("ADD") && line.contains("mtu")), "{shown}");
    for (words, message) in [
        (&["--set", "mtu=1300", "promisc"][..], "--unset is missing before \"promisc\""),
        (&["--unset", "mtu", "promisc=true"], "--set is missing before \"promisc\""),
        (&["--set", "mtu=1300", "mtu=1400"], "twice"),
    ] {
        update(&case, &[&["eth0", "--plugin", "tuning"], words].concat()).fails(7).says(message);
    }
    case.del().succeeds().leaves_nothing();
}
