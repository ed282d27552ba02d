//! The duration of whole calls: Braid compared with the floor, and with a peer.
//!
//! ```text
//! cargo bench --bench process -- [--quick] [--write] [--percent N] [--only PART[,PART…]]
//! ```
//!
//! The parts are `table`, `real`, `burst`, `live`, `disk`, `sizes`, `cluster`, `curves` and `concurrency`.
//!
//! Every figure is of whole processes, started as a runtime starts them. The contenders take turns, so that other load on the
//! machine affects all of them. The *floor* (`floor.rs`) does the least that has to be done: it runs the same plugins with the
//! same input, one after another. Most parts use a plugin that does nothing, so that only what is between the runtime and the
//! plugins differs. `real`, `burst` and the limit of `live` use the reference plugins, and are skipped if these are neither in
//! `BRAID_TEST_CNI_PATH_NEW`, nor in /opt/cni-1.9/bin, nor in the cache of `tests/run.sh`. `Braid, state in memory` is Braid
//! with its journal on a file system that needs no disk: the difference is the price of durability.
//!
//! `--quick` makes few runs of small cases, to check that everything works. `--percent 20` makes a fifth of the rounds.
//! `--write` writes the figures of the parts that ran to `docs/benchmark.md`, and the curves to `docs/benchmark.svg`.
//! `BRAID_BENCH_PEER` names the executable of another plugin that takes a list of `delegates`, such as Multus;
//! `BRAID_BENCH_BINARY` a Braid other than the one that cargo builds, such as a release's, and `BRAID_BENCH_SMALL_BINARY` one
//! without Kubernetes, for `sizes`. Braid is built as a release's executable is, where rustc has the target: for musl, at a
//! fixed address. The floor and the plugin are ordinary programs, as plugins and runtimes are; the table has a floor that is
//! static too. On a busy machine, `chrt --rr 20 cargo bench ...`, as root, keeps other processes from affecting the figures.

#![expect(clippy::disallowed_methods, reason = "a program of its own, not a part of Braid")]

mod api_server;
mod burst;
mod calls;
mod disk;
mod growth;
mod live;
mod measure;
mod plot;
mod real;
mod report;
mod scenario;
mod setup;

use std::env;
use std::path::Path;

use report::Report;
use setup::{Bench, STATIC_FLOOR};

struct Options {
    quick: bool,
    write: bool,
    percent: usize,
    only: Option<String>,
}

impl Options {
    fn read() -> Self {
        let mut options = Self { quick: false, write: false, percent: 100, only: None };
        let mut words = env::args().skip(1);
        while let Some(word) = words.next() {
            match word.as_str() {
                "--quick" => options.quick = true,
                "--write" => options.write = true,
                "--percent" => {
                    options.percent = words.next().and_then(|word| word.parse().ok()).expect("--percent has a number");
                }
                "--only" => options.only = words.next(),
                // What cargo passes to every benchmark.
                "--bench" => {}
                _ => panic!("{word} is none of --quick, --write, --percent, --only"),
            }
        }
        options
    }

    fn wants(&self, part: &str) -> bool {
        self.only.as_deref().is_none_or(|only| only.split(',').any(|one| one == part))
    }
}

fn main() {
    let options = Options::read();
    let mut bench = Bench::prepare(options.quick, options.percent);
    let mut report = Report::new(bench.describe());
    if options.wants("table") {
        report.section("Whole calls", || bench.table(), Report::table);
    }
    real(&options, &bench, &mut report);
    if options.wants("live") {
        report.section("Changes of a container that runs", || bench.live(), Report::live);
    }
    if options.wants("disk") {
        report.section("Syncs", || bench.disk(), |report, rows| report.disk(&rows));
    }
    if options.wants("sizes") {
        report.section("Sizes", || bench.sizes(), |report, sizes| report.sizes(&sizes));
    }
    if options.wants("cluster") {
        let rows = || {
            let mut rows = bench.cluster();
            rows.extend(bench.real.iter().flat_map(|_| bench.real_cluster()));
            rows
        };
        report.section("With an API server", rows, Report::cluster);
    }
    bench.contenders.retain(|contender| contender.name != STATIC_FLOOR);
    if options.wants("curves") {
        bench.curves(&mut report);
    }
    if options.wants("concurrency") {
        report.section("Plugins that wait", || bench.concurrency(), Report::concurrency);
    }
    if options.write {
        report.write(&Path::new(env!("CARGO_MANIFEST_DIR")).join("docs"));
    }
}

/// What needs the reference plugins.
#[expect(clippy::disallowed_macros, reason = "the benchmark's own output")]
fn real(options: &Options, bench: &Bench, report: &mut Report) {
    let Some(version) = &bench.real else {
        println!(
            "Skipped: real networks, bursts and limits. The reference plugins are not here; set BRAID_TEST_CNI_PATH_NEW.\n"
        );
        return;
    };
    if options.wants("real") {
        report.section("Real networks", || bench.real(), |report, rows| report.real(version, rows));
    }
    if options.wants("burst") {
        report.section("A burst", || bench.burst(), |report, rows| report.burst(bench.burst_size(), rows));
    }
}
