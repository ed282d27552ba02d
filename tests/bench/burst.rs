//! Many containers at once, with real networks: what a node does when it starts.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use std::{fs, process, thread};

use serde_json::{Value, json};

use crate::measure::{Call, Samples};
use crate::real::{Entrant, FloorMemory, Networks, Settings, on_a_host};
use crate::setup::{Bench, namespace};

const VERBS: [&str; 2] = ["ADD", "DEL"];

/// A contender's figures of a burst.
pub(crate) struct BurstRow {
    /// The operation.
    pub(crate) verb: &'static str,
    /// The contender.
    pub(crate) contender: String,
    /// From the first start to the last end.
    pub(crate) total: Samples,
    /// The floor's durations.
    pub(crate) floor: Samples,
    /// The slowest call of each burst.
    pub(crate) slowest: Samples,
    /// The peak memory of all processes together, in KiB, in a burst that is not timed.
    pub(crate) memory: u64,
}

impl Bench {
    /// How many containers a burst has.
    pub(crate) fn burst_size(&self) -> usize {
        if self.quick { 6 } else { 60 }
    }

    /// Containers with three networks each, all at once.
    pub(crate) fn burst(&self) -> Vec<BurstRow> {
        let rounds = self.count(1, 7);
        let mut entrants = Entrant::all(self, &[(0, json!(1)), (1, json!(1)), (1, json!("auto"))]);
        if let Some(contender) = self.contenders.iter().find(|contender| contender.name == "Braid, state in memory") {
            entrants.push(Entrant {
                name: contender.name.clone(),
                contender,
                settings: Settings::Braid { look_ahead: 1, concurrency: json!(1) },
            });
        }
        on_a_host(|| {
            let namespaces: Vec<_> = (0..self.burst_size()).map(|_| namespace()).collect();
            let mut rows: Vec<_> = entrants.iter().flat_map(|who| VERBS.map(|verb| BurstRow::new(verb, who))).collect();
            // The first round warms the caches and is watched instead of timed.
            for round in 0..=rounds {
                for turn in 0..entrants.len() {
                    let number = (turn + round) % entrants.len();
                    self.burst_of(&entrants[number], &namespaces, &mut rows[2 * number..], round == 0);
                }
            }
            for verb in 0..VERBS.len() {
                for number in 0..entrants.len() {
                    rows[2 * number + verb].floor = rows[verb].total.clone();
                }
            }
            drop(fs::remove_dir_all(self.disk.join("ipam")));
            rows
        })
    }

    fn burst_of(&self, who: &Entrant<'_>, namespaces: &[PathBuf], rows: &mut [BurstRow], watched: bool) {
        let configuration = Networks::Three.configuration(self, who, false);
        let memories: Vec<_> = namespaces.iter().map(|_| Mutex::new(FloorMemory::default())).collect();
        for (verb, row) in VERBS.iter().zip(rows) {
            let all = || self.at_once_of(who, verb, namespaces, &memories, &configuration);
            if watched {
                row.memory = watch(all);
            } else {
                let (total, slowest) = all();
                row.total.push(total);
                row.slowest.push(slowest);
            }
        }
    }

    /// One call for each container, all at once: how long until the last has ended, and the slowest call.
    fn at_once_of(
        &self,
        who: &Entrant<'_>,
        verb: &str,
        namespaces: &[PathBuf],
        memories: &[Mutex<FloorMemory>],
        configuration: &Value,
    ) -> (Duration, Duration) {
        let one = |number: usize| {
            let mut memory = memories[number].lock().expect("nobody panics");
            let stdin = memory.configuration(who.contender, verb, configuration);
            let container = format!("bench-{number}");
            let call = self.call(who.contender, verb, &container, stdin.as_bytes());
            let (took, answer) = Call { netns: &namespaces[number], ..call }.run(true);
            memory.keep(who.contender, verb, answer);
            took
        };
        let began = Instant::now();
        let slowest = thread::scope(|scope| {
            let one = &one;
            let calls: Vec<_> = (0..namespaces.len()).map(|number| scope.spawn(move || one(number))).collect();
            calls.into_iter().map(|call| call.join().expect("it works")).max().expect("a container")
        });
        (began.elapsed(), slowest)
    }
}

impl BurstRow {
    fn new(verb: &'static str, who: &Entrant<'_>) -> Self {
        let (total, floor, slowest) = <(Samples, Samples, Samples)>::default();
        Self { verb, contender: who.name.clone(), total, floor, slowest, memory: 0 }
    }
}

/// Runs a function, and returns the peak memory of the processes that it started, in KiB: the sum of their proportional shares
/// (`Pss`), in which a shared page counts once.
fn watch<T: Send>(act: impl FnOnce() -> T + Send) -> u64 {
    let ended = AtomicBool::new(false);
    thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let mut most = 0;
            while !ended.load(Ordering::Relaxed) {
                most = most.max(memory_of_descendants());
                thread::sleep(Duration::from_millis(5));
            }
            most
        });
        act();
        ended.store(true, Ordering::Relaxed);
        watcher.join().expect("it reads what it can")
    })
}

fn memory_of_descendants() -> u64 {
    let parents: HashMap<u32, u32> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(|pid| Some((pid, parent(pid)?)))
        .collect();
    let ours = |mut pid: u32| {
        while let Some(parent) = parents.get(&pid) {
            if *parent == process::id() {
                return true;
            }
            pid = *parent;
        }
        false
    };
    parents.keys().filter(|pid| ours(**pid)).filter_map(|pid| share(*pid)).sum()
}

/// The fourth field, after a name that may hold spaces.
fn parent(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit(") ").next()?.split(' ').nth(1)?.parse().ok()
}

fn share(pid: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    text.lines().find_map(|line| line.strip_prefix("Pss:"))?.trim().strip_suffix(" kB")?.parse().ok()
}
