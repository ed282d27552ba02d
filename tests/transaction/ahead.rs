//! Plugins that are started ahead of their turns, and wait for their input.

use std::fs;

use nix::sys::signal::kill;
use nix::unistd::Pid;
use rstest::rstest;
use serde_json::json;

use crate::live::{change, live, network};
use crate::support::{Case, Plugin, recorder, wait_for};

/// A plugin that records when it starts, how many other processes of it run at that time, and when it gets its input.
const EARLY: &str = r#"held=$RECORDER_DIR/held
: >"$held/alive-$$"
ls "$held" | grep -c alive- >>"$held/counts"
echo "$CNI_COMMAND $CNI_IFNAME" >>"$held/started"
input=$(cat)
rm "$held/alive-$$"
[ -n "$input" ] || exit 1
echo "$CNI_COMMAND $CNI_IFNAME" >>"$held/fed"
[ $CNI_COMMAND != ADD ] || echo '{"cniVersion":"1.1.0"}'"#;

/// `alpha`, which waits in this operation until the test releases it, and then this many networks with one `early` each.
fn case(verb: &str, networks: usize) -> Case {
    let alpha = recorder("alpha").version("1.1.0");
    let case = Case::new().cni_version("1.1.0").script("early", EARLY).delegate(alpha);
    let case = (0..networks).fold(case, |case, index| case.delegate(early(index)));
    case.behave("alpha", json!({"hold": {"at": "before", "name": "alpha"}, "on": [verb]}));
    case
}

fn early(index: usize) -> Plugin {
    Plugin::new(&format!("net-early-{index}"), "early").version("1.1.0")
}

fn lines(case: &Case, file: &str) -> Vec<String> {
    let text = fs::read_to_string(case.dir().join("recorder/held").join(file)).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

/// Waits until the file has this many lines.
fn wait_for_lines(case: &Case, file: &str, count: usize) -> Vec<String> {
    wait_for(file, || Some(lines(case, file)).filter(|lines| lines.len() >= count))
}

/// The number of plugins that have started without getting their input, or were killed before that.
fn waiting(case: &Case) -> Vec<Pid> {
    let entries = fs::read_dir(case.dir().join("recorder/held")).expect("a folder");
    let names = entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned());
    names.filter_map(|name| Some(Pid::from_raw(name.strip_prefix("alive-")?.parse().ok()?))).collect()
}

fn is_gone(pid: Pid) -> bool {
    kill(pid, None).is_err() || {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        status.is_empty() || status.contains("State:\tZ") || status.contains("State:\tX")
    }
}

fn forget(case: &Case) {
    for entry in fs::read_dir(case.dir().join("recorder/held")).expect("a folder") {
        fs::remove_file(entry.expect("an entry").path()).expect("remove a file");
    }
}

#[rstest]
fn the_next_plugins_wait_and_get_their_inputs_in_order(
    #[values(0, 1, 2, 16)] look_ahead: usize,
    #[values(1, 2)] concurrency: usize,
) {
    let case = case("ADD", 4).key("lookAhead", look_ahead).key("concurrency", concurrency);
    let add = case.call("ADD").start();
    case.held("alpha");
    // Attachments that run at once are all next.
    let expected = (look_ahead * concurrency).min(4);
    wait_for_lines(&case, "started", expected);
    assert_eq!(waiting(&case).len(), expected);
    assert_eq!(lines(&case, "fed"), [""; 0]);
    case.release("alpha");
    add.wait().succeeds();
    let (mut fed, in_order) = (lines(&case, "fed"), ["ADD net1", "ADD net2", "ADD net3", "ADD net4"]);
    if concurrency > 1 {
        fed.sort();
    }
    assert_eq!(fed, in_order);
    let counts = lines(&case, "counts");
    let most = counts.iter().map(|count| count.parse::<usize>().expect("a number")).max();
    assert!(most <= Some(concurrency * (1 + look_ahead)), "{counts:?}");
    case.behave("alpha", json!({}));
    forget(&case);
    case.del().succeeds().leaves_nothing();
    if concurrency == 1 {
        assert_eq!(lines(&case, "fed"), ["DEL net4", "DEL net3", "DEL net2", "DEL net1"]);
    }
}

