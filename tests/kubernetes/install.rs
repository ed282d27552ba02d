//! A node on which Braid is installed.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::ScopedJoinHandle;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rstest::rstest;
use serde_json::{Value, json};

use crate::support::{Machine, Network, Node, PRIMARY, bandwidth, braid, bridge, firewall};

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
    // A second run does not wrap anything twice.
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
fn what_keeps_pods_from_braid_is_reported() {
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
    let mut command = node.install_in_cluster(&[]);
    let mut keeper = command.stderr(Stdio::null()).spawn().unwrap();
    wait_for(&path, "token-1");
    let kubeconfig: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    assert_eq!(kubeconfig["clusters"][0]["cluster"]["server"], "https://[::1]:1");
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    wait_for(&node.path("net.d/00-braid.conflist"), "kubeconfig");
    node.write("account/token", "token-2");
    wait_for(&path, "token-2");
    fs::rename(node.path("net.d/00-braid.conflist"), node.path("net.d/00-braid.conflist.bak")).unwrap();
    wait_for(&node.path("net.d/00-braid.conflist"), "kubeconfig");
    let size = node.path("bin/braid").metadata().unwrap().len();
    fs::remove_file(node.path("bin/braid")).unwrap();
    wait_until("the executable is back", || node.path("bin/braid").metadata().is_ok_and(|file| file.len() == size));
    end(&mut keeper);
    assert!(node.path("net.d/00-braid.conflist").exists());
}

#[test]
fn a_first_file_that_is_being_written_keeps_what_was_written() {
    let node = Node::new();
    node.write("net.d/20-next.conflist", &PRIMARY.replace("\"pods\"", "\"next\""));
    for end in [0, 1, PRIMARY.len() / 2, PRIMARY.len() - 1] {
        node.write("net.d/10-pods.conflist", &PRIMARY[..end]);
        let output = node.install(&[]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains("10-pods.conflist") && !said.contains("ready"), "{said}");
        assert!(!node.path("net.d/00-braid.conflist").exists());
    }
    node.write("net.d/10-pods.conflist", PRIMARY);
    assert!(node.install(&[]).status.success());
    let list = node.conflist();
    node.write("net.d/10-pods.conflist", &PRIMARY[..20]);
    let output = node.install(&[]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("10-pods.conflist"), "{output:?}");
    assert_eq!(node.conflist(), list);
}

