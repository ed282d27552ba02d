//! Input that must be refused, and how.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use rstest::rstest;
use serde_json::{Value, json};

use crate::support::{Case, Plugin, recorder};

fn case() -> Case {
    Case::new().delegate(recorder("alpha")).delegate(recorder("beta"))
}

#[rstest]
#[case::empty("", &[5, 6])]
#[case::white_space(" \n", &[5, 6])]
#[case::no_json("delegates", &[6])]
#[case::half("{\"cniVersion\": \"1.0.0\", ", &[6])]
#[case::array("[]", &[6, 7])]
#[case::string("\"braid\"", &[6, 7])]
#[case::null("null", &[6, 7])]
#[case::trailing("{\"cniVersion\": \"1.0.0\"} {}", &[6])]
fn standard_input_that_is_no_configuration(#[case] stdin: &str, #[case] codes: &[u64]) {
    for command in ["ADD", "DEL", "CHECK", "STATUS", "GC"] {
        let case = case().stdin(stdin);
        case.call(command).run().fails_with_one_of(codes).called_nothing().leaves_nothing();
    }
}

#[test]
fn standard_input_that_is_no_utf8() {
    case().stdin(*b"{\"cniVersion\": \"1.0.0\", \"name\": \"\xff\"}").add().fails(6).called_nothing();
}

#[rstest]
#[case::no_delegates(case().conf(&json!({"cniVersion": "1.0.0", "name": "outer", "type": "braid"})).clear(), "delegates")]
#[case::no_name(case().without("name"), "name")]
#[case::bad_name(case().key("name", "a/b"), "name")]
#[case::delegate_without_type(Case::new().delegate(json!({"cniVersion": "1.0.0", "name": "x"})), "delegates[0]")]
#[case::empty_chain(Case::new().delegate(json!({"cniVersion": "1.0.0", "name": "x", "plugins": []})), "plugins")]
#[case::plugin_without_type(Case::new().delegate(json!({"cniVersion": "1.0.0", "name": "x", "plugins": [{}]})), "type")]
#[case::type_is_a_path(case().delegate(Plugin::new("x", "../bin/gamma")), "../bin/gamma")]
#[case::type_is_absolute(case().delegate(Plugin::new("x", "/bin/true")), "/bin/true")]
#[case::type_is_empty(case().delegate(Plugin::new("x", "")), "type")]
#[case::itself(case().delegate(Plugin::new("x", "braid")), "braid")]
#[case::multus(case().delegate(Plugin::new("x", "multus")), "multus")]
#[case::when_beside_type(case().delegate(recorder("gamma").key("when", json!({"namespace": "never"}))), "{\"config\": {\"type\": \"gamma\", …}, \"when\": …}")]
#[case::optional_beside_type(case().delegate(recorder("gamma").key("optional", true)), "\"optional\": …}")]
fn a_configuration_that_cannot_be(#[case] case: Case, #[case] message: &str) {
    case.add().fails(7).says(message).called_nothing().leaves_nothing();
}

#[rstest]
#[case("delegates", json!({}))]
#[case("delegates", json!("alpha"))]
#[case("delegates", json!([1]))]
#[case("stateDir", json!(5))]
#[case("stateDir", json!("relative/path"))]
#[case("result", json!("all"))]
#[case("result", json!(true))]
#[case("concurrency", json!("4"))]
#[case("concurrency", json!(0))]
#[case("concurrency", json!(-1))]
#[case("concurrency", json!(1.5))]
#[case("timeouts", json!(60))]
#[case("timeouts", json!({"plugin": "60"}))]
#[case("timeouts", json!({"plugin": -1}))]
#[case("timeouts", json!({"plugins": 60}))]
#[case("policy", json!({}))]
#[case("policy", json!([{"namespace": ["a"]}]))]
#[case("binDir", json!(1))]
#[case("confDir", json!(["a"]))]
#[case("name", json!(5))]
#[case("cniVersion", json!(1))]
#[case("runtimeConfig", json!([]))]
#[case("prevResult", json!("eth0"))]
fn a_key_of_the_wrong_type(#[case] key: &str, #[case] value: Value) {
    let case = match key {
        "delegates" => case().clear(),
        _ => case(),
    };
    case.key(key, value).add().fails_with_one_of(&[6, 7]).says(key).called_nothing().leaves_nothing();
}

#[rstest]
#[case("timeouts", json!({"plugn": 60}), "plugn", "plugin")]
#[case("policy", json!([{"namespaces": ["a"], "network": ["b"]}]), "network", "networks")]
fn a_misspelt_key_of_an_own_object(#[case] key: &str, #[case] value: Value, #[case] wrong: &str, #[case] right: &str) {
    case().key(key, value).add().fails(7).says(wrong).says(right).called_nothing();
}

#[test]
fn an_unknown_key_at_the_top_is_somebody_elses() {
    let case = case().key("metadata", "hello");
    for command in ["ADD", "DEL"] {
        case.call(command).run().succeeds().stderr_lacks("metadata");
    }
    case.key("logLevel", "debug").add().succeeds().stderr_contains("metadata");
}

