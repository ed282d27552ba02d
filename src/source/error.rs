//! Why a network cannot be found, or a cluster cannot be asked.

use std::path::PathBuf;
use std::time::Duration;

use super::device::DeviceError;
use super::pod::{AnnotationError, DefinitionKey};
use crate::cni::CniError;
use crate::cni::error::code;
use crate::runtime::load::LoadError;

/// Why a network cannot be found or used.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// No configuration has that name.
    #[error("{origin}: no network is called {reference:?} in {}{}", conf_dir.display(), appended("; skipped ", skipped))]
    Unknown {
        /// Where it was asked for.
        origin: String,
        /// The name.
        reference: String,
        /// Where it was looked for.
        conf_dir: PathBuf,
        /// What could not be read there.
        skipped: Vec<String>,
    },
    /// There is no such NetworkAttachmentDefinition.
    #[error("{origin}: there is no network-attachment-definition {}/{}{}", key.namespace, key.name, on_disk.as_ref().map(|reason| format!(", and {reason}")).unwrap_or_default())]
    NoDefinition {
        /// Where it was asked for.
        origin: String,
        /// Which.
        key: DefinitionKey,
        /// Why it was not found on disk either, if it was looked up there.
        on_disk: Option<String>,
    },
    /// It is not known whether this NetworkAttachmentDefinition exists.
    #[error("{origin}: {reason}")]
    Withheld {
        /// Where it was asked for.
        origin: String,
        /// Who did not say, and why.
        reason: String,
    },
    /// The pod may not use networks of that namespace.
    #[error("{origin}: namespaceIsolation is on, and a pod of namespace {pod_namespace:?} may not use {reference}: only networks of its own namespace and of {}", global.join(", "))]
    Isolated {
        /// Where it was asked for.
        origin: String,
        /// The network.
        reference: String,
        /// The pod's namespace.
        pod_namespace: String,
        /// The namespaces whose networks every pod may use.
        global: Vec<String>,
    },
    /// The pod may not use networks on disk, and a definition without a configuration refers to one.
    #[error("{origin}: namespaceIsolation is on, and network-attachment-definition {key} has no \"config\": it stands for network {:?} on the node's disk, which is in no namespace; give it a \"config\", or have a \"policy\" allow that network by its name", key.name)]
    IsolatedOnDisk {
        /// Where it was asked for.
        origin: String,
        /// The definition.
        key: DefinitionKey,
    },
    /// A pod's annotation cannot be read.
    #[error(transparent)]
    Annotation(#[from] AnnotationError),
    /// There is no device for an attachment that needs one.
    #[error("{origin}: {source}")]
    Device {
        /// Where it was asked for.
        origin: String,
        /// Why.
        source: DeviceError,
    },
    /// The Kubernetes API server or the kubelet could not be asked.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// A configuration cannot be read.
    #[error("{origin}: {source}")]
    Load {
        /// Where it was asked for.
        origin: String,
        /// Why.
        source: LoadError,
    },
}

/// Each of `items` after `lead`, to be appended to a message.
pub(crate) fn appended(lead: &str, items: &[String]) -> String {
    items.iter().flat_map(|item| [lead, item]).collect()
}

/// How often, in words.
fn times(attempts: u32) -> String {
    if attempts == 1 { "once".into() } else { format!("{attempts} times") }
}

impl From<&SourceError> for CniError {
    fn from(error: &SourceError) -> Self {
        let code = match error {
            SourceError::Cluster(error) => return Self::from(error),
            SourceError::Device { source, .. } => Self::from(source).code,
            SourceError::Withheld { .. } => code::KUBERNETES,
            SourceError::Unknown { .. }
            | SourceError::NoDefinition { .. }
            | SourceError::Isolated { .. }
            | SourceError::IsolatedOnDisk { .. }
            | SourceError::Annotation(_)
            | SourceError::Load { .. } => code::INVALID_CONFIG,
        };
        Self::new(code, error.to_string())
    }
}

/// Communication with the API server or the kubelet failed.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// The pod is gone, or another pod has its name now.
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
    /// The credentials or settings for the API server cannot be read or used.
    #[error("the Kubernetes credentials of {origin} cannot be used: {reason}")]
    Credentials {
        /// Where they come from.
        origin: String,
        /// Why not.
        reason: String,
    },
    /// The API server and this node do not trust each other's certificates.
    #[error("the Kubernetes API server could not {action}: no connection with the certificates of {origin}: {reason}")]
    Untrusted {
        /// What it was asked to do.
        action: String,
        /// Where the certificates come from.
        origin: String,
        /// What TLS says.
        reason: String,
    },
    /// The API server refused the request, or its answer cannot be used.
    #[error("the Kubernetes API server refused to {action}: {status} {reason}")]
    Refused {
        /// What it was asked to do.
        action: String,
        /// The HTTP status.
        status: u16,
        /// What it says.
        reason: String,
    },
    /// The API server did not answer in any attempt, or only with errors that are worth a retry.
    #[error("the Kubernetes API server could not {action}: {reason} (tried {} in {:.1} s)", times(*attempts), after.as_secs_f64())]
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
    /// The kubelet did not report the pod's devices.
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
    /// This executable is built without Kubernetes.
    #[error("the configuration names a kubeconfig, and this braid is built without Kubernetes")]
    NotBuiltIn,
    /// This process lacks what it takes.
    #[error("cannot prepare connections to Kubernetes: {0}")]
    Start(std::io::Error),
}

impl From<&ClusterError> for CniError {
    fn from(error: &ClusterError) -> Self {
        let code = match error {
            // It may pass, so the runtime tries again.
            ClusterError::PodGone { .. } | ClusterError::Unavailable { .. } | ClusterError::Kubelet { .. } => {
                code::TRY_AGAIN
            }
            ClusterError::Refused { .. } | ClusterError::Credentials { .. } | ClusterError::Untrusted { .. } => {
                code::KUBERNETES
            }
            ClusterError::Name { .. } => code::INVALID_ENVIRONMENT,
            ClusterError::NotConfigured | ClusterError::NotBuiltIn => code::INVALID_CONFIG,
            ClusterError::Start(_) => code::IO,
        };
        Self::new(code, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_often_the_api_server_was_asked() {
        let said = |attempts| {
            let (action, reason) = ("get it".into(), "no answer".into());
            ClusterError::Unavailable { action, reason, attempts, after: Duration::from_secs(1) }.to_string()
        };
        assert!(said(1).ends_with("(tried once in 1.0 s)"), "{}", said(1));
        assert!(said(3).ends_with("(tried 3 times in 1.0 s)"), "{}", said(3));
    }
}
