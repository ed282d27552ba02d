//! The unit of systemd for a node that does not run the agent in a pod.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::support::braid;

/// systemd does not start a service if a directory in `ReadWritePaths=` is missing, unless it is optional or made before.
#[test]
fn the_unit_of_the_agent_makes_the_directories_that_it_writes_to() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("conf/systemd/braid-agent.service");
    let text = fs::read_to_string(file).expect("the unit");
    let values = |key: &str| -> Vec<String> {
        let values = text.lines().filter_map(|line| line.strip_prefix(key)).flat_map(str::split_whitespace);
        values.map(str::to_owned).collect()
    };
    let (made, written) = (values("ExecStartPre=+mkdir -p "), values("ReadWritePaths="));
    assert!(!written.is_empty());
    assert_eq!(made, written);
}

/// systemd would otherwise kill the changes that the agent does not wait for.
#[test]
fn the_unit_of_the_agent_leaves_changes_in_progress_alone() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("conf/systemd/braid-agent.service");
    let text = fs::read_to_string(file).expect("the unit");
    assert!(text.lines().any(|line| line == "KillMode=process"), "{text}");
}

/// The agent's children leave the mount namespace of the unit, but inherit its other restrictions, which plugins must not have.
/// So the unit lacks some settings that `systemd-analyze` expects.
#[test]
fn the_unit_of_the_agent_is_sandboxed_as_far_as_it_goes() {
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        return eprintln!("there is no systemd-analyze");
    }
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("conf/systemd/braid-agent.service");
    let text =
        fs::read_to_string(file).expect("the unit").replace("/opt/cni/bin/braid", braid().to_str().expect("UTF-8"));
    // The manual is not installed here.
    let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with("Documentation=")).collect();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let unit = folder.path().join("braid-agent.service");
    fs::write(&unit, lines.join("\n")).expect("write the unit");
    let analyze = |words: &[&str]| {
        let output = Command::new("systemd-analyze").args(words).arg(&unit).output().expect("it runs");
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{words:?}: {said}");
        said
    };
    assert_eq!(analyze(&["verify"]), "");
    // The threshold is in tenths.
    analyze(&["security", "--offline=true", "--threshold=45"]);
}
