//! A plan and its attachments, as they are stored in the journal.

use std::net::IpAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::cni::Version;
use crate::cni::config::{NetworkConfig, RawObject, raw};
use crate::config::Author;
use crate::runtime;
use crate::source::device::{AllocatedDevice, HeldDevice};

/// A file that describes a device, for the attachment's plugins and for the pod's status.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceInfo {
    /// The file.
    pub file: PathBuf,
    /// The device plugin's file. If it exists, this one is a copy of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<PathBuf>,
}

/// Where Braid stands in its list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Position {
    /// Braid is first: the first attachment is the primary one.
    Primary,
    /// Braid is chained after another plugin, and adds to its result.
    Chained,
}

/// One attachment of a plan, with everything that is needed to undo it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Attachment {
    /// The interface's name in the container.
    pub ifname: String,
    /// The network.
    pub network: NetworkConfig,
    /// The network as named in the status of a pod: `namespace/name`, or its plain name.
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
    /// Everything that the pod asked for, in the form of a selection. A later change of the pod's annotation is compared with this,
    /// whatever values an operator has given the attachment since. `None` if the operator asked for the attachment, and in older
    /// journals.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked: Option<RawObject>,
    /// The description of its device. It exists as long as the attachment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_info: Option<DeviceInfo>,
    /// The name of its device in the pod's resource claim, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allocated: Option<AllocatedDevice>,
}

impl Attachment {
    /// The parameters of its plugins, for a container whose namespace is now at `netns`.
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

    /// The name of its device for plugins, if it has one.
    pub fn device_id(&self) -> Option<String> {
        serde_json::from_str(self.capability_args.get("deviceID")?.get()).ok()
    }

    /// Its device, if it has one.
    pub fn held_device(&self) -> Option<HeldDevice> {
        Some(HeldDevice { id: self.device_id()?, allocated: self.allocated.clone() })
    }

    /// Everything that was asked for, in the form of a selection. An older journal does not contain it. Then it is the plugins'
    /// capability arguments, without devices and claims.
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
    /// `CNI_ARGS` of the call. It is only for readers of the journal.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub args: String,
    /// Where plugins are looked up.
    pub path: String,
    /// Where Braid stands in its list.
    pub position: Position,
    /// Whether another plugin has attached the container without Braid, and Braid has added attachments later. DEL then has to undo
    /// more than the journal contains.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_repair: bool,
    /// The attachments in order.
    pub attachments: Vec<Attachment>,
}
