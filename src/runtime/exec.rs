//! One call of one plugin (SPEC §2): the call, its errors, and [`Exec`], the trait that the rest of the crate
//! depends on, so that a test can supply its own. [`Launcher`](super::Launcher) runs processes.

use std::fmt;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use super::launcher::{DiskWork, Durable, Killed, MAX_STDOUT};
use crate::cni::error::code;
use crate::cni::text::shortened;
use crate::cni::{CniError, Verb};

/// The most of an error's words that a plugin's answer is quoted with, in bytes.
const MAX_QUOTE: usize = 2048;

/// One call of one plugin.
#[derive(Debug, Clone, Copy)]
pub struct Call<'a> {
    /// The executable.
    pub executable: &'a Path,
    /// The operation.
    pub verb: Verb,
    /// Its place in its network's chain, counted from 0.
    pub step: usize,
    /// The other `CNI_*` variables; those not here are removed from the environment.
    pub environment: &'a [(&'static str, &'a str)],
    /// The request configuration.
    pub stdin: &'a [u8],
    /// When it must have finished.
    pub deadline: Option<Instant>,
    /// What has to be on disk before the plugin gets its input.
    pub after: Option<&'a Durable>,
}

/// What a plugin that exited with 0 printed.
pub type Stdout = Vec<u8>;

