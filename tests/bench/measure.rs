//! Calling a program as a runtime does, and what a number of such calls took.

use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// One call of a plugin.
pub(crate) struct Call<'a> {
    /// What is called.
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
        let mut command = Command::new(self.program);
        let began = Instant::now();
        let (child, answer) = self.talk(command.stderr(Stdio::piped()));
        let output = child.wait_with_output().expect("the call ends");
        let took = began.elapsed();
        assert!(
            output.status.success(),
            "{} of {} failed: {answer}{}",
            self.verb,
            self.program.display(),
            String::from_utf8_lossy(&output.stderr)
        );
        took
    }

    /// Makes the call, and returns the most memory that the program had resident, in KiB. `gauge` is the launcher of the
    /// floor, which starts the program and reads the figure: this process is larger than what it measures, and Linux
    /// counts what a process was before it became another program.
    pub(crate) fn peak(&self, gauge: &Path) -> u64 {
        let mut command = Command::new(gauge);
        let (child, _) = self.talk(command.arg("--peak").arg(self.program).stderr(Stdio::piped()));
        let output = child.wait_with_output().expect("the call ends");
        let figure = String::from_utf8_lossy(&output.stderr);
        figure.lines().last().and_then(|line| line.parse().ok()).unwrap_or_else(|| panic!("{figure}"))
    }

    fn talk(&self, command: &mut Command) -> (Child, String) {
        command.env_clear().env("CNI_COMMAND", self.verb).env("CNI_CONTAINERID", self.container);
        command.env("CNI_NETNS", self.netns).env("CNI_IFNAME", "eth0").env("CNI_PATH", self.plugins);
        command.env("CNI_ARGS", self.args);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the program starts");
        // A program that fails early does not read all of it, and says why afterwards.
        drop(child.stdin.take().expect("piped").write_all(self.configuration));
        let mut answer = String::new();
        child.stdout.take().expect("piped").read_to_string(&mut answer).expect("the answer is text");
        (child, answer)
    }
}

/// What is measured against one another.
pub(crate) struct Contender {
    /// How the tables call it.
    pub(crate) name: String,
    /// The executable.
    pub(crate) program: PathBuf,
    /// Where it keeps its state.
    pub(crate) state: PathBuf,
    /// The number of the floor that was built as this was.
    pub(crate) floor: usize,
}

impl Contender {
    /// Whether it is a floor.
    pub(crate) fn is_floor(&self) -> bool {
        self.name.starts_with("floor")
    }
}

/// What a number of equal calls took.
#[derive(Debug, Clone, Default)]
pub(crate) struct Samples(Vec<Duration>);

impl Samples {
    /// Adds one.
    pub(crate) fn push(&mut self, took: Duration) {
        self.0.push(took);
        self.0.sort_unstable();
    }

    /// The quantile at `q`, from 0 to 1, in milliseconds.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_sign_loss,
        clippy::cast_possible_truncation,
        reason = "few samples"
    )]
    pub(crate) fn quantile(&self, q: f64) -> f64 {
        let last = self.0.len() - 1;
        self.0[(last as f64 * q).round() as usize].as_secs_f64() * 1e3
    }

    /// The median, in milliseconds.
    pub(crate) fn median(&self) -> f64 {
        self.quantile(0.5)
    }
}