#[rstest]
fn every_operation_looks_ahead(#[values("CHECK", "STATUS", "GC", "DEL")] verb: &str) {
    // The plugin that runs first is the last of the plan on DEL.
    let case = if verb == "DEL" {
        let case = Case::new().cni_version("1.1.0").script("early", EARLY);
        let case = case.delegate(early(0)).delegate(recorder("alpha"));
        case.behave("alpha", json!({"hold": {"at": "before", "name": "alpha"}, "on": [verb]}));
        case
    } else {
        case(verb, 2)
    };
    case.add().succeeds();
    forget(&case);
    let call = case.call(verb);
    let braid = if verb == "GC" {
        call.key("cni.dev/valid-attachments", json!([{"containerID": Case::CONTAINER, "ifname": "eth0"}])).start()
    } else {
        call.start()
    };
    case.held("alpha");
    let started = wait_for_lines(&case, "started", 1);
    assert_eq!(started.len(), 1);
    assert!(started[0].starts_with(verb), "{started:?}");
    assert!(!lines(&case, "fed").iter().any(|line| line.starts_with(verb)));
    case.release("alpha");
    braid.wait().succeeds();
    assert!(waiting(&case).is_empty());
    let fed = lines(&case, "fed").into_iter().filter(|line| line.starts_with(verb));
    assert_eq!(fed.count(), if verb == "DEL" { 1 } else { 2 });
}

#[rstest]
fn what_is_not_needed_is_killed_without_its_input(
    #[values(1, 2)] look_ahead: usize,
    #[values(1, 2)] concurrency: usize,
) {
    let case = case("ADD", 3).key("lookAhead", look_ahead).key("concurrency", concurrency);
    let hold =
        json!({"hold": {"at": "before", "name": "alpha"}, "on": ["ADD"], "fail": {"ADD": {"code": 142, "msg": "no"}}});
    case.behave("alpha", hold);
    let add = case.call("ADD").start();
    case.held("alpha");
    let expected = (look_ahead * concurrency).min(3);
    wait_for_lines(&case, "started", expected);
    let waiting = waiting(&case);
    assert_eq!(waiting.len(), expected);
    case.release("alpha");
    add.wait().fails(142).called(&["ADD alpha eth0", "DEL alpha eth0"]).leaves_nothing();
    assert!(waiting.into_iter().all(is_gone), "a plugin that is not needed runs on");
    assert_eq!(lines(&case, "fed"), [""; 0]);
    assert!(lines(&case, "started").iter().all(|line| line.starts_with("ADD")));
    assert!(!case.owes());
}

/// The later steps of its own network are no longer needed, but those of other networks are.
#[test]
fn what_an_optional_attachment_would_have_needed_is_killed() {
    let optional = json!({"optional": true, "config": {"cniVersion": "1.0.0", "name": "net-optional",
        "plugins": [{"type": "beta"}, {"type": "early"}]}});
    let case = case("ADD", 0).delegate(optional).delegate(Plugin::new("net-early", "early"));
    case.behave("alpha", json!({}));
    case.behave(
        "beta",
        json!({"hold": {"at": "before", "name": "beta"}, "on": ["ADD"], "fail": {"ADD": {"code": 142, "msg": "no"}}}),
    );
    let add = case.call("ADD").start();
    case.held("beta");
    wait_for_lines(&case, "started", 1);
    let waiting = waiting(&case);
    case.release("beta");
    add.wait().succeeds().called(&["ADD alpha eth0", "ADD beta net1", "DEL beta net1"]);
    assert!(waiting.into_iter().all(is_gone));
    // When an attachment is undone, steps that were not started get DEL too.
    assert_eq!(lines(&case, "fed"), ["DEL net1", "ADD net2"]);
    case.del().succeeds().leaves_nothing();
}

