//! Networks that are attached to a running container, and detached again.

use std::os::unix::fs::MetadataExt;

use serde_json::{Value, json};

use super::{attach, change, detach, interfaces, live, network, update};
use crate::support::{Case, Network, Plugin, bridge, host_local, portmap, ptp, recorder};

/// A container on one recorder's network, and two more networks to be attached.
fn case() -> Case {
    let case = live(Case::new(), &[recorder("alpha").link().ip("10.1.0.5/24").value()]);
    let case = network(case, "blue", &[recorder("beta").link().ip("10.2.0.5/24"), recorder("gamma")]);
    network(case, "green", &[recorder("delta").link().ip("10.3.0.5/24")])
}

fn list(case: &Case) -> Value {
    let output = case.braid(&["list", "--state-dir", "@DIR@/state", "-o", "json"]).output();
    serde_json::from_slice(&output.stdout).expect("JSON")
}

fn names(list: &Value) -> Vec<&str> {
    let attachments = list[0]["attachments"].as_array().into_iter().flatten();
    attachments.filter_map(|one| one["ifname"].as_str()).collect()
}

#[test]
fn networks_come_and_go() {
    let case = case();
    case.add().succeeds();
    let outcome = attach(&case, &["blue", "green@lan"]).succeeds();
    assert_eq!(outcome.order(), ["ADD beta net1", "ADD gamma net1", "ADD delta lan"]);
    let result = outcome.result().clone();
    assert_eq!(interfaces(&result), ["eth0", "net1", "lan"]);
    assert_eq!(result["ips"][1], json!({"address": "10.2.0.5/24", "interface": 1}));
    assert_eq!(names(&list(&case)), ["eth0", "net1", "lan"]);
    assert_eq!(case.check().succeeds().order().len(), 4);

    let outcome = detach(&case, &["net1"]).succeeds();
    assert_eq!(outcome.order(), ["DEL gamma net1", "DEL beta net1"]);
    assert_eq!(interfaces(outcome.result()), ["eth0", "lan"]);
    assert_eq!(names(&list(&case)), ["eth0", "lan"]);
    assert_eq!(case.check().succeeds().order().len(), 2);

    // The interface name is free again.
    assert_eq!(attach(&case, &["blue"]).succeeds().order(), ["ADD beta net1", "ADD gamma net1"]);
    let del = case.del().succeeds();
    assert_eq!(del.order(), ["DEL gamma net1", "DEL beta net1", "DEL delta lan", "DEL alpha eth0"]);
    del.leaves_nothing();
}

/// Detaching needs neither the configuration nor the network's definition.
#[test]
fn a_network_whose_definition_is_gone_is_detached() {
    let case = case();
    case.add().succeeds();
    attach(&case, &["blue"]).succeeds();
    std::fs::remove_dir_all(case.dir().join("net.d")).expect("remove the configurations");
    assert_eq!(detach(&case, &["net1"]).succeeds().order(), ["DEL gamma net1", "DEL beta net1"]);
    case.del().succeeds().leaves_nothing();
}

#[test]
fn a_selection_in_json_has_all_that_a_selection_has() {
    let case = case();
    case.add().succeeds();
    let selection = json!({"interface": "own0", "mac": "02:00:00:00:00:09", "cni-args": {"a": 1},
        "config": {"cniVersion": "1.0.0", "name": "inline", "type": "zeta", "capabilities": {"mac": true}}});
    let outcome = attach(&case, &[&selection.to_string()]).succeeds();
    let call = case.calls().pop().expect("a call");
    assert_eq!(call.to_string(), "ADD zeta own0");
    assert_eq!(call.config()["runtimeConfig"], json!({"mac": "02:00:00:00:00:09"}));
    assert_eq!(call.config()["args"], json!({"cni": {"a": 1}}));
    assert!(call.var("CNI_ARGS").contains("MAC=02:00:00:00:00:09"), "{}", call.var("CNI_ARGS"));
    drop(outcome);
    case.del().succeeds().leaves_nothing();
}

