//! How long whole calls take: Braid beside the floor, and beside any peer.
//!
//! ```text
//! cargo bench --bench process -- [--quick] [--write] [--only table|cluster|curves|concurrency]
//! ```
//!
//! Every figure is of whole processes, started as a runtime starts them, with a plugin that does nothing, so that what
//! differs is what stands between the runtime and the plugins. The contenders take turns, so that whatever else the
//! machine does meets all of them. The *floor* (`floor.rs`) is the least that has to be done: the same plugins, with the
//! same input, one after another. `Braid, state in memory` is Braid with its journal on a file system that needs no
//! disk: what it is faster by is the price of durability.
//!
//! `--quick` makes few runs of small cases, to see that all of it works. `--write` writes `docs/benchmark.md` and
//! `docs/benchmark.svg`. `BRAID_BENCH_PEER` names the executable of another plugin that takes a list of `delegates`, such
//! as Multus; `BRAID_BENCH_BINARY` a Braid other than the one that cargo builds. With `BRAID_BENCH_MUSL=1`, Braid and a floor
//! are built for musl too, and are part of all but the curves. On a machine that has other things to do,
//! `chrt --rr 20 cargo bench ...`, as root, keeps them from being measured.

#![expect(clippy::disallowed_methods, reason = "a program of its own, not a part of Braid")]

mod api_server;
mod measure;
mod plot;
mod report;
mod scenario;

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc;
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use nix::sched::{CloneFlags, unshare};
use nix::unistd::gettid;

use measure::{Call, Contender, Samples};
use report::{Curve, Figure, Report, Row};
use scenario::Scenario;

const VERBS: [&str; 3] = ["ADD", "CHECK", "DEL"];

struct Options {
    quick: bool,
    write: bool,
    only: Option<String>,
}

impl Options {
    fn read() -> Self {
        let mut options = Self { quick: false, write: false, only: None };
        let mut words = env::args().skip(1);
        while let Some(word) = words.next() {
            match word.as_str() {
                "--quick" => options.quick = true,
                "--write" => options.write = true,
                "--only" => options.only = words.next(),
                // What cargo passes to every benchmark.
                "--bench" => {}
                _ => panic!("{word} is none of --quick, --write, --only"),
            }
        }
        options
    }

    fn wants(&self, part: &str) -> bool {
        self.only.as_deref().is_none_or(|only| only == part)
    }
}

fn main() {
    let options = Options::read();
    let mut bench = Bench::prepare(options.quick);
    let mut report = Report::new(&bench.describe());
    if options.wants("table") {
        report.table(bench.table());
    }
    if options.wants("cluster") {
        report.cluster(bench.cluster());
    }
    // The rest is of what a plain build makes: the curves take long enough with three.
    bench.contenders.retain(|contender| contender.floor == 0);
    if options.wants("curves") {
        for curve in bench.curves() {
            report.curve(curve);
        }
    }
    if options.wants("concurrency") {
        report.concurrency(bench.concurrency());
    }
    if options.write {
        report.write(&Path::new(env!("CARGO_MANIFEST_DIR")).join("docs"));
    }
}

/// Everything in place to be measured.
struct Bench {
    quick: bool,
    plugins: PathBuf,
    netns: PathBuf,
    floor: PathBuf,
    contenders: Vec<Contender>,
    /// Removed when this goes.
    folders: Vec<tempfile::TempDir>,
}

