//! podman 4 with its CNI back end.

use serde_json::json;

use super::networks::{failing, ipam, outer, three_networks};
use crate::support::{Json as _, Machine, Ran, bridge, is_real_root};

/// A machine with podman set up. `None` if podman cannot work here.
pub(super) fn machine() -> Option<Machine> {
    if !is_real_root() {
        eprintln!("podman needs real root: skipped");
        return None;
    }
    let machine = Machine::new();
    machine.container_root();
    // On some machines the limits cannot be raised, and on some the cgroups are hybrid, with which crun fails.
    let conf = "[engine]\ncgroup_manager = \"cgroupfs\"\nruntime = \"runc\"\nevents_logger = \"none\"\n\
         [containers]\ndefault_ulimits = [\"nofile=1024:1024\", \"nproc=1024:1024\"]\n\
         [network]\nnetwork_backend = \"cni\"\ncni_plugin_dirs = [\"/opt/cni/bin\"]\n";
    machine.write("containers.conf", conf);
    machine.run("podman info -f '{{.Host.NetworkBackend}}'").succeeds().prints("cni\n");
    Some(machine)
}

/// `podman run` with these options, in front of the command.
fn run(machine: &Machine, options: &str) -> String {
    let root = machine.dir().join("root");
    format!("podman run --cgroup-parent {} {options} --rootfs {} /bin/busybox", machine.cgroup(), root.display())
}

/// A first container makes what the networks keep when a container is removed.
fn note_after_a_first_container(machine: &Machine, network: &str) {
    machine.run(&format!("{} true", run(machine, &format!("--rm --network {network}")))).succeeds();
    // The container's monitor may exit a moment later.
    machine.until("! pgrep -x conmon");
    machine.note();
}

#[test]
fn a_container_is_on_every_network_and_leaves_nothing() {
    let Some(machine) = machine() else { return };
    let machine = machine.conf("braid.conflist", three_networks("braid"));
    note_after_a_first_container(&machine, "braid");
    let ran = machine.run(&format!("{} ip -o addr", run(&machine, "--rm --network braid"))).succeeds();
    ran.prints(" eth0    inet 10.10.1.3/24 ")
        .prints(" net1    inet 10.10.2.3/24 ")
        .prints(" net2    inet 10.10.3.3/24 ");
    machine.is_as_noted();
}

#[test]
fn a_port_of_the_host_leads_to_the_container_as_long_as_it_lives() {
    let Some(machine) = machine() else { return };
    let machine = machine.conf("braid.conflist", three_networks("braid"));
    note_after_a_first_container(&machine, "braid");
    machine.write("root/tmp/index.html", "hello from web\n");
    let httpd = format!("{} httpd -f -p 80 -h /tmp", run(&machine, "-d --name web --network braid -p 8080:80"));
    machine.run(&httpd).succeeds();
    let get = r#"timeout 5 bash -c 'exec 3<>/dev/tcp/192.0.2.1/8080; printf "GET / HTTP/1.0\r\n\r\n" >&3; cat <&3'"#;
    machine.until("podman exec web /bin/busybox netstat -ltn | grep -q :80");
    machine.run_at_neighbour(get).succeeds().prints("hello from web\n");
    machine.run("braid list").succeeds().prints("10.10.1.3/24").prints("bridge > portmap").prints("attached");
    machine.run("podman rm -f -t 0 web").succeeds();
    machine.run_at_neighbour(get).fails();
    machine.is_as_noted();
}

#[test]
fn a_delegate_that_fails_keeps_the_container_from_starting_and_leaves_nothing() {
    let Some(machine) = machine() else { return };
    let machine = machine.conf("good.conflist", three_networks("braid"));
    note_after_a_first_container(&machine, "braid");
    let machine = machine.conf("bad.conflist", failing("bad"));
    let ran = machine.run(&format!("{} touch /tmp/started", run(&machine, "--rm --network bad -p 8080:80"))).fails();
    ran.says("delegate \"full\" on net2").says("no IP addresses available");
    assert!(!machine.dir().join("root/tmp/started").exists());
    machine.is_as_noted();
}

