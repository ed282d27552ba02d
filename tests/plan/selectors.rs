//! Selections: what they ask for, and when they apply.

use std::fs;

use rstest::rstest;
use serde_json::{Value, json};

use crate::support::{Case, Plugin, recorder};

const POD: &str = "IgnoreUnknown=1;K8S_POD_NAMESPACE=prod-eu;K8S_POD_NAME=web-7;NOMAD_GROUP_NAME=cache";

/// `alpha`, and `beta` as a selection with these keys.
fn with_selection(keys: &Value) -> Case {
    Case::new().delegate(recorder("alpha")).delegate(selection(recorder("beta"), keys))
}

fn selection(plugin: Plugin, keys: &Value) -> Value {
    let plugin = plugin.value();
    let mut selection = json!({"name": plugin["name"], "config": plugin});
    for (key, value) in keys.as_object().expect("keys") {
        selection[key] = value.clone();
    }
    selection
}

#[rstest]
#[case::namespace(json!({"namespace": ["prod-eu"]}), true)]
#[case::namespace_glob(json!({"namespace": ["test-*", "prod-*"]}), true)]
#[case::other_namespace(json!({"namespace": ["test-*"]}), false)]
#[case::whole_name_only(json!({"namespace": ["prod"]}), false)]
#[case::excluded(json!({"namespace": ["prod-*", "!*-eu"]}), false)]
#[case::other_excluded(json!({"namespace": ["prod-*", "!*-us"]}), true)]
#[case::pod(json!({"pod": ["web-?"]}), true)]
#[case::other_pod(json!({"pod": ["db-*"]}), false)]
#[case::argument(json!({"args": {"NOMAD_GROUP_NAME": ["cache", "proxy"]}}), true)]
#[case::other_argument(json!({"args": {"NOMAD_GROUP_NAME": ["proxy"]}}), false)]
#[case::absent_argument(json!({"args": {"NOMAD_JOB": ["*"]}}), false)]
#[case::all_must_match(json!({"namespace": ["prod-*"], "pod": ["db-*"]}), false)]
#[case::all_match(json!({"namespace": ["prod-*"], "pod": ["web-*"], "args": {"NOMAD_GROUP_NAME": ["c*"]}}), true)]
#[case::nothing_asked(json!({}), true)]
fn a_selection_applies_when_its_selectors_match(#[case] when: Value, #[case] applies: bool) {
    let case = with_selection(&json!({"when": when})).args(POD);
    let expected: &[&str] = if applies { &["ADD alpha eth0", "ADD beta net1"] } else { &["ADD alpha eth0"] };
    case.add().succeeds().called(expected);
    case.del().succeeds().leaves_nothing();
}

#[test]
fn a_selector_without_anything_to_match_does_not_apply() {
    // Without CNI_ARGS, nothing is known about the pod.
    with_selection(&json!({"when": {"namespace": ["prod-*"]}})).add().succeeds().called(&["ADD alpha eth0"]);
}

#[test]
fn names_are_counted_over_what_applies() {
    let never = json!({"when": {"namespace": ["nowhere"]}});
    let case = Case::new()
        .args(POD)
        .delegate(selection(recorder("alpha"), &never))
        .delegate(recorder("beta"))
        .delegate(selection(recorder("gamma"), &never))
        .delegate(recorder("delta"));
    case.add().succeeds().called(&["ADD beta eth0", "ADD delta net1"]);
    case.del().succeeds().called(&["DEL delta net1", "DEL beta eth0"]).leaves_nothing();
}

#[test]
fn an_optional_attachment_may_fail() {
    let case = Case::new()
        .delegate(recorder("alpha"))
        .delegate(selection(recorder("beta").failing("ADD", 142), &json!({"optional": true})))
        .delegate(recorder("gamma"));
    let outcome = case.add().succeeds().stderr_contains("beta refuses ADD");
    let names: Vec<_> = outcome.result()["interfaces"].as_array().expect("a list").iter().map(|i| &i["name"]).collect();
    assert_eq!(names, ["eth0", "net2"]);
    outcome.called(&["ADD alpha eth0", "ADD beta net1", "DEL beta net1", "ADD gamma net2"]);
    case.del().succeeds().called(&["DEL gamma net2", "DEL alpha eth0"]).leaves_nothing();
}

/// There is a file in place of the directory of descriptions.
#[rstest]
fn an_optional_attachment_whose_device_cannot_be_described_may_fail(#[values(1, 2)] concurrency: u32) {
    let case = |optional: bool| {
        let beta = recorder("beta").key("capabilities", json!({"CNIDeviceInfoFile": true}));
        let case = Case::new()
            .key("kubernetes", json!({"deviceInfoDir": "@DIR@/file/devinfo"}))
            .key("concurrency", concurrency)
            .delegate(recorder("alpha"))
            .delegate(selection(beta, &json!({"optional": optional})))
            .delegate(recorder("gamma"));
        fs::write(case.dir().join("file"), "").expect("write the file");
        case
    };
    let forgiving = case(true);
    let outcome = forgiving.add().succeeds().stderr_contains("file/devinfo");
    assert_eq!(outcome.result()["interfaces"].as_array().expect("a list").len(), 2);
    forgiving.del().succeeds().called(&["DEL gamma net2", "DEL alpha eth0"]).leaves_nothing();
    case(false).add().fails(5).says("file/devinfo").leaves_nothing();
}

