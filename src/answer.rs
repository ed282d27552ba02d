//! The answer: the only writer of standard output, and the one place where errors get their codes.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::process::ExitCode;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::cni::config::ConfigError;
use crate::cni::error::code;
use crate::cni::{CniError, Version};
use crate::config::InvalidConfig;
use crate::plan::PlanError;
use crate::request::RequestError;
use crate::runtime::exec::PluginError;
use crate::runtime::{StepError, Verb};
use crate::source::SourceError;
use crate::source::kubernetes::ClusterError;
use crate::transaction::{CleanupFailure, Failure, StoreError, UndoError};
use crate::verb::{Error, NotReady, What};

/// Writes one JSON object to standard output.
///
/// # Errors
/// When standard output cannot be written.
#[expect(clippy::disallowed_methods, reason = "this module is the one writer of standard output")]
pub fn write(value: &(impl Serialize + ?Sized)) -> io::Result<()> {
    let mut bytes = serde_json::to_vec(value)?;
    bytes.push(b'\n');
    let mut stdout = io::stdout().lock();
    stdout.write_all(&bytes)?;
    stdout.flush()
}

/// Writes text for a person to standard output.
///
/// # Errors
/// When standard output cannot be written.
#[expect(clippy::disallowed_methods, reason = "this module is the one writer of standard output")]
pub fn write_text(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

/// Writes the result of ADD.
///
/// # Errors
/// When standard output cannot be written: the runtime then does not know, and ADD must be undone.
pub fn write_result(result: &RawValue) -> Result<(), Failure> {
    write(result).map_err(Failure::Answer)
}

/// Answers VERSION with the versions spoken, in the version that `stdin` was asked in.
///
/// # Errors
/// When standard output cannot be written.
pub fn write_versions(stdin: &[u8], spoken: &[Version]) -> io::Result<()> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Asked {
        cni_version: String,
    }
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Versions<'a> {
        cni_version: String,
        supported_versions: &'a [Version],
    }
    let asked = serde_json::from_slice::<Asked>(stdin).ok().map(|asked| asked.cni_version);
    let cni_version = asked.filter(|version| !version.is_empty()).unwrap_or_else(|| Version::LATEST.to_string());
    write(&Versions { cni_version, supported_versions: spoken })
}

/// Writes an error object.
///
/// # Errors
/// When standard output cannot be written.
pub fn write_cni_error(error: &CniError, version: Version) -> io::Result<()> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Wire<'a> {
        cni_version: Version,
        #[serde(flatten)]
        error: &'a CniError,
    }
    write(&Wire { cni_version: version, error })
}

/// Writes the error of a call, and returns the exit status that goes with it. `version` is that of the configuration.
pub fn write_error(error: &Error, verb: Option<Verb>, version: Version) -> ExitCode {
    let mut error = cni_error(error);
    if verb == Some(Verb::Del) {
        error.msg = retryable(&error.msg);
        error.details = retryable(&error.details);
    }
    // Where nobody reads standard output there is nobody to tell; the exit status still says it.
    drop(write_cni_error(&error, version));
    ExitCode::FAILURE
}

/// containerd takes a DEL whose error says that something was "not found" for a success, and what is still to be undone
/// would be forgotten.
fn retryable(text: &str) -> String {
    let mut text = text.to_owned();
    for phrase in ["not found", "no such file or directory"] {
        while let Some(at) = text.to_ascii_lowercase().find(phrase) {
            text.replace_range(at..at + phrase.len(), "missing");
        }
    }
    text
}

/// The CNI error of a plugin's failure: its own, if it gave one.
pub fn plugin_error(error: &PluginError) -> CniError {
    let own = match error {
        PluginError::Reported(own) => return own.clone(),
        PluginError::NotFound { .. } => code::INVALID_CONFIG,
        PluginError::Start { .. } | PluginError::Withheld(_) | PluginError::Io(_) => code::IO,
        PluginError::Ended { .. } => code::PLUGIN_FAILED,
        PluginError::TimedOut { .. } => code::TIMED_OUT,
        PluginError::Flood | PluginError::Output(_) => code::DECODE,
    };
    CniError::new(own, error.to_string())
}

