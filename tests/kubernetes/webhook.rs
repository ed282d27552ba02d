//! `validate --webhook`, as an API server calls it.

use std::fs;
use std::io::{self, BufRead as _, BufReader, Read, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rstest::rstest;
use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::{Value, json};

use super::certificates::Certificates;
use super::cluster::{ApiServer as _, DEFINITIONS};
use super::kube_apiserver::ADDRESS;
use super::{Fault, KubeApiserver, in_cluster};
use crate::support::{Case, Machine, braid, inside_network, wait_for};

const NETWORKS: &str = "k8s.v1.cni.cncf.io/networks";
const BRIDGE: &str = r#"{"cniVersion":"1.0.0","type":"bridge"}"#;

/// A running webhook, in the network namespace of its clients.
struct Webhook {
    child: Child,
    /// The network namespace it serves in.
    network: PathBuf,
    address: SocketAddr,
    /// The lines of its output.
    lines: Mutex<Receiver<String>>,
    dir: PathBuf,
    authority: CertificateDer<'static>,
}

type Tls = StreamOwned<ClientConnection, TcpStream>;

impl Webhook {
    /// A webhook that looks up definitions in the case's cluster.
    fn of_cluster(case: &Case, more: &[&str]) -> Self {
        let kubeconfig = case.dir().join("kubeconfig");
        Self::start(case, &[&["--kubeconfig", kubeconfig.to_str().unwrap()], more].concat())
    }

    fn start(case: &Case, more: &[&str]) -> Self {
        Self::start_in(case.host().path(), case.dir().join("webhook"), more)
    }

    fn start_in(network: PathBuf, dir: PathBuf, more: &[&str]) -> Self {
        let certificates = Certificates::new();
        fs::create_dir(&dir).unwrap();
        put_certificate(&dir, &certificates);
        let mut command = Command::new(braid());
        command.args(["validate", "--webhook", "127.0.0.1:0"]);
        command.arg("--tls-cert-file").arg(dir.join("tls.crt")).arg("--tls-key-file").arg(dir.join("tls.key"));
        command.args(more).env_remove("CNI_COMMAND").env_remove("KUBERNETES_SERVICE_HOST");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = inside_network(&network, || command.spawn().unwrap());
        let (send, lines) = channel();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        thread::spawn(move || stderr.lines().map_while(Result::ok).try_for_each(|line| send.send(line)));
        let mut address = None;
        while address.is_none() {
            let line = lines.recv_timeout(Duration::from_secs(20)).expect("the webhook does not serve");
            let served = line.strip_prefix("braid: serving https://");
            address = served.map(|rest| rest.trim_end_matches("/validate").parse().unwrap());
        }
        fs::write(dir.join("authority.crt"), certificates.authority.pem()).unwrap();
        let authority = certificates.authority.der().clone();
        Self { child, network, address: address.unwrap(), lines: Mutex::new(lines), dir, authority }
    }

    /// The first line of its output that contains this text.
    fn says(&self, part: &str) {
        loop {
            let line = self.lines.lock().unwrap().recv_timeout(Duration::from_secs(20));
            if line.unwrap_or_else(|_| panic!("it does not say {part:?}")).contains(part) {
                return;
            }
        }
    }

    /// The certificate of the authority that signed the webhook's, in PEM.
    fn authority_pem(&self) -> String {
        fs::read_to_string(self.dir.join("authority.crt")).unwrap()
    }

    fn tcp(&self) -> TcpStream {
        let stream = inside_network(&self.network, || TcpStream::connect(self.address).unwrap());
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        stream
    }

    fn connect(&self) -> io::Result<Tls> {
        let mut roots = RootCertStore::empty();
        roots.add(self.authority.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let config = Arc::new(config.with_root_certificates(roots).with_no_client_auth());
        let client = ClientConnection::new(config, "127.0.0.1".try_into().unwrap()).unwrap();
        let mut stream = StreamOwned::new(client, self.tcp());
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock)?;
        }
        Ok(stream)
    }

    /// Sends a request unchanged, and returns the status and the body of the answer.
    fn send(&self, request: &[u8]) -> (u16, String) {
        let mut stream = self.connect().expect("a connection");
        // It may answer and close the connection before it has read everything.
        let _ = stream.write_all(request).and_then(|()| stream.flush());
        answer(&mut stream)
    }

    fn post(&self, body: &[u8]) -> (u16, String) {
        self.send(&post(body))
    }

    /// The response to a request for admission.
    #[track_caller]
    fn review(&self, request: &Value) -> Value {
        let review = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request});
        let (status, body) = self.post(review.to_string().as_bytes());
        assert_eq!(status, 200, "{body}");
        let mut review: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(
            (&review["apiVersion"], &review["kind"]),
            (&json!("admission.k8s.io/v1"), &json!("AdmissionReview"))
        );
        let response = review["response"].take();
        assert_eq!(response["uid"], request["uid"]);
        response
    }

    /// The response where this object is to be made.
    #[track_caller]
    fn create(&self, object: &Value) -> Value {
        let namespace = &object["metadata"]["namespace"];
        self.review(&json!({"uid": "u-1", "operation": "CREATE", "namespace": namespace, "object": object}))
    }

    #[track_caller]
    fn admits(&self, object: &Value) -> Vec<String> {
        let response = self.create(object);
        assert_eq!(response["allowed"], json!(true), "{response:#}");
        let warnings = response["warnings"].as_array().cloned().unwrap_or_default();
        warnings.iter().map(|warning| warning.as_str().unwrap().to_owned()).collect()
    }

    /// The object is refused with this message.
    #[track_caller]
    fn refuses(&self, object: &Value, code: u16, part: &str) -> String {
        let response = self.create(object);
        let message = response["status"]["message"].as_str().unwrap_or_default().to_owned();
        let is_refused = response["allowed"] == json!(false) && response["status"]["code"] == json!(code);
        assert!(is_refused && message.contains(part), "{response:#}");
        message
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).unwrap();
    }

    fn end(&mut self) -> ExitStatus {
        wait_for("the end of the webhook", || self.child.try_wait().unwrap())
    }
}