#[test]
fn keys_that_braid_cannot_use_change_nothing() {
    let node = Node::new();
    node.write("net.d/10-pods.conflist", PRIMARY);
    for (with, part) in
        [(r#"{"policy": 5}"#, "policy"), (r#"{"type": "evil"}"#, "type"), (r#"{"delegates": 1}"#, "delegates")]
    {
        let output = node.install(&["--with", with]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains("--with") && said.contains(part), "{with}: {said}");
    }
    assert_eq!((node.files("net.d").len(), node.files("bin").len()), (1, 1));
}

#[test]
fn a_network_that_cannot_be_a_delegate_keeps_what_was_written() {
    let node = Node::new();
    node.write("net.d/10-pods.conflist", PRIMARY);
    assert!(node.install(&[]).status.success());
    let list = node.conflist();
    node.write("net.d/10-pods.conflist", &PRIMARY.replace("\"alpha\"", "\"../alpha\""));
    let output = node.install(&[]);
    assert!(!output.status.success() && String::from_utf8_lossy(&output.stderr).contains("../alpha"), "{output:?}");
    assert_eq!(node.conflist(), list);
}

#[rstest]
#[case::empty("", "empty")]
#[case::blank(" \n", "empty")]
#[case::malformed("token 2", "malformed")]
#[case::binary("token-2\0", "malformed")]
#[case::cut("eyJhbGciOiJSUzI1NiJ9.eyJ", "malformed")]
#[case::expired("eyJhbGciOiJSUzI1NiJ9.eyJleHAiOjEwMDB9.c2ln", "expired")]
fn a_token_that_cannot_be_used_takes_the_place_of_no_other(#[case] token: &str, #[case] said: &str) {
    let node = Node::new();
    node.write("net.d/10-pods.conflist", PRIMARY);
    node.write("account/token", token);
    let refuses = || {
        let output = node.install_in_cluster(&["--once"]).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && stderr.contains("account/token") && stderr.contains(said), "{stderr}");
    };
    refuses();
    assert_eq!(node.files("net.d"), ["10-pods.conflist"], "without a token pods would lose networks");
    node.write("account/token", "token-1");
    drop(node.install_in_cluster(&["--once"]).output().unwrap());
    node.write("account/token", token);
    refuses();
    assert_eq!(node.token(), "token-1");
}

#[test]
fn modes_and_owners_are_as_they_should_be_again() {
    let node = Node::new();
    node.write("net.d/10-pods.conflist", PRIMARY);
    let install = || drop(node.install_in_cluster(&["--once"]).output().unwrap());
    install();
    let files = [
        ("net.d/braid.d", 0o700),
        ("net.d/braid.d/kubeconfig", 0o600),
        ("net.d/00-braid.conflist", 0o600),
        ("bin/braid", 0o755),
    ];
    for (name, mode) in files {
        assert_eq!(node.mode(name), mode, "{name}");
        fs::set_permissions(node.path(name), PermissionsExt::from_mode(0o777)).unwrap();
    }
    install();
    for (name, mode) in files {
        assert_eq!(node.mode(name), mode, "{name}");
    }
}

#[test]
fn pipes_and_links_in_the_place_of_files_are_replaced() {
    let node = Node::new();
    node.write("net.d/10-pods.conflist", PRIMARY);
    fs::create_dir(node.path("net.d/braid.d")).unwrap();
    let names = ["net.d/braid.d/kubeconfig", "net.d/00-braid.conflist", "bin/braid"];
    let is_installed = || {
        let output = node.install_in_cluster(&["--once"]).output().unwrap();
        assert_ne!(output.status.code(), Some(124), "it hangs");
        names.iter().all(|name| node.path(name).symlink_metadata().unwrap().is_file())
    };
    for name in names {
        nix::unistd::mkfifo(&node.path(name), nix::sys::stat::Mode::S_IRWXU).unwrap();
    }
    assert!(is_installed());
    node.write("elsewhere", "kept");
    for name in names {
        fs::remove_file(node.path(name)).unwrap();
        symlink(node.path("elsewhere"), node.path(name)).unwrap();
    }
    assert!(is_installed());
    assert_eq!(fs::read_to_string(node.path("elsewhere")).unwrap(), "kept");
    for name in ["account/token", "net.d/05-pipe.conflist"] {
        drop(fs::remove_file(node.path(name)));
        nix::unistd::mkfifo(&node.path(name), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let output = node.install_in_cluster(&["--once"]).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains(name), "{output:?}");
        fs::remove_file(node.path(name)).unwrap();
        node.write("account/token", "token-1");
    }
}

#[test]
fn what_killed_installers_left_is_removed_and_what_was_planted_is_not_followed() {
    let node = Node::new();
    node.write("net.d/10-pods.conflist", PRIMARY);
    node.write("elsewhere", "kept");
    // The names of temporary files that an installer with this process ID once used.
    for pid in 1..=3 {
        node.write(&format!("bin/.braid.{pid}.tmp"), "half");
        symlink(node.path("elsewhere"), node.path(&format!("net.d/.00-braid.conflist.{pid}.tmp"))).unwrap();
    }
    assert!(node.install(&[]).status.success());
    assert_eq!(fs::read_to_string(node.path("elsewhere")).unwrap(), "kept");
    assert_eq!(node.files("bin"), ["alpha", "braid"]);
    assert_eq!(node.files("net.d"), ["00-braid.conflist", "10-pods.conflist"]);
}

#[test]
fn no_call_finds_the_executable_busy_while_it_is_replaced() {
    let node = Node::new();
    node.write("net.d/10-pods.conflist", PRIMARY);
    assert!(node.install(&[]).status.success());
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let call = || {
            while !is_over.load(Ordering::Relaxed) {
                let status = Command::new(node.path("bin/braid")).arg("--version").stdout(Stdio::null()).status();
                assert!(status.expect("the executable can be run").success());
            }
        };
        let calls = [scope.spawn(call), scope.spawn(call)];
        for round in 0..10 {
            // Another version, which works. A child process writes it. If this process wrote it, a child that another test
            // starts at the same time could have it open for writing for a moment.
            let script = r#"cp "$1" "$2" && printf %s "$3" >>"$2" && chmod 755 "$2""#;
            let mut copy = Command::new("sh");
            copy.args(["-c", script, "sh"]).args([braid(), node.path("other")]).arg(round.to_string());
            assert!(copy.status().expect("run sh").success());
            fs::rename(node.path("other"), node.path("bin/braid")).unwrap();
            let output = node.install(&[]);
            if !output.status.success() || calls.iter().any(ScopedJoinHandle::is_finished) {
                is_over.store(true, Ordering::Relaxed);
                panic!("{output:?}");
            }
        }
        is_over.store(true, Ordering::Relaxed);
    });
}

