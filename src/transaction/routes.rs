//! `default-route`: which attachment the container's default route uses.

use std::path::Path;

use super::forward::undo_optional;
use super::journal::{Event, Journal};
use super::{CleanupFailure, Failure, Transaction};
use crate::cni::AddResult;
use crate::cni::result::Route;
use crate::merge::{DefaultRoutes, follow_default_route};
use crate::netns::{self, DefaultRouteChange, DefaultRouteRequest, Family, Netns, NetnsError};

/// Sets the default routes that the plan asks for, and updates the results accordingly. `incoming` is the result of the plugin
/// before Braid.
///
/// The journal records the change before it is made.
///
/// # Errors
/// When the routes cannot be read, set, or are not there afterwards.
pub fn set_default_routes(
    tx: &Transaction<'_>,
    results: &mut [Option<AddResult>],
    mut incoming: Option<&mut AddResult>,
) -> Result<(), Failure> {
    for index in 0..tx.plan.attachments.len() {
        if results[index].is_none() {
            continue;
        }
        let change = match set_default_route_or_undo(tx, index)? {
            Routes::AsTheyAre => continue,
            Routes::AttachmentUndone => {
                results[index] = None;
                continue;
            }
            Routes::Changed(change) => change,
        };
        let names = tx.plan.attachments.iter().map(|attachment| Some(attachment.ifname.as_str()));
        let own = names.zip(results.iter_mut()).filter_map(|(name, result)| Some((name, result.as_mut()?)));
        follow_default_route(own.chain(incoming.as_deref_mut().map(|result| (None, result))), &change);
    }
    Ok(())
}

impl From<&DefaultRouteChange> for DefaultRoutes {
    fn from(change: &DefaultRouteChange) -> Self {
        let routes = change.wanted().map(|route| {
            let dst = match route.family {
                Family::V4 => ipnet::IpNet::V4(ipnet::Ipv4Net::default()),
                Family::V6 => ipnet::IpNet::V6(ipnet::Ipv6Net::default()),
            };
            let mut wanted = Route::new(dst, route.gateway);
            wanted.mtu = route.mtu.unwrap_or(0);
            wanted.advmss = route.advmss.unwrap_or(0);
            wanted
        });
        Self { interface: change.interface.clone(), families: change.families.clone(), routes: routes.collect() }
    }
}

/// The outcome for the default routes of an attachment.
pub(super) enum Routes {
    /// It asks for none.
    AsTheyAre,
    /// It has them.
    Changed(DefaultRouteChange),
    /// They could not be set; the attachment is optional, and was undone.
    AttachmentUndone,
}

/// Sets the default routes of one attachment, if it asks for any. If they cannot be set and the attachment is optional, it is
/// undone.
pub(super) fn set_default_route_or_undo(tx: &Transaction<'_>, index: usize) -> Result<Routes, Failure> {
    let attachment = &tx.plan.attachments[index];
    match set_default_route(tx, index) {
        Ok(change) => Ok(change.map_or(Routes::AsTheyAre, Routes::Changed)),
        Err(failure @ Failure::Routes { .. }) if attachment.optional => {
            undo_optional(tx, index, &failure, || {
                tx.with_journal(|journal| give_back_default_route(journal, &tx.plan.netns, &attachment.ifname))
            });
            Ok(Routes::AttachmentUndone)
        }
        Err(failure) => Err(failure),
    }
}

/// Sets the default routes of one attachment, if it asks for any.
fn set_default_route(tx: &Transaction<'_>, index: usize) -> Result<Option<DefaultRouteChange>, Failure> {
    let attachment = &tx.plan.attachments[index];
    let Some(gateways) = attachment.default_route.clone() else { return Ok(None) };
    let failed = |source| Failure::Routes { label: attachment.label(), source };
    let mut netns = Netns::open(Path::new(&tx.plan.netns)).map_err(failed)?;
    let request = DefaultRouteRequest { interface: attachment.ifname.clone(), gateways };
    let change = netns::plan_default_route(&mut netns, &request).map_err(failed)?;
    tx.record(Event::Routes(change.clone()))?;
    netns::apply(&mut netns, &change).map_err(failed)?;
    Ok(Some(change))
}

/// Gives the default routes that an attachment had taken back to their previous owner, unless another attachment has taken them
/// since.
pub(super) fn give_back_default_route(journal: &mut Journal, netns: &str, interface: &str) -> Option<CleanupFailure> {
    let at = journal.state.routes.iter().position(|change| change.interface == interface)?;
    let mut change = journal.state.routes[at].clone();
    let taken_since =
        |family: &Family| journal.state.routes[at + 1..].iter().any(|later| later.families.contains(family));
    change.removed.retain(|route| !taken_since(&route.family));
    change.added.retain(|route| !taken_since(&route.family));
    let restored = Netns::open(Path::new(netns)).and_then(|mut netns| netns::restore(&mut netns, &change));
    match restored {
        Ok(()) | Err(NetnsError::Gone { .. }) => {
            journal.note(Event::RoutesReturned { interface: interface.to_owned() });
            None
        }
        Err(source) => Some(CleanupFailure { label: format!("default routes of {interface}"), source: source.into() }),
    }
}
