//! One call's conversation with the API server.

use std::time::{Duration, Instant};

use futures_util::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::core::v1::Pod as ApiPod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use kube::api::{GetParams, Patch, PatchParams, PostParams};
use kube::core::{PartialObjectMeta, Request as ApiRequest};
use serde::Deserialize;
use serde_json::json;

use super::api::Api;
use super::kubelet;
use super::{ClusterError, Notice, is_configured, pod_of};
use crate::config::Config;
use crate::request::Request;
use crate::source::pod::{Definition, DefinitionKey, Definitions, Devices, Pod, PodView, RESOURCE_NAME};
use crate::source::{Gathered, SourceError, Surveyed, Wanted, operators_definitions};

/// The annotation that the status of a pod's networks is written to (NPWG specification, §5).
const NETWORK_STATUS: &str = "k8s.v1.cni.cncf.io/network-status";
/// The annotation by which a pod that the API server did not make is known; its UID is not the kubelet's.
const CONFIG_SOURCE: &str = "kubernetes.io/config.source";
/// The API group and version of network-attachment-definitions.
const DEFINITIONS: &str = "/apis/k8s.cni.cncf.io/v1";
/// How often a status that someone else's write got in the way of is written.
const STATUS_ATTEMPTS: u32 = 5;
/// The time for events, which come after the answer and hold the process up.
const EVENTS: Duration = Duration::from_millis(100);

/// One call's conversation with the API server.
#[derive(Debug)]
pub struct Session {
    runtime: tokio::runtime::Runtime,
    api: Api,
    deadline: Instant,
    namespace: String,
    name: String,
}

#[derive(Deserialize)]
struct ApiDefinition {
    metadata: ObjectMeta,
    #[serde(default)]
    spec: Option<ApiDefinitionSpec>,
}

#[derive(Deserialize)]
struct ApiDefinitionSpec {
    #[serde(default)]
    config: Option<String>,
}

impl Session {
    /// Starts a conversation, if the configuration asks for Kubernetes and the call is for a pod. Nothing is sent yet.
    ///
    /// # Errors
    /// When the pod's name cannot be one, or the process lacks what it takes.
    pub fn open(config: &Config, request: &Request, deadline: Instant) -> Result<Option<Self>, ClusterError> {
        let Some((namespace, name)) = pod_of(request).filter(|_| is_configured(config, request)) else {
            return Ok(None);
        };
        for (key, value) in [("K8S_POD_NAMESPACE", namespace), ("K8S_POD_NAME", name)] {
            if !is_name(value) {
                return Err(ClusterError::Name { key, value: value.chars().take(64).collect() });
            }
        }
        Ok(Some(Self {
            runtime: start()?,
            api: Api::new(config.kubeconfig.clone(), &config.kubernetes, deadline),
            deadline,
            namespace: namespace.into(),
            name: name.into(),
        }))
    }

    /// Looks, for STATUS, whether the API server answers, takes the credentials and knows the definitions' type, and
    /// fetches the definitions that the operator's own networks may be.
    ///
    /// # Errors
    /// When any of that is not so.
    pub fn probe(config: &Config, request: &Request, deadline: Instant) -> Result<Option<Definitions>, ClusterError> {
        if !is_configured(config, request) {
            return Ok(None);
        }
        let api = Api::new(config.kubeconfig.clone(), &config.kubernetes, deadline);
        start()?.block_on(async {
            let request = http::Request::get(DEFINITIONS).body(Vec::new()).map_err(not_a_request)?;
            api.call("list the resources of k8s.cni.cncf.io/v1", request).await?;
            definitions(&api, operators_definitions(config)).await.map(Some)
        })
    }

    /// Finds out what the pod is to be attached to. Returns the call as its plugins are to see it, the attachments,
    /// and the pod.
    ///
    /// # Errors
    /// When the pod is gone, or a network it would get is not there, not for it, or not to be read.
    pub fn gather(&self, config: &Config, request: &Request) -> Result<(Request, Gathered, Pod), SourceError> {
        let (wanted, view) = self.runtime.block_on(async {
            let pod = self.pod(request).await?;
            let wanted = Wanted::list(config, request, Some(&pod))?;
            let definitions = definitions(&self.api, wanted.definitions()).await?;
            let devices = if definitions.take_devices() {
                kubelet::devices(&config.kubernetes.pod_resources, &pod, self.deadline).await?
            } else {
                Devices::new()
            };
            Ok::<_, SourceError>((wanted, PodView { pod, definitions, devices }))
        })?;
        let gathered = wanted.resolve(config, Some(&view));
        if let Err(error @ SourceError::NoDefinition { .. }) = &gathered
            && config.kubernetes.events
        {
            let message = error.to_string();
            self.announce(&view.pod, &[Notice { reason: "NoNetworkFound", message, is_warning: true }]);
        }
        Ok((with_pod_args(request, &view.pod), gathered?, view.pod))
    }

