//! Which calls use Kubernetes, and for which pod.

use crate::config::Config;
use crate::request::Request;

/// Whether the configuration asks for Kubernetes: it names a kubeconfig, or this process runs in a cluster.
pub fn is_configured(config: &Config, request: &Request) -> bool {
    config.kubeconfig.is_some() || (request.in_cluster && cfg!(feature = "kubernetes"))
}

/// The pod of a call, as namespace and name.
pub fn pod_of(request: &Request) -> Option<(&str, &str)> {
    let is_there = |value: &&str| !value.is_empty();
    let namespace = request.arg("K8S_POD_NAMESPACE").filter(is_there)?;
    Some((namespace, request.arg("K8S_POD_NAME").filter(is_there)?))
}
