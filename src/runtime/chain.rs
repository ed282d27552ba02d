//! All the plugins of one network, in order (SPEC §3).

use std::fmt;
use std::ops::Range;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::value::RawValue;

use super::exec::{Call, Exec, PluginError, Stdout};
use super::find::Finder;
use super::launcher::Durable;
use super::reverse::undo_in_reverse;
use crate::cni::config::{Insert, NetworkConfig, PluginConfig, RawObject, parse_object, raw};
use crate::cni::error::code;
use crate::cni::validate::{self, InvalidName};
use crate::cni::{AddResult, CniError, ValidAttachment, Verb, Version};

/// The parameters of one attachment (SPEC §3, "Attachment Parameters").
#[derive(Debug, Clone, Default)]
pub struct Attachment {
    /// The container's ID.
    pub container_id: String,
    /// The path of its network namespace. Empty if the namespace is gone.
    pub netns: String,
    /// The interface's name inside it.
    pub ifname: String,
    /// `CNI_ARGS`.
    pub args: String,
    /// The capability arguments. Each plugin gets those that it declares.
    pub capability_args: RawObject,
    /// Merged into every plugin's `args`, two levels deep.
    pub plugin_args: RawObject,
}

impl Attachment {
    /// An attachment without any arguments.
    pub fn new(container_id: &str, netns: &str, ifname: &str) -> Self {
        Self { container_id: container_id.into(), netns: netns.into(), ifname: ifname.into(), ..Self::default() }
    }

    /// The rules of the protocol for its names.
    ///
    /// # Errors
    /// The first name that breaks them.
    pub fn validate(&self) -> Result<(), InvalidName> {
        validate::container_id(&self.container_id)?;
        validate::interface_name(&self.ifname)
    }
}

/// What a plugin answered to ADD.
#[derive(Debug, Clone)]
pub struct StepResult {
    /// The answer in the format of the network's version. Unchanged if the plugin answered in that format.
    pub raw: Box<RawValue>,
    /// The parsed answer.
    pub parsed: AddResult,
}

/// A plugin of a chain failed.
#[derive(Debug, thiserror::Error)]
#[error("plugin {plugin_type:?} (step {}) failed on {verb}: {source}", step + 1)]
pub struct StepError {
    /// Its index in the chain.
    pub step: usize,
    /// Its type.
    pub plugin_type: String,
    /// The operation.
    pub verb: Verb,
    /// Why.
    pub source: PluginError,
}

/// How much time the plugins have.
#[derive(Debug, Clone, Copy, Default)]
pub struct Limits {
    /// One plugin.
    pub plugin: Option<Duration>,
    /// All of them together, as a point in time.
    pub deadline: Option<Instant>,
}

impl Limits {
    /// The time at which something must be finished if it begins now and may take as long as one plugin.
    pub(crate) fn deadline(self) -> Option<Instant> {
        let plugin = self.plugin.map(super::deadline::after);
        match (plugin, self.deadline) {
            (Some(one), Some(all)) => Some(one.min(all)),
            (one, all) => one.or(all),
        }
    }
}

/// A network's plugins, ready to run.
#[derive(Clone, Copy)]
pub struct Chain<'a> {
    /// The network.
    pub network: &'a NetworkConfig,
    /// Where its plugins are.
    pub finder: &'a Finder,
    /// What runs them.
    pub exec: &'a dyn Exec,
    /// Their time.
    pub limits: Limits,
    /// The files that must be on disk before a plugin gets its input.
    pub after: Option<&'a Durable>,
}

impl fmt::Debug for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chain").field("network", &self.network.name).finish_non_exhaustive()
    }
}

