//! `list` and `show`: what is attached, owed, or set aside.

use rstest::rstest;
use serde_json::{Value, json};

use crate::support::{Machine, recorder};

/// A machine with the network `pods`: Braid with two delegates, of which the second can be made to fail.
fn machine() -> Machine {
    let conf = json!({"cniVersion": "1.0.0", "name": "pods", "plugins": [{"type": "braid", "delegates": [
        recorder("alpha").key("name", "front").ip("10.1.0.5/24").value(),
        {"name": "back", "plugins": [{"type": "alpha", "recorder": {"ip": "10.2.0.5/24"}}, {"type": "beta"}]},
    ]}]});
    let machine = Machine::new().conf("pods.conflist", conf);
    machine.run("cp /opt/cni/bin/alpha /opt/cni/bin/beta; ip netns add web; ip netns add db").succeeds();
    machine
}

fn behave(machine: &Machine, instructions: &Value) {
    machine.write("recorder/behaviour/beta.json", &instructions.to_string());
}

#[test]
fn nothing_is_attached() {
    let machine = machine();
    let ran = machine.run("braid list").succeeds().says("nothing is attached according to /var/lib/cni/braid");
    assert_eq!(ran.stdout, "CONTAINER  INTERFACE  NETWORK  ADDRESSES  PLUGINS  SINCE  STATE\n");
    assert_eq!(machine.run("braid list -o json").succeeds().json(), json!([]));
    machine.run("braid show web").exits(1).says("no container whose ID begins with \"web\"");
}

#[test]
fn what_is_attached() {
    let machine = machine();
    machine.run("braid add pods web --container-id web-1; braid add pods db --container-id db-1 -i eth1").succeeds();
    let ran = machine.run("braid list").succeeds();
    let table: Vec<Vec<_>> = ran.stdout.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(table[1][..5], ["db-1", "eth1", "front", "10.1.0.5/24", "alpha"]);
    assert_eq!(table[1].last(), Some(&"attached"));
    assert_eq!(table[2][..6], ["net1", "back", "10.2.0.5/24", "alpha", ">", "beta"]);
    assert_eq!(table[3][..3], ["web-1", "eth0", "front"]);
    let list = machine.run("braid list -o json").succeeds().json();
    let summary = |one: &Value| json!([one["containerID"], one["ifname"], one["network"], one["netns"], one["state"]]);
    assert_eq!(summary(&list[0]), json!(["db-1", "eth1", "pods", "/run/netns/db", "attached"]));
    assert_eq!(summary(&list[1]), json!(["web-1", "eth0", "pods", "/run/netns/web", "attached"]));
    assert_eq!(list[0]["attachments"][1]["plugins"][1]["type"], "beta");
    assert_eq!(list[0]["attachments"][0]["ips"], json!(["10.1.0.5/24"]));
    assert_eq!(list[0]["attachments"][1]["ips"], json!(["10.2.0.5/24"]));

    machine.run("braid show w").succeeds().prints("container  web-1\n").prints("state      attached since");
    let shown = machine.run("braid show web-1 -o json").succeeds().json();
    assert_eq!(shown, json!([list[1]]));

    machine.run("braid del pods web --container-id web-1; braid del pods db --container-id db-1 -i eth1").succeeds();
    machine.run("braid list").succeeds().says("nothing is attached");
}

#[test]
fn a_state_directory_of_its_own() {
    let conf = json!({"cniVersion": "1.0.0", "name": "own", "plugins": [
        {"type": "braid", "stateDir": "/run/own", "delegates": [{"name": "front", "type": "alpha"}]}]});
    let machine = machine().conf("own.conflist", conf);
    machine.run("braid add own web --container-id web-1").succeeds();
    machine.run("braid list").succeeds().says("nothing is attached");
    machine.run("braid list --state-dir /run/own").succeeds().prints("web-1");
    machine.run("braid show web --state-dir /run/own").succeeds().prints("web-1");
}

#[test]
fn what_is_owed() {
    let machine = machine();
    machine.run("braid add pods web --container-id web-1").succeeds();
    behave(&machine, &json!({"fail": {"DEL": {"code": 142, "msg": "the switch does not answer"}}}));
    machine.run("braid del pods web --container-id web-1").exits(1);
    let list = machine.run("braid list -o json").succeeds().json();
    assert_eq!(list[0]["state"], "clean-up owed");
    assert_eq!(list[0]["attachments"][1]["plugins"][1]["state"], "owed");
    assert_eq!(list[0]["attachments"][1]["plugins"][1]["owed"], "the switch does not answer");
    assert_eq!(list[0]["attachments"][1]["plugins"][0]["state"], "undone");
    machine.run("braid list").succeeds().prints("detached").prints("clean-up owed");
    machine.run("braid show web-1").succeeds().prints("the switch does not answer");
    behave(&machine, &json!({}));
    machine.run("braid del pods web --container-id web-1").succeeds();
    machine.run("braid list").succeeds().says("nothing is attached");
}

#[test]
fn what_was_set_aside() {
    let machine = machine();
    machine.run("braid add pods web --container-id web-1").succeeds();
    let journal = "/var/lib/cni/braid/attachments/web-1/eth0.jsonl";
    machine.run(&format!("sed -i '1s/^/rubbish /' {journal}")).succeeds();
    machine.run("braid list").succeeds().prints("web-1").prints("journal unusable").prints("clean up by hand");
    machine.run("braid del pods web --container-id web-1").exits(1);
    machine.run(&format!("[[ ! -e {journal} ]]")).succeeds();
    machine
        .run("braid list")
        .succeeds()
        .prints("web-1")
        .prints("set aside: /var/lib/cni/braid/debts/web-1/eth0.jsonl.corrupt");
    let list = machine.run("braid list -o json").succeeds().json();
    assert_eq!(list[0]["state"], "unusable");
    assert_eq!(list[0]["ifname"], "eth0");
    machine.run("braid show web-1").succeeds().prints("problem    journal unusable");
}

#[test]
fn a_container_cannot_write_to_the_terminal_of_who_lists_it() {
    let machine = machine();
    machine.run("braid add pods web --container-id web-1").succeeds();
    behave(&machine, &json!({"fail": {"DEL": {"code": 142, "msg": "\u{1b}[2J\nred"}}}));
    machine.run("braid del pods web --container-id web-1").exits(1);
    let ran = machine.run("braid show web-1").succeeds().prints("[2J");
    ran.require(!ran.stdout.contains('\u{1b}'), "no control character was to be there");
}

/// Debts are reported for every version of a network. With a version that has no STATUS, no plugin is called.
#[rstest]
#[case::with_status("1.1.0")]
#[case::before_status("1.0.0")]
fn status_says_what_was_set_aside(#[case] version: &str) {
    let conf = json!({"cniVersion": version, "name": "quiet", "plugins": [
        {"type": "braid", "logToStderr": false, "delegates": [{"name": "front", "type": "alpha"}]}]});
    let machine = Machine::new().conf("quiet.conflist", conf);
    machine.run("braid status quiet").succeeds().prints_nothing();
    machine.run("ip netns add web && braid add quiet web --container-id web-1").succeeds();
    machine.run("echo rubbish >/var/lib/cni/braid/attachments/web-1/eth0.jsonl").succeeds();
    machine.run("braid del quiet web --container-id web-1").fails();
    machine.run("braid status quiet").succeeds().says("eth0.jsonl.corrupt").says("by hand");
}
