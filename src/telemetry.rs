//! The report of a call to the node's agent, if there is one: one datagram, sent without waiting.
//!
//! The socket is `events.sock` in the state directory, so only users who may read the journals can receive reports. Without an
//! agent, finding that out costs a call one system call. [`Report`] is the datagram, one JSON object.

use std::borrow::Cow;
use std::fs::{File, TryLockError};
use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::runtime::{Run, Runs};

/// The format of reports. An agent ignores reports in another format.
pub const FORMAT: u32 = 1;
/// The limit on the plugins in a report, so that it always fits into a datagram.
const MAX_PLUGINS: usize = 512;

/// What a call did, and how long it took.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report<'a> {
    /// [`FORMAT`].
    pub format: u32,
    /// The operation: CNI's in capitals; `attach`, `detach` or `update` for a change of a running container.
    pub verb: Cow<'a, str>,
    /// The name of Braid's network.
    pub network: Cow<'a, str>,
    /// The container's ID. Empty for operations without a container.
    #[serde(default, skip_serializing_if = "str::is_empty")]
    pub container: Cow<'a, str>,
    /// The interface that the runtime asked for. Empty for operations without an interface.
    #[serde(default, skip_serializing_if = "str::is_empty")]
    pub interface: Cow<'a, str>,
    /// The pod's UID, if the runtime said it.
    #[serde(default, rename = "podUID", skip_serializing_if = "str::is_empty")]
    pub pod_uid: Cow<'a, str>,
    /// When it began, in nanoseconds since 1970.
    pub began: u64,
    /// How long it took, in nanoseconds.
    pub took: u64,
    /// The code of its error. 0 if it succeeded.
    pub code: u32,
    /// The plugins that it ran, in the order in which they ended.
    pub plugins: Vec<PluginReport<'a>>,
    /// The trace that it is a part of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<TraceReport<'a>>,
}

/// One plugin of a call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PluginReport<'a> {
    /// Its type.
    #[serde(rename = "type")]
    pub plugin_type: Cow<'a, str>,
    /// The operation.
    pub verb: Cow<'a, str>,
    /// The interface that it was about.
    #[serde(default, skip_serializing_if = "str::is_empty")]
    pub interface: Cow<'a, str>,
    /// When it got its input, in nanoseconds since 1970.
    pub began: u64,
    /// Its duration from then on, in nanoseconds.
    pub took: u64,
    /// The code of its error. 0 if it succeeded.
    pub code: u32,
    /// Its span, where the call is traced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub span: Option<Cow<'a, str>>,
}

/// The place of a call in a trace. The IDs are hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceReport<'a> {
    /// The trace.
    pub id: Cow<'a, str>,
    /// The caller's span.
    pub parent: Cow<'a, str>,
    /// The call's.
    pub span: Cow<'a, str>,
}

/// What a report is about.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// See [`Report::verb`].
    pub verb: &'a str,
    /// See [`Report::network`].
    pub network: &'a str,
    /// See [`Report::container`].
    pub container: &'a str,
    /// See [`Report::interface`].
    pub interface: &'a str,
    /// See [`Report::pod_uid`].
    pub pod_uid: &'a str,
}

impl<'a> Report<'a> {
    /// The report of a call that has just ended with this code, or of a change that began after the first `before` runs of plugins.
    pub fn of(subject: Subject<'a>, took: Duration, code: u32, (runs, before): (&'a Runs, usize)) -> Self {
        let began = SystemTime::now().checked_sub(took).unwrap_or(SystemTime::UNIX_EPOCH);
        Self {
            format: FORMAT,
            verb: subject.verb.into(),
            network: subject.network.into(),
            container: subject.container.into(),
            interface: subject.interface.into(),
            pod_uid: subject.pod_uid.into(),
            began: since_1970(began),
            took: nanos(took),
            code,
            plugins: runs.after(before).into_iter().take(MAX_PLUGINS).map(PluginReport::from).collect(),
            trace: runs.trace().map(|trace| TraceReport {
                id: trace.id().into(),
                parent: trace.parent().into(),
                span: trace.span().to_string().into(),
            }),
        }
    }
}

impl From<Run> for PluginReport<'_> {
    fn from(run: Run) -> Self {
        Self {
            plugin_type: run.plugin_type.into(),
            verb: run.verb.as_str().into(),
            interface: run.ifname.into(),
            began: since_1970(run.began),
            took: nanos(run.took),
            code: run.error.as_ref().map_or(0, |error| error.code),
            span: run.span.map(|span| span.to_string().into()),
        }
    }
}

fn since_1970(time: SystemTime) -> u64 {
    nanos(time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default())
}

fn nanos(duration: Duration) -> u64 {
    duration.as_nanos().try_into().unwrap_or(u64::MAX)
}

/// The socket on which a node's agent receives reports.
pub fn socket_path(state_dir: &Path) -> PathBuf {
    state_dir.join("events.sock")
}

/// The file that a node's agent holds a lock on while it runs.
pub fn agent_lock_path(state_dir: &Path) -> PathBuf {
    state_dir.join("agent.lock")
}

/// Whether a node's agent runs, as far as can be seen.
pub fn has_agent(state_dir: &Path) -> bool {
    let is_held = |file: File| matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock));
    File::open(agent_lock_path(state_dir)).is_ok_and(is_held)
}

/// Whether there may be an agent: the socket exists. Without one, nothing needs to be recorded for it.
pub fn may_be_listened_to(state_dir: &Path) -> bool {
    socket_path(state_dir).exists()
}

/// Sends a report to the node's agent, if there is one; only then is `report` called. If the report cannot be sent immediately, it
/// is dropped, because the call matters more than its metrics. Returns whether it was sent.
pub fn send<'a>(state_dir: &Path, report: impl FnOnce() -> Report<'a>) -> bool {
    let Ok(socket) = listener(state_dir) else { return false };
    let Ok(bytes) = serde_json::to_vec(&report()) else { return false };
    let sent = socket.send(&bytes);
    if let Err(error) = &sent {
        tracing::debug!("the report of this call was not sent to the agent: {error}");
    }
    sent.is_ok()
}

/// A socket that is connected to the agent's.
fn listener(state_dir: &Path) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.connect(socket_path(state_dir))?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SUBJECT: Subject<'_> =
        Subject { verb: "ADD", network: "pods", container: "c1", interface: "eth0", pod_uid: "" };

    #[test]
    fn a_listener_gets_one_object_and_nobody_waits_for_it() {
        let dir = tempfile::tempdir().unwrap();
        let runs = Runs::default();
        send(dir.path(), || unreachable!("nobody listens"));
        let socket = UnixDatagram::bind(socket_path(dir.path())).unwrap();
        send(dir.path(), || Report::of(SUBJECT, Duration::from_millis(5), 7, (&runs, 0)));
        let mut datagram = vec![0; 1 << 16];
        let length = socket.recv(&mut datagram).unwrap();
        let report: Report<'_> = serde_json::from_slice(&datagram[..length]).unwrap();
        assert_eq!((report.took, report.code, &*report.container), (5_000_000, 7, "c1"));
        // Nobody reads, so the queue of the socket fills up.
        for _ in 0..10_000 {
            send(dir.path(), || Report::of(SUBJECT, Duration::ZERO, 0, (&runs, 0)));
        }
        // A socket that its owner has left behind.
        drop(socket);
        send(dir.path(), || unreachable!("nobody listens"));
    }
}
