//! Finds the container for a change, and checks that it is running and complete.

use std::path::Path;

use super::error::LiveError;
use crate::cni::{AddResult, validate};
use crate::netns::{Netns, NetnsError, Sameness};
use crate::plan::{Attachment, Plan, Position};
use crate::transaction::journal::State;
use crate::transaction::{Container, Journal, Opened, Store, StoreError};

/// A container, as an operator names it.
#[derive(Debug, Clone, Copy)]
pub struct ContainerRef<'a> {
    /// Its ID, or the beginning of it.
    pub container: &'a str,
    /// The interface that the runtime asked for. Needed only if the container was attached several times.
    pub ifname: Option<&'a str>,
}

/// The ID of the container that is meant.
pub(super) fn container_id(store: &Store, container_ref: ContainerRef<'_>) -> Result<String, LiveError> {
    let none =
        || LiveError::NoContainer { prefix: container_ref.container.to_owned(), state_dir: store.path().to_owned() };
    if validate::container_id(container_ref.container).is_err() {
        return Err(none());
    }
    // With the whole ID, the time does not depend on the number of containers.
    if store.unlocked_container(container_ref.container)?.is_some() {
        return Ok(container_ref.container.to_owned());
    }
    let mut ids = store.container_ids()?;
    ids.retain(|id| id.starts_with(container_ref.container));
    ids.sort();
    match ids.as_slice() {
        [] => Err(none()),
        [one] => Ok(one.clone()),
        _ => Err(LiveError::SeveralContainers { prefix: container_ref.container.to_owned(), ids }),
    }
}

/// The journal of a locked container that `container_ref` selects.
pub(super) fn journal(container: &Container, container_ref: ContainerRef<'_>) -> Result<Journal, LiveError> {
    found(container, container_ref, |ifname| match Journal::open(container, ifname)? {
        Opened::Journal(journal) => Ok(Some(Ok(*journal))),
        Opened::Corrupt(reason) => Ok(Some(Err(reason))),
        Opened::None | Opened::Unfinished => Ok(None),
    })
}

/// The state of the journal that `container_ref` selects. The container need not be locked.
pub(super) fn look(container: &Container, container_ref: ContainerRef<'_>) -> Result<State, LiveError> {
    found(container, container_ref, |ifname| State::peek(container, ifname))
}

/// ADD's plan at the beginning of the journal that `container_ref` selects. The container need not be locked.
pub(super) fn plan(container: &Container, container_ref: ContainerRef<'_>) -> Result<Plan, LiveError> {
    found(container, container_ref, |ifname| State::peek_at_plan(container, ifname))
}

/// The states of a container's journals, without that of the interface `but`. A journal that cannot be read names no attachment, and
/// is left out. The container need not be locked.
///
/// # Errors
/// When the container's directory cannot be read.
pub(super) fn readable_states(container: &Container, but: Option<&str>) -> Result<Vec<State>, StoreError> {
    let ifnames = container.entries()?.ifnames;
    let wanted = ifnames.iter().filter(|ifname| Some(ifname.as_str()) != but);
    Ok(wanted.filter_map(|ifname| State::peek(container, ifname).ok()??.ok()).collect())
}

/// Finds the journal that `container_ref` selects, and reads the wanted part of it.
fn found<T>(
    container: &Container,
    container_ref: ContainerRef<'_>,
    read: impl FnOnce(&str) -> Result<Option<Result<T, String>>, StoreError>,
) -> Result<T, LiveError> {
    let ifnames = container.entries()?.ifnames;
    let ifname = match (container_ref.ifname, ifnames.as_slice()) {
        (Some(ifname), _) => ifnames.iter().find(|name| *name == ifname),
        (None, [one]) => Some(one),
        (None, []) => None,
        (None, _) => {
            return Err(LiveError::SeveralJournals { container_id: container.id().to_owned(), ifnames });
        }
    };
    let Some(ifname) = ifname else {
        let ifname = container_ref.ifname.unwrap_or_default().to_owned();
        return Err(LiveError::NoJournal { container_id: container.id().to_owned(), ifname, ifnames });
    };
    match read(ifname)? {
        Some(Ok(found)) => Ok(found),
        Some(Err(reason)) => Err(LiveError::Corrupt { path: container.journal_path(ifname), reason }),
        None => Err(LiveError::NoJournal { container_id: container.id().to_owned(), ifname: ifname.clone(), ifnames }),
    }
}

