//! What a sync has done.

use serde::Serialize;

use crate::cni::CniError;
use crate::source::kubernetes::Notice;

/// What was done for a container, or what would be done.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Synced {
    /// The container.
    pub container: String,
    /// The interface that the runtime asked for.
    pub interface: String,
    /// Its pod.
    pub pod: PodName,
    /// Attachments that no longer exist, including those that were replaced.
    pub detached: Vec<Network>,
    /// Attachments that have other values.
    pub updated: Vec<Network>,
    /// Attachments that were made.
    pub attached: Vec<AttachedNow>,
    /// What could not be done.
    pub failed: Vec<Failed>,
    /// The NetworkAttachmentDefinitions that the pod's selections name, as `namespace/name`.
    pub definitions: Vec<String>,
    /// Why nothing was done. It is then not known whether the container matches what its pod asks for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub skipped: Option<String>,
    /// Whether the container lacks networks that only `repair` would attach: another plugin has attached it, and Braid's
    /// configuration does not have `repair`.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub needs_repair: bool,
    /// The events to post about the pod.
    #[serde(skip)]
    pub(super) notices: Vec<Notice>,
}

/// A pod.
#[derive(Debug, Clone, Default, Serialize)]
pub struct PodName {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
}

/// An attachment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Network {
    /// The network, as named in `network-status`.
    pub network: String,
    /// The interface in the container.
    pub interface: String,
}

/// An attachment that was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AttachedNow {
    /// The selection that asks for it.
    pub selection: String,
    /// The network, as named in `network-status`.
    pub network: String,
    /// The interface in the container.
    pub interface: String,
    /// Its addresses.
    pub ips: Vec<String>,
}

/// Something that could not be done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Failed {
    /// The selection, or the annotation as a whole. `None` if the pod no longer asks for it.
    pub selection: Option<String>,
    /// The network, as named in the annotation or in `network-status`.
    pub network: String,
    /// The interface in the container, if it has one.
    pub interface: Option<String>,
    /// Why not.
    pub error: CniError,
}

impl Synced {
    /// Whether the container matches what its pod asks for.
    pub fn is_whole(&self) -> bool {
        self.failed.is_empty()
    }

    pub(super) fn fail_to_attach(&mut self, failed: Failed) {
        let ifname = failed.interface.as_deref().unwrap_or_default();
        self.notices.push(Notice::not_attached(&failed.network, ifname, &failed.error.msg));
        self.failed.push(failed);
    }

    pub(super) fn fail_to_detach(&mut self, failed: Failed) {
        let ifname = failed.interface.as_deref().unwrap_or_default();
        self.notices.push(Notice::not_detached(&failed.network, ifname, &failed.error.msg));
        self.failed.push(failed);
    }
}
