//! A double of the Kubernetes API server with what Braid uses: TLS, bearer tokens, pods, definitions, events.
//!
//! It uses the wire format of `kube-apiserver`, and misbehaves if a test asks for it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::{Value, json};

use super::certificates::Certificates;
use super::cluster::{ApiServer, DEFINITIONS, SLICES};
use super::listener::Listener;
use super::watching::{PODS, PodLog, WatchFault, watch};
use crate::support::Case;

/// The token that is valid from the start.
pub(super) const TOKEN: &str = "token-1";

/// What to do instead of answering normally.
#[derive(Clone)]
pub(super) enum Fault {
    /// Answer with this status, and with `Retry-After` if it is given.
    Status(u16, Option<u64>),
    /// Answer only after this time.
    Slow(Duration),
    /// Close the connection.
    Reset,
    /// Answer with an object of this many MiB, with or without its length.
    Large { size: usize, is_announced: bool },
    /// Refuse, and repeat the `Authorization` header in the answer.
    Echo,
    /// Answer with the object at this path.
    Other(&'static str),
}

/// A request.
#[derive(Debug, Clone)]
pub(super) struct Request {
    pub(super) method: String,
    pub(super) path: String,
    pub(super) query: String,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

#[derive(Default)]
pub(super) struct State {
    /// What has happened to pods.
    pub(super) pods: PodLog,
    tokens: BTreeSet<String>,
    tokens_of_pods: BTreeMap<String, String>,
    pub(super) objects: BTreeMap<String, Value>,
    /// The devices in the status of claims that have been applied, by claim and field manager.
    applied: BTreeMap<(String, String), Vec<Value>>,
    /// The number of UIDs that were assigned.
    uids: u32,
    events: Vec<Value>,
    requests: Vec<Request>,
    connections: u32,
    /// Method, part of the path, what to do, and how many more times.
    faults: Vec<(&'static str, &'static str, Fault, u32)>,
}

/// A running server. It is stopped when dropped.
pub(super) struct Double {
    state: Arc<Mutex<State>>,
    listener: Listener,
    authority: String,
}

impl Double {
    /// Starts a server on the host of a case.
    pub(super) fn start(case: &Case) -> Self {
        let certificates = Certificates::new();
        let tls = tls(&certificates);
        let state = Arc::new(Mutex::new(State { tokens: [TOKEN.to_owned()].into(), ..State::default() }));
        let shared = Arc::clone(&state);
        let listener = Listener::start(case, move |stream| drop(serve(stream, Arc::clone(&tls), &shared)));
        Self { state, listener, authority: certificates.authority.pem() }
    }

    /// Misbehaves in these ways in the next watches of pods, once each.
    pub(super) fn spoil_watches(&self, faults: impl IntoIterator<Item = WatchFault>) {
        self.state().pods.faults.extend(faults);
    }

    /// Ends all running watches of pods.
    pub(super) fn end_watches(&self) {
        self.state().pods.era += 1;
    }

    /// Misbehaves this many times with requests of a method whose path contains a text.
    pub(super) fn misbehave(&self, method: &'static str, path: &'static str, fault: Fault, times: u32) {
        self.state().faults.push((method, path, fault, times));
    }

    /// Accepts only this token from now on.
    pub(super) fn accept_only(&self, token: &str) {
        self.state().tokens = [token.to_owned()].into();
    }

    /// The requests so far, each as `GET namespace/pods/name`.
    pub(super) fn requests(&self) -> Vec<String> {
        let short = |path: &str| path.split_once("namespaces/").map_or(path, |(_, rest)| rest).to_owned();
        self.state().requests.iter().map(|request| format!("{} {}", request.method, short(&request.path))).collect()
    }

    /// How many connections have been made so far.
    pub(super) fn connections(&self) -> u32 {
        self.state().connections
    }

