//! `validate`: what is wrong with configurations, and where.

use rstest::rstest;

use crate::support::Machine;

/// A configuration of Braid with these members.
fn braid(members: &str) -> String {
    format!(r#"{{"cniVersion":"1.0.0","name":"pods","plugins":[{{"type":"braid",{members}}}]}}"#)
}

const GOOD: &str = r#""delegates":[{"type":"bridge"},{"type":"macvlan"}]"#;

#[test]
fn a_good_file_is_ok() {
    let machine = Machine::new().conf("10-pods.conflist", &*braid(GOOD));
    let ran = machine.run("braid validate /etc/cni/net.d").succeeds();
    assert_eq!(ran.stdout, "/etc/cni/net.d/10-pods.conflist: ok (network \"pods\", CNI 1.0.0, braid)\n");
    assert_eq!(ran.stderr, "");
}

/// Such a network speaks 0.1.0, and has neither CHECK nor STATUS.
#[rstest]
#[case::list("pods.conflist", braid(GOOD))]
#[case::single("pods.conf", r#"{"cniVersion":"1.0.0","name":"pods","type":"bridge"}"#.to_owned())]
fn a_version_under_another_key_is_a_warning(#[case] file: &str, #[case] text: String) {
    let machine = Machine::new().conf(file, &*text.replace("cniVersion", "version"));
    let ran = machine.run("braid validate /etc/cni/net.d").succeeds();
    ran.prints("warning: \"version\" is a key that nothing reads; expected \"cniVersion\"");
}

/// Each problem with its file, its place, the value, and what is expected.
#[rstest]
#[case::json("pods.conflist", "{".to_owned(), "not a JSON object: EOF while parsing an object at line 1")]
#[case::list_name(
    "pods.conf",
    braid(GOOD),
    "it holds a configuration list, expected a file name that ends in .conflist"
)]
#[case::name("pods.conflist", braid(GOOD).replace("pods", "my pods"), "\"name\": network name \"my pods\" is not valid, expected a letter or digit")]
#[case::version("pods.conflist", braid(GOOD).replace("1.0.0", "3.0.0"), "\"cniVersion\": CNI version \"3.0.0\" is not one of 0.1.0, ")]
#[case::no_plugins("pods.conflist", r#"{"cniVersion":"1.0.0","name":"pods","plugins":[]}"#.to_owned(), "plugins")]
#[case::no_delegates(
    "pods.conflist",
    braid(r#""delegates":[]"#),
    "plugins[0] (braid): \"delegates\" is an empty list, expected a list of at least one delegate"
)]
#[case::delegates(
    "pods.conflist",
    braid(r#""delegates":{}"#),
    "plugins[0] (braid): \"delegates\" is an object, expected a list of delegates"
)]
#[case::delegate(
    "pods.conflist",
    braid(r#""delegates":[{"type":"bridge"},7]"#),
    "delegates[1] is 7, expected a plugin configuration"
)]
#[case::key(
    "pods.conflist",
    braid(r#""delegates":[{"nmae":"a"}]"#),
    "delegates[0] (a selection, as it has neither \"type\" nor \"plugins\"): the key \"nmae\" is not known, did you mean \"name\"?"
)]
#[case::interface(
    "pods.conflist",
    braid(r#""delegates":[{"type":"bridge"},{"interface":"a/b","config":{"type":"bridge"}}]"#),
    "delegates[1].interface is the string \"a/b\", expected 1 to 15 bytes"
)]
#[case::same_interface(
    "pods.conflist",
    braid(r#""delegates":[{"type":"bridge"},{"type":"bridge"},{"interface":"net1","config":{"type":"bridge"}}]"#),
    "delegates[1] and delegates[2] would both get the interface \"net1\""
)]
#[case::unknown_network(
    "pods.conflist",
    braid(r#""confDir":"/etc/cni/net.d","delegates":[{"name":"ghost"}]"#),
    "delegates[0]: no network is called \"ghost\" in /etc/cni/net.d"
)]
#[case::glob(
    "pods.conflist",
    braid(r#""delegates":[{"when":{"namespace":"[a"},"config":{"type":"bridge"}}]"#),
    "delegates[0].when.namespace is \"[a\", which is no glob (unclosed character class; missing ']')"
)]
#[case::itself(
    "pods.conflist",
    braid(r#""delegates":[{"type":"braid","delegates":[]}]"#),
    "delegates[0] (network \"pods\") has a plugin of type \"braid\", which would lead back to braid"
)]
#[case::concurrency(
    "pods.conflist",
    braid(r#""concurrency":"two","delegates":[{"type":"bridge"}]"#),
    "\"concurrency\" is a string, expected a whole number from 1 to 64"
)]
#[case::result(
    "pods.conflist",
    braid(r#""result":"all","delegates":[{"type":"bridge"}]"#),
    "\"result\" is the string \"all\", expected \"merged\" or \"primary\""
)]
#[case::timeouts(
    "pods.conflist",
    braid(r#""timeouts":{"plugni":1},"delegates":[{"type":"bridge"}]"#),
    "timeouts: the key \"plugni\" is not known, did you mean \"plugin\"?"
)]
#[case::timeout(
    "pods.conflist",
    braid(r#""timeouts":{"plugin":0},"delegates":[{"type":"bridge"}]"#),
    "timeouts.plugin is 0, expected a number of seconds"
)]
#[case::state_dir(
    "pods.conflist",
    braid(r#""stateDir":"state","delegates":[{"type":"bridge"}]"#),
    "\"stateDir\" is the string \"state\", expected an absolute path"
)]
#[case::policy(
    "pods.conflist",
    braid(r#""policy":[{"networks":["a"],"namespace":["b"]}],"delegates":[{"type":"bridge"}]"#),
    "the key \"namespace\" is not known, did you mean \"namespaces\"?"
)]
fn a_problem_is_reported_with_its_place(#[case] name: &str, #[case] conf: String, #[case] problem: &str) {
    let machine = Machine::new().conf(name, &*conf);
    let ran = machine.run(&format!("braid validate /etc/cni/net.d/{name}")).exits(1);
    assert!(ran.stdout.starts_with(&format!("/etc/cni/net.d/{name}: wrong")), "{}", ran.stdout);
    assert_eq!(ran.stdout.matches("  error: ").count(), 1, "{}", ran.stdout);
    ran.prints("\n  error: ").prints(problem);
}

