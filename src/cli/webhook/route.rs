//! One HTTP request.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http::header::{ALLOW, CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body, Bytes};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::review::{Request, Verdict};
use super::validator::Validator;

/// The largest body, in bytes. An API server accepts objects of up to 3 MiB, and a review of a change contains two.
const MAX_BODY: usize = 8 << 20;
/// The limit on all bodies in memory, in bytes. Further clients wait.
const MAX_BODIES: usize = 32 << 20;
/// How long a client may take to send its body.
const BODY: Duration = Duration::from_secs(5);
/// How long a check may take, including requests to the API server. It is shorter than the default limit of API servers, 10 s.
const CHECK_TIME: Duration = Duration::from_secs(8);
/// How many objects are checked at a time.
pub(super) const CHECKS: usize = 8;

type Response = http::Response<Full<Bytes>>;

/// What serves requests.
pub(super) struct Routes {
    validator: Arc<Validator>,
    /// How much room is left for bodies.
    room: Arc<Semaphore>,
}

/// A request that gets no verdict, and why.
struct Failure(StatusCode, String);

impl Routes {
    pub(super) fn new(validator: Validator) -> Self {
        Self { validator: Arc::new(validator), room: Arc::new(Semaphore::new(MAX_BODIES)) }
    }

    /// Answers a request.
    pub(super) async fn answer<B: Body<Data = Bytes> + Unpin>(
        &self,
        request: http::Request<B>,
    ) -> Result<Response, Infallible>
    where
        B::Error: std::fmt::Display,
    {
        let (parts, body) = request.into_parts();
        let answer = match (parts.uri.path(), &parts.method) {
            ("/healthz", &Method::GET | &Method::HEAD) => Ok(text(StatusCode::OK, "ok\n".to_owned())),
            ("/validate", &Method::POST) => self.review(&parts.headers, body).await,
            ("/healthz", _) => Ok(not_allowed("GET, HEAD")),
            ("/validate", _) => Ok(not_allowed("POST")),
            _ => Err(Failure(StatusCode::NOT_FOUND, "expected /validate or /healthz".into())),
        };
        Ok(answer.unwrap_or_else(|Failure(status, reason)| text(status, reason + "\n")))
    }

    async fn review<B: Body<Data = Bytes> + Unpin>(&self, headers: &HeaderMap, body: B) -> Result<Response, Failure>
    where
        B::Error: std::fmt::Display,
    {
        let is_json = |value: &HeaderValue| value.to_str().is_ok_and(|kind| kind.starts_with("application/json"));
        if !headers.get(CONTENT_TYPE).is_some_and(is_json) {
            return Err(Failure(StatusCode::UNSUPPORTED_MEDIA_TYPE, "expected application/json".into()));
        }
        let late =
            |_| Failure(StatusCode::REQUEST_TIMEOUT, format!("the body was not received within {} s", BODY.as_secs()));
        let request = timeout(BODY, self.read(headers, body)).await.map_err(late)??;
        let uid = request.uid.clone();
        let verdict = self.verdict(request).await;
        let mut response = http::Response::new(Full::from(verdict.answer(&uid)));
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        Ok(response)
    }

    /// Reads a body as there is room for it.
    async fn read<B: Body<Data = Bytes> + Unpin>(&self, headers: &HeaderMap, mut body: B) -> Result<Request, Failure>
    where
        B::Error: std::fmt::Display,
    {
        let too_large =
            || Failure(StatusCode::PAYLOAD_TOO_LARGE, format!("the body has more than {} MiB", MAX_BODY >> 20));
        let announced = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
        if announced.is_some_and(|length| length > MAX_BODY) {
            return Err(too_large());
        }
        let mut bytes = Vec::new();
        let mut room = None;
        while let Some(frame) = body.frame().await {
            let broken = |error| Failure(StatusCode::BAD_REQUEST, format!("the body is incomplete: {error}"));
            let Ok(data) = frame.map_err(broken)?.into_data() else { continue };
            if bytes.len() + data.len() > MAX_BODY {
                return Err(too_large());
            }
            let taken = self.room.acquire_many(u32::try_from(data.len()).unwrap_or(u32::MAX)).await;
            let closed =
                |_| Failure(StatusCode::SERVICE_UNAVAILABLE, "there is no memory left for request bodies".into());
            let taken = taken.map_err(closed)?;
            match &mut room {
                None => room = Some(taken),
                Some(room) => room.merge(taken),
            }
            bytes.extend_from_slice(&data);
        }
        Request::parse(&bytes).map_err(|reason| Failure(StatusCode::BAD_REQUEST, reason))
    }

    /// Checks a request, in a thread of its own.
    async fn verdict(&self, request: Request) -> Verdict {
        let (validator, uid) = (Arc::clone(&self.validator), request.uid.clone());
        let checking = tokio::task::spawn_blocking(move || {
            let verdict = validator.validate(&request);
            log_verdict(&request, &verdict);
            verdict
        });
        let reason = match timeout(CHECK_TIME, checking).await {
            Ok(Ok(verdict)) => return verdict,
            Ok(Err(_)) => "there is a defect in braid; its log has the details".to_owned(),
            Err(_) => format!("it took longer than {} s", CHECK_TIME.as_secs()),
        };
        tracing::error!(uid, "an object could not be checked: {reason}");
        self.validator.unknown(vec![reason])
    }
}

/// Logs what was not simply admitted.
fn log_verdict(request: &Request, verdict: &Verdict) {
    let of = |key: &str| request.object["metadata"][key].as_str().unwrap_or_default().to_owned();
    let (kind, namespace, name) = (request.object["kind"].as_str().unwrap_or_default(), &request.namespace, of("name"));
    if let Some(refusal) = &verdict.refusal {
        tracing::warn!(uid = request.uid, kind, namespace, name, "refused: {}", refusal.message());
    } else if !verdict.warnings.is_empty() {
        let warnings = verdict.warnings.join("; ");
        tracing::warn!(uid = request.uid, kind, namespace, name, "admitted, with a warning: {warnings}");
    }
}

fn text(status: StatusCode, text: String) -> Response {
    let mut response = http::Response::new(Full::from(text));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

fn not_allowed(allowed: &'static str) -> Response {
    let mut response = text(StatusCode::METHOD_NOT_ALLOWED, format!("expected {allowed}\n"));
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
    response
}