impl Drop for Webhook {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn put_certificate(dir: &std::path::Path, certificates: &Certificates) {
    fs::write(dir.join("tls.crt"), certificates.server.pem()).unwrap();
    fs::write(dir.join("tls.key"), certificates.key.serialize_pem()).unwrap();
}

fn head(length: usize) -> String {
    format!(
        "POST /validate?timeout=10s HTTP/1.1\r\nhost: w\r\ncontent-type: application/json\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n"
    )
}

fn post(body: &[u8]) -> Vec<u8> {
    [head(body.len()).as_bytes(), body].concat()
}

/// Reads an answer to the end of the connection.
fn answer(stream: &mut impl Read) -> (u16, String) {
    let mut bytes = Vec::new();
    // The webhook closes the connection without TLS's closing message.
    let _ = stream.read_to_end(&mut bytes);
    let text = String::from_utf8(bytes).unwrap();
    let status = text.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    (status, text.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default())
}

fn definition(namespace: &str, name: &str, config: &str) -> Value {
    json!({"apiVersion": "k8s.cni.cncf.io/v1", "kind": "NetworkAttachmentDefinition",
        "metadata": {"namespace": namespace, "name": name}, "spec": {"config": config}})
}

fn pod(networks: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"namespace": "web", "name": "shop", "annotations": {NETWORKS: networks}},
        "spec": {"containers": [{"name": "main", "image": "example.test/none"}]}})
}

/// The messages of `validate` about the object in a file, without line numbers, which an API server's object does not have.
fn errors_of_validate(object: &Value) -> Vec<String> {
    let machine = Machine::new();
    let path = machine.write("object.json", &object.to_string());
    let ran = machine.run(&format!("braid validate {}", path.display())).exits(1);
    let errors = ran.stdout.lines().filter_map(|line| line.trim_start().strip_prefix("error: "));
    errors.map(|error| error.replace(" (line 1)", "")).collect()
}

