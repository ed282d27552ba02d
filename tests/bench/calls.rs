//! Whole calls with a plugin that does nothing.

use serde_json::json;

use crate::api_server;
use crate::measure::{Call, Contender, Samples, Usage, turns};
use crate::report::Row;
use crate::scenario::Scenario;
use crate::setup::Bench;

/// The verbs of a table.
pub(crate) const VERBS: [&str; 3] = ["ADD", "CHECK", "DEL"];

impl Bench {
    /// ADD, CHECK and DEL by every contender in turn: for each contender, the samples of each verb.
    pub(crate) fn rounds(&self, scenario: Scenario, rounds: usize) -> Vec<[Samples; 3]> {
        let configurations: Vec<_> =
            self.contenders.iter().map(|contender| scenario.configuration(contender)).collect();
        turns(self.contenders.len(), VERBS, rounds, |who, verb, container| {
            self.call(&self.contenders[who], verb, container, &configurations[who]).time()
        })
    }

    /// One, four and sixteen delegates.
    pub(crate) fn table(&self) -> Vec<Row> {
        let rounds = self.count(7, 151);
        let mut rows = Vec::new();
        for delegates in [1, 4, 16] {
            let scenario = Scenario::delegates(delegates);
            let samples = self.rounds(scenario, rounds);
            for (v, verb) in VERBS.iter().enumerate() {
                for (contender, of) in self.contenders.iter().zip(&samples) {
                    rows.push(Row {
                        verb: (*verb).into(),
                        what: delegates.to_string(),
                        contender: contender.name.clone(),
                        samples: of[v].clone(),
                        floor: samples[0][v].clone(),
                        usage: Some(self.usage(contender, scenario, verb)),
                    });
                }
            }
        }
        rows
    }

    /// ADD and DEL of a pod that asks an API server for four networks beside its primary. The floor runs the same five
    /// plugins and asks nobody.
    pub(crate) fn cluster(&self) -> Vec<Row> {
        const NETWORKS: usize = 4;
        let rounds = self.count(7, 101);
        let network = |number: usize| json!({"cniVersion": "1.0.0", "name": format!("net-{number}"), "type": "bench-noop-plugin"});
        let networks: Vec<_> = (0..NETWORKS).map(network).collect();
        let scenario = Scenario { in_cluster: true, ..Scenario::delegates(1) };
        let asks = |contender: &Contender| !contender.is_floor();
        for contender in self.contenders.iter().filter(|contender| asks(contender)) {
            api_server::start(&contender.state.join("kubeconfig"), &networks);
        }
        let configurations = self.contenders.iter().map(|contender| {
            if asks(contender) { scenario } else { Scenario::delegates(1 + NETWORKS) }.configuration(contender)
        });
        let configurations: Vec<_> = configurations.collect();
        let call = |who: usize, verb, container| {
            let call = self.call(&self.contenders[who], verb, container, &configurations[who]);
            Call { args: if asks(&self.contenders[who]) { api_server::ARGS } else { "" }, ..call }
        };
        let verbs = ["ADD", "DEL"];
        let samples = turns(self.contenders.len(), verbs, rounds, |who, verb, _| call(who, verb, "bench").time());
        let mut rows = Vec::new();
        for (v, verb) in verbs.iter().enumerate() {
            for (who, contender) in self.contenders.iter().enumerate() {
                let used = (0..5).map(|_| verbs.map(|verb| call(who, verb, "bench-peak").usage(&self.floor))[v]);
                rows.push(Row {
                    verb: (*verb).into(),
                    what: (1 + NETWORKS).to_string(),
                    contender: contender.name.clone(),
                    samples: samples[who][v].clone(),
                    floor: samples[0][v].clone(),
                    usage: used.reduce(Usage::max),
                });
            }
        }
        rows
    }

    /// The highest usage of five calls.
    fn usage(&self, contender: &Contender, scenario: Scenario, verb: &str) -> Usage {
        let configuration = scenario.configuration(contender);
        let mut most = Usage::default();
        for _ in 0..5 {
            for step in VERBS {
                let used = self.call(contender, step, "bench-peak", &configuration).usage(&self.floor);
                if step == verb {
                    most = most.max(used);
                }
            }
        }
        most
    }

    /// Eight delegates that take 100 ms each, one after another and at once.
    pub(crate) fn concurrency(&self) -> Vec<(usize, f64)> {
        let braid = self.contender("Braid");
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
