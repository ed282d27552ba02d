//! Requests to the API server: one deadline, bounded retries, credentials read anew when they are refused.

use std::cell::{Cell, RefCell};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use http::header::RETRY_AFTER;
use http::{StatusCode, Version};
use hyper_rustls::{FixedServerNameResolver, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use kube::Client;
use kube::client::{AuthError, Body, ConfigExt as _};
use kube::config::{Config as ClientConfig, KubeConfigOptions, Kubeconfig, KubeconfigError};
use tokio::time::{sleep, timeout};
use tower::{BoxError, ServiceBuilder};

use super::ClusterError;
use crate::config::KubernetesConfig;

/// The pause before the first retry; it doubles with each.
const PAUSE: Duration = Duration::from_millis(100);
/// How many requests are made at once, at most.
const AT_ONCE: usize = 8;
/// An answer that takes longer than this takes longer than another connection would.
const SLOW: Duration = Duration::from_millis(20);
/// How much of what the API server says goes into an error message, in characters.
const REASON: usize = 512;

/// An API server, and how patient to be with it.
pub(super) struct Api {
    kubeconfig: Option<PathBuf>,
    client: RefCell<Option<Client>>,
    /// How many requests are best made at once, by what the last answer tells.
    at_once: Cell<usize>,
    timeout: Duration,
    retries: u32,
    /// When the whole call has to be over.
    deadline: Instant,
}

impl std::fmt::Debug for Api {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Api").field("kubeconfig", &self.kubeconfig).finish_non_exhaustive()
    }
}

/// How one request ended, if not well.
enum Setback {
    /// Worth another try, after a pause if the server names one.
    Passing { reason: String, pause: Option<Duration> },
    /// The credentials are not accepted.
    Unauthorized(String),
    /// Not worth another try.
    Final(ClusterError),
}

impl Api {
    pub(super) fn new(kubeconfig: Option<PathBuf>, config: &KubernetesConfig, deadline: Instant) -> Self {
        Self {
            kubeconfig,
            client: RefCell::default(),
            at_once: Cell::new(1),
            timeout: config.timeout,
            retries: config.retries,
            deadline,
        }
    }

    /// How many requests are best made at once, once there has been an answer.
    pub(super) fn at_once(&self) -> usize {
        self.at_once.get()
    }

    /// Sends a request as often as it takes and may, and returns the body of the answer. `action` says what for.
    pub(super) async fn call(&self, action: &str, request: http::Request<Vec<u8>>) -> Result<Vec<u8>, ClusterError> {
        let began = Instant::now();
        let until = (began + self.timeout).min(self.deadline);
        let mut attempts = 0;
        let mut has_new_credentials = false;
        loop {
            attempts += 1;
            let left = until.saturating_duration_since(Instant::now());
            let is_last = attempts > self.retries;
            let patience = if is_last { left } else { left / 2 };
            let outcome = timeout(patience, self.once(action, request.clone())).await.unwrap_or_else(|_| {
                let reason = format!("no answer within {:.1} s", patience.as_secs_f64());
                Err(Setback::Passing { reason, pause: None })
            });
            let (reason, pause) = match outcome {
                Ok(body) => return Ok(body),
                Err(Setback::Unauthorized(_)) if !has_new_credentials => {
                    // A token may have been replaced since it was read.
                    has_new_credentials = true;
                    attempts -= 1;
                    self.client.take();
                    continue;
                }
                Err(Setback::Unauthorized(reason)) => {
                    let status = StatusCode::UNAUTHORIZED.as_u16();
                    let reason = format!("{reason}, with the credentials of {} read twice", self.origin());
                    return Err(ClusterError::Refused { action: action.into(), status, reason });
                }
                Err(Setback::Final(error)) => return Err(error),
                Err(Setback::Passing { reason, pause }) => (reason, pause.unwrap_or_else(|| backoff(attempts))),
            };
            if is_last || Instant::now() + pause >= until {
                return Err(ClusterError::Unavailable {
                    action: action.into(),
                    reason,
                    attempts,
                    after: began.elapsed(),
                });
            }
            tracing::debug!(attempts, "the Kubernetes API server could not {action}: {reason}; trying again");
            sleep(pause).await;
        }
    }

    async fn once(&self, action: &str, request: http::Request<Vec<u8>>) -> Result<Vec<u8>, Setback> {
        let client = self.client().await.map_err(Setback::Final)?;
        let began = Instant::now();
        let passing = |reason: String| Setback::Passing { reason, pause: None };
        let response = client.send(request.map(Body::from)).await.map_err(|error| match error {
            error @ kube::Error::Auth(_) => {
                Setback::Final(ClusterError::Credentials { origin: self.origin(), reason: client_reason(&error) })
            }
            error => {
                // What goes on inside a connection that failed is not known: the next try gets a new one.
                self.client.take();
                passing(chain_of(&error))
            }
        })?;
        self.at_once.set(at_once(response.version(), began.elapsed()));
        let status = response.status();
        let pause = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
        let body = response.into_body().collect_bytes().await.map_err(|error| passing(chain_of(&error)))?;
        if status.is_success() {
            return Ok(body.to_vec());
        }
        let reason = reason_in(&body);
        match status {
            StatusCode::UNAUTHORIZED => Err(Setback::Unauthorized(reason)),
            _ if status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error() => {
                let reason = format!("it answered {} {reason}", status.as_u16());
                Err(Setback::Passing { reason, pause: pause.map(Duration::from_secs) })
            }
            _ => {
                let status = status.as_u16();
                Err(Setback::Final(ClusterError::Refused { action: action.into(), status, reason }))
            }
        }
    }