impl Chain<'_> {
    /// Runs ADD of the plugin at `step`.
    ///
    /// # Errors
    /// When the plugin fails, or its answer is not a result.
    pub fn add_step(
        &self,
        step: usize,
        attachment: &Attachment,
        prev_result: Option<&RawValue>,
    ) -> Result<StepResult, StepError> {
        let stdout = self.run(step, Verb::Add, Some(attachment), prev_result, None)?;
        self.read_result(&stdout).map_err(|source| self.error(step, Verb::Add, source))
    }

    /// Runs DEL of the plugin at `step`. The plugin gets `prev_result` if the network's version is 0.4.0 or later.
    ///
    /// # Errors
    /// When the plugin fails.
    pub fn del_step(
        &self,
        step: usize,
        attachment: &Attachment,
        prev_result: Option<&RawValue>,
    ) -> Result<(), StepError> {
        let prev_result = prev_result.filter(|_| self.network.version.has_check());
        self.run(step, Verb::Del, Some(attachment), prev_result, None).map(drop)
    }

    /// Runs ADD of every plugin in order, each with the result of the one before (SPEC §3, "Adding an attachment").
    /// After a failure, the caller undoes what was done, with [`Self::del`].
    ///
    /// # Errors
    /// The first failure.
    pub fn add(&self, attachment: &Attachment, prev_result: Option<&RawValue>) -> Result<StepResult, StepError> {
        let mut last: Option<StepResult> = None;
        for step in 0..self.network.plugins.len() {
            let prev = last.as_ref().map(|result| &*result.raw).or(prev_result);
            last = Some(self.add_step(step, attachment, prev)?);
        }
        last.ok_or_else(|| self.error(0, Verb::Add, PluginError::Output("the network has no plugins".into())))
    }

    /// Runs DEL of every plugin in reverse (SPEC §3, "Deleting an attachment"). Unlike libcni it continues after a failure, so that
    /// the other plugins still release what they hold. Returns the failures; an empty list means success.
    pub fn del(&self, attachment: &Attachment, prev_result: Option<&RawValue>) -> Vec<StepError> {
        self.undo(self.network.plugins.len(), attachment, prev_result)
    }

    /// Runs DEL of the first `steps` plugins only.
    pub fn undo(&self, steps: usize, attachment: &Attachment, prev_result: Option<&RawValue>) -> Vec<StepError> {
        undo_in_reverse(0..steps, self.limits, |step, limits| {
            Chain { limits, ..*self }.del_step(step, attachment, prev_result)
        })
    }

    /// Runs CHECK of every plugin (SPEC §3, "Checking an attachment") and collects the failures. Runs nothing if the configuration
    /// has `disableCheck`, or below 0.4.0.
    pub fn check(&self, attachment: &Attachment, prev_result: Option<&RawValue>) -> Vec<StepError> {
        self.check_steps(0..self.network.plugins.len(), attachment, prev_result)
    }

    /// Runs CHECK of the plugins at `steps` only.
    pub fn check_steps(
        &self,
        steps: Range<usize>,
        attachment: &Attachment,
        prev_result: Option<&RawValue>,
    ) -> Vec<StepError> {
        if !self.is_called(Verb::Check) {
            return Vec::new();
        }
        steps.filter_map(|step| self.run(step, Verb::Check, Some(attachment), prev_result, None).err()).collect()
    }

    /// Runs STATUS of every plugin, if the network's version has STATUS.
    ///
    /// # Errors
    /// The first plugin that is not ready.
    pub fn status(&self) -> Result<(), StepError> {
        for step in 0..self.network.plugins.len() {
            if self.is_called(Verb::Status) {
                self.run(step, Verb::Status, None, None, None).map_err(|error| self.explain_status(step, error))?;
            } else {
                self.finder
                    .find(self.network.plugins[step].plugin_type())
                    .map_err(|source| self.error(step, Verb::Status, source))?;
            }
        }
        Ok(())
    }

    /// What STATUS of a plugin has failed with. One of before 1.1.0 knows no STATUS, and answers with whatever it misses first.
    fn explain_status(&self, step: usize, error: StepError) -> StepError {
        let is_answer = |own: &CniError| [code::UNAVAILABLE, code::LIMITED].contains(&own.code);
        if matches!(&error.source, PluginError::Reported(own) if is_answer(own)) || error.source.is_out_of_time() {
            return error;
        }
        let version = self.network.version;
        match self.versions(step) {
            Ok(spoken) if !spoken.is_empty() && !spoken.contains(&version) => {
                self.error(step, Verb::Status, PluginError::TooOld { version, spoken })
            }
            _ => error,
        }
    }

    /// Runs GC of every plugin (SPEC §3, "Garbage-collecting a network"), if the network's version has GC and GC is not disabled,
    /// and collects the failures.
    pub fn gc(&self, valid: &[ValidAttachment]) -> Vec<StepError> {
        if !self.is_called(Verb::Gc) {
            return Vec::new();
        }
        let valid = raw(valid);
        (0..self.network.plugins.len())
            .filter_map(|step| self.run(step, Verb::Gc, None, None, Some(&valid)).err())
            .collect()
    }

    /// Whether the network's plugins are called for an operation: the network's version has the operation, and it is not disabled.
    pub fn is_called(&self, verb: Verb) -> bool {
        let network = self.network;
        match verb {
            Verb::Check => network.version.has_check() && !network.disable_check,
            Verb::Status => network.version.has_status_and_gc(),
            Verb::Gc => network.version.has_status_and_gc() && !network.disable_gc,
            Verb::Add | Verb::Del | Verb::Version => true,
        }
    }

    /// Asks the plugin at `step` which versions it supports (SPEC §2, VERSION). Versions that Braid does not know are left out. A
    /// plugin from before 0.2.0 does not know VERSION, and its error is returned.
    ///
    /// # Errors
    /// When the plugin fails, or its answer is not a list of versions.
    pub fn versions(&self, step: usize) -> Result<Vec<Version>, StepError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Answer {
            #[serde(default)]
            supported_versions: Vec<String>,
        }
        let run = || {
            let executable = self.finder.find(self.network.plugins[step].plugin_type())?;
            let stdin = format!(r#"{{"cniVersion":"{}"}}"#, self.network.version);
            let call = Call {
                executable: &executable,
                verb: Verb::Version,
                step,
                environment: &[("CNI_PATH", self.finder.path())],
                stdin: stdin.as_bytes(),
                deadline: self.limits.deadline(),
                after: None,
            };
            let stdout = self.exec.run(&call)?;
            let answer: Answer = serde_json::from_slice(&stdout).map_err(|error| PluginError::unusable(&error))?;
            Ok(answer.supported_versions.iter().filter_map(|version| version.parse().ok()).collect())
        };
        run().map_err(|source| self.error(step, Verb::Version, source))
    }

    /// The `CNI_*` variables of a call, without `CNI_COMMAND`.
    pub(super) fn environment<'b>(&'b self, attachment: Option<&'b Attachment>) -> Vec<(&'static str, &'b str)> {
        let mut environment = vec![("CNI_PATH", self.finder.path())];
        if let Some(attachment) = attachment {
            environment.extend([
                ("CNI_CONTAINERID", attachment.container_id.as_str()),
                ("CNI_NETNS", &attachment.netns),
                ("CNI_IFNAME", &attachment.ifname),
                ("CNI_ARGS", &attachment.args),
            ]);
        }
        environment
    }

    fn read_result(&self, stdout: &[u8]) -> Result<StepResult, PluginError> {
        let spoken = self.network.version;
        let (parsed, version) =
            AddResult::parse_versioned(stdout, spoken).map_err(|error| PluginError::unusable(&error))?;
        let raw = match version {
            Some(version) if version == spoken => {
                let text = std::str::from_utf8(stdout).map_err(|error| PluginError::unusable(&error))?;
                RawValue::from_string(text.trim().to_owned()).map_err(|error| PluginError::unusable(&error))?
            }
            Some(_) => parsed.to_raw(spoken),
            None => {
                // The result names its version, so that the next reader knows its format (SPEC §5, "Success").
                let mut object = parse_object(stdout).map_err(|error| PluginError::unusable(&error))?;
                object.shift_insert(0, "cniVersion".into(), raw(&spoken));
                raw(&object)
            }
        };
        Ok(StepResult { raw, parsed })
    }

    fn error(&self, step: usize, verb: Verb, source: PluginError) -> StepError {
        let plugin_type = self.network.plugins.get(step).map_or("", PluginConfig::plugin_type).to_owned();
        StepError { step, plugin_type, verb, source }
    }

    fn run(
        &self,
        step: usize,
        verb: Verb,
        attachment: Option<&Attachment>,
        prev_result: Option<&RawValue>,
        valid_attachments: Option<&RawValue>,
    ) -> Result<Stdout, StepError> {
        let plugin = &self.network.plugins[step];
        let run = || {
            let executable: PathBuf = self.finder.find(plugin.plugin_type())?;
            let none = RawObject::new();
            let stdin = plugin.request(&Insert {
                name: &self.network.name,
                version: self.network.version,
                capability_args: attachment.map_or(&none, |attachment| &attachment.capability_args),
                args: attachment.map(|attachment| &attachment.plugin_args),
                prev_result,
                valid_attachments,
            });
            let call = Call {
                executable: &executable,
                verb,
                step,
                environment: &self.environment(attachment),
                stdin: &stdin,
                deadline: self.limits.deadline(),
                after: self.after,
            };
            let stdout = self.exec.run(&call)?;
            // An error object is an error, whatever the exit status says.
            match CniError::parse(&stdout) {
                Some(error) => Err(PluginError::Reported(error)),
                None => Ok(stdout),
            }
        };
        let began = Instant::now();
        let outcome = run();
        self.log(step, verb, attachment, began.elapsed(), outcome.as_ref().err());
        outcome.map_err(|source| self.error(step, verb, source))
    }

    /// Logs a plugin's call. A failure is not logged as an error, because the caller decides whether it is one.
    fn log(
        &self,
        step: usize,
        verb: Verb,
        attachment: Option<&Attachment>,
        took: Duration,
        error: Option<&PluginError>,
    ) {
        let plugin = self.network.plugins[step].plugin_type();
        let network = self.network.name.as_str();
        let container = attachment.map(|attachment| attachment.container_id.as_str());
        let interface = attachment.map(|attachment| attachment.ifname.as_str());
        let (step, verb, duration) = (step + 1, verb.as_str(), took.as_secs_f64() * 1e3);
        match error {
            None => tracing::debug!(
                container,
                network,
                interface,
                plugin,
                step,
                pluginVerb = verb,
                durationMs = duration,
                "plugin done"
            ),
            Some(error) => tracing::info!(
                container, network, interface, plugin, step, pluginVerb = verb, durationMs = duration, %error, "plugin failed"
            ),
        }
    }
}