/// VERSION, STATUS and GC are not about a container, so the variables of a container are not needed (SPEC §2).
#[test]
fn what_variables_of_a_container_hold_does_not_matter_to_an_operation_without_one() {
    let case = case().cni_version("1.1.0");
    for command in ["VERSION", "STATUS", "GC"] {
        for (name, value) in [("CNI_ARGS", "foo"), ("CNI_IFNAME", "a/b"), ("CNI_CONTAINERID", "..")] {
            case.call(command).env(name, value).run().succeeds();
        }
        case.call(command).env("CNI_ARGS", OsStr::from_bytes(b"A=\xff")).run().succeeds();
    }
}

#[rstest]
#[case("CNI_CONTAINERID")]
#[case("CNI_NETNS")]
#[case("CNI_IFNAME")]
fn a_variable_that_add_cannot_do_without(#[case] name: &str) {
    case().env_remove(name).add().fails(4).message_contains(name).called_nothing().leaves_nothing();
    case().env(name, "").add().fails(4).message_contains(name).called_nothing().leaves_nothing();
}

#[rstest]
#[case("CNI_CONTAINERID")]
#[case("CNI_IFNAME")]
fn a_variable_that_del_cannot_do_without(#[case] name: &str) {
    case().env_remove(name).del().fails(4).message_contains(name).called_nothing().leaves_nothing();
}

#[test]
fn del_does_without_the_namespace() {
    let case = case();
    case.add().succeeds();
    let del = case.call("DEL").env("CNI_NETNS", "").run();
    del.succeeds().called(&["DEL beta net1", "DEL alpha eth0"]).leaves_nothing();
}

#[rstest]
#[case::path("CNI_CONTAINERID", "../../etc")]
#[case::dash("CNI_CONTAINERID", "-a")]
#[case::dots("CNI_CONTAINERID", "..")]
#[case::space("CNI_CONTAINERID", "a b")]
#[case::slash("CNI_IFNAME", "a/b")]
#[case::colon("CNI_IFNAME", "a:b")]
#[case::long("CNI_IFNAME", "sixteen-bytes-16")]
#[case::dot("CNI_IFNAME", ".")]
#[case::no_pair("CNI_ARGS", "FOO")]
#[case::command("CNI_COMMAND", "add")]
#[case::other_command("CNI_COMMAND", "UPDATE")]
fn a_variable_with_a_bad_value(#[case] name: &str, #[case] value: &str) {
    case().env(name, value).add().fails(4).message_contains(name).called_nothing().leaves_nothing();
}

#[test]
fn a_variable_that_is_no_utf8() {
    use std::os::unix::ffi::OsStringExt as _;
    let bytes = std::ffi::OsString::from_vec(b"a\xff".to_vec());
    case().env("CNI_CONTAINERID", bytes).add().fails(4).message_contains("CNI_CONTAINERID").called_nothing();
}

#[test]
fn a_namespace_that_does_not_exist() {
    let path = "/run/netns/braid-test-none";
    case().netns(path).add().fails_with_any_code().says(path).called_nothing().leaves_nothing();
}

#[test]
fn a_file_that_is_no_namespace() {
    let case = case();
    let file = case.dir().join("file");
    std::fs::write(&file, "").expect("write a file");
    let file = file.to_str().expect("UTF-8").to_owned();
    case.netns(&file).add().fails_with_any_code().says(&file).called_nothing().leaves_nothing();
}

#[rstest]
#[case::primary(Case::new().delegate(Plugin::new("x", "absent")).delegate(recorder("alpha")))]
#[case::last(case().delegate(Plugin::new("x", "absent")))]
fn a_plugin_that_is_not_there_is_missed_before_anything_runs(#[case] case: Case) {
    case.add().fails_with_any_code().says("absent").called_nothing().leaves_nothing();
}

#[test]
fn a_plugin_that_cannot_be_executed_is_missed_before_anything_runs() {
    let case = case().delegate(Plugin::new("x", "plain"));
    std::fs::write(case.dir().join("bin/plain"), "").expect("write a file");
    case.add().fails_with_any_code().says("plain").called_nothing().leaves_nothing();
}

#[rstest]
#[case("9.9.9")]
#[case("2.0.0")]
#[case("1.2.0")]
fn a_version_that_braid_does_not_speak(#[case] version: &str) {
    case().cni_version(version).add().fails(1).says(version).called_nothing().leaves_nothing();
    let delegate = recorder("gamma").version(version);
    case().delegate(delegate).add().fails(1).says(version).called_nothing().leaves_nothing();
}

#[test]
fn the_highest_version_that_both_speak_is_taken() {
    let delegate = recorder("alpha").version("0.4.0").key("cniVersions", json!(["0.3.1", "1.0.0", "9.9.9"]));
    let case = Case::new().delegate(delegate);
    assert_eq!(case.add().succeeds().call_of("ADD", "alpha").config()["cniVersion"], "1.0.0");
}

#[test]
fn without_an_environment_it_is_a_command_line() {
    let case = case();
    let output = case.call("ADD").env_clear().output();
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).to_lowercase();
    assert!(text.contains("usage"), "{text}");
    assert!(case.calls().is_empty());
}
