//! The entries in the status of resource claims: the interface, addresses and hardware address of each device (KEP-4817).
//!
//! They are written with server-side apply, with a field manager for each pod. So a pod removes only what it has written itself,
//! even if several pods share a claim, and if the driver writes to the status too.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::api::{Api, not_a_request};
use super::dra::{self, GROUP};
use super::status::Claimed;
use crate::cni::AddResult;
use crate::cni::result::ContainerInterface;
use crate::source::ClusterError;
use crate::source::device::{AllocatedDevice, Grant};
use crate::source::pod::Pod;

/// The highest number of addresses that the API accepts for a device.
const MAX_IPS: usize = 16;

/// The field manager for a pod's part of a claim's status.
pub(super) fn field_manager(uid: &str) -> String {
    format!("braid-{uid}")
}

/// The entries for a pod's devices, by the name of the `ResourceClaim`. A claim of which no device is attached has an empty list.
/// The pod's namespace is at `netns`.
pub(super) fn claim_statuses(netns: &str, claimed: &[Claimed]) -> BTreeMap<String, Vec<DeviceStatus>> {
    let mut statuses: BTreeMap<String, Vec<DeviceStatus>> = BTreeMap::new();
    for Claimed { device, ifname, result } in claimed {
        let devices = statuses.entry(device.claim.clone()).or_default();
        if let Some(result) = result {
            devices.push(DeviceStatus::new(device, netns, ifname, result));
        }
    }
    statuses
}

/// What a claim says of one device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DeviceStatus {
    device: AllocatedDevice,
    network_data: Value,
}

impl DeviceStatus {
    fn new(device: &AllocatedDevice, netns: &str, ifname: &str, result: &AddResult) -> Self {
        let interfaces = result.in_container(netns, ifname);
        let main = interfaces.iter().find(|interface| interface.name == ifname).or(interfaces.first());
        Self { device: device.clone(), network_data: main.map(network_data).unwrap_or_default() }
    }

    /// The entry of the status for an allocated device.
    fn entry(&self, grant: &Grant) -> Value {
        let AllocatedDevice { driver, pool, device, .. } = &self.device;
        let mut entry = json!({"driver": driver, "pool": pool, "device": device, "networkData": self.network_data});
        if let Some(share) = &grant.share {
            entry["shareID"] = json!(share);
        }
        entry
    }
}

/// The entries of a claim's status, one for each allocated device: the API server accepts none twice. Devices about which most is
/// known choose first.
fn entries(devices: &[DeviceStatus], mut grants: Vec<Grant>) -> Vec<Value> {
    let mut ordered: Vec<&DeviceStatus> = devices.iter().collect();
    ordered.sort_by_key(|status| (status.device.share.is_none(), status.device.request.is_none()));
    let entry = |status: &DeviceStatus| {
        let index = grants.iter().position(|grant| status.device.may_be(grant))?;
        Some(status.entry(&grants.remove(index)))
    };
    ordered.into_iter().filter_map(entry).collect()
}

fn network_data(interface: &ContainerInterface<'_>) -> Value {
    let mut ips: Vec<String> = Vec::new();
    for ip in interface.ips.iter().map(|ip| ip.address.to_string()) {
        if !ips.contains(&ip) && ips.len() < MAX_IPS {
            ips.push(ip);
        }
    }
    let mut data = json!({ "interfaceName": interface.name });
    if !ips.is_empty() {
        data["ips"] = json!(ips);
    }
    if let Some(mac) = interface.listed.map(|listed| listed.mac.as_str()).filter(|mac| !mac.is_empty()) {
        data["hardwareAddress"] = json!(mac);
    }
    data
}

/// Writes a pod's part of the status of one claim. Without devices, this removes what was written. A claim or a device that no
/// longer exists is skipped.
pub(super) async fn apply(api: &Api, pod: &Pod, claim: &str, devices: &[DeviceStatus]) -> Result<(), ClusterError> {
    let namespace = &pod.namespace;
    let grants = match dra::claim(api, namespace, claim).await? {
        Some(found) => found.grants().unwrap_or_default(),
        None => return Ok(()),
    };
    let entries = entries(devices, grants);
    let status = if entries.is_empty() { json!({}) } else { json!({ "devices": entries }) };
    write(api, (namespace, claim), &field_manager(&pod.uid), &status).await
}

