//! Braid killed at its system calls, while real plugins change a container.
//!
//! The test uses some calls, spread evenly, as many as its time allows. With `BRAID_TEST_KILLS=all` it uses all, which takes
//! half an hour. `BRAID_TEST_KILLS=2/4` is the second quarter of all.

use std::collections::HashMap;
use std::env;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use rstest::rstest;
use serde_json::{Value, json};

use super::{STRACE, attach, change, live, network, traced, update};
use crate::support::{Case, Json as _, Network, bandwidth, bridge, firewall, host_local, portmap, tuning};

/// The time for the kills of one change.
const BUDGET: Duration = Duration::from_secs(8);
/// The calls that another process could notice, and those during which another process works. Between two of them nothing outside
/// Braid changes, so a kill at any other call has the same effect as a kill at the next one of these.
const NOTICED: [&str; 24] = [
    "clone",
    "clone3",
    "exit_group",
    "fdatasync",
    "flock",
    "fsync",
    "ftruncate",
    "futex",
    "kill",
    "mkdirat",
    "poll",
    "rename",
    "renameat",
    "renameat2",
    "sendmsg",
    "sendto",
    "setpgid",
    "socketpair",
    "unlink",
    "unlinkat",
    "vfork",
    "wait4",
    "waitid",
    "write",
];

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

/// Rules, limits and interfaces, without what differs from run to run.
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

/// The system calls of the change at which it is killed, each as a name and a number among those of that name.
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
    let names = names.filter(|name| NOTICED.contains(&name.as_str()));
    let call = |name: String| {
        let nth = seen.entry(name.clone()).or_default();
        *nth += 1;
        (name, *nth)
    };
    Some(names.map(call).collect())
}

/// The part of all calls to use: its number, counted from 0, and the number of parts. `all` is the first of one.
fn part_of_all(kills: &str) -> Option<(usize, usize)> {
    if kills == "all" {
        return Some((0, 1));
    }
    let (part, parts) = kills.split_once('/')?;
    let (part, parts): (usize, usize) = (part.parse().ok()?, parts.parse().ok()?);
    (1..=parts).contains(&part).then(|| (part - 1, parts))
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

    let part = part_of_all(&env::var("BRAID_TEST_KILLS").unwrap_or_default());
    let is_all = part.is_some();
    let signals: &[&[&str]] = if is_all { &[&["KILL"], &["TERM"]] } else { &[&["KILL", "TERM"]] };
    let began = Instant::now();
    let mut kills = 0;
    for signals in signals {
        for turn in (0..calls.len()).filter(|turn| part.is_none_or(|(part, parts)| turn % parts == part)) {
            if !is_all && began.elapsed() > BUDGET {
                break;
            }
            // The golden ratio spreads the calls evenly, whenever the time is over.
            let at = if is_all { turn } else { turn * 618 * calls.len() / 1000 % calls.len() };
            let (name, nth) = &calls[at];
            let inject = format!("inject={name}:signal={}:when={nth}", signals[turn % signals.len()]);
            begin();
            let trace = ["-o", "/dev/null", "-e", &format!("trace={name}"), "-e", &inject];
            let ended = traced(&case, &trace, words).output();
            kills += usize::from(!ended.status.success());
            // Each of these settles the unfinished change.
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
    eprintln!("{words:?}: killed {kills} times, at {} system calls, in {:.0?}", calls.len(), began.elapsed());
    assert!(kills > 0);
}