    /// Finds out what the pod would be attached to, and all that is wrong with it. Nothing is written, and no event posted.
    ///
    /// # Errors
    /// When the pod is gone, or the API server cannot be asked.
    pub fn survey(&self, config: &Config, request: &Request) -> Result<(Request, Surveyed), ClusterError> {
        self.runtime.block_on(async {
            let (pod, mut errors) = self.surveyed_pod(request).await?;
            let wanted = Wanted::survey(config, request, Some(&pod));
            let mut definitions = surveyed_definitions(&self.api, wanted.definitions()).await?;
            let mut devices = Devices::new();
            if definitions.take_devices() {
                match kubelet::devices(&config.kubernetes.pod_resources, &pod, self.deadline).await {
                    Ok(found) => devices = found,
                    Err(error) => {
                        errors.push(error.into());
                        definitions.without_devices();
                    }
                }
            }
            let view = PodView { pod, definitions, devices };
            let mut surveyed = wanted.survey_networks(config, Some(&view));
            surveyed.errors.splice(0..0, errors);
            Ok((with_pod_args(request, &view.pod), surveyed))
        })
    }

    /// The pod, if it is the one that the call is for.
    async fn pod(&self, request: &Request) -> Result<Pod, SourceError> {
        let (pod, errors) = self.surveyed_pod(request).await?;
        errors.into_iter().next().map_or(Ok(pod), Err)
    }

    /// The same, with all that is wrong with its annotations.
    async fn surveyed_pod(&self, request: &Request) -> Result<(Pod, Vec<SourceError>), ClusterError> {
        let gone = |reason: &str| ClusterError::PodGone {
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            reason: reason.into(),
        };
        let metadata = self.metadata().await?.ok_or_else(|| gone("the API server does not know it"))?;
        let annotations = metadata.annotations.unwrap_or_default();
        let annotation = |key: &str| annotations.get(key).map(String::as_str);
        let uid = metadata.uid.unwrap_or_default();
        let is_static = annotation(CONFIG_SOURCE).is_some_and(|source| source != "api");
        if let Some(expected) = request.arg("K8S_POD_UID").filter(|expected| !expected.is_empty() && *expected != uid)
            && !is_static
        {
            let reason = format!("the pod of that name is another one (UID {uid}, expected {expected})");
            return Err(gone(&reason));
        }
        Ok(Pod::survey(&self.namespace, &self.name, &uid, annotation))
    }

