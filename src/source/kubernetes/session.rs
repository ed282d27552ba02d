//! One call's dialogue with the API server.

use std::time::{Duration, Instant};

use futures_util::{StreamExt, stream};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::api::Api;
use super::claim_status;
use super::dra::PodDevices;
use super::executor::Executor;
use super::objects;
use super::scope::{is_configured, pod_of};
use super::status::{Claimed, Notice};
use crate::config::Config;
use crate::config::problems::Problems;
use crate::request::Request;
use crate::source::device::{Assignments, HeldDevice};
use crate::source::pod::{AnnotationError, Definitions, NETWORKS, Pod, PodNow, PodView};
use crate::source::{ClusterError, Gathered, SourceError, Surveyed, Wanted, look_up};

/// The annotation of static pods. Their UID in the API server is not the kubelet's.
const CONFIG_SOURCE: &str = "kubernetes.io/config.source";
/// How many times a status is written if other writes conflict with it.
const STATUS_ATTEMPTS: u32 = 5;
/// The time limit for events. They are posted after the answer, but before the process exits.
const EVENTS: Duration = Duration::from_millis(100);
/// The time limit for the status of claims. The pod does not depend on it.
const CLAIM_STATUS: Duration = Duration::from_secs(2);

/// One call's dialogue with the API server.
#[derive(Debug)]
pub struct Session {
    executor: Executor,
    api: Api,
    deadline: Instant,
    namespace: String,
    name: String,
}

