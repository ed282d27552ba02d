//! An API server with what is needed to attach one pod to some networks: TLS, and fixed answers.
//!
//! It does almost nothing, so that the client is measured. `kube-apiserver` takes longer, and speaks HTTP/2.

use std::fs;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::thread;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::{Value, json};

/// The `CNI_ARGS` of the only pod.
pub(crate) const ARGS: &str =
    "IgnoreUnknown=1;K8S_POD_NAMESPACE=bench;K8S_POD_NAME=pod;K8S_POD_INFRA_CONTAINER_ID=bench;K8S_POD_UID=uid-1";

/// Starts the server, for as long as this process lives, and writes a kubeconfig for it. The pod asks for these networks: each is
/// the configuration of a definition of its name.
pub(crate) fn start(kubeconfig: &Path, networks: &[Value]) {
    let mut params = CertificateParams::new(Vec::new()).expect("parameters");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("an authority");
    let key = KeyPair::generate().expect("a key");
    let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("parameters");
    let certificate = params.signed_by(&key, &authority).expect("a certificate");
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().expect("versions");
    let config = config.with_no_client_auth().with_single_cert(vec![certificate.der().clone()], key);
    let config = Arc::new(config.expect("a server's configuration"));

    let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
    let text = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "bench",
        "contexts": [{"name": "bench", "context": {"cluster": "bench", "user": "bench"}}],
        "clusters": [{"name": "bench", "cluster": {
            "server": format!("https://{}", listener.local_addr().expect("an address")),
            "certificate-authority-data": STANDARD.encode(authority.as_ref().pem()),
        }}],
        "users": [{"name": "bench", "user": {"token": "bench"}}],
    });
    fs::write(kubeconfig, text.to_string()).expect("write the kubeconfig");
    let networks: Arc<[Value]> = networks.into();
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let (config, networks) = (Arc::clone(&config), Arc::clone(&networks));
            thread::spawn(move || drop(serve(stream, config, &networks)));
        }
    });
}

fn serve(stream: TcpStream, config: Arc<ServerConfig>, networks: &[Value]) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let connection = ServerConnection::new(config).map_err(io::Error::other)?;
    let mut connection = BufReader::new(StreamOwned::new(connection, stream));
    loop {
        let mut request = String::new();
        if connection.read_line(&mut request)? == 0 {
            return Ok(());
        }
        let (mut length, mut metadata_only) = (0, false);
        loop {
            let mut header = String::new();
            connection.read_line(&mut header)?;
            let header = header.trim().to_ascii_lowercase();
            match header.split_once(": ") {
                Some(("content-length", value)) => length = value.parse().unwrap_or(0),
                Some(("accept", value)) => metadata_only = value.contains("as=partialobjectmetadata"),
                Some(_) => {}
                None => break,
            }
        }
        let mut body = vec![0; length];
        connection.read_exact(&mut body)?;
        let (status, body) = answer(&request, metadata_only, &body, networks);
        let body = body.to_string();
        let head =
            format!("HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n", body.len());
        let stream = connection.get_mut();
        stream.write_all((head + &body).as_bytes())?;
        stream.flush()?;
    }
}

fn answer(request: &str, metadata_only: bool, body: &[u8], networks: &[Value]) -> (u16, Value) {
    let names: Vec<_> = networks.iter().filter_map(|network| network["name"].as_str()).collect();
    let metadata = json!({"name": "pod", "namespace": "bench", "uid": "uid-1", "resourceVersion": "1",
        "annotations": {"k8s.v1.cni.cncf.io/networks": names.join(",")}});
    let path = request.split([' ', '?']).nth(1).unwrap_or_default();
    match (request.split(' ').next().unwrap_or_default(), path.rsplit_once('/')) {
        ("GET", Some((_, "pod"))) if metadata_only => {
            (200, json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": metadata}))
        }
        ("GET", Some((_, "pod"))) | ("PATCH" | "PUT", _) => {
            (200, json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {}, "status": {}}))
        }
        ("GET", Some((folder, name))) if folder.ends_with("network-attachment-definitions") => {
            let config = networks.iter().find(|network| network["name"] == name).unwrap_or(&Value::Null).to_string();
            let metadata = json!({"name": name, "namespace": "bench", "uid": name, "resourceVersion": "1"});
            let kind = "NetworkAttachmentDefinition";
            (
                200,
                json!({"apiVersion": "k8s.cni.cncf.io/v1", "kind": kind, "metadata": metadata, "spec": {"config": config}}),
            )
        }
        ("POST", _) => (201, serde_json::from_slice(body).unwrap_or_default()),
        _ => (404, json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": path, "code": 404})),
    }
}
