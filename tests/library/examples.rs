//! The programs in `examples/`.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::{env, fs};

use rstest::rstest;
use serde_json::json;

use crate::support::{Case, Network, Plugin, bridge, recorder};

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_BIN_EXE_braid")).parent().expect("a folder").join("examples").join(name)
}

fn in_folder_of_examples(case: Case) -> Case {
    case.plugins_in(example("runtime").parent().expect("a folder").to_owned())
}

fn name_servers() -> Plugin {
    Plugin::new("n", "chained-plugin").key("nameservers", json!(["10.1.0.1"])).key("search", json!(["example.org"]))
}

fn runtime(case: &Case, words: &[&str]) -> std::process::Output {
    let pod = case.pod().path();
    let path = case.cni_path();
    let mut all = vec!["--cache", "@DIR@/cache", "@DIR@/net.d", path.to_str().expect("UTF-8"), "n"];
    all.push(pod.to_str().expect("UTF-8"));
    all.extend(words);
    case.command(&example("runtime"), &all).output()
}

#[test]
fn the_runtime_runs_a_command_on_a_network_and_leaves_nothing() {
    let network = Network::new("n").plugin(bridge("br-x", "10.10.1.0/24")).plugin(name_servers());
    let case = in_folder_of_examples(Case::with_reference_plugins()).configuration("n.conflist", network);
    let output = runtime(&case, &["sh", "-c", "ip -o -4 address show dev eth0; exit 7"]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("10.10.1.2/24"), "{text} {output:?}");
    assert_eq!(output.status.code(), Some(7));
    assert_eq!(case.changes(), "");
}

#[test]
fn the_runtime_undoes_an_add_that_failed() {
    let network =
        Network::new("n").plugin(recorder("alpha").ip("10.1.0.5/24")).plugin(recorder("beta").failing("ADD", 142));
    let case = Case::new().configuration("n.conflist", network);
    let output = runtime(&case, &["true"]);
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && text.contains("beta refuses ADD"), "{text}");
    assert_eq!(case.order(), ["ADD alpha eth0", "ADD beta eth0", "DEL beta eth0", "DEL alpha eth0"]);
    assert_eq!(case.changes(), "");
}

#[rstest]
fn the_chained_plugin_adds_to_the_result_of_every_version(
    #[values("0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")] version: &str,
) {
    let chain = Network::new("n")
        .version(version)
        .plugin(recorder("alpha").version(version).ip("10.1.0.5/24").link())
        .plugin(name_servers());
    let case = in_folder_of_examples(Case::new()).cni_version(version).delegate(chain);
    let outcome = case.add();
    assert_eq!(outcome.result()["dns"], json!({"nameservers": ["10.1.0.1"], "search": ["example.org"]}));
    if version >= "0.4.0" {
        case.check().succeeds();
    }
    case.del().succeeds().leaves_nothing();
}

#[test]
fn the_chained_plugin_follows_the_protocol() {
    let case = in_folder_of_examples(Case::new());
    let plugin = case.plugin_path("chained-plugin");
    let call =
        |command: &str, stdin: serde_json::Value| case.call_plugin(&plugin, command).stdin(stdin.to_string()).run();
    let alone = json!({"cniVersion": "1.0.0", "name": "n", "type": "chained-plugin", "nameservers": []});
    call("ADD", alone.clone()).fails(7).says("prevResult");
    call("DEL", alone.clone()).succeeds();
    call("STATUS", alone.clone()).fails(1).says("STATUS");
    call("ADD", json!({"cniVersion": "7.0.0", "name": "n"})).fails(1).says("7.0.0");
    call("ADD", json!({"cniVersion": "1.0.0", "name": "n", "prevResult": {}})).fails(7).says("nameservers");
    case.call_plugin(&plugin, "ADD").stdin("{").run().fails(6);
    case.call_plugin(&plugin, "ADD").stdin("").run().fails(6);
    case.call_plugin(&plugin, "FLY").stdin("{}").run().fails(4).says("CNI_COMMAND");
    case.call_plugin(&plugin, "ADD").env("CNI_CONTAINERID", "").stdin(alone.to_string()).run().fails(4);
    case.call_plugin(&plugin, "ADD").env_clear().stdin("").run().fails(4).says("CNI_COMMAND");
    let outcome = call("VERSION", json!({"cniVersion": "0.4.0"}));
    assert_eq!(outcome.result()["cniVersion"], "0.4.0");
    assert_eq!(outcome.result()["supportedVersions"].as_array().map(Vec::len), Some(7));
    let lost = json!({"cniVersion": "1.0.0", "name": "n", "nameservers": ["10.1.0.1"], "prevResult": {"dns": {}}});
    call("CHECK", lost).fails(101).says("10.1.0.1");
}

/// A root file system of one static busybox.
fn busybox_root(case: &Case) -> PathBuf {
    let root = case.dir().join("root");
    for folder in ["bin", "proc", "sys", "dev", "etc", "tmp", "run"] {
        fs::create_dir_all(root.join(folder)).expect("make a folder");
    }
    let paths = env::var_os("PATH").expect("PATH");
    let busybox = env::split_paths(&paths).map(|dir| dir.join("busybox")).find(|file| file.is_file());
    fs::copy(busybox.expect("busybox (see tests/run.sh)"), root.join("bin/busybox")).expect("copy busybox");
    for name in ["sleep", "ip"] {
        symlink("busybox", root.join("bin").join(name)).expect("make a link");
    }
    root
}

#[test]
fn a_podman_container_is_on_braids_networks() {
    if !nix::unistd::geteuid().is_root()
        || fs::read_to_string("/proc/self/uid_map").is_ok_and(|map| !map.contains("4294967295"))
    {
        return eprintln!("skipped: podman needs the real root");
    }
    let case = Case::with_reference_plugins()
        .configuration("one.conflist", Network::new("one").plugin(bridge("br-p", "10.10.1.0/24")))
        .configuration("two.conflist", Network::new("two").plugin(bridge("br-q", "10.20.1.0/24")));
    let root = busybox_root(&case);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/podman-run.sh");
    let podman = case.expand(
        "podman --root @DIR@/podman --runroot @DIR@/podman-run --tmpdir @DIR@/podman-tmp --runtime runc --cgroup-manager=cgroupfs",
    );
    let braid_dir = crate::support::braid().parent().expect("a folder").to_owned();
    let path = env::var_os("PATH").expect("PATH");
    let path = env::join_paths(std::iter::once(braid_dir).chain(env::split_paths(&path))).expect("folders");
    let root = root.to_str().expect("UTF-8");
    let limits = ["--ulimit=nofile=1024:1024", "--ulimit=nproc=1024:1024"];
    let script = script.to_str().expect("UTF-8");
    let words = [&["one,two"], &limits[..], &["--rootfs", root, "ip", "-o", "-4", "address"]].concat();
    // podman mounts its storage on itself and does not unmount it.
    let words = [&["--mount", script], &words[..]].concat();
    let call =
        case.command(Path::new("unshare"), &words).env("PODMAN", podman).env("PATH", path).env("HOME", case.dir());
    let output = call.output();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("10.10.1.2/24") && text.contains("10.20.1.2/24"), "{output:?}");
    assert_eq!(case.changes(), "");
}