impl Session {
    /// Opens a session, if the configuration asks for Kubernetes and the call is for a pod. Nothing is sent yet.
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
            executor: Executor::start()?,
            api: Api::new(config.kubeconfig.clone(), &config.kubernetes, deadline),
            deadline,
            namespace: namespace.into(),
            name: name.into(),
        }))
    }

    /// Finds out what to attach the pod to. Returns the call as its plugins will see it, the attachments, and the pod.
    ///
    /// # Errors
    /// When the pod is gone, or a network cannot be found, read or used by this pod.
    pub fn gather(&self, config: &Config, request: &Request) -> Result<(Request, Gathered, Pod), SourceError> {
        let (wanted, view) = self.executor.block_on(async {
            let (pod, problems) = self.pod(request).await?;
            let pod = problems.or_first(pod)?;
            let wanted = Wanted::list(config, request, Some(&pod)).or_first()?;
            let definitions = objects::definitions(&self.api, wanted.definitions(), |_| false).await?;
            let devices = self.devices(config, &pod, &wanted, &definitions, &[]).await?;
            Ok::<_, SourceError>((wanted, PodView { pod, definitions, devices }))
        })?;
        let gathered = look_up(wanted, config, Some(&view)).or_first();
        if let Err(error @ SourceError::NoDefinition { .. }) = &gathered
            && config.kubernetes.events
        {
            let message = error.to_string();
            self.post_events(
                &view.pod,
                &[Notice { reason: "NoNetworkFound", message, is_warning: true, is_said_once: false }],
            );
        }
        Ok((with_pod_args(request, &view.pod), gathered?, view.pod))
    }

    /// Finds out what an operator wants to attach to a running pod: only what the configuration names, not what the pod asks for.
    /// Devices that are `held` by existing attachments are not assigned.
    ///
    /// # Errors
    /// When the pod is gone or another one, or a network is not there or cannot be read.
    pub fn gather_for_operator(
        &self,
        config: &Config,
        request: &Request,
        held: &[HeldDevice],
    ) -> Result<Gathered, SourceError> {
        let (wanted, view) = self.executor.block_on(async {
            let (pod, _) = self.pod(request).await?;
            let pod = Pod { networks: Vec::new(), default_network: None, warnings: Vec::new(), ..pod };
            let wanted = Wanted::list(config, request, Some(&pod)).or_first()?;
            let definitions = objects::definitions(&self.api, wanted.definitions(), |_| false).await?;
            let devices = self.devices(config, &pod, &wanted, &definitions, held).await?;
            Ok::<_, SourceError>((wanted, PodView { pod, definitions, devices }))
        })?;
        look_up(wanted, config, Some(&view)).or_first()
    }

    /// The current pod, if it is the one for which the call was made.
    ///
    /// # Errors
    /// When the pod is gone or another one, or the API server cannot be asked.
    pub fn pod_now(&self, request: &Request) -> Result<PodNow, ClusterError> {
        let metadata = self.executor.block_on(self.metadata(request))?;
        let (pod, problems) = self.read(&metadata);
        let status = annotation(&metadata, objects::NETWORK_STATUS).unwrap_or_default().to_owned();
        let networks = annotation(&metadata, NETWORKS).unwrap_or_default().to_owned();
        Ok(PodNow { networks, pod, problems, is_deleting: metadata.deletion_timestamp.is_some(), status })
    }

    /// Looks up selections of the pod's annotation, by their indexes in it. Each is found or fails separately. Devices that are
    /// `held` by existing attachments are not assigned.
    ///
    /// # Errors
    /// When the API server cannot be asked at all.
    pub fn look_up(
        &self,
        config: &Config,
        pod: &Pod,
        places: &[usize],
        held: &[HeldDevice],
    ) -> Result<Vec<Result<Gathered, SourceError>>, ClusterError> {
        let wanted: Vec<Wanted> = places.iter().map(|place| Wanted::of_pod(config, pod, *place)).collect();
        let (definitions, devices) = self.executor.block_on(async {
            let mut keys: Vec<_> = wanted.iter().flat_map(Wanted::definitions).collect();
            keys.sort();
            keys.dedup();
            let definitions = objects::definitions(&self.api, keys, |_| true).await?;
            let mut devices = Assignments::new();
            let mut demands = Vec::new();
            for (of_one, wrong) in wanted.iter().map(|one| one.demands(&definitions)) {
                demands.extend(of_one);
                devices.extend(wrong);
            }
            let pod_devices =
                PodDevices { api: &self.api, config: &config.kubernetes, pod, held, deadline: self.deadline };
            let assigned = pod_devices.assign(&demands).await;
            let unassigned: Vec<String> = demands.iter().map(|demand| demand.origin.clone()).collect();
            Ok::<_, ClusterError>((
                definitions,
                assigned.map(|more| devices.extend(more)).map(|()| devices).map_err(|error| (error, unassigned)),
            ))
        })?;
        let (devices, refusal) = match devices {
            Ok(devices) => (devices, None),
            Err((error, origins)) => (Assignments::new(), Some((error.to_string(), origins))),
        };
        let view = PodView { pod: pod.clone(), definitions, devices };
        let one = |wanted: Wanted| match &refusal {
            Some((reason, origins)) if wanted.origins().any(|origin| origins.iter().any(|one| one == origin)) => {
                let origin = wanted.origins().next().unwrap_or_default().to_owned();
                Err(SourceError::Withheld { origin, reason: reason.clone() })
            }
            _ => look_up(wanted, config, Some(&view)).or_first(),
        };
        Ok(wanted.into_iter().map(one).collect())
    }

    /// Finds out what the pod would be attached to, with all problems. Nothing is written, and no event is posted.
    ///
    /// # Errors
    /// When the pod is gone, or the API server cannot be asked.
    pub fn survey(&self, config: &Config, request: &Request) -> Result<(Request, Surveyed), ClusterError> {
        self.executor.block_on(async {
            let (pod, problems) = self.pod(request).await?;
            let mut errors = Problems::new();
            errors.extend(problems.into_iter().map(SourceError::from));
            let wanted = Wanted::list(config, request, Some(&pod));
            let is_refused = |error: &ClusterError| matches!(error, ClusterError::Refused { .. });
            let definitions = objects::definitions(&self.api, wanted.definitions(), is_refused).await?;
            let devices = self.devices(config, &pod, &wanted, &definitions, &[]).await;
            let devices = errors.record(devices).unwrap_or_default();
            let view = PodView { pod, definitions, devices };
            let mut surveyed = look_up(wanted, config, Some(&view));
            errors.extend(std::mem::take(&mut surveyed.errors));
            surveyed.errors = errors;
            Ok((with_pod_args(request, &view.pod), surveyed))
        })
    }

    /// The devices of the attachments that need one, without those `held` by others.
    async fn devices(
        &self,
        config: &Config,
        pod: &Pod,
        wanted: &Wanted,
        definitions: &Definitions,
        held: &[HeldDevice],
    ) -> Result<Assignments, ClusterError> {
        let (demands, wrong) = wanted.demands(definitions);
        let pod_devices = PodDevices { api: &self.api, config: &config.kubernetes, pod, held, deadline: self.deadline };
        let mut devices = pod_devices.assign(&demands).await?;
        devices.extend(wrong);
        Ok(devices)
    }

    /// The pod, if it is the one of the call, with all problems of its annotations.
    async fn pod(&self, request: &Request) -> Result<(Pod, Problems<AnnotationError>), ClusterError> {
        self.metadata(request).await.map(|metadata| self.read(&metadata))
    }

    /// The pod's metadata, if it is the one of the call.
    async fn metadata(&self, request: &Request) -> Result<ObjectMeta, ClusterError> {
        let gone = |reason: &str| ClusterError::PodGone {
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            reason: reason.into(),
        };
        let metadata = objects::pod(&self.api, &self.namespace, &self.name).await?;
        let metadata = metadata.ok_or_else(|| gone("the API server does not know it"))?;
        let uid = metadata.uid.as_deref().unwrap_or_default();
        let is_static = annotation(&metadata, CONFIG_SOURCE).is_some_and(|source| source != "api");
        if let Some(expected) = request.arg("K8S_POD_UID").filter(|expected| !expected.is_empty() && *expected != uid)
            && !is_static
        {
            let reason = format!("the pod of that name is another one (UID {uid}, expected {expected})");
            return Err(gone(&reason));
        }
        Ok(metadata)
    }

    fn read(&self, metadata: &ObjectMeta) -> (Pod, Problems<AnnotationError>) {
        let uid = metadata.uid.as_deref().unwrap_or_default();
        Pod::read(&self.namespace, &self.name, uid, |key| annotation(metadata, key))
    }

    /// Changes the status of the pod's networks: `edit` gets the current one and returns the new one. Returns the pod.
    ///
    /// # Errors
    /// When the pod is gone or another one, or the API server does not take it.
    pub fn edit_status(&self, request: &Request, edit: impl FnOnce(&str) -> String) -> Result<Pod, ClusterError> {
        let metadata = self.executor.block_on(self.metadata(request))?;
        let (pod, _) = self.read(&metadata);
        let now = annotation(&metadata, objects::NETWORK_STATUS).unwrap_or_default();
        let edited = edit(now);
        if edited != now {
            self.put_status(&pod, &edited, false)?;
        }
        Ok(pod)
    }

    /// Writes the status of the pod's networks. Succeeds if the pod no longer exists. An API server that does not answer is asked
    /// again for as long as the whole call may take.
    ///
    /// # Errors
    /// When the API server does not take it.
    pub fn write_status(&self, pod: &Pod, status: &str) -> Result<(), ClusterError> {
        self.put_status(pod, status, true)
    }

    fn put_status(&self, pod: &Pod, status: &str, patient: bool) -> Result<(), ClusterError> {
        self.executor.block_on(async {
            let mut attempts = 1;
            loop {
                let refusal = match objects::write_status(&self.api, &self.namespace, pod, status, patient).await {
                    Err(ClusterError::Refused { status: 404, .. }) => {
                        self.note_gone();
                        return Ok(());
                    }
                    Err(error @ ClusterError::Refused { status: 409 | 422, .. }) => error,
                    other => return other,
                };
                // There was a conflicting write, or it is another pod.
                match objects::pod(&self.api, &self.namespace, &self.name).await? {
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

    /// Writes the interfaces and addresses of the pod's devices to the status of its resource claims. `claimed` has all of its
    /// devices. For a device without a result, the previous entry is removed. The pod's namespace is at `netns`. The pod does not
    /// depend on it, so failures are only logged.
    pub fn write_claim_status(&self, pod: &Pod, netns: &str, claimed: &[Claimed]) {
        let statuses = claim_status::claim_statuses(netns, claimed);
        if statuses.is_empty() {
            return;
        }
        let writing = async {
            for (claim, devices) in &statuses {
                if let Err(error) = claim_status::apply(&self.api, pod, claim, devices).await {
                    tracing::warn!(claim, "the status of a resource claim could not be written: {error}");
                }
            }
        };
        if self.executor.block_on(async { tokio::time::timeout(CLAIM_STATUS, writing).await }).is_err() {
            tracing::warn!("the status of resource claims could not be written in time");
        }
    }

    fn note_gone(&self) {
        tracing::info!(
            namespace = self.namespace,
            pod = self.name,
            "the pod is gone; its network status is not written"
        );
    }

    /// Posts events about the pod, with a short time limit. Events are for people, so failures are only logged.
    pub fn post_events(&self, pod: &Pod, notices: &[Notice]) {
        let posting = async {
            let post = |notice| objects::post_event(&self.api, &self.namespace, pod, notice);
            let mut outcomes = stream::iter(notices).map(post).buffer_unordered(self.api.at_once());
            while let Some(outcome) = outcomes.next().await {
                if let Err(error) = outcome {
                    tracing::debug!("an event could not be posted: {error}");
                }
            }
        };
        if self.executor.block_on(async { tokio::time::timeout(EVENTS, posting).await }).is_err() {
            tracing::debug!("events could not be posted in time");
        }
    }
}

fn annotation<'a>(metadata: &'a ObjectMeta, key: &str) -> Option<&'a str> {
    metadata.annotations.as_ref()?.get(key).map(String::as_str)
}

/// The call with the arguments that a pod's plugins get.
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

/// Whether this can be the name of an object, which becomes part of a path of the API server's.
fn is_name(name: &str) -> bool {
    let is_end = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric());
    name.len() <= 253
        && is_end(name.bytes().next())
        && is_end(name.bytes().last())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.')
}
