//! Sets up the benchmark: executables, folders, a network namespace.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc;
use std::{env, fs, thread};

use nix::sched::{CloneFlags, unshare};
use nix::unistd::gettid;

use crate::measure::{Call, Contender};

/// The real plugins that the benchmark runs.
const REAL: [&str; 7] = ["bridge", "host-local", "portmap", "firewall", "tuning", "macvlan", "bandwidth"];

/// The floor, built like a release's executable.
pub(crate) const STATIC_FLOOR: &str = "floor, static";

/// The set-up of the benchmark.
pub(crate) struct Bench {
    /// Whether to make only few runs of small cases.
    pub(crate) quick: bool,
    /// The percentage of the usual rounds.
    pub(crate) percent: usize,
    /// The folder that all plugins are in.
    pub(crate) plugins: PathBuf,
    /// The reference plugins, if they are installed.
    pub(crate) real: Option<String>,
    /// The container's network namespace.
    pub(crate) netns: PathBuf,
    /// The launcher of the floor.
    pub(crate) floor: PathBuf,
    /// The contenders.
    pub(crate) contenders: Vec<Contender>,
    /// A folder on disk.
    pub(crate) disk: PathBuf,
    /// Removes the folder when dropped.
    folders: Vec<tempfile::TempDir>,
}

impl Bench {
    /// Builds the executables, and copies them into the folder.
    pub(crate) fn prepare(quick: bool, percent: usize) -> Self {
        let given = env::var_os("BRAID_BENCH_BINARY").map(PathBuf::from);
        let built = build(None, &PROGRAMS);
        let platform = static_platform();
        let as_released =
            build(platform.as_deref(), if given.is_some() { &["--example", "bench-floor"] } else { &ALL });
        let braid = given.unwrap_or_else(|| as_released.join("braid"));
        let disk = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder on disk");
        // Copied as `braid install` and the project's own build do. A file that the linker has just written is in memory in small
        // pieces, and starts more slowly.
        let plugins = disk.path().join("bin");
        let install = |program: PathBuf, name: &str| {
            let copy = plugins.join(name);
            fs::write(&copy, fs::read(&program).expect("read an executable")).expect("copy an executable");
            fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).expect("make it executable");
            copy
        };
        fs::create_dir(&plugins).expect("make a folder");
        install(built.join("examples/bench-noop-plugin"), "bench-noop-plugin");
        let real = real_plugins();
        for name in real.iter().flat_map(|_| REAL) {
            install(real.as_ref().expect("there").0.join(name), name);
        }
        let floor = install(built.join("examples/bench-floor"), "bench-floor");
        let static_floor = platform.map(|_| install(as_released.join("examples/bench-floor"), "bench-floor-static"));
        let braid = install(braid, "braid");
        let mut bench = Self {
            quick,
            percent,
            plugins,
            real: real.map(|(_, version)| version),
            netns: namespace(),
            disk: disk.path().to_owned(),
            floor: floor.clone(),
            contenders: Vec::new(),
            folders: Vec::new(),
        };
        bench.enter("floor", floor, disk.path().join("floor"));
        bench.enter("Braid", braid.clone(), disk.path().join("braid"));
        if let Ok(memory) = tempfile::tempdir_in("/dev/shm") {
            bench.enter("Braid, state in memory", braid, memory.path().join("braid"));
            bench.folders.push(memory);
        }
        if let Some(peer) = env::var_os("BRAID_BENCH_PEER").map(PathBuf::from) {
            let name = peer.file_name().expect("a file").to_string_lossy().into_owned();
            bench.enter(&name, peer, disk.path().join("peer"));
        }
        if let Some(floor) = static_floor {
            bench.enter(STATIC_FLOOR, floor, disk.path().join("floor-static"));
        }
        bench.folders.push(disk);
        // The new executables must not be written back to disk during a measurement.
        drop(Command::new("sync").status());
        bench
    }

    fn enter(&mut self, name: &str, program: PathBuf, state: PathBuf) {
        fs::create_dir_all(&state).expect("make the state directory");
        self.contenders.push(Contender { name: name.into(), program, state });
    }

    /// The machine, in a line.
    pub(crate) fn describe(&self) -> String {
        let first = |path: &str, key: &str| {
            let text = fs::read_to_string(path).unwrap_or_default();
            let line = text.lines().find(|line| line.starts_with(key)).unwrap_or_default().to_owned();
            line.split_once(": ").map_or(line.clone(), |(_, value)| value.to_owned())
        };
        let file_system = Command::new("df").arg("--output=fstype").arg(&self.contenders[1].state).output();
        let file_system = file_system.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
        let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
        let fields: Vec<_> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
        // The 19th field is the niceness and the 41st the policy. They follow a name that may contain spaces.
        let scheduling = match (fields.get(38), fields.get(16)) {
            (Some(&("1" | "2")), _) => "real-time scheduling".to_owned(),
            (_, None | Some(&"0")) => "ordinary scheduling".to_owned(),
            (_, Some(nice)) => format!("niceness {nice}"),
        };
        format!(
            "{} × {}, Linux {}, state directory on {}, {}, braid {}",
            thread::available_parallelism().map_or(0, usize::from),
            first("/proc/cpuinfo", "model name"),
            first("/proc/sys/kernel/osrelease", ""),
            file_system.unwrap_or_default().lines().last().unwrap_or("a file system that df does not know"),
            scheduling,
            env!("CARGO_PKG_VERSION"),
        )
    }

    /// How large the executables are, in MB.
    pub(crate) fn sizes(&self) -> Vec<(String, f64)> {
        let size = |path: &Path| megabytes(fs::metadata(path).map_or(0, |file| file.len()));
        let ours = self.contenders.iter().filter(|contender| contender.name == "Braid");
        let mut sizes: Vec<_> = ours.map(|contender| (contender.name.clone(), size(&contender.program))).collect();
        if let Some(small) = env::var_os("BRAID_BENCH_SMALL_BINARY") {
            sizes.push(("Braid with `--no-default-features`".to_owned(), size(Path::new(&small))));
        }
        sizes
    }

    /// The number of rounds: few for `--quick`, and otherwise `usual`, or the requested percentage of it.
    pub(crate) fn count(&self, few: usize, many: usize) -> usize {
        if self.quick { few } else { few.max(many * self.percent / 100) }
    }

    /// A call by a contender.
    pub(crate) fn call<'a>(
        &'a self,
        contender: &'a Contender,
        verb: &'a str,
        container: &'a str,
        stdin: &'a [u8],
    ) -> Call<'a> {
        Call {
            program: &contender.program,
            verb,
            container,
            args: "",
            plugins: &self.plugins,
            netns: &self.netns,
            configuration: stdin,
        }
    }

    /// The contender of a name.
    pub(crate) fn contender(&self, name: &str) -> &Contender {
        self.contenders.iter().find(|contender| contender.name == name).expect("a contender of that name")
    }
}