/// The CNI error of a call that cannot be understood.
pub fn request_error(error: &RequestError) -> CniError {
    let code = match error {
        RequestError::Missing { .. }
        | RequestError::NotText { .. }
        | RequestError::Command { .. }
        | RequestError::Name { .. }
        | RequestError::Args(_) => code::INVALID_ENVIRONMENT,
        RequestError::Recursion { .. } | RequestError::TooLarge => code::INVALID_CONFIG,
        RequestError::Stdin(_) => code::IO,
        RequestError::Empty => code::DECODE,
    };
    CniError::new(code, error.to_string())
}

/// The CNI error of a configuration that breaks the protocol's rules.
pub fn config_error(error: &ConfigError) -> CniError {
    let code = match error {
        ConfigError::Json(_) => code::DECODE,
        ConfigError::Version { .. } => code::INCOMPATIBLE_VERSION,
        ConfigError::Missing { .. } | ConfigError::Wrong { .. } | ConfigError::Name { .. } => code::INVALID_CONFIG,
    };
    CniError::new(code, error.to_string())
}

/// The CNI error of each way to fail.
pub(crate) fn cni_error(error: &Error) -> CniError {
    let mut own = CniError::new(code_of(error), error.to_string());
    own.details = match error {
        Error::RolledBack(rolled_back) => {
            let plugin = match &rolled_back.cause {
                Failure::Attach { source, .. } => plugin_error(&source.source).details,
                _ => String::new(),
            };
            join(plugin, &rolled_back.cleanup)
        }
        Error::Incomplete(failures) | Error::Unfinished(failures) => join(String::new(), failures),
        Error::BestEffort(failures) | Error::Takeover(failures) | Error::Corrupt { failures, .. } => {
            lines(failures.iter().map(|(label, error)| format!("{label}: {}", in_full(error))))
        }
        Error::Gc(failures) => lines(failures.iter().map(ToString::to_string)),
        // The message has them all; plugins may have said more.
        Error::Check(findings) => lines(findings.iter().filter_map(|finding| match &finding.what {
            What::Plugin(error @ StepError { source: PluginError::Reported(_), .. }) => {
                Some(format!("{}: {}", finding.label, in_full(error)))
            }
            What::Plugin(_) | What::Changed(_) => None,
        })),
        _ => String::new(),
    };
    own
}

fn join(first: String, failures: &[CleanupFailure]) -> String {
    let mut details = first;
    for failure in failures {
        let separator = if details.is_empty() { "" } else { "; " };
        let source = match &failure.source {
            UndoError::Step(step) => in_full(step),
            other => other.to_string(),
        };
        let _ = write!(details, "{separator}could not be undone: {}: {source}", failure.label);
    }
    details
}

/// A plugin's failure with the details and the code that it gave.
fn in_full(error: &StepError) -> String {
    match &error.source {
        PluginError::Reported(own) if own.details.is_empty() => format!("{error} (code {})", own.code),
        PluginError::Reported(own) => format!("{error}: {} (code {})", own.details, own.code),
        _ => error.to_string(),
    }
}

fn lines(items: impl Iterator<Item = String>) -> String {
    items.collect::<Vec<_>>().join("; ")
}

