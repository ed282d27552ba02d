//! Changes of a container that runs: an attachment, and a bandwidth limit.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::measure::{Call, Contender, turns};
use crate::real::on_a_host;
use crate::report::Row;
use crate::scenario::Scenario;
use crate::setup::{Bench, namespace};

/// How many attachments the node has already.
const ATTACHMENTS: [usize; 2] = [1, 1_000];

impl Bench {
    /// `braid attach` and `braid detach` of one network that does nothing, and `braid update --bandwidth`, on a node with one
    /// other attachment and on one with many. The floor runs the plugin that is attached or detached. Beside them stands what the
    /// disk takes to sync one line, as each change waits for that.
    pub(crate) fn live(&self) -> Vec<Row> {
        on_a_host(|| {
            let nodes: Vec<_> = ATTACHMENTS.iter().map(|there| Node::new(self, *there)).collect();
            let verbs = if self.real.is_some() {
                ["attach", "detach", "update --bandwidth"]
            } else {
                // The limit needs a real interface.
                ["attach", "detach", "attach"]
            };
            self.live_rows(&nodes, verbs)
        })
    }

    fn live_rows(&self, nodes: &[Node], verbs: [&'static str; 3]) -> Vec<Row> {
        let rounds = self.count(3, 101);
        let floor = self.contender("floor");
        let plugin = Scenario::delegates(1).configuration(floor);
        let mut turn = 0;
        let journal = self.disk.join("line.jsonl");
        let samples = turns(2 + nodes.len(), verbs, rounds, |who, verb, _| {
            turn += 1;
            match (who.checked_sub(1), verb) {
                (Some(node), _) if node == nodes.len() => sync_line(&journal),
                (None, "detach") => self.call(floor, "DEL", "bench", &plugin).time(),
                (None, _) => self.call(floor, "ADD", "bench", &plugin).time(),
                (Some(node), verb) => nodes[node].change(self, verb, turn),
            }
        });
        let mut rows = Vec::new();
        for (v, verb) in verbs.iter().enumerate() {
            for (who, of) in samples.iter().enumerate() {
                rows.push(Row {
                    verb: (*verb).into(),
                    what: who
                        .checked_sub(1)
                        .and_then(|node| ATTACHMENTS.get(node))
                        .map_or(String::new(), usize::to_string),
                    contender: match who {
                        0 => "floor",
                        _ if who > nodes.len() => "the disk: one line synced",
                        _ => "Braid",
                    }
                    .into(),
                    samples: of[v].clone(),
                    floor: samples[0][v].clone(),
                    usage: None,
                });
            }
        }
        rows
    }
}

/// Appends a line to a file and syncs that.
fn sync_line(path: &Path) -> Duration {
    let mut file = fs::OpenOptions::new().create(true).append(true).open(path).expect("open a file");
    let began = Instant::now();
    file.write_all(&[b'x'; 500]).expect("write");
    file.sync_all().expect("sync");
    began.elapsed()
}

/// A node with attachments, and on it a container with a bandwidth limit.
struct Node {
    container: String,
    state: PathBuf,
    configuration: PathBuf,
    braid: PathBuf,
}

impl Node {
    fn new(bench: &Bench, there: usize) -> Self {
        let braid = bench.contender("Braid");
        let state = bench.disk.join(format!("node-{there}"));
        fs::create_dir_all(&state).expect("make the state directory");
        let contender = Contender { name: braid.name.clone(), program: braid.program.clone(), state: state.clone() };
        bench.fill(&contender, 0..there);
        let mut plugins = vec![json!({"type": "bench-noop-plugin"})];
        if bench.real.is_some() {
            plugins = vec![
                json!({"type": "bridge", "bridge": format!("node{there}"), "ipam": {"type": "host-local",
                    "dataDir": state.join("ipam"), "ranges": [[{"subnet": "10.20.0.0/16"}]]}}),
                json!({"type": "bandwidth", "ingressRate": 100_000_000, "ingressBurst": 10_000_000,
                    "egressRate": 100_000_000, "egressBurst": 10_000_000}),
            ];
        }
        let config = json!({"cniVersion": "1.0.0", "name": "bench", "type": "braid", "stateDir": state,
            "delegates": [{"cniVersion": "1.0.0", "name": "front", "plugins": plugins}]});
        let configuration = state.join("bench.conf");
        fs::write(&configuration, config.to_string()).expect("write the configuration");
        let netns = namespace();
        let (stdin, container) = (config.to_string(), format!("live-{there}"));
        Call { netns: &netns, ..bench.call(&contender, "ADD", &container, stdin.as_bytes()) }.time();
        drop(Command::new("sync").status());
        Self { container, state, configuration, braid: braid.program.clone() }
    }

    /// One change, made as an operator makes it.
    fn change(&self, bench: &Bench, verb: &str, turn: usize) -> Duration {
        let network = json!({"name": "extra", "interface": "net1", "config":
            {"cniVersion": "1.0.0", "name": "extra", "type": "bench-noop-plugin"}})
        .to_string();
        // Another limit each time.
        let limits = format!("ingress={}M,egress={}M", 100 + turn % 50, 100 + turn % 50);
        let configuration = self.configuration.to_string_lossy();
        let words: &[&str] = match verb {
            "attach" => &["attach", &self.container, &network, "--network", &configuration],
            "detach" => &["detach", &self.container, "net1"],
            _ => &["update", &self.container, "eth0", "--bandwidth", &limits],
        };
        self.run(&bench.plugins, words)
    }

    fn run(&self, plugins: &Path, words: &[&str]) -> Duration {
        let mut command = Command::new(&self.braid);
        command.args(words).arg("--state-dir").arg(&self.state).env_clear().env("CNI_PATH", plugins);
        command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        let began = Instant::now();
        let output = command.output().expect("Braid starts");
        let took = began.elapsed();
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        took
    }
}
