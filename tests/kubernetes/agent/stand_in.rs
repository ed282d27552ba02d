//! An agent, and a stand-in for the node's own Braid, which records how it is called.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::kubernetes::cluster::{ApiServer, Cluster};
use crate::support::{Case, braid, inside_network, wait_for};

pub(super) const NETWORKS: &str = "k8s.v1.cni.cncf.io/networks";
pub(super) const NODE: &str = "node-1";
/// Where an agent answers without `--listen`.
const ADDRESS: &str = "127.0.0.1:9797";

/// Records each call in `calls`, and two concurrent ones for one container. It answers what the test has written for the container,
/// or else success.
const STAND_IN: &str = r#"#!/bin/sh
cd "@DIR@/stand-in" || exit 9
id=$2
mkdir "running/$id" 2>/dev/null || echo "$id" >>overlaps
cp "wanted/$id" "seen/$id" 2>/dev/null
env >"environment"
echo "$*" >>calls
[ -e "slow/$id" ] && sleep "$(cat "slow/$id")"
status=0
if [ -e "answers/$id" ]; then
    cat "answers/$id"
    status=$(cat "statuses/$id")
else
    echo '{"detached":[],"updated":[],"attached":[],"failed":[],"definitions":[]}'
fi
[ -e "words/$id" ] && cat "words/$id" >&2
rmdir "running/$id"
exit "$status"
"#;

/// The real Braid.
const RECORDING: &str = r#"#!/bin/sh
export RECORDER_DIR="@DIR@/recorder"
[ -e "@DIR@/environment" ] && . "@DIR@/environment"
exec "@BRAID@" "$@"
"#;

/// Writes a program below `@DIR@`. An existing one stays, because it may be running.
fn write_program(case: &Case, name: &str, text: &str) -> PathBuf {
    let program = case.dir().join(name);
    if !program.exists() {
        let text = case.expand(text).replace("@BRAID@", braid().to_str().expect("UTF-8"));
        fs::write(&program, text).expect("write a program");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("make it executable");
    }
    program
}

/// The node's own Braid, as the agent finds it.
pub(in crate::kubernetes) struct StandIn {
    dir: PathBuf,
}

impl StandIn {
    pub(in crate::kubernetes) fn new(case: &Case) -> Self {
        let dir = case.dir().join("stand-in");
        for folder in ["running", "wanted", "seen", "answers", "statuses", "words", "slow"] {
            fs::create_dir_all(dir.join(folder)).expect("make a folder");
        }
        write_program(case, "stand-in/braid", STAND_IN);
        Self { dir }
    }

