//! A plan and its attachments, as the journal keeps them.

use std::net::IpAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::cni::Version;
use crate::cni::config::{NetworkConfig, RawObject, raw};
use crate::config::Author;
use crate::runtime;
use crate::source::device::{AllocatedDevice, HeldDevice};

/// A file in which a device is described to the attachment's plugins and to readers of the pod's status.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceInfo {
    /// The file.
    pub file: PathBuf,
    /// The device plugin's file, which it is a copy of if that is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<PathBuf>,
}

/// Where Braid stands in its list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Position {
    /// First: its first attachment is the primary one.
    Primary,
    /// After another plugin, whose result it adds to.
    Chained,
}

/// One attachment of a plan: complete enough to undo it with nothing else.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Attachment {
    /// The interface's name in the container.
    pub ifname: String,
    /// The network.
    pub network: NetworkConfig,
    /// The network as the status of a pod names it: `namespace/name`, or its plain name.
    pub reference: String,
    /// Who asked for it.
    #[serde(default, skip_serializing_if = "Author::is_operator")]
    pub author: Author,
    /// Where it was asked for.
    pub origin: String,
    /// Why it applies.
    #[serde(default)]
    pub reason: String,
    /// `CNI_ARGS` for its plugins.
    #[serde(default)]
    pub args: String,
    /// Its capability arguments.
    #[serde(default, skip_serializing_if = "RawObject::is_empty")]
    pub capability_args: RawObject,
    /// Laid over every plugin's `args`.
    #[serde(default, skip_serializing_if = "RawObject::is_empty")]
    pub plugin_args: RawObject,
    /// Whether the container may do without it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub optional: bool,
    /// The default routes it asks for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_route: Option<Vec<IpAddr>>,
    /// All that the pod asked of it, in the words of a selection: what a later change of the pod's annotation is held against,
    /// whatever values an operator has given it since. None where the operator asked for it, and in older journals.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked: Option<RawObject>,
    /// The description of its device; there while the attachment is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_info: Option<DeviceInfo>,
    /// Its device as the pod's resource claim names it, if it is from one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allocated: Option<AllocatedDevice>,
}

impl Attachment {
    /// What its plugins get, for a container whose namespace is at `netns` now.
    pub fn parameters(&self, container_id: &str, netns: &str) -> runtime::Attachment {
        runtime::Attachment {
            container_id: container_id.to_owned(),
            netns: netns.to_owned(),
            ifname: self.ifname.clone(),
            args: self.args.clone(),
            capability_args: self.capability_args.clone(),
            plugin_args: self.plugin_args.clone(),
        }
    }

    /// What plugins know its device by, if it has one.
    pub fn device_id(&self) -> Option<String> {
        serde_json::from_str(self.capability_args.get("deviceID")?.get()).ok()
    }

    /// Its device, if it has one.
    pub fn held_device(&self) -> Option<HeldDevice> {
        Some(HeldDevice { id: self.device_id()?, allocated: self.allocated.clone() })
    }

    /// All that was asked of it, in the words of a selection. An older journal does not say it: then it is what the plugins
    /// were given, without devices and claims.
    pub fn asked(&self) -> RawObject {
        if let Some(asked) = &self.asked {
            return asked.clone();
        }
        let of = |key: &str| self.capability_args.get(key).cloned();
        let keys = ["ips", "mac", "portMappings", "bandwidth"].map(|key| (key, of(key)));
        let mut asked: RawObject = keys.into_iter().filter_map(|(key, value)| Some((key.into(), value?))).collect();
        asked.extend(of("infinibandGUID").map(|guid| ("infiniband-guid".into(), guid)));
        asked.extend(self.default_route.as_ref().map(|gateways| ("default-route".into(), raw(gateways))));
        asked
    }

    /// How messages call it.
    pub fn label(&self) -> String {
        format!("delegate {:?} on {}", self.network.name, self.ifname)
    }
}

/// What ADD will do.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Plan {
    /// The network that Braid was called for.
    pub network: String,
    /// The version to answer in.
    #[serde(rename = "cniVersion")]
    pub version: Version,
    /// The container.
    #[serde(rename = "containerID")]
    pub container_id: String,
    /// The path of its network namespace.
    pub netns: String,
    /// `CNI_IFNAME`.
    pub ifname: String,
    /// `CNI_ARGS` of the call, for readers of the journal.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub args: String,
    /// Where plugins are looked up.
    pub path: String,
    /// Where Braid stands in its list.
    pub position: Position,
    /// Whether another plugin has attached the container without Braid, and Braid has added to that later: DEL then has more to
    /// undo than is in the journal.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_repair: bool,
    /// The attachments in order.
    pub attachments: Vec<Attachment>,
}
