//! The errors of all operations.

use std::fmt::Write as _;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::cni::Verb;
use crate::cni::error::code;
use crate::cni::{CniError, Version};
use crate::config::InvalidConfig;
use crate::netns::NetnsError;
use crate::panic::Panicked;
use crate::plan::PlanError;
use crate::request::RequestError;
use crate::runtime::StepError;
use crate::runtime::exec::PluginError;
use crate::source::SourceError;
use crate::transaction::{CleanupFailure, Failure, RolledBack, StoreError, UndoError};

/// Why an operation failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is a defect of this program.
    #[error(transparent)]
    Panicked(#[from] Panicked),
    /// The call cannot be understood.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The configuration cannot be used.
    #[error(transparent)]
    Config(#[from] InvalidConfig),
    /// A requested network cannot be found or used.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// What is asked for cannot be.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The state directory cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The primary network did not become ready.
    #[error("the readiness file {} was not there after {:.0} s", file.display(), waited.as_secs_f64())]
    NotReadyYet {
        /// The file.
        file: PathBuf,
        /// How long it was waited for.
        waited: Duration,
    },
    /// A plugin's executable is missing. Nothing has run.
    #[error("{label}: {source}")]
    Plugin {
        /// Which attachment.
        label: String,
        /// What is missing.
        source: PluginError,
    },
    /// A plugin's executable is Braid.
    #[error("{label}: plugin {plugin_type:?} is braid itself ({}); a delegate must be another plugin", path.display())]
    OwnExecutable {
        /// Which attachment.
        label: String,
        /// The type.
        plugin_type: String,
        /// The executable.
        path: PathBuf,
    },
    /// The container's network namespace cannot be used.
    #[error("CNI_NETNS: {0}")]
    Namespace(NetnsError),
    /// The path cannot be a container's namespace.
    #[error("CNI_NETNS: {path:?} {why}")]
    Unfit {
        /// The path, shortened.
        path: String,
        /// Why not.
        why: &'static str,
    },
    /// The container already has an interface with a name that the plan gives to an attachment.
    #[error(
        "{label}: the container has an interface of that name already; a selection with an \"interface\" gives it another"
    )]
    InterfaceExists {
        /// Which attachment.
        label: String,
    },
    /// ADD for an attachment that exists.
    #[error("container {container_id:?} is attached on {ifname:?} already (network {network:?}); call DEL first")]
    AlreadyAttached {
        /// The container.
        container_id: String,
        /// The interface.
        ifname: String,
        /// The network it is attached to.
        network: String,
    },
    /// An earlier, unfinished ADD could not be undone, so the new ADD was not begun.
    #[error("an earlier, unfinished ADD of this container cannot be undone")]
    Unfinished(Vec<CleanupFailure>),
    /// ADD failed and was rolled back.
    #[error(transparent)]
    RolledBack(Box<RolledBack>),
    /// DEL could not undo everything.
    #[error("{} could not be undone and will be tried again on the next DEL", count(.0.len()))]
    Incomplete(Vec<CleanupFailure>),
    /// DEL had no journal, and plugins failed when the attachments were deleted by the configuration.
    #[error("there is no journal of this attachment, and deleting it by the configuration failed")]
    BestEffort(Vec<(String, StepError)>),
    /// Plugins failed when the attachments that Multus had made were undone.
    #[error("this container was attached by multus, and undoing that failed; it will be tried again on the next DEL")]
    Takeover(Vec<(String, StepError)>),
    /// What Multus left cannot be read or removed.
    #[error("what multus left of this container cannot be used: {}: {source}", path.display())]
    MultusState {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The journal cannot be used, so what it recorded is not known.
    #[error("the journal of this attachment cannot be used ({reason}); it is now {}, and what it records has to be cleaned up by hand", set_aside.display())]
    Corrupt {
        /// What is wrong with it.
        reason: String,
        /// Where it is now.
        set_aside: PathBuf,
        /// The failures of DEL by the configuration.
        failures: Vec<(String, StepError)>,
    },
    /// CHECK for an interface that is not attached.
    #[error("container {container_id:?} has no attachment on {ifname:?} in {}", state_dir.display())]
    NotAttached {
        /// The container.
        container_id: String,
        /// The interface.
        ifname: String,
        /// Where it was looked for.
        state_dir: PathBuf,
    },
    /// CHECK found something.
    #[error("{}", findings_text(.0))]
    Check(Vec<Finding>),
    /// The operation does not exist in the configuration's version.
    #[error("{verb} does not exist in CNI {version}")]
    NoSuchVerb {
        /// The operation.
        verb: Verb,
        /// The version.
        version: Version,
    },
    /// Braid could not serve an ADD.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    NotReady(Vec<NotReady>),
    /// GC could not clean up everything.
    #[error("{} could not be cleaned up", count(.0.len()))]
    Gc(Vec<CniError>),
    /// The answer could not be written.
    #[error("standard output cannot be written: {0}")]
    Answer(io::Error),
}

