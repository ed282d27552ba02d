//! `default-route`: which attachment is the container's way out.

use std::path::Path;

use super::journal::Event;
use super::{Failure, Transaction};
use crate::cni::AddResult;
use crate::merge::follow_default_route;
use crate::netns::{self, DefaultRouteRequest, Netns};

/// Sets the default routes that the plan asks for, and makes the results say so. `incoming` is the result of the plugin
/// before Braid.
///
/// What will change is in the journal before it does.
///
/// # Errors
/// When the routes cannot be read, set, or are not there afterwards.
pub fn set_default_routes(
    tx: &Transaction<'_>,
    results: &mut [Option<AddResult>],
    mut incoming: Option<&mut AddResult>,
) -> Result<(), Failure> {
    for (index, attachment) in tx.plan.attachments.iter().enumerate() {
        let Some(gateways) = attachment.default_route.clone().filter(|_| results[index].is_some()) else { continue };
        let failed = |source| Failure::Routes { label: attachment.label(), source };
        let mut netns = Netns::open(Path::new(&tx.plan.netns)).map_err(failed)?;
        let request = DefaultRouteRequest { interface: attachment.ifname.clone(), gateways };
        let change = netns::plan_default_route(&mut netns, &request).map_err(failed)?;
        tx.record(Event::Routes(change.clone()))?;
        netns::apply(&mut netns, &change).map_err(failed)?;
        let names = tx.plan.attachments.iter().map(|attachment| Some(attachment.ifname.as_str()));
        let own = names.zip(results.iter_mut()).filter_map(|(name, result)| Some((name, result.as_mut()?)));
        follow_default_route(own.chain(incoming.as_deref_mut().map(|result| (None, result))), &change);
    }
    Ok(())
}
