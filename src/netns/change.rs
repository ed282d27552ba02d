//! Changing the default route of a namespace: decided first, then made as a whole or not at all.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::{DefaultRoute, Family, Netns, NetnsError, default_route::never_a_gateway};

/// Which interface should be the way out of a namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DefaultRouteRequest {
    /// The name of the interface in the namespace.
    pub interface: String,
    /// Its gateways, at most one for each family; families without one are left as they are.
    ///
    /// None at all means to keep the default routes that already go out of the interface, in the families in which
    /// there are any.
    pub gateways: Vec<IpAddr>,
}

/// What it takes to fulfil a [`DefaultRouteRequest`], complete enough to do it and to undo it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DefaultRouteChange {
    /// The interface that is to be the way out.
    pub interface: String,
    /// The families whose default routes are decided on; those of others are not touched.
    pub families: Vec<Family>,
    /// The routes to remove, in the order in which the kernel tried them.
    pub removed: Vec<DefaultRoute>,
    /// The wanted routes that were there already.
    pub kept: Vec<DefaultRoute>,
    /// The wanted routes to add.
    pub added: Vec<DefaultRoute>,
}

impl DefaultRouteChange {
    /// The default routes that there are once the change is made.
    pub fn wanted(&self) -> impl Iterator<Item = &DefaultRoute> {
        self.kept.iter().chain(&self.added)
    }

    /// Whether everything is as wanted already.
    pub fn is_empty(&self) -> bool {
        self.removed.is_empty() && self.added.is_empty()
    }
}

/// Decides what to change so that the request is fulfilled: in each of its families all default routes of the main
/// table but the wanted are to go, and the wanted one is added unless it is there. Only reads.
///
/// A multipath route goes elsewhere unless all its hops go out of the interface. Where a gateway is named, a route via
/// that gateway out of that interface is kept as it is, whatever its metric.
///
/// # Errors
///
/// [`NoSuchInterface`](NetnsError::NoSuchInterface); [`InterfaceDown`](NetnsError::InterfaceDown) if it would need a new
/// route; [`TwoGateways`](NetnsError::TwoGateways) and [`InvalidGateway`](NetnsError::InvalidGateway) for what can never
/// work; [`NoDefaultRoute`](NetnsError::NoDefaultRoute) if the routes of an interface that has none are to be kept.
/// Whether a gateway is reachable is for the kernel to say when the change is made.
pub fn plan_default_route(netns: &mut Netns, want: &DefaultRouteRequest) -> Result<DefaultRouteChange, NetnsError> {
    check_gateways(want)?;
    let link = netns.link(&want.interface)?;
    let mut change = DefaultRouteChange {
        interface: want.interface.clone(),
        families: Vec::new(),
        removed: Vec::new(),
        kept: Vec::new(),
        added: Vec::new(),
    };
    for family in Family::ALL {
        let gateway = want.gateways.iter().copied().find(|gateway| Family::of(*gateway) == family);
        if gateway.is_none() && !want.gateways.is_empty() {
            continue;
        }
        let is_wanted = |route: &DefaultRoute| {
            route.goes_out_of(&want.interface) && (gateway.is_none() || route.gateway == gateway)
        };
        let (kept, removed): (Vec<_>, Vec<_>) = netns.default_routes(family)?.into_iter().partition(is_wanted);
        match gateway {
            Some(gateway) if !kept.iter().any(DefaultRoute::is_unconditional) => {
                change.added.push(DefaultRoute::via(&want.interface, gateway));
            }
            None => {
                // The kernel joins IPv6 routes of one metric into one of several hops. Ours are to stay.
                let shares: Vec<_> = removed.iter().filter_map(|route| route.share_of(&want.interface)).collect();
                if kept.is_empty() && shares.is_empty() {
                    continue;
                }
                change.added.extend(shares);
            }
            Some(_) => {}
        }
        change.families.push(family);
        change.kept.extend(kept);
        change.removed.extend(removed);
    }
    if change.families.is_empty() {
        return Err(NetnsError::NoDefaultRoute { netns: netns.name.clone(), interface: want.interface.clone() });
    }
    if !change.added.is_empty() {
        if !link.up {
            return Err(NetnsError::InterfaceDown { netns: netns.name.clone(), interface: want.interface.clone() });
        }
        refuse_own_addresses(netns, &change)?;
    }
    Ok(change)
}

