//! `doctor`: it finds leaks that are made here for real, and mends them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::support::{Json as _, Machine, Plugin, Ran, bridge, firewall, recorder};

/// host-local with a subnet and the default data directory.
fn with_ipam(plugin: Plugin, subnet: &str) -> Plugin {
    plugin.key("ipam", json!({"type": "host-local", "ranges": [[{"subnet": subnet}]]}))
}

/// Two real bridges, the first with masquerading and limits.
fn pods() -> Value {
    let front = with_ipam(bridge("br-front", ""), "10.1.0.0/24").value();
    let limits = json!({"type": "bandwidth", "ingressRate": 8_000_000, "ingressBurst": 8_000_000,
        "egressRate": 8_000_000, "egressBurst": 8_000_000});
    let back = with_ipam(bridge("br-back", "").without("ipMasq").key("name", "back"), "10.2.0.0/24").value();
    json!({"cniVersion": "1.0.0", "name": "pods", "plugins": [
        {"type": "braid", "delegates": [{"name": "front", "plugins": [front, limits]}, back]},
        firewall().value(),
    ]})
}

/// A network without Braid.
fn plain() -> Value {
    let bridge = with_ipam(bridge("br-plain", "").without("ipMasq"), "10.3.0.0/24").without("cniVersion").value();
    json!({"cniVersion": "1.0.0", "name": "plain", "plugins": [bridge, {"type": "alpha"}]})
}

/// A machine with both networks. Containers were attached and detached, so that what the networks keep exists.
fn machine() -> Machine {
    let machine = Machine::new().conf("10-pods.conflist", pods()).conf("20-plain.conflist", plain());
    machine.run("ip netns add first; braid add pods first; braid del pods first").succeeds();
    machine.run("braid add plain first; braid del plain first; ip netns del first").succeeds();
    machine.note();
    machine
}

/// What is found, as `KIND SUBJECT`.
fn found(ran: &Ran) -> Vec<String> {
    let text = |one: &Value| format!("{} {}", one["kind"].as_str().unwrap(), one["subject"].as_str().unwrap());
    ran.json().as_array().expect("a list").iter().map(text).collect()
}

/// What `doctor` finds with these options.
#[track_caller]
fn findings(machine: &Machine, options: &str) -> Vec<String> {
    let ran = machine.run(&format!("braid doctor -o json {options}"));
    let found = found(&ran);
    drop(ran.exits(i32::from(!found.is_empty())));
    found
}

#[test]
fn nothing_is_wrong_with_a_node_whose_containers_live() {
    let machine = machine();
    assert_eq!(findings(&machine, ""), [""; 0]);
    machine.run("braid doctor").exits(0).prints_nothing().says("nothing is wrong");
    machine.run("ip netns add web; braid add pods web --container-id web-1; ip netns add db").succeeds();
    machine.run("braid add plain db --container-id db-1").succeeds();
    assert_eq!(findings(&machine, "--min-age 0"), [""; 0]);
    machine.run("braid doctor --fix --min-age 0").exits(0);
    machine.run("ip netns exec web ip -o addr").succeeds().prints("eth0").prints("net1");
    machine.run("braid check pods web --container-id web-1; braid check plain db --container-id db-1").succeeds();
    machine.run("braid del pods web --container-id web-1; braid del plain db --container-id db-1").succeeds();
    machine.run("ip netns del web; ip netns del db").succeeds();
    machine.is_as_noted();
}

#[test]
fn what_containers_that_are_gone_have_left_is_undone_and_what_others_have_is_not() {
    let machine = machine();
    machine.run("ip netns add db; braid add pods db --container-id db-1").succeeds();
    machine.run("ip netns add web; braid add pods web --container-id web-1; ip netns del web").succeeds();
    machine.run("ip netns add app; braid add plain app --container-id app-1; ip netns del app").succeeds();
    let gone = ["container-gone web-1/eth0", "result-stale plain-app-1-eth0", "result-stale pods-web-1-eth0"];
    assert_eq!(findings(&machine, ""), gone);
    // Examining the node changes nothing.
    assert_eq!(findings(&machine, ""), gone);
    let ran = machine.run("braid doctor --fix").exits(0);
    // The bridge leaves its masquerading if the namespace is gone. That is found next.
    ran.prints("container-gone  web-1/eth0").prints("called DEL of network \"pods\"").prints("rule-leaked");
    machine.run("braid check pods db --container-id db-1").succeeds();
    machine.run("ip netns exec db ping -c 1 -W 5 10.1.0.1").succeeds();
    let list = machine.run("braid list -o json").succeeds().json();
    assert_eq!(list.as_array().map(Vec::len), Some(1));
    assert_eq!(list[0]["containerID"], "db-1");
    machine.run("braid del pods db --container-id db-1; ip netns del db").succeeds();
    machine.is_as_noted();
    assert_eq!(findings(&machine, ""), [""; 0]);
}

