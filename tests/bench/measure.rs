//! Calls a program as a runtime does, and measures such calls.

use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// One call of a plugin.
pub(crate) struct Call<'a> {
    /// The program.
    pub(crate) program: &'a Path,
    /// `CNI_COMMAND`.
    pub(crate) verb: &'a str,
    /// `CNI_CONTAINERID`.
    pub(crate) container: &'a str,
    /// `CNI_ARGS`.
    pub(crate) args: &'a str,
    /// `CNI_PATH`.
    pub(crate) plugins: &'a Path,
    /// `CNI_NETNS`.
    pub(crate) netns: &'a Path,
    /// Standard input.
    pub(crate) configuration: &'a [u8],
}

impl Call<'_> {
    /// Makes the call, and returns how long it took: from before the program is started until it has ended and its answer
    /// is read.
    ///
    /// # Panics
    /// When the call fails: what is measured has to work.
    pub(crate) fn time(&self) -> Duration {
        self.run(true).0
    }

    /// Makes the call, and returns how long it took and its answer.
    ///
    /// # Panics
    /// When it succeeds and should not, or the other way round.
    pub(crate) fn run(&self, succeeds: bool) -> (Duration, String) {
        let mut command = Command::new(self.program);
        let began = Instant::now();
        let (child, answer) = self.talk(command.stderr(Stdio::piped()));
        let output = child.wait_with_output().expect("the call ends");
        let took = began.elapsed();
        assert!(
            output.status.success() == succeeds,
            "{} of {} ended with {}: {answer}{}",
            self.verb,
            self.program.display(),
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        (took, answer)
    }

    /// Makes the call, and returns what the program used. `gauge` is the launcher of the floor, which starts the program
    /// and reads the figures: this process is larger than what it measures, and Linux counts what a process was before
    /// it became another program.
    pub(crate) fn usage(&self, gauge: &Path) -> Usage {
        let mut command = Command::new(gauge);
        let (child, _) = self.talk(command.arg("--usage").arg(self.program).stderr(Stdio::piped()));
        let output = child.wait_with_output().expect("the call ends");
        let figure = String::from_utf8_lossy(&output.stderr);
        let numbers = figure.lines().last().and_then(|line| line.split_once(' '));
        let numbers = numbers.and_then(|(peak, faults)| Some((peak.parse().ok()?, faults.parse().ok()?)));
        let (peak, faults) = numbers.unwrap_or_else(|| panic!("{figure}"));
        Usage { peak, faults }
    }

    fn talk(&self, command: &mut Command) -> (Child, String) {
        command.env_clear().env("CNI_COMMAND", self.verb).env("CNI_CONTAINERID", self.container);
        command.env("CNI_NETNS", self.netns).env("CNI_IFNAME", "eth0").env("CNI_PATH", self.plugins);
        // Real plugins look for iptables.
        command.env("CNI_ARGS", self.args).env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the program starts");
        // A program that fails early does not read its whole input. Its error follows.
        drop(child.stdin.take().expect("piped").write_all(self.configuration));
        let mut answer = String::new();
        child.stdout.take().expect("piped").read_to_string(&mut answer).expect("the answer is text");
        (child, answer)
    }
}

/// The resources that a call used, or the highest of several calls.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Usage {
    /// The most memory that the program, or the largest plugin, had resident, in KiB.
    pub(crate) peak: u64,
    /// How many page faults the program itself had, without its plugins.
    pub(crate) faults: u64,
}

impl Usage {
    /// The greater of each.
    pub(crate) fn max(self, other: Self) -> Self {
        Self { peak: self.peak.max(other.peak), faults: self.faults.max(other.faults) }
    }
}

/// A program that is compared with others.
pub(crate) struct Contender {
    /// Its name in the tables.
    pub(crate) name: String,
    /// The executable.
    pub(crate) program: PathBuf,
    /// Where it keeps its state.
    pub(crate) state: PathBuf,
}

impl Contender {
    /// Whether it is a floor.
    pub(crate) fn is_floor(&self) -> bool {
        self.name.starts_with("floor")
    }
}

/// The durations of equal calls, in the order of the turns.
#[derive(Debug, Clone, Default)]
pub(crate) struct Samples(Vec<Duration>);

impl Samples {
    /// Adds one.
    pub(crate) fn push(&mut self, took: Duration) {
        self.0.push(took);
    }

    /// The quantile at `q`, from 0 to 1, in milliseconds.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_sign_loss,
        clippy::cast_possible_truncation,
        reason = "few samples"
    )]
    pub(crate) fn quantile(&self, q: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let last = sorted.len() - 1;
        sorted[(last as f64 * q).round() as usize].as_secs_f64() * 1e3
    }

    /// The median, in milliseconds.
    pub(crate) fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    /// The ratio to the floor: the median of the ratios within each turn. Other load on the machine affects both calls of a turn
    /// alike.
    pub(crate) fn times(&self, floor: &Self) -> f64 {
        let mut ratios: Vec<_> = self.0.iter().zip(&floor.0).map(|(own, floor)| own.div_duration_f64(*floor)).collect();
        ratios.sort_unstable_by(f64::total_cmp);
        ratios[ratios.len() / 2]
    }
}

/// The verbs by a number of contenders in turn. `time` is given the number of the contender, the verb and a container's ID.
/// The first turn warms the caches and does not count.
pub(crate) fn turns<const N: usize>(
    contenders: usize,
    verbs: [&'static str; N],
    rounds: usize,
    mut time: impl FnMut(usize, &'static str, &str) -> Duration,
) -> Vec<[Samples; N]> {
    let mut samples: Vec<[Samples; N]> = (0..contenders).map(|_| std::array::from_fn(|_| Samples::default())).collect();
    for round in 0..=rounds {
        for turn in 0..contenders {
            let who = (turn + round) % contenders;
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