/// Makes the change and verifies it by reading the default routes anew.
///
/// Routes that are gone or there already are no error, so a change can be applied again after a crash.
///
/// # Errors
///
/// Whatever keeps a step from being made, most of all [`GatewayUnreachable`](NetnsError::GatewayUnreachable). The steps
/// that were made are undone before it is returned; if that fails too, the error is
/// [`NotPutBack`](NetnsError::NotPutBack).
pub fn apply(netns: &mut Netns, change: &DefaultRouteChange) -> Result<(), NetnsError> {
    let mut done = Done::default();
    let Err(cause) = forward(netns, change, &mut done) else {
        return Ok(());
    };
    let failures = backward(netns, &done.removed, &done.added);
    if failures.is_empty() {
        return Err(cause);
    }
    Err(NetnsError::NotPutBack { netns: netns.name.clone(), cause: Box::new(cause), failures })
}

/// Undoes the change: removes what it added and puts back what it removed.
///
/// Fine at any time after the change was planned, and more than once: what is undone already, and routes whose
/// interface is gone, are left alone. A namespace that is gone is found out by [`Netns::open`].
///
/// # Errors
///
/// [`NotRestored`](NetnsError::NotRestored) lists the steps that failed; the others are still made.
pub fn restore(netns: &mut Netns, change: &DefaultRouteChange) -> Result<(), NetnsError> {
    let failures = backward(netns, &change.removed, &change.added);
    if failures.is_empty() {
        return Ok(());
    }
    Err(NetnsError::NotRestored { netns: netns.name.clone(), failures })
}

/// What a change has really changed so far.
#[derive(Debug, Default)]
struct Done {
    removed: Vec<DefaultRoute>,
    added: Vec<DefaultRoute>,
}

fn forward(netns: &mut Netns, change: &DefaultRouteChange, done: &mut Done) -> Result<(), NetnsError> {
    // Removal comes first: an IPv6 route added next to one of the same metric would be joined with it.
    for route in &change.removed {
        if netns.remove(route)? {
            done.removed.push(route.clone());
        }
    }
    for route in &change.added {
        if netns.add(route)? {
            done.added.push(route.clone());
        }
    }
    verify(netns, change)
}

fn backward(netns: &mut Netns, removed: &[DefaultRoute], added: &[DefaultRoute]) -> Vec<NetnsError> {
    let mut failures = Vec::new();
    failures.extend(added.iter().filter_map(|route| netns.remove(route).err()));
    for route in removed {
        match netns.put_back(route) {
            Ok(_) | Err(NetnsError::NoSuchInterface { .. }) => {}
            Err(error) => failures.push(error),
        }
    }
    failures
}

fn verify(netns: &mut Netns, change: &DefaultRouteChange) -> Result<(), NetnsError> {
    let mut there = Vec::new();
    for family in &change.families {
        there.extend(netns.default_routes(*family)?);
    }
    let missing: Vec<_> =
        change.wanted().filter(|wanted| !there.iter().any(|route| route.is_same(wanted))).cloned().collect();
    let unexpected: Vec<_> =
        there.iter().filter(|route| !change.wanted().any(|wanted| wanted.is_same(route))).cloned().collect();
    if missing.is_empty() && unexpected.is_empty() {
        return Ok(());
    }
    Err(NetnsError::NotAsWanted { netns: netns.name.clone(), missing, unexpected })
}

/// What can be said of the gateways without looking into the namespace.
fn check_gateways(want: &DefaultRouteRequest) -> Result<(), NetnsError> {
    for (position, &gateway) in want.gateways.iter().enumerate() {
        if let Some(why) = never_a_gateway(gateway) {
            return Err(NetnsError::InvalidGateway { gateway, interface: want.interface.clone(), why });
        }
        let family = Family::of(gateway);
        if let Some(&first) = want.gateways[..position].iter().find(|other| Family::of(**other) == family) {
            let interface = want.interface.clone();
            return Err(NetnsError::TwoGateways { family, interface, first, second: gateway });
        }
    }
    Ok(())
}

/// The kernel's own refusal of this mistake does not name it.
fn refuse_own_addresses(netns: &mut Netns, change: &DefaultRouteChange) -> Result<(), NetnsError> {
    let addresses = netns.addresses()?;
    let own = |gateway: &IpAddr| addresses.iter().any(|address| address.net.addr() == *gateway);
    match change.added.iter().filter_map(|route| route.gateway).find(own) {
        Some(gateway) => Err(NetnsError::InvalidGateway {
            gateway,
            interface: change.interface.clone(),
            why: "it is an address of this network namespace itself; name the router's",
        }),
        None => Ok(()),
    }
}
