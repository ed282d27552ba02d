//! A machine for a test, for programs that read and write fixed paths: container runtimes, and Braid's command line.

use std::cell::OnceCell;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{self, Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use super::case::{install, install_recorder};
use super::namespace::PREFIX;
use super::{Call, Json, Namespace, Snapshot, braid, reference_plugins};

/// The time limit for everything that should end by itself.
const PATIENCE: Duration = Duration::from_secs(120);
const CGROUPS: &str = "/sys/fs/cgroup";

/// Runs as process 1 of the machine, until its standard input ends. Then the kernel kills all other processes, and with the last of
/// them the mounts and everything else disappear. So a test that is killed leaves nothing behind.
const INIT: &str = r#"
    set -e
    mount -t tmpfs tmpfs /dev/shm
    if [[ ! -d /etc/cni/net.d ]]; then
        mount -t tmpfs tmpfs "$1/layers"
        mkdir "$1/layers/upper" "$1/layers/work"
        mount -t overlay overlay -o "lowerdir=/etc,upperdir=$1/layers/upper,workdir=$1/layers/work" /etc
        mkdir -p /etc/cni/net.d
    fi
    mount --bind "$1/net.d" /etc/cni/net.d
    mount -t tmpfs tmpfs /opt
    mkdir -p /opt/cni/bin
    mount --bind "$1/bin" /opt/cni/bin
    mount --bind "$1/var-lib" /var/lib
    mount --bind "$1/run" /run
    echo ready
    read -r || true
"#;

/// A machine with its own network, processes, `/etc/cni`, `/opt`, `/run` and `/var/lib`.
///
/// `/opt/cni/bin` contains Braid, the reference plugins and a recording plugin called `alpha`; `/etc/cni/net.d` is empty. Its
/// `eth0` is 192.0.2.1 and connects it to a neighbour, 192.0.2.2.
pub(crate) struct Machine {
    before: OnceCell<Snapshot>,
    init: Child,
    host: Namespace,
    neighbour: Namespace,
    dir: TempDir,
}

impl Machine {
    pub(crate) fn new() -> Self {
        let host = Namespace::new("host");
        let neighbour = Namespace::new("neighbour");
        let dir = tempfile::Builder::new()
            .prefix(&format!("{PREFIX}-{}-", process::id()))
            .tempdir()
            .expect("a temporary folder");
        for folder in [
            "bin",
            "layers",
            "net.d",
            "run/netns",
            "var-lib/cni",
            "recorder/calls",
            "recorder/state",
            "recorder/behaviour",
        ] {
            fs::create_dir_all(dir.path().join(folder)).expect("make a folder");
        }
        let bin = dir.path().join("bin");
        install(&braid(), &bin.join("braid"));
        install_recorder(&bin, "alpha");
        for plugin in fs::read_dir(reference_plugins()).expect("the reference plugins").flatten() {
            install(&plugin.path(), &bin.join(plugin.file_name()));
        }
        host.ip("link add eth0 type veth peer name peer");
        host.ip(&format!("link set peer netns {}", neighbour.path().display()));
        host.ip("addr add 192.0.2.1/24 dev eth0");
        host.ip("link set eth0 up");
        neighbour.ip("addr add 192.0.2.2/24 dev peer");
        neighbour.ip("link set peer up");
        let init = start_init(&host, dir.path());
        Self { before: OnceCell::new(), init, host, neighbour, dir }
    }

    /// Runs a command line in bash. A failure of any part is a failure of the whole.
    pub(crate) fn run(&self, line: &str) -> Ran {
        self.run_in(&self.host, line)
    }

    /// The same, on the neighbour.
    pub(crate) fn run_at_neighbour(&self, line: &str) -> Ran {
        self.run_in(&self.neighbour, line)
    }

    fn run_in(&self, network: &Namespace, line: &str) -> Ran {
        let namespaces = format!("/proc/{}/ns", self.init.id());
        let output = Command::new("nsenter")
            .arg(format!("--mount={namespaces}/mnt"))
            .arg(format!("--pid={namespaces}/pid_for_children"))
            .arg(format!("--net={}", network.path().display()))
            .args(["timeout", "-k", "1", &PATIENCE.as_secs().to_string()])
            .args(["bash", "-euo", "pipefail", "-c", line])
            .env_clear()
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/opt/cni/bin")
            .env("HOME", "/root")
            .env("RECORDER_DIR", self.dir.path().join("recorder"))
            .env("STORAGE_DRIVER", "vfs")
            .env("CONTAINERS_CONF", self.dir.path().join("containers.conf"))
            .stdin(Stdio::null())
            .output()
            .expect("run nsenter");
        Ran {
            line: line.to_owned(),
            status: output.status,
            stdout: String::from_utf8(output.stdout).expect("UTF-8 on standard output"),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Runs a line again and again until it succeeds.
    #[track_caller]
    pub(crate) fn until(&self, line: &str) -> Ran {
        let began = Instant::now();
        loop {
            let ran = self.run(line);
            if ran.status.success() || began.elapsed() > PATIENCE {
                return ran.succeeds();
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Puts a configuration into `/etc/cni/net.d`.
    pub(crate) fn conf(self, name: &str, conf: impl Json) -> Self {
        self.write(&format!("net.d/{name}"), &conf.into_json());
        self
    }

    /// Writes a file to the machine's folder, which has the same path, `dir()`, inside.
    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.dir().join(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("make a folder");
        fs::write(&path, text).expect("write a file");
        path
    }

    /// A folder of this machine only, which contains `net.d`, `bin`, `run` and `var-lib`.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A cgroup below which the runtimes make theirs.
    pub(crate) fn cgroup(&self) -> String {
        format!("/{}", self.host.name())
    }

    /// A folder with busybox in it, for a container's root file system.
    pub(crate) fn container_root(&self) -> PathBuf {
        let root = self.dir().join("root");
        for folder in ["bin", "dev", "etc", "proc", "sys", "tmp"] {
            fs::create_dir_all(root.join(folder)).expect("make a folder");
        }
        let places = ["/bin/busybox", "/usr/bin/busybox"].map(Path::new);
        let busybox = places.iter().find(|path| path.exists()).expect("busybox (the Debian package busybox-static)");
        fs::copy(busybox, root.join("bin/busybox")).expect("copy busybox");
        root
    }

    /// All calls of the recording plugin so far, each as `ADD alpha eth0`.
    pub(crate) fn order(&self) -> Vec<String> {
        Call::read_all(&self.dir().join("recorder/calls")).iter().map(ToString::to_string).collect()
    }

    /// Takes a snapshot of the machine, which must be the same at the end.
    pub(crate) fn note(&self) {
        drop(self.before.set(self.snapshot()));
    }

    /// Waits for what is being removed, and compares the machine with the snapshot.
    #[track_caller]
    pub(crate) fn is_as_noted(&self) {
        let before = self.before.get().expect("`note` comes first");
        let began = Instant::now();
        loop {
            let changes = self.snapshot().since(before);
            if changes.is_empty() {
                return;
            }
            assert!(began.elapsed() < Duration::from_secs(10), "the machine is changed:\n{changes}");
            thread::sleep(Duration::from_millis(50));
        }
    }

    fn snapshot(&self) -> Snapshot {
        let folders =
            ["run/netns", "var-lib/cni/braid", "var-lib/cni/networks", "var-lib/cni/results", "recorder/state"]
                .map(|name| self.dir().join(name));
        let folders: Vec<_> = folders.iter().map(PathBuf::as_path).collect();
        Snapshot::take(&self.host, &self.neighbour, &folders)
    }

    /// Kills everything that runs in the machine, as happens when a test is killed.
    pub(crate) fn end(&mut self) {
        drop(self.init.stdin.take());
        // A panic while dropping would end the whole run.
        let _ = self.init.wait();
    }

    /// The cgroups with a wanted name, in every hierarchy: in cgroup v1, each controller has a hierarchy of its own.
    pub(crate) fn cgroups(is_wanted: impl Fn(&str) -> bool) -> Vec<PathBuf> {
        let entries = |folder: &Path| fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
        let hierarchies = entries(Path::new(CGROUPS)).filter(|path| path.is_dir()).chain([CGROUPS.into()]);
        let mut found: Vec<_> = hierarchies.flat_map(|hierarchy| entries(&hierarchy).collect::<Vec<_>>()).collect();
        found.retain(|path| path.file_name().and_then(|name| name.to_str()).is_some_and(&is_wanted));
        found
    }

    /// Removes cgroups in which no process is left.
    pub(crate) fn remove_cgroups(is_wanted: impl Fn(&str) -> bool) {
        for path in Self::cgroups(is_wanted) {
            remove_cgroup(&path);
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.end();
        Self::remove_cgroups(|name| name == self.host.name());
    }
}

fn start_init(host: &Namespace, dir: &Path) -> Child {
    let mut init = Command::new("nsenter")
        .arg(format!("--net={}", host.path().display()))
        .args(["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "bash", "-c", INIT, "init"])
        .arg(dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("run nsenter");
    let mut line = String::new();
    let stdout = init.stdout.as_mut().expect("a pipe");
    BufReader::new(stdout).read_line(&mut line).expect("read from the machine");
    assert_eq!(line, "ready\n", "the machine does not start; it needs mount and process namespaces");
    init
}

fn remove_cgroup(path: &Path) {
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            remove_cgroup(&entry.path());
        }
    }
    // Another process may have removed it.
    let _ = fs::remove_dir(path);
}

/// The outcome of a command line. Every assertion returns it, so that they can be chained.
pub(crate) struct Ran {
    line: String,
    status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    #[track_caller]
    pub(crate) fn succeeds(self) -> Self {
        self.exits(0)
    }

    #[track_caller]
    pub(crate) fn exits(self, status: i32) -> Self {
        self.require(self.status.code() == Some(status), &format!("it was to exit with {status}"));
        self
    }

    #[track_caller]
    pub(crate) fn fails(self) -> Self {
        self.require(!self.status.success(), "it was to fail");
        self
    }

    #[track_caller]
    pub(crate) fn prints(self, text: &str) -> Self {
        self.require(self.stdout.contains(text), &format!("standard output was to contain {text:?}"));
        self
    }

    #[track_caller]
    pub(crate) fn prints_nothing(self) -> Self {
        self.require(self.stdout.is_empty(), "standard output was to be empty");
        self
    }

    #[track_caller]
    pub(crate) fn says(self, text: &str) -> Self {
        self.require(self.stderr.contains(text), &format!("standard error was to contain {text:?}"));
        self
    }

    /// Standard output as JSON.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| self.fault(&format!("no JSON: {error}")))
    }

    #[track_caller]
    pub(crate) fn require(&self, holds: bool, what: &str) {
        if !holds {
            self.fault(what);
        }
    }

    #[track_caller]
    fn fault(&self, what: &str) -> ! {
        let Self { line, status, stdout, stderr } = self;
        panic!("{line}\n  {what}\n  {status}\n  standard output: {stdout}\n  standard error: {stderr}");
    }
}

/// Whether this is root with all capabilities, which container runtimes need, and not the root of a user namespace.
pub(crate) fn is_real_root() -> bool {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    map.split_whitespace().eq(["0", "0", "4294967295"])
}