/// The folder of the reference plugins, and which version of CNI `bridge` speaks: that of `BRAID_TEST_CNI_PATH_NEW`, or where
/// `tests/run.sh` keeps them.
fn real_plugins() -> Option<(PathBuf, String)> {
    let cache = env::home_dir().unwrap_or_default().join(".cache/braid-tests/plugins/usr/lib/cni");
    let folders = env::var_os("BRAID_TEST_CNI_PATH_NEW").map(PathBuf::from).into_iter();
    let mut folders = folders.chain(["/opt/cni-1.9/bin".into(), cache]);
    let folder = folders.find(|folder| REAL.iter().all(|name| folder.join(name).is_file()))?;
    // Without a command, it prints its version on standard error.
    let output = Command::new(folder.join("bridge")).env_remove("CNI_COMMAND").output().ok()?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let spoken = text.lines().find_map(|line| line.strip_prefix("CNI protocol versions supported: "))?;
    let newest = spoken.rsplit(' ').next().unwrap_or_default();
    Some((folder, format!("that speak CNI {newest}")))
}

/// What the executables of a release are built for, if rustc can do that here.
fn static_platform() -> Option<String> {
    let platform = format!("{}-unknown-linux-musl", env::consts::ARCH);
    let libraries = Command::new("rustc").args(["--print", "target-libdir", "--target", &platform]).output().ok()?;
    Path::new(String::from_utf8_lossy(&libraries.stdout).trim()).is_dir().then_some(platform)
}

/// The programs that are measured in addition to Braid.
const PROGRAMS: [&str; 4] = ["--example", "bench-floor", "--example", "bench-noop-plugin"];
/// Braid and the floor.
const ALL: [&str; 4] = ["--example", "bench-floor", "--bin", "braid"];

/// Builds programs, and returns the folder that contains them. With a platform, they are like the executables of a release:
/// static and at a fixed address. Without one, they are cargo's default.
///
/// Each is built on its own: beside tests and benchmarks Braid is built with the features that their dependencies turn on in
/// its own.
fn build(platform: Option<&str>, what: &[&str]) -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("the target folder");
    for one in what.chunks(2) {
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["build", "--release", "--quiet", "--target-dir"]).arg(target).args(one);
        cargo.current_dir(env!("CARGO_MANIFEST_DIR"));
        if let Some(platform) = platform {
            cargo.args(["--target", platform, "--config"]);
            cargo.arg(format!("target.{platform}.rustflags=[\"-Crelocation-model=static\"]"));
            // The only C code is cryptography, which does not use the C library.
            let variable = |name: &str| format!("{name}_{}", platform.replace('-', "_"));
            cargo.env(variable("CC"), "cc").env(variable("CFLAGS"), "-U_FORTIFY_SOURCE -fno-stack-protector");
        }
        assert!(cargo.status().expect("cargo runs").success(), "cargo build {} failed", one.join(" "));
    }
    target.join(platform.unwrap_or_default()).join("release")
}

/// A network namespace that contains only lo. It is removed when this process exits.
pub(crate) fn namespace() -> PathBuf {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("make a network namespace, as root");
        sender.send(format!("/proc/{}/task/{}/ns/net", std::process::id(), gettid())).expect("someone waits");
        loop {
            thread::park();
        }
    });
    receiver.recv().expect("a network namespace, as root").into()
}

#[expect(clippy::cast_precision_loss, reason = "files are small")]
fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}
