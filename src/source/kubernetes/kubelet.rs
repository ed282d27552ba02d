//! The kubelet's pod-resources service: which devices of device plugins and of resource claims it has given to a pod.
//!
//! The messages are a part of `k8s.io/kubelet/pkg/apis/podresources/v1/api.proto`.

use std::path::Path;
use std::time::{Duration, Instant};

use http::uri::PathAndQuery;
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint};
use tonic_prost::ProstCodec;

use super::api::with_causes;
use crate::source::ClusterError;
use crate::source::device::{DeviceKey, Devices};
use crate::source::pod::Pod;

/// How long the kubelet may take.
const KUBELET_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Clone, PartialEq, prost::Message)]
struct ListRequest {}

#[derive(Clone, PartialEq, prost::Message)]
struct ListResponse {
    #[prost(message, repeated, tag = "1")]
    pod_resources: Vec<PodResources>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct GetRequest {
    #[prost(string, tag = "1")]
    pod_name: String,
    #[prost(string, tag = "2")]
    pod_namespace: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct GetResponse {
    #[prost(message, optional, tag = "1")]
    pod_resources: Option<PodResources>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PodResources {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    namespace: String,
    #[prost(message, repeated, tag = "3")]
    containers: Vec<ContainerResources>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ContainerResources {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, repeated, tag = "2")]
    devices: Vec<ContainerDevices>,
    #[prost(message, repeated, tag = "5")]
    dynamic_resources: Vec<DynamicResource>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct DynamicResource {
    #[prost(string, tag = "2")]
    claim: String,
    #[prost(string, tag = "3")]
    namespace: String,
    #[prost(message, repeated, tag = "4")]
    resources: Vec<ClaimResource>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ClaimResource {
    #[prost(string, tag = "2")]
    driver: String,
    #[prost(string, tag = "3")]
    pool: String,
    #[prost(string, tag = "4")]
    device: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ContainerDevices {
    #[prost(string, tag = "1")]
    resource_name: String,
    #[prost(string, repeated, tag = "2")]
    device_ids: Vec<String>,
}

/// What the kubelet has given a pod.
#[derive(Debug, Default)]
pub(super) struct Resources {
    /// The devices of device plugins.
    pub(super) devices: Devices,
    /// The devices of resource claims, each with the name of its `ResourceClaim`.
    pub(super) prepared: Vec<(String, DeviceKey)>,
}

/// Asks the kubelet for the devices of a pod.
pub(super) async fn resources(socket: &Path, pod: &Pod, deadline: Instant) -> Result<Resources, ClusterError> {
    let failed = |reason: String| ClusterError::Kubelet { socket: socket.to_owned(), reason };
    let left = deadline.saturating_duration_since(Instant::now()).min(KUBELET_TIMEOUT);
    let asking = async {
        let endpoint = Endpoint::from_shared(format!("unix:{}", socket.display())).map_err(|e| with_causes(&e))?;
        let channel = endpoint.connect().await.map_err(|error| with_causes(&error))?;
        let mut kubelet = Grpc::new(channel);
        match get(&mut kubelet, pod).await {
            Ok(found) => Ok(found),
            // Older kubelets do not have Get, or have it disabled. All have List.
            Err(_) => list(&mut kubelet, pod).await.map_err(|status| status.message().to_owned()),
        }
    };
    let found = tokio::time::timeout(left, asking)
        .await
        .map_err(|_| failed(format!("no answer within {:.1} s", left.as_secs_f64())))?
        .map_err(failed)?;
    let mut resources = Resources::default();
    for container in found.into_iter().flat_map(|pod| pod.containers) {
        resources.add(container, &pod.namespace);
    }
    Ok(resources)
}

impl Resources {
    fn add(&mut self, container: ContainerResources, namespace: &str) {
        for device in container.devices {
            let known = self.devices.entry(device.resource_name).or_default();
            for id in device.device_ids {
                if !known.contains(&id) {
                    known.push(id);
                }
            }
        }
        for of_claim in container.dynamic_resources.into_iter().filter(|found| found.namespace == namespace) {
            // What is no device has no name.
            let devices = of_claim.resources.into_iter().filter(|resource| !resource.device.is_empty());
            self.prepared.extend(devices.map(|ClaimResource { driver, pool, device: name }| {
                (of_claim.claim.clone(), DeviceKey { driver, pool, name })
            }));
        }
    }
}

async fn get(kubelet: &mut Grpc<Channel>, pod: &Pod) -> Result<Option<PodResources>, tonic::Status> {
    let request = GetRequest { pod_name: pod.name.clone(), pod_namespace: pod.namespace.clone() };
    let response: GetResponse = unary(kubelet, "/v1.PodResourcesLister/Get", request).await?;
    Ok(response.pod_resources.filter(|found| is_of(found, pod)))
}

async fn list(kubelet: &mut Grpc<Channel>, pod: &Pod) -> Result<Option<PodResources>, tonic::Status> {
    let response: ListResponse = unary(kubelet, "/v1.PodResourcesLister/List", ListRequest {}).await?;
    Ok(response.pod_resources.into_iter().find(|found| is_of(found, pod)))
}

fn is_of(found: &PodResources, pod: &Pod) -> bool {
    (&found.namespace, &found.name) == (&pod.namespace, &pod.name)
}

async fn unary<Q, A>(kubelet: &mut Grpc<Channel>, method: &'static str, request: Q) -> Result<A, tonic::Status>
where
    Q: prost::Message + 'static,
    A: prost::Message + Default + 'static,
{
    kubelet.ready().await.map_err(|error| tonic::Status::unavailable(with_causes(&error)))?;
    let codec: ProstCodec<Q, A> = ProstCodec::default();
    let path = PathAndQuery::from_static(method);
    kubelet.unary(tonic::Request::new(request), path, codec).await.map(tonic::Response::into_inner)
}
