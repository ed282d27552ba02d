//! Finds out the devices of a pod from the kubelet, drivers' files and the API server. [`Inventory`] decides what to request, and
//! in which order.
//!
//! The objects are those of `resource.k8s.io/v1`, with only the fields that are used.

use std::collections::BTreeMap;
use std::time::Instant;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ListMeta, ObjectMeta};
use kube::api::{GetParams, ListParams};
use kube::core::Request as ApiRequest;
use serde::Deserialize;

use super::api::{Api, not_a_request};
use super::device_metadata::{self, Attribute, Place};
use super::{kubelet, objects};
use crate::config::KubernetesConfig;
use crate::source::ClusterError;
use crate::source::device::{
    Assignments, ClaimObject, Demand, DeviceKey, ExtendedClaim, Grant, HeldDevice, Inventory, PodClaim, PodClaims,
    Question, Slice, SliceScope,
};
use crate::source::pod::Pod;

/// The API group and version.
pub(super) const GROUP: &str = "/apis/resource.k8s.io/v1";
/// How many slices are in one answer. A slice has up to 128 devices.
const SLICES: u32 = 100;

/// A pod whose devices are asked for.
pub(super) struct PodDevices<'a> {
    pub(super) api: &'a Api,
    pub(super) config: &'a KubernetesConfig,
    pub(super) pod: &'a Pod,
    /// The devices that existing attachments of the pod use.
    pub(super) held: &'a [HeldDevice],
    pub(super) deadline: Instant,
}

impl PodDevices<'_> {
    /// Finds a device for each demand.
    ///
    /// # Errors
    /// When the kubelet or the API server cannot be asked. What is wrong with one demand is in its place in the list.
    pub(super) async fn assign(&self, demands: &[Demand]) -> Result<Assignments, ClusterError> {
        if demands.is_empty() {
            return Ok(Assignments::new());
        }
        let mut inventory = self.of_kubelet(demands).await?;
        self.held.iter().for_each(|device| inventory.reserve(device));
        loop {
            match inventory.assign(demands) {
                Ok(assignments) => return Ok(assignments),
                Err(question) => self.ask(question, &mut inventory).await?,
            }
        }
    }

    /// The kubelet's information. If all attachments name their claims, the API server's is enough.
    async fn of_kubelet(&self, demands: &[Demand]) -> Result<Inventory, ClusterError> {
        match kubelet::resources(&self.config.pod_resources, self.pod, self.deadline).await {
            Ok(found) => Ok(Inventory::new(found.devices, found.prepared)),
            Err(error) if demands.iter().all(|demand| demand.claim.is_some()) => {
                tracing::warn!("{error}; the API server is asked for the pod's resource claims");
                Ok(Inventory::default())
            }
            Err(error) => Err(error),
        }
    }

    async fn ask(&self, question: Question, inventory: &mut Inventory) -> Result<(), ClusterError> {
        match question {
            Question::Metadata { claim, driver } => {
                let namespace = &self.pod.namespace;
                let kubelet_dir = &self.config.kubelet_dir;
                let place = Place { kubelet_dir, driver: &driver, namespace, claim: &claim };
                inventory.add_metadata(&claim, &driver, device_metadata::read(place));
            }
            Question::Pod => inventory.add_claims_of_pod(self.claims().await?),
            Question::Claim(name) => {
                let claim = self::claim(self.api, &self.pod.namespace, &name).await?;
                inventory.add_grants(&name, claim.and_then(ApiClaim::grants));
            }
            Question::Slices { driver, scope } => {
                let node = inventory.pod().map(|pod| pod.node.as_str()).unwrap_or_default();
                let slices = self.slices(&driver, scope, node).await?;
                inventory.add_slices(&driver, scope, slices);
            }
        }
        Ok(())
    }

    /// What the pod says of its claims.
    async fn claims(&self) -> Result<PodClaims, ClusterError> {
        let Pod { namespace, name, uid, .. } = self.pod;
        let path = format!("/api/v1/namespaces/{namespace}/pods");
        let request = ApiRequest::new(path).get(name, &GetParams::default()).map_err(not_a_request)?;
        let found: ApiPod = self.api.ask(&format!("get pod {namespace}/{name} with its claims"), request).await?;
        if found.metadata.uid.as_ref() != Some(uid) {
            return Err(ClusterError::PodGone {
                namespace: namespace.clone(),
                name: name.clone(),
                reason: "another pod has its name by now".into(),
            });
        }
        Ok(found.claims())
    }

    /// The slices of a driver, page by page.
    async fn slices(&self, driver: &str, scope: SliceScope, node: &str) -> Result<Vec<Slice>, ClusterError> {
        let node = match scope {
            SliceScope::Node => node,
            SliceScope::Unbound => "",
        };
        let mut params =
            ListParams::default().fields(&format!("spec.nodeName={node},spec.driver={driver}")).limit(SLICES);
        let action = match scope {
            SliceScope::Node => format!("list the ResourceSlices of driver {driver} on node {node}"),
            SliceScope::Unbound => format!("list the ResourceSlices of driver {driver} that name no node"),
        };
        let mut slices = Vec::new();
        loop {
            let path = format!("{GROUP}/resourceslices");
            let request = ApiRequest::new(path).list(&params).map_err(not_a_request)?;
            let page: ApiSlices = self.api.ask(&action, request).await?;
            let is_meant =
                |spec: &SliceSpec| spec.driver == driver && spec.node_name.as_deref().unwrap_or_default() == node;
            slices.extend(page.items.into_iter().map(|slice| slice.spec).filter(is_meant).map(SliceSpec::slice));
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params = params.continue_token(&token),
                None => return Ok(slices),
            }
        }
    }
}