/// Something that CHECK found.
#[derive(Debug, thiserror::Error)]
#[error("{label}: {what}")]
pub struct Finding {
    /// Of which attachment.
    pub label: String,
    /// What.
    pub what: What,
}

/// What CHECK found.
#[derive(Debug, thiserror::Error)]
pub enum What {
    /// Something in the namespace has changed since ADD.
    #[error("{0}")]
    Changed(String),
    /// A plugin says so.
    #[error(transparent)]
    Plugin(#[from] StepError),
}

/// Why an ADD could not be served.
#[derive(Debug, thiserror::Error)]
pub enum NotReady {
    /// A plugin says so.
    #[error("network {network:?}: {source}")]
    Plugin {
        /// Which network.
        network: String,
        /// What it says.
        source: StepError,
    },
    /// Something else is missing.
    #[error("{0}")]
    Missing(String),
}

fn count(number: usize) -> String {
    if number == 1 { "one step".into() } else { format!("{number} steps") }
}

fn findings_text(findings: &[Finding]) -> String {
    findings.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

impl From<RolledBack> for Error {
    fn from(error: RolledBack) -> Self {
        Self::RolledBack(Box::new(error))
    }
}

impl Error {
    /// The CNI error for the runtime, for this operation.
    pub fn answer(&self, verb: Option<Verb>) -> CniError {
        let mut error = CniError::from(self);
        if verb == Some(Verb::Del) {
            error.msg = retryable(&error.msg);
            error.details = retryable(&error.details);
        }
        error
    }
}

/// Phrases for which containerd treats a failed DEL as a success, and their replacements. The second phrase counts there only for a
/// container without a namespace.
const SUCCESS_PHRASES: [(&str, &str); 2] =
    [("not found", "missing"), ("no such file or directory", "no such file or folder")];

/// Replaces these phrases in an error of DEL. Otherwise containerd would forget what is still to be undone.
fn retryable(text: &str) -> String {
    let lower = text.to_ascii_lowercase();
    let mut retryable = String::with_capacity(text.len());
    let mut at = 0;
    // A single pass over the text, because a plugin may repeat the phrase any number of times.
    while let Some((found, (phrase, plain))) = next_of(&SUCCESS_PHRASES, &lower[at..]) {
        retryable.push_str(&text[at..at + found]);
        retryable.push_str(plain);
        at += found + phrase.len();
    }
    retryable + &text[at..]
}

/// The position of the first of these phrases in a text, and which one it is.
fn next_of<'a>(phrases: &[(&'a str, &'a str)], text: &str) -> Option<(usize, (&'a str, &'a str))> {
    let begins = |at: usize| phrases.iter().find(|(phrase, _)| text.as_bytes()[at..].starts_with(phrase.as_bytes()));
    let candidates = text.bytes().enumerate().filter(|(_, byte)| *byte == b'n');
    candidates.map(|(at, _)| at).find_map(|at| begins(at).map(|phrase| (at, *phrase)))
}

impl From<&Error> for CniError {
    /// The CNI error of each way to fail.
    fn from(error: &Error) -> Self {
        Self::new(code_of(error), error.to_string()).with_details(details_of(error))
    }
}

fn details_of(error: &Error) -> String {
    match error {
        Error::RolledBack(rolled_back) => details_of_rolled_back(rolled_back),
        Error::Incomplete(failures) | Error::Unfinished(failures) => join(String::new(), failures),
        Error::BestEffort(failures) | Error::Takeover(failures) | Error::Corrupt { failures, .. } => {
            lines(failures.iter().map(|(label, error)| format!("{label}: {}", in_full(error))))
        }
        Error::Gc(failures) => lines(failures.iter().map(ToString::to_string)),
        // The message contains the messages of plugins. The code is the finding's own if there is only one.
        Error::Check(findings) => lines(findings.iter().filter_map(|finding| match &finding.what {
            What::Plugin(StepError { source: PluginError::Reported(own), plugin_type, .. }) => {
                let said = match (own.details.as_str(), findings.len()) {
                    ("", 1) => return None,
                    ("", _) => format!("code {}", own.code),
                    (details, 1) => details.to_owned(),
                    (details, _) => format!("{details} (code {})", own.code),
                };
                Some(format!("{}: plugin {plugin_type:?}: {said}", finding.label))
            }
            What::Plugin(_) | What::Changed(_) => None,
        })),
        _ => String::new(),
    }
}

/// The details of the plugins' errors, and what could not be undone.
pub(super) fn details_of_rolled_back(rolled_back: &RolledBack) -> String {
    let plugin = match &rolled_back.cause {
        Failure::Attach { source, .. } => CniError::from(&source.source).details,
        Failure::Routes { source, .. } => sources(source),
        Failure::Bandwidth { source, .. } => sources(source),
        _ => String::new(),
    };
    join(plugin, &rolled_back.cleanup)
}

/// The messages of an error's sources, such as the kernel's.
fn sources(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// `first`, and what could not be undone.
pub(super) fn join(first: String, failures: &[CleanupFailure]) -> String {
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

/// A plugin's failure with the details and the code that the plugin gave.
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

/// The code of a failed operation that was rolled back.
pub(super) fn code_of_failure(failure: &Failure) -> u32 {
    match failure {
        Failure::Attach { source, .. } => CniError::from(&source.source).code,
        Failure::Routes { .. } | Failure::Bandwidth { .. } | Failure::Sysctl { .. } => code::NAMESPACE,
        Failure::Status(error) => error.code,
        Failure::DeviceInfo { .. } | Failure::Journal { .. } | Failure::Answer(_) => code::IO,
        Failure::Update(error) => CniError::from(error).code,
        Failure::Result(_) => code::DECODE,
        Failure::Panicked(_) => code::PANICKED,
    }
}

fn code_of(error: &Error) -> u32 {
    match error {
        Error::Panicked(error) => CniError::from(error).code,
        Error::Request(error) => CniError::from(error).code,
        Error::Config(error) => match error {
            InvalidConfig::Cni(error) | InvalidConfig::Delegate { source: error, .. } => CniError::from(error).code,
            InvalidConfig::Key(_) => code::INVALID_CONFIG,
            InvalidConfig::PrevResult(_) => code::DECODE,
        },
        Error::Source(error) => CniError::from(error).code,
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
        Error::RolledBack(rolled_back) => code_of_failure(&rolled_back.cause),
        Error::NotAttached { .. } => code::UNKNOWN_CONTAINER,
        Error::Check(findings) => match findings.as_slice() {
            [one] => match &one.what {
                What::Plugin(error) => CniError::from(&error.source).code,
                What::Changed(_) => code::CHECK_FAILED,
            },
            _ => code::CHECK_FAILED,
        },
        Error::NoSuchVerb { .. } => code::INCOMPATIBLE_VERSION,
        Error::NotReady(missing) => {
            let limited = missing.iter().any(|one| match one {
                NotReady::Plugin { source, .. } => CniError::from(&source.source).code == code::LIMITED,
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

pub(super) fn store_code(error: &StoreError) -> u32 {
    match error {
        StoreError::Io { .. } => code::IO,
        StoreError::NotADirectory { .. } => code::CLEANUP_INCOMPLETE,
        StoreError::Busy { .. } => code::TRY_AGAIN,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netns::{NetlinkError, NetnsError};

    #[test]
    fn what_containerd_takes_for_a_success_is_replaced() {
        assert_eq!(retryable("Not Found: ü not found"), "missing: ü missing");
        assert_eq!(retryable("open x: no such file or directory"), "open x: no such file or folder");
        assert_eq!(retryable("nnot foundnot fount"), "nmissingnot fount");
    }

    #[test]
    fn what_the_kernel_said_is_in_the_details() {
        let refused = NetlinkError::Refused { errno: nix::errno::Errno::EINVAL, explanation: None };
        let source = NetnsError::Netlink { netns: "the host".into(), action: "add a route".into(), source: refused };
        let cause = Failure::Routes { label: "net1".into(), source };
        let details = details_of_rolled_back(&RolledBack { cause, cleanup: Vec::new() });
        assert!(details.starts_with("the kernel refused: EINVAL"), "{details}");
    }

    /// The time once grew with the square of the length.
    #[test]
    fn a_long_text_is_gone_through_once() {
        assert_eq!(retryable(&"not found".repeat(400_000)).len(), 7 * 400_000);
    }
}
