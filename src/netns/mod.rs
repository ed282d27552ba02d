//! What Braid itself does inside a network namespace: it reads links and addresses and it sets default routes.
//!
//! Everything else in a namespace is the plugins' work. The default route is the exception, because no single plugin
//! can know that another attachment was asked to be the pod's way out (`default-route` of the NPWG multi-network
//! specification 1.3). It is done in two steps, so that what will change can be written down before it does:
//!
//! ```no_run
//! use std::path::Path;
//!
//! use braid_cni::netns::{DefaultRouteRequest, Netns, apply, plan_default_route, restore};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let mut netns = Netns::open(Path::new("/var/run/netns/pod"))?;
//! let change = plan_default_route(
//!     &mut netns,
//!     &DefaultRouteRequest { interface: "net1".into(), gateways: vec!["10.2.0.1".parse()?, "fe80::1".parse()?] },
//! )?;
//! let journalled = serde_json::to_string(&change)?; // durable before anything is touched
//! apply(&mut netns, &change)?;
//! restore(&mut netns, &serde_json::from_str(&journalled)?)?;
//! # Ok(())
//! # }
//! ```
//!
//! The namespace is spoken to through one route-netlink socket that was created inside it. The calling thread is in it only
//! while it creates the socket.

mod change;
mod default_route;
mod devices;
mod error;
mod identity;
mod links;
mod namespace;
mod routes;
mod socket;
mod sysctl;
#[cfg(test)]
mod tests;
mod traffic;

pub use crate::cni::Family;
pub use change::{DefaultRouteChange, DefaultRouteRequest, apply, plan_default_route, restore};
pub use default_route::{DefaultRoute, NextHop, RawAttribute};
pub use devices::Device;
pub use error::{NetlinkError, NetnsError};
pub use identity::{Identity, Sameness, is_deserted, sees_all_processes};
pub use links::{Address, Link};
pub use namespace::{Netns, OwnNetns};
pub use sysctl::{Sysctls, read_sysctls, write_sysctls};
pub use traffic::{Filter, Qdisc, TokenBucket, scheduler_ticks};
