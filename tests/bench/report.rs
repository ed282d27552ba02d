//! The figures, as text.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use crate::burst::BurstRow;
use crate::disk::DiskRow;
use crate::measure::{Samples, Usage};
use crate::plot;

/// One line of the table.
pub(crate) struct Row {
    /// The operation.
    pub(crate) verb: String,
    /// The case: the number of delegates, or the networks.
    pub(crate) what: String,
    /// The contender.
    pub(crate) contender: String,
    /// Its durations.
    pub(crate) samples: Samples,
    /// The floor's durations.
    pub(crate) floor: Samples,
    /// The resources that a call used, if they were measured.
    pub(crate) usage: Option<Usage>,
}

/// A contender's medians at one point of a curve, in milliseconds, for ADD, CHECK and DEL.
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
    /// The contenders.
    pub(crate) contenders: Vec<String>,
    /// For each size, the figure of each contender.
    pub(crate) points: Vec<(usize, Vec<Figure>)>,
}

/// The text of `docs/benchmark.md` up to this line stays.
const MARKER: &str = "<!-- `cargo bench --bench process -- --write` writes what follows. -->";

/// Prints a report, and collects it for writing.
pub(crate) struct Report {
    machine: String,
    /// The sections, each with its heading.
    sections: Vec<String>,
    curves: Vec<Curve>,
}

impl Report {
    /// A report about one machine.
    pub(crate) fn new(machine: String) -> Self {
        Self { machine, sections: Vec::new(), curves: Vec::new() }
    }

    /// Makes a section: what `measure` returns is given to `print`, and the section says how busy the machine was.
    pub(crate) fn section<T>(&mut self, heading: &str, measure: impl FnOnce() -> T, print: impl FnOnce(&mut Self, T)) {
        let before = load();
        let figures = measure();
        self.sections.push(String::new());
        self.say(&format!("## {heading}\n"));
        self.say(&format!("{}; load average {before} before and {} after.\n", self.machine, load()));
        print(self, figures);
    }

    #[expect(clippy::disallowed_macros, reason = "the benchmark's own output")]
    fn say(&mut self, line: &str) {
        println!("{line}");
        let _ = writeln!(self.sections.last_mut().expect("a section"), "{line}");
    }

    /// The cost of requests to an API server.
    pub(crate) fn cluster(&mut self, rows: Vec<Row>) {
        self.say("A pod with four networks beside its primary: the pod and four definitions read over TLS, five plugins run, the status");
        self.say("written, events posted. The server is a small one in the benchmark's own process, with HTTP/1.1; the floor runs the");
        self.say("plugins and asks nobody. Where the reference plugins are there, the same with four networks and seven steps of them,");
        self.say("three of which are definitions.\n");
        self.rows("delegates", rows);
    }

    /// Whole calls with a plugin that does nothing.
    pub(crate) fn table(&mut self, rows: Vec<Row>) {
        self.rows("delegates", rows);
    }

    /// Real plugins.
    pub(crate) fn real(&mut self, version: &str, rows: Vec<Row>) {
        self.say(&format!("The reference plugins {version}. *rollback* is an ADD with one more step at its end, which fails: everything"));
        self.say("is undone. The floor undoes it too. *bound* is what the plugins themselves take: all of them are started before the time is");
        self.say("taken, and nothing is planned, recorded or merged. The plugin that makes the primary interface runs alone, and of the rest as");
        self.say("many attachments at once as the row says.\n");
        self.rows("networks", rows);
    }

    /// Changes of a container that runs.
    pub(crate) fn live(&mut self, rows: Vec<Row>) {
        self.say("`braid attach` and `braid detach` of one network whose plugin does nothing, and `braid update --bandwidth` of both");
        self.say("directions, in place. The floor runs the plugin that does nothing once.\n");
        self.rows("attachments on the node", rows);
    }

    fn rows(&mut self, what: &str, rows: Vec<Row>) {
        self.say("Times in milliseconds. × is the median of the ratios to the floor of the same turn; × fastest compares the fastest runs.\n");
        let used = rows.iter().any(|row| row.usage.is_some());
        let (more, line) = if used { (" peak memory, MB | page faults |", "--:|--:|") } else { ("", "") };
        self.say(&format!("| verb | {what} | | median | p10–p90 | × | × fastest |{more}"));
        self.say(&format!("|---|---|---|--:|--:|--:|--:|{line}"));
        for Row { verb, what, contender, samples, floor, usage } in rows {
            let usage =
                usage.map_or(String::new(), |Usage { peak, faults }| format!(" {} | {faults} |", mebibytes(peak)));
            self.say(&format!(
                "| {verb} | {what} | {contender} | {} | {}–{} | {:.2} | {:.2} |{usage}",
                millis(samples.median()),
                millis(samples.quantile(0.1)),
                millis(samples.quantile(0.9)),
                samples.times(&floor),
                samples.quantile(0.0) / floor.quantile(0.0),
            ));
        }
        self.say("");
    }

