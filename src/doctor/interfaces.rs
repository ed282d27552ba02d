//! Checks of the interfaces that CNI plugins make on the host.

use std::collections::HashSet;

use super::{Finding, Kind, Mending, Node};
use crate::netns::Device;

/// The names that plugins give to the host's ends of veth pairs: a prefix, and the number of hexadecimal digits after it.
const VETHS: [(&str, usize); 5] = [("veth", 8), ("cali", 11), ("eni", 11), ("azv", 7), ("vpc", 11)];
/// The names of the ifb devices that the plugin `bandwidth` makes, in the same form.
const IFBS: [(&str, usize); 1] = [("bwp", 12)];

/// All findings of this family.
pub(super) fn check(node: &Node) -> Vec<Finding> {
    let recorded = recorded(node);
    let made = node.links.iter().filter(|device| !recorded.contains(&device.link.name));
    made.filter_map(|device| match device.kind.as_str() {
        "veth" if is_named(device, &VETHS) => check_veth(node, device),
        "ifb" if is_named(device, &IFBS) => check_ifb(node, device),
        _ => None,
    })
    .collect()
}

/// The names of interfaces on the host that are in a journal or a cached result.
fn recorded(node: &Node) -> HashSet<String> {
    let states = node.attached.states().flat_map(|state| {
        let attachments = state.header.plan.attachments.iter().enumerate();
        attachments.filter_map(move |(index, attachment)| {
            let raw = state.result(index)?;
            crate::cni::AddResult::parse(raw.get().as_bytes(), attachment.network.version).ok()
        })
    });
    let results = states.chain(node.results.iter().map(super::records::ResultRecord::result));
    results.flat_map(|result| result.interfaces).map(|interface| interface.name).collect()
}

fn is_named(device: &Device, patterns: &[(&str, usize)]) -> bool {
    patterns.iter().any(|(prefix, digits)| {
        let rest = device.link.name.strip_prefix(prefix);
        rest.is_some_and(|rest| {
            rest.len() == *digits && rest.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        })
    })
}

fn check_veth(node: &Node, device: &Device) -> Option<Finding> {
    let name = &device.link.name;
    let Some(number) = device.other_netns else {
        let peer = node.links.iter().find(|other| Some(other.link.index) == device.other_end)?;
        let is_used = |end: &Device| end.master.is_some() || node.addressed.contains(&end.link.index);
        if is_used(device) || is_used(peer) {
            return None;
        }
        // If both ends of a pair have such names, this is one finding.
        if is_named(peer, &VETHS) && peer.link.index < device.link.index {
            return None;
        }
        let meaning = format!("its other end, {}, is on the host too: no container has it", peer.link.name);
        return Some(Finding::safe(Kind::InterfaceOrphaned, name, meaning, "remove it"));
    };
    let is_known = node.running.namespaces.iter().any(|namespace| namespace.number == Some(number));
    // A namespace that is not visible here may be a container's.
    if is_known || !node.running.sees_all || !node.running.is_known() {
        return None;
    }
    let meaning = "its other end is in a network namespace that no process, mount or open file holds";
    let remedy = format!("make sure that nothing uses it, then `ip link delete {name}`");
    let finding = Finding::by_hand(Kind::InterfaceOrphaned, name, meaning, remedy);
    Some(Finding { mending: Mending::Not("something unseen may hold its namespace".into()), ..finding })
}

fn check_ifb(node: &Node, device: &Device) -> Option<Finding> {
    if node.redirected_to.contains(&device.link.index) {
        return None;
    }
    let meaning = "the plugin bandwidth has made it for a container, and no interface sends through it any more";
    Some(Finding::safe(Kind::InterfaceOrphaned, &device.link.name, meaning, "remove it"))
}