#[test]
fn an_optional_attachment_that_cannot_be_undone_is_owed() {
    let beta = recorder("beta").failing("ADD", 142).failing("DEL", 143);
    let case = Case::new().delegate(recorder("alpha")).delegate(selection(beta, &json!({"optional": true})));
    case.add().succeeds().stderr_contains("beta refuses DEL");
    case.behave("beta", json!({}));
    case.del().succeeds().called(&["DEL beta net1", "DEL alpha eth0"]).leaves_nothing();
}

#[test]
fn addresses_are_asked_for_by_argument_and_by_capability() {
    let keys = json!({"ips": ["10.2.0.9/24", "fd00:2::9/64"], "mac": "02:00:00:00:00:09"});
    let plugin = recorder("beta").key("capabilities", json!({"ips": true, "mac": true}));
    let case = Case::new().args("FOO=bar").delegate(recorder("alpha")).delegate(selection(plugin, &keys));
    let outcome = case.add().succeeds();
    let beta = outcome.call_of("ADD", "beta");
    let args: Vec<_> = beta.var("CNI_ARGS").split(';').collect();
    for pair in ["IgnoreUnknown=true", "FOO=bar", "IP=10.2.0.9/24,fd00:2::9/64", "MAC=02:00:00:00:00:09"] {
        assert!(args.contains(&pair), "{pair} is not in {args:?}");
    }
    assert_eq!(beta.config()["runtimeConfig"], keys);
    assert_eq!(outcome.call_of("ADD", "alpha").var("CNI_ARGS"), "FOO=bar");
    assert_eq!(case.del().succeeds().call_of("DEL", "beta").var("CNI_ARGS"), beta.var("CNI_ARGS"));
}

#[test]
fn addresses_without_the_capability_are_an_argument_alone() {
    let outcome_of = with_selection(&json!({"ips": ["10.2.0.9/24"], "mac": "02:00:00:00:00:09"}));
    let beta = outcome_of.add().succeeds().call_of("ADD", "beta");
    assert!(beta.var("CNI_ARGS").contains("IP=10.2.0.9/24"), "{}", beta.var("CNI_ARGS"));
    assert!(beta.config().get("runtimeConfig").is_none());
}

#[rstest]
#[case(json!({"portMappings": [{"hostPort": 80, "containerPort": 80, "protocol": "tcp"}]}), "portMappings")]
#[case(json!({"bandwidth": {"ingressRate": 1000, "ingressBurst": 1000}}), "bandwidth")]
#[case(json!({"infiniband-guid": "c2:11:22:33:44:55:66:77"}), "infinibandGUID")]
fn a_capability_that_no_plugin_declares_is_refused(#[case] keys: Value, #[case] capability: &str) {
    with_selection(&keys).add().fails(7).says(capability).called_nothing().leaves_nothing();
}

#[test]
fn cni_args_reach_args_cni_of_every_plugin() {
    let plugin = recorder("beta").key("args", json!({"cni": {"mode": "slow", "left": 1}, "other": true}));
    let keys = json!({"cni-args": {"mode": "fast", "extra": {"a": [1]}}});
    let case = Case::new().delegate(recorder("alpha")).delegate(selection(plugin, &keys));
    let outcome = case.add().succeeds();
    let expected = json!({"cni": {"mode": "fast", "left": 1, "extra": {"a": [1]}}, "other": true});
    assert_eq!(outcome.call_of("ADD", "beta").config()["args"], expected);
    assert!(outcome.call_of("ADD", "alpha").config().get("args").is_none());
    assert_eq!(case.del().succeeds().call_of("DEL", "beta").config()["args"], expected);
}

#[rstest]
#[case::selection(json!({"interfce": "net9"}), "interfce", "interface")]
#[case::selector(json!({"when": {"namespaces": ["a"]}}), "namespaces", "namespace")]
#[case::argument(json!({"cni_args": {}}), "cni_args", "cni-args")]
fn a_misspelt_key_is_refused_with_the_right_one(#[case] keys: Value, #[case] wrong: &str, #[case] right: &str) {
    with_selection(&keys).add().fails(7).says(wrong).says(right).called_nothing().leaves_nothing();
}

#[rstest]
#[case(json!({"when": {"namespace": 5}}))]
#[case(json!({"when": {"namespace": ["[a"]}}))]
#[case(json!({"when": []}))]
#[case(json!({"optional": "yes"}))]
#[case(json!({"ips": "10.2.0.9/24"}))]
#[case(json!({"ips": ["10.2.0.300/24"]}))]
#[case(json!({"ips": ["10.2.0.9;MAC=1"]}))]
#[case(json!({"mac": "no"}))]
#[case(json!({"mac": "02:00:00:00:00:09;IP=10.0.0.1"}))]
#[case(json!({"cni-args": ["a"]}))]
#[case(json!({"default-route": "10.2.0.1"}))]
#[case(json!({"default-route": ["10.2.0.1", "10.2.0.2"]}))]
#[case(json!({"interface": 5}))]
fn a_selection_with_a_bad_value_is_refused(#[case] keys: Value) {
    let key = keys.as_object().and_then(|keys| keys.keys().next()).expect("a key");
    with_selection(&keys).args(POD).add().fails_with_one_of(&[6, 7]).says(key).called_nothing().leaves_nothing();
}
