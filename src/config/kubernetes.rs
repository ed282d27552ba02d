//! `kubernetes`: settings for the API server and the kubelet.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::object::{KeyError, Keys};
use super::timeouts::seconds;

/// The keys of `kubernetes`.
pub(super) const KUBERNETES_KEYS: [&str; 8] =
    ["timeout", "retries", "events", "claimStatus", "repair", "kubeletDir", "podResources", "deviceInfoDir"];

/// The kubelet's default directory.
const KUBELET_DIR: &str = "/var/lib/kubelet";
/// The socket of its pod-resources service, relative to it.
const POD_RESOURCES: &str = "pod-resources/kubelet.sock";

/// Settings for the Kubernetes API server and the kubelet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KubernetesConfig {
    /// The time limit for one request, including all retries.
    pub timeout: Duration,
    /// How many times a request is retried after a temporary failure.
    pub retries: u32,
    /// Whether to post events about attachments.
    pub events: bool,
    /// Whether to write the addresses of devices to the status of their resource claims.
    pub claim_status: bool,
    /// Whether to attach the missing networks of pods that another plugin has attached.
    pub repair: bool,
    /// The kubelet's directory, in which drivers describe devices.
    pub kubelet_dir: PathBuf,
    /// The socket of the kubelet's pod-resources service.
    pub pod_resources: PathBuf,
    /// The directory in which device plugins and network plugins describe devices for each other.
    pub device_info_dir: PathBuf,
}

impl Default for KubernetesConfig {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(10),
            retries: 5,
            events: true,
            claim_status: false,
            repair: false,
            kubelet_dir: KUBELET_DIR.into(),
            pod_resources: Path::new(KUBELET_DIR).join(POD_RESOURCES),
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
        let kubelet_dir = keys.absolute("kubeletDir")?.unwrap_or(own.kubelet_dir);
        let pod_resources = keys.absolute("podResources")?.unwrap_or_else(|| kubelet_dir.join(POD_RESOURCES));
        Ok(Self {
            timeout: seconds(&keys, "timeout", 600)?.unwrap_or(own.timeout),
            retries: keys.number("retries", 0..=100)?.unwrap_or(own.retries),
            events: if keys.raw("events").is_some() { keys.boolean("events")? } else { own.events },
            claim_status: keys.boolean("claimStatus")?,
            repair: keys.boolean("repair")?,
            kubelet_dir,
            pod_resources,
            device_info_dir: keys.absolute("deviceInfoDir")?.unwrap_or(own.device_info_dir),
        })
    }
}
