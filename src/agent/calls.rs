//! Receives the reports of calls. They are counted for `/metrics`, and exported if they are traced.

use std::io;
use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;
use std::rc::Rc;

use tokio::net::UnixDatagram;
use tokio::sync::mpsc;
use tokio::task::spawn_local;

use super::error::AgentError;
use super::export::{self, Exporter};
use super::settings::Settings;
use super::shared::Shared;
use crate::telemetry::{FORMAT, Report, socket_path};

/// The largest report that is read, in bytes: larger than any report can be.
const MAX_REPORT: usize = 256 << 10;

/// Starts to count reported calls, and to export the spans of traced ones.
///
/// # Errors
/// When the socket cannot be made, or the exporter cannot be set up.
pub(super) fn start(settings: &Settings, node: &str, shared: &Rc<Shared>) -> Result<(), AgentError> {
    let socket = listen(&settings.state_dir)?;
    let traced = match &settings.otlp_endpoint {
        Some(endpoint) => {
            let exporter = Exporter::new(endpoint.clone(), node)?;
            let (traced, spans) = mpsc::channel(export::MAX_WAITING);
            spawn_local(exporter.run(spans));
            Some(traced)
        }
        None => None,
    };
    let shared = Rc::clone(shared);
    spawn_local(async move { receive(socket, &shared, traced).await });
    Ok(())
}

/// Binds the socket to which calls send their reports. A socket that an earlier agent has left is replaced: this agent holds the
/// lock.
///
/// # Errors
/// When it cannot be made.
fn listen(state_dir: &Path) -> Result<UnixDatagram, AgentError> {
    let path = socket_path(state_dir);
    let wrong = |source| AgentError::Events { path: path.clone(), source };
    remove_socket(&path).map_err(wrong)?;
    UnixDatagram::bind(&path).map_err(wrong)
}

/// Removes a socket. Any other kind of file is kept.
fn remove_socket(path: &Path) -> io::Result<()> {
    match path.symlink_metadata() {
        Ok(metadata) if metadata.file_type().is_socket() => std::fs::remove_file(path),
        Ok(_) => Err(io::Error::new(io::ErrorKind::AlreadyExists, "something other than a socket is there")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Counts reported calls, as long as the agent runs. Traced calls are passed to the exporter, if there is one.
async fn receive(socket: UnixDatagram, shared: &Shared, traced: Option<mpsc::Sender<Report<'static>>>) {
    let mut datagram = vec![0; MAX_REPORT];
    loop {
        let length = match socket.recv(&mut datagram).await {
            Ok(length) => length,
            Err(error) => {
                tracing::warn!("calls are not counted any more: {error}");
                return;
            }
        };
        let report = match serde_json::from_slice::<Report<'static>>(&datagram[..length]) {
            Ok(report) if report.format == FORMAT => report,
            Ok(report) => {
                tracing::debug!(format = report.format, "a call has sent a report in an unknown format");
                continue;
            }
            Err(error) => {
                tracing::debug!("the report of a call cannot be read: {error}");
                continue;
            }
        };
        shared.calls.count(&report);
        if report.verb == "ADD" {
            shared.attached.notify_one();
        }
        // If spans arrive faster than they can be exported, some are lost.
        if report.trace.is_some()
            && let Some(traced) = &traced
            && traced.try_send(report).is_err()
        {
            tracing::debug!("the spans of a call are lost: too many wait to be exported");
        }
    }
}
