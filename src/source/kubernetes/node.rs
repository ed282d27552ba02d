//! The requests of a node's agent to the API server: watching the pods of the node, and checking whether objects have changed.
//!
//! [`Node::watch_pods`] never returns. When the watch fails (the server is down, throttles, has forgotten the watch's position, or
//! rejects the credentials), it waits, and then continues from that position or from a new list. Events have only the metadata of
//! pods, so they are small.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::convert::Infallible;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::StreamExt as _;
use http::StatusCode;
use http::header::RETRY_AFTER;
use k8s_openapi::api::core::v1::Pod as ApiPod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::GetParams;
use kube::client::Body;
use kube::core::{PartialObjectMeta, Request as ApiRequest};
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Client, Error as ClientError};
use serde::Deserialize;
use serde_json::json;
use tokio::time::{Instant, sleep, timeout};
use tower::BoxError;

use super::api::{Api, is_about_trust, not_a_request, with_causes};
use super::executor::Executor;
use super::objects::{self, DEFINITIONS, NETWORK_STATUS};
use super::{claim_status, dra};
use crate::config::KubernetesConfig;
use crate::runtime::deadline;
use crate::source::ClusterError;
use crate::source::pod::{DefinitionKey, NETWORKS};

/// How long to wait for the beginning of an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// How long it is given for all of a list.
const LISTING: Duration = Duration::from_secs(60);
/// The duration of one watch request, in seconds. The server then ends it, and the next one is made.
const WATCHING: u32 = 290;
/// The time limit for a request that is answered immediately.
const REQUEST: Duration = Duration::from_secs(5);
/// The pause after the first failure; it doubles with each.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// The longest pause, unless the server asks for a longer one.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// The longest pause that a server can ask for.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(300);
/// After a failure, a new watch counts as healthy once it has run this long without an event: an answer that cannot be decoded also
/// begins well.
const SETTLED: Duration = Duration::from_secs(5);
/// Once a watch has failed for this long, each attempt begins anew, with the current credentials and certificates.
const LONG: Duration = Duration::from_secs(60);

/// What the API server says of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodOfNode {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// The value of its annotation `k8s.v1.cni.cncf.io/networks`.
    pub networks: Option<String>,
    /// The value of its annotation `k8s.v1.cni.cncf.io/network-status`.
    pub status: Option<String>,
    /// Whether it is on its way out.
    pub is_terminating: bool,
    /// The version of the object.
    pub version: String,
}

/// What happens to the pods of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PodEvent {
    /// A pod is there, or has changed.
    There(PodOfNode),
    /// The pod of this UID has finished, or is gone.
    Gone(String),
    /// A list begins. An event for each existing pod follows.
    ListBegins,
    /// The list is complete. Pods that were not in it no longer exist.
    ListEnds,
}

/// How a watch is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum WatchState {
    /// It has not been answered yet.
    #[default]
    Starting,
    /// Whether the last request was answered correctly.
    Alive,
    /// It fails.
    Failing {
        /// How long it has.
        since: std::time::Instant,
        /// Why.
        reason: String,
    },
}

/// The history of a watch's requests.
#[derive(Debug, Default)]
struct WatchHealth {
    state: WatchState,
    /// When the current watch request began, if it has not had an event yet.
    taken_up: Option<Instant>,
    /// How many times it has failed since the last good answer.
    failures: u32,
    /// The time after which the server wants the next request.
    pause: Option<Duration>,
}

/// A node's dialogue with the API server.
#[derive(Debug)]
pub struct Node {
    api: Api,
    health: Arc<Mutex<WatchHealth>>,
    /// The last failure that was logged.
    logged: RefCell<Option<String>>,
}