#[test]
fn a_log_file_of_the_node_is_not_looked_for_in_the_container() {
    let node = Node::new();
    node.write("net.d/10-pods.conflist", PRIMARY);
    let output = node.install(&["--with", r#"{"logFile": "/no/such/directory/braid.log", "logLevel": "debug"}"#]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !said.contains("braid.log"), "{said}");
    assert_eq!(node.conflist()["plugins"][0]["logFile"], "/no/such/directory/braid.log");
}

#[test]
fn uninstall_says_which_journals_it_cannot_use() {
    let node = Node::new();
    node.write("net.d/10-pods.conflist", PRIMARY);
    assert!(node.install(&[]).status.success());
    for container in ["c1", "c2"] {
        fs::create_dir_all(node.path(&format!("state/attachments/{container}"))).unwrap();
    }
    node.write("state/attachments/c1/eth0.jsonl", "no journal\n");
    node.write("state/attachments/c2/eth0.jsonl.corrupt", "no journal\n");
    fs::create_dir_all(node.path("state/debts/c3")).unwrap();
    node.write("state/debts/c3/eth0.jsonl.corrupt", "no journal\n");
    for arguments in [&["uninstall"][..], &["uninstall", "--drain"]] {
        let output = node.run(arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        for part in
            ["c1/eth0.jsonl", "c2/eth0.jsonl.corrupt", "debts/c3/eth0.jsonl.corrupt", "by hand", "bin/braid stays"]
        {
            assert!(said.contains(part), "{said}");
        }
    }
    assert!(node.path("bin/braid").exists());
}

#[test]
fn uninstall_counts_each_parked_debt() {
    let node = Node::new();
    node.write("net.d/10-pods.conflist", PRIMARY);
    assert!(node.install(&[]).status.success());
    fs::create_dir_all(node.path("state/debts/c1")).unwrap();
    for (debt, said) in [("eth0.jsonl", "; 1 debt is parked"), ("eth0.1.jsonl", "; 2 debts are parked")] {
        node.write(&format!("state/debts/c1/{debt}"), "a journal\n");
        let output = node.run(&["uninstall"]);
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(text.contains(said), "{text}");
    }
}

/// A machine with a primary network, as any runtime may have used it before.
fn machine() -> Machine {
    let ipam = |subnet: &str| json!({"type": "host-local", "ranges": [[{"subnet": subnet}]]});
    let pods = bridge("br-pods", "").without("ipMasq").key("ipam", ipam("10.10.1.0/24"));
    let side = bridge("br-side", "").without("ipMasq").key("ipam", ipam("10.10.2.0/24"));
    let side = Network::new("side").plugin(side).plugin(bandwidth());
    let machine = Machine::new().conf("10-pods.conflist", Network::new("pods").plugin(pods).plugin(firewall()));
    let machine = machine.conf("20-side.conflist", side);
    // What the networks keep exists from now on.
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
    // The runtime calls the plugin that is first now.
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
    // As containerd does, with the configuration that is first now, which does not name Braid.
    machine.run("braid del pods web --container-id web; ip netns del web").succeeds();
    machine.run("braid uninstall").exits(1).says("detached web").says("1 container");
    machine.run("nsenter --net=/run/netns/db ip addr").succeeds().prints("10.10.1.4/24").prints("10.10.2.4/24");
    machine.run("ip netns del db; /run/braid uninstall").succeeds().says("detached db");
    machine.run("ls /opt/cni/bin/braid").fails();
    machine.is_as_noted();
}

#[test]
fn a_drain_ends_when_the_last_container_has_gone() {
    let machine = machine();
    install(&machine);
    for container in ["web", "db"] {
        machine
            .run(&format!("ip netns add {container}; braid add braid {container} --container-id {container}"))
            .succeeds();
    }
    machine.run("cp /opt/cni/bin/braid /run/braid").succeeds();
    machine.run("{ braid uninstall --drain; echo $? >/run/drained; } >/run/drain 2>&1 &").succeeds();
    machine.until("grep '2 containers are still attached' /run/drain");
    machine.run("ls /etc/cni/net.d/00-braid.conflist").fails();
    // Another plugin is first now. The runtime calls that one, which does not know the other networks.
    machine.run("/run/braid del pods web --container-id web; ip netns del web").succeeds();
    machine.until("grep 'detached web' /run/drain; grep '1 container is' /run/drain");
    machine.run("nsenter --net=/run/netns/db ip addr").succeeds().prints("10.10.1.4/24").prints("10.10.2.4/24");
    machine.run("ip netns del db").succeeds();
    machine.until("grep -x 0 /run/drained");
    machine.run("ls /opt/cni/bin/braid").fails();
    machine.is_as_noted();
}

#[test]
fn what_is_left_of_containers_that_nobody_detached_is_listed() {
    let machine = machine();
    install(&machine);
    machine.run("ip netns add web; braid add braid web --container-id web").succeeds();
    machine.run("braid list").succeeds().prints("attached");
    machine.run("mv /etc/cni/net.d/00-braid.conflist /run/; ip netns del web").succeeds();
    machine.run("braid list").succeeds().prints("left behind");
    machine.run("braid uninstall").succeeds().says("detached web");
    machine.is_as_noted();
}

#[test]
fn the_result_that_the_runtime_keeps_of_multus_goes_with_the_pod() {
    let machine = machine();
    install(&machine);
    let keep = |container: &str, network: &str, kind: &str| {
        let config = format!(r#"{{"cniVersion":"0.4.0","name":"{network}","type":"{kind}","delegates":[]}}"#);
        let cached = json!({"kind": "cniCacheV1", "containerId": container, "config": STANDARD.encode(config),
            "ifName": "eth0", "networkName": network, "result": {"cniVersion": "0.4.0", "dns": {}}});
        machine.write(&format!("var-lib/cni/results/{network}-{container}-eth0"), &cached.to_string());
    };
    keep("web", "multus-cni-network", "multus");
    keep("web", "other", "bridge");
    keep("db", "multus-cni-network", "multus");
    keep("cache", "multus-cni-network", "multus-shim");
    machine.write("var-lib/cni/multus/web", "[]");
    machine
        .run("ip netns add web; braid del braid web --container-id web; braid del braid web --container-id cache")
        .succeeds();
    let left = machine.run("ls /var/lib/cni/results").succeeds();
    left.prints("multus-cni-network-db-eth0\nother-web-eth0\n");
    machine.run("ls /var/lib/cni/results/*-{web,cache}-eth0").fails().prints("other-web-eth0");
    machine.run("rm -r /var/lib/cni/results; ls /var/lib/cni/multus/web").fails();
}

/// Stops `timeout`, and with it the program that it runs.
fn end(program: &mut Child) {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(program.id().cast_signed()), nix::sys::signal::SIGTERM).unwrap();
    program.wait().unwrap();
}

fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    crate::support::wait_for(what, || is_so().then_some(()));
}

/// Waits until a file holds a text.
fn wait_for(path: &Path, text: &str) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while !fs::read_to_string(path).is_ok_and(|content| content.contains(text)) {
        assert!(std::time::Instant::now() < deadline, "{} does not hold {text}", path.display());
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}