/// A container whose mounted namespace is gone counts as alive as long as something else holds the namespace.
#[test]
fn a_namespace_that_anything_holds_is_alive() {
    // Each starts a process that holds the namespace of this name, and writes the process's ID to a file.
    let held = [
        (
            "member",
            "ip netns exec member sleep 1000 & echo $! >/run/member; until ip netns pids member | grep -q .; do sleep 0.01; done",
        ),
        ("file", "sleep 1000 3</run/netns/file & echo $! >/run/file"),
        ("bind", "touch /run/elsewhere; mount --bind /run/netns/bind /run/elsewhere; sleep 1000 & echo $! >/run/bind"),
        (
            "other-mounts",
            "touch /run/private; unshare --mount --propagation private bash -c \
             'mount --bind /run/netns/other-mounts /run/private; exec sleep 1000' & echo $! >/run/other-mounts; \
             until grep -q sleep /proc/$(</run/other-mounts)/comm; do sleep 0.01; done",
        ),
    ];
    let machine = machine();
    for (name, hold) in held {
        machine.run(&format!("ip netns add {name}; braid add pods {name} --container-id {name}")).succeeds();
        machine.run(&format!("{{ {hold}; }} </dev/null >/dev/null 2>&1")).succeeds();
        machine.run(&format!("ip netns del {name}")).succeeds();
    }
    assert_eq!(findings(&machine, "--fix --min-age 0"), [""; 0]);
    drop(held.iter().fold(machine.run("braid list").succeeds(), |listed, (name, _)| listed.prints(name)));
    machine.run("umount /run/elsewhere").succeeds();
    for (name, _) in held {
        machine.run(&format!("kill -KILL $(</run/{name})")).succeeds();
        machine.until(&format!("! kill -0 $(</run/{name}) 2>/dev/null"));
    }
    let gone = |name: &str| [format!("container-gone {name}/eth0"), format!("result-stale pods-{name}-eth0")];
    let mut expected: Vec<String> = held.iter().flat_map(|(name, _)| gone(name)).collect();
    expected.sort();
    assert_eq!(findings(&machine, ""), expected);
    machine.run("braid doctor --fix").exits(0);
    machine.is_as_noted();
}

/// A plugin and all its callers are killed in the middle. There is no record of a network without Braid.
#[test]
fn what_killed_plugins_have_left_is_found_and_released() {
    let machine = machine();
    machine.write("recorder/behaviour/alpha.json", &json!({"on": ["ADD"], "sleep_ms": 600_000}).to_string());
    // The recording plugin's own note of what it was asked for.
    let note = machine.dir().join("recorder/state/alpha-app-1-eth0").display().to_string();
    let kill = |network: &str, namespace: &str| {
        machine
            .run(&format!(
                "ip netns add {namespace}; setsid braid add {network} {namespace} --container-id {namespace}-1 \
                 </dev/null >/dev/null 2>&1 & echo $! >/run/killed"
            ))
            .succeeds();
        // The recording plugin has its input by now, and the one before it has ended: it may have been started ahead.
        machine.until(&format!("test -e {note}"));
        // Whoever calls the plugin first, so that it does not begin to undo.
        machine.run("kill -KILL -- -$(</run/killed) $(pgrep -x alpha); pkill -KILL -x alpha || true");
        machine.until("! pgrep -x 'alpha|braid|bridge'");
    };
    kill("plain", "app");
    // The container exists and has its address, so nothing may touch it.
    assert_eq!(findings(&machine, "--fix --min-age 0"), [""; 0]);
    machine.run("ip netns del app").succeeds();
    let leaked = findings(&machine, "--min-age 0");
    assert!(
        leaked.len() == 1 && leaked[0].starts_with("address-leaked /var/lib/cni/networks/plain/10.3.0."),
        "{leaked:?}"
    );
    // It is not touched as long as an ADD may be under way.
    machine.run("braid doctor --fix").exits(1).prints("an ADD may be under way");
    assert_eq!(findings(&machine, ""), leaked);
    machine.run("touch -d '6 minutes ago' /var/lib/cni/networks/plain/10.3.0.*");
    machine.run("braid doctor --fix").exits(0).prints("released it");
    machine.run(&format!("rm {note}")).succeeds();
    machine.is_as_noted();
}

