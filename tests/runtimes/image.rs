//! The image of `conf/kubernetes`, built by buildah and run by podman with what the DaemonSet grants.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use super::networks::three_networks;
use super::{containerd, podman};
use crate::support::{Machine, Network, Release, braid, bridge};

/// What the manifest says about the container, as podman's options.
const GRANTS: &str = "--read-only --cap-drop all --cap-add DAC_OVERRIDE --security-opt no-new-privileges \
    -v /etc/cni/net.d:/etc/cni/net.d -v /opt/cni/bin:/opt/cni/bin -v /var/lib/cni/braid:/var/lib/cni/braid";

/// A machine that has the image. `None` without buildah.
fn machine() -> Option<Machine> {
    if Command::new("buildah").arg("--version").output().is_err() {
        eprintln!("there is no buildah: skipped");
        return None;
    }
    let machine = podman::machine()?;
    let context = machine.dir().join("context");
    fs::create_dir(&context).expect("make a folder");
    fs::copy(braid(), context.join("braid")).expect("copy braid");
    let recipe = Path::new(env!("CARGO_MANIFEST_DIR")).join("conf/kubernetes/Containerfile");
    let build = format!("buildah bud --isolation chroot -t braid:test -f {} {}", recipe.display(), context.display());
    machine.run(&build).succeeds();
    Some(machine)
}

/// A release is static. The executable that cargo builds for the tests is not, so the image gets this machine's C library.
fn libraries() -> &'static str {
    let is_dynamic = Command::new("ldd").arg(braid()).output().is_ok_and(|output| output.status.success());
    if is_dynamic { "-v /usr/lib:/usr/lib:ro -v /lib:/lib:ro -v /lib64:/lib64:ro" } else { "" }
}

fn profile(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("conf/kubernetes/profiles").join(name)
}

#[test]
fn braid_is_installed_under_its_seccomp_profile_and_nothing_else_is_done() {
    let Some(machine) = machine() else { return };
    let machine = machine.conf("10-pods.conflist", Network::new("pods").plugin(bridge("br-pods", "10.10.1.0/24")));
    machine.run("mv /opt/cni/bin/braid /run/braid; mkdir -p /var/lib/cni/braid").succeeds();
    let seccomp = format!("--security-opt seccomp={}", profile("install.seccomp.json").display());
    let run = |options: &str, arguments: &str| {
        let cgroup = machine.cgroup();
        let options = format!("{GRANTS} {seccomp} {} {options}", libraries());
        machine
            .run(&format!("podman run --rm --network host --cgroup-parent {cgroup} {options} braid:test {arguments}"))
    };
    run("", "install --dry-run").succeeds().prints("would write /opt/cni/bin/braid");
    // STATUS of the primary network's plugins is called too.
    run("", "install --once").succeeds().says("this node is ready");
    machine.run("cmp /opt/cni/bin/braid /run/braid; braid validate /etc/cni/net.d/00-braid.conflist").succeeds();
    // The profile must forbid these, whatever else the container may do.
    let run = |calls: &str| run("--cap-add SYS_ADMIN -v /bin/busybox:/busybox:ro --entrypoint /busybox", calls);
    run("true").succeeds();
    for (forbidden, said) in [
        ("unshare -n true", "Operation not permitted"),
        ("mount -t tmpfs none /tmp", "permission denied"),
        ("nsenter -n -t 1 true", "Operation not permitted"),
    ] {
        run(forbidden).fails().says(said);
    }
    machine.run("/opt/cni/bin/braid uninstall").succeeds();
}

#[test]
fn the_apparmor_profile_is_one_that_the_parser_takes() {
    let parser = std::env::var("BRAID_TEST_APPARMOR_PARSER").unwrap_or_else(|_| "apparmor_parser".into());
    let names = Command::new(&parser)
        .args(["--skip-kernel-load", "--skip-cache", "--names"])
        .arg(profile("install.apparmor"))
        .output();
    let Ok(names) = names else {
        eprintln!("there is no {parser}: skipped");
        return;
    };
    assert!(names.status.success(), "{names:?}");
    let name = String::from_utf8(names.stdout).expect("UTF-8");
    assert_eq!(name.trim(), "braid-install");
    let patch = fs::read_to_string(profile("daemonset.yaml")).expect("the patch");
    assert!(patch.contains(&format!("localhostProfile: {}\n", name.trim())), "{patch}");
}