    /// Every call so far, by its words.
    pub(super) fn calls(&self) -> Vec<String> {
        let text = fs::read_to_string(self.dir.join("calls")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// How often it was called for a container.
    pub(super) fn calls_for(&self, container: &str) -> usize {
        self.calls().iter().filter(|call| call.starts_with(&format!("sync {container} "))).count()
    }

    /// Sets its answer and its exit status.
    pub(super) fn answer(&self, container: &str, answer: &Value, status: i32) {
        self.write("statuses", container, &status.to_string());
        self.write("answers", container, &answer.to_string());
    }

    /// Makes it fail because a definition is missing.
    pub(super) fn fail(&self, container: &str, definition: &str) {
        let error = json!({"code": 7, "msg": "no such network", "details": ""});
        let failed = json!([{"network": definition, "interface": "net1", "error": error}]);
        self.answer(container, &json!({"failed": failed, "definitions": [definition]}), 1);
    }

    /// Makes it succeed.
    pub(super) fn succeed(&self, container: &str, definitions: &[&str]) {
        self.answer(container, &json!({"failed": [], "definitions": definitions}), 0);
    }

    pub(super) fn write(&self, folder: &str, container: &str, text: &str) {
        // A rename, so that it is never incomplete.
        let path = self.dir.join(folder).join(container);
        let new = path.with_extension("new");
        fs::write(&new, text).expect("write a file");
        fs::rename(new, path).expect("put it in its place");
    }

    pub(super) fn read(&self, name: &str) -> String {
        fs::read_to_string(self.dir.join(name)).unwrap_or_default()
    }

    /// Whether it has ever run twice at once for one container.
    pub(super) fn has_overlapped(&self) -> bool {
        !self.read("overlaps").is_empty()
    }
}

/// A journal such as ADD leaves, of a container of a pod.
pub(super) fn journal(case: &Case, container: &str, uid: &str) {
    journal_at(case, (container, uid), "/run/netns/none", 1_795_244_965_024);
}

/// The same with the path of the namespace, and the time in milliseconds since 1970.
pub(super) fn journal_at(case: &Case, (container, uid): (&str, &str), netns: &str, time: u64) {
    let plan = json!({
        "network": "outer", "cniVersion": "1.0.0", "containerID": container, "netns": netns, "ifname": "eth0",
        "args": format!("IgnoreUnknown=1;K8S_POD_UID={uid}"), "path": "/opt/cni/bin", "position": "primary",
        "attachments": [{"ifname": "eth0", "network": {"name": "pods", "cniVersion": "1.0.0", "plugins": [{"type": "alpha"}]},
            "reference": "pods", "origin": "delegates[0]", "reason": "always", "args": ""}],
    });
    let header = json!({"format": 1, "time": time, "boot": "", "plan": plan});
    let complete = json!({"complete": {"micros": 1, "result": {"cniVersion": "1.0.0"}}});
    let attachments = case.dir().join("state/attachments");
    fs::create_dir_all(&attachments).expect("make a folder");
    // Braid makes the directory first. Here, directory and journal appear at the same time.
    let unfinished = case.dir().join(format!("{container}.unfinished"));
    fs::create_dir_all(&unfinished).expect("make a folder");
    fs::write(unfinished.join("eth0.jsonl"), format!("{header}\n{complete}\n")).expect("write a journal");
    fs::rename(unfinished, attachments.join(container)).expect("put it in its place");
}

/// Makes a pod on the node, with an attached container. Returns the pod's UID.
pub(super) fn attached_pod<S: ApiServer + ?Sized>(case: &Case, api: &Cluster<S>, name: &str, networks: &str) -> String {
    pod(api, name, networks);
    let uid = api.uid("web", name);
    journal(case, &container(name), &uid);
    uid
}

/// Makes a pod on the node, or changes the networks that it asks for.
pub(super) fn pod<S: ApiServer + ?Sized>(api: &Cluster<S>, name: &str, networks: &str) {
    let annotations = if networks.is_empty() { json!({}) } else { json!({NETWORKS: networks}) };
    let metadata = json!({"namespace": "web", "name": name, "annotations": annotations});
    let spec = json!({"nodeName": NODE, "containers": [{"name": "main", "image": "example.test/none"}]});
    let object = json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec});
    api.server.put(&format!("/api/v1/namespaces/web/pods/{name}"), object);
}

/// The container of a pod.
pub(super) fn container(name: &str) -> String {
    format!("container-of-{name}")
}

/// An agent that runs. It is killed when dropped.
pub(in crate::kubernetes) struct Agent {
    child: Child,
    log: Arc<Mutex<String>>,
    network: PathBuf,
    has_exited: bool,
}

impl Agent {
    /// Starts an agent with these additional arguments.
    pub(in crate::kubernetes) fn start(case: &Case, words: &[&str]) -> Self {
        Self::start_without_braid(case, &[&["--braid", "@DIR@/stand-in/braid"], words].concat())
    }

    /// Starts an agent with these additional arguments, which name the node's own Braid.
    pub(super) fn start_without_braid(case: &Case, words: &[&str]) -> Self {
        let places = ["--kubeconfig", "@DIR@/kubeconfig", "--bin-dir", "@DIR@/bin"];
        Self::start_with(case, &[&places, words].concat())
    }

