//! `kubernetes`: how the API server and the kubelet are talked to.

use std::path::PathBuf;
use std::time::Duration;

use super::object::{KeyError, Keys};
use super::timeouts::seconds;

/// The keys of `kubernetes`.
pub(super) const KUBERNETES_KEYS: [&str; 5] = ["timeout", "retries", "events", "podResources", "deviceInfoDir"];

/// How the Kubernetes API server and the kubelet are talked to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KubernetesConfig {
    /// How long one request may take, all its retries included.
    pub timeout: Duration,
    /// How often a request that failed in passing is sent again.
    pub retries: u32,
    /// Whether events are posted about what was attached.
    pub events: bool,
    /// The socket of the kubelet's pod-resources service.
    pub pod_resources: PathBuf,
    /// Where device plugins and network plugins tell each other about devices.
    pub device_info_dir: PathBuf,
}

impl Default for KubernetesConfig {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(10),
            retries: 5,
            events: true,
            pod_resources: "/var/lib/kubelet/pod-resources/kubelet.sock".into(),
            device_info_dir: "/var/run/k8s.cni.cncf.io/devinfo".into(),
        }
    }
}

impl KubernetesConfig {
    pub(super) fn read(keys: &Keys<'_>) -> Result<Self, KeyError> {
        let own = Self::default();
        let Some(object) = keys.object("kubernetes")? else { return Ok(own) };
        let keys = Keys::new(&object, "kubernetes");
        keys.only(&KUBERNETES_KEYS)?;
        Ok(Self {
            timeout: seconds(&keys, "timeout", 600)?.unwrap_or(own.timeout),
            retries: keys.number("retries", 0..=100)?.unwrap_or(own.retries),
            events: if keys.raw("events").is_some() { keys.boolean("events")? } else { own.events },
            pod_resources: keys.absolute("podResources")?.unwrap_or(own.pod_resources),
            device_info_dir: keys.absolute("deviceInfoDir")?.unwrap_or(own.device_info_dir),
        })
    }
}