    /// Many containers at once.
    pub(crate) fn burst(&mut self, containers: usize, rows: Vec<BurstRow>) {
        self.say(&format!("{containers} containers with three bridges each, all started at once: milliseconds until the last has ended, the slowest"));
        self.say("call, and the most memory of all processes together. × is the median of the ratios to the floor of the same turn.\n");
        self.say("| verb | | total | fastest–slowest burst | × | slowest call | memory, MB |");
        self.say("|---|---|--:|--:|--:|--:|--:|");
        for BurstRow { verb, contender, total, floor, slowest, memory } in rows {
            self.say(&format!(
                "| {verb} | {contender} | {:.0} | {:.0}–{:.0} | {:.2} | {:.0} | {} |",
                total.median(),
                total.quantile(0.0),
                total.quantile(1.0),
                total.times(&floor),
                slowest.median(),
                memory / 1024,
            ));
        }
        self.say("");
    }

    /// The cost of syncing plans to disk.
    pub(crate) fn disk(&mut self, rows: &[DiskRow]) {
        self.say("So many writers at once, each with a folder and a file of 4 KB. *each*: every one syncs its file and its folder, as Braid does.");
        self.say("*grouped*: nobody does, and at the end the whole file system is synced once. Medians in milliseconds until all is done.\n");
        self.say("| writers | each | p10–p90 | grouped | p10–p90 | for each writer |");
        self.say("|--:|--:|--:|--:|--:|--:|");
        for DiskRow { writers, each, grouped } in rows {
            let range =
                |samples: &Samples| format!("{}–{}", millis(samples.quantile(0.1)), millis(samples.quantile(0.9)));
            #[expect(clippy::cast_precision_loss, reason = "few writers")]
            let own = each.median() / *writers as f64;
            self.say(&format!(
                "| {writers} | {} | {} | {} | {} | {own:.2} |",
                millis(each.median()),
                range(each),
                millis(grouped.median()),
                range(grouped)
            ));
        }
        self.say("");
    }

    /// How large the executables are.
    pub(crate) fn sizes(&mut self, sizes: &[(String, f64)]) {
        self.say("| build | MB |");
        self.say("|---|--:|");
        for (build, size) in sizes {
            self.say(&format!("| {build} | {size:.2} |"));
        }
        self.say("");
    }

    /// A curve, as a table of its own.
    pub(crate) fn curve(&mut self, curve: Curve) {
        self.say("Medians in milliseconds, ADD / CHECK / DEL.\n");
        self.say(&format!("| {} | {} |", curve.name, curve.contenders.join(" | ")));
        self.say(&format!("|--:|{}", "--:|".repeat(curve.contenders.len())));
        for (x, figures) in &curve.points {
            let cells = figures.iter().map(|Figure(verbs)| verbs.map(millis).join(" / "));
            self.say(&format!("| {x} | {} |", cells.collect::<Vec<_>>().join(" | ")));
        }
        self.say("");
        self.curves.push(curve);
    }

    /// The effect of `concurrency`.
    pub(crate) fn concurrency(&mut self, figures: Vec<(usize, f64)>) {
        self.say("ADD with 8 delegates, each of which sleeps for 100 ms; the primary goes first and alone.\n");
        self.say("| `concurrency` | median, ms |");
        self.say("|--:|--:|");
        for (concurrency, median) in figures {
            self.say(&format!("| {concurrency} | {} |", millis(median)));
        }
        self.say("");
    }

    /// Writes the plot, and the sections below [`MARKER`]. A section of the same heading is replaced; others stay.
    pub(crate) fn write(&self, folder: &Path) {
        let page = folder.join("benchmark.md");
        let text = fs::read_to_string(&page).unwrap_or_default();
        let (notes, figures) = text.split_once(MARKER).expect("docs/benchmark.md has the line that the figures follow");
        let mut sections: Vec<String> = figures.split("\n## ").skip(1).map(|rest| format!("## {rest}")).collect();
        let heading = |section: &str| section.lines().next().unwrap_or_default().to_owned();
        for new in &self.sections {
            match sections.iter_mut().find(|old| heading(old) == heading(new)) {
                Some(old) => new.clone_into(old),
                None => sections.push(new.clone()),
            }
        }
        let sections: Vec<_> = sections.iter().map(|section| section.trim_end()).collect();
        fs::write(page, format!("{notes}{MARKER}\n\n{}\n", sections.join("\n\n"))).expect("write the figures");
        if !self.curves.is_empty() {
            fs::write(folder.join("benchmark.svg"), plot::svg(&self.curves)).expect("write the plot");
        }
    }
}

/// The load average of the last minute.
fn load() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or_default().to_owned()
}

/// KiB as MB with one digit.
fn mebibytes(kibibytes: u64) -> String {
    format!("{}.{}", kibibytes / 1024, kibibytes % 1024 * 10 / 1024)
}

/// Milliseconds, with a suitable number of digits.
fn millis(value: f64) -> String {
    if value < 10.0 { format!("{value:.2}") } else { format!("{value:.1}") }
}
