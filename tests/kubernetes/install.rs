//! A node that Braid is installed on.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::support::{Machine, Network, braid, bridge, firewall};

/// A node's directories, and a service account.
struct Node(tempfile::TempDir);

impl Node {
    fn new() -> Self {
        let node = Self(tempfile::tempdir().unwrap());
        for directory in ["net.d", "bin", "account"] {
            fs::create_dir(node.path(directory)).unwrap();
        }
        node.write("account/token", "token-1");
        node.write("account/ca.crt", "certificate");
        node.write("bin/alpha", "#!/bin/sh\nexit 0\n");
        fs::set_permissions(node.path("bin/alpha"), PermissionsExt::from_mode(0o755)).unwrap();
        node
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(braid());
        command.args(arguments).env_remove("CNI_COMMAND").env_remove("KUBERNETES_SERVICE_HOST");
        for (option, directory) in [("--conf-dir", "net.d"), ("--bin-dir", "bin"), ("--state-dir", "state")] {
            command.arg(option).arg(self.path(directory));
        }
        command.output().unwrap()
    }

    fn install(&self, more: &[&str]) -> Output {
        self.run(&[&["install", "--once"], more].concat())
    }

    fn conflist(&self) -> Value {
        let text = fs::read_to_string(self.path("net.d/00-braid.conflist")).unwrap();
        serde_json::from_str(&text.replace("1e400", "1")).unwrap()
    }
}

const PRIMARY: &str = r#"{"cniVersion": "1.0.0", "name": "pods", "plugins": [
    {"type": "alpha", "x": 1e400, "capabilities": {"portMappings": true}}]}"#;

