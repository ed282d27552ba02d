//! Screens in the documentation show what the program prints.
//!
//! A screen is a block of `console` below a line `<!-- screen: NAME -->`. Its lines that begin with `$ ` are run one after another
//! on the machine that the test of that name sets up, and what follows each is what that must print. What differs from run to run
//! (times, MAC addresses) may differ, and so may the width of columns.
//!
//! If `BRAID_TEST_UPDATE_SCREENS` is set, the blocks are replaced with what is printed.

use std::fs;
use std::path::{Path, PathBuf};

use regex_lite::Regex;
use rstest::rstest;
use serde_json::{Value, json};

use crate::support::{Json as _, Machine, bridge};

fn page(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// The text of a page before a screen, the screen, and the text after it.
fn split<'a>(text: &'a str, name: &str) -> (&'a str, &'a str, &'a str) {
    let marker = format!("<!-- screen: {name} -->\n\n```console\n");
    let start = text.find(&marker).unwrap_or_else(|| panic!("there is no screen {name:?}")) + marker.len();
    let end = start + text[start..].find("```\n").expect("the end of the block");
    (&text[..start], &text[start..end], &text[end..])
}

/// The commands of a screen.
fn commands(screen: &str) -> impl Iterator<Item = &str> {
    screen.lines().filter_map(|line| line.strip_prefix("$ "))
}

/// The text that is compared, without what differs from run to run.
fn steady(text: &str) -> String {
    let rules = [
        (r"(?:[0-9a-f]{2}:){5}[0-9a-f]{2}", "MAC"),
        (r"\d+(?:\.\d+)? ms\b", "N ms"),
        (r#""ms":\d+(?:\.\d+)?"#, r#""ms":N"#),
        (r"\d+ (?:s|min|h) ago", "N ago"),
        (r" {2,}", " "),
    ];
    let text = rules.iter().fold(text.to_owned(), |text, (expression, with)| {
        Regex::new(expression).expect("an expression").replace_all(&text, *with).into_owned()
    });
    text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
}

/// Runs the commands of a screen, and compares their output with the page.
#[track_caller]
fn compare(machine: &Machine, file: &str, name: &str) {
    let path = page(file);
    let text = fs::read_to_string(&path).expect("a page");
    let (before, screen, after) = split(&text, name);
    let mut now = String::new();
    for command in commands(screen) {
        let ran = machine.run(command);
        // doctor exits with 1 if it has findings, as in the screen.
        let printed = if ran.stdout.is_empty() { &ran.stderr } else { &ran.stdout };
        let lines = printed.trim_end().lines().map(str::trim_end);
        now += &["$ ", command, "\n"].concat();
        now.extend(lines.flat_map(|line| [line, "\n"]));
    }
    if std::env::var_os("BRAID_TEST_UPDATE_SCREENS").is_some() {
        if steady(&now) != steady(screen) {
            fs::write(&path, format!("{before}{now}{after}")).expect("write the page");
        }
        return;
    }
    assert_eq!(steady(&now), steady(screen), "{file} shows another screen; BRAID_TEST_UPDATE_SCREENS=1 writes it anew");
}

/// A network with a bridge of its own, and host-local with its default data directory.
fn network(name: &str, subnet: &str) -> Value {
    let ipam = json!({"type": "host-local", "ranges": [[{"subnet": subnet}]]});
    let bridge = bridge(&format!("br-{name}"), "").without("ipMasq").without("cniVersion").without("name");
    serde_json::from_str(&bridge.key("ipam", ipam).into_json()).expect("JSON")
}

/// A machine whose network `pods` is `front`, with limits, and `storage`, which can be attached to others too.
fn machine(more: &[Value]) -> Machine {
    let limits = json!({"type": "bandwidth", "capabilities": {"bandwidth": true}});
    let front = json!({"name": "front", "plugins": [network("front", "10.101.0.0/24"), limits]});
    let delegates = [&[front][..], more].concat();
    let pods = json!({"cniVersion": "1.0.0", "name": "pods", "plugins": [
        {"type": "braid", "confDir": "/etc/cni/net.d", "delegates": delegates}]});
    let storage = json!({"cniVersion": "1.0.0", "name": "storage", "plugins": [network("storage", "10.102.0.0/24")]});
    let machine = Machine::new().conf("10-pods.conflist", pods).conf("20-storage.conflist", storage);
    machine
        .run("for n in pods storage; do ip netns add x; braid add $n x; braid del $n x; ip netns del x; done")
        .succeeds();
    machine
}

/// Attaches a container to the network.
fn attach(machine: &Machine, container: &str) {
    machine.run(&format!("ip netns add {container}; braid add pods {container} --container-id {container}")).succeeds();
}

#[test]
fn changing_a_container() {
    let machine = machine(&[]);
    attach(&machine, "web");
    compare(&machine, "docs/live.md", "changing a container");
}

#[test]
fn doctor() {
    let machine = machine(&[]);
    attach(&machine, "web");
    machine.run("ip netns del web; printf '3f9a61\\r\\neth0' >/var/lib/cni/networks/front/10.101.0.77").succeeds();
    compare(&machine, "docs/operations.md", "doctor");
}

#[test]
fn plan() {
    let machine = machine(&[
        json!({"name": "storage", "when": {"namespace": ["prod-*", "!prod-test"]}}),
        json!({"name": "storage", "interface": "backup", "when": {"pod": ["db-*"]}}),
    ]);
    compare(&machine, "docs/how-braid-decides.md", "plan");
}

#[test]
fn listing() {
    let machine = machine(&[json!({"name": "storage"})]);
    attach(&machine, "web");
    attach(&machine, "db");
    machine.run("ip netns del db").succeeds();
    compare(&machine, "docs/troubleshooting.md", "list and show");
}

/// Every screen has a test.
#[test]
fn every_screen_is_compared_with_the_program() {
    let tests = include_str!("screens.rs");
    let mut count = 0;
    for entry in fs::read_dir(page("docs")).expect("a folder").flatten() {
        if entry.path().extension().is_none_or(|ending| ending != "md") {
            continue;
        }
        let file = format!("docs/{}", entry.file_name().into_string().expect("UTF-8"));
        let text = fs::read_to_string(entry.path()).expect("a page");
        for rest in text.split("<!-- screen: ").skip(1) {
            let name = rest.split(" -->").next().expect("a name");
            assert!(tests.contains(&format!("compare(&machine, {file:?}, {name:?})")), "{file}: {name:?} has no test");
            count += 1;
        }
    }
    assert!(count >= 4, "{count}");
}

#[rstest]
#[case::times("state attached since 4 min ago, in 25.842 ms", "state attached since 9 s ago, in 7 ms")]
#[case::columns("a   1.5 ms  b  \n", "a  10.25 ms b")]
#[case::addresses("mac 1e:16:6e:cb:bf:3d", "mac e2:77:39:32:8e:ab")]
fn what_differs_from_run_to_run_is_not_compared(#[case] one: &str, #[case] other: &str) {
    assert_eq!(steady(one), steady(other));
    assert_ne!(steady(one), steady(&one.replace(['a', 'm'], "x")));
}
