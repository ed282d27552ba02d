//! `run`: a command in a fresh namespace joined to networks, which leaves nothing whatever ends it.

use serde_json::{Value, json};

use crate::support::{Json, Machine, Network, bridge, recorder};

/// A bridge with addresses in 10.10.`digit`.0/24, whose first container has come and gone.
fn machine() -> Machine {
    let network = |digit: u8| {
        let ipam = json!({"type": "host-local", "ranges": [[{"subnet": format!("10.10.{digit}.0/24")}]]});
        Network::new(&format!("net-{digit}")).plugin(bridge(&format!("br-{digit}"), "").key("ipam", ipam))
    };
    let machine = Machine::new().conf("1.conflist", network(1)).conf("2.conflist", braid_around(network(2)));
    machine.run("braid run net-1,net-2 -- true").succeeds();
    machine.note();
    machine
}

fn braid_around(network: Network) -> Value {
    let network: Value = serde_json::from_str(&network.into_json()).expect("a network");
    json!({"cniVersion": "1.0.0", "name": "net-2", "plugins": [{"type": "braid", "delegates": [network]}]})
}

#[test]
fn a_command_is_on_every_network() {
    let machine = machine();
    let ran = machine.run("braid run net-1,net-2 -- ip -o -4 addr").succeeds();
    ran.prints("lo    inet 127.0.0.1/8").prints("eth0    inet 10.10.1.3/24").prints("eth1    inet 10.10.2.3/24");
    machine.is_as_noted();
}

#[test]
fn its_exit_status_is_the_commands() {
    let machine = machine();
    machine.run("braid run net-1 -- sh -c 'exit 7'").exits(7);
    machine.run("braid run net-1 -- sh -c 'kill -TERM $$'").exits(128 + 15);
    machine.run("braid run net-1 -- /no/such/command").fails().says("cannot run \"/no/such/command\"");
    machine.is_as_noted();
}

#[test]
fn a_network_that_fails_undoes_the_others() {
    let alpha = recorder("alpha").failing("ADD", 142);
    let machine = machine().conf("3.conflist", Network::new("bad").plugin(alpha));
    machine.run("braid run net-1,net-2,bad -- touch /run/started").exits(1).says("alpha refuses ADD");
    machine.run("[[ ! -e /run/started ]]").succeeds();
    machine.is_as_noted();
    machine.run("braid run net-1,absent -- true").exits(1).says("no network is called \"absent\"");
    machine.is_as_noted();
}

#[test]
fn killed_it_leaves_nothing() {
    let machine = machine();
    for (signal, whom) in [("TERM", "-o"), ("HUP", "-o"), ("KILL", "-o"), ("KILL", "-n")] {
        machine
            .run("braid run net-1,net-2 -- sh -c 'touch /run/started; sleep 1000' </dev/null >/run/out 2>&1 &")
            .succeeds();
        machine.until("[[ -e /run/started ]] && rm /run/started");
        // The oldest process of the name is what the user started, the newest what does the work for it.
        machine.run(&format!("pkill {whom} -{signal} -x braid")).succeeds();
        machine.until("! pgrep -x braid");
        machine.is_as_noted();
    }
}
