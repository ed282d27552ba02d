//! Pods and their networks from a Kubernetes API server, and their devices from the kubelet.
//!
//! [`Session`] is one call's conversation with the API server. There is one only where the configuration asks for
//! Kubernetes and the call is for a pod: no other call starts a runtime or opens a connection. DEL, CHECK and GC never
//! have one; the journal tells them all they need.
//!
//! Without the cargo feature `kubernetes` this module is the same to its callers, and opening a session is an error.

#[cfg(feature = "kubernetes")]
mod api;
#[cfg(feature = "kubernetes")]
mod kubelet;
#[cfg(feature = "kubernetes")]
pub mod manifest;
#[cfg(feature = "kubernetes")]
mod session;
#[cfg(not(feature = "kubernetes"))]
#[path = "absent.rs"]
mod session;
mod status;
#[cfg(feature = "kubernetes")]
mod token;

use std::path::PathBuf;
use std::time::{Duration, Instant};

pub use session::Session;
#[cfg(not(feature = "kubernetes"))]
pub use session::lasting_token;
pub use status::{Notice, network_status, notices};
#[cfg(feature = "kubernetes")]
pub use token::lasting_token;

use super::gather::Surveyed;
use crate::cni::CniError;
use crate::cni::error::code;
use crate::config::Config;
use crate::request::Request;

/// Whether the configuration asks for Kubernetes: it names a kubeconfig, or this process runs in a cluster.
pub fn is_configured(config: &Config, request: &Request) -> bool {
    config.kubeconfig.is_some() || (request.in_cluster && cfg!(feature = "kubernetes"))
}

/// The pod that a call is for, as namespace and name.
pub fn pod_of(request: &Request) -> Option<(&str, &str)> {
    let is_there = |value: &&str| !value.is_empty();
    let namespace = request.arg("K8S_POD_NAMESPACE").filter(is_there)?;
    Some((namespace, request.arg("K8S_POD_NAME").filter(is_there)?))
}

/// What a pod would get, for whoever wants to see it: reads from the API server and changes nothing. Returns the
/// call as its plugins would see it, and the attachments with all that is wrong with them.
///
/// # Errors
/// When the pod is not there, or the API server cannot be asked.
pub fn explain(
    config: &Config,
    request: &Request,
    (namespace, name): (&str, &str),
    deadline: Instant,
) -> Result<(Request, Surveyed), ClusterError> {
    let mut args = request.args.clone();
    args.set("K8S_POD_NAMESPACE", namespace);
    args.set("K8S_POD_NAME", name);
    let request = request.with_args(args);
    let Some(session) = Session::open(config, &request, deadline)? else {
        return Err(ClusterError::NotConfigured);
    };
    session.survey(config, &request)
}

/// Talking to the API server or the kubelet failed.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// The pod is not there, or another one has its name by now.
    #[error("pod {namespace}/{name} is gone: {reason}")]
    PodGone {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// How that is known.
        reason: String,
    },
    /// `CNI_ARGS` names no pod that could be.
    #[error("{key} is {value:?}, expected a Kubernetes name")]
    Name {
        /// The key.
        key: &'static str,
        /// What it holds, shortened.
        value: String,
    },
    /// What is needed to talk to the API server cannot be read or used.
    #[error("the Kubernetes credentials of {origin} cannot be used: {reason}")]
    Credentials {
        /// Where they come from.
        origin: String,
        /// Why not.
        reason: String,
    },
    /// The API server answered, and the answer is no.
    #[error("the Kubernetes API server refused to {action}: {status} {reason}")]
    Refused {
        /// What it was asked to do.
        action: String,
        /// The HTTP status.
        status: u16,
        /// What it says.
        reason: String,
    },
    /// The API server did not answer, or only that it cannot, as often as it was asked.
    #[error("the Kubernetes API server could not {action}: {reason} (tried {attempts} times in {:.1} s)", after.as_secs_f64())]
    Unavailable {
        /// What it was asked to do.
        action: String,
        /// What happened the last time.
        reason: String,
        /// How often it was asked.
        attempts: u32,
        /// How long that took.
        after: Duration,
    },
    /// The kubelet did not say which devices the pod has.
    #[error("the kubelet could not be asked for the pod's devices ({}): {reason}", socket.display())]
    Kubelet {
        /// Its socket.
        socket: PathBuf,
        /// What happened.
        reason: String,
    },
    /// The configuration does not ask for Kubernetes.
    #[error("there is no \"kubeconfig\" in the configuration, and this is not in a cluster")]
    NotConfigured,
    /// This executable cannot talk to Kubernetes.
    #[error("the configuration names a kubeconfig, and this braid is built without Kubernetes")]
    NotBuiltIn,
    /// This process lacks what it takes.
    #[error("cannot start talking to Kubernetes: {0}")]
    Start(std::io::Error),
}

impl From<&ClusterError> for CniError {
    fn from(error: &ClusterError) -> Self {
        let code = match error {
            // A passing condition, for all that can be told from here: the runtime is to try again.
            ClusterError::PodGone { .. } | ClusterError::Unavailable { .. } | ClusterError::Kubelet { .. } => {
                code::TRY_AGAIN
            }
            ClusterError::Refused { .. } | ClusterError::Credentials { .. } => code::KUBERNETES,
            ClusterError::Name { .. } => code::INVALID_ENVIRONMENT,
            ClusterError::NotConfigured | ClusterError::NotBuiltIn => code::INVALID_CONFIG,
            ClusterError::Start(_) => code::IO,
        };
        Self::new(code, error.to_string())
    }
}
