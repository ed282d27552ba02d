//! The configurations in `conf/`: each is valid, gives the intended plan, and works with the real plugins.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use rstest::rstest;
use serde_json::Value;

use crate::support::Machine;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("conf")
}

/// The files that are tried below.
const TRIED: [&str; 6] = [
    "10-primary-with-extras.conflist",
    "bandwidth-firewall-chained.conflist",
    "chained-after-primary.conflist",
    "nomad.conflist",
    "podman.conflist",
    "selectors-per-namespace.conflist",
];

#[test]
fn every_configuration_is_tried_and_described() {
    let names = fs::read_dir(folder()).expect("conf/").map(|entry| entry.expect("an entry").file_name());
    let names: BTreeSet<_> =
        names.map(|name| name.into_string().expect("UTF-8")).filter(|name| name.ends_with(".conflist")).collect();
    assert_eq!(names, TRIED.map(str::to_owned).into());
    let readme = fs::read_to_string(folder().join("README.md")).expect("conf/README.md");
    for name in TRIED {
        assert!(readme.contains(&format!("({name})")), "{name} is not in conf/README.md");
    }
}

#[test]
fn each_is_valid_and_so_are_all_together() {
    let machine = Machine::new();
    let ran = machine.run(&format!("braid validate {}", folder().display())).succeeds();
    assert_eq!(ran.stdout.matches(": ok (").count(), TRIED.len(), "{}", ran.stdout);
    // These two are not meant to be used together.
    let expected = "  warning: nomad.conflist comes first and has the same name, \"braid\"; this file is not used";
    let problems: Vec<_> = ran.stdout.lines().filter(|line| line.starts_with(' ')).collect();
    assert_eq!(problems, [expected]);
}

#[test]
#[cfg(feature = "kubernetes")]
fn the_manifests_are_valid() {
    let kubernetes = folder().join("kubernetes");
    for folder in [kubernetes.join("base"), kubernetes.join("live"), kubernetes] {
        let ran = Machine::new().run(&format!("braid validate {}", folder.display())).succeeds();
        assert!(!ran.stdout.contains("  "), "{}", ran.stdout);
    }
}

/// A file, `CNI_ARGS`, and the steps that ADD is to run.
#[rstest]
#[case::primary_with_extras("10-primary-with-extras", "", &["eth0 pods bridge", "eth0 pods portmap", "net1 storage bridge", "net2 lan macvlan"])]
#[case::bandwidth_and_firewall("bandwidth-firewall-chained", "", &[
    "eth0 limited bridge", "eth0 limited portmap", "net1 backup-limited bridge", "net1 backup-limited bandwidth",
    "net2 lan-limited macvlan", "eth0 limited bandwidth", "eth0 limited firewall"])]
#[case::chained("chained-after-primary", "", &["eth0 pods-and-more bridge", "eth0 pods-and-more portmap", "net1 backup bridge"])]
#[case::nomad("nomad", "NOMAD_NAMESPACE=default;NOMAD_JOB_ID=web", &[
    "eth0 braid bridge", "eth0 braid portmap", "eth0 braid firewall", "eth0 braid loopback"])]
#[case::nomad_with_storage("nomad", "NOMAD_NAMESPACE=default;NOMAD_JOB_ID=db-1", &[
    "eth0 braid bridge", "eth0 braid portmap", "storage nomad-storage bridge", "eth0 braid firewall", "eth0 braid loopback"])]
#[case::podman("podman", "", &["eth0 braid bridge", "eth0 braid portmap", "eth0 braid firewall", "net1 braid-storage bridge", "net1 braid-storage firewall"])]
#[case::selectors("selectors-per-namespace", "K8S_POD_NAMESPACE=dev", &["eth0 selected bridge"])]
#[case::selectors_prod("selectors-per-namespace", "K8S_POD_NAMESPACE=prod-eu", &["eth0 selected bridge", "storage prod-storage bridge"])]
#[case::selectors_test("selectors-per-namespace", "K8S_POD_NAMESPACE=prod-test", &["eth0 selected bridge"])]
#[case::selectors_monitoring("selectors-per-namespace", "K8S_POD_NAMESPACE=monitoring;K8S_POD_NAME=collector-7", &[
    "eth0 selected bridge", "mgmt mgmt macvlan"])]
fn a_configuration_does_what_it_is_for_and_leaves_nothing(
    #[case] file: &str,
    #[case] args: &str,
    #[case] steps: &[&str],
) {
    let machine = Machine::new();
    let conf = folder().join(format!("{file}.conflist"));
    let conf = conf.display();
    let plan = machine.run(&format!("braid plan {conf} --args '{args}' -o json")).succeeds().json();
    let word = |step: &Value, key: &str| step[key].as_str().expect("a string").to_owned();
    let planned = plan["steps"].as_array().expect("steps").iter();
    let planned: Vec<_> = planned
        .map(|step| format!("{} {} {}", word(step, "interface"), word(step, "network"), word(step, "plugin")))
        .collect();
    assert_eq!(planned, steps);

    machine.run("ip netns add web").succeeds();
    let interfaces: BTreeSet<_> = steps.iter().filter_map(|step| step.split(' ').next()).map(str::to_owned).collect();
    // Kubernetes and Nomad set this too. Without it, the reference plugins refuse unknown arguments.
    let attach = format!(
        "export CNI_ARGS='IgnoreUnknown=1{}{args}'; braid add {conf} web",
        if args.is_empty() { "" } else { ";" }
    );
    let inside = || {
        let links = machine.run("ip -n web -j link").succeeds().json();
        let names = links.as_array().expect("links").iter().map(|link| word(link, "ifname"));
        names.filter(|name| name != "lo").collect::<BTreeSet<_>>()
    };
    // The first container makes what the networks keep: bridges and base chains, and `lo`, which stays up.
    machine.run(&format!("{attach}; braid del {conf} web")).succeeds();
    machine.note();
    machine.run(&attach).succeeds();
    assert_eq!(inside(), interfaces);
    machine.run(&format!("braid check {conf} web")).succeeds();
    machine.run(&format!("braid del {conf} web")).succeeds();
    machine.is_as_noted();

    let mappings = r#"{"portMappings":[{"hostPort":8080,"containerPort":80,"protocol":"tcp"}]}"#;
    machine.run(&format!("export CAP_ARGS='{mappings}'; {attach}; braid del {conf} web")).succeeds();
    assert_eq!(inside(), BTreeSet::new());
    machine.is_as_noted();
}