    /// Starts an agent with these additional arguments and the real Braid, whose children tell the recorders where to record. The
    /// variables in `@DIR@/environment` are exported to the agent and to its children.
    pub(super) fn start_recording(case: &Case, words: &[&str]) -> Self {
        let program = write_program(case, "braid-that-records", RECORDING);
        let own = ["--kubeconfig", "@DIR@/kubeconfig", "--bin-dir", "@DIR@/bin", "--braid", "@DIR@/braid-that-records"];
        Self::start_program(case, &program, &[&own, words].concat())
    }

    /// Starts an agent of a node with the real Braid and these plugins.
    pub(super) fn start_real(case: &Case, plugins: &Path) -> Self {
        let (braid, plugins) = (braid(), plugins.to_str().expect("UTF-8"));
        let braid = braid.to_str().expect("UTF-8");
        Self::start_with(case, &["--kubeconfig", "@DIR@/kubeconfig-of-agent", "--bin-dir", plugins, "--braid", braid])
    }

    fn start_with(case: &Case, words: &[&str]) -> Self {
        Self::start_program(case, &braid(), words)
    }

    fn start_program(case: &Case, program: &Path, words: &[&str]) -> Self {
        let node = if words.contains(&"--node") { &[][..] } else { &["--node", NODE] };
        let own = [&["agent", "--host-pid", "none"], node].concat();
        let places = ["--state-dir", "@DIR@/state", "--conf-dir", "@DIR@/net.d", "--cache-dir", "@DIR@/cache"];
        let line: Vec<String> = own.iter().chain(&places).chain(words).map(|word| case.expand(word)).collect();
        let line: Vec<&str> = line.iter().map(String::as_str).collect();
        let mut child = case.command(program, &line).spawn();
        let log = Arc::new(Mutex::new(String::new()));
        let shared = Arc::clone(&log);
        let stderr = BufReader::new(child.stderr.take().expect("a pipe"));
        thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                shared.lock().expect("a lock").push_str(&(line + "\n"));
            }
        });
        Self { child, log, network: case.host().path(), has_exited: false }
    }

    /// What it has logged so far.
    pub(in crate::kubernetes) fn log(&self) -> String {
        self.log.lock().expect("a lock").clone()
    }

    /// Waits until it has logged a text.
    pub(in crate::kubernetes) fn logs(&self, text: &str) {
        wait_for(&format!("{text:?} in the log of the agent"), || self.log().contains(text).then_some(()));
    }

    pub(super) fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().try_into().expect("a process ID"))
    }

    pub(super) fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).expect("send a signal");
    }

    /// Waits for its end.
    pub(super) fn wait(&mut self) -> ExitStatus {
        let status = wait_for("the end of the agent", || self.child.try_wait().expect("wait for the agent"));
        self.has_exited = true;
        status
    }

    /// The status and the text of what it answers over HTTP.
    pub(in crate::kubernetes) fn get(&self, path: &str) -> Option<(u16, String)> {
        inside_network(&self.network, || {
            let mut stream = TcpStream::connect(ADDRESS).ok()?;
            stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: agent\r\n\r\n").as_bytes()).ok()?;
            let mut text = String::new();
            stream.read_to_string(&mut text).ok()?;
            let (head, body) = text.split_once("\r\n\r\n")?;
            Some((head.split_whitespace().nth(1)?.parse().ok()?, body.to_owned()))
        })
    }

    /// A line of `/proc/PID/status`, as a number.
    pub(super) fn status(&self, key: &str) -> u64 {
        let text = fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("the agent runs");
        let line = text.lines().find(|line| line.starts_with(key)).expect("a line of this key");
        line.split_whitespace().nth(1).expect("a value").parse().expect("a number")
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if !self.has_exited {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        if thread::panicking() {
            eprintln!("the agent's log:\n{}", self.log());
        }
    }
}

/// Waits, with a limit for a busy machine.
pub(super) fn patiently<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(began.elapsed() < Duration::from_secs(120), "waited in vain for {what}");
        thread::sleep(Duration::from_millis(20));
    }
}
