//! The examples of the specification's appendix. `tests/golden/spec` has them as the specification does.

use std::fs;
use std::path::Path;

use rstest::rstest;
use serde_json::{Value, json};

use crate::support::{Call, Case};

fn golden(name: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/spec").join(name);
    serde_json::from_slice(&fs::read(&path).expect("a golden file")).expect("JSON")
}

/// The request in the specification's example. The examples leave out the routes of the bridge's IPAM, which are in its
/// configuration and have to be "passed through unaltered".
fn expected(step: &str) -> Value {
    let mut request = golden(&format!("{step}.json"));
    if request["type"] == "bridge" {
        request["ipam"]["routes"] = golden("dbnet.conflist")["plugins"][0]["ipam"]["routes"].clone();
    }
    request
}

fn capability_arguments() -> Value {
    json!({
        "mac": "00:11:22:33:44:66",
        "portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}],
    })
}

/// The plugins of the example, each with its answer in the example.
fn case() -> Case {
    let case = Case::new().recorder_as("bridge").recorder_as("tuning").recorder_as("portmap").args("argA=foo");
    for (plugin, result) in [("bridge", "bridge"), ("tuning", "tuning"), ("portmap", "tuning")] {
        case.behave(plugin, json!({"result": golden(&format!("{result}-result.json"))}));
    }
    case
}

/// `braid add` and other commands, where Braid is the runtime.
fn by_command_line(verb: &str) -> Vec<Call> {
    let case = case().configuration("dbnet.conflist", golden("dbnet.conflist"));
    let netns = case.pod().path();
    let netns = netns.to_str().expect("UTF-8");
    let mut calls = Vec::new();
    for step in ["add", "check", "del"] {
        let before = case.calls().len();
        let call = case.braid(&[step, "dbnet", netns]).env("CAP_ARGS", capability_arguments().to_string());
        let output = call.output();
        assert!(output.status.success(), "{step}: {output:?}");
        if step == verb {
            calls = case.calls().split_off(before);
        }
    }
    calls
}

/// The network as Braid's delegate.
fn as_delegate(verb: &str) -> Vec<Call> {
    let case = case().cni_version("1.1.0").delegate(golden("dbnet.conflist")).runtime_config(capability_arguments());
    let mut calls = Vec::new();
    for step in ["add", "check", "del"] {
        let before = case.calls().len();
        let output = case.call(&step.to_uppercase()).output();
        // The plugins only report a default route and do not make it, so CHECK fails.
        assert!(output.status.success() || step == "check", "{step}: {output:?}");
        if step == verb {
            calls = case.calls().split_off(before);
        }
    }
    calls
}

#[rstest]
#[case::add("add", &["1-bridge", "2-tuning", "3-portmap"])]
#[case::check("check", &["1-bridge", "2-tuning", "3-portmap"])]
#[case::del("del", &["1-portmap", "2-tuning", "3-bridge"])]
fn requests_are_those_of_the_specification(
    #[case] verb: &str,
    #[case] steps: &[&str],
    #[values(by_command_line, as_delegate)] run: fn(&str) -> Vec<Call>,
) {
    let calls = run(verb);
    assert_eq!(calls.len(), steps.len());
    for (call, step) in calls.iter().zip(steps) {
        let (found, expected) = (call.config(), expected(&format!("{verb}/{step}")));
        let (found, expected) = (found.as_object().expect("an object"), expected.as_object().expect("an object"));
        for (key, value) in expected {
            let mut value = value.clone();
            if key == "prevResult" {
                // The example's result lacks keys that the specification requires, and that libcni adds.
                value["cniVersion"] = "1.1.0".into();
            }
            assert_eq!(found.get(key), Some(&value), "{verb} {step}: {key}");
        }
        let more: Vec<_> = found.keys().filter(|key| !expected.contains_key(*key)).collect();
        assert!(more.is_empty(), "{verb} {step}: {more:?} is not in the specification's example");
        assert_eq!((call.var("CNI_COMMAND"), call.var("CNI_IFNAME")), (verb.to_uppercase().as_str(), "eth0"));
        assert_eq!(call.var("CNI_ARGS"), "argA=foo");
    }
}
