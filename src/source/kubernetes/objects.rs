//! The requests to the API server, each with the type of its answer.

use futures_util::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::core::v1::Pod as ApiPod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use kube::api::{GetParams, Patch, PatchParams, PostParams};
use kube::core::{PartialObjectMeta, Request as ApiRequest};
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::api::{Api, not_a_request};
use super::status::Notice;
use crate::source::ClusterError;
use crate::source::pod::{Definition, DefinitionKey, Definitions, Pod, RESOURCE_CLAIM, RESOURCE_NAME};

/// The annotation for the status of a pod's networks (NPWG specification, §5).
pub(super) const NETWORK_STATUS: &str = "k8s.v1.cni.cncf.io/network-status";
/// The API group and version of network-attachment-definitions.
pub(super) const DEFINITIONS: &str = "/apis/k8s.cni.cncf.io/v1";

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

/// Checks whether the API server knows the type of definitions.
pub(super) async fn find_definitions_type(api: &Api) -> Result<(), ClusterError> {
    let request = http::Request::get(DEFINITIONS).body(Vec::new()).map_err(not_a_request)?;
    api.send("list the resources of k8s.cni.cncf.io/v1", request).await.map(drop)
}

/// A pod's metadata. `None` if there is no such pod.
pub(super) async fn pod(api: &Api, namespace: &str, name: &str) -> Result<Option<ObjectMeta>, ClusterError> {
    let request = ApiRequest::new(ApiPod::url_path(&(), Some(namespace)))
        .get_metadata(name, &GetParams::default())
        .map_err(not_a_request)?;
    let action = format!("get pod {namespace}/{name}");
    match api.ask::<PartialObjectMeta<ApiPod>>(&action, request).await {
        Ok(pod) => is_what_was_asked_for(&action, &pod.metadata, namespace, name).map(|()| Some(pod.metadata)),
        Err(ClusterError::Refused { status: 404, .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Fetches definitions, several at once. Definitions that do not exist are left out, and those with an error that `withholds` are
/// withheld.
pub(super) async fn definitions(
    api: &Api,
    keys: Vec<DefinitionKey>,
    withholds: impl Fn(&ClusterError) -> bool,
) -> Result<Definitions, ClusterError> {
    let fetch = async |key: DefinitionKey| match definition(api, &key).await {
        Err(error) if !withholds(&error) => Err(error),
        outcome => Ok((key, outcome)),
    };
    let fetched: Vec<_> = stream::iter(keys).map(fetch).buffer_unordered(api.at_once()).try_collect().await?;
    let mut definitions = Definitions::default();
    for (key, outcome) in fetched {
        match outcome {
            Ok(found) => definitions.extend(found.map(|definition| (key, definition))),
            Err(error) => definitions.withhold(key, error.to_string()),
        }
    }
    Ok(definitions)
}

async fn definition(api: &Api, key: &DefinitionKey) -> Result<Option<Definition>, ClusterError> {
    let action = format!("get network-attachment-definition {key}");
    let path = format!("{DEFINITIONS}/namespaces/{}/network-attachment-definitions", key.namespace);
    let request = ApiRequest::new(path).get(&key.name, &GetParams::default()).map_err(not_a_request)?;
    let definition = match api.ask::<ApiDefinition>(&action, request).await {
        Ok(definition) => definition,
        Err(ClusterError::Refused { status: 404, .. }) => return Ok(None),
        Err(error) => return Err(error),
    };
    is_what_was_asked_for(&action, &definition.metadata, &key.namespace, &key.name)?;
    let config = definition.spec.and_then(|spec| spec.config).filter(|config| !config.trim().is_empty());
    let mut annotations = definition.metadata.annotations.unwrap_or_default();
    let mut annotation = |key: &str| annotations.remove(key).filter(|text| !text.is_empty());
    Ok(Some(Definition { config, resource: annotation(RESOURCE_NAME), claim: annotation(RESOURCE_CLAIM) }))
}

/// The names decide what a pod may use, so the answer must have the requested name.
pub(super) fn is_what_was_asked_for(
    action: &str,
    metadata: &ObjectMeta,
    namespace: &str,
    name: &str,
) -> Result<(), ClusterError> {
    let found = (metadata.namespace.as_deref().unwrap_or_default(), metadata.name.as_deref().unwrap_or_default());
    if found == (namespace, name) {
        return Ok(());
    }
    let shown: String = format!("{}/{}", found.0, found.1).chars().take(128).collect();
    Err(ClusterError::Refused { action: action.into(), status: 200, reason: format!("with another object: {shown:?}") })
}

/// Writes the status of a pod's networks, which may take as long as the whole call if it is `patient`. Because of the UID, the API
/// server refuses another pod of the same name.
pub(super) async fn write_status(
    api: &Api,
    namespace: &str,
    pod: &Pod,
    status: &str,
    patient: bool,
) -> Result<(), ClusterError> {
    let metadata = json!({ "uid": pod.uid, "annotations": { NETWORK_STATUS: status } });
    let patch = Patch::Merge(json!({ "metadata": metadata }));
    let request = ApiRequest::new(ApiPod::url_path(&(), Some(namespace)))
        .patch_subresource("status", &pod.name, &PatchParams::default(), &patch)
        .map_err(not_a_request)?;
    let action = format!("write the network status of pod {namespace}/{}", pod.name);
    let sent = if patient { api.send_patiently(&action, request).await } else { api.send(&action, request).await };
    sent.map(drop)
}

/// Posts an event about a pod. One that is said once has its name from what it says, so that the API server refuses another.
pub(super) async fn post_event(api: &Api, namespace: &str, pod: &Pod, notice: &Notice) -> Result<(), ClusterError> {
    let body = serde_json::to_vec(&event(namespace, pod, notice)).unwrap_or_default();
    let path = format!("/api/v1/namespaces/{namespace}/events");
    let request = ApiRequest::new(path).create(&PostParams::default(), body).map_err(not_a_request)?;
    match api.send("post an event", request).await {
        Err(ClusterError::Refused { status: 409, .. }) if notice.is_said_once => Ok(()),
        outcome => outcome.map(drop),
    }
}

fn event(namespace: &str, pod: &Pod, notice: &Notice) -> Value {
    let metadata = if notice.is_said_once {
        json!({ "name": name_of_event(pod, notice), "namespace": namespace })
    } else {
        json!({ "generateName": format!("{}.", pod.name), "namespace": namespace })
    };
    let now = format!("{:.0}", k8s_openapi::jiff::Timestamp::now());
    json!({
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": metadata,
        "involvedObject": {
            "apiVersion": "v1", "kind": "Pod", "namespace": namespace, "name": pod.name, "uid": pod.uid,
        },
        "type": if notice.is_warning { "Warning" } else { "Normal" },
        "reason": notice.reason,
        "message": notice.message,
        "source": { "component": "braid" },
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
    })
}

/// A name that two events have in common if they say the same of the same pod.
fn name_of_event(pod: &Pod, notice: &Notice) -> String {
    const LONGEST: usize = 253;
    let digest = Sha256::digest(format!("{}\n{}\n{}", pod.uid, notice.reason, notice.message));
    let first: [u8; 8] = std::array::from_fn(|index| digest[index]);
    let hash = format!("{:016x}", u64::from_be_bytes(first));
    // The API server has taken the pod's name, which is ASCII.
    let name = pod.name.get(..LONGEST - 1 - hash.len()).unwrap_or(&pod.name);
    format!("{name}.{hash}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_about_another_object_is_refused() {
        let metadata = |namespace: Option<&str>, name: Option<&str>| ObjectMeta {
            namespace: namespace.map(str::to_owned),
            name: name.map(str::to_owned),
            ..ObjectMeta::default()
        };
        let check = |metadata: ObjectMeta| is_what_was_asked_for("get it", &metadata, "web", "shop");
        check(metadata(Some("web"), Some("shop"))).unwrap();
        for other in [(Some("web"), Some("other")), (Some("other"), Some("shop")), (None, Some("shop")), (None, None)] {
            let error = check(metadata(other.0, other.1)).unwrap_err().to_string();
            assert!(error.contains("another object"), "{error}");
        }
    }
}
