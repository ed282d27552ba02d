//! How selections are read.

use super::super::object::KeyError;
use super::super::problems::Problems;
use super::{OperatorSelection, Parsed, Selection};
use crate::cni::config::parse_object;
use proptest::prelude::*;

fn parse(text: &str) -> Result<Parsed, KeyError> {
    let mut problems = Problems::new();
    let parsed = Selection::parse_all(text, "networks", &mut problems);
    problems.or_first(parsed)
}

fn error(text: &str) -> String {
    parse(text).unwrap_err().to_string()
}

#[test]
fn the_text_form() {
    let parsed = parse(" a, ns/b ,ns/c@net7").unwrap();
    let shown: Vec<_> = parsed.selections.iter().map(|s| (s.reference(), s.interface.clone())).collect();
    assert_eq!(shown, [("a".into(), None), ("ns/b".into(), None), ("ns/c".into(), Some("net7".into()))]);
    assert!(parse("  ").unwrap().selections.is_empty());
    for bad in ["a,,b", "a,", "/a", "a/", "a@", "a/b/c", "../a", "a b", "a@0123456789abcdef"] {
        assert!(parse(bad).is_err(), "{bad}");
    }
}

#[test]
fn the_json_form() {
    let json = r#"[{"name":"a","interfaceRequest":"if0","ips":["10.0.0.1","fd00::1/64"],"mac":"02:00:00:00:00:01",
        "portMappings":[{"hostPort":80,"containerPort":8080}],"bandwidth":{"ingressRate":1000,"ingressBurst":10},
        "default-route":["10.0.0.254"],"deviceID":"0000:00:1f.6","extra":1}]"#;
    let parsed = parse(json).unwrap();
    assert_eq!(parsed.warnings.len(), 1);
    let selection = &parsed.selections[0];
    assert_eq!(selection.interface.as_deref(), Some("if0"));
    let args = selection.capability_args();
    assert_eq!(args["portMappings"].get(), r#"[{"hostPort":80,"containerPort":8080,"protocol":"tcp"}]"#);
    assert_eq!(args.keys().collect::<Vec<_>>(), ["ips", "mac", "portMappings", "bandwidth", "deviceID"]);
}

#[test]
fn what_is_wrong_is_named() {
    for (json, message) in [
        (r#"[{"namespace":"a"}]"#, "\"name\""),
        (r#"[{"name":"../a"}]"#, "networks[0].name"),
        (r#"[{"name":"a","ips":["10.0.0.300"]}]"#, "10.0.0.300"),
        (r#"[{"name":"a","mac":"zz"}]"#, "networks[0].mac"),
        (r#"[{"name":"a","interface":"a/b"}]"#, "networks[0].interface"),
        (r#"[{"name":"a","bandwidth":{"egressBurst":5}}]"#, "each burst with its rate"),
        (r#"[{"name":"a","portMappings":[{"hostPort":0,"containerPort":1}]}]"#, "portMappings"),
        (r#"[{"name":"a","default-route":["10.0.0.1","10.0.0.2"]}]"#, "at most one of each family"),
        (r#"[{"name":"a","default-route":["10.0.0.1",5]}]"#, "networks[0].default-route[1] is 5, expected the address"),
        (
            r#"[{"name":"a","default-route":["secret"]}]"#,
            "networks[0].default-route[0] is a string, expected the address",
        ),
        (
            r#"[{"name":"a","portMappings":[{"hostPort":"x","containerPort":1}]}]"#,
            "networks[0].portMappings[0] is an object that cannot be read (invalid type: string, expected u16), expected {hostPort,",
        ),
        (r#"[{"name":"a","portMappings":[{"hostPort":1}]}]"#, "(missing field `containerPort`)"),
        (r#"[{"name":"a","portMappings":[[80,8080]]}]"#, "networks[0].portMappings[0] is a list, expected {hostPort"),
        (r#"[{"name":"a","bandwidth":[1000,10]}]"#, "networks[0].bandwidth is a list, expected {ingressRate"),
        (
            r#"[{"name":"a","bandwidth":{"ingressRate":-1}}]"#,
            "networks[0].bandwidth is an object that cannot be read (invalid value: integer `-1`, expected u64)",
        ),
        (r#"[{"name":"a","ips":["10.0.0.1"],"ipam-claim-reference":"c"}]"#, "together"),
        (r#"{"name":"a"}"#, "networks is an object, expected a JSON list"),
        (r#"["a", {"name":"b"}]"#, "networks[0] is a string, expected a network selection element, an object"),
        (r#"[{"name":"a","ips":["10.0.0.1",5]}]"#, "networks[0].ips[1] is 5"),
        ("[", "a JSON list"),
        ("br1,,@@", "networks is \"\" (element 2 of \"br1,,@@\"), expected [namespace/]name[@interface]"),
        ("br1,@@", "networks is \"@@\" (element 2 of \"br1,@@\")"),
        ("br1@0123456789abcdef", "an interface name after '@': 1 to 15 bytes"),
    ] {
        assert!(error(json).contains(message), "{json}: {}", error(json));
    }
}

#[test]
fn an_operators_unknown_key_is_an_error_with_a_hint() {
    let object = parse_object(br#"{"name":"a","interfce":"x"}"#).unwrap();
    let error = OperatorSelection::from_object(&object, "delegates[1]").unwrap_err().to_string();
    assert!(error.contains("delegates[1]") && error.contains("did you mean \"interface\""), "{error}");
}

proptest! {
    #[test]
    fn no_text_panics(text in "\\PC{0,100}") {
        drop(parse(&text));
    }

    #[test]
    fn names_that_pass_are_no_paths(text in "[-a-zA-Z0-9./@,_ ]{0,40}") {
        for selection in parse(&text).map(|p| p.selections).unwrap_or_default() {
            prop_assert!(!selection.name.contains('/') && selection.name != "..");
        }
    }
}
