//! What Braid itself does inside a network namespace: it reads links and addresses, and sets default routes.
//!
//! Plugins do everything else. Default routes are an exception, because no single plugin can know that another attachment should
//! provide the pod's default route (`default-route` of the NPWG multi-network specification 1.3). This takes two steps, so that the
//! change can be recorded before it is made:
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
//! All requests use one route-netlink socket that was created inside the namespace. The calling thread does not enter the
//! namespace.

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
pub use identity::{Identity, Sameness, has_no_process, sees_all_processes};
pub use links::{Address, Link};
pub use namespace::{Netns, OwnNetns};
pub use sysctl::{Sysctls, read_sysctls, write_sysctls};
pub use traffic::{Filter, Qdisc, TokenBucket, scheduler_ticks};