#[test]
fn the_primary_network_gets_braid_in_front_of_it() {
    let node = Node::new();
    node.write("net.d/05-multus.conf", r#"{"name": "m", "type": "multus", "delegates": []}"#);
    node.write("net.d/10-pods.conflist", PRIMARY);
    let output = node.install(&["--with", r#"{"namespaceIsolation": true}"#]);
    assert!(output.status.success(), "{output:?}");
    let text = fs::read_to_string(node.path("net.d/00-braid.conflist")).unwrap();
    assert!(text.contains("1e400") && text.contains("\"pods\""), "{text}");
    let list = node.conflist();
    assert_eq!((&list["name"], &list["cniVersion"]), (&json!("braid"), &json!("1.0.0")));
    let plugin = &list["plugins"][0];
    assert_eq!(plugin["type"], "braid");
    assert_eq!(plugin["namespaceIsolation"], true);
    assert_eq!(plugin["capabilities"], json!({"portMappings": true}));
    assert_eq!(fs::read(node.path("bin/braid")).unwrap(), fs::read(braid()).unwrap());
    // A second run wraps neither itself nor anything twice.
    assert!(node.install(&["--with", r#"{"namespaceIsolation": true}"#]).status.success());
    assert_eq!(fs::read_to_string(node.path("net.d/00-braid.conflist")).unwrap(), text);
    assert!(node.run(&["uninstall"]).status.success());
    let left = |directory: &str| fs::read_dir(node.path(directory)).unwrap().count();
    assert_eq!((left("net.d"), left("bin")), (2, 1));
}

#[test]
fn without_a_primary_network_what_was_written_stays() {
    let node = Node::new();
    node.write("net.d/10-pods.conflist", PRIMARY);
    assert!(node.install(&[]).status.success());
    let list = node.conflist();
    fs::remove_file(node.path("net.d/10-pods.conflist")).unwrap();
    let output = node.install(&[]);
    assert!(
        !output.status.success() && String::from_utf8_lossy(&output.stderr).contains("no configuration"),
        "{output:?}"
    );
    assert_eq!(node.conflist(), list);
    node.write("net.d/10-pods.conflist", &PRIMARY.replace("1.0.0", "0.4.0"));
    assert!(node.install(&[]).status.success());
    assert_eq!(node.conflist()["cniVersion"], "0.4.0");
}

#[test]
fn what_keeps_pods_from_braid_is_said() {
    let node = Node::new();
    node.write("net.d/10-pods.conflist", PRIMARY);
    node.write("net.d/00-ahead.conflist", PRIMARY);
    let output = node.install(&[]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("00-ahead.conflist sorts before"), "{output:?}");
    fs::remove_file(node.path("net.d/00-ahead.conflist")).unwrap();
    fs::remove_file(node.path("bin/alpha")).unwrap();
    let output = node.install(&[]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("alpha"), "{output:?}");
    fs::create_dir_all(node.path("state/attachments/c1")).unwrap();
    let output = node.run(&["uninstall"]);
    assert!(!output.status.success() && node.path("bin/braid").exists(), "{output:?}");
    assert!(!node.path("net.d/00-braid.conflist").exists());
    assert!(node.run(&["uninstall", "--force"]).status.success());
    assert!(!node.path("bin/braid").exists());
}

#[test]
fn the_kubeconfig_is_kept_and_follows_the_token() {
    let node = Node::new();
    node.write("net.d/10-pods.conflist", PRIMARY);
    let path = node.path("net.d/braid.d/kubeconfig");
    let mut command = Command::new(braid());
    command.args(["install", "--service-account"]).arg(node.path("account")).env_remove("CNI_COMMAND");
    command.env("KUBERNETES_SERVICE_HOST", "fd00::1").env("KUBERNETES_SERVICE_PORT", "443");
    for (option, directory) in [("--conf-dir", "net.d"), ("--bin-dir", "bin"), ("--state-dir", "state")] {
        command.arg(option).arg(node.path(directory));
    }
    let mut keeper = command.stderr(std::process::Stdio::null()).spawn().unwrap();
    wait_for(&path, "token-1");
    let kubeconfig: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    assert_eq!(kubeconfig["clusters"][0]["cluster"]["server"], "https://[fd00::1]:443");
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    wait_for(&node.path("net.d/00-braid.conflist"), "kubeconfig");
    node.write("account/token", "token-2");
    wait_for(&path, "token-2");
    fs::rename(node.path("net.d/00-braid.conflist"), node.path("net.d/00-braid.conflist.bak")).unwrap();
    wait_for(&node.path("net.d/00-braid.conflist"), "kubeconfig");
    keeper.kill().unwrap();
    keeper.wait().unwrap();
    assert!(node.path("net.d/00-braid.conflist").exists());
}

/// A machine with a primary network, as any runtime may have used it before.
fn machine() -> Machine {
    let ipam = |subnet: &str| json!({"type": "host-local", "ranges": [[{"subnet": subnet}]]});
    let pods = bridge("br-pods", "").without("ipMasq").key("ipam", ipam("10.10.1.0/24"));
    let side = bridge("br-side", "").without("ipMasq").key("ipam", ipam("10.10.2.0/24")).key("name", "side");
    let machine = Machine::new().conf("10-pods.conflist", Network::new("pods").plugin(pods).plugin(firewall()));
    let machine = machine.conf("20-side.conf", side);
    // What the networks themselves keep is there from now on.
    machine.run("ip netns add first; for n in pods side; do braid add $n first; braid del $n first; done").succeeds();
    machine.run("ip netns del first; mkdir -p /var/lib/cni/braid/attachments").succeeds();
    machine.note();
    machine
}

/// Installs Braid, and gives every container a second network.
fn install(machine: &Machine) {
    machine.run(r#"braid install --once --with '{"confDir": "/etc/cni/net.d"}'"#).succeeds();
    let more = "cd /etc/cni/net.d; jq '.plugins[0].delegates += [{\"name\": \"side\"}]' 00-braid.conflist >/run/more";
    machine.run(&format!("{more}; mv /run/more 00-braid.conflist")).succeeds();
}

#[test]
fn containers_from_before_braid_are_detached_by_what_the_runtime_knows_of_them() {
    let machine = machine();
    machine.run("ip netns add web; braid add pods web --container-id web").succeeds();
    install(&machine);
    // The runtime calls whatever comes first now.
    machine.run("braid del braid web --container-id web; ip netns del web").succeeds();
    machine.is_as_noted();
}

#[test]
fn containers_that_end_after_uninstall_are_detached_by_the_next() {
    let machine = machine();
    install(&machine);
    machine.run("ip netns add web; braid add braid web --container-id web").succeeds().prints("10.10.1.3/24");
    machine.run("ip netns add db; braid add braid db --container-id db").succeeds();
    machine.run("cp /opt/cni/bin/braid /run/braid").succeeds();
    machine.run("braid uninstall").exits(1).says("2 containers");
    // As containerd does: with the configuration that comes first now, which Braid is not in.
    machine.run("braid del pods web --container-id web; ip netns del web").succeeds();
    machine.run("braid uninstall").exits(1).says("detached web").says("1 container");
    machine.run("nsenter --net=/run/netns/db ip addr").succeeds().prints("10.10.1.4/24").prints("10.10.2.4/24");
    machine.run("ip netns del db; /run/braid uninstall").succeeds().says("detached db");
    machine.run("ls /opt/cni/bin/braid").fails();
    machine.is_as_noted();
}

/// Waits until a file holds a text.
fn wait_for(path: &Path, text: &str) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while !fs::read_to_string(path).is_ok_and(|content| content.contains(text)) {
        assert!(std::time::Instant::now() < deadline, "{} does not hold {text}", path.display());
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}
