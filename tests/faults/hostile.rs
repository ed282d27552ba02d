//! Hostile input: every string that a pod's author or a runtime can set is refused or harmless.
//!
//! The harness checks that every call prints one JSON object, and that its exit status agrees with it. The kernel limits memory and
//! processor time: a call that needs more is killed, and the test fails.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use rstest::rstest;
use serde_json::{Value, json};

use crate::support::{Case, Plugin, braid, recorder};

/// Braid with at most this much memory and processor time.
const MEGABYTES: u64 = 1024;
const SECONDS: u64 = 20;

fn case() -> Case {
    Case::new().delegate(recorder("alpha"))
}

fn nested(depth: usize) -> String {
    format!("{}1{}", "[".repeat(depth), "]".repeat(depth))
}

fn objects(depth: usize) -> String {
    format!("{}1{}", "{\"a\":".repeat(depth), "}".repeat(depth))
}

/// Makes a call of Braid under limits.
fn bounded(case: &Case, verb: &str, stdin: impl Into<Vec<u8>>) -> (Option<i32>, Value) {
    let limited = case.dir().join("bin/limited");
    let script = format!("#!/bin/sh\nulimit -v {} -t {SECONDS}\nexec {}\n", MEGABYTES * 1024, braid().display());
    fs::write(&limited, script).expect("write the script");
    fs::set_permissions(&limited, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("make it executable");
    let output = case.call_plugin(&limited, verb).stdin(stdin).output();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!text.contains("panicked") && !text.contains("overflow"), "{text}");
    let answer = if output.stdout.is_empty() {
        Value::Null
    } else {
        serde_json::from_slice(&output.stdout).expect("one JSON object on standard output")
    };
    let status = output.status.code();
    assert!(status.is_some(), "ended by a signal: {:?}; {text}", output.status);
    assert_eq!(status == Some(0), answer.get("code").is_none(), "{answer}");
    (status, answer)
}

/// A configuration with the text of a key inserted unchanged.
fn conf(case: &Case, key: &str, value: &str) -> String {
    case.expand(&format!(
        r#"{{"cniVersion":"1.1.0","name":"outer","type":"braid","stateDir":"@DIR@/state","delegates":[{{"type":"alpha","{key}":{value}}}],"{key}":{value}}}"#
    ))
}

#[rstest]
fn deep_nesting_in_any_key(
    #[values(
        "args",
        "runtimeConfig",
        "policy",
        "timeouts",
        "prevResult",
        "ipam",
        "capabilities",
        "delegates",
        "logOptions",
        "other"
    )]
    key: &str,
    #[values(nested(100_000), objects(100_000))] value: String,
) {
    let case = case();
    for verb in ["ADD", "DEL", "STATUS", "GC"] {
        bounded(&case, verb, conf(&case, key, &value));
    }
    case.del().succeeds();
    assert_eq!(case.changes(), "");
}

#[rstest]
#[case::array(nested(4_000_000))]
#[case::number("9".repeat(15_000_000))]
#[case::exponent(format!("1e{}", "9".repeat(10_000)))]
#[case::string(format!("\"{}\"", "x".repeat(15_000_000)))]
#[case::escapes(format!("\"{}\"", "\\u0000".repeat(1_000_000)))]
#[case::keys(format!("{{{}}}", vec!["\"a\":1"; 1_500_000].join(",")))]
#[case::many_keys(format!("{{{}}}", (0..600_000).map(|n| format!("\"{n}\":1")).collect::<Vec<_>>().join(",")))]
fn huge_values(#[case] value: String) {
    let case = case();
    let text = case.expand(&format!(
        r#"{{"cniVersion":"1.1.0","name":"outer","type":"braid","stateDir":"@DIR@/state","delegates":[{{"type":"absent"}}],"args":{value},"note":{value}}}"#
    ));
    // Twice 15 MB is more than the limit.
    let (status, _) = bounded(&case, "ADD", text);
    assert_eq!(status, Some(1));
}

