//! What could not be read.

use std::error::Error;
use std::io;

use super::{Finding, Kind, Mending, Node};

/// Why something could not be read, and what follows from that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unexamined {
    /// The reason.
    pub why: String,
    /// What mends it.
    pub remedy: &'static str,
    /// Whether it may contain a record of the container that has an address or a rule.
    pub is_record: bool,
}

impl Unexamined {
    /// Something that may contain records of containers.
    pub fn record(error: &(dyn Error + 'static)) -> Self {
        Self { is_record: true, ..Self::other(error) }
    }

    /// Something that contains no such records.
    pub fn other(error: &(dyn Error + 'static)) -> Self {
        let remedy = if is_denied(error) {
            "run it as root, with all capabilities, on the node itself"
        } else {
            "see what is there, correct it, and run this again"
        };
        Self { why: error.to_string(), remedy, is_record: false }
    }

    /// A configuration.
    pub fn configuration(error: &(dyn Error + 'static)) -> Self {
        let other = Self::other(error);
        if is_denied(error) {
            other
        } else {
            Self { remedy: "correct or remove it: runtimes cannot use it either", ..other }
        }
    }
}

fn is_denied(error: &(dyn Error + 'static)) -> bool {
    let own = error.downcast_ref::<io::Error>().map(io::Error::kind);
    own == Some(io::ErrorKind::PermissionDenied) || error.source().is_some_and(is_denied)
}

/// All findings of this family.
pub(super) fn check(node: &Node) -> Vec<Finding> {
    let findings = node.unexamined.iter().map(|(path, one)| {
        let meaning = format!("it cannot be read: {}", one.why);
        Finding::by_hand(Kind::NotExamined, path.display().to_string(), meaning, one.remedy)
    });
    findings.collect()
}

/// Marks findings as not safe to mend if something that could not be read may account for them.
pub(super) fn refuse_mending(findings: &mut [Finding], node: &Node) {
    let Some((path, _)) = node.unexamined.iter().find(|(_, one)| one.is_record) else { return };
    for finding in findings.iter_mut().filter(|finding| finding.mending == Mending::Safe) {
        finding.mending = Mending::Not(format!("{} may account for it, and cannot be read", path.display()));
    }
}
