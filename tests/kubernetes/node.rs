//! Differences between nodes, and changes by others between `install` and `uninstall`.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Output;

use rstest::rstest;
use rustix::fs::{XattrFlags, lgetxattr, lsetxattr};
use serde_json::{Value, json};

use crate::support::{Machine, Network, Node, PRIMARY, bridge};

fn node() -> Node {
    let node = Node::new();
    node.write("net.d/10-pods.conflist", PRIMARY);
    node
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn printed(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// All files below a directory, with their content, their inodes and when they were changed.
fn all_files(directory: &Path) -> BTreeMap<PathBuf, (Vec<u8>, u64, i64)> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let metadata = path.symlink_metadata().unwrap();
        if metadata.is_dir() {
            files.extend(all_files(&path));
        }
        let content = if metadata.is_file() { fs::read(&path).unwrap() } else { Vec::new() };
        files.insert(path, (content, metadata.ino(), metadata.ctime_nsec()));
    }
    files
}

/// Runs a command that must change nothing.
fn unchanged(node: &Node, arguments: &[&str]) -> Output {
    let before = all_files(&node.path("."));
    let output = node.run(arguments);
    assert!(all_files(&node.path(".")) == before, "{arguments:?} changed something");
    output
}

#[test]
fn a_dry_run_of_install_says_what_would_be_written_and_changes_nothing() {
    let node = node();
    node.write("bin/.braid.dead00.tmp", "half");
    let with = ["--with", r#"{"namespaceIsolation": true}"#];
    let arguments = [&["install", "--dry-run"][..], &with].concat();
    let output = unchanged(&node, &arguments);
    let text = printed(&output);
    assert!(output.status.success(), "{output:?}");
    for line in [
        format!("would remove {}: ", node.path("bin/.braid.dead00.tmp").display()),
        format!("would write {}: this program", node.path("bin/braid").display()),
        format!("would write {}: ", node.path("net.d/00-braid.conflist").display()),
    ] {
        assert!(text.contains(&line), "{line} is not in\n{text}");
    }
    assert!(node.install(&with).status.success());
    let written = fs::read_to_string(node.path("net.d/00-braid.conflist")).unwrap();
    assert!(text.contains(written.trim_end()), "{text}");

    let text = printed(&unchanged(&node, &arguments));
    assert!(!text.contains("would write") && !text.contains("would replace"), "{text}");
    assert_eq!(text.matches("would leave").count(), 2, "{text}");
    node.write("bin/braid", "another");
    let text = printed(&unchanged(&node, &["install", "--dry-run"]));
    assert_eq!(text.matches("would replace").count(), 2, "{text}");
}

#[test]
fn a_dry_run_in_a_cluster_asks_for_no_token_and_shows_none() {
    let node = node();
    let before = all_files(&node.path("."));
    let output = node.install_in_cluster(&["--dry-run"]).output().unwrap();
    assert!(output.status.success() && all_files(&node.path(".")) == before, "{output:?}");
    let text = printed(&output);
    assert!(text.contains("braid.d/kubeconfig: the credentials") && !text.contains("token-1"), "{text}");
    assert!(text.contains(r#""kubeconfig":"#), "the configuration names them: {text}");
}

#[rstest]
#[case::no_primary_network(&|node: &Node| fs::remove_file(node.path("net.d/10-pods.conflist")).unwrap(), "no configuration")]
#[case::no_directory(&|node: &Node| fs::remove_dir_all(node.path("bin")).unwrap(), "bin/braid: ")]
#[case::a_directory_in_its_place(&|node: &Node| fs::create_dir(node.path("bin/braid")).unwrap(), "bin/braid: ")]
#[case::another_comes_first(&|node: &Node| node.write("net.d/00-a.conflist", PRIMARY), "00-a.conflist sorts before")]
#[case::a_newer_journal(&|node: &Node| leave_journal(node, "attachments/c1/eth0.jsonl", 3), "has format 3")]
fn a_dry_run_fails_as_install_would(#[case] change: &dyn Fn(&Node), #[case] part: &str) {
    let node = node();
    change(&node);
    let output = unchanged(&node, &["install", "--dry-run"]);
    let text = said(&output);
    assert!(output.status.code() == Some(1) && text.contains(part), "{text}");
    let output = node.install(&[]);
    let text = said(&output);
    assert!(output.status.code() == Some(1) && text.contains(part), "{text}");
}

#[test]
fn a_dry_run_of_uninstall_says_what_would_go_and_what_would_stay() {
    let node = node();
    drop(node.install_in_cluster(&["--once"]).output().unwrap());
    let text = printed(&unchanged(&node, &["uninstall", "--dry-run"]));
    for name in ["net.d/00-braid.conflist", "net.d/braid.d/kubeconfig", "bin/braid"] {
        assert!(text.contains(&format!("would remove {}: ", node.path(name).display())), "{text}");
    }
    let next = node.path("net.d/10-pods.conflist");
    assert!(text.contains(&format!("the runtime would use {}", next.display())), "{text}");

    fs::create_dir_all(node.path("state/attachments/c1")).unwrap();
    let output = unchanged(&node, &["uninstall", "--dry-run"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(!printed(&output).contains("bin/braid") && said(&output).contains("1 container is still attached"));
    let output = unchanged(&node, &["uninstall", "--dry-run", "--force"]);
    assert!(output.status.success() && printed(&output).contains("bin/braid: "), "{output:?}");
    let output = unchanged(&node, &["uninstall", "--dry-run", "--drain"]);
    assert!(output.status.success() && printed(&output).contains("would wait: 1 container"), "{output:?}");
}

/// Leaves the beginning of a journal in a format.
fn leave_journal(node: &Node, name: &str, format: u32) {
    let path = node.path("state").join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, format!("{{\"format\":{format},\"plan\":{{}}}}\n")).unwrap();
}

#[test]
fn a_newer_braid_is_not_replaced_while_there_are_journals_that_only_it_reads() {
    let node = node();
    assert!(node.install(&[]).status.success());
    node.write("bin/braid", "#!/bin/sh\nexit 0 # a newer one\n");
    for format in [1, 2] {
        leave_journal(&node, &format!("attachments/c{format}/eth0.jsonl"), format);
    }
    leave_journal(&node, "attachments/c3/eth0.jsonl", 3);
    leave_journal(&node, "debts/c4/eth0.jsonl", 4);
    let before = all_files(&node.path("."));
    let output = node.install(&[]);
    let text = said(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    for part in
        ["bin/braid: it stays", "attachments/c3/eth0.jsonl has format 3", "1 other journal", "uninstall --drain"]
    {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    assert!(all_files(&node.path(".")) == before, "{text}");
    // Formats that it can read are no reason to refuse.
    for container in ["attachments/c3", "debts/c4"] {
        fs::remove_dir_all(node.path("state").join(container)).unwrap();
    }
    drop(node.install(&[]));
    assert_ne!(before[&node.path("./bin/braid")].0, fs::read(node.path("bin/braid")).unwrap());
}

const LABEL: &str = "security.selinux";

fn label(path: &Path) -> Option<String> {
    let mut label = [0; 256];
    let length = lgetxattr(path, LABEL, &mut label[..]).ok()?;
    Some(String::from_utf8_lossy(&label[..length]).into_owned())
}

#[test]
fn files_keep_their_selinux_labels_and_new_ones_get_that_of_their_directory() {
    let node = node();
    let set = |name: &str, label: &str| lsetxattr(node.path(name), LABEL, label.as_bytes(), XattrFlags::empty());
    if let Err(error) = set("bin", "system_u:object_r:bin_t:s0\0") {
        eprintln!("no labels can be set here ({error}): skipped");
        return;
    }
    set("net.d", "system_u:object_r:net_conf_t:s0\0").unwrap();
    assert!(node.install(&[]).status.success());
    assert_eq!(label(&node.path("bin/braid")).as_deref(), Some("system_u:object_r:bin_t:s0\0"));
    assert_eq!(label(&node.path("net.d/00-braid.conflist")).as_deref(), Some("system_u:object_r:net_conf_t:s0\0"));

    for name in ["bin/braid", "net.d/00-braid.conflist"] {
        node.write(name, "another version");
        set(name, "system_u:object_r:cni_exec_t:s0:c1,c2\0").unwrap();
    }
    assert!(node.install(&[]).status.success());
    for name in ["bin/braid", "net.d/00-braid.conflist"] {
        assert_ne!(fs::read(node.path(name)).unwrap(), b"another version");
        assert_eq!(label(&node.path(name)).as_deref(), Some("system_u:object_r:cni_exec_t:s0:c1,c2\0"), "{name}");
    }
}

/// A change of the directory of configurations while Braid is installed, and the file that the runtime uses afterwards.
#[rstest]
#[case::nothing(&|_: &Path| {}, "10-pods.conflist")]
#[case::edited(&|at: &Path| fs::write(at.join("10-pods.conflist"), PRIMARY.replace("1e400", "2")).unwrap(), "10-pods.conflist")]
#[case::renamed(&|at: &Path| fs::rename(at.join("10-pods.conflist"), at.join("30-pods.conflist")).unwrap(), "30-pods.conflist")]
#[case::another_added_before(&|at: &Path| fs::write(at.join("05-next.conflist"), PRIMARY.replace("pods", "next")).unwrap(), "05-next.conflist")]
#[case::another_added_behind(&|at: &Path| fs::write(at.join("20-next.conflist"), PRIMARY.replace("pods", "next")).unwrap(), "10-pods.conflist")]
#[case::replaced_by_another(&|at: &Path| {
    fs::remove_file(at.join("10-pods.conflist")).unwrap();
    fs::write(at.join("20-next.conflist"), PRIMARY.replace("pods", "next")).unwrap();
}, "20-next.conflist")]
#[case::braids_own_removed(&|at: &Path| fs::remove_file(at.join("00-braid.conflist")).unwrap(), "10-pods.conflist")]
#[case::braids_own_broken(&|at: &Path| fs::write(at.join("00-braid.conflist"), "{").unwrap(), "10-pods.conflist")]
fn uninstall_leaves_the_first_configuration_as_it_is_by_then(#[case] change: &dyn Fn(&Path), #[case] first: &str) {
    let node = node();
    assert!(node.install(&[]).status.success());
    let directory = node.path("net.d");
    change(&directory);
    let mut expected = all_files(&directory);
    expected.remove(&directory.join("00-braid.conflist"));
    let output = node.run(&["uninstall"]);
    assert!(output.status.success(), "{output:?}");
    assert!(all_files(&directory) == expected, "{:?}", node.files("net.d"));
    assert_eq!(node.files("net.d")[0], first);
    assert!(!node.path("bin/braid").exists());
}

#[rstest]
#[case::removed(&|at: &Path| fs::remove_file(at).unwrap())]
#[case::renamed_so_that_nobody_reads_it(&|at: &Path| fs::rename(at, at.with_extension("conflist.bak")).unwrap())]
fn uninstall_puts_back_the_first_configuration_when_only_braid_has_it(#[case] change: &dyn Fn(&Path)) {
    let node = node();
    assert!(node.install(&[]).status.success());
    change(&node.path("net.d/10-pods.conflist"));
    // The installer keeps its copy, and so does a second one.
    assert!(!node.install(&[]).status.success());
    let text = printed(&unchanged(&node, &["uninstall", "--dry-run"]));
    assert!(text.contains("would write ") && text.contains("the runtime would use "), "{text}");
    let output = node.run(&["uninstall"]);
    assert!(output.status.success() && said(&output).contains("99-pods.conflist"), "{output:?}");
    let copy = fs::read_to_string(node.path("net.d/99-pods.conflist")).unwrap();
    assert!(copy.contains("1e400"), "{copy}");
    let read = |text: &str| serde_json::from_str::<Value>(&text.replace("1e400", "1")).unwrap();
    assert_eq!(read(&copy), read(PRIMARY));
    assert_eq!(node.mode("net.d/99-pods.conflist"), 0o600);
    assert!(!node.path("net.d/00-braid.conflist").exists());
    // A second run changes nothing, and an installer finds the file.
    let before = all_files(&node.path("net.d"));
    assert!(node.run(&["uninstall"]).status.success() && all_files(&node.path("net.d")) == before);
    assert!(node.install(&[]).status.success());
    assert_eq!(node.conflist()["plugins"][0]["delegates"][0]["name"], "pods");
}

#[test]
fn a_single_plugin_is_put_back_as_one() {
    let node = Node::new();
    node.write("net.d/10-pods.conf", r#"{"cniVersion": "1.0.0", "name": "pods", "type": "alpha", "x": 1e400}"#);
    assert!(node.install(&[]).status.success());
    let before = fs::read_to_string(node.path("net.d/10-pods.conf")).unwrap();
    fs::remove_file(node.path("net.d/10-pods.conf")).unwrap();
    assert!(node.run(&["uninstall"]).status.success());
    let read = |text: &str| serde_json::from_str::<Value>(&text.replace("1e400", "1")).unwrap();
    let names = node.files("net.d");
    let after = fs::read_to_string(node.path("net.d").join(&names[0])).unwrap();
    assert_eq!(names.len(), 1);
    let (before, after) = (read(&before), read(&after));
    let plugin = if after["plugins"].is_array() { &after["plugins"][0] } else { &after };
    assert_eq!((&plugin["type"], &plugin["x"], &after["name"]), (&before["type"], &before["x"], &before["name"]));
}

#[test]
fn uninstall_keeps_the_executable_that_another_configuration_calls() {
    let node = node();
    assert!(node.install(&[]).status.success());
    node.write(
        "net.d/50-own.conf",
        r#"{"cniVersion": "1.0.0", "name": "own", "type": "braid", "delegates": [{"name": "pods"}]}"#,
    );
    for more in [&[][..], &["--drain"], &["--dry-run"]] {
        let output = node.run(&[&["uninstall"], more].concat());
        let text = said(&output);
        assert!(output.status.code() == Some(1) && text.contains("50-own.conf still calls it"), "{text}");
    }
    assert!(node.path("bin/braid").exists() && !node.path("net.d/00-braid.conflist").exists());
    assert!(node.run(&["uninstall", "--force"]).status.success());
    assert!(!node.path("bin/braid").exists());
}

/// A machine with a primary network.
fn machine() -> Machine {
    let ipam = json!({"type": "host-local", "ranges": [[{"subnet": "10.10.1.0/24"}]]});
    let pods = bridge("br-pods", "").without("ipMasq").key("ipam", ipam);
    let machine = Machine::new().conf("10-pods.conflist", Network::new("pods").plugin(pods));
    machine.run("mkdir -p /var/lib/cni/braid/attachments").succeeds();
    machine
}

#[test]
fn where_usr_is_read_only_braid_is_installed_beside_it_or_says_why_not() {
    let machine = machine();
    machine.run("mount --bind /usr /usr && mount -o remount,bind,ro /usr; cp /opt/cni/bin/braid /run/braid").succeeds();
    for more in ["", "--dry-run"] {
        machine
            .run(&format!("/run/braid install --once {more} --bin-dir /usr/lib/cni"))
            .exits(1)
            .says("/usr/lib/cni/braid: ")
            .says("Read-only file system");
        machine.run("ls /etc/cni/net.d/00-braid.conflist").fails();
    }
    machine.run("rm /opt/cni/bin/braid; /run/braid install --once").succeeds().says("this node is ready");
    machine
        .run("ip netns add web; braid add braid web --container-id web; braid del braid web --container-id web")
        .succeeds();
    machine.run("ip netns del web").succeeds();
    // The configurations are on a read-only file system.
    machine.run("mount --bind /etc/cni/net.d /etc/cni/net.d && mount -o remount,bind,ro /etc/cni/net.d").succeeds();
    machine.run("braid uninstall").exits(1).says("00-braid.conflist: Read-only file system");
    machine.run("ls /opt/cni/bin/braid").succeeds();
}

#[test]
fn namespaces_are_found_where_their_directory_is_a_link() {
    let machine = machine();
    // The runtime names one path, and tools another.
    machine.run("mkdir /run/names; rmdir /run/netns; ln -s /run/names /run/netns; test -L /var/run").succeeds();
    machine.run("braid install --once").succeeds();
    for container in ["web", "db"] {
        machine
            .run(&format!(
                "touch /run/names/{container}; unshare --net=/run/names/{container} true; \
                 braid add braid /var/run/netns/{container} --container-id {container}"
            ))
            .succeeds();
    }
    machine.run("braid check braid /var/run/netns/web --container-id web").succeeds();
    machine.run("braid list").succeeds().prints("attached");
    machine.run("braid uninstall").exits(1).says("2 containers are still attached");
    machine.run("umount /run/names/db; rm /run/names/db; braid list").succeeds().prints("left behind");
    machine.run("braid uninstall").exits(1).says("detached db").says("1 container is still attached");
    machine.run("nsenter --net=/run/names/web ip addr show eth0").succeeds().prints("10.10.1.");
    machine.run("umount /run/names/web; rm /run/names/web; braid uninstall").succeeds().says("detached web");
}