/// It is not one of the configuration's delegates.
#[test]
fn messages_and_the_journal_name_the_selection_that_was_given() {
    let case = case();
    case.add().succeeds();
    let inline = r#"{"config":{"name":"n","type":"../x"}}"#;
    for (words, message) in [
        (&["extra"][..], "selection 1 (extra): no network is called \"extra\" in"),
        (&["blue", "a/extra@x0"], "selection 2 (a/extra): no network is called \"extra\" in"),
        (&["blue@x0,green@x0"], "selection 1 (blue) and selection 2 (green) would both get the interface \"x0\""),
        (&["blue,green@"], "selection 2 is \"green@\", expected [namespace/]name[@interface] (in \"blue,green@\")"),
        (&["blue", r#"{"name":"blue","mac":5}"#], "selection 2.mac is 5"),
        (&["blue", r#"{"name":"blue""#], "selection 2 (\"{\\\"name\\\":\\\"blue\\\"\") cannot be read"),
        (&["blue", inline], "selection 2 (inline): config: \"type\": plugin type \"../x\" is not valid"),
        (
            &[r#"{"name":"blue","portMappings":[{"hostPort":80,"containerPort":80}]}"#],
            "selection 1 (blue): \"portMappings\" is asked for",
        ),
    ] {
        attach(&case, words).fails(7).message_contains(message).called_nothing();
    }
    attach(&case, &["green@lan"]).succeeds();
    let text = std::fs::read_to_string(case.dir().join("state/attachments").join(Case::CONTAINER).join("eth0.jsonl"));
    assert!(text.expect("the journal").contains(r#""origin":"selection 1 (green)""#));
    case.del().succeeds().leaves_nothing();
}

#[test]
fn several_selections_are_one_transaction() {
    let case = network(case(), "bad", &[recorder("epsilon").failing("ADD", 142)]);
    case.add().succeeds();
    let before = list(&case);
    let outcome = attach(&case, &["blue", "bad"]).fails(142).message_contains("epsilon refuses ADD");
    assert_eq!(
        outcome.order(),
        ["ADD beta net1", "ADD gamma net1", "ADD epsilon net2", "DEL epsilon net2", "DEL gamma net1", "DEL beta net1",]
    );
    let names_of = |list: &Value| names(list).into_iter().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(names_of(&list(&case)), names_of(&before));
    case.check().succeeds();
    case.del().succeeds().leaves_nothing();
}

/// A journal that changes have made long is written again without detached attachments. The others are still found.
#[test]
fn a_journal_that_has_become_long_still_names_the_right_attachments() {
    let case = case();
    let case = network(case, "wide", &[recorder("epsilon").key("padding", "x".repeat(50 << 10))]);
    case.add().succeeds();
    attach(&case, &["wide@w0"]).succeeds();
    attach(&case, &["green@lan"]).succeeds();
    let journal = case.dir().join("state/attachments").join(Case::CONTAINER).join("eth0.jsonl");
    let length = || std::fs::metadata(&journal).expect("the journal").len();
    let (mut longest, mut is_shorter) = (0, false);
    for _ in 0..5 {
        detach(&case, &["w0"]).succeeds();
        assert_eq!(detach(&case, &["lan"]).succeeds().order(), ["DEL delta lan"]);
        is_shorter |= length() < longest;
        attach(&case, &["wide@w0"]).succeeds();
        attach(&case, &["green@lan"]).succeeds();
        longest = length().max(longest);
        assert_eq!(names(&list(&case)), ["eth0", "w0", "lan"]);
    }
    assert!(is_shorter, "{longest}");
    case.del().succeeds().leaves_nothing();
}

/// A journal that is long because of its attachments cannot get shorter, and changes do not write it again.
#[test]
fn a_journal_that_cannot_be_shorter_is_not_written_again() {
    let case = case();
    let case = network(case, "wide", &[recorder("epsilon").key("padding", "x".repeat(200 << 10))]);
    case.add().succeeds();
    attach(&case, &["wide@w0"]).succeeds();
    let journal = case.dir().join("state/attachments").join(Case::CONTAINER).join("eth0.jsonl");
    let inode = || std::fs::metadata(&journal).expect("the journal").ino();
    let before = inode();
    for _ in 0..3 {
        attach(&case, &["green@lan"]).succeeds();
        detach(&case, &["lan"]).succeeds();
    }
    assert_eq!(inode(), before);
    case.del().succeeds().leaves_nothing();
}

/// Commands that only read do not remove a journal that an ADD has just made and not written yet.
#[test]
fn looking_at_a_container_does_not_touch_its_journal() {
    let case = case();
    case.add().succeeds();
    let journal = case.dir().join("state/attachments").join(Case::CONTAINER).join("second0.jsonl");
    for begun in ["", "{\"format\":1,"] {
        std::fs::write(&journal, begun).expect("write the journal");
        let words = ["eth0", "--bandwidth", "ingress=8M", "--dry-run", "--of", "second0"];
        change(&case, "update", &words).run().fails(3);
        change(&case, "attach", &["blue", "--of", "second0"]).run().fails(3);
        assert_eq!(std::fs::read_to_string(&journal).expect("it is there"), begun);
    }
    case.del().succeeds();
}

#[test]
fn what_cannot_be_attached_or_detached_is_refused_before_anything_runs() {
    let case = case();
    case.add().succeeds();
    attach(&case, &["blue"]).succeeds();
    case.pod().ip("link add taken0 type veth peer name taken1");
    let runs = case.order().len();
    attach(&case, &["green@net1"]).fails(7).says("net1");
    attach(&case, &["green@eth0"]).fails(7).says("eth0");
    attach(&case, &["green@taken0"]).fails(7).says("taken0");
    attach(&case, &["purple"]).fails(7).says("purple");
    attach(&case, &["a,b,,"]).fails(7);
    detach(&case, &["eth0"]).fails(7).says("only DEL detaches it");
    detach(&case, &["net9"]).fails(7).says("net9");
    let nobody = case.braid(&["detach", "nobody", "net1", "--state-dir", "@DIR@/state"]).run();
    nobody.fails(3).says("nobody");
    assert_eq!(case.order().len(), runs);
    case.pod().ip("link del taken0");
    case.del().succeeds().leaves_nothing();
}

#[test]
fn a_container_is_named_by_the_beginning_of_its_id_and_several_journals_by_the_interface() {
    let case = case();
    case.add().succeeds();
    case.call("ADD").env("CNI_IFNAME", "second0").run().succeeds();
    let short = |words: &[&str]| {
        let line: Vec<&str> = ["attach", "cont"].into_iter().chain(words.iter().copied()).collect();
        let line: Vec<&str> = line.into_iter().chain(["--state-dir", "@DIR@/state"]).collect();
        case.braid(&line).run()
    };
    short(&["blue"]).fails(7).says("--of").says("second0");
    assert_eq!(short(&["blue", "--of", "second0"]).succeeds().order(), ["ADD beta net1", "ADD gamma net1"]);
    case.call("DEL").env("CNI_IFNAME", "second0").run().succeeds();
    case.del().succeeds().leaves_nothing();
}

/// The default route goes to the network that asks for it, and back to the one that had it.
#[test]
fn a_default_route_is_taken_and_given_back() {
    let first = bridge("br-one", "10.62.1.0/24").key("isDefaultGateway", true);
    let case = live(
        Case::with_reference_plugins(),
        &[serde_json::from_str(&crate::support::Json::into_json(first)).expect("JSON")],
    );
    let case = network(case, "out", &[bridge("br-two", "10.62.2.0/24")]);
    case.add().succeeds();
    let route = || case.pod().ip("-4 route show default").trim().to_owned();
    let before = route();
    assert!(before.contains("via 10.62.1.1 dev eth0"), "{before}");
    let outcome = attach(&case, &[r#"{"name":"out","interface":"out0","default-route":["10.62.2.1"]}"#]).succeeds();
    assert!(route().contains("via 10.62.2.1 dev out0"), "{}", route());
    let defaults = |result: &Value| {
        let routes = result["routes"].as_array().into_iter().flatten();
        routes.filter(|route| route["dst"] == "0.0.0.0/0").map(|route| route["gw"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(defaults(outcome.result()), [json!("10.62.2.1")]);
    case.check().succeeds();
    let outcome = detach(&case, &["out0"]).succeeds();
    assert_eq!(route(), before);
    assert_eq!(defaults(outcome.result()), [json!("10.62.1.1")]);
    case.check().succeeds();
    case.del().succeeds().leaves_nothing();
}

/// GC passes each network the attachments that exist now.
#[test]
fn gc_knows_what_was_attached_and_detached() {
    let ipam = host_local(&["10.63.1.0/24"]);
    let case = live(
        Case::with_reference_plugins().cni_version("1.1.0"),
        &[json!({
        "cniVersion": "1.1.0", "name": "first", "type": "alpha", "recorder": {"link": true}})],
    );
    let case = network(case, "blue", &[recorder("beta").link().key("ipam", ipam)]);
    let case =
        case.configuration("blue.conflist", Network::new("blue").version("1.1.0").plugin(recorder("beta").link()));
    case.add().succeeds();
    attach(&case, &["blue"]).succeeds();
    case.gc(&[(Case::CONTAINER, "eth0")]).succeeds();
    let valid = |kind: &str| {
        let calls = case.calls();
        let call = calls.iter().rev().find(|call| call.command == "GC" && call.to_string().contains(kind));
        call.map(|call| call.config()["cni.dev/valid-attachments"].clone())
    };
    assert_eq!(valid("beta"), Some(json!([{"containerID": Case::CONTAINER, "ifname": "net1"}])));
    detach(&case, &["net1"]).succeeds();
    case.gc(&[(Case::CONTAINER, "eth0")]).succeeds();
    assert!(
        valid("beta").is_none_or(
            |valid| valid == json!([]) || valid == json!([{"containerID": Case::CONTAINER, "ifname": "net1"}])
        )
    );
    case.del().succeeds().leaves_nothing();
}

/// Another container is now at the same path.
#[test]
fn another_container_at_the_same_path_is_not_touched() {
    let case = case();
    case.add().succeeds();
    let path = case.pod().path();
    let name = path.file_name().expect("a name").to_string_lossy().into_owned();
    case.host().run(&format!("ip netns del {name}"));
    case.host().run(&format!("ip netns add {name}"));
    let runs = case.order().len();
    attach(&case, &["blue"]).fails(3).says("another");
    assert_eq!(case.order().len(), runs);
    case.del().succeeds();
}

/// The history says when, what and by whom.
#[test]
fn the_history_of_changes_is_shown() {
    let case = case();
    case.add().succeeds();
    attach(&case, &["blue"]).succeeds();
    detach(&case, &["net1"]).succeeds();
    let shown = change(&case, "show", &["-o", "json"]).output();
    let shown: Value = serde_json::from_slice(&shown.stdout).expect("JSON");
    let history = shown[0]["changes"].as_array().expect("a list");
    let what: Vec<_> = history.iter().map(|one| (one["what"].as_str(), one["by"].as_str())).collect();
    assert_eq!(
        what,
        [(Some("attach blue@net1"), Some("command line")), (Some("detach blue@net1"), Some("command line"))]
    );
    case.del().succeeds().leaves_nothing();
}

/// Many changes do not make the journal large, because it is written again when it gets long.
#[test]
fn many_changes_leave_a_small_journal() {
    let limits = crate::support::bandwidth().key("padding", "x".repeat(20 << 10));
    let network = crate::support::Json::into_json(Network::new("one").plugin(ptp("10.64.1.0/24")).plugin(limits));
    let case = live(Case::with_reference_plugins(), &[serde_json::from_str(&network).expect("JSON")]);
    case.add().succeeds();
    let journal = case.dir().join("state/attachments").join(Case::CONTAINER).join("eth0.jsonl");
    let count = std::env::var("BRAID_TEST_CHANGES").ok().and_then(|count| count.parse().ok()).unwrap_or(40);
    let (mut before, mut shorter) = (0, 0);
    for number in 0..count {
        let rate = if number % 2 == 0 { "ingress=8M" } else { "ingress=16M" };
        let output = change(&case, "update", &["eth0", "--bandwidth", rate]).output();
        assert!(output.status.success(), "{output:?}");
        let size = std::fs::metadata(&journal).expect("the journal").len();
        assert!(size < 1 << 20, "{size} bytes after {number} changes");
        shorter += usize::from(size < before);
        before = size;
    }
    assert!(shorter >= 2, "it was written anew {shorter} times, and has {before} bytes");
    case.check().succeeds();
    case.del().succeeds().leaves_nothing();
}

/// A container with the host port 8080, and a network to be attached with others.
fn mapped() -> Case {
    let chain = Network::new("one").plugin(bridge("br-one", "10.66.1.0/24")).plugin(portmap());
    let chain = serde_json::from_str(&crate::support::Json::into_json(chain)).expect("JSON");
    let case = live(Case::with_reference_plugins(), &[chain])
        .runtime_config(json!({"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]}));
    network(case, "two", &[bridge("br-two", "10.66.2.0/24"), portmap()])
}

fn with_port(ifname: &str, host_port: u16) -> String {
    let mappings = json!([{"hostPort": host_port, "containerPort": 81, "protocol": "tcp"}]);
    json!({"name": "two", "interface": ifname, "portMappings": mappings}).to_string()
}

/// The plugin checks neither whether a host port is taken, nor which container a network's rules belong to.
#[test]
fn host_ports_that_are_taken_are_not_attached_again() {
    let case = mapped();
    case.add().succeeds();
    let rules = || {
        let rules = case.host().run("iptables-save -t nat");
        rules.lines().filter(|line| line.contains("--to-destination")).map(str::to_owned).collect::<Vec<_>>()
    };
    let before = rules();
    attach(&case, &[&with_port("a1", 8080)]).fails(7).says("8080/tcp").says("eth0");
    attach(&case, &[&with_port("a1", 8081), &with_port("a2", 8081)]).fails(7).says("8081/tcp").says("a1");
    assert_eq!(rules(), before);
    attach(&case, &[&with_port("a1", 8081)]).succeeds();
    // With one network, detaching the first would remove the rules of the second.
    attach(&case, &[&with_port("a2", 8082)]).fails(7).says("different names");
    detach(&case, &["a1"]).succeeds();
    assert_eq!(rules(), before);
    case.del().succeeds().leaves_nothing();
}

/// ADD takes two attachments of one network with mappings. The DEL of one would remove the rules of both.
#[test]
fn rules_that_two_attachments_share_are_removed_with_both() {
    let selection = |ifname: &str, port| serde_json::from_str::<Value>(&with_port(ifname, port)).expect("JSON");
    let first = json!({"cniVersion": "1.0.0", "name": "first", "type": "alpha", "recorder": {"link": true}});
    let case = live(Case::with_reference_plugins(), &[first, selection("a1", 8081), selection("a2", 8082)]);
    // With masquerading, the bridge's DEL also fails while the network has another attachment.
    let case = network(case, "two", &[bridge("br-two", "10.66.2.0/24").key("ipMasq", false), portmap()]);
    case.add().succeeds();
    let rules = || {
        let rules = case.host().run("iptables-save -t nat");
        rules.lines().filter(|line| line.starts_with("-A")).map(str::to_owned).collect::<Vec<_>>()
    };
    let before = rules();
    detach(&case, &["a1"]).fails(7).says("a2").says("detach these two at once");
    assert_eq!(rules(), before);
    detach(&case, &["a1", "a2"]).succeeds();
    assert!(!rules().iter().any(|rule| rule.contains("--to-destination")), "{:?}", rules());
    case.del().succeeds().leaves_nothing();
}

/// A container, and networks whose plugins keep state under the names of the network and the container.
fn sharing(extras: &[Value]) -> Case {
    let first = json!({"cniVersion": "1.0.0", "name": "first", "type": "alpha", "recorder": {"link": true}});
    let case = live(Case::with_reference_plugins(), &[&[first], extras].concat());
    let limit = Plugin::new("net-bandwidth", "bandwidth").key("capabilities", json!({"bandwidth": true}));
    let case = network(case, "limited", &[bridge("br-one", "10.66.1.0/24").key("ipMasq", false), limit]);
    network(case, "masked", &[bridge("br-two", "10.66.2.0/24").key("ipMasq", true)])
}

fn limited(ifname: &str) -> Value {
    json!({"name": "limited", "interface": ifname, "bandwidth": {"egressRate": 1_000_000, "egressBurst": 1_000_000}})
}

/// The limits on the host, and the rules of iptables.
fn kept(case: &Case) -> Vec<String> {
    let text = case.host().run("tc qdisc show") + &case.host().run("iptables-save -t nat");
    text.lines().filter(|line| line.contains("tbf") || line.starts_with("-A")).map(str::to_owned).collect()
}

/// The DEL of a second attachment, in a rollback too, would remove the limit or the masquerading of the first.
#[test]
fn what_is_shared_with_a_new_attachment_is_not_attached() {
    let case = sharing(&[]);
    case.add().succeeds();
    attach(&case, &[&limited("b1").to_string(), "masked@m1"]).succeeds();
    let before = kept(&case);
    for second in [limited("b2").to_string(), "limited@b2".into(), "masked@m2".into()] {
        attach(&case, &[&second]).fails(7).says("different names");
    }
    assert_eq!(kept(&case), before);
    detach(&case, &["m1"]).succeeds();
    attach(&case, &["masked@m2,masked@m3"]).fails(7).says("different names");
    attach(&case, &["masked@m2"]).succeeds();
    case.del().succeeds().leaves_nothing();
}

/// ADD makes two attachments of one network of which one has a limit.
#[test]
fn a_limit_outlives_the_other_attachment_of_its_network() {
    let case = sharing(&[limited("b1"), json!({"name": "limited", "interface": "b2"})]);
    case.add().succeeds();
    let before = kept(&case);
    detach(&case, &["b2"]).fails(7).says("b1").says("take the limit away before");
    update(&case, &["b2", "--bandwidth", "egress=1M"]).fails(7).says("b1");
    assert_eq!(kept(&case), before);
    update(&case, &["b1", "--bandwidth", "egress=2M"]).succeeds();
    update(&case, &["b1", "--bandwidth", "egress=none"]).succeeds();
    detach(&case, &["b2"]).succeeds();
    update(&case, &["b1", "--bandwidth", "egress=1M,egressBurst=1M"]).succeeds();
    assert_eq!(kept(&case), before);
    case.del().succeeds().leaves_nothing();
}

#[test]
fn a_selection_that_does_not_apply_is_named() {
    let case = case();
    case.add().succeeds();
    let outcome = attach(&case, &[r#"{"name":"blue","when":{"pod":["db-*"]}}"#]).succeeds();
    outcome.called_nothing().stderr_contains("not attached: selection 1 (blue)");
    attach(&case, &["blue@eth0"]).fails(7).message_contains("the interface that the runtime asked for");
    case.del().succeeds().leaves_nothing();
}