impl Node {
    /// A connection with the credentials of a kubeconfig, or of the pod in which this process runs. Nothing is sent yet.
    pub fn new(kubeconfig: Option<&Path>) -> Self {
        let config = KubernetesConfig { timeout: REQUEST, retries: 0, ..KubernetesConfig::default() };
        // The agent is resident, so there is no overall deadline.
        let never = deadline::after(Duration::from_secs(100 * 365 * 24 * 3600));
        let health = WatchHealth::default();
        Self {
            api: Api::new(kubeconfig.map(PathBuf::from), &config, never),
            health: Arc::new(Mutex::new(health)),
            logged: RefCell::default(),
        }
    }

    /// How the watch is.
    pub fn watch_state(&self) -> WatchState {
        self.health().state_now()
    }

    fn health(&self) -> MutexGuard<'_, WatchHealth> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reports events of a node's pods that have not finished. An event may come twice, or late.
    pub async fn watch_pods(&self, node: &str, report: impl FnMut(PodEvent)) -> Infallible {
        self.watch_pods_with(|| self.api.client().map_err(|error| error.to_string()), node, report).await
    }

    /// The same with a given source of clients, which returns the reason if it cannot make one.
    async fn watch_pods_with(
        &self,
        client: impl Fn() -> Result<Client, String>,
        node: &str,
        mut report: impl FnMut(PodEvent),
    ) -> Infallible {
        let fields = format!("spec.nodeName={node},status.phase!=Succeeded,status.phase!=Failed");
        let config = watcher::Config::default().fields(&fields).timeout(WATCHING);
        loop {
            match client() {
                Ok(client) => self.follow(client, &config, &mut report).await,
                Err(reason) => self.pause_after(&reason).await,
            }
            self.api.forget_client();
        }
    }

    /// Watches the pods with one client, until a new client is needed.
    async fn follow(&self, client: Client, config: &watcher::Config, report: &mut impl FnMut(PodEvent)) {
        let pods = kube::Api::<PartialObjectMeta<ApiPod>>::all(self.noting(client));
        let mut events = pin!(watcher(pods, config.clone()));
        let mut is_listing = true;
        loop {
            // There is no time limit for an event, because there may be none for long. kube itself notices an unanswered request.
            let next = if is_listing { timeout(LISTING, events.next()).await } else { Ok(events.next().await) };
            match next {
                Ok(Some(Ok(event))) => {
                    is_listing = matches!(event, Event::Init | Event::InitApply(_));
                    if event_is_news(&event) {
                        self.note_alive();
                    }
                    if let Some(event) = pod_event(event) {
                        report(event);
                    }
                }
                Ok(Some(Err(error))) => {
                    self.pause_after(&self.api.hide(&reason(&error))).await;
                    if begins_anew(&error) || self.has_failed_for_long() {
                        return;
                    }
                }
                Ok(None) => return,
                Err(_) => return self.pause_after("no list of pods in time").await,
            }
        }
    }

    /// The same client, with its answers recorded and a time limit.
    fn noting(&self, client: Client) -> Client {
        let health = Arc::clone(&self.health);
        let namespace = client.default_namespace().to_owned();
        let service = tower::service_fn(move |request: http::Request<Body>| {
            let (client, health) = (client.clone(), Arc::clone(&health));
            async move {
                let is_for_changes = request.uri().query().is_some_and(|query| query.contains("watch=true"));
                let response =
                    timeout(ANSWER_TIMEOUT, client.send(request)).await.map_err(|_| "no answer in time")??;
                health.lock().unwrap_or_else(PoisonError::into_inner).note(&response, is_for_changes);
                Ok::<_, BoxError>(response)
            }
        });
        Client::new(service, namespace)
    }

    fn note_alive(&self) {
        *self.health() = WatchHealth { state: WatchState::Alive, ..WatchHealth::default() };
        if self.logged.take().is_some() {
            tracing::info!("the watch of this node's pods works again");
        }
    }

    fn has_failed_for_long(&self) -> bool {
        self.health().has_failed_for(LONG)
    }

