//! Pods and their networks from a Kubernetes API server, and their devices from the kubelet.
//!
//! [`Session`] is one call's communication with the API server. It exists only if the configuration asks for Kubernetes and the
//! call is for a pod: no other call starts an async runtime or opens a connection. DEL, CHECK and GC never have one, because the
//! journal has everything that they need.
//!
//! | module | what it does |
//! |---|---|
//! | `scope` | which calls ask Kubernetes |
//! | `access` | reads a kubeconfig or a service account: where the API server is, and what to show it |
//! | `proxy` | which proxy is on the way there |
//! | `client` | connects |
//! | `api` | sends requests, with one deadline and bounded retries |
//! | `objects` | the requests that are made: pods, definitions, events |
//! | `session` | what ADD and `plan` do with them |
//! | `probe` | what STATUS does with them |
//! | [`node`] | what the agent of a node asks: its pods for as long as it runs, and whether objects have changed |
//! | `definitions` | what the webhook of `validate` does with them |
//! | `token` | a service account's token for `install` |
//! | `dra` | asks for the devices of a pod: the kubelet, drivers' files, the API server |
//! | `kubelet` | the kubelet's pod-resources service |
//! | `device_metadata` | the files in which drivers describe devices |
//! | [`manifest`] | objects in files |
//! | `claim_status` | what is written to the status of resource claims |
//! | `status` | the network status and events, as data |
//!
//! Without the cargo feature `kubernetes`, this module has the same interface, but opening a session is an error.

#[cfg(feature = "kubernetes")]
mod access;
#[cfg(feature = "kubernetes")]
mod api;
#[cfg(feature = "kubernetes")]
mod claim_status;
#[cfg(feature = "kubernetes")]
mod client;
#[cfg(feature = "kubernetes")]
mod definitions;
#[cfg(feature = "kubernetes")]
mod device_metadata;
#[cfg(feature = "kubernetes")]
mod dra;
#[cfg(feature = "kubernetes")]
mod executor;
mod explain;
#[cfg(feature = "kubernetes")]
mod kubelet;
#[cfg(feature = "kubernetes")]
pub mod manifest;
#[cfg(feature = "kubernetes")]
pub mod node;
#[cfg(feature = "kubernetes")]
mod objects;
#[cfg(feature = "kubernetes")]
mod probe;
#[cfg(feature = "kubernetes")]
mod proxy;
mod scope;
#[cfg(feature = "kubernetes")]
mod session;
#[cfg(not(feature = "kubernetes"))]
#[path = "absent.rs"]
mod session;
mod status;
#[cfg(feature = "kubernetes")]
mod tls;
#[cfg(feature = "kubernetes")]
mod token;

#[cfg(feature = "kubernetes")]
pub use access::kubeconfig_as_json;
#[cfg(feature = "kubernetes")]
pub use definitions::definitions;
pub use explain::explain;
#[cfg(feature = "kubernetes")]
pub use probe::probe;
pub use scope::{is_configured, pod_of};
pub use session::Session;
#[cfg(not(feature = "kubernetes"))]
pub use session::{lasting_token, probe};
pub use status::{Attached, Claimed, NetworkEntries, Notice, changed_network_status, interfaces_in, network_status};
#[cfg(feature = "kubernetes")]
pub use tls::client_config_of_node;
#[cfg(feature = "kubernetes")]
pub use token::lasting_token;