/// Braid, killed with its plugins in the middle of an ADD.
#[test]
fn what_a_killed_add_has_left_is_undone() {
    let mut conf = pods();
    let hanging = json!({"name": "hanging", "type": "alpha"});
    conf["plugins"][0]["delegates"].as_array_mut().expect("a list").push(hanging);
    let machine = machine().conf("10-pods.conflist", conf);
    machine.write("recorder/behaviour/alpha.json", &json!({"on": ["ADD"], "sleep_ms": 600_000}).to_string());
    machine
        .run("ip netns add web; setsid braid add pods web --container-id web-1 </dev/null >/dev/null 2>&1 & echo $! >/run/killed")
        .succeeds();
    machine.until("pgrep -x alpha");
    machine.run("kill -KILL -- -$(</run/killed); pkill -KILL -x braid || true; pkill -KILL -x alpha || true");
    machine.until("! pgrep -x 'alpha|braid'");
    assert_eq!(findings(&machine, "--fix --min-age 0"), [""; 0], "the container is there");
    machine.run("ip netns del web").succeeds();
    assert_eq!(findings(&machine, ""), ["container-gone web-1/eth0"]);
    machine.write("recorder/behaviour/alpha.json", "{}");
    machine.run("braid doctor --fix").exits(0).prints("undid its attachments");
    machine.is_as_noted();
}

/// Interfaces that were made on the host for a container and never moved into it.
#[test]
fn interfaces_of_nobody_are_removed_and_others_are_not() {
    let machine = machine();
    machine.run("ip netns add web; braid add pods web --container-id web-1").succeeds();
    machine.run("ip link add veth0badcafe type veth peer name tmp0; ip link add bwp0123456789ab type ifb").succeeds();
    machine.run("ip link add veth1badcafe type veth peer name lab0; ip addr add 10.9.0.1/24 dev lab0").succeeds();
    let orphaned = ["interface-orphaned bwp0123456789ab", "interface-orphaned veth0badcafe"];
    assert_eq!(findings(&machine, ""), orphaned);
    machine.run("braid doctor --fix").exits(0).prints("removed it");
    machine.run("ip link show veth1badcafe; ! ip link show veth0badcafe; ! ip link show bwp0123456789ab").succeeds();
    machine.run("braid check pods web --container-id web-1; ip netns exec web ping -c 1 -W 5 10.1.0.1").succeeds();
    machine.run("braid del pods web --container-id web-1; ip netns del web; ip link del lab0").succeeds();
    machine.is_as_noted();
}

/// A network of recording plugins of which the second can be made to fail.
fn failing() -> Machine {
    let conf = json!({"cniVersion": "1.0.0", "name": "pods", "plugins": [
        {"type": "braid", "debts": {"giveUpAfter": 0.001}, "delegates": [
            recorder("alpha").key("name", "front").value(), {"name": "back", "type": "beta"}]}]});
    let machine = Machine::new().conf("pods.conflist", conf);
    machine.run("cp /opt/cni/bin/alpha /opt/cni/bin/beta; ip netns add web").succeeds();
    machine.run("braid add pods web --container-id web-1").succeeds();
    let fail = json!({"fail": {"DEL": {"code": 142, "msg": "the switch does not answer"}}});
    machine.write("recorder/behaviour/beta.json", &fail.to_string());
    machine
}

