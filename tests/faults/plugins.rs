//! Plugins that hang, lie, print too much, vanish or are replaced: each case has a defined outcome, and nothing is left.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use rstest::rstest;
use serde_json::{Value, json};

use crate::support::{Case, Network, Plugin, recorder};

fn instructed(kind: &str, instructions: &Value) -> Plugin {
    let instructions = instructions.as_object().expect("instructions");
    instructions.iter().fold(recorder(kind), |plugin, (key, value)| plugin.instructed(key, value.clone()))
}

/// A time-out names the plugin, the attachment and the time, and has a code of its own.
#[test]
fn a_plugin_that_hangs_in_add_is_named() {
    let hang = json!({"hold": {"at": "before", "name": "never"}, "on": ["ADD"], "ignore_sigterm": true});
    let case = Case::new()
        .delegate(recorder("alpha"))
        .delegate(instructed("beta", &hang))
        .key("timeouts", json!({"plugin": 0.5}));
    let outcome = case.add().fails(101).message_contains("\"beta\"").message_contains("net1").message_contains("0.5 s");
    outcome.called(&["ADD alpha eth0", "ADD beta net1", "DEL beta net1", "DEL alpha eth0"]).leaves_nothing();
    assert!(!case.owes());
}

/// A plugin that has left its process group is killed when its time is over, and Braid does not wait for it.
#[rstest]
#[case::into_a_session_of_its_own(1, "exec setsid sleep 1000")]
#[case::into_braids_group(1, "exec perl -e 'setpgrp(0, getpgrp(getppid())); sleep 1000'")]
#[case::the_first_of_all(0, "exec perl -e 'setpgrp(0, getpgrp(getppid())); sleep 1000'")]
fn a_plugin_that_hangs_in_another_process_group_is_killed(#[case] earlier: usize, #[case] leave: &str) {
    let script = format!("[ $CNI_COMMAND = ADD ] || exit 0\n{leave}");
    let mut case = Case::new().script("leaver", &script).key("timeouts", json!({"plugin": 0.5}));
    for _ in 0..earlier {
        case = case.delegate(recorder("alpha"));
    }
    let case = case.delegate(Plugin::new("leaver", "leaver"));
    let add = case.add();
    assert!(add.took() < Duration::from_secs(20), "{:?}", add.took());
    add.fails(101).leaves_nothing();
}

/// The rollback has a time limit of its own, and a plugin that hangs in it does not prevent the others from being undone.
#[test]
fn a_plugin_that_hangs_in_the_rollback_is_owed_and_the_others_are_undone() {
    let hang = json!({"hold": {"at": "before", "name": "never"}, "on": ["DEL"], "ignore_sigterm": true});
    let case = Case::new()
        .delegate(recorder("alpha"))
        .delegate(recorder("gamma"))
        .delegate(instructed("beta", &hang).failing("ADD", 142))
        .key("timeouts", json!({"plugin": 60, "rollback": 4}));
    let outcome = case.add().fails(142).details_contains("\"beta\"").details_contains("was killed");
    outcome.called(&[
        "ADD alpha eth0",
        "ADD gamma net1",
        "ADD beta net2",
        "DEL beta net2",
        "DEL gamma net1",
        "DEL alpha eth0",
    ]);
    case.behave("beta", json!({}));
    case.del().succeeds().called(&["DEL beta net2"]).leaves_nothing();
}

/// whereabouts behaves like this without its API server: ADD and DEL are killed. The DEL is not tried a second time in the same
/// call.
#[test]
fn a_plugin_that_hangs_in_add_and_in_del_takes_the_time_of_each_once() {
    let hang = json!({"hold": {"at": "before", "name": "never"}, "on": ["ADD", "DEL"], "ignore_sigterm": true});
    let case = Case::new()
        .delegate(recorder("alpha"))
        .delegate(instructed("beta", &hang))
        .key("timeouts", json!({"plugin": 1}));
    let undone = ["DEL beta net1", "DEL alpha eth0"];
    let add = case.add().fails(101).details_contains("\"beta\"").details_contains("was killed");
    add.called(&["ADD alpha eth0", "ADD beta net1", undone[0], undone[1]]);
    case.del().fails(102).called(&undone[..1]);
    case.behave("beta", json!({}));
    case.del().succeeds().called(&undone[..1]).leaves_nothing();
}

