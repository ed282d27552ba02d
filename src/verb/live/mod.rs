//! Changes of a running container. CNI has no operations for them, so the command line and programs with this library call
//! them.
//!
//! A change uses only the container's journal, and so do CHECK, DEL and GC afterwards. So a network can be detached after its
//! definition is gone, and the runtime is not involved.
//!
//! ```no_run
//! use braid_cni::plan::update::{BandwidthUpdate, LimitUpdate, Update};
//! use braid_cni::verb::live::{ContainerRef, Live};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let live = Live::new("/var/lib/cni/braid");
//! let container = ContainerRef { container: "4fd8a1", ifname: None };
//! // 50 Mbit/s into the container; what leaves it stays as it is.
//! let limit = LimitUpdate::Limited { rate: 50_000_000, burst: None };
//! let bandwidth = BandwidthUpdate { ingress: Some(limit), egress: None };
//! let changed = live.update(container, "eth0", &Update { bandwidth: Some(bandwidth), ..Update::default() })?;
//! eprintln!("{} steps were redone", changed.changed.steps.len());
//! live.detach(container, &["net1"])?;
//! # Ok(())
//! # }
//! ```

mod changes;
mod error;
mod find;
mod locked;
mod pod_status;
mod ports;
mod shared;
mod sync;
mod tried;

pub use changes::{Live, Outcome};
pub use error::{LiveError, Tried};
pub use find::ContainerRef;
pub use pod_status::write_pod_status;
pub use sync::{AttachedNow, Failed, ForeignContainer, Network, PodName, Synced};
