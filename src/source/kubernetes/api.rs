//! Requests to the API server: one deadline, limited retries, limited answers, and credentials that are read again when they are
//! refused.

use std::cell::{Cell, RefCell};
use std::error::Error as StdError;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use http::header::{CONTENT_LENGTH, RETRY_AFTER};
use http::{StatusCode, Version};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use kube::Client;
use kube::client::Body;
use rustls::AlertDescription;
use serde::de::DeserializeOwned;
use tokio::time::{sleep, timeout};

use super::access::{Access, Secrets};
use super::client::connect;
use crate::config::KubernetesConfig;
use crate::runtime::deadline;
use crate::source::ClusterError;

/// The pause before the first retry; it doubles with each.
const PAUSE: Duration = Duration::from_millis(100);
/// The highest number of concurrent requests.
const AT_ONCE: usize = 8;
/// If an answer takes longer than this, another connection would have been faster.
const SLOW: Duration = Duration::from_millis(20);
/// How many characters of the API server's message go into an error message.
const REASON: usize = 512;
/// The largest answer that is read, in bytes.
const MAX_ANSWER: usize = 16 << 20;

/// An API server, and the limits for requests to it.
pub(super) struct Api {
    kubeconfig: Option<PathBuf>,
    client: RefCell<Option<Client>>,
    secrets: RefCell<Secrets>,
    /// The best number of concurrent requests, according to the last answer.
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

/// Why one try failed.
enum Failure {
    /// Worth a retry, after a pause if the server asks for one.
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
            secrets: RefCell::default(),
            at_once: Cell::new(1),
            timeout: config.timeout,
            retries: config.retries,
            deadline,
        }
    }

    /// The best number of concurrent requests, once there has been an answer.
    pub(super) fn at_once(&self) -> usize {
        self.at_once.get()
    }

    /// Sends a request as [`Self::send`] does, and reads the answer.
    pub(super) async fn ask<T: DeserializeOwned>(
        &self,
        action: &str,
        request: http::Request<Vec<u8>>,
    ) -> Result<T, ClusterError> {
        let body = self.send(action, request).await?;
        serde_json::from_slice(&body).map_err(|error| {
            refused(action, StatusCode::OK, self.hide(&format!("with an answer that cannot be read: {error}")))
        })
    }

    /// Sends a request, with retries, and returns the body of the answer. `action` describes the request for messages.
    pub(super) async fn send(&self, action: &str, request: http::Request<Vec<u8>>) -> Result<Vec<u8>, ClusterError> {
        let until = deadline::from(Instant::now(), self.timeout).min(self.deadline);
        self.send_until(until, self.retries, action, request).await
    }

    /// Does the same for as long as the whole call may take, and says so in the log where that is longer than other requests get.
    pub(super) async fn send_patiently(
        &self,
        action: &str,
        request: http::Request<Vec<u8>>,
    ) -> Result<Vec<u8>, ClusterError> {
        match self.send(action, request.clone()).await {
            Err(error @ ClusterError::Unavailable { .. }) if Instant::now() < self.deadline => {
                tracing::warn!("{error}; trying again, as what is attached would be undone otherwise");
                self.send_until(self.deadline, u32::MAX, action, request).await
            }
            outcome => outcome,
        }
    }

    async fn send_until(
        &self,
        until: Instant,
        retries: u32,
        action: &str,
        request: http::Request<Vec<u8>>,
    ) -> Result<Vec<u8>, ClusterError> {
        let began = Instant::now();
        let mut attempts = 0;
        let mut has_new_credentials = false;
        loop {
            attempts += 1;
            let left = until.saturating_duration_since(Instant::now());
            let is_last = attempts > retries;
            let patience = if is_last { left } else { (left / 2).min(self.timeout) };
            let (reason, pause) = match self.within(patience, action, request.clone()).await {
                Ok(body) => return Ok(body),
                Err(Failure::Unauthorized(_)) if !has_new_credentials => {
                    // The token may have been replaced since it was read.
                    has_new_credentials = true;
                    attempts -= 1;
                    self.client.take();
                    continue;
                }
                Err(Failure::Unauthorized(reason)) => {
                    let reason = format!("{reason}, with the credentials of {} read twice", self.origin());
                    return Err(refused(action, StatusCode::UNAUTHORIZED, reason));
                }
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Passing { reason, pause }) => (reason, pause.unwrap_or_else(|| backoff(attempts))),
            };
            if is_last || pause >= until.saturating_duration_since(Instant::now()) {
                let after = began.elapsed();
                return Err(ClusterError::Unavailable { action: action.into(), reason, attempts, after });
            }
            tracing::debug!(attempts, "the Kubernetes API server could not {action}: {reason}; trying again");
            sleep(pause).await;
        }
    }

    /// One try, for so long at most.
    async fn within(
        &self,
        patience: Duration,
        action: &str,
        request: http::Request<Vec<u8>>,
    ) -> Result<Vec<u8>, Failure> {
        timeout(patience, self.once(action, request)).await.unwrap_or_else(|_| {
            let reason = format!("no answer within {:.1} s", patience.as_secs_f64());
            Err(Failure::Passing { reason, pause: None })
        })
    }

    async fn once(&self, action: &str, request: http::Request<Vec<u8>>) -> Result<Vec<u8>, Failure> {
        let client = self.client().map_err(Failure::Final)?;
        let began = Instant::now();
        let response = client.send(request.map(Body::from)).await.map_err(|error| self.broken(action, &error))?;
        self.at_once.set(at_once(response.version(), began.elapsed()));
        let status = response.status();
        let pause = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
        let length =
            response.headers().get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
        if length.is_some_and(|length| length > MAX_ANSWER) {
            return Err(self.too_large(action, status));
        }
        let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
        let body = body.map_err(|error| {
            if error.is::<LengthLimitError>() { self.too_large(action, status) } else { self.broken(action, &*error) }
        })?;
        let body = body.to_bytes();
        if status.is_success() {
            return Ok(body.to_vec());
        }
        let reason = self.reason_in(&body);
        match status {
            StatusCode::UNAUTHORIZED => Err(Failure::Unauthorized(reason)),
            _ if status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error() => {
                let reason = format!("it answered {} {reason}", status.as_u16());
                Err(Failure::Passing { reason, pause: pause.map(Duration::from_secs) })
            }
            _ => Err(Failure::Final(refused(action, status, reason))),
        }
    }

    /// The failure of a request without a complete answer.
    fn broken(&self, action: &str, error: &(dyn StdError + 'static)) -> Failure {
        // The state of a connection that failed is not known, so the next attempt uses a new one.
        self.client.take();
        let reason = self.hide(&with_causes(error));
        if !is_about_trust(error) {
            return Failure::Passing { reason, pause: None };
        }
        Failure::Final(ClusterError::Untrusted { action: action.into(), origin: self.origin(), reason })
    }

    /// The failure of a request whose answer is too large.
    fn too_large(&self, action: &str, status: StatusCode) -> Failure {
        // On the same connection, the rest of it would come before the next answer.
        self.client.take();
        Failure::Final(refused(action, status, format!("with an answer of more than {} MiB", MAX_ANSWER >> 20)))
    }

    /// A client with the current credentials, or with those that worked last.
    pub(super) fn client(&self) -> Result<Client, ClusterError> {
        if let Some(client) = &*self.client.borrow() {
            return Ok(client.clone());
        }
        let wrong = |reason: String| ClusterError::Credentials { origin: self.origin(), reason };
        let access = Access::read(self.kubeconfig.as_deref()).map_err(wrong)?;
        let secrets = access.secrets.clone();
        let client = connect(access, self.timeout).map_err(|reason| wrong(secrets.hide(&reason)))?;
        self.secrets.replace(secrets);
        self.client.replace(Some(client.clone()));
        Ok(client)
    }

    /// Makes the next request read the credentials again.
    pub(super) fn forget_client(&self) {
        self.client.take();
    }

    fn origin(&self) -> String {
        match &self.kubeconfig {
            Some(path) => path.display().to_string(),
            None => "this pod's service account".into(),
        }
    }

    /// A text from which the secrets in the credentials have been removed.
    pub(super) fn hide(&self, text: &str) -> String {
        self.secrets.borrow().hide(text)
    }

    /// The message in a `Status` object, or the text itself, without secrets that the server repeats.
    fn reason_in(&self, body: &[u8]) -> String {
        #[derive(serde::Deserialize)]
        struct Status {
            message: String,
        }
        let reason = match serde_json::from_slice::<Status>(body) {
            Ok(status) => status.message,
            Err(_) => String::from_utf8_lossy(body).trim().to_owned(),
        };
        let reason: String = reason.chars().filter(|c| !c.is_control()).collect();
        self.hide(&reason).chars().take(REASON).collect()
    }
}

