//! containerd, by its own client `ctr`. Pods, which the kubelet makes through its CRI plugin, are in `cri.rs`.

use serde_json::Value;

use super::networks::{failing, three_networks};
use crate::support::{Machine, is_real_root};

pub(super) const IMAGE: &str = "braid.test/busybox:1";

/// A machine on which containerd runs and has an image. `None` if containerd cannot work here.
fn machine() -> Option<Machine> {
    let machine = start("disabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n", "default", three_networks("braid"))?;
    // A first container makes what the networks keep when a container is removed.
    machine.run(&run("first", "true")).succeeds();
    machine.note();
    Some(machine)
}

/// A machine on which containerd runs with this configuration and network, and has an image in one of its namespaces.
pub(super) fn start(conf: &str, namespace: &str, network: Value) -> Option<Machine> {
    if !is_real_root() {
        eprintln!("containerd needs real root: skipped");
        return None;
    }
    let machine = Machine::new().conf("10-braid.conflist", network);
    let conf = machine.write("containerd.toml", &format!("version = 2\n{conf}"));
    machine.run(&format!("containerd --config {} </dev/null >/run/containerd.log 2>&1 &", conf.display())).succeeds();
    make_image(&machine);
    machine.until("ctr version");
    let import = format!("ctr -n {namespace} images import --snapshotter native {}/image.tar", machine.dir().display());
    machine.run(&import).succeeds();
    Some(machine)
}

/// An image in the format of `docker save`. It is made here, because the tests use no registry.
fn make_image(machine: &Machine) {
    let root = machine.container_root();
    let folder = machine.dir().join("image");
    std::fs::create_dir(&folder).expect("make a folder");
    machine.run(&format!("tar cf {}/layer.tar -C {} .", folder.display(), root.display())).succeeds();
    let digest = machine.run(&format!("sha256sum {}/layer.tar | cut -d' ' -f1", folder.display())).succeeds().stdout;
    let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let config = serde_json::json!({
        "architecture": architecture, "os": "linux", "config": {"Cmd": ["/bin/busybox", "sleep", "1000"]},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", digest.trim())]},
    });
    let manifest = serde_json::json!([{"Config": "config.json", "RepoTags": [IMAGE], "Layers": ["layer.tar"]}]);
    machine.write("image/config.json", &config.to_string());
    machine.write("image/manifest.json", &manifest.to_string());
    machine
        .run(&format!("cd {} && tar cf ../image.tar manifest.json config.json layer.tar", folder.display()))
        .succeeds();
}

/// `ctr run` of a container with this name.
fn run(name: &str, command: &str) -> String {
    format!("ctr run --rm --cni --snapshotter native --runc-binary runc {IMAGE} {name} /bin/busybox {command}")
}

#[test]
fn a_container_is_on_every_network_and_leaves_nothing() {
    let Some(machine) = machine() else { return };
    // The container exists before its network.
    let wait = "sh -c 'until /bin/busybox ip link show net2 >/dev/null 2>&1; do :; done; /bin/busybox ip -o addr'";
    let ran = machine.run(&run("web", wait)).succeeds();
    ran.prints(" eth0    inet 10.10.1.3/24 ")
        .prints(" net1    inet 10.10.2.3/24 ")
        .prints(" net2    inet 10.10.3.3/24 ");
    machine.is_as_noted();
}

#[test]
fn a_killed_task_leaves_nothing() {
    let Some(machine) = machine() else { return };
    machine.run(&format!("{} </dev/null >/run/web.log 2>&1 &", run("web", "sleep 1000"))).succeeds();
    // The container's namespace is gone when DEL is called, and `ctr` passes none.
    machine.until(r#"braid list -o json | jq -e '.[].state == "attached"'"#);
    machine.run("braid list").succeeds().prints("default-web").prints("10.10.3.3/24");
    machine.run("ctr tasks kill -s SIGKILL web").succeeds();
    machine.until("[[ -z $(ctr containers list -q) ]]");
    machine.is_as_noted();
}

#[test]
fn a_delegate_that_fails_keeps_the_container_from_starting_and_leaves_nothing() {
    let Some(machine) = machine() else { return };
    let machine = machine.conf("00-braid.conflist", failing("bad"));
    let ran = machine.run(&run("web", "echo started")).fails();
    ran.says("delegate \"full\" on net2").says("no IP addresses available").prints_nothing();
    // `ctr` does not remove the task and the container.
    machine.run("ctr tasks delete -f web; ctr containers delete web").succeeds();
    machine.is_as_noted();
}

#[test]
fn containerd_killed_with_a_container_running_can_still_detach_it() {
    let Some(machine) = machine() else { return };
    machine.run(&format!("{} </dev/null >/run/web.log 2>&1 &", run("web", "sleep 1000"))).succeeds();
    // The network is made first, and the container runs in it later.
    machine.until("ctr tasks list | grep -q 'web .*RUNNING'");
    machine.run("pkill -KILL -x containerd; pkill -KILL -x ctr").succeeds();
    let conf = machine.dir().join("containerd.toml");
    machine.run(&format!("containerd --config {} </dev/null >/run/containerd.log 2>&1 &", conf.display())).succeeds();
    machine.until("ctr tasks list -q | grep -qx web");
    machine.run("ctr tasks kill -s SIGKILL web; ctr tasks delete -f web; ctr containers delete web").succeeds();
    // DEL was not called. The runtime, which has lost its container, passes what is still valid to GC.
    machine.run("braid list").succeeds().prints("default-web");
    machine.run("braid gc braid").succeeds();
    machine.run("braid list").succeeds().says("nothing is attached");
}