/// Changes of a running container look ahead as its configuration says.
#[rstest]
fn a_change_looks_ahead(#[values(true, false)] may_wait: bool) {
    let alpha = recorder("alpha").value();
    let left_out: &[&str] = if may_wait { &[] } else { &["early"] };
    let outer = json!({"cniVersion": "1.0.0", "name": "outer", "plugins": [{"type": "braid", "stateDir": "@DIR@/state",
        "confDir": "@DIR@/net.d", "noLookAhead": left_out, "delegates": [&alpha]}]});
    let case = live(Case::new().script("early", EARLY), &[alpha]).configuration("outer.conflist", outer);
    let case = network(case, "blue", &[recorder("beta"), Plugin::new("blue", "early"), recorder("gamma")]);
    case.add().succeeds();
    for (command, word, held) in [("attach", "blue", "beta"), ("detach", "net1", "gamma")] {
        case.behave(held, json!({"hold": {"at": "before", "name": held}}));
        let running = change(&case, command, &[word]).start();
        case.held(held);
        if may_wait {
            wait_for_lines(&case, "started", 1);
        }
        assert_eq!((waiting(&case).len(), lines(&case, "fed").len()), (usize::from(may_wait), 0), "{command}");
        case.release(held);
        running.wait().succeeds();
        assert_eq!(lines(&case, "fed").len(), 1, "{command}");
        case.behave(held, json!({}));
        forget(&case);
    }
    case.del().succeeds().leaves_nothing();
}

#[test]
fn a_type_in_no_look_ahead_is_started_in_its_turn() {
    let case = case("ADD", 1).script("later", EARLY).clear().delegate(recorder("alpha"));
    let case = case.delegate(Plugin::new("net-later", "later")).delegate(Plugin::new("net-early", "early"));
    let case = case.key("lookAhead", 2).key("noLookAhead", json!(["later"]));
    let add = case.call("ADD").start();
    case.held("alpha");
    // Otherwise it would have been started before the other.
    assert_eq!(wait_for_lines(&case, "started", 1), ["ADD net2"]);
    case.release("alpha");
    add.wait().succeeds();
    assert_eq!(lines(&case, "fed"), ["ADD net1", "ADD net2"]);
}

/// An error of starting a plugin is reported when its turn comes, in the same words as without looking ahead.
#[rstest]
#[case::is_no_program("\u{7f}garbage", 5)]
#[case::has_no_interpreter("#!/nonexistent/interpreter\n", 5)]
#[case::dies_before_its_input("#!/bin/sh\necho oops >&2\nexit 3\n", 100)]
#[case::says_no_before_its_input("#!/bin/sh\necho '{\"code\":142,\"msg\":\"no\"}'\nexit 1\n", 142)]
#[case::closes_its_input("#!/bin/sh\nexec 0<&-\nkill -SEGV $$\n", 100)]
fn a_plugin_that_cannot_start_is_an_error_in_its_turn(#[case] content: &str, #[case] code: u64) {
    let case = |look_ahead: usize| {
        let case = Case::new().script("broken", "").key("lookAhead", look_ahead);
        fs::write(case.plugin_path("broken"), content).expect("write the plugin");
        case.delegate(recorder("alpha")).delegate(Plugin::new("net-broken", "broken"))
    };
    let texts = [0, 2].map(|look_ahead| {
        let case = case(look_ahead);
        let add = case.add().fails(code).called(&["ADD alpha eth0", "DEL alpha eth0"]);
        add.error_text().replace(&case.dir().display().to_string(), "@DIR@")
    });
    assert_eq!(texts[0], texts[1]);
    // It is no error if the plugin is not needed.
    let case = case(2);
    case.behave("alpha", json!({"fail": {"ADD": {"code": 143, "msg": "alpha says no"}}}));
    let add = case.add().fails(143).called(&["ADD alpha eth0", "DEL alpha eth0"]).leaves_nothing();
    assert!(!add.error_text().contains("broken"), "{}", add.error_text());
}

