//! The HTTP server: the health of the agent, and the metrics.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::ACCEPT;
use http::{HeaderMap, Method, StatusCode};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::spawn_local;
use tokio::time::{sleep, timeout};

use super::error::AgentError;
use super::shared::Shared;
use crate::metrics::{self, Format, Gauges};
use crate::runtime::deadline;
use crate::source::kubernetes::node::WatchState;

/// How long a client may take for its request, and how long a connection may last.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// The limit on concurrent connections. Further clients wait.
const MAX_CONNECTIONS: usize = 16;
/// How long the watch may fail before the agent counts as unhealthy.
const WATCH_TIMEOUT: Duration = Duration::from_secs(30);
/// How long to wait for a GC that holds the lock of the state directory.
const LOCK_TIMEOUT: Duration = Duration::from_millis(100);

/// An answer.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: StatusCode,
    pub(super) content_type: &'static str,
    pub(super) body: String,
}

/// A path, and the function that answers requests for it.
type Route = (&'static str, fn(&Shared, &HeaderMap) -> Reply);

/// All paths.
const ROUTES: &[Route] = &[("/healthz", health), ("/metrics", metrics)];

impl Reply {
    fn text(status: StatusCode, body: impl Into<String>) -> Self {
        Self { status, content_type: "text/plain; charset=utf-8", body: body.into() + "\n" }
    }
}

/// Whether the agent is healthy and, if not, why.
fn health(shared: &Shared, _: &HeaderMap) -> Reply {
    let queue = shared.queue.borrow();
    let now = Instant::now();
    let facts = HealthFacts {
        watch: shared.node.watch_state(),
        started: shared.started,
        braid_problem: shared.braid_problem.borrow().clone(),
        wait: queue.longest_wait(now),
        longest_wait: shared.longest_wait,
    };
    match facts.problem(now) {
        None => {
            let (pods, failing) = (queue.pods(), queue.failing());
            Reply::text(StatusCode::OK, format!("ok: {pods} pods, {failing} of them without what they ask for"))
        }
        Some(reason) => Reply::text(StatusCode::SERVICE_UNAVAILABLE, reason),
    }
}

/// The metrics of the node, and of calls.
fn metrics(shared: &Shared, headers: &HeaderMap) -> Reply {
    let accept = headers.get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let format = Format::accepted(accept);
    let node = match metrics::Node::read(&shared.state_dir, &shared.conf_dir, deadline::after(LOCK_TIMEOUT)) {
        Ok(node) => node,
        Err(error) => return Reply::text(StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
    };
    let failing = u64::try_from(shared.queue.borrow().failing()).unwrap_or(u64::MAX);
    let gauges = Gauges { node: &node, unfulfilled_pods: Some(failing) };
    match metrics::write(&gauges, Some(&shared.calls), format) {
        Ok(body) => Reply { status: StatusCode::OK, content_type: format.content_type(), body },
        Err(error) => Reply::text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

/// The facts that decide whether the agent is healthy.
#[derive(Debug)]
struct HealthFacts {
    /// The state of the watch of pods.
    watch: WatchState,
    /// When the agent was started.
    started: Instant,
    /// Why the node's own Braid cannot be used, if it cannot.
    braid_problem: Option<String>,
    /// How long a pod has waited for its turn.
    wait: Duration,
    /// How long a pod may wait.
    longest_wait: Duration,
}

impl HealthFacts {
    /// Why the agent is unhealthy, if it is.
    fn problem(self, now: Instant) -> Option<String> {
        let is_long_ago = |since| now.saturating_duration_since(since) >= WATCH_TIMEOUT;
        match self.watch {
            WatchState::Starting if is_long_ago(self.started) => {
                return Some("the Kubernetes API server has not answered yet".into());
            }
            WatchState::Failing { since, reason } if is_long_ago(since) => {
                let seconds = now.saturating_duration_since(since).as_secs();
                return Some(format!("the watch of pods has failed for {seconds} s: {reason}"));
            }
            WatchState::Starting | WatchState::Alive | WatchState::Failing { .. } => {}
        }
        let is_stuck = self.wait > self.longest_wait;
        self.braid_problem
            .or_else(|| is_stuck.then(|| format!("a pod has waited for {} s for its turn", self.wait.as_secs())))
    }
}

/// Listens on an address.
///
/// # Errors
/// When the address cannot be used.
pub(super) async fn listen(address: SocketAddr) -> Result<TcpListener, AgentError> {
    let wrong = |source| AgentError::Listen { address: address.to_string(), source };
    TcpListener::bind(address).await.map_err(wrong)
}

/// Answers requests for as long as the agent runs.
pub(super) async fn serve(listener: TcpListener, shared: Rc<Shared>) -> Infallible {
    let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let permit = Arc::clone(&connections).acquire_owned().await;
        let Ok((stream, _)) = listener.accept().await else {
            // This is temporary, for example because too many files are open.
            sleep(Duration::from_secs(1)).await;
            continue;
        };
        let shared = Rc::clone(&shared);
        spawn_local(async move {
            let answer = service_fn(|request| {
                let reply = respond(&request, &shared);
                async move { Ok::<_, Infallible>(reply) }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(REQUEST_TIMEOUT)
                .keep_alive(false)
                .serve_connection(TokioIo::new(stream), answer);
            drop(timeout(REQUEST_TIMEOUT, connection).await);
            drop(permit);
        });
    }
}

fn respond(request: &Request<Incoming>, shared: &Shared) -> Response<Full<Bytes>> {
    let route = ROUTES.iter().find(|(path, _)| *path == request.uri().path());
    let reply = match (request.method(), route) {
        (&Method::GET | &Method::HEAD, Some((_, answer))) => answer(shared, request.headers()),
        (_, Some(_)) => Reply::text(StatusCode::METHOD_NOT_ALLOWED, "only GET"),
        (_, None) => {
            let paths: Vec<&str> = ROUTES.iter().map(|(path, _)| *path).collect();
            Reply::text(StatusCode::NOT_FOUND, format!("there are: {}", paths.join(", ")))
        }
    };
    let mut response = Response::new(Full::new(Bytes::from(reply.body)));
    *response.status_mut() = reply.status;
    let headers = response.headers_mut();
    headers.insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static(reply.content_type));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watch_that_is_dead_and_a_queue_that_is_stuck_are_ailments() {
        let started = Instant::now();
        let problem = |watch: WatchState, wait, seconds| {
            let longest_wait = Duration::from_secs(600);
            let wait = Duration::from_secs(wait);
            let facts = HealthFacts { watch, started, braid_problem: None, wait, longest_wait };
            facts.problem(started + Duration::from_secs(seconds))
        };
        let failing = || WatchState::Failing { since: started, reason: "connection refused".into() };
        for (watch, wait, seconds, expected) in [
            (WatchState::Starting, 0, 29, None),
            (WatchState::Starting, 0, 30, Some("the Kubernetes API server has not answered yet")),
            (failing(), 0, 29, None),
            (failing(), 0, 3600, Some("the watch of pods has failed for 3600 s: connection refused")),
            (WatchState::Alive, 600, 3600, None),
            (WatchState::Alive, 601, 3600, Some("a pod has waited for 601 s for its turn")),
        ] {
            assert_eq!(problem(watch.clone(), wait, seconds).as_deref(), expected, "{watch:?}");
        }
    }
}