/// Writes the part of a claim's status that belongs to a field manager. A claim that no longer exists is skipped.
pub(super) async fn write(
    api: &Api,
    (namespace, claim): (&str, &str),
    manager: &str,
    status: &Value,
) -> Result<(), ClusterError> {
    let object = json!({
        "apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim",
        "metadata": {"name": claim, "namespace": namespace}, "status": status,
    });
    let request = http::Request::patch(format!(
        "{GROUP}/namespaces/{namespace}/resourceclaims/{claim}/status?fieldManager={manager}&force=true"
    ))
    .header(http::header::CONTENT_TYPE, "application/apply-patch+yaml")
    .header(http::header::ACCEPT, "application/json")
    .body(serde_json::to_vec(&object).unwrap_or_default())
    .map_err(not_a_request)?;
    match api.send(&format!("write the status of resource claim {namespace}/{claim}"), request).await {
        Err(ClusterError::Refused { status: 404, .. }) => Ok(()),
        other => other.map(drop),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cni::Version;
    use crate::source::device::DeviceKey;

    fn claimed(request: &str, ifname: &str, result: Option<&str>) -> Claimed {
        let device = AllocatedDevice {
            claim: "nics".into(),
            driver: "d".into(),
            pool: "p".into(),
            device: "a".into(),
            request: Some(request.into()),
            share: None,
        };
        let result = result.map(|json| AddResult::parse(json.as_bytes(), Version::V1_0_0).unwrap());
        Claimed { device, ifname: ifname.into(), result }
    }

    #[test]
    fn each_device_has_its_interface_its_addresses_and_its_share() {
        let of_one = r#"{"interfaces": [{"name": "host"}, {"name": "net1", "sandbox": "/n", "mac": "02:00:00:00:00:01"}],
            "ips": [{"address": "10.0.0.5/24", "interface": 1}, {"address": "fd00::5/64", "interface": 1}]}"#;
        let statuses =
            claim_statuses("/n", &[claimed("one", "net1", Some(of_one)), claimed("two", "net2", Some("{}"))]);
        let grant = |request: &str, share: &str| Grant {
            request: Some(request.into()),
            key: DeviceKey { driver: "d".into(), pool: "p".into(), name: "a".into() },
            share: Some(share.into()),
        };
        let grants = vec![grant("one", "s1"), grant("two", "s2")];
        let entries = entries(&statuses["nics"], grants.clone());
        let data = json!({"interfaceName": "net1", "ips": ["10.0.0.5/24", "fd00::5/64"],
            "hardwareAddress": "02:00:00:00:00:01"});
        let one = json!({"driver": "d", "pool": "p", "device": "a", "shareID": "s1", "networkData": data});
        assert_eq!(entries[0], one);
        assert_eq!(entries[1]["shareID"], "s2");
        assert_eq!(entries[1]["networkData"], json!({"interfaceName": "net2"}));
        assert_eq!(super::entries(&statuses["nics"][..1], grants[1..].to_vec()), Vec::<Value>::new());
    }

    #[test]
    fn shares_of_one_request_have_an_entry_each() {
        let share = |share: Option<&str>, ifname: &str| {
            let mut claimed = claimed("one", ifname, Some("{}"));
            claimed.device.share = share.map(str::to_owned);
            claimed
        };
        let grant = |share: &str| Grant {
            request: Some("one".into()),
            key: DeviceKey { driver: "d".into(), pool: "p".into(), name: "a".into() },
            share: Some(share.into()),
        };
        // A device whose share is not known gets the remaining one.
        let statuses = claim_statuses("/n", &[share(None, "net1"), share(Some("s1"), "net2")]);
        let entries = entries(&statuses["nics"], vec![grant("s1"), grant("s2")]);
        let shown: Vec<_> =
            entries.iter().map(|entry| (&entry["shareID"], &entry["networkData"]["interfaceName"])).collect();
        assert_eq!(shown, [(&json!("s1"), &json!("net2")), (&json!("s2"), &json!("net1"))]);
    }

    #[test]
    fn a_claim_of_which_nothing_is_attached_has_nothing_to_say() {
        let statuses = claim_statuses("/n", &[claimed("one", "net1", None)]);
        assert_eq!(statuses["nics"], []);
    }
}
