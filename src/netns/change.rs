//! Changing the default route of a namespace: the change is planned first, and then made completely or not at all.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::{DefaultRoute, Family, Netns, NetnsError, default_route::never_a_gateway};

/// Which interface a namespace's default route should use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DefaultRouteRequest {
    /// The name of the interface in the namespace.
    pub interface: String,
    /// Its gateways, at most one for each family. Families without a gateway are not changed.
    ///
    /// An empty list keeps the interface's existing default routes, in the families that it has any of.
    pub gateways: Vec<IpAddr>,
}

/// The changes that fulfil a [`DefaultRouteRequest`], with everything that is needed to make and to undo them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DefaultRouteChange {
    /// The interface that is to be the way out.
    pub interface: String,
    /// The families whose default routes are changed.
    pub families: Vec<Family>,
    /// The routes to remove, in the order in which the kernel tried them.
    pub removed: Vec<DefaultRoute>,
    /// The wanted routes that exist already.
    pub kept: Vec<DefaultRoute>,
    /// The wanted routes to add.
    pub added: Vec<DefaultRoute>,
}

impl DefaultRouteChange {
    /// The default routes after the change.
    pub fn wanted(&self) -> impl Iterator<Item = &DefaultRoute> {
        self.kept.iter().chain(&self.added)
    }

    /// Whether everything is as wanted already.
    pub fn is_empty(&self) -> bool {
        self.removed.is_empty() && self.added.is_empty()
    }
}

/// Plans the changes that fulfil the request: in each of its families, all default routes of the main table except the wanted ones
/// are removed, and the wanted route is added if it does not exist. This function only reads.
///
/// A multipath route is removed unless all its hops use the interface. If a gateway is given, a route via that gateway on that
/// interface is kept, whatever its metric.
///
/// # Errors
///
/// [`NoSuchInterface`](NetnsError::NoSuchInterface); [`InterfaceDown`](NetnsError::InterfaceDown) if a new route is needed;
/// [`TwoGateways`](NetnsError::TwoGateways) and [`InvalidGateway`](NetnsError::InvalidGateway) for requests that can never work;
/// [`NoDefaultRoute`](NetnsError::NoDefaultRoute) if the interface has no routes that could be kept. Whether a gateway can be
/// reached is checked by the kernel when the change is made.
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
                // The kernel joins IPv6 routes of the same metric into one multipath route. The route added here must stay
                // separate.
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

/// Makes the change, and verifies it by reading the default routes again.
///
/// A route that is already removed or already added is not an error, so a change can be applied again after a crash.
///
/// # Errors
///
/// Any failure of a step, most often [`GatewayUnreachable`](NetnsError::GatewayUnreachable). The completed steps are undone before
/// it is returned; if that fails too, the error is [`NotPutBack`](NetnsError::NotPutBack).
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

/// Undoes the change: removes the routes that it added and restores those that it removed.
///
/// May be called at any time after the change was planned, and more than once: steps that are undone already, and routes of
/// interfaces that no longer exist, are skipped. If the namespace is gone, [`Netns::open`] reports it.
///
/// # Errors
///
/// [`NotRestored`](NetnsError::NotRestored) lists the steps that failed. The other steps are done nevertheless.
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
    // Routes are removed first: an IPv6 route that is added beside one of the same metric would be joined with it.
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

/// Checks of the gateways that need no look into the namespace.
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

/// The kernel refuses this mistake too, but its error does not name it.
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