    /// A client with the credentials as they are now, or as they were when they last worked.
    async fn client(&self) -> Result<Client, ClusterError> {
        if let Some(client) = &*self.client.borrow() {
            return Ok(client.clone());
        }
        let wrong = |reason: String| ClusterError::Credentials { origin: self.origin(), reason };
        let mut config = match &self.kubeconfig {
            Some(path) => {
                let kubeconfig = Kubeconfig::read_from(path).map_err(|error| wrong(kubeconfig_reason(&error)))?;
                let config = ClientConfig::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await;
                config.map_err(|error| wrong(kubeconfig_reason(&error)))?
            }
            None => ClientConfig::incluster().map_err(|error| wrong(chain_of(&error)))?,
        };
        // Retries are counted here, and each request has its own time.
        config.default_retry = false;
        config.connect_timeout = Some(self.timeout);
        config.read_timeout = None;
        let client = connect(config).map_err(wrong)?;
        self.client.replace(Some(client.clone()));
        Ok(client)
    }

    fn origin(&self) -> String {
        match &self.kubeconfig {
            Some(path) => path.display().to_string(),
            None => "this pod's service account".into(),
        }
    }
}

/// A client that does what kube's own does, and two things more. It sends what it has at once, where Nagle's algorithm would hold
/// the second of two small writes back for 40 ms. And it offers HTTP/2, by which all requests share one connection.
fn connect(config: ClientConfig) -> Result<Client, String> {
    if let Some(proxy) = &config.proxy_url {
        // Not the whole of it, which may hold a password.
        let host = proxy.host().unwrap_or_default();
        return Err(format!("it names a proxy ({host}), and braid asks the API server directly only"));
    }
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(config.connect_timeout);
    let tls = config.rustls_client_config().map_err(|error| client_reason(&error))?;
    let mut https = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http();
    if let Some(name) = &config.tls_server_name {
        let name = name.clone().try_into().map_err(|_| format!("tls-server-name {name:?} is no name of a server"))?;
        https = https.with_server_name_resolver(FixedServerNameResolver::new(name));
    }
    let transport = hyper_util::client::legacy::Client::builder(TokioExecutor::new())
        .build(https.enable_all_versions().wrap_connector(tcp));
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer().map_err(|error| client_reason(&error))?)
        .layer(config.extra_headers_layer().map_err(|error| client_reason(&error))?)
        .map_err(BoxError::from)
        .service(transport);
    Ok(Client::new(service, config.default_namespace))
}

/// What is wrong with a kubeconfig, without what stands in it: that may be a token.
fn kubeconfig_reason(error: &KubeconfigError) -> String {
    match error {
        KubeconfigError::Parse(_) => "it is not a kubeconfig in YAML".into(),
        other => chain_of(other),
    }
}

/// Why there is no client, without what a credential plugin has printed.
fn client_reason(error: &kube::Error) -> String {
    match error {
        kube::Error::Auth(AuthError::AuthExecParse(_)) => "what its credential plugin printed cannot be read".into(),
        other => chain_of(other),
    }
}

/// How many requests are best made at once to a server that has answered so. With HTTP/2 they share a connection. Otherwise
/// each gets one of its own, and its handshake takes longer than to wait for the answers of a server that is near.
fn at_once(version: Version, took: Duration) -> usize {
    if version == Version::HTTP_2 || took > SLOW { AT_ONCE } else { 1 }
}

/// Twice the pause with each attempt, less a random part so that many pods do not come back at once.
fn backoff(attempts: u32) -> Duration {
    let full = PAUSE * 2u32.saturating_pow(attempts.saturating_sub(1)).min(64);
    let random = u32::try_from(RandomState::new().build_hasher().finish() % 500).unwrap_or(0);
    full.saturating_sub(full * random / 1000)
}

/// What a `Status` object says, or the text itself.
fn reason_in(body: &[u8]) -> String {
    #[derive(serde::Deserialize)]
    struct Status {
        message: String,
    }
    let reason = match serde_json::from_slice::<Status>(body) {
        Ok(status) => status.message,
        Err(_) => String::from_utf8_lossy(body).trim().to_owned(),
    };
    reason.chars().filter(|c| !c.is_control()).take(REASON).collect()
}

/// An error with its causes: the first alone seldom says what happened.
pub(super) fn chain_of(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_is_refused_and_not_passed_by() {
        let mut config = ClientConfig::new("https://192.0.2.1:6443".parse().unwrap());
        config.proxy_url = Some("http://user:secret@proxy.example:3128".parse().unwrap());
        let refusal = connect(config).err().unwrap();
        assert!(refusal.contains("proxy.example") && !refusal.contains("secret"), "{refusal}");
    }

    #[test]
    fn connections_are_shared_or_few_or_worth_it() {
        assert_eq!(at_once(Version::HTTP_2, Duration::ZERO), AT_ONCE);
        assert_eq!(at_once(Version::HTTP_11, Duration::ZERO), 1);
        assert_eq!(at_once(Version::HTTP_11, SLOW * 2), AT_ONCE);
    }

    #[test]
    fn pauses_grow_and_differ() {
        for attempt in 1..8 {
            let full = PAUSE * 2u32.pow(attempt - 1);
            let pause = backoff(attempt);
            assert!(pause <= full && pause >= full / 2, "{attempt}: {pause:?}");
        }
        assert!(backoff(u32::MAX) <= PAUSE * 64);
    }

    #[test]
    fn the_reason_is_the_status_message() {
        assert_eq!(reason_in(br#"{"kind":"Status","message":"pods \"a\" is forbidden"}"#), "pods \"a\" is forbidden");
        assert_eq!(reason_in(b"<html>\nno\n"), "<html>no");
    }
}
