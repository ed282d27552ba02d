//! Calls with the reference plugins, as in users' networks.
//!
//! Everything happens in a network namespace that stands for the host. It is removed when the thread that made it ends, with all
//! bridges, rules and interfaces.

use std::cell::RefCell;
use std::fs;
use std::process::Command;
use std::thread;
use std::time::Duration;

use nix::sched::{CloneFlags, unshare};
use serde_json::{Value, json};

use crate::api_server;
use crate::measure::{Call, Contender, Samples, turns};
use crate::report::Row;
use crate::setup::{Bench, STATIC_FLOOR};

const VERBS: [&str; 4] = ["ADD", "CHECK", "DEL", "rollback"];
/// The interface of the host that macvlans belong to.
const MASTER: &str = "bench-master";

/// Networks that a container gets.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Networks {
    /// One bridge with host-local.
    Bridge,
    /// Seven steps of bridge, portmap, firewall and tuning, spread over four networks.
    Four,
    /// Eight macvlans.
    Macvlans,
    /// Three bridges.
    Three,
}

impl Networks {
    /// Their name in the tables.
    fn name(self) -> &'static str {
        match self {
            Self::Bridge => "bridge",
            Self::Four => "four networks, seven steps",
            Self::Macvlans => "eight macvlans",
            Self::Three => "three bridges",
        }
    }

    /// The plugins of each network.
    fn chains(self) -> Vec<Vec<Value>> {
        let portmap = json!({"type": "portmap", "capabilities": {"portMappings": true}});
        let firewall = json!({"type": "firewall", "backend": "iptables"});
        let tuning = json!({"type": "tuning", "sysctl": {"net.ipv4.conf.IFNAME.arp_filter": "1"}});
        match self {
            Self::Bridge => vec![vec![bridge(0)]],
            Self::Four => {
                vec![vec![bridge(0), portmap, firewall], vec![bridge(1), tuning], vec![bridge(2)], vec![bridge(3)]]
            }
            Self::Macvlans => (0..8)
                .map(|number| {
                    vec![json!({"type": "macvlan", "master": MASTER, "mode": "bridge", "ipam": ipam(number)})]
                })
                .collect(),
            Self::Three => (0..3).map(|number| vec![bridge(number)]).collect(),
        }
    }

    /// The configuration for a contender. With `fails`, one more step comes last, which fails.
    pub(crate) fn configuration(self, bench: &Bench, who: &Entrant<'_>, fails: bool) -> Value {
        let mut chains = self.chains();
        if fails {
            chains.last_mut().expect("a network").push(json!({"type": "bench-noop-plugin", "benchFail": 1}));
        }
        let mut text = Value::from(chains).to_string();
        text = text.replace("@IPAM@", &bench.disk.join("ipam").to_string_lossy());
        let chains: Vec<Value> = serde_json::from_str(&text).expect("as it was written");
        let delegates: Vec<_> = chains
            .iter()
            .enumerate()
            .map(
                |(number, plugins)| json!({"cniVersion": "1.0.0", "name": format!("net-{number}"), "plugins": plugins}),
            )
            .collect();
        let mut config = json!({
            "cniVersion": "1.0.0", "name": "bench",
            "type": who.contender.program.file_name().expect("a file").to_string_lossy(),
            "stateDir": who.contender.state, "cniDir": who.contender.state,
            "delegates": delegates,
        });
        if matches!(self, Self::Four) {
            config["runtimeConfig"] =
                json!({"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]});
        }
        match &who.settings {
            Settings::None => {}
            Settings::Braid { look_ahead, concurrency } => {
                config["lookAhead"] = json!(look_ahead);
                config["concurrency"] = concurrency.clone();
            }
            Settings::Bound(at_once) => config["started"] = json!(at_once),
        }
        config
    }
}

fn bridge(number: usize) -> Value {
    json!({"type": "bridge", "bridge": format!("bench{number}"), "isGateway": true, "ipam": ipam(number)})
}

fn ipam(number: usize) -> Value {
    json!({"type": "host-local", "dataDir": "@IPAM@", "ranges": [[{"subnet": format!("10.{}.0.0/16", 20 + number)}]]})
}

/// A contender, and what is asked of it.
pub(crate) struct Entrant<'a> {
    /// Its name in the tables.
    pub(crate) name: String,
    /// The contender whose executable it uses.
    pub(crate) contender: &'a Contender,
    /// What its configuration says beside the networks.
    pub(crate) settings: Settings,
}