/// A `ResourceClaim`. `None` if it does not exist.
pub(super) async fn claim(api: &Api, namespace: &str, name: &str) -> Result<Option<ApiClaim>, ClusterError> {
    let action = format!("get resource claim {namespace}/{name}");
    let path = format!("{GROUP}/namespaces/{namespace}/resourceclaims");
    let request = ApiRequest::new(path).get(name, &GetParams::default()).map_err(not_a_request)?;
    match api.ask::<ApiClaim>(&action, request).await {
        Ok(claim) => objects::is_what_was_asked_for(&action, &claim.metadata, namespace, name).map(|()| Some(claim)),
        // An API server without this type also answers 404, but does not name the claim.
        Err(ClusterError::Refused { status: 404, reason, .. }) if reason.contains(name) => Ok(None),
        Err(error) => Err(error),
    }
}

#[derive(Deserialize)]
struct ApiPod {
    metadata: ObjectMeta,
    #[serde(default)]
    spec: ApiPodSpec,
    #[serde(default)]
    status: ApiPodStatus,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ApiPodSpec {
    node_name: String,
    resource_claims: Vec<ApiPodClaim>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ApiPodClaim {
    name: String,
    #[serde(default)]
    resource_claim_name: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ApiPodStatus {
    resource_claim_statuses: Vec<ApiPodClaim>,
    extended_resource_claim_status: Option<ApiExtendedClaim>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ApiExtendedClaim {
    resource_claim_name: String,
    #[serde(default)]
    request_mappings: Vec<RequestMapping>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RequestMapping {
    resource_name: String,
    request_name: String,
}

impl ApiPod {
    fn claims(self) -> PodClaims {
        let Self { spec, status, .. } = self;
        // The status names a claim that is made from a template, or has no name if the pod does not need the claim.
        let generated = |name: &str| match status.resource_claim_statuses.iter().find(|found| found.name == name) {
            Some(found) => found.resource_claim_name.clone().map_or(ClaimObject::NotNeeded, ClaimObject::Named),
            None => ClaimObject::Pending,
        };
        let claim = |claim: ApiPodClaim| {
            let object = claim.resource_claim_name.map_or_else(|| generated(&claim.name), ClaimObject::Named);
            PodClaim { name: claim.name, object }
        };
        let claims = spec.resource_claims.into_iter().map(claim).collect();
        let extended = status.extended_resource_claim_status.map(|extended| ExtendedClaim {
            object: extended.resource_claim_name,
            requests: (extended.request_mappings.into_iter())
                .map(|mapping| (mapping.resource_name, mapping.request_name))
                .collect(),
        });
        PodClaims { node: spec.node_name, claims, extended }
    }
}

/// A `ResourceClaim`.
#[derive(Deserialize)]
pub(super) struct ApiClaim {
    metadata: ObjectMeta,
    #[serde(default)]
    status: ApiClaimStatus,
}

#[derive(Default, Deserialize)]
struct ApiClaimStatus {
    #[serde(default)]
    allocation: Option<Allocation>,
}

#[derive(Deserialize)]
struct Allocation {
    #[serde(default)]
    devices: AllocatedDevices,
}

#[derive(Default, Deserialize)]
struct AllocatedDevices {
    #[serde(default)]
    results: Vec<AllocationResult>,
}

#[derive(Deserialize)]
struct AllocationResult {
    request: String,
    driver: String,
    pool: String,
    device: String,
    #[serde(default, rename = "shareID")]
    share_id: Option<String>,
}

impl ApiClaim {
    /// What has been allocated. `None` if nothing has been.
    pub(super) fn grants(self) -> Option<Vec<Grant>> {
        let results = self.status.allocation?.devices.results;
        let grant = |result: AllocationResult| Grant {
            request: Some(result.request),
            key: DeviceKey { driver: result.driver, pool: result.pool, name: result.device },
            share: result.share_id,
        };
        Some(results.into_iter().map(grant).collect())
    }
}

#[derive(Deserialize)]
struct ApiSlices {
    #[serde(default)]
    metadata: ListMeta,
    items: Vec<ApiSlice>,
}

#[derive(Deserialize)]
struct ApiSlice {
    spec: SliceSpec,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SliceSpec {
    driver: String,
    pool: SlicePool,
    #[serde(default)]
    node_name: Option<String>,
    #[serde(default)]
    devices: Vec<SliceDevice>,
}

#[derive(Deserialize)]
struct SlicePool {
    name: String,
    generation: i64,
}

#[derive(Deserialize)]
struct SliceDevice {
    name: String,
    #[serde(default)]
    attributes: BTreeMap<String, Attribute>,
}

impl SliceSpec {
    fn slice(self) -> Slice {
        let device = |device: SliceDevice| (device.name, device_metadata::identity(&device.attributes));
        Slice {
            pool: self.pool.name,
            generation: self.pool.generation,
            devices: self.devices.into_iter().map(device).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pod_says_which_claims_it_has() {
        let pod: ApiPod = serde_json::from_value(json!({"metadata": {"name": "shop"},
            "spec": {"nodeName": "node-1", "resourceClaims": [
                {"name": "own", "resourceClaimName": "shared-nics"},
                {"name": "made", "resourceClaimTemplateName": "nics"},
                {"name": "later", "resourceClaimTemplateName": "nics"},
                {"name": "none", "resourceClaimTemplateName": "nics"}]},
            "status": {"resourceClaimStatuses": [
                {"name": "made", "resourceClaimName": "shop-made-x7k2p"}, {"name": "none"}],
                "extendedResourceClaimStatus": {"resourceClaimName": "shop-extended-resources-9x",
                    "requestMappings": [{"containerName": "main", "resourceName": "vendor.com/vf",
                        "requestName": "container-0-request-0"}]}}}))
        .unwrap();
        let claims = pod.claims();
        let objects: Vec<_> = claims.claims.iter().map(|claim| claim.object.clone()).collect();
        let named = |name: &str| ClaimObject::Named(name.into());
        let expected = [named("shared-nics"), named("shop-made-x7k2p"), ClaimObject::Pending, ClaimObject::NotNeeded];
        assert_eq!(objects, expected);
        assert_eq!(claims.extended.unwrap().requests, [("vendor.com/vf".into(), "container-0-request-0".into())]);
    }

    #[test]
    fn a_claim_without_an_allocation_has_been_given_nothing() {
        let claim = |status: serde_json::Value| {
            serde_json::from_value::<ApiClaim>(json!({"metadata": {}, "status": status})).unwrap().grants()
        };
        assert_eq!(claim(json!({})), None);
        assert_eq!(claim(json!({"allocation": {}})), Some(Vec::new()));
        let result = json!({"request": "nic/fast", "driver": "d", "pool": "p", "device": "a", "shareID": "s"});
        let grants = claim(json!({"allocation": {"devices": {"results": [result]}}})).unwrap();
        assert_eq!((grants[0].request.as_deref(), grants[0].share.as_deref()), (Some("nic/fast"), Some("s")));
    }
}
