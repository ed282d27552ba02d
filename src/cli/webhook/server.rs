//! Connections, their limits, and the end.

use std::io;
use std::net::TcpListener;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

use super::certificate::Certificate;
use super::route::{CHECKS, Routes};
use super::validator::Validator;
use crate::cli::CliError;

/// The limit on concurrent connections. Further clients wait.
const CONNECTIONS: u32 = 256;
/// How long a client may take for the TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// How long a client may take for the head of a request, and how long an idle connection is kept.
const HEAD: Duration = Duration::from_secs(5);
/// How much of a request's head is held.
const MAX_HEAD: usize = 64 << 10;
/// The lifetime of a connection, even if its client does not read the answers.
const AGE: Duration = Duration::from_secs(300);
/// How long requests that have begun may take at the end of a connection.
const GRACE: Duration = Duration::from_secs(10);
/// How long connections are accepted after the signal to terminate: a cluster takes a moment to send its requests elsewhere.
const LINGER: Duration = Duration::from_secs(2);
/// The pause after a connection that could not be accepted, for example because there are no descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// The webhook.
pub(super) struct Server {
    pub(super) listener: TcpListener,
    pub(super) certificate: Certificate,
    pub(super) validator: Validator,
}

impl Server {
    /// Serves until SIGTERM or SIGINT.
    ///
    /// # Errors
    /// When it cannot begin.
    pub(super) fn run(self) -> Result<(), CliError> {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(CHECKS).build()?;
        let outcome = runtime.block_on(self.serve());
        // A check that still waits for an API server is not waited for.
        runtime.shutdown_background();
        outcome
    }

    async fn serve(self) -> Result<(), CliError> {
        let Self { listener, certificate, validator } = self;
        listener.set_nonblocking(true)?;
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let (mut terminated, mut interrupted) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let shared = Arc::new(Shared {
            tls: TlsAcceptor::from(Arc::new(certificate.into_config()?)),
            routes: Routes::new(validator),
        });
        let (stop, stopped) = watch::channel(false);
        let connections = Arc::new(Semaphore::new(CONNECTIONS as usize));
        eprint_line!("braid: serving https://{}/validate", listener.local_addr()?);
        {
            let mut taking = pin!(take(&listener, &shared, &connections, &stopped));
            tokio::select! {
                () = &mut taking => {}
                _ = terminated.recv() => {}
                _ = interrupted.recv() => {}
            }
            eprint_line!("braid: ending");
            tokio::select! {
                () = taking => {}
                () = sleep(LINGER) => {}
                _ = terminated.recv() => {}
                _ = interrupted.recv() => {}
            }
        }
        drop(listener);
        // Nobody may be there to hear it.
        let _ = stop.send(true);
        drop(timeout(GRACE, connections.acquire_many(CONNECTIONS)).await);
        Ok(())
    }
}

/// What all connections have in common.
struct Shared {
    tls: TlsAcceptor,
    routes: Routes,
}

/// Takes connections for ever.
async fn take(
    listener: &tokio::net::TcpListener,
    shared: &Arc<Shared>,
    connections: &Arc<Semaphore>,
    stopped: &watch::Receiver<bool>,
) {
    while let Ok(permit) = Arc::clone(connections).acquire_owned().await {
        match listener.accept().await {
            Ok((stream, _)) => drop(tokio::spawn(Arc::clone(shared).connection(stream, permit, stopped.clone()))),
            Err(error) => {
                tracing::warn!("a connection could not be taken: {error}");
                sleep(PAUSE).await;
            }
        }
    }
}

impl Shared {
    /// Serves one connection to its end. Its errors are the client's problem.
    async fn connection(
        self: Arc<Self>,
        stream: TcpStream,
        _permit: OwnedSemaphorePermit,
        mut stopped: watch::Receiver<bool>,
    ) {
        drop(stream.set_nodelay(true));
        let stream = match timeout(HANDSHAKE, self.tls.accept(stream)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return log_end(&error),
            Err(_) => return log_end(&io::Error::from(io::ErrorKind::TimedOut)),
        };
        let service = service_fn(|request| self.routes.answer(request));
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new()).header_read_timeout(HEAD).max_buf_size(MAX_HEAD);
        let mut connection = pin!(http.serve_connection(TokioIo::new(stream), service));
        tokio::select! {
            ended = &mut connection => return ended.unwrap_or_else(|error| log_end(&error)),
            () = sleep(AGE) => {}
            _ = stopped.wait_for(|is_stopped| *is_stopped) => {}
        }
        connection.as_mut().graceful_shutdown();
        drop(timeout(GRACE, connection).await);
    }
}

fn log_end(error: &dyn std::error::Error) {
    tracing::debug!("a connection was closed: {error}");
}
