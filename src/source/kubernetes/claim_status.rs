//! What is written to the status of resource claims: the interface, addresses and hardware address of each device (KEP-4817).
//!
//! It is applied by the server, under a name that is the pod's own. So a pod takes back what it has written and nothing
//! else, where several share a claim, and where the driver writes to the status too.

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

/// The most addresses that the API takes for a device.
const MAX_IPS: usize = 16;

/// The name under which a pod's part of a claim's status is written.
pub(super) fn field_manager(uid: &str) -> String {
    format!("braid-{uid}")
}

/// What claims are to say of a pod's devices, by the name of the `ResourceClaim`. A claim of whose devices nothing is
/// attached has nothing to say. The pod's namespace is at `netns`.
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

    /// The entry of the status. Which share of the device it is about, the claim says.
    fn entry(&self, grants: &[Grant]) -> Option<Value> {
        let AllocatedDevice { driver, pool, device, request, .. } = &self.device;
        let is_device = |grant: &&Grant| {
            (&grant.key.driver, &grant.key.pool, &grant.key.name) == (driver, pool, device)
                && (request.is_none() || grant.request == *request)
        };
        let grant = grants.iter().find(is_device)?;
        let mut entry = json!({"driver": driver, "pool": pool, "device": device, "networkData": self.network_data});
        if let Some(share) = &grant.share {
            entry["shareID"] = json!(share);
        }
        Some(entry)
    }
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

/// Writes a pod's part of the status of one claim. Without devices it takes back what was written. A claim that is gone has
/// no status, and a device that the claim has no more has none either.
pub(super) async fn apply(api: &Api, pod: &Pod, claim: &str, devices: &[DeviceStatus]) -> Result<(), ClusterError> {
    let namespace = &pod.namespace;
    let grants = match dra::claim(api, namespace, claim).await? {
        Some(found) => found.grants().unwrap_or_default(),
        None => return Ok(()),
    };
    let entries: Vec<Value> = devices.iter().filter_map(|device| device.entry(&grants)).collect();
    let status = if entries.is_empty() { json!({}) } else { json!({ "devices": entries }) };
    write(api, (namespace, claim), &field_manager(&pod.uid), &status).await
}

/// Writes the part of a claim's status that is a manager's. A claim that is gone has no status.
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
        let grants = [grant("one", "s1"), grant("two", "s2")];
        let entries: Vec<_> = statuses["nics"].iter().map(|status| status.entry(&grants).unwrap()).collect();
        let data = json!({"interfaceName": "net1", "ips": ["10.0.0.5/24", "fd00::5/64"],
            "hardwareAddress": "02:00:00:00:00:01"});
        let one = json!({"driver": "d", "pool": "p", "device": "a", "shareID": "s1", "networkData": data});
        assert_eq!(entries[0], one);
        assert_eq!(entries[1]["shareID"], "s2");
        assert_eq!(entries[1]["networkData"], json!({"interfaceName": "net2"}));
        assert_eq!(statuses["nics"][0].entry(&grants[1..]), None);
    }

    #[test]
    fn a_claim_of_which_nothing_is_attached_has_nothing_to_say() {
        let statuses = claim_statuses("/n", &[claimed("one", "net1", None)]);
        assert_eq!(statuses["nics"], []);
    }
}