/// A service that does not answer now may have answered before, so there may be something to undo.
#[rstest]
#[case::refused(999, "Post \"https://10.96.0.1:443/apis\": dial tcp 10.96.0.1:443: connect: connection refused")]
#[case::no_answer(100, "context deadline exceeded")]
#[case::slow(100, "net/http: TLS handshake timeout")]
#[case::no_name(100, "lookup ipam.example on 10.0.0.2:53: no such host")]
#[case::said_by_its_code(11, "the pool is locked")]
fn a_plugin_whose_service_is_down_is_owed_until_it_is_back(#[case] code: u32, #[case] msg: &str) {
    let fail = json!({"fail": {"ADD": {"code": code, "msg": msg}, "DEL": {"code": code, "msg": msg}}});
    let case = Case::new().delegate(recorder("alpha")).delegate(instructed("beta", &fail));
    case.add().fails(code.into());
    for _ in 0..3 {
        case.del().fails(102).says(msg).called(&["DEL beta net1"]);
    }
    case.behave("beta", json!({}));
    case.del().succeeds().called(&["DEL beta net1"]).leaves_nothing();
}

#[test]
fn a_plugin_that_hangs_in_del_is_owed_and_the_others_are_undone() {
    let hang = json!({"hold": {"at": "before", "name": "never"}, "on": ["DEL"]});
    let case = Case::new().delegate(recorder("alpha")).delegate(instructed("beta", &hang));
    case.add().succeeds();
    let hasty = case.key("timeouts", json!({"plugin": 60, "total": 4}));
    hasty.del().fails(102).says("\"beta\"").says("was killed").called(&["DEL beta net1", "DEL alpha eth0"]);
    hasty.behave("beta", json!({}));
    hasty.del().succeeds().called(&["DEL beta net1"]).leaves_nothing();
}

#[test]
fn a_plugin_that_hangs_in_check_is_named() {
    let hang = json!({"hold": {"at": "before", "name": "never"}, "on": ["CHECK"]});
    let case = Case::new()
        .delegate(instructed("alpha", &hang).instructed("link", true))
        .key("timeouts", json!({"plugin": 0.5}));
    case.add().succeeds();
    case.check().fails(101).says("\"alpha\"").says("0.5 s");
    case.del().succeeds().leaves_nothing();
}

/// A plugin's output, and whether ADD accepts it.
#[rstest]
#[case::nothing(json!({"raw_stdout": ""}), "nothing at all")]
#[case::half(json!({"raw_stdout": "{\"cniVersion\":\"1.0.0\","}), "")]
#[case::two(json!({"raw_stdout": "{}\n{}"}), "")]
#[case::not_utf8(json!({"raw_stdout_base16": "7b2261223a22ff227d"}), "")]
#[case::result_with_exit_1(json!({"raw_stdout": "{\"cniVersion\":\"1.0.0\"}", "exit": 1}), "status 1")]
#[case::odd_error_with_exit_0(json!({"raw_stdout": "{\"code\":-3,\"msg\":\"odd\"}"}), "odd")]
#[case::error_with_code_text(json!({"raw_stdout": "{\"code\":\"E\",\"msg\":\"odd\"}", "exit": 1}), "odd")]
#[case::error_twice(json!({"raw_stdout": "{\"code\":9,\"code\":9,\"msg\":\"odd\"}"}), "odd")]
#[case::index_too_high(json!({"result": {"cniVersion": "1.0.0", "ips": [{"address": "10.0.0.1/8", "interface": 0}]}}), "interface")]
#[case::index_negative(json!({"result": {"cniVersion": "1.0.0", "interfaces": [{"name": "a"}],
    "ips": [{"address": "10.0.0.1/8", "interface": -1}]}}), "interface")]
#[case::index_huge(json!({"raw_stdout": "{\"cniVersion\":\"1.0.0\",\"ips\":[{\"address\":\"10.0.0.1/8\",\"interface\":1e300}]}"}), "")]
#[case::unknown_version(json!({"result": {"cniVersion": "7.0.0"}}), "7.0.0")]
#[case::deep(json!({"raw_stdout": format!("{{\"ips\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000))}), "")]
fn an_answer_that_is_not_valid(#[case] instructions: Value, #[case] says: &str) {
    let mut instructions = instructions;
    instructions["on"] = json!(["ADD"]);
    let case = Case::new().delegate(recorder("alpha")).delegate(instructed("beta", &instructions));
    let outcome = case.add().fails_with_any_code().message_contains("\"beta\"").says(says);
    outcome.called(&["ADD alpha eth0", "ADD beta net1", "DEL beta net1", "DEL alpha eth0"]).leaves_nothing();
    assert!(!case.owes());
}

#[test]
fn an_answer_in_another_version_is_converted() {
    let result = json!({"cniVersion": "0.2.0", "ip4": {"ip": "10.1.0.5/24"}});
    let case = Case::new().delegate(recorder("alpha").instructed("result", result));
    assert_eq!(case.add().result()["ips"], json!([{"address": "10.1.0.5/24"}]));
    case.del().succeeds().leaves_nothing();
}