/// Why a plugin's call failed.
#[derive(Debug, thiserror::Error)]
pub enum PluginError {
    /// No directory holds an executable of that name.
    #[error("no executable called {plugin_type:?} is in {}", if searched.is_empty() { "CNI_PATH, which is empty" } else { searched })]
    NotFound {
        /// The type.
        plugin_type: String,
        /// The directories, as in `CNI_PATH`.
        searched: String,
    },
    /// It could not be started.
    #[error("{} cannot be started: {source}", path.display())]
    Start {
        /// The executable.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Communication with it failed.
    #[error("talking to the plugin failed: {0}")]
    Io(#[source] io::Error),
    /// It got no input, because what had to be on disk first is not.
    #[error("it was given no input, as a file could not be synced: {0}")]
    NotDurable(#[source] io::Error),
    /// It was not started, or got no input, because no time was left.
    #[error("it was not run, as the time for the whole call was over")]
    OutOfTime,
    /// It reported a CNI error. `Display` shows its message, and not its details.
    #[error("{}", if .0.msg.is_empty() { "it reported an error without a message" } else { &.0.msg })]
    Reported(CniError),
    /// It exited, or was killed, without a CNI error.
    #[error("{}{}", describe_status(*status), tail(stderr))]
    Exited {
        /// Its exit status or signal.
        status: ExitStatus,
        /// The end of its standard error.
        stderr: String,
    },
    /// It was killed, with its process group, as its time was over.
    #[error("it had not exited after {:.1} s and {killed}{}", after.as_secs_f64(), tail(stderr))]
    TimedOut {
        /// How long it had.
        after: Duration,
        /// Whether it could be killed.
        killed: Killed,
        /// The end of its standard error.
        stderr: String,
    },
    /// It printed too much.
    #[error("it printed more than {} MiB on standard output and {killed}", MAX_STDOUT >> 20)]
    TooMuchOutput {
        /// Whether it could be killed.
        killed: Killed,
    },
    /// It succeeded, but what it printed is not what the operation asks for.
    #[error("it succeeded, but {0}")]
    Output(String),
}

impl From<&PluginError> for CniError {
    /// The CNI error of a plugin's failure: its own, if it gave one.
    fn from(error: &PluginError) -> Self {
        let own = match error {
            PluginError::Reported(own) => return own.clone(),
            PluginError::NotFound { .. } => code::INVALID_CONFIG,
            PluginError::Start { .. } | PluginError::NotDurable(_) | PluginError::Io(_) => code::IO,
            PluginError::Exited { .. } => code::PLUGIN_FAILED,
            PluginError::TimedOut { .. } | PluginError::OutOfTime => code::TIMED_OUT,
            PluginError::TooMuchOutput { .. } | PluginError::Output(_) => code::DECODE,
        };
        Self::new(own, error.to_string())
    }
}

impl PluginError {
    /// Whether the plugin's process was still there when it was given up, as it could not be killed or hangs in the kernel: it may
    /// act even after its DEL.
    pub fn lingers(&self) -> bool {
        match self {
            Self::TimedOut { killed, .. } | Self::TooMuchOutput { killed } => *killed != Killed::Gone,
            Self::NotFound { .. }
            | Self::Start { .. }
            | Self::Io(_)
            | Self::NotDurable(_)
            | Self::OutOfTime
            | Self::Reported(_)
            | Self::Exited { .. }
            | Self::Output(_) => false,
        }
    }

    /// Whether there was no time left for the plugin, or it used all that it had.
    pub fn is_out_of_time(&self) -> bool {
        matches!(self, Self::TimedOut { .. } | Self::OutOfTime)
    }

    /// An answer that cannot be used, and why.
    pub(super) fn unusable(reason: &dyn fmt::Display) -> Self {
        Self::Output(shortened(format!("its answer cannot be used: {reason}"), MAX_QUOTE))
    }
}

fn describe_status(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("it exited with status {code} and no CNI error"),
        (None, Some(signal)) => match nix::sys::signal::Signal::try_from(signal) {
            Ok(name) => format!("it was killed by signal {signal} ({name})"),
            Err(_) => format!("it was killed by signal {signal}"),
        },
        (None, None) => "its exit status is unknown".into(),
    }
}

fn tail(stderr: &str) -> String {
    let stderr = stderr.trim();
    if stderr.is_empty() {
        "; it printed nothing on standard error".into()
    } else {
        format!("; its standard error ends: {stderr}")
    }
}

/// A plugin that was started ahead of its turn, and waits for its input. One that is dropped is killed.
pub trait Waiting: Send {
    /// Runs it to its end as [`Exec::run_meanwhile`] does, now that its turn has come. All of `call` but what it is about counts.
    ///
    /// # Errors
    /// As [`Exec::run`].
    fn run_meanwhile(self: Box<Self>, call: &Call<'_>, meanwhile: &mut dyn FnMut()) -> Result<Stdout, PluginError>;

    /// Whether it has exited with success already, without its input.
    fn has_succeeded(&self) -> bool;
}

/// Runs plugins.
pub trait Exec: Sync {
    /// Runs one plugin to its end and returns what it printed.
    ///
    /// # Errors
    /// When it could not be run, exited with anything but 0, or ran out of time.
    fn run(&self, call: &Call<'_>) -> Result<Stdout, PluginError>;

    /// Runs one plugin as [`Self::run`] does, and calls `meanwhile` at most once, while the plugin runs.
    ///
    /// # Errors
    /// As [`Self::run`].
    fn run_meanwhile(&self, call: &Call<'_>, meanwhile: &mut dyn FnMut()) -> Result<Stdout, PluginError> {
        let _ = meanwhile;
        self.run(call)
    }

    /// Starts a plugin before its turn, so that it waits for its input; none if it cannot, and then it is started when its
    /// turn comes. Of the call, neither `stdin` nor `deadline` nor `after` matters yet.
    fn start_ahead(&self, call: &Call<'_>) -> Option<Box<dyn Waiting + '_>> {
        let _ = call;
        None
    }

    /// Starts to do `work`, in this order, and may return before that is finished. The [`Call`]s of `verb` that must not begin
    /// before get what is returned.
    ///
    /// # Errors
    /// When it has failed already.
    fn sync(&self, verb: Verb, work: &[DiskWork]) -> io::Result<Durable> {
        let _ = verb;
        work.iter().try_for_each(DiskWork::run)?;
        Ok(Durable::reached())
    }

    /// Nothing is likely to be run any more. What is kept ready for that may go, and is not waited for.
    fn let_go(&self) {}
}

impl<E: Exec + ?Sized> Exec for &E {
    fn run(&self, call: &Call<'_>) -> Result<Stdout, PluginError> {
        (**self).run(call)
    }

    fn run_meanwhile(&self, call: &Call<'_>, meanwhile: &mut dyn FnMut()) -> Result<Stdout, PluginError> {
        (**self).run_meanwhile(call, meanwhile)
    }

    fn start_ahead(&self, call: &Call<'_>) -> Option<Box<dyn Waiting + '_>> {
        (**self).start_ahead(call)
    }

    fn sync(&self, verb: Verb, work: &[DiskWork]) -> io::Result<Durable> {
        (**self).sync(verb, work)
    }

    fn let_go(&self) {
        (**self).let_go();
    }
}
