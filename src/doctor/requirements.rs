//! Checks that everything that plugins need exists: plugins, programs, and kinds of links.

use super::setup::{Lack, Lacks};
use super::{Finding, Kind, Node};

/// All findings of this family.
pub(super) fn check(node: &Node) -> Vec<Finding> {
    let plugins = each(&node.missing_plugins, |lack, users| {
        let meaning = format!("plugin {:?} is not in {}; {users} has it called", lack.what, lack.searched);
        let remedy = "install it, or set CNI_PATH to where the runtime looks";
        Finding::by_hand(Kind::PluginMissing, &lack.what, meaning, remedy)
    });
    let programs = each(&node.missing_programs, |lack, users| {
        let meaning = format!("plugin {:?} calls {}, which is not on this node; {users}", lack.plugin, lack.what);
        let remedy = format!("install {}, or choose another backend", lack.what);
        Finding::by_hand(Kind::ProgramMissing, format!("{} ({})", lack.what, lack.plugin), meaning, remedy)
    });
    let kinds = each(&node.missing_kinds, |lack, users| {
        let meaning =
            format!("the kernel knows no links of kind {:?}, which {:?} makes; {users}", lack.what, lack.plugin);
        let remedy = format!("load or build the kernel's module for {}, or take the plugin out", lack.what);
        Finding::by_hand(Kind::KernelFeatureMissing, format!("{} ({})", lack.what, lack.plugin), meaning, remedy)
    });
    [plugins, programs, kinds].concat()
}

fn each(lacks: &Lacks, finding: impl Fn(&Lack, &str) -> Finding) -> Vec<Finding> {
    lacks.iter().map(|(lack, users)| finding(lack, &enumerated(users))).collect()
}

/// The first of the users, and how many more there are.
fn enumerated(users: &[String]) -> String {
    match users {
        [one] => one.clone(),
        [first, others @ ..] => format!("{first} (and {} more)", others.len()),
        [] => String::new(),
    }
}