#[test]
fn duplicate_interfaces_in_an_answer_are_one() {
    let interface = json!({"name": "eth0", "mac": "02:00:00:00:00:01", "sandbox": "/x"});
    let result = json!({"cniVersion": "1.0.0", "interfaces": [interface, interface],
        "ips": [{"address": "10.1.0.5/24", "interface": 0}, {"address": "10.1.0.6/24", "interface": 1}]});
    let case = Case::new().delegate(recorder("alpha").instructed("result", result));
    let outcome = case.add();
    assert_eq!(outcome.result()["interfaces"], json!([interface]));
    assert_eq!(outcome.result()["ips"][1]["interface"], 0);
    case.del().succeeds().leaves_nothing();
}

/// Merging once compared each item with every other: an answer of this size took minutes.
#[test]
fn a_long_answer_is_merged_in_time() {
    let case = Case::new()
        .script("long", "cat >/dev/null; [ $CNI_COMMAND = ADD ] || exit 0; cat \"$RECORDER_DIR/long\"")
        .delegate(Plugin::new("net-long", "long"))
        .delegate(recorder("alpha"));
    let routes: Vec<_> =
        (0..60_000u32).map(|n| json!({"dst": format!("{}/32", std::net::Ipv4Addr::from(n))})).collect();
    let result = json!({"cniVersion": "1.0.0", "routes": routes});
    fs::write(case.dir().join("recorder/long"), result.to_string()).expect("write the answer");
    assert_eq!(case.add().result()["routes"].as_array().map(Vec::len), Some(60_000));
    case.del().succeeds().leaves_nothing();
}

#[test]
fn a_hundred_megabytes_on_both_outputs() {
    let flood = json!({"flood_mb": 100, "flood_stderr_mb": 100, "on": ["ADD"]});
    let case = Case::new().delegate(recorder("alpha")).delegate(instructed("beta", &flood));
    case.add().fails(6).message_contains("16 MiB").leaves_nothing();
}

#[rstest]
#[case::once(json!({"times": 1}), &[102])]
#[case::the_second_time(json!({"only_nth": 2}), &[])]
#[case::three_times(json!({"times": 3}), &[102, 102, 102])]
fn a_plugin_that_fails_on_del(#[case] how: Value, #[case] failures: &[u64]) {
    let mut fail = json!({"code": 143, "msg": "not today"});
    fail.as_object_mut().expect("an object").extend(how.as_object().expect("an object").clone());
    let case =
        Case::new().delegate(recorder("alpha")).delegate(recorder("beta").instructed("fail", json!({"DEL": fail})));
    case.add().succeeds();
    for code in failures {
        case.del().fails(*code).says("not today");
        assert!(case.owes());
    }
    case.del().succeeds().leaves_nothing();
}

#[test]
fn a_plugin_that_always_fails_on_del_is_always_owed() {
    let case = Case::new().delegate(recorder("alpha")).delegate(recorder("beta").failing("DEL", 143));
    case.add().succeeds();
    for _ in 0..3 {
        case.del().fails(102).says("beta refuses DEL");
        assert!(case.owes());
    }
    case.check().fails_with_any_code();
}

/// A plugin that was killed in ADD may have done a part of its work. If its DEL is killed too, that does not show that there is
/// nothing to undo.
#[test]
fn a_plugin_that_is_killed_each_time_is_always_owed() {
    let case = Case::new().delegate(recorder("alpha")).delegate(recorder("beta"));
    case.behave("beta", json!({"signal": 9, "on": ["ADD", "DEL"]}));
    case.add().fails(100).message_contains("SIGKILL").details_contains("SIGKILL");
    for _ in 0..3 {
        case.del().fails(102).says("\"beta\"").says("SIGKILL");
        assert!(case.owes());
    }
    case.behave("beta", json!({}));
    case.del().succeeds().called(&["DEL beta net1"]).leaves_nothing();
}

#[test]
fn a_plugin_that_is_deleted_between_add_and_del_is_owed_until_it_is_back() {
    let case = Case::new().delegate(recorder("alpha")).delegate(recorder("beta"));
    case.add().succeeds();
    let (beta, aside) = (case.dir().join("bin/beta"), case.dir().join("bin/aside"));
    fs::rename(&beta, &aside).expect("take the plugin away");
    case.del().fails(102).says("\"beta\"").called(&["DEL alpha eth0"]);
    assert!(case.owes());
    fs::rename(&aside, &beta).expect("put the plugin back");
    case.del().succeeds().called(&["DEL beta net1"]).leaves_nothing();
}

#[test]
fn a_plugin_that_is_replaced_between_add_and_del() {
    let case = Case::new().delegate(recorder("alpha")).delegate(recorder("beta"));
    case.add().succeeds();
    fs::remove_file(case.dir().join("bin/beta")).expect("take the plugin away");
    let case = case.script("beta", "cat >/dev/null; rm -f \"$RECORDER_DIR/state/beta-$CNI_CONTAINERID-$CNI_IFNAME\"");
    case.del().succeeds().called(&["DEL alpha eth0"]).leaves_nothing();
}