    /// Sets an annotation of an object. Everything else about it stays.
    pub(super) fn annotate(&self, path: &str, key: &str, value: &str) {
        let mut state = self.state();
        let mut object = state.objects.get(path).cloned().expect("the object is there");
        object["metadata"]["annotations"][key] = value.into();
        state.set(path, object);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ApiServer for Double {
    fn address(&self) -> String {
        self.listener.address()
    }

    fn authority(&self) -> String {
        self.authority.clone()
    }

    fn token(&self) -> String {
        TOKEN.to_owned()
    }

    fn token_of_agent(&self) -> String {
        TOKEN.to_owned()
    }

    fn token_of_pod(&self, path: &str) -> String {
        let claims = URL_SAFE_NO_PAD.encode(json!({"sub": "system:serviceaccount:kube-system:braid"}).to_string());
        let token = format!("e30.{claims}.c2ln");
        self.state().tokens_of_pods.insert(path.to_owned(), token.clone());
        token
    }

    fn get(&self, path: &str) -> Option<Value> {
        self.state().objects.get(path).cloned()
    }

    fn put(&self, path: &str, mut object: Value) {
        let mut state = self.state();
        let uid = if let Some(now) = state.objects.get(path) {
            now["metadata"]["uid"].clone()
        } else {
            state.uids += 1;
            json!(format!("uid-{}", state.uids))
        };
        object["metadata"]["uid"] = uid;
        state.set(path, object);
    }

    fn put_status(&self, path: &str, status: Value) {
        let mut state = self.state();
        let mut object = state.objects.get(path).cloned().expect("the object is there");
        object["status"] = status;
        state.set(path, object);
    }

    fn remove(&self, path: &str) {
        let mut state = self.state();
        state.unset(path);
        state.tokens_of_pods.remove(path);
    }

    fn events(&self) -> Vec<Value> {
        self.state().events.clone()
    }
}

fn tls(certificates: &Certificates) -> Arc<ServerConfig> {
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(certificates.key.serialize_der()));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().expect("versions");
    let config = config.with_no_client_auth().with_single_cert(vec![certificates.server.der().clone()], key);
    Arc::new(config.expect("a server's configuration"))
}

pub(super) type Connection = BufReader<StreamOwned<ServerConnection, TcpStream>>;

fn serve(stream: TcpStream, tls: Arc<ServerConfig>, state: &Mutex<State>) -> io::Result<()> {
    state.lock().unwrap_or_else(PoisonError::into_inner).connections += 1;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    let connection = ServerConnection::new(tls).map_err(io::Error::other)?;
    let mut connection = BufReader::new(StreamOwned::new(connection, stream));
    while let Some(request) = read(&mut connection)? {
        let fault = {
            let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
            state.requests.push(request.clone());
            let due = |(method, path, _, left): &&mut (&'static str, &'static str, Fault, u32)| {
                *left > 0 && *method == request.method && request.path.contains(*path)
            };
            let due = state.faults.iter_mut().find(due);
            due.map(|(_, _, fault, left)| {
                *left -= 1;
                fault.clone()
            })
        };
        match fault {
            Some(Fault::Reset) => return Ok(()),
            Some(Fault::Status(status, retry_after)) => {
                write(&mut connection, &refusal(status, "told to refuse"), retry_after)?;
                continue;
            }
            Some(Fault::Slow(time)) => thread::sleep(time),
            Some(Fault::Large { size, is_announced }) => {
                let length = if is_announced { format!("Content-Length: {}\r\n", size << 20) } else { String::new() };
                let stream = connection.get_mut();
                stream.write_all(format!("HTTP/1.1 200 X\r\n{length}Connection: close\r\n\r\n").as_bytes())?;
                stream.write_all(&vec![b' '; size << 20])?;
                return stream.flush();
            }
            Some(Fault::Echo) => {
                let sent = request.headers.get("authorization").cloned().unwrap_or_default();
                write(&mut connection, &refusal(403, &format!("no right for {sent}")), None)?;
                continue;
            }
            Some(Fault::Other(path)) => {
                let other = state.lock().unwrap_or_else(PoisonError::into_inner).objects[path].clone();
                write(&mut connection, &(200, other), None)?;
                continue;
            }
            None => {}
        }
        if request.is_watch() && state.lock().unwrap_or_else(PoisonError::into_inner).is_authorized(&request) {
            return watch(&mut connection, state, &request);
        }
        let answer = state.lock().unwrap_or_else(PoisonError::into_inner).answer(&request);
        write(&mut connection, &answer, None)?;
    }
    Ok(())
}

fn read(connection: &mut Connection) -> io::Result<Option<Request>> {
    let mut line = String::new();
    if connection.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split_whitespace().map(str::to_owned);
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let (path, query) = path.split_once('?').map_or((path.clone(), ""), |(path, query)| (path.to_owned(), query));
    let query = query.replace("%3D", "=").replace("%2C", ",").replace("%2F", "/");
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        connection.read_line(&mut line)?;
        match line.trim().split_once(':') {
            Some((name, value)) => drop(headers.insert(name.to_lowercase(), value.trim().to_owned())),
            None => break,
        }
    }
    let length = headers.get("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    connection.read_exact(&mut body)?;
    Ok(Some(Request { method, path, query, headers, body }))
}

fn write(connection: &mut Connection, (status, body): &(u16, Value), retry_after: Option<u64>) -> io::Result<()> {
    let body = body.to_string();
    let retry = retry_after.map(|seconds| format!("Retry-After: {seconds}\r\n")).unwrap_or_default();
    let head = format!(
        "HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {}\r\n{retry}\r\n",
        body.len()
    );
    let stream = connection.get_mut();
    stream.write_all(format!("{head}{body}").as_bytes())?;
    stream.flush()
}

fn refusal(code: u16, message: &str) -> (u16, Value) {
    (code, json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "code": code}))
}

impl State {
    fn is_authorized(&self, request: &Request) -> bool {
        let token = request.headers.get("authorization").and_then(|value| value.strip_prefix("Bearer "));
        let is_good =
            |token: &str| self.tokens.contains(token) || self.tokens_of_pods.values().any(|good| good == token);
        token.is_some_and(is_good)
    }