#[test]
fn a_container_on_two_networks_of_braids() {
    let Some(machine) = machine() else { return };
    let conf = |name: &str, digit: u8, extra: &str| {
        let first = bridge(&format!("br-{name}"), &format!("10.10.{digit}.0/24")).key("ipam", ipam(digit));
        let second = bridge(&format!("br-{extra}"), &format!("10.20.{digit}.0/24")).value();
        let selection = json!({"name": extra, "interface": extra, "config": second});
        let selection = selection.to_string().replace("@DIR@/ipam", "/var/lib/cni/networks");
        let delegates = format!("[{},{selection}]", first.into_json());
        outer(name, &delegates)
    };
    let machine = machine.conf("a.conflist", &*conf("a", 1, "store")).conf("b.conflist", &*conf("b", 2, "backup"));
    note_after_a_first_container(&machine, "a,b");
    // podman numbers interfaces in the order of a map, so either network of "a,b" can get eth0.
    let networks = "--rm --network a:interface_name=eth0 --network b:interface_name=eth1";
    let ran = machine.run(&format!("{} ip -o addr", run(&machine, networks))).succeeds();
    ran.prints(" eth0    inet 10.10.1.3/24 ")
        .prints(" store    inet 10.20.1.3/24 ")
        .prints(" eth1    inet 10.10.2.3/24 ")
        .prints(" backup    inet 10.20.2.3/24 ");
    machine.is_as_noted();

    // Networks are connected and disconnected while the container runs.
    machine.run(&format!("{} sleep 1000", run(&machine, "-d --name long --network a"))).succeeds();
    machine.run("podman network connect b long").succeeds();
    machine
        .run("podman exec long /bin/busybox ip -o addr")
        .succeeds()
        .prints(" eth1    inet 10.10.2.4/24 ")
        .prints(" backup ");
    machine.run("podman network disconnect a long").succeeds();
    let ran = machine.run("podman exec long /bin/busybox ip -o addr").succeeds().prints(" eth1 ");
    ran.require(!ran.stdout.contains("eth0") && !ran.stdout.contains("store"), "the first network was to be gone");
    machine.run("podman rm -f -t 0 long").succeeds();
    machine.is_as_noted();
}

/// A network of Braid's with one attachment.
fn other() -> String {
    let first = bridge("br-other", "").without("ipMasq").key("ipam", ipam(9));
    outer("other", &format!("[{}]", first.into_json()))
}

/// A network without an interface name takes the next free one, next to another network of the container.
#[test]
fn two_networks_of_the_same_configuration_share_a_container() {
    let Some(machine) = machine() else { return };
    let two = |name: &str, digits: [u8; 2]| {
        let [first, second] =
            digits.map(|digit| bridge(&format!("br-{digit}"), "").without("ipMasq").key("ipam", ipam(digit)));
        outer(name, &format!("[{},{}]", first.key("name", name).into_json(), second.into_json()))
    };
    let machine = machine.conf("a.conflist", &*two("a", [11, 12])).conf("b.conflist", &*two("b", [13, 14]));
    note_after_a_first_container(&machine, "a,b");
    let addresses = |ran: &Ran, is_whole: &[&str]| {
        for subnet in is_whole {
            ran.require(ran.stdout.contains(&format!("inet {subnet}.")), &format!("{subnet} was to be there"));
        }
        ran.require(ran.stdout.matches("inet 10.10.").count() == is_whole.len(), "no more was to be there");
    };
    let all = ["10.10.11", "10.10.12", "10.10.13", "10.10.14"];
    let ran = machine.run(&format!("{} ip -4 -o addr", run(&machine, "--rm --network a,b"))).succeeds();
    addresses(&ran, &all);
    ran.prints(" net1 ").prints(" net2 ");
    machine.is_as_noted();

    machine.run(&format!("{} sleep 1000", run(&machine, "-d --name long --network a"))).succeeds();
    let inside = || machine.run("podman exec long /bin/busybox ip -4 -o addr").succeeds();
    machine.run("podman network connect b long").succeeds();
    addresses(&inside(), &all);
    machine.run("podman network disconnect a long").succeeds();
    addresses(&inside(), &all[2..]);
    machine.run("podman network connect a long").succeeds();
    addresses(&inside(), &all);
    machine.run("podman rm -f -t 0 long").succeeds();
    machine.is_as_noted();
}

#[test]
fn the_configuration_to_copy_works() {
    let Some(machine) = machine() else { return };
    let conf = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("conf/podman.conflist");
    machine.run(&format!("cp {} /etc/cni/net.d", conf.display())).succeeds();
    note_after_a_first_container(&machine, "braid");
    let options = "--rm --network braid --ip 10.106.0.77 --mac-address 02:00:5e:00:53:01 -p 8080:80";
    let ran = machine.run(&format!("{} ip addr", run(&machine, options))).succeeds();
    ran.prints("inet 10.106.0.77/24").prints("link/ether 02:00:5e:00:53:01").prints("inet 10.106.1.3/24");
    machine.is_as_noted();
}

