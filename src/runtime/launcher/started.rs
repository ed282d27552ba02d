//! A started plugin: it waits for its input, runs to its end, and its run is recorded.

use std::time::{Duration, Instant, SystemTime};

use super::holder::Holder;
use super::launch::{Launcher, refuse_late};
use super::running::{Outcome, RunningPlugin};
use crate::cni::CniError;
use crate::runtime::exec::{Call, PluginError, Stdout, Waiting};
use crate::runtime::runs::{Run, SpanId};

/// A plugin that was started and waits for its input. Dropping it kills the plugin, which has done nothing.
#[derive(Debug)]
pub struct Started<'a> {
    pub(super) launcher: &'a Launcher,
    /// Taken when it runs or is dropped.
    pub(super) parts: Option<(RunningPlugin, Holder)>,
    /// The call that it was started for, if its turn has come.
    pub(super) call: Option<Call<'a>>,
    pub(super) span: Option<SpanId>,
    /// Its holder keeps its input open.
    pub(super) waits_ahead: bool,
}

impl Started<'_> {
    /// Gives the plugin its input and waits until it exits, but not beyond `deadline`.
    ///
    /// # Errors
    /// When what it depends on is not on disk, it exits with anything but 0, or runs out of time.
    ///
    /// # Panics
    /// Never.
    pub fn run(self, stdin: &[u8], deadline: Option<Instant>) -> Result<Stdout, PluginError> {
        let call = self.call.expect("its turn has come");
        self.give_input(&Call { stdin, deadline, ..call }, &mut || ())
    }

    /// Gives the plugin its input when the files that it depends on are on disk, and waits until it exits.
    fn give_input(mut self, call: &Call<'_>, meanwhile: &mut dyn FnMut()) -> Result<Stdout, PluginError> {
        if let Some(after) = call.after {
            // Dropping `self` ends the plugin.
            after.wait(call.deadline).map_err(PluginError::NotDurable)?;
        }
        let began = Instant::now();
        let outcome = self.run_to_end(call.stdin, call.deadline, meanwhile);
        if let Some(runs) = self.launcher.runs.as_ref().filter(|runs| runs.is_wanted()) {
            runs.add(record(call, began.elapsed(), &outcome, self.span));
        }
        outcome
    }

    fn run_to_end(
        &mut self,
        stdin: &[u8],
        deadline: Option<Instant>,
        meanwhile: &mut dyn FnMut(),
    ) -> Result<Stdout, PluginError> {
        let Some((mut plugin, mut holder)) = self.parts.take() else { unreachable!("they are taken once") };
        if self.waits_ahead {
            holder.close_input();
        }
        let began = Instant::now();
        let outcome = plugin.run(stdin, deadline, meanwhile);
        if let Ok(Outcome::Exited(status)) = outcome {
            self.launcher.keep_idle(holder);
            if status.success() {
                return Ok(plugin.output);
            }
            return Err(match CniError::parse(&plugin.output) {
                Some(error) => PluginError::Reported(error),
                None => PluginError::Exited { status, stderr: plugin.stderr_text() },
            });
        }
        let killed = self.launcher.end(&mut plugin, holder);
        Err(match outcome {
            Ok(Outcome::TooMuchOutput) => PluginError::TooMuchOutput { killed },
            Ok(_) => PluginError::TimedOut { after: began.elapsed(), killed, stderr: plugin.stderr_text() },
            Err(error) => PluginError::Io(error),
        })
    }
}

/// The record of a run that has just finished.
fn record(call: &Call<'_>, took: Duration, outcome: &Result<Stdout, PluginError>, span: Option<SpanId>) -> Run {
    let ifname = call.environment.iter().find(|(name, _)| *name == "CNI_IFNAME");
    Run {
        plugin_type: call.executable.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        verb: call.verb,
        step: call.step,
        ifname: ifname.map_or_else(String::new, |(_, value)| (*value).to_owned()),
        began: SystemTime::now().checked_sub(took).unwrap_or(SystemTime::UNIX_EPOCH),
        took,
        error: outcome.as_ref().err().map(CniError::from),
        span,
    }
}

impl Waiting for Started<'_> {
    fn run_meanwhile(self: Box<Self>, call: &Call<'_>, meanwhile: &mut dyn FnMut()) -> Result<Stdout, PluginError> {
        refuse_late(call)?;
        self.give_input(call, meanwhile)
    }

    fn has_succeeded(&self) -> bool {
        self.parts.as_ref().is_some_and(|(plugin, _)| plugin.has_succeeded())
    }
}

impl Drop for Started<'_> {
    fn drop(&mut self) {
        if let Some((mut plugin, holder)) = self.parts.take() {
            self.launcher.end(&mut plugin, holder);
        }
    }
}
