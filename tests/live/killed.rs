//! Braid killed at its system calls, while real plugins change a container.
//!
//! Some calls, spread evenly, as many as fit a budget of time; all of them with `BRAID_TEST_KILLS=all`.

use std::collections::HashMap;
use std::env;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use rstest::rstest;
use serde_json::{Value, json};

use super::{attach, change, live, network, update};
use crate::support::{
    Case, Invocation, Json as _, Network, bandwidth, braid, bridge, firewall, host_local, portmap, tuning,
};

const STRACE: &str = "/usr/bin/strace";
/// How long one change is killed for.
const BUDGET: Duration = Duration::from_secs(8);

fn case() -> Case {
    let mut ipam = host_local(&["10.67.1.0/24"]);
    ipam["routes"] = json!([{"dst": "0.0.0.0/0"}]);
    let chain = Network::new("one")
        .key("disableCheck", true)
        .plugin(bridge("br-one", "10.67.1.0/24").key("ipam", ipam))
        .plugin(tuning())
        .plugin(bandwidth())
        .plugin(firewall())
        .plugin(portmap());
    let chain: Value = serde_json::from_str(&chain.into_json()).expect("JSON");
    let case = live(Case::with_reference_plugins(), &[chain])
        .runtime_config(json!({"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]}));
    network(case, "two", &[bridge("br-two", "10.67.2.0/24"), bandwidth()])
}

/// The command line of the container, started by `strace` with these words.
fn traced<'a>(case: &'a Case, options: &[&str], words: &[&str]) -> Invocation<'a> {
    let braid = braid().display().to_string();
    let line = [options, &[&braid, words[0], Case::CONTAINER], &words[1..], &["--state-dir", "@DIR@/state"]].concat();
    case.command(Path::new(STRACE), &[&["-qqq"], &line[..]].concat())
}

/// What there is, without what differs between one time and the next: rules, limits and interfaces.
fn shape(case: &Case) -> (usize, usize, bool, Vec<String>) {
    let rules = case.host().run("iptables-save");
    let links = case.pod().ip_json("link show");
    let mut names: Vec<String> = links.iter().map(|link| link["ifname"].as_str().unwrap_or_default().into()).collect();
    names.sort();
    (
        rules.lines().filter(|line| line.starts_with("-A") && !line.contains("br-two")).count(),
        case.host().run("tc qdisc show").matches("tbf").count(),
        links.iter().any(|link| link["mtu"] == 1300),
        names,
    )
}

/// The system calls of the change, each as a name and which one of that name it is.
fn calls(case: &Case, words: &[&str]) -> Option<Vec<(String, usize)>> {
    let file = case.dir().join("trace");
    let output = traced(case, &["-o", &file.display().to_string()], words).output();
    if !output.status.success() {
        eprintln!("strace does not work here: {}", String::from_utf8_lossy(&output.stderr));
        return None;
    }
    let text = fs::read_to_string(&file).expect("the trace");
    let mut seen: HashMap<String, usize> = HashMap::new();
    let names = text.lines().filter_map(|line| line.split_once('(')).map(|(name, _)| name.trim().to_owned());
    // strace itself sees to the first.
    let names = names.filter(|name| name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') && name != "execve");
    let call = |name: String| {
        let nth = seen.entry(name.clone()).or_default();
        *nth += 1;
        (name, *nth)
    };
    Some(names.map(call).collect())
}

#[rstest]
#[case::attach(&["attach", "two"])]
#[case::detach(&["detach", "net1"])]
#[case::bandwidth(&["update", "eth0", "--bandwidth", "ingress=1M,egress=none"])]
#[case::portmap(&["update", "eth0", "--port-mappings", "8081:80,8082:82"])]
#[case::tuning(&["update", "eth0", "--plugin", "tuning", "--set", "mtu=1300"])]
fn at_its_system_calls(#[case] words: &[&str]) {
    if !Path::new(STRACE).exists() {
        eprintln!("skipped: there is no {STRACE}");
        return;
    }
    let case = case();
    let begin = || {
        case.add().succeeds();
        if words[0] == "detach" {
            attach(&case, &["two"]).succeeds();
        }
    };
    begin();
    let before = shape(&case);
    let Some(calls) = calls(&case, words) else { return };
    let after = shape(&case);
    assert_ne!(before, after);
    case.del().succeeds().leaves_nothing();

    let is_all = env::var("BRAID_TEST_KILLS").is_ok_and(|kills| kills == "all");
    let signals: &[&[&str]] = if is_all { &[&["KILL"], &["TERM"]] } else { &[&["KILL", "TERM"]] };
    let began = Instant::now();
    let mut kills = 0;
    for signals in signals {
        for turn in 0..calls.len() {
            if !is_all && began.elapsed() > BUDGET {
                break;
            }
            // Evenly, however soon it ends: by the golden ratio.
            let at = if is_all { turn } else { turn * 618 * calls.len() / 1000 % calls.len() };
            let (name, nth) = &calls[at];
            let inject = format!("inject={name}:signal={}:when={nth}", signals[turn % signals.len()]);
            begin();
            let trace = ["-o", "/dev/null", "-e", &format!("trace={name}"), "-e", &inject];
            let ended = traced(&case, &trace, words).output();
            kills += usize::from(!ended.status.success());
            // Each of these settles what was cut short.
            match turn % 3 {
                0 => drop(change(&case, "detach", &["nothing"]).run().fails(7)),
                1 => drop(update(&case, &["eth0", "--plugin", "firewall", "--set", "x=1"]).succeeds()),
                _ => {
                    case.check().succeeds();
                    change(&case, "detach", &["nothing"]).run().fails(7);
                }
            }
            let now = shape(&case);
            assert!(now == before || now == after, "{inject}: {now:?} is neither {before:?} nor {after:?}");
            case.del().succeeds();
            assert_eq!(case.changes(), "", "{inject}");
        }
    }
    eprintln!("{words:?}: killed {kills} times, of {} system calls", calls.len());
    assert!(kills > 0);
}