impl Bench {
    fn prepare(quick: bool) -> Self {
        let (built, braid) = build(None);
        let braid = env::var_os("BRAID_BENCH_BINARY").map_or(braid, PathBuf::from);
        let disk = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder on disk");
        // Written as `braid install` and the project's own build do: what is in memory in small pieces, as a linker writes
        // them, starts more slowly.
        let plugins = disk.path().join("bin");
        let install = |program: PathBuf, name: &str| {
            let copy = plugins.join(name);
            fs::write(&copy, fs::read(&program).expect("read an executable")).expect("copy an executable");
            fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).expect("make it executable");
            copy
        };
        fs::create_dir(&plugins).expect("make a folder");
        install(built.join("bench-noop-plugin"), "bench-noop-plugin");
        let (floor, braid) = (install(built.join("bench-floor"), "bench-floor"), install(braid, "braid"));
        let musl = env::var_os("BRAID_BENCH_MUSL").map(|_| {
            let (built, braid) = build(Some(&format!("{}-unknown-linux-musl", env::consts::ARCH)));
            (install(built.join("bench-floor"), "bench-floor-musl"), install(braid, "braid-musl"))
        });
        let mut bench = Self {
            quick,
            plugins,
            netns: namespace(),
            floor: floor.clone(),
            contenders: Vec::new(),
            folders: Vec::new(),
        };
        bench.enter("floor", floor, disk.path().join("floor"), 0);
        bench.enter("Braid", braid.clone(), disk.path().join("braid"), 0);
        if let Ok(memory) = tempfile::tempdir_in("/dev/shm") {
            bench.enter("Braid, state in memory", braid, memory.path().join("braid"), 0);
            bench.folders.push(memory);
        }
        if let Some(peer) = env::var_os("BRAID_BENCH_PEER").map(PathBuf::from) {
            let name = peer.file_name().expect("a file").to_string_lossy().into_owned();
            bench.enter(&name, peer, disk.path().join("peer"), 0);
        }
        if let Some((floor, braid)) = musl {
            let number = bench.contenders.len();
            bench.enter("floor for musl", floor, disk.path().join("floor-musl"), number);
            bench.enter("Braid for musl", braid, disk.path().join("braid-musl"), number);
        }
        bench.folders.push(disk);
        // What was just built is not to be written back while something is measured.
        drop(Command::new("sync").status());
        bench
    }

    fn enter(&mut self, name: &str, program: PathBuf, state: PathBuf, floor: usize) {
        fs::create_dir_all(&state).expect("make the state directory");
        self.contenders.push(Contender { name: name.into(), program, state, floor });
    }

    /// The machine, in a line.
    fn describe(&self) -> String {
        let first = |path: &str, key: &str| {
            let text = fs::read_to_string(path).unwrap_or_default();
            let line = text.lines().find(|line| line.starts_with(key)).unwrap_or_default().to_owned();
            line.split_once(": ").map_or(line.clone(), |(_, value)| value.to_owned())
        };
        let file_system = Command::new("df").arg("--output=fstype").arg(&self.contenders[1].state).output();
        let file_system = file_system.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
        // The 41st field, after a name that may hold spaces.
        let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
        let policy = stat.rsplit(") ").next().and_then(|fields| fields.split(' ').nth(38)).unwrap_or("0");
        format!(
            "{} × {}, Linux {}, state directory on {}; {}; braid {} is {} MB large",
            thread::available_parallelism().map_or(0, usize::from),
            first("/proc/cpuinfo", "model name"),
            first("/proc/sys/kernel/osrelease", ""),
            file_system.unwrap_or_default().lines().last().unwrap_or("a file system that df does not know"),
            if matches!(policy, "1" | "2") { "real-time scheduling" } else { "ordinary scheduling" },
            env!("CARGO_PKG_VERSION"),
            self.sizes(),
        )
    }

    /// How large Braid's executables are.
    fn sizes(&self) -> String {
        let mut sizes = Vec::new();
        for contender in &self.contenders {
            let size = fs::metadata(&contender.program).map_or(0, |file| file.len());
            match contender.name.as_str() {
                "Braid" => sizes.push(format!("{:.2}", megabytes(size))),
                "Braid for musl" => sizes.push(format!("for musl {:.2}", megabytes(size))),
                _ => {}
            }
        }
        sizes.join(", ")
    }

    fn call<'a>(&'a self, contender: &'a Contender, verb: &'a str, container: &'a str, stdin: &'a [u8]) -> Call<'a> {
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

    /// ADD, CHECK and DEL by every contender in turn: for each contender, the samples of each verb.
    fn rounds(&self, scenario: Scenario, rounds: usize) -> Vec<[Samples; 3]> {
        let configurations: Vec<_> =
            self.contenders.iter().map(|contender| scenario.configuration(contender)).collect();
        self.turns(VERBS, rounds, |who, verb, container| {
            self.call(&self.contenders[who], verb, container, &configurations[who]).time()
        })
    }

    /// The verbs by every contender in turn. `time` is given the number of the contender, the verb and a container's ID.
    fn turns<const N: usize>(
        &self,
        verbs: [&'static str; N],
        rounds: usize,
        time: impl Fn(usize, &'static str, &str) -> Duration,
    ) -> Vec<[Samples; N]> {
        let count = self.contenders.len();
        let mut samples: Vec<[Samples; N]> = (0..count).map(|_| std::array::from_fn(|_| Samples::default())).collect();
        // The first round warms the caches.
        for round in 0..=rounds {
            for turn in 0..count {
                let who = (turn + round) % count;
                let container = format!("bench-{round}");
                for (verb, samples) in verbs.iter().zip(&mut samples[who]) {
                    let took = time(who, verb, &container);
                    if round > 0 {
                        samples.push(took);
                    }
                }
            }
        }
        samples
    }

    fn table(&self) -> Vec<Row> {
        let rounds = if self.quick { 7 } else { 151 };
        let mut rows = Vec::new();
        for delegates in [1, 4, 16] {
            let scenario = Scenario::delegates(delegates);
            let samples = self.rounds(scenario, rounds);
            for (v, verb) in VERBS.iter().enumerate() {
                for (contender, of) in self.contenders.iter().zip(&samples) {
                    rows.push(Row {
                        verb: (*verb).into(),
                        delegates,
                        contender: contender.name.clone(),
                        samples: of[v].clone(),
                        floor: samples[contender.floor][v].clone(),
                        peak: self.peak(contender, scenario, verb),
                    });
                }
            }
        }
        rows
    }

    /// ADD and DEL of a pod that asks an API server for four networks beside its primary. The floor runs the same five
    /// plugins and asks nobody.
    fn cluster(&self) -> Vec<Row> {
        let rounds = if self.quick { 7 } else { 101 };
        let scenario = Scenario { in_cluster: true, ..Scenario::delegates(1) };
        let asks = |contender: &Contender| !contender.is_floor();
        for contender in self.contenders.iter().filter(|contender| asks(contender)) {
            api_server::start(&contender.state.join("kubeconfig"));
        }
        let configurations = self.contenders.iter().map(|contender| {
            if asks(contender) { scenario } else { Scenario::delegates(1 + api_server::NETWORKS) }
                .configuration(contender)
        });
        let configurations: Vec<_> = configurations.collect();
        let call = |who: usize, verb, container| {
            let call = self.call(&self.contenders[who], verb, container, &configurations[who]);
            Call { args: if asks(&self.contenders[who]) { api_server::ARGS } else { "" }, ..call }
        };
        let verbs = ["ADD", "DEL"];
        let samples = self.turns(verbs, rounds, |who, verb, _| call(who, verb, "bench").time());
        let mut rows = Vec::new();
        for (v, verb) in verbs.iter().enumerate() {
            for (who, contender) in self.contenders.iter().enumerate() {
                let peaks = (0..5).map(|_| verbs.map(|verb| call(who, verb, "bench-peak").peak(&self.floor))[v]);
                rows.push(Row {
                    verb: (*verb).into(),
                    delegates: 1 + api_server::NETWORKS,
                    contender: contender.name.clone(),
                    samples: samples[who][v].clone(),
                    floor: samples[contender.floor][v].clone(),
                    peak: peaks.max().expect("five"),
                });
            }
        }
        rows
    }

    /// The most memory of five calls, in KiB.
    fn peak(&self, contender: &Contender, scenario: Scenario, verb: &str) -> u64 {
        let configuration = scenario.configuration(contender);
        let peaks = (0..5).map(|_| {
            let call = |verb| self.call(contender, verb, "bench-peak", &configuration);
            let mut peak = 0;
            for step in VERBS {
                let now = call(step).peak(&self.floor);
                if step == verb {
                    peak = now;
                }
            }
            peak
        });
        peaks.max().expect("five")
    }

    fn curves(&self) -> Vec<Curve> {
        let one = Scenario::delegates(1);
        let [delegates, chains, sizes, containers, attachments]: [&[usize]; 5] = if self.quick {
            [&[1, 4], &[1, 4], &[1 << 10, 64 << 10], &[1, 8], &[0, 1000]]
        } else {
            [
                &[1, 2, 4, 8, 16, 32, 64],
                &[1, 2, 4, 8, 16],
                &[1 << 10, 4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20],
                &[1, 5, 20, 50, 100, 200],
                &[0, 100, 1000, 10_000, 100_000],
            ]
        };
        vec![
            self.curve("delegates", "delegates", delegates, Scenario::delegates),
            self.curve("chain", "plugins in the chain of one delegate", chains, |chain| Scenario { chain, ..one }),
            self.curve("size", "bytes of configuration and of result", sizes, |bytes| Scenario { bytes, ..one }),
            self.attached(attachments),
            // Last, as it takes the machine a while to come to rest after it.
            self.at_once(containers),
        ]
    }

    fn curve(&self, name: &str, axis: &str, points: &[usize], scenario: impl Fn(usize) -> Scenario) -> Curve {
        let rounds = if self.quick { 3 } else { 41 };
        let mut curve = self.empty_curve(name, axis);
        for x in points {
            let samples = self.rounds(scenario(*x), rounds);
            curve.points.push((*x, samples.iter().map(Figure::of_verbs).collect()));
        }
        curve
    }

    fn empty_curve(&self, name: &str, axis: &str) -> Curve {
        let contenders = self.contenders.iter().map(|contender| contender.name.clone()).collect();
        Curve { name: name.into(), axis: axis.into(), contenders, points: Vec::new() }
    }

    /// So many containers at once, of four delegates each: how long until the last has ended.
    fn at_once(&self, points: &[usize]) -> Curve {
        let rounds = if self.quick { 2 } else { 11 };
        let mut curve = self.empty_curve("containers", "containers at once, of 4 delegates each");
        let scenario = Scenario::delegates(4);
        for count in points {
            let mut samples = vec![<[Samples; 3]>::default(); self.contenders.len()];
            for round in 0..rounds {
                for (contender, samples) in self.contenders.iter().zip(&mut samples) {
                    let configuration = scenario.configuration(contender);
                    for (verb, samples) in VERBS.iter().zip(samples) {
                        let began = Instant::now();
                        thread::scope(|scope| {
                            for number in 0..*count {
                                let configuration = &configuration;
                                scope.spawn(move || {
                                    let container = format!("bench-{round}-{number}");
                                    self.call(contender, verb, &container, configuration).time()
                                });
                            }
                        });
                        samples.push(began.elapsed());
                    }
                }
            }
            curve.points.push((*count, samples.iter().map(Figure::of_verbs).collect()));
        }
        curve
    }

    /// So many attachments on the node already. Their journals are copies of one that Braid has written; the floor has
    /// nothing of the kind, and a peer's are its own affair.
    fn attached(&self, points: &[usize]) -> Curve {
        let rounds = if self.quick { 3 } else { 41 };
        let scenario = Scenario::delegates(1);
        let mut curve = self.empty_curve("attachments", "attachments on the node already");
        let mut there = 0;
        for count in points {
            for contender in self.contenders.iter().filter(|contender| contender.name.starts_with("Braid")) {
                let configuration = scenario.configuration(contender);
                self.call(contender, "ADD", "bench-model", &configuration).time();
                let folder = contender.state.join("attachments");
                let journal = fs::read_to_string(folder.join("bench-model/eth0.jsonl")).expect("Braid's journal");
                self.call(contender, "DEL", "bench-model", &configuration).time();
                for number in there..*count {
                    let container = format!("there-{number:06}");
                    fs::create_dir(folder.join(&container)).expect("make a folder");
                    let copy = journal.replace("bench-model", &container);
                    fs::write(folder.join(&container).join("eth0.jsonl"), copy).expect("write a journal");
                }
            }
            there = *count;
            // What was just made is not to be written back while others are measured.
            drop(Command::new("sync").status());
            let samples = self.rounds(scenario, rounds);
            curve.points.push((*count, samples.iter().map(Figure::of_verbs).collect()));
        }
        curve
    }

    /// Eight delegates that take 100 ms each, one after another and at once.
    fn concurrency(&self) -> Vec<(usize, f64)> {
        let braid = &self.contenders[1];
        let rounds = if self.quick { 1 } else { 5 };
        let figures = [1, 8].map(|concurrency| {
            let scenario = Scenario { sleep: 100, concurrency, ..Scenario::delegates(8) };
            let configuration = scenario.configuration(braid);
            let mut samples = Samples::default();
            for _ in 0..rounds {
                samples.push(self.call(braid, "ADD", "bench-concurrency", &configuration).time());
                self.call(braid, "DEL", "bench-concurrency", &Scenario { sleep: 0, ..scenario }.configuration(braid))
                    .time();
            }
            (concurrency, samples.median())
        });
        figures.to_vec()
    }
}

/// Builds the plugin, the floor, and Braid, and returns the folder of the first two and the executable of the third.
///
/// Braid comes last and on its own: beside tests and benchmarks it is built with the features that their dependencies
/// turn on in its own, and what is to be measured is what `cargo build --release` makes.
fn build(platform: Option<&str>) -> (PathBuf, PathBuf) {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("the target folder");
    for what in [&["--example", "bench-floor", "--example", "bench-noop-plugin"][..], &["--bin", "braid"]] {
        let status = Command::new(env!("CARGO"))
            .args(["build", "--release", "--quiet", "--target-dir"])
            .arg(target)
            .args(platform.map(|platform| ["--target", platform]).iter().flatten())
            .args(what)
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .status()
            .expect("cargo runs");
        assert!(status.success(), "cargo build {} failed", what.join(" "));
    }
    let release = target.join(platform.unwrap_or_default()).join("release");
    (release.join("examples"), release.join("braid"))
}

/// A network namespace with nothing in it but lo. It goes with this process.
fn namespace() -> PathBuf {
    let (tell, told) = mpsc::channel();
    thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("make a network namespace, as root");
        tell.send(format!("/proc/{}/task/{}/ns/net", std::process::id(), gettid())).expect("someone waits");
        loop {
            thread::park();
        }
    });
    told.recv().expect("a network namespace, as root").into()
}

#[expect(clippy::cast_precision_loss, reason = "files are small")]
fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

/// Milliseconds, with as many digits as mean something.
fn millis(value: f64) -> String {
    if value < 10.0 { format!("{value:.2}") } else { format!("{value:.1}") }
}