/// Checks that the container is attached, and that its namespace is the one for which ADD was called. Returns the namespace.
pub(super) fn refuse_unfit(state: &State) -> Result<Netns, LiveError> {
    let container_id = state.header.plan.container_id.clone();
    if state.complete.is_none() || state.is_being_undone() {
        return Err(LiveError::NotWhole { container_id });
    }
    let path = &state.header.plan.netns;
    let mut netns = match Netns::open(Path::new(path)) {
        Err(NetnsError::Gone { .. } | NetnsError::NotANamespace { .. }) => {
            return Err(LiveError::Gone { container_id, netns: path.clone() });
        }
        opened => opened.map_err(LiveError::Namespace)?,
    };
    match state.compare_identity(netns.identity().ok()) {
        Sameness::Same => Ok(netns),
        Sameness::Different => Err(LiveError::AnotherNamespace { container_id, netns: path.clone() }),
        // If the kernel or the journal has no cookie, hardware addresses that plugins generated identify the namespace.
        Sameness::Unknown if has_our_interfaces(state, &mut netns)? => Ok(netns),
        Sameness::Unknown => Err(LiveError::UnprovenNamespace { container_id, netns: path.clone() }),
    }
}

/// Whether a namespace has every interface that the attachments have made in it, with its hardware address.
fn has_our_interfaces(state: &State, netns: &mut Netns) -> Result<bool, LiveError> {
    let links = netns.links().map_err(LiveError::Namespace)?;
    let mut seen = false;
    for (index, attachment) in state.attached() {
        let Some(raw) = state.result(index) else { continue };
        let result = AddResult::parse(raw.get().as_bytes(), attachment.network.version).unwrap_or_default();
        for interface in
            result.interfaces.iter().filter(|one| one.is_in_container(&state.header.plan.netns) && !one.mac.is_empty())
        {
            let is_there = links.iter().any(|link| {
                link.name == interface.name
                    && link.mac.as_deref().is_some_and(|mac| mac.eq_ignore_ascii_case(&interface.mac))
            });
            if !is_there {
                return Ok(false);
            }
            seen = true;
        }
    }
    Ok(seen)
}

/// Nothing of the container is owed.
pub(super) fn refuse_debts(state: &State) -> Result<(), LiveError> {
    for (index, attachment) in state.attachments() {
        if state.steps[index].iter().any(|step| step.owed.is_some()) {
            return Err(LiveError::Owed {
                container_id: state.header.plan.container_id.clone(),
                ifname: attachment.ifname.clone(),
            });
        }
    }
    Ok(())
}

/// The index of the attachment on an interface.
pub(super) fn attachment(state: &State, ifname: &str) -> Result<usize, LiveError> {
    let has_name = |(_, attachment): &(usize, &Attachment)| attachment.ifname == ifname;
    // There may be a failed optional attachment and another one of the same name.
    let there = state.attachments().filter(has_name).find(|(index, _)| !state.is_failed_optional(*index));
    let Some((index, _)) = there.or_else(|| state.attachments().find(has_name)) else {
        let present = state.attachments().map(|(_, attachment)| attachment.ifname.clone()).collect();
        let container_id = state.header.plan.container_id.clone();
        return Err(LiveError::NoInterface { container_id, ifname: ifname.to_owned(), present });
    };
    Ok(index)
}

/// Whether an attachment is the primary one, which exists as long as the container.
pub(super) fn is_primary(state: &State, index: usize) -> bool {
    index == 0 && state.header.plan.position == Position::Primary
}