    async fn pause_after(&self, reason: &str) {
        if self.logged.borrow().as_deref() != Some(reason) {
            tracing::warn!("the watch of this node's pods failed: {reason}; trying again");
            self.logged.replace(Some(reason.to_owned()));
        }
        let pause = self.health().fail(reason);
        sleep(pause).await;
    }

    /// The version of a NetworkAttachmentDefinition. `None` if it does not exist.
    ///
    /// # Errors
    /// When the API server cannot be asked.
    pub async fn definition_version(&self, key: &DefinitionKey) -> Result<Option<String>, ClusterError> {
        let path = format!("{DEFINITIONS}/namespaces/{}/network-attachment-definitions", key.namespace);
        let metadata = self.metadata(&path, &key.name, &format!("get network-attachment-definition {key}")).await?;
        Ok(metadata.map(|metadata| metadata.resource_version.unwrap_or_default()))
    }

    /// The UID of the pod with a name. `None` if there is no such pod.
    ///
    /// # Errors
    /// When the API server cannot be asked.
    pub async fn pod_uid(&self, namespace: &str, name: &str) -> Result<Option<String>, ClusterError> {
        let metadata = objects::pod(&self.api, namespace, name).await?;
        Ok(metadata.map(|metadata| metadata.uid.unwrap_or_default()))
    }

    /// Removes what was written about a pod's devices from the status of a claim. Does nothing if the claim does not exist, or has
    /// no such entry.
    ///
    /// # Errors
    /// When the API server cannot be asked, or refuses.
    pub async fn take_back_claim_status(&self, namespace: &str, claim: &str, uid: &str) -> Result<(), ClusterError> {
        let path = format!("{}/namespaces/{namespace}/resourceclaims", dra::GROUP);
        let metadata = self.metadata(&path, claim, &format!("get resource claim {namespace}/{claim}")).await?;
        let manager = claim_status::field_manager(uid);
        let managers = metadata.and_then(|metadata| metadata.managed_fields).unwrap_or_default();
        if !managers.iter().any(|one| one.manager.as_ref() == Some(&manager)) {
            return Ok(());
        }
        claim_status::write(&self.api, (namespace, claim), &manager, &json!({})).await
    }

