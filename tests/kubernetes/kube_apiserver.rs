//! A real API server with the manifests of `conf/kubernetes-dra` applied, where `KUBEBUILDER_ASSETS` names a folder with
//! `etcd`, `kube-apiserver` and `kubectl`.
//!
//! One server serves all tests, one after another. Each test finds it without pods and definitions. The server has a network,
//! processes and files of its own, and is killed when the test's process exits for any reason.

use std::fs;
use std::io::{self, BufRead as _, BufReader};
use std::net::{Shutdown, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use kube::client::Body;
use rcgen::{Certificate, KeyPair};
use serde_json::{Value, json};

use super::certificates::Certificates;
use super::cluster::{ApiServer, DEFINITIONS, SLICES};
use super::listener::Listener;
use crate::support::{Case, inside_network};

/// The time limit for the server's start, and for everything else.
const PATIENCE: Duration = Duration::from_secs(120);
pub(super) const ADDRESS: &str = "127.0.0.1:6443";
const ADMIN: &str = "admin";
/// Namespaces that tests put objects into.
const NAMESPACES: [&str; 4] = ["default", "kube-system", "other", "web"];

/// Runs as process 1 of a machine, until its standard input ends: then the kernel ends all the others.
const INIT: &str = r#"
    set -e
    ip link set lo up
    mount -t tmpfs tmpfs /mnt
    cp "$1"/* /mnt
    cd /mnt
    "$2/etcd" --data-dir etcd --listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379 \
        --listen-peer-urls http://127.0.0.1:2380 </dev/null >etcd.log 2>&1 &
    "$2/kube-apiserver" --etcd-servers=http://127.0.0.1:2379 --bind-address=127.0.0.1 --advertise-address=127.0.0.1 \
        --secure-port=6443 --tls-cert-file=server.crt --tls-private-key-file=server.key --token-auth-file=tokens.csv \
        --authorization-mode=RBAC --service-cluster-ip-range=10.96.0.0/24 --disable-admission-plugins=ServiceAccount \
        --service-account-issuer=https://kubernetes.default.svc --service-account-key-file=accounts.pub \
        --service-account-signing-key-file=accounts.key </dev/null >kube-apiserver.log 2>&1 &
    echo started
    read -r || true
"#;

/// The server, as one test uses it.
pub(super) struct KubeApiserver {
    shared: &'static Shared,
    listener: Listener,
    _turn: MutexGuard<'static, ()>,
}

/// What all tests share.
struct Shared {
    init: Child,
    authority: Certificate,
    /// A token of the service account that `conf/kubernetes` makes.
    token: String,
    /// A token of an account with the rights of `conf/kubernetes/live`.
    token_of_agent: String,
    turn: Mutex<()>,
}

impl KubeApiserver {
    /// The server, reachable from the host of a case. `None` if its programs are missing.
    pub(super) fn start(case: &Case) -> Option<Self> {
        // If the server does not start, it is not tried again.
        static SHARED: LazyLock<Option<Shared>> = LazyLock::new(|| assets().map(|assets| Shared::start(&assets)));
        let Some(shared) = &*SHARED else {
            eprintln!("KUBEBUILDER_ASSETS names no folder with etcd, kube-apiserver and kubectl: skipped");
            return None;
        };
        let turn = shared.turn.lock().unwrap_or_else(PoisonError::into_inner);
        shared.clean();
        let listener = Listener::start(case, |stream| drop(shared.relay(&stream)));
        Some(Self { shared, listener, _turn: turn })
    }

    /// Sends a request with this token, and returns the answer.
    pub(super) fn request(&self, token: &str, method: &str, path: &str, body: &Value) -> (u16, Value) {
        self.shared.request(token, method, path, body)
    }

    /// Sends a request with all rights, and returns the answer.
    pub(super) fn admin(&self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        self.shared.admin(method, path, body)
    }

    /// The network namespace in which the server runs and listens on [`ADDRESS`].
    pub(super) fn network(&self) -> PathBuf {
        self.shared.network()
    }
}

/// The folder with the programs.
fn assets() -> Option<PathBuf> {
    std::env::var_os("KUBEBUILDER_ASSETS").filter(|folder| !folder.is_empty()).map(PathBuf::from)
}

impl ApiServer for KubeApiserver {
    fn address(&self) -> String {
        self.listener.address()
    }

    fn authority(&self) -> String {
        self.shared.authority.pem()
    }

    fn token(&self) -> String {
        self.shared.token.clone()
    }

    fn token_of_agent(&self) -> String {
        self.shared.token_of_agent.clone()
    }

    fn token_of_pod(&self, path: &str) -> String {
        let pod = self.get(path).expect("the pod is there");
        let name = &pod["metadata"]["name"];
        let reference = json!({"apiVersion": "v1", "kind": "Pod", "name": name, "uid": pod["metadata"]["uid"]});
        self.shared.token("braid", &json!({"boundObjectRef": reference}))
    }

    fn get(&self, path: &str) -> Option<Value> {
        match self.shared.admin("GET", path, &Value::Null) {
            (200, object) => Some(object),
            (404, _) => None,
            other => panic!("get {path}: {other:?}"),
        }
    }

    fn put(&self, path: &str, mut object: Value) {
        let Some(mut now) = self.get(path) else {
            let (collection, _) = path.rsplit_once('/').expect("a path");
            self.shared.must("POST", collection, &object);
            return;
        };
        now["metadata"]["annotations"] = object["metadata"]["annotations"].take();
        if now["kind"] != "Pod" {
            now["spec"] = object["spec"].take();
        }
        self.shared.must("PUT", path, &now);
    }

    fn put_status(&self, path: &str, status: Value) {
        let mut now = self.get(path).expect("the object is there");
        now["status"] = status;
        self.shared.must("PUT", &format!("{path}/status"), &now);
    }

    fn remove(&self, path: &str) {
        let at_once = json!({"apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0});
        let (status, answer) = self.shared.admin("DELETE", path, &at_once);
        assert!([200, 404].contains(&status), "delete {path}: {answer}");
    }

    fn events(&self) -> Vec<Value> {
        let mut list = self.shared.must("GET", "/api/v1/events", &Value::Null);
        list["items"].as_array_mut().map(std::mem::take).expect("a list")
    }
}

impl Shared {
    fn start(assets: &Path) -> Self {
        let certificates = Certificates::new();
        let dir = tempfile::tempdir().expect("a temporary folder");
        let accounts = KeyPair::generate().expect("a key");
        for (name, text) in [
            ("authority.crt", certificates.authority.pem()),
            ("server.crt", certificates.server.pem()),
            ("server.key", certificates.key.serialize_pem()),
            ("accounts.key", accounts.serialize_pem()),
            ("accounts.pub", accounts.public_key_pem()),
            ("tokens.csv", format!("{ADMIN},admin,admin,\"system:masters\"\n")),
        ] {
            fs::write(dir.path().join(name), text).expect("write a file");
        }
        let mut init = Command::new("unshare")
            .args(["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "bash", "-c", INIT, "init"])
            .args([dir.path(), assets])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("run unshare");
        let mut line = String::new();
        let stdout = init.stdout.as_mut().expect("a pipe");
        BufReader::new(stdout).read_line(&mut line).expect("read from the server's machine");
        assert_eq!(line, "started\n", "the server's machine does not start");
        let mut shared = Self {
            init,
            authority: certificates.authority,
            token: String::new(),
            token_of_agent: String::new(),
            turn: Mutex::default(),
        };
        shared.until_ready("/readyz");
        shared.apply(assets, dir.path());
        shared.until_ready(&format!("{DEFINITIONS}/network-attachment-definitions"));
        for name in ["web", "other"] {
            let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
            shared.must("POST", "/api/v1/namespaces", &namespace);
        }
        shared.token = shared.token("braid", &json!({}));
        shared.token_of_agent = shared.account_of_agent();
        shared.allow_claim_status();
        shared
    }

    /// Makes an account with the rights of the agent, so that Braid's own account does not get them. Returns a token of it.
    fn account_of_agent(&self) -> String {
        let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "agent"}});
        self.must("POST", "/api/v1/namespaces/kube-system/serviceaccounts", &account);
        let text = include_str!("../../conf/kubernetes/live/rbac.yaml");
        let objects: Vec<Value> = serde_saphyr::from_multiple(text).expect("YAML");
        let roles = "/apis/rbac.authorization.k8s.io/v1/clusterroles";
        self.must("POST", roles, objects.iter().find(|one| one["kind"] == "ClusterRole").expect("a role"));
        for role in ["braid", "braid-agent"] {
            self.give_agent(role);
        }
        self.token("agent", &json!({}))
    }

    /// Gives both accounts the right to write the status of claims of the tests' driver.
    fn allow_claim_status(&self) {
        let text =
            include_str!("../../conf/kubernetes-dra/rbac-claim-status.yaml").replace("dra.example.com", "nic.example");
        let objects: Vec<Value> = serde_saphyr::from_multiple(&text).expect("YAML");
        let group = "/apis/rbac.authorization.k8s.io/v1";
        self.must("POST", &format!("{group}/clusterroles"), &objects[0]);
        self.must("POST", &format!("{group}/clusterrolebindings"), &objects[1]);
        for role in ["braid-claim-status", "braid-dra"] {
            self.give_agent(role);
        }
    }

    /// Gives the agent's account a role.
    fn give_agent(&self, role: &str) {
        let binding = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
            "metadata": {"name": format!("agent-{role}")},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
            "subjects": [{"kind": "ServiceAccount", "name": "agent", "namespace": "kube-system"}]});
        self.must("POST", "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", &binding);
    }

    /// A token of a service account.
    fn token(&self, account: &str, spec: &Value) -> String {
        let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec});
        let account = format!("/api/v1/namespaces/kube-system/serviceaccounts/{account}/token");
        let answer = self.must("POST", &account, &request);
        answer["status"]["token"].as_str().expect("a token").to_owned()
    }

    /// Applies what a user applies.
    fn apply(&self, assets: &Path, dir: &Path) {
        let kubeconfig = dir.join("kubeconfig");
        let text = format!(
            "apiVersion: v1\nkind: Config\nclusters:\n- name: c\n  cluster:\n    server: https://{ADDRESS}\n    \
             certificate-authority: {}/authority.crt\nusers:\n- name: u\n  user:\n    token: {ADMIN}\ncontexts:\n- \
             name: x\n  context:\n    cluster: c\n    user: u\ncurrent-context: x\n",
            dir.display()
        );
        fs::write(&kubeconfig, text).expect("write the kubeconfig");
        let mut command = Command::new(assets.join("kubectl"));
        command.env("HOME", dir).arg("--kubeconfig").arg(kubeconfig).args(["apply", "-k"]);
        command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("conf/kubernetes-dra"));
        let began = Instant::now();
        loop {
            let output = inside_network(&self.network(), || command.output()).expect("run kubectl");
            if output.status.success() {
                return;
            }
            // Some versions are ready before they serve the schemas with which kubectl checks objects.
            let said = String::from_utf8_lossy(&output.stderr);
            let is_early = said.contains("failed to download openapi") && began.elapsed() < PATIENCE;
            assert!(is_early, "kubectl apply: {said}");
            thread::sleep(Duration::from_millis(200));
        }
    }

    /// Waits until a path can be read.
    fn until_ready(&self, path: &str) {
        let began = Instant::now();
        loop {
            let answer = self.try_request(ADMIN, "GET", path, &Value::Null);
            if matches!(answer, Ok((200, _))) {
                return;
            }
            if began.elapsed() > PATIENCE {
                let log = |name: &str| fs::read_to_string(format!("/proc/{}/root/mnt/{name}.log", self.first()));
                let (etcd, api) = (log("etcd").unwrap_or_default(), log("kube-apiserver").unwrap_or_default());
                panic!("{path} of kube-apiserver is not ready: {answer:?}\n{etcd}\n{api}");
            }
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// Removes what an earlier test has left.
    fn clean(&self) {
        // The webhook that it names no longer runs.
        self.must("DELETE", "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations", &json!({}));
        for namespace in NAMESPACES {
            for collection in [
                format!("/api/v1/namespaces/{namespace}/pods"),
                format!("/api/v1/namespaces/{namespace}/events"),
                format!("{DEFINITIONS}/namespaces/{namespace}/network-attachment-definitions"),
                format!("/apis/resource.k8s.io/v1/namespaces/{namespace}/resourceclaims"),
                SLICES.to_owned(),
            ] {
                let at_once = json!({"apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0});
                let (status, answer) = self.admin("DELETE", &collection, &at_once);
                // Not every version has claims and slices.
                assert!([200, 404].contains(&status), "delete {collection}: {answer}");
            }
        }
    }

    fn must(&self, method: &str, path: &str, body: &Value) -> Value {
        let (status, answer) = self.admin(method, path, body);
        assert!((200..300).contains(&status), "{method} {path}: {status} {answer}");
        answer
    }

    fn admin(&self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        self.request(ADMIN, method, path, body)
    }

    fn request(&self, token: &str, method: &str, path: &str, body: &Value) -> (u16, Value) {
        self.try_request(token, method, path, body).unwrap_or_else(|error| panic!("{method} {path}: {error}"))
    }

    fn try_request(&self, token: &str, method: &str, path: &str, body: &Value) -> Result<(u16, Value), kube::Error> {
        let mut config = kube::Config::new(format!("https://{ADDRESS}").parse().expect("an address"));
        config.root_cert = Some(vec![self.authority.der().to_vec()]);
        config.auth_info.token = Some(token.to_owned().into());
        let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        let request = http::Request::builder().method(method).uri(path).header("content-type", "application/json");
        let request = request.body(Body::from(body)).expect("a request");
        let send = async {
            let response = kube::Client::try_from(config)?.send(request).await?;
            let status = response.status().as_u16();
            let body = response.into_body().collect_bytes().await?;
            Ok((status, serde_json::from_slice(&body).unwrap_or_default()))
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        inside_network(&self.network(), || runtime.block_on(send))
    }

    /// Copies a connection in both directions.
    fn relay(&self, stream: &TcpStream) -> io::Result<()> {
        let server = inside_network(&self.network(), || TcpStream::connect(ADDRESS))?;
        let copy = |mut from: &TcpStream, mut to: &TcpStream| {
            // Either side may close the connection.
            drop(io::copy(&mut from, &mut to));
            drop(to.shutdown(Shutdown::Write));
        };
        thread::scope(|scope| {
            scope.spawn(|| copy(stream, &server));
            copy(&server, stream);
        });
        Ok(())
    }

    fn network(&self) -> PathBuf {
        format!("/proc/{}/ns/net", self.init.id()).into()
    }

    /// The process ID of process 1 of the server's machine.
    fn first(&self) -> String {
        let id = self.init.id();
        let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children"));
        children.unwrap_or_default().trim().to_owned()
    }
}