fn park(machine: &Machine) {
    machine.run("braid del pods web --container-id web-1").exits(1);
    assert_eq!(findings(machine, "--fix"), ["cleanup-owed web-1/eth0"], "its namespace is there");
    machine.run("ip netns del web; braid del pods web --container-id web-1").succeeds();
}

#[test]
fn a_debt_is_tried_again() {
    let machine = failing();
    park(&machine);
    assert_eq!(findings(&machine, ""), ["debt web-1/eth0"]);
    machine.run("braid doctor").exits(1).prints("the switch does not answer").prints("--forget web-1/eth0");
    machine.run("braid doctor --fix").exits(1).prints("failed").prints("the switch does not answer");
    machine.write("recorder/behaviour/beta.json", "{}");
    machine.run("braid doctor --fix").exits(0).prints("undid what was owed");
    machine.run("braid list").succeeds().says("nothing is attached");
}

#[test]
fn a_debt_can_be_forgotten() {
    let machine = failing();
    park(&machine);
    let calls = machine.order().len();
    machine.run("braid doctor --forget web-2/eth0").exits(1).says("there is no debt web-2/eth0");
    machine.run("braid doctor --forget nonsense").exits(2).says("nonsense").says("CONTAINER/INTERFACE");
    machine.run("braid doctor --forget web-1/eth0").exits(0).says("forgot debt web-1/eth0");
    assert_eq!(machine.order().len(), calls, "no plugin is called");
    assert_eq!(findings(&machine, ""), [""; 0]);
}

#[test]
fn a_journal_that_cannot_be_used_is_named_until_it_is_forgotten() {
    let machine = machine();
    machine.run("ip netns add web; braid add pods web --container-id web-1; ip netns del web").succeeds();
    let journal = "/var/lib/cni/braid/attachments/web-1/eth0.jsonl";
    machine.run(&format!("sed -i '1s/^/rubbish /' {journal}; rm /var/lib/cni/results/*")).succeeds();
    let unusable = format!("journal-unusable {journal}");
    // No interface sends through the ifb device any more.
    assert_eq!(findings(&machine, "--ignore interface-orphaned"), [&*unusable]);
    machine.run("braid doctor --fix --min-age 0").exits(1).prints(journal).prints("the container's next DEL");
    machine.run("braid del pods web --container-id web-1").exits(1);
    let set_aside = "journal-unusable web-1/eth0.jsonl.corrupt";
    // As long as it exists, it accounts for the addresses.
    assert_eq!(findings(&machine, "--fix --min-age 0"), [set_aside]);
    machine.run("braid doctor --forget web-1/eth0.jsonl.corrupt --fix --min-age 0");
    assert_eq!(findings(&machine, "--min-age 0"), [""; 0]);
    machine.run("[[ -z $(ls /var/lib/cni/networks/front | grep ^10) ]]").succeeds();
}

/// After a migration from Multus, the cached result of Multus's own network stays, together with what Multus has attached.
#[test]
fn results_and_state_of_multus_are_undone() {
    let machine = Machine::new();
    let config = json!({"cniVersion": "1.0.0", "name": "multus-cni-network", "type": "multus", "delegates": []});
    let delegate = recorder("alpha").key("name", "front").into_json();
    let cached = |name: &str, netns: &str, config: &str| {
        json!({"kind": "cniCacheV1", "containerId": "web-1", "config": STANDARD.encode(config), "ifName": "eth0",
            "networkName": name, "netns": netns, "result": {"cniVersion": "1.0.0"}})
        .to_string()
    };
    let result = cached("multus-cni-network", "/run/netns/web", &config.to_string());
    machine.write("var-lib/cni/results/multus-cni-network-web-1-eth0", &result);
    let delegates = json!([{"Conf": {"name": "front"}, "Name": "front", "ifnameRequest": "eth0", "Bytes": STANDARD.encode(&delegate)}]);
    machine.write("var-lib/cni/multus/web-1", &delegates.to_string());
    machine.write("var-lib/cni/multus/results/front-web-1-eth0", &cached("front", "/run/netns/web", &delegate));
    machine.run("ip netns add web").succeeds();
    assert_eq!(findings(&machine, ""), [""; 0], "there is a namespace");
    machine.run("ip netns del web").succeeds();
    assert_eq!(findings(&machine, ""), ["result-stale multus-cni-network-web-1-eth0"]);
    machine.run("braid doctor --fix").exits(0).prints("undid what Multus had attached, and removed it");
    assert_eq!(machine.order(), ["DEL alpha eth0"]);
    machine.run("[[ -z $(find /var/lib/cni/multus /var/lib/cni/results -type f) ]]").succeeds();
}