    fn answer(&mut self, request: &Request) -> (u16, Value) {
        if !self.is_authorized(request) {
            return refusal(401, "Unauthorized");
        }
        let header = |name: &str| request.headers.get(name).map_or("", String::as_str);
        match request.method.as_str() {
            "GET" if request.path == DEFINITIONS => (
                200,
                json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "k8s.cni.cncf.io/v1", "resources": []}),
            ),
            "GET" if request.path == PODS => (200, self.list_pods(request)),
            "GET" if request.path == SLICES => (200, self.slices(request)),
            "GET" => match self.objects.get(&request.path) {
                Some(object) if header("accept").contains("as=PartialObjectMetadata") => {
                    let metadata = object["metadata"].clone();
                    (
                        200,
                        json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata}),
                    )
                }
                Some(object) => (200, object.clone()),
                None => refusal(404, &format!("{} not found", request.path)),
            },
            "PATCH" if request.path.contains("/resourceclaims/") => self.apply(request),
            "PATCH" => self.patch(request),
            "POST" if request.path.ends_with("/events") => {
                let event: Value = serde_json::from_slice(&request.body).expect("an event is JSON");
                let name = &event["metadata"]["name"];
                if !name.is_null() && self.events.iter().any(|one| one["metadata"]["name"] == *name) {
                    return refusal(409, "there is an event of this name");
                }
                self.events.push(event.clone());
                (201, event)
            }
            "POST" if request.path == "/api/v1/namespaces/kube-system/serviceaccounts/braid/token" => {
                self.tokens.insert("lasting".into());
                let status = json!({"token": "lasting", "expirationTimestamp": "2200-01-01T00:00:00Z"});
                (
                    201,
                    json!({"kind": "TokenRequest", "apiVersion": "authentication.k8s.io/v1", "metadata": {},
                    "spec": {"audiences": []}, "status": status}),
                )
            }
            _ => refusal(405, "not something this server does"),
        }
    }

    /// The slices that the field selector selects, one a page.
    fn slices(&self, request: &Request) -> Value {
        let parameters: BTreeMap<&str, &str> =
            request.query.split('&').filter_map(|pair| pair.split_once('=')).collect();
        let selector = parameters.get("fieldSelector").expect("not the slices of all nodes and drivers");
        let is_selected = |slice: &&Value| {
            let holds = |(field, value): (&str, &str)| {
                slice["spec"][field.trim_start_matches("spec.")].as_str().unwrap_or_default() == value
            };
            selector.split(',').filter_map(|term| term.split_once('=')).all(holds)
        };
        let all = self.objects.iter().filter(|(path, _)| path.starts_with(SLICES)).map(|(_, slice)| slice);
        let selected: Vec<&Value> = all.filter(is_selected).collect();
        let first: usize =
            parameters.get("continue").map_or(0, |token| token.parse().expect("a token of this server's"));
        let is_last = first + 1 >= selected.len();
        let token = if is_last { String::new() } else { (first + 1).to_string() };
        let items = selected.get(first).into_iter().collect::<Vec<_>>();
        json!({"kind": "ResourceSliceList", "apiVersion": "resource.k8s.io/v1",
            "metadata": {"resourceVersion": "1", "continue": token}, "items": items})
    }

    /// Applies the devices of a claim's status: each manager has its own.
    fn apply(&mut self, request: &Request) -> (u16, Value) {
        if request.headers.get("content-type").map(String::as_str) != Some("application/apply-patch+yaml") {
            return refusal(415, "expected an apply patch");
        }
        let manager = request.query.split('&').find_map(|pair| pair.strip_prefix("fieldManager="));
        let patch: Value = serde_json::from_slice(&request.body).expect("a patch is JSON");
        let claim = request.path.strip_suffix("/status").expect("only the status is applied");
        let Some(object) = self.objects.get_mut(claim) else { return refusal(404, &format!("{claim} not found")) };
        let key = |device: &Value| ["driver", "pool", "device", "shareID"].map(|key| device[key].clone());
        let given = object["status"]["allocation"]["devices"]["results"].as_array().cloned().unwrap_or_default();
        let own = patch["status"]["devices"].as_array().cloned().unwrap_or_default();
        if let Some(device) = own.iter().find(|device| !given.iter().any(|result| key(result) == key(device))) {
            return refusal(422, &format!("status.devices: {device} must be an allocated device"));
        }
        let manager = manager.expect("a manager").to_owned();
        self.applied.insert((claim.to_owned(), manager), own);
        let of_claim = || self.applied.iter().filter(|((path, _), devices)| path == claim && !devices.is_empty());
        object["metadata"]["managedFields"] =
            of_claim().map(|((_, manager), _)| json!({"manager": manager, "operation": "Apply"})).collect();
        object["status"]["devices"] = of_claim().flat_map(|(_, devices)| devices.clone()).collect();
        (200, object.clone())
    }

    fn patch(&mut self, request: &Request) -> (u16, Value) {
        if request.headers.get("content-type").map(String::as_str) != Some("application/merge-patch+json") {
            return refusal(415, "expected a merge patch");
        }
        let patch: Value = serde_json::from_slice(&request.body).expect("a patch is JSON");
        let pod = request.path.strip_suffix("/status").expect("only the status is written");
        let Some(mut object) = self.objects.get(pod).cloned() else { return refusal(404, "not found") };
        if patch["metadata"]["uid"] != object["metadata"]["uid"] {
            return refusal(409, "Precondition failed: UID in precondition");
        }
        for (key, value) in patch["metadata"]["annotations"].as_object().expect("annotations") {
            object["metadata"]["annotations"][key] = value.clone();
        }
        self.set(pod, object.clone());
        (200, object)
    }
}
