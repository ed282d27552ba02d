//! Exports the spans of traced calls to a collector: OTLP over HTTP, as JSON.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use super::error::AgentError;
use super::otlp;
use crate::source::kubernetes::client_config_of_node;
use crate::telemetry::Report;

/// How long to wait for more calls after the first, to send them in one request.
const BATCH_PAUSE: Duration = Duration::from_secs(1);
/// The most calls in one request.
const MAX_BATCH: usize = 128;
/// The limit on the calls that wait to be exported. Further calls are not exported.
pub(super) const MAX_WAITING: usize = 1024;
/// How long a request may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// How many times a request is made before its spans are dropped.
const ATTEMPTS: u32 = 5;
/// The longest pause that a collector can ask for.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(60);
/// How much of a collector's answer is read, in bytes.
const MAX_ANSWER: usize = 64 << 10;

/// The address of a collector: a base URL, to which `/v1/traces` is added.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoint(Uri);

impl FromStr for Endpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || "expected a URL such as http://collector:4318".to_owned();
        let base: Uri = text.parse().map_err(|_| wrong())?;
        let is_web =
            matches!(base.scheme_str(), Some("http" | "https")) && base.host().is_some_and(|host| !host.is_empty());
        if !is_web || base.query().is_some() {
            return Err(wrong());
        }
        format!("{}/v1/traces", text.trim_end_matches('/')).parse().map(Self).map_err(|_| wrong())
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Exports spans.
#[derive(Debug)]
pub(super) struct Exporter {
    endpoint: Endpoint,
    node: String,
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    /// Whether the last export has failed. A failure is logged once.
    is_failing: bool,
}

/// Why a request failed.
struct Failure {
    reason: String,
    /// How long to wait before the next attempt. `None` if the collector will never accept the spans.
    retry_in: Option<Duration>,
}

impl Exporter {
    /// An exporter of the spans of a node.
    ///
    /// # Errors
    /// When the certificates that this machine trusts cannot be used.
    pub(super) fn new(endpoint: Endpoint, node: &str) -> Result<Self, AgentError> {
        let tls =
            client_config_of_node().map_err(|reason| AgentError::Export { endpoint: endpoint.to_string(), reason })?;
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_connect_timeout(Some(REQUEST_TIMEOUT));
        let connector =
            HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().wrap_connector(tcp);
        let client = Client::builder(TokioExecutor::new()).build(connector);
        Ok(Self { endpoint, node: node.to_owned(), client, is_failing: false })
    }

    /// Exports the spans of calls as they arrive, until the channel is closed.
    pub(super) async fn run(mut self, mut traced: mpsc::Receiver<Report<'static>>) {
        while let Some(first) = traced.recv().await {
            sleep(BATCH_PAUSE).await;
            let mut batch = vec![first];
            while batch.len() < MAX_BATCH
                && let Ok(report) = traced.try_recv()
            {
                batch.push(report);
            }
            self.export(&batch).await;
        }
    }

    async fn export(&mut self, batch: &[Report<'_>]) {
        let body = Bytes::from(otlp::request(batch, &self.node).to_string());
        for attempt in 1..=ATTEMPTS {
            let failure = match self.send(body.clone()).await {
                Ok(()) => {
                    if std::mem::take(&mut self.is_failing) {
                        tracing::info!("spans are exported again to {}", self.endpoint);
                    }
                    return;
                }
                Err(failure) => failure,
            };
            match failure.retry_in {
                Some(pause) if attempt < ATTEMPTS => sleep(pause.max(Duration::from_secs(1 << attempt) / 2)).await,
                _ if self.is_failing => return,
                _ => {
                    self.is_failing = true;
                    return tracing::warn!(
                        "spans cannot be exported to {}, and are lost: {}",
                        self.endpoint,
                        failure.reason
                    );
                }
            }
        }
    }

    /// Makes one request (OTLP §"OTLP/HTTP Request").
    async fn send(&self, body: Bytes) -> Result<(), Failure> {
        let again = |reason: String| Failure { reason, retry_in: Some(Duration::ZERO) };
        let request = Request::post(&self.endpoint.0).header(CONTENT_TYPE, "application/json").body(Full::new(body));
        let request = request.map_err(|error| Failure { reason: error.to_string(), retry_in: None })?;
        let response = timeout(REQUEST_TIMEOUT, self.client.request(request)).await;
        let response = response.map_err(|_| again("no answer in time".into()))?;
        let response = response.map_err(|error| again(error.to_string()))?;
        let (status, pause) = (response.status(), retry_after(&response));
        // The answer is read to its end, so that the connection can be used again.
        drop(timeout(REQUEST_TIMEOUT, Limited::new(response.into_body(), MAX_ANSWER).collect()).await);
        if status.is_success() {
            return Ok(());
        }
        // The statuses after which OTLP requires another attempt.
        let is_temporary = matches!(
            status,
            StatusCode::TOO_MANY_REQUESTS
                | StatusCode::BAD_GATEWAY
                | StatusCode::SERVICE_UNAVAILABLE
                | StatusCode::GATEWAY_TIMEOUT
        );
        Err(Failure { reason: format!("it answers {status}"), retry_in: is_temporary.then_some(pause) })
    }
}

/// How long a collector asks the client to wait.
fn retry_after(response: &Response<Incoming>) -> Duration {
    let seconds = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
    Duration::from_secs(seconds.unwrap_or(0)).min(MAX_RETRY_AFTER)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_a_base_url() {
        for (text, url) in [
            ("http://collector:4318", "http://collector:4318/v1/traces"),
            ("https://collector/otlp/", "https://collector/otlp/v1/traces"),
        ] {
            assert_eq!(text.parse::<Endpoint>().unwrap().to_string(), url);
        }
        for wrong in ["collector:4318", "grpc://collector:4317", "http://", "", "http://c/?a=b"] {
            assert!(wrong.parse::<Endpoint>().unwrap_err().contains("http://collector:4318"), "{wrong}");
        }
    }
}
