//! Everything that can keep an operation from being carried out.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::cni::{CniError, Version};
use crate::config::InvalidConfig;
use crate::netns::NetnsError;
use crate::plan::PlanError;
use crate::request::RequestError;
use crate::runtime::exec::PluginError;
use crate::runtime::{StepError, Verb};
use crate::source::SourceError;
use crate::transaction::{CleanupFailure, RolledBack, StoreError};

/// Why an operation failed. `answer` gives each its CNI error code.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The call cannot be understood.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The configuration cannot be used.
    #[error(transparent)]
    Config(#[from] InvalidConfig),
    /// A network that is asked for is not to be had.
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
    /// A plugin's executable is missing, before anything ran.
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
    /// The container's network namespace is not to be had.
    #[error("CNI_NETNS: {0}")]
    Namespace(NetnsError),
    /// The path is none that can be the container's.
    #[error("CNI_NETNS: {path:?} {why}")]
    Unfit {
        /// The path, shortened.
        path: String,
        /// Why not.
        why: &'static str,
    },
    /// The container has an interface of a name that an attachment is to get.
    #[error(
        "{label}: the container has an interface of that name already; a selection with an \"interface\" gives it another"
    )]
    InterfaceExists {
        /// Which attachment.
        label: String,
    },
    /// ADD for an attachment that exists.
    #[error(
        "container {container_id:?} is attached on {ifname:?} already (network {network:?}); DEL has to come first"
    )]
    AlreadyAttached {
        /// The container.
        container_id: String,
        /// The interface.
        ifname: String,
        /// The network it is attached to.
        network: String,
    },
    /// An earlier, unfinished ADD could not be undone, so the new one was not begun.
    #[error("an earlier ADD of this container that did not end cannot be undone")]
    Unfinished(Vec<CleanupFailure>),
    /// ADD failed and was rolled back.
    #[error(transparent)]
    RolledBack(Box<RolledBack>),
    /// DEL could not undo everything.
    #[error("{} could not be undone and will be tried again on the next DEL", count(.0.len()))]
    Incomplete(Vec<CleanupFailure>),
    /// DEL had no journal, and plugins failed when their networks were deleted by the configuration alone.
    #[error("there is no journal of this attachment, and deleting it by the configuration failed")]
    BestEffort(Vec<(String, StepError)>),
    /// Plugins failed when what Multus had attached was undone.
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
    /// The journal cannot be used, so that what it told is not known.
    #[error("the journal of this attachment cannot be used ({reason}); it is now {}, and what it tells of is to be cleaned up by hand", set_aside.display())]
    Corrupt {
        /// What is wrong with it.
        reason: String,
        /// Where it is now.
        set_aside: PathBuf,
        /// What failed when the configuration was used in its place.
        failures: Vec<(String, StepError)>,
    },
    /// CHECK for something that is not attached.
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
    #[error("{}", findings_line(.0))]
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
    /// Something in the namespace is not as it was left.
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

fn findings_line(findings: &[Finding]) -> String {
    findings.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

impl From<RolledBack> for Error {
    fn from(error: RolledBack) -> Self {
        Self::RolledBack(Box::new(error))
    }
}