#[test]
fn every_file_of_a_directory_is_listed_and_one_that_is_wrong_fails_them_all() {
    let machine = Machine::new()
        .conf("10-good.conflist", &*braid(GOOD))
        .conf("20-bad.conflist", "{")
        .conf("30-single.conf", r#"{"cniVersion":"1.0.0","name":"single","type":"bridge"}"#)
        .conf("README.md", "not a configuration");
    let ran = machine.run("braid validate /etc/cni/net.d").exits(1);
    let verdicts: Vec<_> = ran.stdout.lines().filter(|line| !line.starts_with(' ')).collect();
    assert_eq!(
        verdicts,
        [
            "/etc/cni/net.d/10-good.conflist: ok (network \"pods\", CNI 1.0.0, braid)",
            "/etc/cni/net.d/20-bad.conflist: wrong",
            "/etc/cni/net.d/30-single.conf: ok (network \"single\", CNI 1.0.0, bridge)",
        ]
    );
}

/// libcni's order: lists first, then the others, each by name.
#[test]
fn of_two_files_with_one_name_the_one_that_is_not_used_is_reported() {
    let machine = Machine::new()
        .conf("10-single.conf", r#"{"cniVersion":"1.0.0","name":"pods","type":"bridge"}"#)
        .conf("20-pods.conflist", &*braid(GOOD))
        .conf("30-other.conflist", &*braid(GOOD).replace("pods", "other"));
    let ran = machine.run("braid validate /etc/cni/net.d").succeeds();
    let warning = "  warning: 20-pods.conflist comes first and has the same name, \"pods\"; this file is not used";
    let warnings: Vec<_> = ran.stdout.lines().filter(|line| line.starts_with(' ')).collect();
    assert_eq!(warnings, [warning]);
    ran.prints(&format!("/etc/cni/net.d/10-single.conf: ok (network \"pods\", CNI 1.0.0, bridge)\n{warning}\n"));
    // Files that are named on the command line are checked independently.
    let ran = machine.run("cd /etc/cni/net.d && braid validate 10-single.conf 20-pods.conflist").succeeds();
    ran.require(!ran.stdout.contains("warning"), "no warning");
}

#[test]
fn all_wrong_keys_are_reported_at_once() {
    let conf = braid(r#""delegates":[{"type":"bridge","when":{"namespace":"a"}},7],"result":"all","logLevel":"or""#);
    let machine = Machine::new().conf("pods.conflist", &*conf);
    let ran = machine.run("braid validate /etc/cni/net.d").exits(1);
    ran.prints("delegates[0]: \"when\" beside \"type\" would decide nothing")
        .prints("delegates[1] is 7")
        .prints("\"result\" is the string \"all\"")
        .prints("\"logLevel\" is the string \"or\"");
}

#[test]
fn all_networks_that_cannot_be_found_are_reported_at_once() {
    let conf = braid(r#""delegates":[{"type":"bridge"},{"name":"one"},{"name":"two","when":{"namespace":"never"}}]"#);
    let machine = Machine::new().conf("pods.conflist", &*conf);
    let ran = machine.run("braid validate /etc/cni/net.d").exits(1);
    ran.prints("delegates[1]: no network is called \"one\"").prints("delegates[2]: no network is called \"two\"");
}

#[rstest]
#[case::key(
    r#""delegatse":[],"delegates":[{"type":"bridge"}]"#,
    "the key \"delegatse\" is not known, did you mean \"delegates\"?"
)]
#[case::plugin(
    r#""delegates":[{"type":"absent"}]"#,
    "network \"pods\": no executable called \"absent\" is in /opt/cni/bin"
)]
#[case::interface(
    r#""delegates":[{"type":"absent"},{"type":"absent","interface":"st0"}]"#,
    "plugins[0] (braid): delegates[1]: \"interface\" beside \"type\" has no effect"
)]
fn what_may_be_intended_is_only_a_warning(#[case] members: &str, #[case] warning: &str) {
    let machine = Machine::new().conf("pods.conflist", &*braid(members));
    machine.run("braid validate /etc/cni/net.d").succeeds().prints(": ok (").prints("  warning: ").prints(warning);
}

#[test]
fn there_must_be_something_to_validate() {
    let machine = Machine::new();
    machine.run("braid validate /etc/cni/net.d").exits(1).prints("/etc/cni/net.d: no configurations");
    machine
        .run("braid validate /etc/cni/net.d/absent.conflist")
        .exits(1)
        .prints("absent.conflist: wrong")
        .prints("No such file");
    machine.run("braid validate").exits(2).says("<FILE|DIR>");
}

#[test]
#[cfg(not(feature = "kubernetes"))]
fn manifests_are_not_read_without_kubernetes() {
    let machine = Machine::new().conf("10-pods.conflist", &*braid(GOOD)).conf("pod.yaml", "kind: Pod\n");
    let ran = machine.run("braid validate /etc/cni/net.d").succeeds();
    assert_eq!(ran.stdout.lines().count(), 1, "{}", ran.stdout);
    machine.run("braid validate /etc/cni/net.d/pod.yaml").exits(1).prints("built without Kubernetes");
}