    /// The pod's metadata; none if there is no such pod.
    async fn metadata(&self) -> Result<Option<ObjectMeta>, ClusterError> {
        let request = ApiRequest::new(ApiPod::url_path(&(), Some(&self.namespace)))
            .get_metadata(&self.name, &GetParams::default())
            .map_err(not_a_request)?;
        let action = format!("get pod {}/{}", self.namespace, self.name);
        match self.api.call(&action, request).await {
            Ok(body) => Ok(Some(decode::<PartialObjectMeta<ApiPod>>(&action, &body)?.metadata)),
            Err(ClusterError::Refused { status: 404, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes the status of the pod's networks. A pod that is gone has none, and that is no error.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_status(&self, pod: &Pod, status: &str) -> Result<(), ClusterError> {
        self.runtime.block_on(async {
            // The UID makes the API server refuse a pod that has only the name in common with ours.
            let metadata = json!({ "uid": pod.uid, "annotations": { NETWORK_STATUS: status } });
            let patch = Patch::Merge(json!({ "metadata": metadata }));
            let request = ApiRequest::new(ApiPod::url_path(&(), Some(&self.namespace)))
                .patch_subresource("status", &self.name, &PatchParams::default(), &patch)
                .map_err(not_a_request)?;
            let action = format!("write the network status of pod {}/{}", self.namespace, self.name);
            let mut attempts = 1;
            loop {
                let refusal = match self.api.call(&action, request.clone()).await {
                    Err(ClusterError::Refused { status: 404, .. }) => {
                        self.note_gone();
                        return Ok(());
                    }
                    Err(error @ ClusterError::Refused { status: 409 | 422, .. }) => error,
                    other => return other.map(drop),
                };
                // Either someone else wrote at the same time, or the pod is another one.
                match self.metadata().await? {
                    Some(now) if now.uid.as_deref() == Some(&pod.uid) => {}
                    _ => {
                        self.note_gone();
                        return Ok(());
                    }
                }
                if attempts == STATUS_ATTEMPTS || matches!(refusal, ClusterError::Refused { status: 422, .. }) {
                    return Err(refusal);
                }
                attempts += 1;
            }
        })
    }

    fn note_gone(&self) {
        tracing::info!(
            namespace = self.namespace,
            pod = self.name,
            "the pod is gone; its network status is not written"
        );
    }

    /// Posts events about the pod, as far as that goes in a short time. They are for people: nothing depends on them.
    pub fn announce(&self, pod: &Pod, notices: &[Notice]) {
        let posting = async {
            let posts = stream::iter(notices).map(|notice| self.post(pod, notice));
            let mut outcomes = posts.buffer_unordered(self.api.at_once());
            while let Some(outcome) = outcomes.next().await {
                if let Err(error) = outcome {
                    tracing::debug!("an event could not be posted: {error}");
                }
            }
        };
        if self.runtime.block_on(async { tokio::time::timeout(EVENTS, posting).await }).is_err() {
            tracing::debug!("events could not be posted in time");
        }
    }

    async fn post(&self, pod: &Pod, notice: &Notice) -> Result<(), ClusterError> {
        let now = k8s_openapi::jiff::Timestamp::now();
        let now = format!("{now:.0}");
        let event = json!({
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": { "generateName": format!("{}.", self.name), "namespace": self.namespace },
            "involvedObject": {
                "apiVersion": "v1", "kind": "Pod", "namespace": self.namespace, "name": self.name, "uid": pod.uid,
            },
            "type": if notice.is_warning { "Warning" } else { "Normal" },
            "reason": notice.reason,
            "message": notice.message,
            "source": { "component": "braid" },
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        });
        let path = format!("/api/v1/namespaces/{}/events", self.namespace);
        let body = serde_json::to_vec(&event).unwrap_or_default();
        let request = ApiRequest::new(path).create(&PostParams::default(), body).map_err(not_a_request)?;
        self.api.call("post an event", request).await.map(drop)
    }
}

pub(super) fn start() -> Result<tokio::runtime::Runtime, ClusterError> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(ClusterError::Start)
}

/// Fetches definitions. One that is not there is left out.
async fn definitions(api: &Api, keys: Vec<DefinitionKey>) -> Result<Definitions, ClusterError> {
    let fetched: Vec<Option<(DefinitionKey, Definition)>> =
        stream::iter(keys).map(|key| definition(api, key)).buffer_unordered(api.at_once()).try_collect().await?;
    Ok(fetched.into_iter().flatten().collect())
}

/// Fetches definitions as [`definitions`] does, and goes on where one is refused.
async fn surveyed_definitions(api: &Api, keys: Vec<DefinitionKey>) -> Result<Definitions, ClusterError> {
    let fetch = async |key: DefinitionKey| (key.clone(), definition(api, key).await);
    let mut fetched = std::pin::pin!(stream::iter(keys).map(fetch).buffer_unordered(api.at_once()));
    let mut definitions = Definitions::default();
    while let Some((key, outcome)) = fetched.next().await {
        match outcome {
            Ok(found) => definitions.extend(found),
            Err(error @ ClusterError::Refused { .. }) => definitions.withhold(key, error.to_string()),
            Err(error) => return Err(error),
        }
    }
    Ok(definitions)
}

async fn definition(api: &Api, key: DefinitionKey) -> Result<Option<(DefinitionKey, Definition)>, ClusterError> {
    let action = format!("get network-attachment-definition {key}");
    let path = format!("{DEFINITIONS}/namespaces/{}/network-attachment-definitions", key.namespace);
    let request = ApiRequest::new(path).get(&key.name, &GetParams::default()).map_err(not_a_request)?;
    let body = match api.call(&action, request).await {
        Ok(body) => body,
        Err(ClusterError::Refused { status: 404, .. }) => return Ok(None),
        Err(error) => return Err(error),
    };
    let definition: ApiDefinition = decode(&action, &body)?;
    let config = definition.spec.and_then(|spec| spec.config).filter(|config| !config.trim().is_empty());
    let resource = definition.metadata.annotations.and_then(|mut annotations| annotations.remove(RESOURCE_NAME));
    Ok(Some((key, Definition { config, resource: resource.filter(|name| !name.is_empty()) })))
}

pub(super) fn decode<T: for<'de> Deserialize<'de>>(action: &str, body: &[u8]) -> Result<T, ClusterError> {
    serde_json::from_slice(body).map_err(|error| ClusterError::Refused {
        action: action.into(),
        status: 200,
        reason: format!("with an answer that cannot be read: {error}"),
    })
}

/// A request that cannot even be written down.
pub(super) fn not_a_request(error: impl std::error::Error + 'static) -> ClusterError {
    ClusterError::Start(std::io::Error::other(error.to_string()))
}

/// The call with the arguments that plugins of a pod get.
fn with_pod_args(request: &Request, pod: &Pod) -> Request {
    let mut args = request.args.clone();
    args.set("IgnoreUnknown", "true");
    args.set("K8S_POD_NAMESPACE", &pod.namespace);
    args.set("K8S_POD_NAME", &pod.name);
    for (key, value) in [("K8S_POD_INFRA_CONTAINER_ID", &request.container_id), ("K8S_POD_UID", &pod.uid)] {
        if args.get(key).is_none_or(str::is_empty) {
            args.set(key, value);
        }
    }
    request.with_args(args)
}

/// Whether this can be the name of an object: what goes into a path of the API server's.
fn is_name(name: &str) -> bool {
    let is_end = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric());
    name.len() <= 253
        && is_end(name.bytes().next())
        && is_end(name.bytes().last())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.')
}