/// An installer that overwrites a plugin has it open for writing. Meanwhile it cannot be run.
#[test]
fn a_plugin_that_is_being_copied_over_is_waited_for() {
    let case = Case::new().delegate(recorder("alpha")).delegate(recorder("beta"));
    let beta = case.dir().join("bin/beta");
    let copy = case.dir().join("bin/copy");
    fs::copy(&beta, &copy).expect("copy the recorder");
    fs::remove_file(&beta).expect("remove the link");
    fs::rename(&copy, &beta).expect("a file of its own");
    let case = case.script(
        "busy",
        "cat >/dev/null; [ $CNI_COMMAND = ADD ] || exit 0\nexec 3>>\"$(dirname \"$0\")/beta\"\nsleep 0.3 >/dev/null 2>&1 &\n\
         echo '{\"cniVersion\":\"1.0.0\"}'",
    );
    // While a plugin waits for its turn, its executable cannot be written to.
    let case = case.key("lookAhead", 0);
    let case = case.clear().delegate(Plugin::new("net-busy", "busy")).delegate(recorder("beta"));
    case.add().succeeds().called(&["ADD beta net1"]);
    case.del().succeeds().leaves_nothing();
}

#[test]
fn a_plugin_that_stays_busy_is_an_error_and_owed() {
    let case = Case::new().delegate(recorder("alpha")).delegate(recorder("beta"));
    let beta = case.dir().join("bin/beta");
    let copy = case.dir().join("bin/copy");
    fs::copy(&beta, &copy).expect("copy the recorder");
    fs::rename(&copy, &beta).expect("a file of its own");
    let writer = fs::File::options().append(true).open(&beta).expect("open the plugin");
    case.add().fails(5).says("beta").says("busy");
    drop(writer);
    case.del().succeeds().leaves_nothing();
}

/// The guard that refuses an inner Braid must not prevent the outer one from being undone. A refused call has attached nothing.
#[rstest]
#[case::script("exec ")]
#[case::forks("(")]
fn a_delegate_that_runs_braid_again_is_stopped_and_undone(#[case] how: &str) {
    let braid = crate::support::braid();
    let line =
        if how == "(" { format!("({}) & wait $!", braid.display()) } else { format!("exec {}", braid.display()) };
    let inner = json!([{"cniVersion": "1.0.0", "name": "n", "type": "again"}]);
    let case = Case::new()
        .script("again", &line)
        .delegate(recorder("alpha"))
        .delegate(Plugin::new("net-again", "again").key("stateDir", "@DIR@/state").key("delegates", inner));
    let outcome = case.add().fails_with_any_code().message_contains("again");
    outcome.called(&["ADD alpha eth0", "DEL alpha eth0"]).leaves_nothing();
    assert!(!case.owes(), "the container can never be removed");
    case.del().succeeds().leaves_nothing();
}

#[rstest]
#[case::hard_link(false)]
#[case::copy(true)]
fn braid_under_another_name_is_no_delegate(#[case] copy: bool) {
    let case = Case::new().delegate(recorder("alpha")).delegate(
        Plugin::new("net-other", "other")
            .key("stateDir", "@DIR@/state")
            .key("delegates", json!([recorder("beta").value()])),
    );
    let other = case.dir().join("bin/other");
    if copy || fs::hard_link(crate::support::braid(), &other).is_err() {
        fs::copy(crate::support::braid(), &other).expect("copy braid");
        fs::set_permissions(&other, fs::Permissions::from_mode(0o755)).expect("make it executable");
    }
    case.add().fails(7).says("braid").leaves_nothing();
    assert!(!case.owes());
}

/// A network that is found by its name, and whose plugin is Braid, which would find the same network again.
#[test]
fn a_cycle_through_the_directory_of_configurations() {
    let case = Case::new().key("confDir", "@DIR@/conf").delegate(recorder("alpha")).delegate("\"again\"");
    fs::create_dir(case.dir().join("conf")).expect("make a folder");
    let again = Network::new("again").plugin(Plugin::new("x", "braid").key("delegates", json!(["again"])));
    fs::write(case.dir().join("conf/again.conflist"), crate::support::Json::into_json(again)).expect("write it");
    case.add().fails(7).says("braid").called_nothing().leaves_nothing();
}

#[test]
fn a_plugin_that_closes_everything_at_once() {
    let case = Case::new().script("closer", "exec 0<&- 1>&- 2>&-; sleep 0.05").delegate(recorder("alpha"));
    let case = case.delegate(Plugin::new("net-closer", "closer"));
    case.add().fails_with_any_code().message_contains("closer").leaves_nothing();
}