/// Operations on a running container. `podman network reload` uses the interface that it finds first in the result, in no fixed
/// order, so the answer must contain only that of the primary network.
#[test]
fn the_configuration_to_copy_supports_reload_disconnect_connect_and_restart() {
    let Some(machine) = machine() else { return };
    let conf = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("conf/podman.conflist");
    let machine = machine.conf("other.conflist", &*other());
    machine.run(&format!("cp {} /etc/cni/net.d", conf.display())).succeeds();
    note_after_a_first_container(&machine, "braid --network other:interface_name=eth9");
    machine.run(&format!("{} sleep 1000", run(&machine, "-d --name long --network braid -p 8080:80"))).succeeds();
    let is_whole = |what: &str| {
        let ran = machine.run("podman exec long /bin/busybox ip -4 -o addr").succeeds();
        ran.require(ran.stdout.contains(" eth0    inet 10.106.0."), what);
        ran.require(ran.stdout.contains(" net1    inet 10.106.1."), what);
        let inspect = "podman inspect -f '{{range .NetworkSettings.Networks}}{{.IPAddress}} {{end}}' long";
        machine.run(inspect).succeeds().prints("10.106.0.");
        let results = machine.run("cat /var/lib/cni/results/braid-*-eth0").succeeds().json();
        let interfaces = results["result"]["interfaces"].as_array().expect("a list").iter();
        let inside: Vec<_> = interfaces.filter(|one| one["sandbox"].is_string()).map(|one| &one["name"]).collect();
        assert_eq!(inside, ["eth0"], "{what}");
    };
    is_whole("started");
    for _ in 0..6 {
        machine.run("podman network reload long").succeeds();
        is_whole("reloaded");
    }
    machine.run("podman network connect other long").succeeds();
    machine.run("podman exec long /bin/busybox ip -4 -o addr").succeeds().prints(" eth1    inet 10.10.9.");
    machine.run("podman network reload long").succeeds();
    is_whole("reloaded on two networks");
    machine.run("podman network disconnect other long").succeeds();
    is_whole("disconnected from the other network");
    machine.run("podman network connect other long").succeeds();
    machine.run("podman network disconnect braid long").succeeds();
    let ran = machine.run("podman exec long /bin/busybox ip -o addr").succeeds().prints(" eth1 ");
    ran.require(!ran.stdout.contains("eth0") && !ran.stdout.contains("net1"), "both networks of braid were to be gone");
    machine.run("podman network connect braid long").succeeds();
    machine.run("podman network disconnect other long").succeeds();
    machine.run("podman restart -t 0 long").succeeds();
    machine.run("podman rm -f -t 0 long").succeeds();
    machine.is_as_noted();
}

#[test]
fn a_script_joins_a_container_to_networks_whatever_back_end_podman_has() {
    let Some(machine) = machine() else { return };
    let machine = machine.conf("braid.conflist", three_networks("braid"));
    machine
        .run(&format!("for tool in sleep ip; do ln -s busybox {}/root/bin/$tool; done", machine.dir().display()))
        .succeeds();
    note_after_a_first_container(&machine, "braid");
    let script = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/podman-run.sh");
    let (cgroup, root) = (machine.cgroup(), machine.dir().join("root"));
    let line = format!("{} braid --cgroup-parent={cgroup} --rootfs {} ip -o addr", script.display(), root.display());
    machine.run(&line).succeeds().prints(" eth0    inet 10.10.1.3/24 ").prints(" net2    inet 10.10.3.3/24 ");
    machine.is_as_noted();
}

#[test]
fn a_killed_container_leaves_nothing() {
    let Some(machine) = machine() else { return };
    let machine = machine.conf("braid.conflist", three_networks("braid"));
    note_after_a_first_container(&machine, "braid");
    machine.run(&format!("{} sleep 1000", run(&machine, "-d --name web --network braid -p 8080:80"))).succeeds();
    // The container is killed without podman. Its monitor notices that, and cleans up.
    machine.run("kill -KILL $(podman inspect -f '{{.State.Pid}}' web)").succeeds();
    machine.until("[[ $(podman inspect -f '{{.State.Status}}' web) == exited ]]");
    machine.is_as_noted();
    machine.run("podman rm web").succeeds();
}

/// The container is killed together with its monitor, which would clean up. DEL is not called.
#[test]
fn what_podman_leaves_when_it_is_killed_is_mended_by_doctor() {
    let Some(machine) = machine() else { return };
    let machine = machine.conf("braid.conflist", three_networks("braid"));
    note_after_a_first_container(&machine, "braid");
    machine.run(&format!("{} sleep 1000", run(&machine, "-d --name web --network braid -p 8080:80"))).succeeds();
    machine
        .run("pids=$(podman inspect -f '{{.State.Pid}} {{.State.ConmonPid}}' web); kill -KILL ${pids#* } ${pids% *}")
        .succeeds();
    machine.until("! pgrep -x conmon");
    // The namespace is still mounted, so podman may use it again.
    machine.run("braid doctor --fix").exits(0).prints_nothing();
    machine.run("umount /run/netns/netns-*; rm /run/netns/netns-*").succeeds();
    machine.run("braid doctor").exits(1).prints("container-gone").prints("result-stale");
    machine.run("braid doctor --fix").exits(0);
    machine.is_as_noted();
    machine.run("podman rm -f -t 0 web").succeeds();
}

#[test]
fn what_a_killed_run_has_made_is_removed() {
    let Some(mut machine) = machine() else { return };
    machine.run(&format!("{} sleep 1000", run(&machine, "-d --network none"))).succeeds();
    let own = machine.cgroup().trim_start_matches('/').to_owned();
    assert!(!Machine::cgroups(|name| name == own).is_empty(), "a container has a cgroup");
    machine.end();
    // The next run does this for namespaces whose process is dead.
    Machine::remove_cgroups(|name| name == own);
    assert_eq!(Machine::cgroups(|name| name == own), Vec::<std::path::PathBuf>::new());
}
