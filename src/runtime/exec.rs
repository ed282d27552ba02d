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
use crate::cni::{CniError, Verb, Version};

/// How many bytes of an error are quoted from a plugin's answer.
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
    /// The other `CNI_*` variables. All others are removed from the environment.
    pub environment: &'a [(&'static str, &'a str)],
    /// The request configuration.
    pub stdin: &'a [u8],
    /// When it must have finished.
    pub deadline: Option<Instant>,
    /// The files that must be on disk before the plugin gets its input.
    pub after: Option<&'a Durable>,
}

/// The standard output of a plugin that exited with 0.
pub type Stdout = Vec<u8>;

/// Why a plugin's call failed.
#[derive(Debug, thiserror::Error)]
pub enum PluginError {
    /// No directory contains an executable of this name.
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
    /// Communication with the plugin failed.
    #[error("communication with the plugin failed: {0}")]
    Io(#[source] io::Error),
    /// The plugin got no input, because the files that had to be on disk first are not.
    #[error("it got no input, because a file could not be synced: {0}")]
    NotDurable(#[source] io::Error),
    /// The plugin was not started, or got no input, because no time was left.
    #[error("it was not run, because the time for the whole call was over")]
    OutOfTime,
    /// The plugin reported a CNI error. `Display` shows its message without its details.
    #[error("{}", if .0.msg.is_empty() { "it reported an error without a message" } else { &.0.msg })]
    Reported(CniError),
    /// The plugin exited, or was killed, without a CNI error.
    #[error("{}{}", describe_status(*status), tail(stderr))]
    Exited {
        /// Its exit status or signal.
        status: ExitStatus,
        /// The end of its standard error.
        stderr: String,
    },
    /// The plugin was killed, with its process group, because its time was over.
    #[error("it had not exited after {:.1} s and {killed}{}", after.as_secs_f64(), tail(stderr))]
    TimedOut {
        /// How long it had.
        after: Duration,
        /// Whether it could be killed.
        killed: Killed,
        /// The end of its standard error.
        stderr: String,
    },
    /// The plugin printed too much.
    #[error("it printed more than {} MiB on standard output and {killed}", MAX_STDOUT >> 20)]
    TooMuchOutput {
        /// Whether it could be killed.
        killed: Killed,
    },
    /// The plugin exited with 0, but its output is not what the operation requires.
    #[error("it succeeded, but {0}")]
    Output(String),
    /// It does not speak the version of its network, and so does not know the operation.
    #[error(
        "it does not speak CNI {version}, only {}; install a newer one, or give the network a \"cniVersion\" that it speaks",
        list(spoken)
    )]
    TooOld {
        /// The network's version.
        version: Version,
        /// What it speaks.
        spoken: Vec<Version>,
    },
}

/// Versions, as a message lists them.
fn list(versions: &[Version]) -> String {
    versions.iter().map(Version::to_string).collect::<Vec<_>>().join(", ")
}

impl From<&PluginError> for CniError {
    /// The plugin's own CNI error if it reported one; otherwise one that describes the failure.
    fn from(error: &PluginError) -> Self {
        let own = match error {
            PluginError::Reported(own) => return own.clone(),
            PluginError::NotFound { .. } => code::INVALID_CONFIG,
            PluginError::Start { .. } | PluginError::NotDurable(_) | PluginError::Io(_) => code::IO,
            PluginError::Exited { .. } => code::PLUGIN_FAILED,
            PluginError::TimedOut { .. } | PluginError::OutOfTime => code::TIMED_OUT,
            PluginError::TooMuchOutput { .. } | PluginError::Output(_) => code::DECODE,
            PluginError::TooOld { .. } => code::INCOMPATIBLE_VERSION,
        };
        Self::new(own, error.to_string())
    }
}

impl PluginError {
    /// Whether the plugin's process was still there when Braid stopped waiting, because it could not be killed or hangs in the
    /// kernel. It may still act, even after its DEL.
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
            | Self::Output(_)
            | Self::TooOld { .. } => false,
        }
    }

    /// Whether the plugin had no time left, or used all of it.
    pub fn is_out_of_time(&self) -> bool {
        matches!(self, Self::TimedOut { .. } | Self::OutOfTime)
    }

    /// The error for an answer that cannot be used, with the reason.
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

/// A plugin that was started ahead of its turn and waits for its input. Dropping it kills the plugin.
pub trait Waiting: Send {
    /// Runs the plugin to its end, as [`Exec::run_meanwhile`] does. Only the input, the deadline and `after` of `call` are new; the
    /// rest must be what the plugin was started with.
    ///
    /// # Errors
    /// As [`Exec::run`].
    fn run_meanwhile(self: Box<Self>, call: &Call<'_>, meanwhile: &mut dyn FnMut()) -> Result<Stdout, PluginError>;

    /// Whether the plugin has already exited with 0, without its input.
    fn has_succeeded(&self) -> bool;
}

/// Runs plugins.
pub trait Exec: Sync {
    /// Runs one plugin to its end and returns its standard output.
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

    /// Starts a plugin before its turn, so that it waits for its input. Returns nothing if that fails; the plugin is then started
    /// when its turn comes. `stdin`, `deadline` and `after` of the call are not used yet.
    fn start_ahead(&self, call: &Call<'_>) -> Option<Box<dyn Waiting + '_>> {
        let _ = call;
        None
    }

    /// Starts `work`, which is done in this order, and may return before it is finished. Pass the returned value to each [`Call`]
    /// of `verb` that must wait for it.
    ///
    /// # Errors
    /// When it has failed already.
    fn sync(&self, verb: Verb, work: &[DiskWork]) -> io::Result<Durable> {
        let _ = verb;
        work.iter().try_for_each(DiskWork::run)?;
        Ok(Durable::reached())
    }

    /// Says that probably no more plugins will run. The launcher may dismiss idle helpers, and does not wait for them.
    fn dismiss_idle(&self) {}
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

    fn dismiss_idle(&self) {
        (**self).dismiss_idle();
    }
}
