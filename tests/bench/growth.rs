//! How the time of a call grows with the number of delegates, attachments and others.

use std::ops::Range;
use std::process::Command;
use std::time::Instant;
use std::{fs, thread};

use crate::calls::VERBS;
use crate::measure::{Contender, Samples};
use crate::report::{Curve, Figure, Report};
use crate::scenario::Scenario;
use crate::setup::Bench;

impl Bench {
    /// All curves.
    pub(crate) fn curves(&self, report: &mut Report) {
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
        let chain = |chain| Scenario { chain, ..one };
        let size = |bytes| Scenario { bytes, ..one };
        let mut section = |axis: &str, measure: &dyn Fn(&str) -> Curve| {
            report.section(&format!("Growth: {axis}"), || measure(axis), Report::curve);
        };
        section("delegates", &|axis| self.curve("delegates", axis, delegates, Scenario::delegates));
        section("plugins in the chain of one delegate", &|axis| self.curve("chain", axis, chains, chain));
        section("bytes of configuration and of result", &|axis| self.curve("size", axis, sizes, size));
        section("attachments on the node already", &|axis| self.attached(axis, attachments));
        // This is last, because the machine stays busy for a while afterwards.
        section("containers at once, of 4 delegates each", &|axis| self.at_once(axis, containers));
    }

    fn curve(&self, name: &str, axis: &str, points: &[usize], scenario: impl Fn(usize) -> Scenario) -> Curve {
        let rounds = self.count(3, 41);
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

    /// Containers at once, with four delegates each: the time until the last has ended.
    fn at_once(&self, axis: &str, points: &[usize]) -> Curve {
        let rounds = self.count(2, 11);
        let mut curve = self.empty_curve("containers", axis);
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
    fn attached(&self, axis: &str, points: &[usize]) -> Curve {
        let rounds = self.count(3, 41);
        let scenario = Scenario::delegates(1);
        let mut curve = self.empty_curve("attachments", axis);
        let mut there = 0;
        for count in points {
            for contender in self.contenders.iter().filter(|contender| contender.name.starts_with("Braid")) {
                self.fill(contender, there..*count);
            }
            there = *count;
            // The new files must not be written back to disk during a measurement.
            drop(Command::new("sync").status());
            let samples = self.rounds(scenario, rounds);
            curve.points.push((*count, samples.iter().map(Figure::of_verbs).collect()));
        }
        curve
    }

    /// Gives the node attachments of these numbers: their journals are copies of one that Braid has written.
    pub(crate) fn fill(&self, contender: &Contender, numbers: Range<usize>) {
        let configuration = Scenario::delegates(1).configuration(contender);
        self.call(contender, "ADD", "bench-model", &configuration).time();
        let folder = contender.state.join("attachments");
        let journal = fs::read_to_string(folder.join("bench-model/eth0.jsonl")).expect("Braid's journal");
        self.call(contender, "DEL", "bench-model", &configuration).time();
        for number in numbers {
            let container = format!("there-{number:06}");
            fs::create_dir(folder.join(&container)).expect("make a folder");
            let copy = journal.replace("bench-model", &container);
            fs::write(folder.join(&container).join("eth0.jsonl"), copy).expect("write a journal");
        }
    }
}