#[test]
fn what_the_node_lacks_is_named_with_who_needs_it() {
    let machine = Machine::new().conf("10-pods.conflist", pods()).conf("05-other.conflist", plain());
    let ipam = json!({"type": "absent-ipam"});
    let lacking = json!({"cniVersion": "1.0.0", "name": "lacking", "plugins": [
        {"type": "ipvlan", "master": "eth0", "ipam": ipam}, {"type": "absent"}]});
    let machine = machine.conf("90-lacking.conflist", lacking);
    let mut expected = vec!["configuration-hidden /etc/cni/net.d/10-pods.conflist".to_owned()];
    expected.extend(["absent", "absent-ipam"].map(|name| format!("plugin-missing {name}")));
    let all = findings(&machine, "");
    let (kernel, others): (Vec<_>, Vec<_>) = all.into_iter().partition(|one| one.starts_with("kernel-feature-missing"));
    assert_eq!(others, expected);
    let links = machine.run("ip -br link").succeeds().stdout;
    let knows = machine.run("unshare --net ip link add probe type ipvlan").stderr;
    let is_missing = knows.contains("Unknown device type");
    assert_eq!(kernel, ["kernel-feature-missing ipvlan (ipvlan)"][..usize::from(is_missing)]);
    assert_eq!(machine.run("ip -br link").succeeds().stdout, links, "nothing is left of the question");
    // The kernel does not make a tap interface over netlink, but only when a process opens its device.
    let tap = json!({"cniVersion": "1.0.0", "name": "tap", "plugins": [{"type": "tap"}]});
    machine.write("net.d/95-tap.conflist", &tap.to_string());
    let found = findings(&machine, "--ignore plugin-missing").into_iter().any(|one| one.contains("tun (tap)"));
    let can = machine.run("unshare --net ip tuntap add probe mode tap && echo made").stdout.contains("made");
    assert_eq!(found, !can);
    machine.run("rm /etc/cni/net.d/95-tap.conflist").succeeds();
    let options = "--ignore configuration-hidden --ignore kernel-feature-missing --ignore plugin-missing";
    assert_eq!(findings(&machine, options), [""; 0]);
    machine.run("braid doctor --ignore everything").exits(2).says("plugin-missing");
}

#[test]
fn what_is_said_to_mend_a_hidden_configuration_mends_it() {
    let other = json!({"cniVersion": "1.0.0", "name": "other", "plugins": [recorder("alpha").value()]});
    let machine = machine().conf("00-aaa.conflist", other.clone()).conf("05-bbb.conflist", other);
    let fix = |words: &str, line: &str| {
        machine.run("braid doctor").exits(1).prints("configuration-hidden").prints(words);
        machine.run(&format!("cd /etc/cni/net.d && {line}")).succeeds();
    };
    machine.run("cd /etc/cni/net.d && mv $(grep -l braid *.conflist | head -1) 50-pods.conflist").succeeds();
    fix("rename 00-aaa.conflist so that it comes later, as 99-aaa.conflist", "mv 00-aaa.conflist 99-aaa.conflist");
    fix(
        "rename 50-pods.conflist so that it comes first, as 00-braid.conflist",
        "mv 50-pods.conflist 00-braid.conflist",
    );
    assert_eq!(findings(&machine, ""), [""; 0]);
}

