//! The device of an attachment: how its plugins get it, and where it is described.

use super::DeviceInfo;
use crate::cni::config::{NetworkConfig, PluginConfig, raw};
use crate::config::{Config, Selection};
use crate::request::Request;

/// The capability with which a plugin gets the path of a [`DeviceInfo`].
pub(super) const DEVICE_INFO: &str = "CNIDeviceInfoFile";

/// Plugins for devices read the device from these keys of their own configuration. The first plugin of a network uses the device.
pub(super) fn hand_over_device(network: &mut NetworkConfig, device: &str) {
    if let Some(first) = network.plugins.first_mut() {
        let mut keys = first.keys().clone();
        keys.insert("deviceID".into(), raw(device));
        keys.insert("pciBusID".into(), raw(device));
        *first = PluginConfig::from_object(keys).expect("a plugin's configuration stays one with a device in it");
    }
}

/// The file that describes the device of an attachment (NPWG device information specification, §3). `None` if it has no device and
/// none of its plugins writes a description.
pub(super) fn device_info(
    config: &Config,
    request: &Request,
    network: &NetworkConfig,
    selection: &Selection,
    resource: Option<&str>,
    (reference, ifname): (&str, &str),
) -> Option<DeviceInfo> {
    let is_declared = network.plugins.iter().any(|plugin| plugin.declares(DEVICE_INFO));
    if resource.is_none() && !is_declared {
        return None;
    }
    let below =
        |directory: &str, name: String| config.kubernetes.device_info_dir.join(directory).join(name.replace('/', "-"));
    let source = resource.zip(selection.device_id.as_deref());
    Some(DeviceInfo {
        file: below("cni", format!("{reference}-{}_{ifname}", request.container_id)),
        source: source.map(|(resource, device)| below("dp", format!("{resource}-{device}-device.json"))),
    })
}