#[test]
fn fifty_megabytes_on_standard_input_are_not_read() {
    let case = case();
    let text = format!("{{\"name\":\"{}\"}}", "x".repeat(50_000_000));
    let (_, answer) = bounded(&case, "ADD", text);
    assert_eq!(answer["code"], 7);
    assert!(answer["msg"].as_str().is_some_and(|msg| msg.contains("16 MiB")), "{answer}");
}

#[rstest]
#[case::nul("a\\u0000b")]
#[case::newline("a\\nb")]
#[case::parent("../../etc/passwd")]
#[case::absolute("/etc/passwd")]
#[case::escape("a\\u001b[31m")]
#[case::right_to_left("a\\u202eb")]
#[case::surrogate("\\ud800")]
#[case::option("-rf")]
#[case::shell("$(reboot)")]
#[case::empty("")]
#[case::dots("..")]
#[case::long(&"x".repeat(100_000))]
fn names_that_are_not_valid_are_refused(#[case] name: &str) {
    let case = case().key("confDir", "@DIR@/conf");
    for member in [
        format!(r#""name":"{name}","delegates":[{{"type":"alpha"}}]"#),
        format!(r#""name":"n","delegates":[{{"type":"{name}"}}]"#),
        format!(r#""name":"n","delegates":[{{"type":"alpha","name":"{name}/"}}]"#),
        format!(
            r#""name":"n","delegates":[{{"type":"alpha"}}],"runtimeConfig":{{"networks":"[{{\"name\":\"{}\"}}]"}}"#,
            name.replace('\\', "\\\\")
        ),
        format!(r#""name":"n","delegates":[{{"type":"alpha"}}],"runtimeConfig":{{"networks":[{{"name":"{name}"}}]}}"#),
        format!(
            r#""name":"n","delegates":[{{"type":"alpha"}}],"runtimeConfig":{{"networks":[{{"name":"a","namespace":"{name}/"}}]}}"#
        ),
        format!(
            r#""name":"n","delegates":[{{"type":"alpha"}}],"runtimeConfig":{{"networks":[{{"name":"a","deviceID":"../{name}"}}]}}"#
        ),
    ] {
        let text =
            case.expand(&format!(r#"{{"cniVersion":"1.0.0","type":"braid","stateDir":"@DIR@/state",{member}}}"#));
        let (status, answer) = bounded(&case, "ADD", text);
        assert_eq!(status, Some(1), "{member}");
        let msg = answer["msg"].as_str().expect("a message");
        assert!(!msg.contains('\u{1b}') && msg.len() < 2000, "{msg}");
        assert!(case.calls().is_empty(), "{member}");
    }
}

#[rstest]
#[case("CNI_CONTAINERID", "../x")]
#[case("CNI_CONTAINERID", "a/../../b")]
#[case("CNI_CONTAINERID", "a\nb")]
#[case("CNI_CONTAINERID", "ａ")]
#[case("CNI_CONTAINERID", ".not-a-directory.x")]
#[case("CNI_IFNAME", "..")]
#[case("CNI_IFNAME", "a\u{1b}[1m")]
#[case("CNI_IFNAME", "../../x")]
#[case("CNI_ARGS", "A=1\nB=2")]
#[case("CNI_ARGS", "no pair")]
fn variables_that_are_refused(#[case] name: &str, #[case] value: &str) {
    let case = case();
    for verb in ["ADD", "DEL", "CHECK"] {
        case.call(verb).env(name, value).run().fails(4).message_contains(name).called_nothing();
    }
    assert_eq!(case.changes(), "");
}

#[rstest]
#[case::text(&vec!["a"; 100_000].join(","))]
#[case::json(&format!("[{}]", vec![r#"{"name":"a"}"#; 100_000].join(",")))]
fn a_hundred_thousand_selections_are_refused_before_any_is_looked_up(#[case] networks: &str) {
    let case = case().key("confDir", "@DIR@/conf").runtime_config(json!({"networks": networks}));
    case.add().fails(7).says("at most 256").called_nothing().leaves_nothing();
}

/// 200 attachments, each of which would get the same large `args`.
#[test]
fn a_plan_has_a_size() {
    let case = case().key("confDir", "@DIR@/conf").key("args", json!({"cni": {"long": "x".repeat(4 << 20)}}));
    fs::create_dir(case.dir().join("conf")).expect("make a folder");
    fs::write(case.dir().join("conf/a.conf"), r#"{"name":"a","type":"beta"}"#).expect("write it");
    let case = case.runtime_config(json!({"networks": vec!["a"; 200].join(",")}));
    case.add().fails(7).says("64 MiB").called_nothing().leaves_nothing();
}

/// Requests that the policy forbids, in every form.
#[rstest]
#[case::plainly(r#"{"type":"evil"}"#)]
#[case::as_ipam(r#"{"type":"alpha","ipam":{"type":"evil"}}"#)]
#[case::in_another_case(r#"{"type":"alpha","IPAM":{"Type":"evil"}}"#)]
#[case::twice(r#"{"type":"alpha","ipam":{"type":"alpha","type":"evil"}}"#)]
#[case::behind_a_surrogate(r#"{"type":"alpha","ipam":{"\ud800":1,"type":"evil"}}"#)]
#[case::behind_a_bad_type(r#"{"type":"alpha","ipam":{"type":1e999,"type":"evil"}}"#)]
#[case::as_delegate(r#"{"type":"alpha","delegate":{"type":"alpha","ipam":{"type":"evil"}}}"#)]
#[case::in_a_chain(r#"{"plugins":[{"type":"alpha"},{"type":"evil"}]}"#)]
fn what_the_policy_forbids_is_not_run(#[case] network: &str) {
    let case = case()
        .script("evil", "touch \"$RECORDER_DIR/evil\"; echo '{\"cniVersion\":\"1.0.0\"}'")
        .key("confDir", "@DIR@/conf")
        .key("policy", json!([{"plugins": ["alpha", "host-local"]}]))
        .runtime_config(json!({"networks": "sneaky"}));
    fs::create_dir(case.dir().join("conf")).expect("make a folder");
    let network = network.replacen('{', r#"{"cniVersion":"1.0.0","name":"sneaky","#, 1);
    let name = if network.contains("plugins") { "conf/sneaky.conflist" } else { "conf/sneaky.conf" };
    fs::write(case.dir().join(name), network).expect("write the network");
    case.add().fails(7).says("policy").called_nothing().leaves_nothing();
    assert!(!case.dir().join("recorder/evil").exists());
}

/// For a network on disk, the policy ignores the namespace that the pod writes before its name.
#[rstest]
#[case::text(json!("public/internal"))]
#[case::json(json!([{"name": "internal", "namespace": "public"}]))]
fn a_namespace_before_a_name_on_disk_does_not_change_what_the_policy_allows(#[case] networks: Value) {
    let case = case()
        .key("confDir", "@DIR@/conf")
        .key("policy", json!([{"networks": ["public/*"]}]))
        .runtime_config(json!({"networks": networks}));
    fs::create_dir(case.dir().join("conf")).expect("make a folder");
    fs::write(case.dir().join("conf/i.conf"), r#"{"name":"internal","type":"beta"}"#).expect("write the network");
    case.add().fails(7).says("policy").called_nothing().leaves_nothing();
}

/// A key in another case: a plugin written in Go reads it as the key that Braid sets.
#[test]
fn keys_of_the_protocol_cannot_be_overridden() {
    let plugin = recorder("alpha").raw("Name", "\"../../etc\"").raw("CNIVersion", "\"9\"").raw("PrevResult", "{}");
    let case = Case::new().delegate(plugin.raw("RUNTIMECONFIG", "{}").raw("Own", "1"));
    let outcome = case.add().succeeds();
    let members = outcome.call_of("ADD", "alpha").members();
    let keys: Vec<_> = members.keys().map(String::as_str).filter(|key| *key != "type").collect();
    assert_eq!(keys, ["cniVersion", "name", "Own"]);
}

const SECRET: &str = "s3cr3t-m4rk3r";

/// A secret in any place, right or wrong, gets into no log and no error message.
#[rstest]
#[case::delegate(json!({"delegates": [{"type": "alpha", "password": SECRET}]}))]
#[case::delegate_that_is_none(json!({"delegates": [{"password": SECRET}]}))]
#[case::delegate_as_text(json!({"delegates": [[SECRET]]}))]
#[case::capabilities(json!({"delegates": [{"type": "alpha", "capabilities": SECRET}]}))]
#[case::chain(json!({"delegates": [{"name": "n", "plugins": SECRET}]}))]
#[case::chained(json!({"delegates": [{"name": "n", "plugins": [SECRET]}]}))]
#[case::version(json!({"delegates": [{"type": "alpha", "cniVersion": [SECRET]}]}))]
#[case::disable(json!({"delegates": [{"type": "alpha", "disableCheck": SECRET}]}))]
#[case::missing_plugin(json!({"delegates": [{"type": "absent", "password": SECRET}]}))]
#[case::failing_plugin(json!({"delegates": [{"type": "failing", "password": SECRET}]}))]
#[case::args(json!({"args": SECRET}))]
#[case::args_in_args(json!({"args": {"cni": SECRET}}))]
#[case::runtime_config(json!({"runtimeConfig": SECRET}))]
#[case::networks(json!({"runtimeConfig": {"networks": [SECRET]}}))]
#[case::networks_as_text(json!({"runtimeConfig": {"networks": format!("[\"{SECRET}\"]")}}))]
#[case::cni_args(json!({"runtimeConfig": {"networks": [{"name": "absent", "cni-args": {"token": SECRET}}]}}))]
#[case::cni_args_as_text(json!({"runtimeConfig": {"networks": [{"name": "absent", "cni-args": SECRET}]}}))]
#[case::ips(json!({"runtimeConfig": {"networks": [{"name": "absent", "ips": SECRET}]}}))]
#[case::prev_result(json!({"prevResult": SECRET}))]
#[case::prev_result_ips(json!({"prevResult": {"ips": SECRET}}))]
#[case::prev_result_mtu(json!({"prevResult": {"interfaces": [{"name": "a", "mtu": SECRET}]}}))]
#[case::timeouts(json!({"timeouts": SECRET}))]
#[case::timeout(json!({"timeouts": {"plugin": SECRET}}))]
#[case::concurrency(json!({"concurrency": SECRET}))]
#[case::policy(json!({"policy": SECRET}))]
#[case::when(json!({"delegates": [{"name": "a", "when": SECRET}]}))]
#[case::config(json!({"delegates": [{"name": "a", "config": {"password": SECRET}}]}))]
#[case::config_as_text(json!({"delegates": [{"name": "a", "config": SECRET}]}))]
#[case::unknown(json!({"password": SECRET}))]
#[case::log_options(json!({"logOptions": SECRET}))]
#[case::valid_attachments(json!({"cni.dev/valid-attachments": [SECRET]}))]
fn secrets_stay_where_they_are(#[case] members: Value) {
    let case =
        Case::new().script("failing", "cat >/dev/null; exit 3").delegate(recorder("alpha")).key("logLevel", "debug");
    let case = case.key("logFile", "@DIR@/log").cni_version("1.1.0").args(&format!("PASSWORD={SECRET};K8S_POD_NAME=p"));
    let members = members.as_object().expect("members");
    let case = if members.contains_key("delegates") { case.clear() } else { case };
    let case = members.iter().fold(case, |case, (key, value)| case.key(key, value.clone()));
    for verb in ["ADD", "CHECK", "DEL", "STATUS", "GC"] {
        let output = case.call(verb).output();
        for text in [&output.stdout, &output.stderr, &fs::read(case.dir().join("log")).unwrap_or_default()] {
            let text = String::from_utf8_lossy(text);
            assert!(!text.contains(SECRET), "{verb}: {text}");
        }
    }
}

#[test]
fn the_rest_of_a_secret_with_a_semicolon_in_it_is_not_shown() {
    let case = case().args(&format!("TOKEN=a;{SECRET}"));
    let outcome = case.add().fails(4).message_contains("part 2");
    assert!(!outcome.error_text().contains(SECRET));
}

#[test]
fn standard_input_that_is_only_a_secret() {
    let case = case().stdin(format!("\"{SECRET}\""));
    let outcome = case.add().fails_with_one_of(&[6, 7]);
    assert!(!outcome.error_text().contains(SECRET), "{}", outcome.error_text());
}

/// A plugin's message is escaped in the JSON of the error and of the log, and printed without control sequences on a terminal.
#[test]
fn control_characters_reach_no_terminal_and_no_line_of_the_log() {
    let msg = "evil\u{1b}[2J\u{7}\r\nWARN forged line\u{202e}";
    let fail = json!({"ADD": {"code": 142, "msg": msg}, "DEL": {"code": 143, "msg": msg}});
    let case = Case::new().delegate(recorder("alpha").instructed("fail", fail)).key("logFile", "@DIR@/log");
    case.add().fails(142).says("evil");
    let log = fs::read_to_string(case.dir().join("log")).unwrap_or_default();
    assert!(log.lines().all(|line| serde_json::from_str::<Value>(line).is_ok()), "{log}");
    for words in [&["list"][..], &["show", Case::CONTAINER]] {
        let state = case.dir().join("state");
        let output = Command::new(braid()).args(words).arg("--state-dir").arg(state).output().expect("run braid");
        let text = String::from_utf8(output.stdout).expect("UTF-8");
        assert!(text.contains(Case::CONTAINER), "{text}");
        assert!(!text.contains(['\u{1b}', '\u{7}', '\r', '\u{202e}']), "{text:?}");
        assert!(!text.lines().any(|line| line.starts_with("WARN")), "{text}");
    }
}

/// A log or a state directory behind a link that someone else made.
#[test]
fn links_are_not_followed() {
    let case = case().key("logFile", "@DIR@/log").key("logLevel", "debug");
    let victim: PathBuf = case.dir().join("victim");
    fs::write(&victim, "precious").expect("write the victim");
    std::os::unix::fs::symlink(&victim, case.dir().join("log")).expect("make a link");
    case.add().succeeds().stderr_contains("log");
    case.del().succeeds();
    assert_eq!(fs::read_to_string(&victim).expect("the victim"), "precious");

    let elsewhere = case.dir().join("elsewhere");
    fs::create_dir(&elsewhere).expect("make a folder");
    fs::remove_dir_all(case.dir().join("state")).expect("remove the state");
    fs::create_dir(case.dir().join("state")).expect("make the state");
    std::os::unix::fs::symlink(&elsewhere, case.dir().join("state/attachments")).expect("make a link");
    case.add().fails(5).called_nothing();
    assert_eq!(fs::read_dir(&elsewhere).expect("a folder").count(), 0);
}

#[test]
fn a_log_that_is_a_pipe_without_a_reader_delays_nothing() {
    let case = case().key("logFile", "@DIR@/log");
    let status = Command::new("mkfifo").arg(case.dir().join("log")).status().expect("run mkfifo");
    assert!(status.success());
    case.add().succeeds().stderr_contains("log");
    case.del().succeeds().leaves_nothing();
}

/// A plugin's configuration with unusual but legal contents is passed on unchanged.
#[test]
fn odd_is_not_wrong() {
    let odd = r#"{"\u0000":"\u0000","ü":[1e400,-0,1E-999],"a":{"a":1,"a":2},"\ud83d\ude00":"\ud800"}"#;
    let case = Case::new().delegate(Plugin::new("n", "alpha").raw("odd", odd));
    let outcome = case.add().succeeds();
    assert_eq!(outcome.call_of("ADD", "alpha").members()["odd"], odd);
    case.del().succeeds().leaves_nothing();
}
