//! Runs all checks, once or twice.

use std::thread;
use std::time::Duration;

use super::{
    Finding, Node, Places, addresses, claims, configurations, containers, interfaces, requirements, results, rules,
    tokens, unexamined,
};
use crate::netns::NetnsError;

/// The pause between the two examinations. By then, an ADD or DEL that was under way has ended or changed more.
const PAUSE: Duration = Duration::from_secs(1);

/// A node, and what is wrong with it.
#[derive(Debug, Clone)]
pub struct Examined {
    /// The node.
    pub node: Node,
    /// What is wrong, in the order of the kinds.
    pub findings: Vec<Finding>,
}

/// Runs all checks. `min_age` is the age that an address must have before it is released.
pub fn examine(node: &Node, min_age: Duration) -> Vec<Finding> {
    let mut findings = containers::check(node);
    findings.extend(results::check(node));
    let mut unaccounted = addresses::check(node, min_age);
    unaccounted.extend(rules::check(node));
    unexamined::refuse_mending(&mut unaccounted, node);
    findings.extend(unaccounted);
    findings.extend(interfaces::check(node));
    findings.extend(claims::check(node));
    findings.extend(configurations::check(node));
    findings.extend(requirements::check(node));
    findings.extend(tokens::check(node));
    findings.extend(unexamined::check(node));
    findings.sort_by(|a, b| (a.kind, &a.subject).cmp(&(b.kind, &b.subject)));
    findings
}

/// Examines the node. If a call that is under way can be the cause of a finding, examines it again, and keeps only what is found
/// twice.
///
/// # Errors
/// As [`Node::read`].
pub fn examine_twice(places: &Places, min_age: Duration) -> Result<Examined, NetnsError> {
    let node = Node::read(places)?;
    let first = examine(&node, min_age);
    if !first.iter().any(|finding| finding.kind.can_be_transient()) {
        return Ok(Examined { node, findings: first });
    }
    thread::sleep(PAUSE);
    let node = Node::read(places)?;
    let mut findings = examine(&node, min_age);
    findings.retain(|finding| !finding.kind.can_be_transient() || first.iter().any(|seen| seen.is_same(finding)));
    Ok(Examined { node, findings })
}