fn refused(action: &str, status: StatusCode, reason: String) -> ClusterError {
    ClusterError::Refused { action: action.into(), status: status.as_u16(), reason }
}

/// The error for a request that cannot be built.
pub(super) fn not_a_request(error: impl StdError + 'static) -> ClusterError {
    ClusterError::Start(io::Error::other(error.to_string()))
}

/// The best number of concurrent requests to a server that has answered with this version. With HTTP/2 they share a connection.
/// Otherwise each needs its own connection, and its handshake takes longer than waiting for the answers of a server nearby.
fn at_once(version: Version, took: Duration) -> usize {
    if version == Version::HTTP_2 || took > SLOW { AT_ONCE } else { 1 }
}

/// The pause doubles with each attempt. A random part of it is left out, so that many pods do not retry at the same time.
fn backoff(attempts: u32) -> Duration {
    let full = PAUSE * 2u32.saturating_pow(attempts.saturating_sub(1)).min(64);
    let random = u32::try_from(RandomState::new().build_hasher().finish() % 500).unwrap_or(0);
    full.saturating_sub(full * random / 1000)
}

/// Whether a connection failed because one side does not accept the other's certificate. A retry cannot help then.
pub(super) fn is_about_trust(error: &(dyn StdError + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        let is_final = match error.downcast_ref::<rustls::Error>() {
            Some(rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented) => true,
            Some(rustls::Error::AlertReceived(alert)) => REFUSALS.contains(alert),
            _ => false,
        };
        if is_final {
            return true;
        }
        // An I/O error does not name the one inside it among its sources.
        let inside = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        next = inside.map(|inside| inside as &(dyn StdError + 'static)).or_else(|| error.source());
    }
    false
}

/// The TLS alerts with which a server rejects this side's certificate.
const REFUSALS: [AlertDescription; 8] = [
    AlertDescription::BadCertificate,
    AlertDescription::UnsupportedCertificate,
    AlertDescription::CertificateRevoked,
    AlertDescription::CertificateExpired,
    AlertDescription::CertificateUnknown,
    AlertDescription::CertificateRequired,
    AlertDescription::UnknownCA,
    AlertDescription::AccessDenied,
];

/// An error with its causes, because the first message alone seldom explains it.
pub(super) fn with_causes(error: &(dyn StdError + 'static)) -> String {
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
    fn the_reason_is_the_status_message_without_secrets() {
        let api = Api::new(None, &KubernetesConfig::default(), Instant::now());
        assert_eq!(api.reason_in(br#"{"message":"pods \"a\" is forbidden"}"#), "pods \"a\" is forbidden");
        assert_eq!(api.reason_in(b"<html>\nno\n"), "<html>no");
        api.secrets.borrow_mut().add("token-1");
        assert_eq!(api.reason_in(br#"{"message":"bad token token-\u00001"}"#), "bad token [secret]");
    }
}