#[rstest]
#[case::no_json("{")]
#[case::no_type(r#"{"cniVersion":"1.0.0","name":"n"}"#)]
#[case::version(r#"{"cniVersion":"9.0.0","type":"bridge"}"#)]
#[case::path(r#"{"cniVersion":"1.0.0","type":"../evil"}"#)]
#[case::circle(r#"{"cniVersion":"1.0.0","type":"multus"}"#)]
#[case::several(r#"{"cniVersion":"1.0.0","plugins":[{"type":"bridge","bridge":"a/b","ipam":{"subnet":"x"}}]}"#)]
fn a_definition_that_is_wrong_is_refused_with_the_words_of_validate(#[case] config: &str) {
    let case = Case::new();
    let webhook = Webhook::start(&case, &[]);
    let object = definition("web", "one", config);
    let message = webhook.refuses(&object, 403, "NetworkAttachmentDefinition web/one: ");
    assert_eq!(message, errors_of_validate(&object).join("; "));
    webhook.says("refused: NetworkAttachmentDefinition web/one");
}

#[test]
fn a_good_definition_is_admitted_and_warnings_are_passed_on() {
    let case = Case::new();
    let webhook = Webhook::start(&case, &[]);
    // The webhook does not know whether a plugin is installed on the nodes.
    assert_eq!(webhook.admits(&definition("web", "one", r#"{"cniVersion":"1.0.0","type":"nowhere"}"#)), [""; 0]);
    let warnings = webhook.admits(&definition("web", "one", r#"{"type":"bridge"}"#));
    assert!(warnings.len() == 1 && warnings[0].contains("\"cniVersion\" is missing"), "{warnings:?}");
    let other = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"namespace": "web", "name": "x"}});
    assert_eq!(webhook.admits(&other), [""; 0]);
}

/// A pod is checked with the current definitions.
#[test]
fn a_pod_is_checked_by_the_definitions_of_the_cluster() {
    let (case, cluster) = in_cluster(Case::new());
    let webhook = Webhook::of_cluster(&case, &[]);
    let text = pod("one, infra/two@data");
    let json = pod(r#"[{"name": "one"}, {"name": "two", "namespace": "infra", "interface": "data"}]"#);
    for pod in [&text, &json] {
        let message = webhook.refuses(pod, 403, "Pod web/shop: ");
        for missing in ["web/one", "infra/two"] {
            assert!(message.contains(&format!("there is no network-attachment-definition {missing}")), "{message}");
        }
    }
    cluster.definition("web", "one", BRIDGE);
    cluster.definition("infra", "two", BRIDGE);
    for pod in [&text, &json] {
        assert_eq!(webhook.admits(pod), [""; 0]);
    }
    for (networks, part) in [
        ("one,,infra/two", NETWORKS),
        ("one@a/b", "a/b"),
        ("one@eth9, infra/two@eth9", "eth9"),
        (r#"[{"name": "one", "ips": ["x"]}]"#, "ips"),
        ("[{", NETWORKS),
    ] {
        webhook.refuses(&pod(networks), 403, part);
    }
    let asks_for_nothing = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": "web", "name": "x"}});
    let before = cluster.server.requests().len();
    assert_eq!(webhook.admits(&asks_for_nothing), [""; 0]);
    assert_eq!(cluster.server.requests().len(), before, "the API server is asked in vain");
}

/// A pod that the operator's configuration forbids is refused when it is created.
#[test]
fn a_pod_is_checked_by_the_configuration_that_is_given() {
    let (case, cluster) = in_cluster(Case::new());
    cluster.definition("infra", "two", BRIDGE);
    let config = case.dir().join("braid.conflist");
    let json = json!({"cniVersion": "1.0.0", "name": "pods", "plugins": [{"type": "braid", "kubeconfig": "/nowhere",
        "namespaceIsolation": true, "delegates": [{"type": "bridge"}]}]});
    fs::write(&config, json.to_string()).unwrap();
    let webhook = Webhook::of_cluster(&case, &[config.to_str().unwrap()]);
    webhook.refuses(&pod("infra/two"), 403, "namespaceIsolation is on");
    fs::write(&config, json.to_string().replace("bridge", "br/idge")).unwrap();
    let output = Command::new(braid())
        .args(["validate", "--webhook", "127.0.0.1:0", "--tls-cert-file", "c", "--tls-key-file", "k"])
        .arg(&config)
        .env_remove("CNI_COMMAND")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(!output.status.success() && said.contains("wrong") && said.contains("br/idge"), "{output:?}");
}

/// It is not known whether the definition exists. `--failure-policy` decides.
#[rstest]
#[case::refused_by_the_server(Some(Fault::Status(403, None)), "get network-attachment-definition web/one: 403")]
#[case::away(Some(Fault::Reset), "web/one")]
#[case::nobody_to_ask(None, "whether there is a network-attachment-definition web/one is not known here")]
fn what_cannot_be_checked_is_refused_or_admitted_as_the_operator_says(
    #[case] fault: Option<Fault>,
    #[case] reason: &str,
) {
    let (case, cluster) = in_cluster(Case::new());
    let has_cluster = fault.is_some();
    if let Some(fault) = fault {
        cluster.server.misbehave("GET", "network-attachment-definitions", fault, 1000);
    }
    for policy in ["fail", "ignore"] {
        let dir = case.dir().join(policy);
        let kubeconfig = case.dir().join("kubeconfig");
        let mut options = vec!["--failure-policy", policy];
        if has_cluster {
            options.extend(["--kubeconfig", kubeconfig.to_str().unwrap()]);
        }
        let webhook = Webhook::start_in(case.host().path(), dir, &options);
        if policy == "fail" {
            webhook.refuses(&pod("one"), 500, "it cannot be checked: Pod web/shop: ");
            webhook.refuses(&pod("one"), 500, reason);
        } else {
            let warnings = webhook.admits(&pod("one"));
            assert!(warnings.len() == 1 && warnings[0].contains(reason), "{warnings:?}");
        }
        // A mistake that does not depend on the API server is still refused.
        webhook.refuses(&pod("one@a/b"), 403, "a/b");
    }
}

/// An object that was invalid before the webhook was installed can still lose its finalizers, and be corrected.
#[test]
fn a_change_is_checked_by_what_it_changes() {
    let case = Case::new();
    let webhook = Webhook::start(&case, &[]);
    let update = |old: &Value, new: &Value| {
        webhook
            .review(&json!({"uid": "u-2", "operation": "UPDATE", "namespace": "web", "object": new, "oldObject": old}))
    };
    let wrong = pod("a,,b");
    let mut labelled = wrong.clone();
    labelled["metadata"]["labels"] = json!({"a": "b"});
    assert_eq!(update(&wrong, &labelled), json!({"uid": "u-2", "allowed": true}));
    let mut annotated = wrong.clone();
    annotated["metadata"]["annotations"]["other"] = json!("x");
    let response = update(&wrong, &annotated);
    assert!(response["allowed"] == json!(true) && response["warnings"][0].is_string(), "{response:#}");
    let response = update(&pod(""), &wrong);
    assert_eq!(response["allowed"], json!(false), "{response:#}");
    let mut going = wrong.clone();
    going["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    assert_eq!(update(&pod(""), &going)["allowed"], json!(true));
    for (operation, resource) in [("DELETE", ""), ("CONNECT", ""), ("CREATE", "ephemeralcontainers")] {
        let request = json!({"uid": "u-3", "operation": operation, "subResource": resource, "object": wrong});
        assert_eq!(webhook.review(&request), json!({"uid": "u-3", "allowed": true}), "{operation}");
    }
}

#[test]
fn the_certificate_is_read_again_when_it_changes() {
    let case = Case::new();
    let mut webhook = Webhook::start(&case, &[]);
    let good = definition("web", "one", BRIDGE);
    webhook.admits(&good);
    let (before, next) = (webhook.authority.clone(), Certificates::new());
    // After an incomplete change, an invalid file or a missing one, the earlier certificate stays in use.
    fs::write(webhook.dir.join("tls.crt"), next.server.pem()).unwrap();
    webhook.admits(&good);
    webhook.says("the one before stays in use");
    fs::write(webhook.dir.join("tls.crt"), "nonsense").unwrap();
    webhook.admits(&good);
    fs::remove_file(webhook.dir.join("tls.key")).unwrap();
    webhook.admits(&good);
    put_certificate(&webhook.dir, &next);
    webhook.authority = next.authority.der().clone();
    webhook.admits(&good);
    webhook.says("is used from now on");
    webhook.authority = before;
    assert!(webhook.connect().is_err(), "the certificate before is gone");
}

/// As the kubelet updates a Secret: a link to a folder is replaced.
#[test]
fn a_certificate_behind_links_is_read_again_when_they_lead_elsewhere() {
    let case = Case::new();
    let mut webhook = Webhook::start(&case, &[]);
    let dir = webhook.dir.clone();
    let next = Certificates::new();
    fs::create_dir(dir.join("..1")).unwrap();
    put_certificate(&dir.join("..1"), &next);
    std::os::unix::fs::symlink("..1", dir.join("..data")).unwrap();
    for name in ["tls.crt", "tls.key"] {
        std::os::unix::fs::symlink(format!("..data/{name}"), dir.join(format!("{name}.new"))).unwrap();
        fs::rename(dir.join(format!("{name}.new")), dir.join(name)).unwrap();
    }
    webhook.authority = next.authority.der().clone();
    webhook.admits(&definition("web", "one", BRIDGE));
    let last = Certificates::new();
    fs::create_dir(dir.join("..2")).unwrap();
    put_certificate(&dir.join("..2"), &last);
    std::os::unix::fs::symlink("..2", dir.join("..new")).unwrap();
    fs::rename(dir.join("..new"), dir.join("..data")).unwrap();
    webhook.authority = last.authority.der().clone();
    webhook.admits(&definition("web", "one", BRIDGE));
}

#[test]
fn it_does_not_start_without_a_certificate_that_can_be_used() {
    let dir = tempfile::tempdir().unwrap();
    let (one, other) = (Certificates::new(), Certificates::new());
    let run = |options: &[&str]| {
        let mut command = Command::new(braid());
        command.current_dir(&dir).env_remove("CNI_COMMAND").args(["validate", "--webhook"]).args(options);
        let output = command.output().unwrap();
        assert!(!output.status.success(), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    let files = ["127.0.0.1:0", "--tls-cert-file", "tls.crt", "--tls-key-file", "tls.key"];
    assert!(run(&["127.0.0.1:0"]).contains("--tls-cert-file"));
    assert!(run(&[&["nowhere"], &files[1..]].concat()).contains("expected an IP address and a port"));
    assert!(run(&files).contains("tls.crt"));
    fs::write(dir.path().join("tls.crt"), one.server.pem()).unwrap();
    fs::write(dir.path().join("tls.key"), "secret").unwrap();
    let said = run(&files);
    assert!(said.contains("tls.key holds no private key in PEM") && !said.contains("secret"), "{said}");
    fs::write(dir.path().join("tls.key"), other.key.serialize_pem()).unwrap();
    assert!(run(&files).contains("cannot be used"));
}

#[test]
fn a_request_that_is_no_review_is_refused_and_does_no_harm() {
    let case = Case::new();
    let webhook = Webhook::start(&case, &[]);
    let get =
        |path: &str| webhook.send(format!("GET {path} HTTP/1.1\r\nhost: w\r\nconnection: close\r\n\r\n").as_bytes());
    assert_eq!(get("/healthz"), (200, "ok\n".to_owned()));
    assert_eq!((get("/validate").0, get("/").0), (405, 404));
    for body in ["", "{", "[]", "{}", "\u{0}", r#"{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview"}"#] {
        let (status, text) = webhook.post(body.as_bytes());
        assert!(status == 400 && text.contains("AdmissionReview"), "{body:?}: {status} {text}");
    }
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    assert_eq!(webhook.post(deep.as_bytes()).0, 400);
    let text = post(b"{}").to_ascii_lowercase();
    let text = String::from_utf8(text).unwrap().replace("post", "POST").replace("http/1.1", "HTTP/1.1");
    assert_eq!(webhook.send(text.replace("application/json", "text/plain").as_bytes()).0, 415);
    // More than 8 MiB, with and without a `Content-Length`.
    let (status, text) = webhook.send(head(8 * (1 << 20) + 1).as_bytes());
    assert!(status == 413 && text.contains("8 MiB"), "{status} {text}");
    let chunked = head(0).replace("content-length: 0", "transfer-encoding: chunked");
    let chunk = [format!("{:x}\r\n", 1 << 20).into_bytes(), vec![b' '; 1 << 20], b"\r\n".to_vec()].concat();
    // The body is read to its end before it is refused. Otherwise the connection would be reset.
    assert_eq!(webhook.send(&[chunked.as_bytes(), &chunk.repeat(8), b"1\r\n ".as_slice()].concat()).0, 413);
    // No TLS, no HTTP.
    let mut plain = webhook.tcp();
    plain.write_all(b"GET /healthz HTTP/1.1\r\n\r\n").unwrap();
    assert_eq!(answer(&mut plain).0, 0);
    assert_eq!(webhook.send(b"\x00\x01\x02\r\n\r\n").0, 400);
    assert_eq!(webhook.send(format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(100_000)).as_bytes()).0 / 100, 4);
    // Objects that no API server sends.
    for object in [json!(null), json!([]), json!(5), json!({"kind": 5}), json!({"kind": "Pod", "metadata": []})] {
        webhook.review(&json!({"uid": "u", "operation": "CREATE", "object": object}));
    }
    webhook.admits(&definition("web", "one", BRIDGE));
}

/// Slow clients are disconnected, and do not delay others.
#[test]
fn slow_clients_are_sent_away_and_delay_nobody() {
    let case = Case::new();
    let webhook = Webhook::start(&case, &[]);
    let began = Instant::now();
    let mut handshake = webhook.tcp();
    let mut idle = webhook.connect().unwrap();
    let mut in_head = webhook.connect().unwrap();
    in_head.write_all(b"POST /validate HTTP/1.1\r\nhost:").unwrap();
    in_head.flush().unwrap();
    let mut in_body = webhook.connect().unwrap();
    in_body.write_all(head(1000).as_bytes()).unwrap();
    in_body.write_all(b"{").unwrap();
    in_body.flush().unwrap();
    webhook.admits(&definition("web", "one", BRIDGE));
    let statuses = [answer(&mut handshake).0, answer(&mut idle).0, answer(&mut in_head).0];
    assert!(statuses.iter().all(|status| [0, 408].contains(status)), "{statuses:?}");
    let (status, text) = answer(&mut in_body);
    assert!(status == 408 && text.contains("within 5 s"), "{status} {text}");
    let took = began.elapsed();
    assert!((4..40).contains(&took.as_secs()), "{took:?}");
}

/// There are at most 256 connections. Further clients wait until others are closed.
#[test]
fn connections_beyond_the_limit_wait_and_are_served() {
    let case = Case::new();
    let webhook = Webhook::start(&case, &[]);
    let idle: Vec<_> = (0..300).map(|_| webhook.tcp()).collect();
    let descriptors = || fs::read_dir(format!("/proc/{}/fd", webhook.child.id())).unwrap().count();
    wait_for("the connections", || (descriptors() > 250).then_some(()));
    assert!(descriptors() < 280, "{}", descriptors());
    webhook.admits(&definition("web", "one", BRIDGE));
    drop(idle);
}

/// All request bodies together take at most 32 MiB. Further ones are not read until there is room, and no client waits for ever.
#[test]
fn bodies_beyond_the_limit_of_all_wait_with_their_senders() {
    let case = Case::new();
    let webhook = Webhook::start(&case, &[]);
    let peak = || {
        let status = fs::read_to_string(format!("/proc/{}/status", webhook.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("the most memory it has had");
        line.trim().trim_end_matches(" kB").parse::<usize>().expect("a number") << 10
    };
    webhook.admits(&definition("web", "one", BRIDGE));
    let before = peak();
    let part = [head(8 << 20).into_bytes(), vec![b' '; 7 << 20]].concat();
    thread::scope(|scope| {
        for _ in 0..24 {
            scope.spawn(|| {
                let mut stream = webhook.connect().expect("a connection");
                // It is disconnected before it has sent everything.
                let _ = stream.write_all(&part).and_then(|()| stream.flush());
                let (status, text) = answer(&mut stream);
                assert!([0, 408].contains(&status), "{status} {text}");
            });
        }
    });
    // What is read is kept in a buffer that may be twice as large. Without a limit 168 MiB would be read.
    let used = (peak() - before) >> 20;
    assert!(used < 112, "{used} MiB");
    webhook.admits(&definition("web", "one", BRIDGE));
}

/// A review that waits for the API server does not delay the others.
#[test]
fn several_reviews_are_checked_at_once() {
    let (case, cluster) = in_cluster(Case::new());
    for name in ["one", "slow"] {
        cluster.definition("web", name, BRIDGE);
    }
    cluster.server.misbehave("GET", "definitions/slow", Fault::Slow(Duration::from_secs(2)), 1);
    let webhook = Webhook::of_cluster(&case, &[]);
    thread::scope(|scope| {
        let slow = scope.spawn(|| webhook.admits(&pod("slow")));
        let asked = || cluster.server.requests().iter().any(|request| request.ends_with("/slow")).then_some(());
        wait_for("the slow request", asked);
        let fast: Vec<_> = (0..20).map(|_| scope.spawn(|| webhook.admits(&pod("one")))).collect();
        for reviewed in fast {
            assert_eq!(reviewed.join().unwrap(), [""; 0]);
        }
        assert_eq!(slow.join().unwrap(), [""; 0]);
    });
}

/// The objects of a file of `conf/kubernetes/webhook`.
fn manifests(name: &str) -> Vec<Value> {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("conf/kubernetes/webhook").join(name);
    serde_saphyr::from_multiple(&fs::read_to_string(path).unwrap()).unwrap()
}

/// The manifests parse as Kubernetes's own types, without unknown keys.
#[test]
fn the_manifests_are_what_kubernetes_knows() {
    use k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration;
    use k8s_openapi::api::apps::v1::Deployment;
    use k8s_openapi::api::core::v1::Service;

    fn is_known<T: serde::Serialize + serde::de::DeserializeOwned>(object: &Value) {
        let typed: T = serde_json::from_value(object.clone()).unwrap();
        assert_eq!(&serde_json::to_value(typed).unwrap(), object);
    }
    is_known::<Deployment>(&manifests("deployment.yaml")[0]);
    is_known::<Service>(&manifests("service.yaml")[0]);
    is_known::<ValidatingWebhookConfiguration>(&manifests("webhook.yaml")[0]);
    let kustomization = &manifests("kustomization.yaml")[0];
    assert_eq!(kustomization["images"][0]["newTag"], json!(env!("CARGO_PKG_VERSION")));
    let machine = Machine::new();
    let config = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/conf/kubernetes/webhook/braid.conflist"));
    machine.conf("braid.conflist", &*config.unwrap()).run("braid validate /etc/cni/net.d/braid.conflist").succeeds();
    // All options in the Deployment exist.
    let args = manifests("deployment.yaml")[0].pointer("/spec/template/spec/containers/0/args").unwrap().clone();
    let args: Vec<String> = serde_json::from_value(args).unwrap();
    let output = Command::new(braid()).args(&args).env_remove("CNI_COMMAND").output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("/etc/braid-webhook/conf/braid.conflist: wrong"), "{output:?}");
}

/// The manifests and the webhook with a real API server: invalid objects are refused, and the client gets the reason.
#[test]
fn an_api_server_refuses_what_the_webhook_refuses() {
    let case = Case::new();
    let Some(api) = KubeApiserver::start(&case) else { return };
    let post = |path: &str, object: &Value| {
        let (status, answer) = api.admin("POST", path, object);
        assert!([201, 409].contains(&status), "{path}: {status} {answer:#}");
        answer
    };
    for mut object in manifests("rbac.yaml") {
        let rbac = "/apis/rbac.authorization.k8s.io/v1";
        match object["kind"].as_str().unwrap() {
            "ServiceAccount" => {
                object["metadata"]["namespace"] = json!("kube-system");
                post("/api/v1/namespaces/kube-system/serviceaccounts", &object)
            }
            "ClusterRole" => post(&format!("{rbac}/clusterroles"), &object),
            _ => post(&format!("{rbac}/clusterrolebindings"), &object),
        };
    }
    let wish = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}});
    let token = post("/api/v1/namespaces/kube-system/serviceaccounts/braid-webhook/token", &wish);
    let user = format!("token: {}", token["status"]["token"].as_str().unwrap());
    fs::write(case.dir().join("ca.crt"), api.authority()).unwrap();
    let kubeconfig = case.dir().join("kubeconfig");
    let text = format!(
        "apiVersion: v1\nkind: Config\nclusters: [{{name: c, cluster: {{server: 'https://{ADDRESS}', \
         certificate-authority: ca.crt}}}}]\nusers: [{{name: u, user: {{{user}}}}}]\ncontexts: [{{name: x, context: \
         {{cluster: c, user: u}}}}]\ncurrent-context: x\n"
    );
    fs::write(&kubeconfig, text).unwrap();
    let webhook =
        Webhook::start_in(api.network(), case.dir().join("webhook"), &["--kubeconfig", kubeconfig.to_str().unwrap()]);

    // As it is applied, but with the webhook's address in this test.
    let mut configuration = manifests("webhook.yaml").remove(0);
    let authority = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, webhook.authority_pem());
    for hook in configuration["webhooks"].as_array_mut().unwrap() {
        hook["clientConfig"] = json!({"url": format!("https://{}/validate", webhook.address), "caBundle": authority});
        // The test has to notice that nothing answers.
        hook["failurePolicy"] = json!("Fail");
    }
    post("/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations", &configuration);

    let definitions = |namespace: &str| format!("{DEFINITIONS}/namespaces/{namespace}/network-attachment-definitions");
    let wrong = definition("web", "wrong", "{");
    // The API server takes a moment to see it.
    let (status, answer) = wait_for("the webhook to be asked", || {
        let (status, answer) = api.admin("POST", &definitions("web"), &wrong);
        if status == 201 {
            api.remove(&format!("{}/wrong", definitions("web")));
        }
        (status != 201).then_some((status, answer))
    });
    let message = answer["message"].as_str().unwrap();
    let denied = "admission webhook \"definitions.braid-webhook.kube-system.svc\" denied the request: \
                  NetworkAttachmentDefinition web/wrong: spec.config: the configuration is not a JSON object";
    assert!(status == 403 && message.starts_with(denied), "{status} {message}");

    let pods = "/api/v1/namespaces/web/pods";
    let (status, answer) = api.admin("POST", pods, &pod("one"));
    let message = answer["message"].as_str().unwrap();
    assert!(status == 403 && message.contains("there is no network-attachment-definition web/one"), "{message}");
    assert_eq!(api.admin("POST", &definitions("web"), &definition("web", "one", BRIDGE)).0, 201);
    assert_eq!(api.admin("POST", pods, &pod("one")).0, 201);
    // A Deployment's pods have no name yet when they are admitted.
    let mut generated = pod(r#"[{"name": "one", "interface": "a/b"}]"#);
    generated["metadata"] = json!({"generateName": "shop-", "annotations": generated["metadata"]["annotations"]});
    assert_eq!(api.admin("POST", pods, &generated).0, 403);
    drop(webhook);
    // A pod that asks for nothing does not need the webhook. One that asks is refused, because of the failure policy.
    let mut plain = pod("");
    plain["metadata"] = json!({"name": "plain"});
    assert_eq!(api.admin("POST", pods, &plain).0, 201);
    assert_eq!(api.admin("POST", pods, &generated).0, 500);
}

/// On SIGTERM, the webhook answers the requests that have begun, and exits.
#[rstest]
#[case::terminated(Signal::SIGTERM)]
#[case::interrupted(Signal::SIGINT)]
fn it_exits_on_a_signal_after_what_has_begun(#[case] signal: Signal) {
    let (case, cluster) = in_cluster(Case::new());
    cluster.definition("web", "one", BRIDGE);
    cluster.server.misbehave("GET", "definitions/one", Fault::Slow(Duration::from_millis(2500)), 1);
    let mut webhook = Webhook::of_cluster(&case, &[]);
    let idle = webhook.connect().unwrap();
    thread::scope(|scope| {
        let review = scope.spawn(|| webhook.admits(&pod("one")));
        wait_for("the request", || (!cluster.server.requests().is_empty()).then_some(()));
        webhook.signal(signal);
        webhook.says("ending");
        // For a moment, the cluster still sends requests.
        webhook.admits(&definition("web", "one", BRIDGE));
        assert_eq!(review.join().unwrap(), [""; 0]);
    });
    assert_eq!(webhook.end().code(), Some(0));
    drop(idle);
}