/// How it handles the networks.
pub(crate) enum Settings {
    /// As it does by itself.
    None,
    /// As these keys of Braid say.
    Braid { look_ahead: usize, concurrency: Value },
    /// The floor's program measures the bound, with this many attachments at once.
    Bound(usize),
}

impl<'a> Entrant<'a> {
    /// The floor, Braid with each of these settings, and the peer if there is one.
    pub(crate) fn all(bench: &'a Bench, settings: &[(usize, Value)]) -> Vec<Self> {
        let mut entrants = Vec::new();
        for contender in &bench.contenders {
            match contender.name.as_str() {
                "Braid" => entrants.extend(settings.iter().map(|(look_ahead, concurrency)| Self {
                    name: format!("Braid, `lookAhead` {look_ahead}, `concurrency` {concurrency}"),
                    contender,
                    settings: Settings::Braid { look_ahead: *look_ahead, concurrency: concurrency.clone() },
                })),
                "Braid, state in memory" | STATIC_FLOOR => {}
                name => entrants.push(Self { name: name.to_owned(), contender, settings: Settings::None }),
            }
        }
        entrants
    }

    /// The most that starting plugins ahead can gain, with this many attachments at once.
    fn bounds(bench: &'a Bench, at_once: &[usize]) -> impl Iterator<Item = Self> {
        let bound = |at_once: &usize| Self {
            name: format!("bound, {at_once} at once"),
            contender: bench.contender("floor"),
            settings: Settings::Bound(*at_once),
        };
        at_once.iter().map(bound).collect::<Vec<_>>().into_iter()
    }

    /// What a call took, and its answer. The bound says itself what it took.
    fn outcome(&self, (took, answer): (Duration, String)) -> (Duration, String) {
        if !matches!(self.settings, Settings::Bound(_)) {
            return (took, answer);
        }
        let (took, answer) = answer.split_once('\n').expect("two lines");
        (Duration::from_micros(took.parse().expect("a number")), answer.to_owned())
    }

    /// Whether it does this: the bound is of what succeeds.
    fn does(&self, verb: &str) -> bool {
        verb != "rollback" || !matches!(self.settings, Settings::Bound(_))
    }
}

/// Runs a function in a new network namespace that stands for the host, in a thread of its own.
pub(crate) fn on_a_host<T: Send>(act: impl FnOnce() -> T + Send) -> T {
    let enter_and_act = || {
        unshare(CloneFlags::CLONE_NEWNET).expect("make a network namespace, as root");
        for line in [
            "link set lo up",
            &format!("link add {MASTER} type veth peer name {MASTER}-2"),
            &format!("link set {MASTER} up"),
        ] {
            let status = Command::new("ip").args(line.split(' ')).status().expect("ip is there");
            assert!(status.success(), "ip {line} failed");
        }
        act()
    };
    thread::scope(|scope| scope.spawn(enter_and_act).join()).expect("it works")
}

impl Bench {
    /// ADD, CHECK, DEL, and an ADD whose last step fails, with real plugins.
    pub(crate) fn real(&self) -> Vec<Row> {
        let settings =
            [(0, json!(1)), (1, json!(1)), (2, json!(1)), (1, json!(4)), (1, json!("auto")), (2, json!("auto"))];
        let mut entrants = Entrant::all(self, &settings);
        entrants.extend(Entrant::bounds(self, &[1, 2, 8]));
        let mut rows = Vec::new();
        for (networks, rounds) in [(Networks::Bridge, 61), (Networks::Four, 21), (Networks::Macvlans, 15)] {
            rows.extend(on_a_host(|| self.real_rows(networks, &entrants, self.count(2, rounds))));
        }
        rows
    }