#[test]
fn the_image_holds_the_executable_and_installs_it() {
    let Some(machine) = machine() else { return };
    let machine = machine.conf("10-pods.conflist", Network::new("pods").plugin(bridge("br-pods", "10.10.1.0/24")));
    let list = r#"cd "$(buildah mount "$(buildah from --pull-never braid:test)")"; find . -type f"#;
    let ran = machine.run(list).succeeds();
    assert_eq!(ran.stdout, "./braid\n");
    let inspect =
        "buildah inspect --type image --format '{{.OCIv1.Config.Entrypoint}} {{.OCIv1.Config.Cmd}}' braid:test";
    machine.run(inspect).succeeds().prints("[/braid] [install]");

    // This is the executable from the image, not the machine's.
    machine.run("rm /opt/cni/bin/braid; mkdir -p /var/lib/cni/braid").succeeds();
    let run = |arguments: &str| {
        let cgroup = machine.cgroup();
        let options = format!("{GRANTS} {}", libraries());
        machine
            .run(&format!("podman run --rm --network host --cgroup-parent {cgroup} {options} braid:test {arguments}"))
    };
    run("--version").succeeds().prints(concat!("braid ", env!("CARGO_PKG_VERSION")));
    run("install --once").succeeds().says("this node is ready");
    machine.run(&format!("cmp /opt/cni/bin/braid {}/context/braid", machine.dir().display())).succeeds();
    machine.run("braid validate /etc/cni/net.d/00-braid.conflist").succeeds();
    run("uninstall").succeeds();
    machine.run("ls /etc/cni/net.d").succeeds().prints("10-pods.conflist");
    machine.run("ls /etc/cni/net.d/00-braid.conflist /opt/cni/bin/braid").fails();
}

#[test]
fn containerd_loads_the_image_of_a_release_for_both_architectures() {
    if Command::new("buildah").arg("--version").output().is_err() {
        eprintln!("there is no buildah: skipped");
        return;
    }
    let Some(machine) = containerd::start("", "k8s.io", three_networks("braid")) else { return };
    let version = env!("CARGO_PKG_VERSION");
    let release = Release::new().make(&["image"]);
    let archive = release.file(&format!("braid-{version}-image.tar"));
    let name = format!("registry.example/braid:{version}");
    let ctr = |arguments: &str| machine.run(&format!("ctr --namespace k8s.io {arguments}")).succeeds();
    ctr(&format!("images import --all-platforms --no-unpack {}", archive.display()));
    ctr(&format!("images list name=={name}")).prints("linux/amd64,linux/arm64");

    let content = |digest: &Value| ctr(&format!("content get {}", digest.as_str().expect("a digest"))).json();
    let target = ctr(&format!("images list name=={name}")).stdout;
    let target = target.split_whitespace().find(|word| word.starts_with("sha256:")).expect("a digest").into();
    for (manifest, architecture) in
        content(&target)["manifests"].as_array().expect("a list").iter().zip(["amd64", "arm64"])
    {
        assert_eq!(manifest["platform"], json!({"architecture": architecture, "os": "linux"}));
        let manifest = content(&manifest["digest"]);
        let config = content(&manifest["config"]["digest"]);
        assert_eq!(manifest["layers"].as_array().map(Vec::len), Some(1), "{manifest}");
        assert_eq!(config["architecture"], architecture);
        assert_eq!(config["config"]["Entrypoint"], json!(["/braid"]));
        for annotations in [&manifest["annotations"], &config["config"]["Labels"]] {
            assert_eq!(annotations["org.opencontainers.image.version"], version, "{annotations}");
            assert_eq!(annotations["org.opencontainers.image.created"], "2023-11-14T22:13:20Z", "{annotations}");
            assert_eq!(annotations["org.opencontainers.image.licenses"], "Apache-2.0", "{annotations}");
        }
    }
    let again = Release::new().make(&["image"]);
    assert_eq!(
        std::fs::read(again.file(&format!("braid-{version}-image.tar"))).unwrap(),
        std::fs::read(archive).unwrap()
    );
}