/// A plugin that has done its work without its input counts as run, and is undone.
#[test]
fn what_acted_before_its_input_and_is_not_needed_is_undone() {
    let eager = r#"case $CNI_COMMAND in
ADD) : >"$RECORDER_DIR/state/eager"; echo '{"cniVersion":"1.0.0"}'; : >"$RECORDER_DIR/held/done" ;;
DEL) rm -f "$RECORDER_DIR/state/eager" ;;
esac"#;
    let case =
        Case::new().script("eager", eager).delegate(recorder("alpha")).delegate(Plugin::new("net-eager", "eager"));
    case.behave(
        "alpha",
        json!({"hold": {"at": "before", "name": "alpha"}, "on": ["ADD"], "fail": {"ADD": {"code": 142, "msg": "no"}}}),
    );
    let add = case.call("ADD").start();
    case.held("alpha");
    let done = case.dir().join("recorder/held/done");
    wait_for("the eager plugin", || done.exists().then_some(()));
    // It only has to exit now.
    std::thread::sleep(std::time::Duration::from_millis(200));
    case.release("alpha");
    add.wait().fails(142).leaves_nothing();
    assert!(!case.dir().join("recorder/state/eager").exists(), "what it did is left");
    assert!(!case.owes());
}

/// Braid is killed while plugins wait. They are killed too, and none of them finds its input empty.
#[rstest]
fn what_waits_dies_with_braid(
    #[values("ADD", "DEL", "CHECK")] verb: &str,
    #[values(1, 3)] look_ahead: usize,
    #[values(1, 2)] concurrency: usize,
) {
    let case = Case::new().cni_version("1.1.0").script("early", EARLY).delegate(recorder("alpha"));
    let case = (0..3).fold(case, |case, index| case.delegate(early(index)));
    let case = if verb == "DEL" { case.delegate(recorder("beta")) } else { case };
    let case = case.key("lookAhead", look_ahead).key("concurrency", concurrency);
    let first = if verb == "DEL" { "beta" } else { "alpha" };
    if verb != "ADD" {
        case.add().succeeds();
        forget(&case);
    }
    case.behave(first, json!({"hold": {"at": "before", "name": "first"}, "on": [verb]}));
    let braid = case.call(verb).start();
    case.held("first");
    wait_for_lines(&case, "started", look_ahead);
    let waiting = waiting(&case);
    braid.kill();
    case.behave(first, json!({}));
    case.release("first");
    let fed = lines(&case, "fed");
    case.del().succeeds().leaves_nothing();
    assert!(waiting.into_iter().all(is_gone), "a plugin that waits has outlived Braid");
    if verb != "DEL" || concurrency == 1 {
        assert_eq!(fed, [""; 0]);
    }
    // The DEL afterwards is not part of the comparison.
    assert!(lines(&case, "fed").iter().all(|line| line.starts_with("DEL")));
}

/// A process that a plugin has left running on purpose is not killed with the waiting plugins.
#[test]
fn what_an_earlier_plugin_has_left_running_stays_when_those_that_wait_are_killed() {
    let daemon = "cat >/dev/null; [ $CNI_COMMAND = ADD ] || { kill $(cat \"$RECORDER_DIR/held/daemon\"); exit 0; }\n\
         sleep 1000 >/dev/null 2>&1 & echo $! >\"$RECORDER_DIR/held/daemon\"; echo '{\"cniVersion\":\"1.0.0\"}'";
    let optional = json!({"optional": true, "config": {"cniVersion": "1.0.0", "name": "net-optional",
        "plugins": [{"type": "beta"}, {"type": "early"}]}});
    let case = Case::new().script("daemon", daemon).script("early", EARLY).key("lookAhead", 2);
    let case = case.delegate(Plugin::new("net-daemon", "daemon")).delegate(optional);
    case.behave("beta", json!({"fail": {"ADD": {"code": 142, "msg": "no"}}}));
    case.add().succeeds();
    let pid = fs::read_to_string(case.dir().join("recorder/held/daemon")).expect("the daemon's ID");
    assert!(!is_gone(Pid::from_raw(pid.trim().parse().expect("a number"))), "the daemon was killed");
    case.del().succeeds().leaves_nothing();
}