    /// ADD and DEL of four networks, three of which are looked up at an API server. The floor runs the same plugins without a
    /// request.
    pub(crate) fn real_cluster(&self) -> Vec<Row> {
        const VERBS: [&str; 2] = ["ADD", "DEL"];
        let entrants = Entrant::all(self, &[(1, json!(1)), (1, json!("auto"))]);
        on_a_host(|| {
            let configurations = entrants.iter().map(|who| {
                let mut config = Networks::Four.configuration(self, who, false);
                if !who.contender.is_floor() {
                    let delegates = config["delegates"].as_array_mut().expect("a list");
                    let kubeconfig = who.contender.state.join("kubeconfig-real");
                    api_server::start(&kubeconfig, &delegates.split_off(1));
                    config["kubeconfig"] = json!(kubeconfig);
                }
                config
            });
            let configurations: Vec<_> = configurations.collect();
            let memory = RefCell::new(FloorMemory::default());
            let samples = turns(entrants.len(), VERBS, self.count(2, 21), |who, verb, container| {
                let contender = entrants[who].contender;
                let stdin = memory.borrow().configuration(contender, verb, &configurations[who]);
                let call = self.call(contender, verb, container, stdin.as_bytes());
                let args = if contender.is_floor() { "" } else { api_server::ARGS };
                let (took, answer) = Call { args, ..call }.run(true);
                memory.borrow_mut().keep(contender, verb, answer);
                took
            });
            drop(fs::remove_dir_all(self.disk.join("ipam")));
            rows(Networks::Four.name(), VERBS, &entrants, &samples)
        })
    }

    fn real_rows(&self, networks: Networks, entrants: &[Entrant<'_>], rounds: usize) -> Vec<Row> {
        let configurations: Vec<_> =
            entrants.iter().map(|who| [false, true].map(|fails| networks.configuration(self, who, fails))).collect();
        let memory = RefCell::new(FloorMemory::default());
        let samples = turns(entrants.len(), VERBS, rounds, |who, verb, container| {
            let contender = entrants[who].contender;
            let [good, failing] = &configurations[who];
            if !entrants[who].does(verb) {
                return Duration::ZERO;
            }
            if verb == "rollback" {
                return self.call(contender, "ADD", container, failing.to_string().as_bytes()).run(false).0;
            }
            let stdin = memory.borrow().configuration(contender, verb, good);
            let outcome = self.call(contender, verb, container, stdin.as_bytes()).run(true);
            let (took, answer) = entrants[who].outcome(outcome);
            memory.borrow_mut().keep(contender, verb, answer);
            took
        });
        drop(fs::remove_dir_all(self.disk.join("ipam")));
        rows(networks.name(), VERBS, entrants, &samples)
    }
}

fn rows<const N: usize>(
    networks: &str,
    verbs: [&str; N],
    entrants: &[Entrant<'_>],
    samples: &[[Samples; N]],
) -> Vec<Row> {
    let mut rows = Vec::new();
    for (v, verb) in verbs.iter().enumerate() {
        for (who, samples_of) in entrants.iter().zip(samples).filter(|(who, _)| who.does(verb)) {
            rows.push(Row {
                verb: (*verb).into(),
                what: networks.into(),
                contender: who.name.clone(),
                samples: samples_of[v].clone(),
                floor: samples[0][v].clone(),
                usage: None,
            });
        }
    }
    rows
}

/// The results of the floor's plugins, because the floor stores nothing itself.
#[derive(Default)]
pub(crate) struct FloorMemory(String);

impl FloorMemory {
    /// What a contender gets on standard input: a floor gets the results of its ADD.
    pub(crate) fn configuration(&self, contender: &Contender, verb: &str, configuration: &Value) -> String {
        if !contender.is_floor() {
            return configuration.to_string();
        }
        let mut configuration = configuration.clone();
        let results = if verb == "ADD" { "[]" } else { &self.0 };
        configuration["results"] = serde_json::from_str(results).expect("the floor's answer");
        configuration.to_string()
    }

    /// Stores a floor's answer to ADD.
    pub(crate) fn keep(&mut self, contender: &Contender, verb: &str, answer: String) {
        if contender.is_floor() && verb == "ADD" {
            self.0 = answer;
        }
    }
}