    async fn metadata(&self, path: &str, name: &str, action: &str) -> Result<Option<ObjectMeta>, ClusterError> {
        #[derive(Deserialize)]
        struct Object {
            metadata: ObjectMeta,
        }
        let request = ApiRequest::new(path).get_metadata(name, &GetParams::default()).map_err(not_a_request)?;
        match self.api.ask::<Object>(action, request).await {
            Ok(object) => Ok(Some(object.metadata)),
            Err(ClusterError::Refused { status: 404, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Takes back what the status of claims says of a pod, as [`Node::take_back_claim_status`] does for each.
///
/// # Errors
/// When the API server cannot be asked, or refuses.
pub fn take_back_claims(
    kubeconfig: &Path,
    namespace: &str,
    claims: &BTreeSet<String>,
    uid: &str,
) -> Result<(), ClusterError> {
    let node = Node::new(Some(kubeconfig));
    Executor::start()?.block_on(async {
        for claim in claims {
            node.take_back_claim_status(namespace, claim, uid).await?;
        }
        Ok(())
    })
}

impl WatchHealth {
    /// Records an answer. A list counts as good when it is complete, a watch request once it has had an event, or after some time.
    fn note(&mut self, response: &http::Response<Body>, is_for_changes: bool) {
        if response.status().is_success() {
            self.taken_up = is_for_changes.then(Instant::now);
            return;
        }
        let seconds = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
        self.pause = seconds.map(Duration::from_secs);
    }

    /// How the watch is by now.
    fn state_now(&self) -> WatchState {
        match self.taken_up {
            Some(at) if at.elapsed() >= SETTLED => WatchState::Alive,
            _ => self.state.clone(),
        }
    }

    fn has_failed_for(&self, long: Duration) -> bool {
        matches!(self.state_now(), WatchState::Failing { since, .. } if Instant::from_std(since).elapsed() > long)
    }

    /// Records a failure, and returns how long to wait.
    fn fail(&mut self, reason: &str) -> Duration {
        let since = match self.state_now() {
            WatchState::Failing { since, .. } => since,
            WatchState::Starting => Instant::now().into_std(),
            WatchState::Alive => {
                self.failures = 0;
                Instant::now().into_std()
            }
        };
        self.state = WatchState::Failing { since, reason: reason.to_owned() };
        self.taken_up = None;
        self.failures = self.failures.saturating_add(1);
        let full = FIRST_PAUSE.saturating_mul(2u32.saturating_pow(self.failures - 1)).min(LONGEST_PAUSE);
        // A random part, so that the nodes of a cluster do not all return at once.
        let random = u32::try_from(RandomState::new().build_hasher().finish() % 500).unwrap_or(0);
        let pause = full.saturating_sub(full * random / 1000);
        self.pause.take().map_or(pause, |retry_after| retry_after.min(MAX_RETRY_AFTER).max(pause))
    }
}

/// Whether this failure needs new credentials, or a new list.
fn begins_anew(error: &watcher::Error) -> bool {
    let (watcher::Error::InitialListFailed(cause)
    | watcher::Error::WatchStartFailed(cause)
    | watcher::Error::WatchFailed(cause)) = error
    else {
        return matches!(error, watcher::Error::WatchError(status) if status.code == StatusCode::UNAUTHORIZED);
    };
    match cause {
        ClientError::Api(status) => {
            [StatusCode::UNAUTHORIZED, StatusCode::GONE].iter().any(|code| status.code == *code)
        }
        other => is_about_trust(other),
    }
}

/// Why the watch has failed, in the API server's own words if it has answered.
fn reason(error: &watcher::Error) -> String {
    let (watcher::Error::InitialListFailed(ClientError::Api(status))
    | watcher::Error::WatchStartFailed(ClientError::Api(status))
    | watcher::Error::WatchFailed(ClientError::Api(status))
    | watcher::Error::WatchError(status)) = error
    else {
        return with_causes(error);
    };
    let words = if status.message.is_empty() { &status.reason } else { &status.message };
    format!("the Kubernetes API server answers {}: {words}", status.code)
}

/// Whether an event shows that the API server answers correctly. A list may be interrupted before its end.
fn event_is_news(event: &Event<PartialObjectMeta<ApiPod>>) -> bool {
    !matches!(event, Event::Init | Event::InitApply(_))
}

fn pod_event(event: Event<PartialObjectMeta<ApiPod>>) -> Option<PodEvent> {
    match event {
        Event::Init => Some(PodEvent::ListBegins),
        Event::InitDone => Some(PodEvent::ListEnds),
        Event::Apply(pod) | Event::InitApply(pod) => pod_of_node(pod.metadata).map(PodEvent::There),
        Event::Delete(pod) => pod.metadata.uid.map(PodEvent::Gone),
    }
}

fn pod_of_node(metadata: ObjectMeta) -> Option<PodOfNode> {
    let mut annotations = metadata.annotations.unwrap_or_default();
    Some(PodOfNode {
        namespace: metadata.namespace?,
        name: metadata.name?,
        uid: metadata.uid?,
        networks: annotations.remove(NETWORKS),
        status: annotations.remove(NETWORK_STATUS),
        is_terminating: metadata.deletion_timestamp.is_some(),
        version: metadata.resource_version.unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use futures_util::stream::{self, BoxStream};
    use http_body_util::StreamBody;
    use hyper::body::{Bytes, Frame};
    use kube::core::Status;
    use tokio::task::{LocalSet, spawn_local};

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);
    const HOUR: Duration = Duration::from_secs(3600);

    /// An API server of one pod, whose clock the test controls.
    #[derive(Debug)]
    struct Server {
        /// Until when it is away.
        away_until: Instant,
        /// Whether it answers something else than was requested.
        talks_nonsense: bool,
        /// Whether it disappears without a reply after the beginning of a watch.
        falls_silent: bool,
        networks: &'static str,
        requests: u32,
    }

    type Pieces = StreamBody<BoxStream<'static, Result<Frame<Bytes>, BoxError>>>;

    impl Server {
        fn answer(&mut self, request: &http::Request<Body>) -> Result<http::Response<Pieces>, BoxError> {
            self.requests += 1;
            if Instant::now() < self.away_until {
                return Err("connection refused".into());
            }
            let whole = |text: String| stream::iter([Ok(Frame::data(text.into()))]).boxed();
            let is_watch = request.uri().query().is_some_and(|query| query.contains("watch=true"));
            let pieces = match is_watch {
                _ if self.talks_nonsense => whole("<html>welcome</html>".into()),
                true if self.falls_silent => stream::pending().boxed(),
                // There are no events, and the watch ends when its time is over.
                true => stream::once(sleep(Duration::from_secs(WATCHING.into())))
                    .map(|()| Ok(Frame::data(Bytes::new())))
                    .boxed(),
                false => {
                    let metadata = json!({"namespace": "web", "name": "shop", "uid": "1", "resourceVersion": "7",
                        "annotations": {NETWORKS: self.networks}});
                    let list = json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadataList",
                        "metadata": {"resourceVersion": "7"}, "items": [{"metadata": metadata}]});
                    whole(list.to_string())
                }
            };
            Ok(http::Response::builder().status(200).body(StreamBody::new(pieces)).unwrap())
        }
    }

    /// A node that watches the pods of a server, and the last known annotation of the pod.
    struct Watched {
        node: Rc<Node>,
        server: Arc<Mutex<Server>>,
        networks: Rc<RefCell<String>>,
    }

    impl Watched {
        fn new() -> Self {
            let server = Server {
                away_until: Instant::now(),
                talks_nonsense: false,
                falls_silent: false,
                networks: "one",
                requests: 0,
            };
            let watched =
                Self { node: Rc::new(Node::new(None)), server: Arc::new(Mutex::new(server)), networks: Rc::default() };
            let (node, server, networks) =
                (Rc::clone(&watched.node), Arc::clone(&watched.server), Rc::clone(&watched.networks));
            spawn_local(async move {
                let client = || {
                    let server = Arc::clone(&server);
                    let answer = move |request| std::future::ready(server.lock().unwrap().answer(&request));
                    Ok(Client::new(tower::service_fn(answer), "default"))
                };
                let tell = |event| {
                    if let PodEvent::There(pod) = event {
                        networks.replace(pod.networks.unwrap_or_default());
                    }
                };
                node.watch_pods_with(client, "node-1", tell).await
            });
            watched
        }

        fn server(&self) -> MutexGuard<'_, Server> {
            self.server.lock().unwrap()
        }

        fn has_failed_for(&self) -> Option<Duration> {
            match self.node.watch_state() {
                WatchState::Failing { since, .. } => Some(Instant::from_std(since).elapsed()),
                WatchState::Starting | WatchState::Alive => None,
            }
        }
    }

    /// Runs a test with paused time, which advances whenever everything waits.
    fn in_its_own_time(test: impl Future<Output = ()>) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        LocalSet::new().block_on(&runtime, test);
    }

    #[test]
    fn a_server_that_is_away_for_an_hour_is_asked_now_and_then_and_tells_what_changed_meanwhile() {
        in_its_own_time(async {
            let watched = Watched::new();
            sleep(HOUR).await;
            assert_eq!((watched.node.watch_state(), &**watched.networks.borrow()), (WatchState::Alive, "one"));
            let before = watched.server().requests;
            assert!(before < 20, "{before} requests in an hour in which nothing happens");
            let back = Instant::now() + HOUR;
            {
                let mut server = watched.server();
                (server.away_until, server.networks) = (back, "two");
            }
            sleep(MINUTE * 59).await;
            // The previous watch request ends after up to five minutes.
            assert!(watched.has_failed_for().is_some_and(|time| time > MINUTE * 53), "{:?}", watched.node);
            let asked = watched.server().requests - before;
            assert!((100..300).contains(&asked), "{asked} requests in an hour");
            sleep(MINUTE + LONGEST_PAUSE).await;
            assert_eq!((watched.node.watch_state(), &**watched.networks.borrow()), (WatchState::Alive, "two"));
        });
    }

    #[test]
    fn a_server_that_answers_with_something_else_is_not_taken_for_one_that_tells_of_pods() {
        in_its_own_time(async {
            let watched = Watched::new();
            watched.server().talks_nonsense = true;
            sleep(HOUR).await;
            assert!(watched.has_failed_for().is_some_and(|time| time > MINUTE * 59), "{:?}", watched.node);
            let asked = watched.server().requests;
            assert!(asked < 300, "{asked} requests in an hour");
            watched.server().talks_nonsense = false;
            sleep(LONGEST_PAUSE).await;
            assert_eq!((watched.node.watch_state(), &**watched.networks.borrow()), (WatchState::Alive, "one"));
        });
    }

    #[test]
    fn a_server_that_is_gone_without_a_word_is_noticed_within_five_minutes() {
        in_its_own_time(async {
            let watched = Watched::new();
            watched.server().falls_silent = true;
            sleep(MINUTE).await;
            let before = watched.server().requests;
            sleep(MINUTE * 4).await;
            assert!(watched.server().requests > before);
        });
    }

    #[test]
    fn a_refusal_is_told_in_the_words_of_the_api_server() {
        let refused = |message: &str, reason: &str| {
            let status = Status::failure(message, reason).with_code(403);
            super::reason(&watcher::Error::InitialListFailed(ClientError::Api(status.boxed())))
        };
        let words = "pods is forbidden: User \"agent\" cannot list resource \"pods\"";
        let expected = format!("the Kubernetes API server answers 403: {words}");
        assert_eq!(refused(words, "Forbidden"), expected);
        assert_eq!(refused("", "Forbidden"), "the Kubernetes API server answers 403: Forbidden");
    }

    #[test]
    fn a_watch_that_is_taken_up_again_is_alive_though_nothing_happens() {
        let mut health = WatchHealth::default();
        health.fail("away");
        let well = http::Response::builder().status(200).body(Body::empty()).unwrap();
        health.note(&well, true);
        assert!(matches!(health.state_now(), WatchState::Failing { .. }));
        health.taken_up = health.taken_up.and_then(|at| at.checked_sub(SETTLED));
        assert_eq!(health.state_now(), WatchState::Alive);
        health.fail("away again");
        assert_eq!(health.failures, 1);
    }

    #[test]
    fn pauses_grow_to_a_limit_unless_the_server_wishes_for_longer() {
        let mut health = WatchHealth::default();
        let mut full = FIRST_PAUSE;
        for _ in 0..40 {
            let pause = health.fail("away");
            assert!(pause <= full && pause >= full / 2, "{pause:?} of {full:?}");
            full = (full * 2).min(LONGEST_PAUSE);
        }
        health.pause = Some(Duration::from_secs(100));
        assert_eq!(health.fail("busy"), Duration::from_secs(100));
        health.pause = Some(Duration::from_secs(100_000));
        assert_eq!(health.fail("busy"), MAX_RETRY_AFTER);
        health.pause = Some(Duration::ZERO);
        assert!(health.fail("busy") >= LONGEST_PAUSE / 2);
    }

    #[test]
    fn since_when_it_fails_is_when_it_began_to() {
        let mut health = WatchHealth::default();
        health.fail("one");
        let WatchState::Failing { since: first, .. } = health.state.clone() else { panic!("{health:?}") };
        health.fail("two");
        assert_eq!(health.state, WatchState::Failing { since: first, reason: "two".into() });
    }
}
