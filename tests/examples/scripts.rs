//! The scripts in `examples/`.

use std::path::{Path, PathBuf};

use rstest::rstest;

use crate::support::Machine;

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(name)
}

#[rstest]
#[case::one_network("1")]
#[case::three_networks("")]
fn the_quick_start_leaves_the_host_as_it_was(#[case] networks: &str) {
    let machine = Machine::new();
    machine.note();
    let script = example("quickstart.sh");
    let ran = machine.run(&format!("BRAID=/opt/cni/bin/braid {} {networks}", script.display())).succeeds();
    ran.prints("Traffic over each network").prints("the host is as before");
    machine.is_as_noted();
}

#[test]
fn the_quick_start_says_how_it_is_used() {
    let script = example("quickstart.sh");
    Machine::new()
        .run(&format!("BRAID=/opt/cni/bin/braid {} 4", script.display()))
        .exits(2)
        .prints("NETWORKS is 1, 2 or 3");
}