#[cfg(feature = "kubernetes")]
#[test]
fn a_token_that_is_about_to_end_is_named_and_not_shown() {
    let machine = Machine::new();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs();
    let write = |issued: u64, expires: u64| {
        let part = |text: &str| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(text);
        let claims = json!({"iat": issued, "exp": expires}).to_string();
        let token = format!("{}.{}.{}", part(r#"{"alg":"none"}"#), part(&claims), part("signature"));
        let kubeconfig = json!({"users": [{"name": "braid", "user": {"token": token}}]});
        machine.write("net.d/braid.d/kubeconfig", &kubeconfig.to_string());
        token
    };
    write(now - 3600, now + 600_000);
    assert_eq!(findings(&machine, ""), [""; 0]);
    for expires in [now + 1800, now - 60] {
        let token = write(now - 600_000, expires);
        assert_eq!(findings(&machine, ""), ["token-ending /etc/cni/net.d/braid.d/kubeconfig"]);
        let ran = machine.run("braid doctor; braid doctor -o json");
        ran.require(!ran.stdout.contains(&token), "the token was not to be shown");
    }
    // As a user writes it: in YAML, with the token in a file beside it, and with others' users.
    let stale = write(now - 600_000, now - 60);
    machine.write("net.d/braid.d/token", &stale);
    let user =
        |rest: &str| format!("users:\n- name: other\n  user: {{token: {stale}}}\n- name: braid\n  user: {{{rest}}}\n");
    let context = "current-context: x\ncontexts:\n- name: x\n  context: {cluster: c, user: braid}\n";
    let found = |rest: &str| {
        machine.write("net.d/braid.d/kubeconfig", &format!("{context}{}", user(rest)));
        findings(&machine, "")
    };
    assert_eq!(found("username: u"), [""; 0]);
    assert_eq!(found(&format!("token: {stale}")), ["token-ending /etc/cni/net.d/braid.d/kubeconfig"]);
    assert_eq!(found("tokenFile: token"), ["token-ending /etc/cni/net.d/braid.d/token"]);
}

#[test]
fn what_cannot_be_read_is_reported() {
    let machine = Machine::new();
    machine.run("mkdir -p /var/lib/cni/braid; touch /var/lib/cni/braid/attachments").succeeds();
    let found = findings(&machine, "");
    assert_eq!(found, ["not-examined /var/lib/cni/braid"]);
    machine.run("rm /var/lib/cni/braid/attachments").succeeds();
    // Each is a file in place of a directory. The last one is an incomplete configuration.
    for (path, text) in [
        ("/var/lib/cni/results", ""),
        ("/var/lib/cni/networks", ""),
        ("/var/lib/cni/multus", ""),
        ("/var/lib/cni/braid/claims", ""),
        ("/etc/cni/net.d/05-torn.conflist", r#"{"cniVersion": "1.0.0", "name": "torn", "plu"#),
    ] {
        machine.run(&format!("rm -rf {path}; printf %s '{text}' >{path}")).succeeds();
        assert_eq!(findings(&machine, ""), [format!("not-examined {path}")]);
        let ran = machine.run("braid doctor").exits(1).prints(if text.is_empty() {
            "see what is there"
        } else {
            "correct or"
        });
        ran.require(!ran.stdout.contains("as root"), "it runs as root already");
        machine.run(&format!("rm {path}")).succeeds();
        assert_eq!(findings(&machine, ""), [""; 0]);
    }
    machine.run("mkdir /etc/cni/net.d/50-directory.conflist").succeeds();
    assert_eq!(findings(&machine, ""), [""; 0], "runtimes pass it over");
    let barred =
        machine.run("mkdir -m 0 /var/lib/cni/results; setpriv --bounding-set -all --inh-caps -all braid doctor");
    barred.exits(1).prints("not-examined  /var/lib/cni/results").prints("as root, with all capabilities");
}

/// After the clock was set back, an address does not look old, and is not kept for as long as the clock was set back by.
#[test]
fn an_address_with_a_time_in_the_future_ages_from_the_first_fix_on() {
    let machine = machine();
    let file = "/var/lib/cni/networks/plain/10.3.0.77";
    machine.run(&format!("echo ghost >{file}; touch -d '+1 day' {file}")).succeeds();
    let leaked = format!("address-leaked {file}");
    assert_eq!(findings(&machine, ""), [&*leaked]);
    machine
        .run("braid doctor --fix")
        .exits(1)
        .prints("has a time in the future")
        .prints("releases the address in 300 s");
    machine.run("braid doctor --fix").exits(1).prints("an ADD may be under way");
    machine.run(&format!("[[ $(cat {file}) == ghost ]]; touch -d '-301 seconds' {file}")).succeeds();
    machine.run("braid doctor --fix").exits(0).prints("released it");
    machine.is_as_noted();
}

/// A clock that was set forward makes addresses look old. A plugin that runs for the container shows that its ADD is under way.
#[test]
fn an_address_is_nobodys_only_if_no_plugin_runs_for_its_container() {
    let machine = machine();
    let file = "/var/lib/cni/networks/plain/10.3.0.77";
    machine.run(&format!("echo ghost >{file}; touch -d '-1 day' {file}")).succeeds();
    machine.run("CNI_CONTAINERID=ghost sleep 600 </dev/null >/dev/null 2>&1 & echo $! >/run/plugin").succeeds();
    assert_eq!(findings(&machine, "--fix"), [""; 0]);
    machine.run("kill $(cat /run/plugin); rm /run/plugin").succeeds();
    machine.until("! pgrep sleep").succeeds();
    assert_eq!(findings(&machine, ""), [format!("address-leaked {file}")]);
    machine.run("braid doctor --fix").exits(0).prints("released it");
    machine.is_as_noted();
}

/// No runtime repeats a change.
#[test]
fn what_a_change_owes_is_told_with_who_tries_it_again() {
    let machine = failing();
    machine.run("braid detach web-1 net1").exits(1);
    assert_eq!(findings(&machine, "--fix"), ["cleanup-owed web-1/eth0"]);
    machine.run("braid doctor").exits(1).prints("what a change of the running container left").prints("`braid detach`");
    machine.write("recorder/behaviour/beta.json", "{}");
    machine.run("braid detach web-1 net1").succeeds();
    assert_eq!(findings(&machine, "--only web-1"), [""; 0]);
    machine.run("braid doctor --only web-1").exits(0).says("nothing is wrong with web-1");
}

#[test]
fn a_whole_id_or_that_of_a_debt_shows_one_container() {
    let machine = failing();
    machine.run("ip netns add two; braid add pods two --container-id web-12").succeeds();
    let shown = |id: &str| {
        let line = format!("braid show {id} | grep '^container' | tr -s '\\n ' ' '");
        machine.run(&line).succeeds().stdout.trim().to_owned()
    };
    assert_eq!(shown("web"), "container web-1 container web-12");
    assert_eq!(shown("web-1"), "container web-1");
    assert_eq!(shown("web-1/eth0"), "container web-1");
    machine.run("braid show web-1/eth7").exits(1).says("container \"web-1\" is not attached on \"eth7\"");
    park(&machine);
    assert_eq!((shown("web-1"), shown("web-1/eth0")), ("container web-1".into(), "container web-1".into()));
    machine.run("braid show web-1/eth0").succeeds().prints("parked");
}

/// A file that cannot be read may record the container of an address.
#[test]
fn what_an_unreadable_record_may_account_for_is_left_alone() {
    let machine = machine();
    machine.run("ip netns add app; braid add plain app --container-id app-1; ip netns del app").succeeds();
    let address = "address-leaked /var/lib/cni/networks/plain/10.3.0.3";
    machine.run("mv /var/lib/cni/results /var/lib/cni/kept; touch /var/lib/cni/results").succeeds();
    assert_eq!(findings(&machine, "--fix --min-age 0"), [address, "not-examined /var/lib/cni/results"]);
    machine.run("braid doctor --min-age 0").exits(1).prints("/var/lib/cni/results may account for it");
    machine.run("rm /var/lib/cni/results; mv /var/lib/cni/kept /var/lib/cni/results").succeeds();
    machine.run("braid doctor --fix --min-age 0").exits(0).prints("called DEL of network \"plain\"");
    machine.is_as_noted();
}

/// DEL was called and failed before the container was gone.
#[test]
fn a_failed_del_of_a_container_that_is_gone_is_reported_with_its_error() {
    let machine = failing();
    machine.run("braid del pods web --container-id web-1").exits(1);
    machine.run("ip netns del web").succeeds();
    assert_eq!(findings(&machine, "--ignore result-stale"), ["container-gone web-1/eth0"]);
    let told = machine.run("braid doctor").exits(1).prints("its DEL of network \"pods\" has failed");
    told.prints("the switch does not answer");
}