fn code_of(error: &Error) -> u32 {
    match error {
        Error::Request(error) => request_error(error).code,
        Error::Config(error) => match error {
            InvalidConfig::Cni(error) | InvalidConfig::Delegate { source: error, .. } => config_error(error).code,
            InvalidConfig::Key(_) => code::INVALID_CONFIG,
            InvalidConfig::PrevResult(_) => code::DECODE,
        },
        Error::Source(error) => match error {
            SourceError::Cluster(error) => cluster_code(error),
            SourceError::Withheld { .. } => code::KUBERNETES,
            SourceError::Unknown { .. }
            | SourceError::NoDefinition { .. }
            | SourceError::Isolated { .. }
            | SourceError::Annotation { .. }
            | SourceError::Device { .. }
            | SourceError::Load { .. } => code::INVALID_CONFIG,
        },
        Error::NotReadyYet { .. } => code::TRY_AGAIN,
        Error::Plugin { .. } | Error::OwnExecutable { .. } | Error::InterfaceExists { .. } => code::INVALID_CONFIG,
        Error::Plan(error) => match error {
            PlanError::TooMuch { .. }
            | PlanError::NoPrimary { .. }
            | PlanError::OptionalPrimary { .. }
            | PlanError::DuplicateInterface { .. }
            | PlanError::SelfDelegation { .. }
            | PlanError::DefaultRoutes { .. }
            | PlanError::Capability { .. }
            | PlanError::Forbidden { .. } => code::INVALID_CONFIG,
        },
        Error::Store(error) => store_code(error),
        Error::Namespace(_) | Error::Unfit { .. } => code::INVALID_ENVIRONMENT,
        Error::AlreadyAttached { .. } => code::ALREADY_ATTACHED,
        Error::Unfinished(_)
        | Error::Incomplete(_)
        | Error::BestEffort(_)
        | Error::Takeover(_)
        | Error::Corrupt { .. } => code::CLEANUP_INCOMPLETE,
        Error::RolledBack(rolled_back) => match &rolled_back.cause {
            Failure::Attach { source, .. } => plugin_error(&source.source).code,
            Failure::Routes { .. } => code::NAMESPACE,
            Failure::Status(error) => cluster_code(error),
            Failure::DeviceInfo { .. } | Failure::Journal { .. } | Failure::Answer(_) => code::IO,
        },
        Error::NotAttached { .. } => code::UNKNOWN_CONTAINER,
        Error::Check(findings) => match findings.as_slice() {
            [one] => match &one.what {
                What::Plugin(error) => plugin_error(&error.source).code,
                What::Changed(_) => code::CHECK_FAILED,
            },
            _ => code::CHECK_FAILED,
        },
        Error::NoSuchVerb { .. } => code::INCOMPATIBLE_VERSION,
        Error::NotReady(missing) => {
            let limited = missing.iter().any(|one| match one {
                NotReady::Plugin { source, .. } => plugin_error(&source.source).code == code::LIMITED,
                NotReady::Missing(_) => false,
            });
            if limited { code::LIMITED } else { code::UNAVAILABLE }
        }
        Error::Gc(failures) => match failures.as_slice() {
            [one] => one.code,
            _ => code::CLEANUP_INCOMPLETE,
        },
        Error::MultusState { .. } | Error::Answer(_) => code::IO,
    }
}

fn cluster_code(error: &ClusterError) -> u32 {
    match error {
        // A passing condition, for all that can be told from here: the runtime is to try again.
        ClusterError::PodGone { .. } | ClusterError::Unavailable { .. } | ClusterError::Kubelet { .. } => {
            code::TRY_AGAIN
        }
        ClusterError::Refused { .. } | ClusterError::Credentials { .. } => code::KUBERNETES,
        ClusterError::Name { .. } => code::INVALID_ENVIRONMENT,
        ClusterError::NotConfigured | ClusterError::NotBuiltIn => code::INVALID_CONFIG,
        ClusterError::Start(_) => code::IO,
    }
}

fn store_code(error: &StoreError) -> u32 {
    match error {
        StoreError::Io { .. } => code::IO,
        StoreError::NotADirectory { .. } => code::CLEANUP_INCOMPLETE,
        StoreError::Busy { .. } => code::TRY_AGAIN,
    }
}
