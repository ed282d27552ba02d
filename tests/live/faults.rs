//! Changes that fail, are killed, or run at the same time as other calls. The container is either unchanged or changed
//! completely, and one DEL leaves nothing.

use std::time::Instant;
use std::{fs, thread};

use nix::sys::signal::Signal;
use rstest::rstest;
use serde_json::{Value, json};

use super::{attach, change, detach, live, network, update};
use crate::support::{Case, Network, Plugin, bandwidth, bridge, firewall, portmap, recorder, tuning};

/// A container on one recorder's network, and a network of two more to be attached.
fn case() -> Case {
    let case = live(Case::new(), &[recorder("alpha").link().ip("10.1.0.5/24").value()]);
    network(case, "blue", &[recorder("beta").ip("10.2.0.5/24"), recorder("gamma")])
}

/// A container with everything that can get new values.
fn real() -> Case {
    let chain = Network::new("one")
        .key("disableCheck", true)
        .plugin(bridge("br-one", "10.65.1.0/24"))
        .plugin(tuning())
        .plugin(bandwidth())
        .plugin(firewall())
        .plugin(portmap());
    let chain: Value = serde_json::from_str(&crate::support::Json::into_json(chain)).expect("JSON");
    let case = live(Case::with_reference_plugins(), &[chain])
        .runtime_config(json!({"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]}));
    network(case, "two", &[bridge("br-two", "10.65.2.0/24"), bandwidth()])
}

/// The state that a failed change must not alter.
fn state(case: &Case) -> (String, String, String) {
    let rules = case.host().run("iptables-save");
    let rules: Vec<&str> = rules.lines().filter(|line| line.starts_with("-A")).collect();
    (rules.join("\n"), case.host().run("tc qdisc show"), case.pod().run("ip -o link show"))
}

#[rstest]
fn killed_at_any_step(
    #[values("attach", "detach")] command: &str,
    #[values(Signal::SIGKILL, Signal::SIGTERM)] signal: Signal,
    #[values("beta", "gamma")] plugin: &str,
    #[values("before", "after")] at: &str,
    #[values("attach", "detach", "check", "del")] next: &str,
) {
    let case = case();
    case.add().succeeds();
    if command == "detach" {
        attach(&case, &["blue"]).succeeds();
    }
    let verb = if command == "attach" { "ADD" } else { "DEL" };
    let rendezvous = format!("{plugin}-{at}");
    case.behave(plugin, json!({"hold": {"at": at, "name": rendezvous}, "on": [verb], "ignore_sigterm": true}));
    let word = if command == "attach" { "blue" } else { "net1" };
    let running = change(&case, command, &[word]).start();
    case.held(&rendezvous);
    running.signal(signal);
    case.behave(plugin, json!({}));
    case.release(&rendezvous);
    match next {
        "attach" if command == "attach" => drop(attach(&case, &["blue"]).succeeds()),
        "attach" => drop(attach(&case, &["blue@net7"]).succeeds()),
        "detach" if command == "attach" => drop(detach(&case, &["net1"]).fails(7)),
        // The unfinished detach is completed first, and then there is no such interface.
        "detach" => drop(detach(&case, &["net1"]).succeeds()),
        "check" => drop(case.check().succeeds()),
        _ => {}
    }
    case.del().succeeds().leaves_nothing();
    case.del().succeeds().leaves_nothing();
}

/// Wherever an update is killed, the next one finds either all old values or all new ones, and DEL leaves nothing.
#[rstest]
#[case::bandwidth(&["--bandwidth", "ingress=1M,egress=none"])]
#[case::portmap(&["--port-mappings", "8081:80"])]
#[case::tuning(&["--plugin", "tuning", "--set", "mtu=1300"])]
fn an_update_is_killed_at_any_time(#[case] values: &[&str]) {
    let case = real();
    let words: Vec<&str> = ["eth0"].into_iter().chain(values.iter().copied()).collect();
    case.add().succeeds();
    let before = state(&case);
    let began = Instant::now();
    update(&case, &words).succeeds();
    let whole = began.elapsed();
    let after = state(&case);
    case.del().succeeds().leaves_nothing();

    for part in 0..12 {
        case.add().succeeds();
        let running = change(&case, "update", &words).start();
        thread::sleep(whole * part / 12);
        running.signal(Signal::SIGKILL);
        let mut running = running;
        crate::support::wait_for("the end of braid", || running.ended());
        // This settles the unfinished change.
        drop(change(&case, "update", &["eth0", "--plugin", "firewall", "--set", "backend=\"iptables\""]).output());
        let now = state(&case);
        let shape = |state: &(String, String, String)| {
            (state.0.lines().count(), state.1.matches("tbf").count(), state.2.contains("mtu 1300"))
        };
        assert!([shape(&before), shape(&after)].contains(&shape(&now)), "part {part}: {now:#?}");
        case.del().succeeds().leaves_nothing();
    }
}

/// The old values are restored, whatever the plugin does with the new ones.
#[rstest]
#[case::fails(json!({"fail": {"ADD": {"code": 142, "msg": "no"}}}))]
#[case::answers_nonsense(json!({"raw_stdout": "nonsense", "on": ["ADD"]}))]
#[case::hangs(json!({"hold": {"at": "before", "name": "for-ever"}, "on": ["ADD"]}))]
fn a_failed_attach_leaves_the_container_as_it_was(#[case] behaviour: Value) {
    let case = case();
    case.add().succeeds();
    case.behave("gamma", behaviour);
    let output = change(&case, "attach", &["blue"]).env("BRAID_TEST", "1");
    drop(output);
    let conf = fs::read_to_string(case.dir().join("net.d/outer.conflist")).expect("read");
    let mut conf: Value = serde_json::from_str(&conf).expect("JSON");
    conf["plugins"][0]["timeouts"] = json!({"plugin": 1, "total": 5, "rollback": 5});
    fs::write(case.dir().join("net.d/outer.conflist"), conf.to_string()).expect("write");
    let outcome = attach(&case, &["blue"]).fails_with_any_code();
    assert_eq!(outcome.order().last().map(String::as_str), Some("DEL beta net1"));
    case.behave("gamma", json!({}));
    case.check().succeeds();
    attach(&case, &["blue"]).succeeds();
    case.del().succeeds().leaves_nothing();
}

/// What cannot be undone is reported, owed and shown, and further changes are refused until it is undone.
#[test]
fn a_detach_that_fails_is_owed_and_tried_again() {
    let case = case();
    case.add().succeeds();
    attach(&case, &["blue"]).succeeds();
    case.behave("beta", json!({"fail": {"DEL": {"code": 142, "msg": "beta refuses DEL"}}}));
    detach(&case, &["net1"]).fails_with_any_code().says("beta refuses DEL");
    let shown = change(&case, "show", &[]).output();
    assert!(String::from_utf8_lossy(&shown.stdout).contains("owed"), "{shown:?}");
    attach(&case, &["blue@net5"]).fails_with_any_code().says("net1");
    case.behave("beta", json!({}));
    detach(&case, &["net1"]).succeeds();
    attach(&case, &["blue@net5"]).succeeds();
    case.del().succeeds().leaves_nothing();
}

/// Calls for one container wait for one another, whatever their operations.
#[test]
fn changes_and_other_calls_at_random() {
    let first: Value = serde_json::from_str(&crate::support::Json::into_json(
        Network::new("one").plugin(recorder("alpha").link().ip("10.1.0.5/24")).plugin(Plugin::new("", "firewall")),
    ))
    .expect("JSON");
    let case = live(Case::new().cni_version("1.1.0").recorder_as("firewall"), &[first]);
    let case = network(case, "blue", &[recorder("beta").ip("10.2.0.5/24"), recorder("gamma")]);
    case.add().succeeds();
    let gc = |valid: Value| drop(case.call("GC").key("cni.dev/valid-attachments", valid).run_unrecorded());
    let said = |output: std::process::Output| {
        let said = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
        let is_wrong = ["panick", "cannot be used", "damaged", "defect"].iter().any(|word| said.contains(word));
        assert!(!is_wrong, "{said}");
    };
    thread::scope(|scope| {
        for worker in 0..4_u64 {
            let (case, gc) = (&case, &gc);
            scope.spawn(move || {
                let mut seed = worker + 1;
                for round in 0..25 {
                    seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    let ifname = format!("w{worker}");
                    let selection = format!("blue@{ifname}");
                    let value = format!("x={round}");
                    match (seed >> 33) % 12 {
                        0..=2 => said(change(case, "attach", &[&selection]).run_unrecorded()),
                        3 | 4 => said(change(case, "detach", &[&ifname]).run_unrecorded()),
                        5 => said(
                            change(case, "update", &["eth0", "--plugin", "firewall", "--set", &value]).run_unrecorded(),
                        ),
                        6 => said(case.call("CHECK").run_unrecorded()),
                        7 => said(change(case, "show", &["-o", "json"]).output()),
                        8 => said(case.call("DEL").run_unrecorded()),
                        9 => said(case.call("ADD").run_unrecorded()),
                        10 => gc(json!([{"containerID": Case::CONTAINER, "ifname": "eth0"}])),
                        _ => gc(json!([])),
                    }
                }
            });
        }
    });
    case.del().succeeds();
    case.add().succeeds();
    case.check().succeeds();
    case.del().succeeds().leaves_nothing();
    assert!(!case.owes());
}

/// Containers do not wait for one another: while a plugin hangs in one, all the others change.
#[test]
fn fifty_containers_do_not_wait_for_one_another() {
    let case = live(Case::new(), &[recorder("alpha").value()]);
    let case = network(case, "blue", &[recorder("beta")]);
    let id = |number: usize| format!("box-{number}");
    let call = |verb: &str, number: usize| {
        let output = case.call(verb).env("CNI_CONTAINERID", id(number)).run_unrecorded();
        assert!(output.status.success(), "{verb} of {number}: {output:?}");
    };
    let each = |numbers: std::ops::Range<usize>, work: &(dyn Fn(usize) + Sync)| {
        let next = std::sync::atomic::AtomicUsize::new(numbers.start);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    loop {
                        let number = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                        if number >= numbers.end {
                            break;
                        }
                        work(number);
                    }
                });
            }
        });
    };
    each(0..50, &|number| call("ADD", number));
    let hanging = recorder("gamma")
        .key("name", "x")
        .instructed("hold", json!({"at": "before", "name": "hang"}))
        .instructed("on", json!(["ADD"]));
    let hanging = json!({"interface": "x0", "config": hanging.value()}).to_string();
    let mut running = case.braid(&["attach", &id(0), &hanging, "--state-dir", "@DIR@/state"]).start();
    case.held("hang");
    each(1..50, &|number| {
        let id = id(number);
        for words in [["attach", &id, "blue"], ["detach", &id, "net1"]] {
            let output = case.braid(&[&words[..], &["--state-dir", "@DIR@/state"]].concat()).output();
            assert!(output.status.success(), "{words:?}: {output:?}");
        }
    });
    assert!(!running.has_exited(), "the first still hangs");
    case.release("hang");
    running.wait().succeeds();
    each(0..50, &|number| call("DEL", number));
    assert!(!case.owes());
    assert_eq!(case.changes(), "");
}

/// An older Braid refuses a journal that has been changed.
#[test]
fn a_changed_journal_has_format_2() {
    let case = case();
    case.add().succeeds();
    let journal = case.dir().join("state/attachments").join(Case::CONTAINER).join("eth0.jsonl");
    let format = || {
        let text = fs::read_to_string(&journal).expect("the journal");
        serde_json::from_str::<Value>(text.lines().next().expect("a line")).expect("JSON")["format"].clone()
    };
    assert_eq!(format(), 1);
    attach(&case, &["blue"]).succeeds();
    assert_eq!(format(), 2);
    case.del().succeeds().leaves_nothing();
}

/// The runtime calls DEL with the result that it has cached, which does not contain the changes.
#[test]
fn del_with_the_old_result() {
    let case = case();
    let added = case.add().succeeds().result().clone();
    attach(&case, &["blue"]).succeeds();
    case.call("CHECK").key("prevResult", added.clone()).run().succeeds();
    let outcome = case.call("DEL").key("prevResult", added).run().succeeds();
    assert_eq!(outcome.order(), ["DEL gamma net1", "DEL beta net1", "DEL alpha eth0"]);
    outcome.leaves_nothing();
}
