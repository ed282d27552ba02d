//! The figures, as text.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use crate::measure::Samples;
use crate::{VERBS, millis, plot};

/// One line of the table.
pub(crate) struct Row {
    /// The operation.
    pub(crate) verb: String,
    /// How many delegates.
    pub(crate) delegates: usize,
    /// Whose it is.
    pub(crate) contender: String,
    /// What it took.
    pub(crate) samples: Samples,
    /// What the floor took.
    pub(crate) floor: Samples,
    /// The most memory resident, in KiB.
    pub(crate) peak: u64,
}

/// A contender's medians at one point of a curve, in milliseconds, in the order of [`VERBS`].
pub(crate) struct Figure(pub(crate) [f64; 3]);

impl Figure {
    /// The medians.
    pub(crate) fn of_verbs(samples: &[Samples; 3]) -> Self {
        Self([samples[0].median(), samples[1].median(), samples[2].median()])
    }
}

/// How the time of a call grows with something.
pub(crate) struct Curve {
    /// Its short name.
    pub(crate) name: String,
    /// What grows.
    pub(crate) axis: String,
    /// Who is measured.
    pub(crate) contenders: Vec<String>,
    /// For each size, the figure of each contender.
    pub(crate) points: Vec<(usize, Vec<Figure>)>,
}

/// Prints what comes in, and keeps it to be written.
pub(crate) struct Report {
    text: String,
    curves: Vec<Curve>,
}

impl Report {
    /// A report about one machine.
    pub(crate) fn new(machine: &str) -> Self {
        let mut report = Self { text: String::new(), curves: Vec::new() };
        report.say("# Benchmark\n");
        report.say("Written by `cargo bench --bench process -- --write`; docs/performance.md says what it means.\n");
        report.say(&format!("{machine}.\n"));
        report
    }

    #[expect(clippy::disallowed_macros, reason = "the benchmark's own output")]
    fn say(&mut self, line: &str) {
        println!("{line}");
        let _ = writeln!(self.text, "{line}");
    }

    /// What asking an API server takes.
    pub(crate) fn cluster(&mut self, rows: Vec<Row>) {
        self.say("## With an API server\n");
        self.say("A pod with four networks beside its primary: the pod and four definitions read over TLS, five plugins run, the status");
        self.say("written, events posted. The server is a small one in the benchmark's own process, with HTTP/1.1; the floor runs the");
        self.say("plugins and asks nobody.\n");
        self.rows(rows);
    }

    /// The table.
    pub(crate) fn table(&mut self, rows: Vec<Row>) {
        self.say("## Whole calls\n");
        self.say("Times in milliseconds; × is the ratio to the floor's median, and of the fastest run to the floor's fastest.\n");
        self.rows(rows);
    }

    fn rows(&mut self, rows: Vec<Row>) {
        self.say("| verb | delegates | | median | p10–p90 | × | × fastest | peak memory, MB |");
        self.say("|---|--:|---|--:|--:|--:|--:|--:|");
        for Row { verb, delegates, contender, samples, floor, peak } in rows {
            self.say(&format!(
                "| {verb} | {delegates} | {contender} | {} | {}–{} | {:.2} | {:.2} | {}.{} |",
                millis(samples.median()),
                millis(samples.quantile(0.1)),
                millis(samples.quantile(0.9)),
                samples.median() / floor.median(),
                samples.quantile(0.0) / floor.quantile(0.0),
                peak / 1024,
                peak % 1024 * 10 / 1024,
            ));
        }
        self.say("");
    }

    /// A curve, as a table of its own.
    pub(crate) fn curve(&mut self, curve: Curve) {
        self.say(&format!("## Growth: {}\n", curve.axis));
        self.say("Medians in milliseconds, ADD / CHECK / DEL.\n");
        self.say(&format!("| {} | {} |", curve.name, curve.contenders.join(" | ")));
        self.say(&format!("|--:|{}", "--:|".repeat(curve.contenders.len())));
        for (x, figures) in &curve.points {
            let cells = figures.iter().map(|Figure(verbs)| verbs.map(millis).join(" / "));
            self.say(&format!("| {x} | {} |", cells.collect::<Vec<_>>().join(" | ")));
        }
        self.say("");
        debug_assert_eq!(VERBS[0], "ADD");
        self.curves.push(curve);
    }

    /// What `concurrency` buys.
    pub(crate) fn concurrency(&mut self, figures: Vec<(usize, f64)>) {
        self.say("## Concurrency\n");
        self.say("ADD with 8 delegates, each of which sleeps for 100 ms; the primary goes first and alone.\n");
        self.say("| `concurrency` | median, ms |");
        self.say("|--:|--:|");
        for (concurrency, median) in figures {
            self.say(&format!("| {concurrency} | {} |", millis(median)));
        }
    }

    /// Writes the text and the plot.
    pub(crate) fn write(&self, folder: &Path) {
        fs::create_dir_all(folder).expect("make the folder");
        fs::write(folder.join("benchmark.md"), self.text.trim_end().to_owned() + "\n").expect("write the table");
        if !self.curves.is_empty() {
            fs::write(folder.join("benchmark.svg"), plot::svg(&self.curves)).expect("write the plot");
        }
    }
}
