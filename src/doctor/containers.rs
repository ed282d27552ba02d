//! Checks of Braid's own records: journals of containers that are gone, debts, and files that cannot be used.

use super::attached::{ContainerState, DebtRecord, JournalRecord, UnusableRecord};
use super::{Finding, Kind, Mending, Node, PathTarget};
use crate::netns::Sameness;

/// All findings of this family.
pub(super) fn check(node: &Node) -> Vec<Finding> {
    let attached = &node.attached;
    let journals = attached.journals.iter().filter_map(|journal| check_journal(node, journal));
    let debts = attached.debts.iter().map(check_debt);
    journals.chain(debts).chain(attached.unusable.iter().map(check_unusable)).collect()
}

/// The containers that count as alive although no process is in their namespace, as `CONTAINER/INTERFACE`. Such a container has not
/// started yet, or was killed together with its runtime. Empty if not all processes are visible.
pub fn without_process(node: &Node) -> Vec<String> {
    let is_empty = |journal: &&JournalRecord| {
        let PathTarget::Namespace(now) = journal.target else { return false };
        let mut namespaces = node.running.namespaces.iter();
        let own = namespaces.find(|namespace| namespace.identity.compare(&now) == Sameness::Same);
        own.is_some_and(|own| !own.has_process) && journal.container_state(&node.running) == ContainerState::Alive
    };
    let journals = node.attached.journals.iter().filter(|_| node.running.sees_all).filter(is_empty);
    journals.map(JournalRecord::id).collect()
}

fn check_journal(node: &Node, journal: &JournalRecord) -> Option<Finding> {
    let plan = &journal.state.header.plan;
    let owed = journal.state.steps.iter().flatten().find_map(|step| step.owed.as_ref());
    if journal.container_state(&node.running) == ContainerState::Gone {
        let network = &plan.network;
        let meaning = match owed {
            None => format!(
                "the container is gone, and DEL was not called: its attachment to network {network:?} is not undone"
            ),
            Some(owed) => format!("the container is gone, and its DEL of network {network:?} has failed: {}", owed.msg),
        };
        return Some(Finding::safe(Kind::ContainerGone, journal.id(), meaning, "undo its attachments, as GC does"));
    }
    let owed = owed?;
    let is_attached = journal.state.complete.is_some() && !journal.state.is_being_undone();
    let (meaning, next) = if is_attached {
        ("what a change of the running container left cannot be undone", "`braid detach` and the agent try it again")
    } else {
        ("its DEL has failed, and its namespace is still there", "the runtime repeats its DEL")
    };
    let meaning = format!("{meaning}: {}", owed.msg);
    let remedy = format!("remove the cause; {next}. `braid show CONTAINER` lists what is owed");
    let reason = "the container may live".to_owned();
    let finding = Finding::by_hand(Kind::CleanupOwed, journal.id(), meaning, remedy);
    Some(Finding { mending: Mending::Not(reason), ..finding })
}

fn check_debt(debt: &DebtRecord) -> Finding {
    let owed = debt.state.steps.iter().flatten().find_map(|step| step.owed.as_ref());
    let why = owed.map(|error| format!(": {}", error.msg)).unwrap_or_default();
    let meaning = format!("DEL has given up on network {:?}{why}", debt.state.header.plan.network);
    let remedy = format!("remove the cause, then --fix tries again; or --forget {}", debt.id);
    Finding::safe(Kind::Debt, debt.id.to_string(), meaning, remedy)
}

fn check_unusable(one: &UnusableRecord) -> Finding {
    let path = one.path.display();
    let (subject, remedy) = match &one.debt {
        Some(id) => {
            (id.to_string(), format!("clean up by hand what container {} had, then --forget {id}", one.container_id))
        }
        None => (path.to_string(), "the container's next DEL, or GC, sets it aside".to_owned()),
    };
    let meaning = format!("a journal cannot be used ({}): {path}", one.reason);
    Finding::by_hand(Kind::JournalUnusable, subject, meaning, remedy)
}
