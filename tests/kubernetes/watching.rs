//! The part of the API server's double that lists and watches pods.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Write as _};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::double::{Connection, Request, State};

/// Where the pods of all namespaces are.
pub(super) const PODS: &str = "/api/v1/pods";
/// How many pods a page of a list has.
const PAGE: usize = 100;
/// The interval at which a watch looks for events.
const INTERVAL: Duration = Duration::from_millis(2);

/// A fault of a watch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WatchFault {
    /// The version is too old, which an event reports.
    Forgotten,
    /// The version is too old, which the response's status reports.
    ForgottenBefore,
    /// The connection ends in the middle of the first event.
    CutInEvent,
    /// Every event comes twice.
    Twice,
    /// The first event is repeated after all others.
    Late,
    /// The first event cannot be parsed.
    Nonsense,
    /// The connection ends at once.
    Empty,
}

/// What has happened to pods.
#[derive(Debug, Default)]
pub(super) struct PodLog {
    /// The newest version.
    version: u64,
    /// All writes by version: the pod before and after.
    writes: Vec<(u64, Value, Value)>,
    /// The faults of the next watches.
    pub(super) faults: VecDeque<WatchFault>,
    /// Watches that began with a smaller number end.
    pub(super) era: u32,
}

impl Request {
    /// Whether it is a watch of pods.
    pub(super) fn is_watch(&self) -> bool {
        self.method == "GET"
            && self.path == PODS
            && self.parameters().get("watch").is_some_and(|value| value != "false")
    }

    fn parameters(&self) -> BTreeMap<String, String> {
        let query = self.query.replace("%21", "!").replace("%3d", "=");
        let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
    }

    fn selects(&self, pod: &Value) -> bool {
        let parameters = self.parameters();
        let selector = parameters.get("fieldSelector").expect("not the pods of all nodes");
        let field = |name: &str| {
            let path = format!("/{}", name.replace('.', "/"));
            pod.pointer(&path).and_then(Value::as_str).unwrap_or_default().to_owned()
        };
        !pod.is_null()
            && selector.split(',').all(|term| match term.split_once("!=") {
                Some((name, value)) => field(name) != value,
                None => term.split_once('=').is_some_and(|(name, value)| field(name) == value),
            })
    }
}

impl State {
    /// Writes an object with the next version.
    pub(super) fn set(&mut self, path: &str, mut object: Value) {
        self.pods.version += 1;
        object["metadata"]["resourceVersion"] = self.pods.version.to_string().into();
        let before = self.objects.insert(path.to_owned(), object.clone()).unwrap_or_default();
        self.note(path, before, object);
    }

    /// Removes an object, if it exists.
    pub(super) fn unset(&mut self, path: &str) {
        if let Some(before) = self.objects.remove(path) {
            self.pods.version += 1;
            self.note(path, before, Value::Null);
        }
    }

    fn note(&mut self, path: &str, before: Value, after: Value) {
        if path.contains("/pods/") {
            self.pods.writes.push((self.pods.version, before, after));
        }
    }

    /// A page of the requested pods.
    pub(super) fn list_pods(&self, request: &Request) -> Value {
        let first: usize = request.parameters().get("continue").map_or(0, |token| token.parse().expect("a token"));
        let all = self.objects.iter().filter(|(path, pod)| path.contains("/pods/") && request.selects(pod));
        let items: Vec<Value> = all.skip(first).take(PAGE + 1).map(|(_, pod)| metadata_of(pod)).collect();
        let token = if items.len() > PAGE { (first + PAGE).to_string() } else { String::new() };
        let metadata = json!({"resourceVersion": self.pods.version.to_string(), "continue": token});
        let items = &items[..items.len().min(PAGE)];
        json!({"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": metadata, "items": items})
    }

    /// The events after a version, one line each, and the version of the last one.
    fn events_after(&self, version: u64, request: &Request) -> (Vec<String>, u64) {
        let news = self.pods.writes.iter().filter(|(of, ..)| *of > version);
        let event = |(of, before, after): &(u64, Value, Value)| {
            let (kind, pod) = match (request.selects(before), request.selects(after)) {
                (false, false) => return None,
                (false, true) => ("ADDED", after),
                (true, true) => ("MODIFIED", after),
                (true, false) => ("DELETED", before),
            };
            let mut object = metadata_of(pod);
            object["metadata"]["resourceVersion"] = of.to_string().into();
            Some(line(kind, &object))
        };
        (news.filter_map(event).collect(), self.pods.version)
    }
}

fn metadata_of(pod: &Value) -> Value {
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": pod["metadata"]})
}

fn line(kind: &str, object: &Value) -> String {
    json!({"type": kind, "object": object}).to_string() + "\n"
}

/// Sends events of pods until the client closes the watch, or the test ends it.
pub(super) fn watch(connection: &mut Connection, state: &Mutex<State>, request: &Request) -> io::Result<()> {
    let parameters = request.parameters();
    let number = |key: &str| parameters.get(key).and_then(|text| text.parse::<u64>().ok());
    let mut version = number("resourceVersion").expect("a version to begin at");
    let until = Instant::now() + Duration::from_secs(number("timeoutSeconds").unwrap_or(60));
    let (fault, era) = {
        let mut state = lock(state);
        (state.pods.faults.pop_front(), state.pods.era)
    };
    let gone = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Expired", "code": 410,
        "message": "too old resource version"});
    if fault == Some(WatchFault::ForgottenBefore) {
        let body = gone.to_string();
        let head =
            format!("HTTP/1.1 410 X\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n", body.len());
        return send(connection, &(head + &body));
    }
    send(connection, "HTTP/1.1 200 X\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")?;
    match fault {
        Some(WatchFault::Empty) => return Ok(()),
        Some(WatchFault::Forgotten) => chunk(connection, &line("ERROR", &gone))?,
        Some(WatchFault::Nonsense) => chunk(connection, "{\"type\":\"MODIFIED\",\"object\":7}\n")?,
        _ => {}
    }
    let mut has_bookmark = false;
    while Instant::now() < until && lock(state).pods.era == era {
        let (mut lines, reached) = lock(state).events_after(version, request);
        version = reached;
        match (fault, lines.first().cloned()) {
            (Some(WatchFault::CutInEvent), Some(first)) => {
                return chunk(connection, &first[..first.len() / 2]);
            }
            (Some(WatchFault::Twice), Some(_)) => {
                lines = lines.into_iter().flat_map(|one| [one.clone(), one]).collect();
            }
            (Some(WatchFault::Late), Some(first)) => lines.push(first),
            _ => {}
        }
        if lines.is_empty() && !has_bookmark {
            has_bookmark = true;
            let metadata = json!({"resourceVersion": version.to_string()});
            lines.push(line("BOOKMARK", &json!({"kind": "Pod", "apiVersion": "v1", "metadata": metadata})));
        }
        if !lines.is_empty() {
            chunk(connection, &lines.concat())?;
        }
        thread::sleep(INTERVAL);
    }
    send(connection, "0\r\n\r\n")
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn chunk(connection: &mut Connection, text: &str) -> io::Result<()> {
    send(connection, &format!("{:x}\r\n{text}\r\n", text.len()))
}

fn send(connection: &mut Connection, text: &str) -> io::Result<()> {
    let stream = connection.get_mut();
    stream.write_all(text.as_bytes())?;
    stream.flush()
}
