//! Checks that the node has what plugins require: other plugins, programs, and kinds of links.

use super::setup::{Missing, Requirement};
use super::{Finding, Kind, Node};

/// All findings of this family.
pub(super) fn check(node: &Node) -> Vec<Finding> {
    let plugins = findings_of(&node.missing_plugins, |requirement, users| {
        let meaning = format!("plugin {:?} is not in {}; used by {users}", requirement.name, requirement.searched);
        let remedy = "install it, or set CNI_PATH to where the runtime looks";
        Finding::by_hand(Kind::PluginMissing, &requirement.name, meaning, remedy)
    });
    let programs = findings_of(&node.missing_programs, |requirement, users| {
        let meaning = format!(
            "plugin {:?} calls {}, which is not on this node; used by {users}",
            requirement.plugin, requirement.name
        );
        let remedy = format!("install {}, or choose another backend", requirement.name);
        Finding::by_hand(Kind::ProgramMissing, of_plugin(requirement), meaning, remedy)
    });
    let kinds = findings_of(&node.missing_kinds, |requirement, users| {
        let meaning = format!(
            "the kernel knows no links of kind {:?}, which {:?} makes; used by {users}",
            requirement.name, requirement.plugin
        );
        let remedy = format!("load or build the kernel's module for {}, or take the plugin out", requirement.name);
        Finding::by_hand(Kind::KernelFeatureMissing, of_plugin(requirement), meaning, remedy)
    });
    [plugins, programs, kinds].concat()
}

/// What a plugin lacks, with the plugin's type.
fn of_plugin(requirement: &Requirement) -> String {
    format!("{} ({})", requirement.name, requirement.plugin)
}

fn findings_of(missing: &Missing, finding: impl Fn(&Requirement, &str) -> Finding) -> Vec<Finding> {
    missing.iter().map(|(requirement, users)| finding(requirement, &enumerated(users))).collect()
}

/// The first user, and the number of the others.
fn enumerated(users: &[String]) -> String {
    match users {
        [one] => one.clone(),
        [first, others @ ..] => format!("{first} (and {} more)", others.len()),
        [] => String::new(),
    }
}
