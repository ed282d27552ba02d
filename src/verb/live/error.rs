//! Why a container was not changed.

use std::path::PathBuf;

use super::super::error::{Error, code_of_failure, details_of_rolled_back, join, store_code};
use crate::cni::error::code;
use crate::cni::{AddResult, CniError, Version};
use crate::netns::NetnsError;
use crate::plan::update::UpdateError;
use crate::transaction::{ChangeError, StepReport, StoreError};

/// Why a container was not changed. For all errors but the last, nothing was done.
#[derive(Debug, thiserror::Error)]
pub enum LiveError {
    /// No container has such an ID.
    #[error("no container whose ID begins with {prefix:?} is attached according to {}", state_dir.display())]
    NoContainer {
        /// What was given.
        prefix: String,
        /// Where it was looked for.
        state_dir: PathBuf,
    },
    /// Several have.
    #[error("the IDs of {} containers begin with {prefix:?}: {}", ids.len(), ids.join(", "))]
    SeveralContainers {
        /// What was given.
        prefix: String,
        /// The IDs.
        ids: Vec<String>,
    },
    /// The container was attached several times, and the caller did not say which attachment is meant.
    #[error("container {container_id:?} was attached on {}; say which with --of", ifnames.join(" and "))]
    SeveralJournals {
        /// The container.
        container_id: String,
        /// The interfaces that the runtime asked for.
        ifnames: Vec<String>,
    },
    /// The container was not attached on that interface.
    #[error("container {container_id:?} was not attached on {ifname:?}, only on {}", if ifnames.is_empty() { "nothing".into() } else { ifnames.join(", ") })]
    NoJournal {
        /// The container.
        container_id: String,
        /// The interface that was given.
        ifname: String,
        /// The interfaces that the runtime asked for.
        ifnames: Vec<String>,
    },
    /// The journal cannot be used.
    #[error("the journal {} cannot be used ({reason})", path.display())]
    Corrupt {
        /// Which.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// ADD did not end, or DEL has begun.
    #[error("container {container_id:?} is being attached or detached, or that was interrupted; DEL cleans up")]
    NotWhole {
        /// The container.
        container_id: String,
    },
    /// The namespace is gone.
    #[error("container {container_id:?} is gone: there is no network namespace at {netns} any more")]
    Gone {
        /// The container.
        container_id: String,
        /// The path.
        netns: String,
    },
    /// The path leads to another namespace.
    #[error("container {container_id:?} is gone: {netns} leads to another network namespace than it was attached in")]
    AnotherNamespace {
        /// The container.
        container_id: String,
        /// The path.
        netns: String,
    },
    /// It is not certain that the path leads to the same namespace.
    #[error(
        "it is not known whether {netns} is still the network namespace of container {container_id:?}: the journal \
         does not record its cookie (Linux 5.14), and its interfaces are not those in the journal"
    )]
    UnprovenNamespace {
        /// The container.
        container_id: String,
        /// The path.
        netns: String,
    },
    /// The namespace cannot be looked into.
    #[error(transparent)]
    Namespace(NetnsError),
    /// Something is still to be undone.
    #[error("container {container_id:?} still has to be cleaned up on {ifname:?}; braid detach and DEL try it again")]
    Owed {
        /// The container.
        container_id: String,
        /// The interface.
        ifname: String,
    },
    /// No attachment is on that interface.
    #[error("container {container_id:?} has no attachment on {ifname:?}, only on {}", present.join(", "))]
    NoInterface {
        /// The container.
        container_id: String,
        /// The interface that was given.
        ifname: String,
        /// Those that there are.
        present: Vec<String>,
    },
    /// The primary attachment cannot be detached.
    #[error("{ifname:?} is the primary attachment of container {container_id:?}: only DEL detaches it")]
    Primary {
        /// The container.
        container_id: String,
        /// The interface.
        ifname: String,
    },
    /// The attachment was not made.
    #[error("the attachment on {ifname:?} is optional and failed, so there is nothing to update")]
    NotMade {
        /// The interface.
        ifname: String,
    },
    /// An attachment already has that interface.
    #[error(
        "container {container_id:?} has an attachment on {ifname:?} already; a selection with an \"interface\" gives it another"
    )]
    Taken {
        /// The container.
        container_id: String,
        /// The interface.
        ifname: String,
    },
    /// Another container has the host port.
    #[error("host port {port} is taken by container {container_id:?} on {ifname:?}")]
    PortTaken {
        /// The port and its protocol.
        port: String,
        /// The container that has it.
        container_id: String,
        /// Its interface.
        ifname: String,
    },
    /// A plugin keeps something that belongs to two attachments at once.
    #[error("{what}, so changing or removing {ifname:?} would take from {other:?} what it needs; {remedy}")]
    Shared {
        /// The interface to be attached, updated or detached.
        ifname: String,
        /// The other one.
        other: String,
        /// What they share.
        what: &'static str,
        /// What helps.
        remedy: &'static str,
    },
    /// There is no way to find out what the container's pod asks for.
    #[error("container {container_id:?} cannot be compared with its pod: {why}")]
    NoPod {
        /// The container.
        container_id: String,
        /// Why not.
        why: &'static str,
    },
    /// Others keep changing the container.
    #[error("container {container_id:?} is changed again and again by others at the same time")]
    KeepsChanging {
        /// The container.
        container_id: String,
    },
    /// The values cannot be given.
    #[error(transparent)]
    Update(#[from] UpdateError),
    /// The requested attachments cannot be planned, by the rules of ADD.
    #[error(transparent)]
    Plan(#[from] Error),
    /// The state directory cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It was tried and failed.
    #[error("{}", .0.error)]
    Change(Box<Tried>),
}

/// A change that was tried and failed.
#[derive(Debug)]
pub struct Tried {
    /// Why.
    pub error: ChangeError,
    /// The container.
    pub container_id: String,
    /// The interface that the runtime asked for.
    pub ifname: String,
    /// The version of its network.
    pub version: Version,
    /// What was run, in order, including the rollback.
    pub steps: Vec<StepReport>,
    /// The merged result of the container's attachments now, if it is known.
    pub result: Option<AddResult>,
}

impl From<ChangeError> for LiveError {
    fn from(error: ChangeError) -> Self {
        Self::Change(Box::new(Tried {
            error,
            container_id: String::new(),
            ifname: String::new(),
            version: Version::LATEST,
            steps: Vec::new(),
            result: None,
        }))
    }
}

impl From<&LiveError> for CniError {
    fn from(error: &LiveError) -> Self {
        let details = match error {
            LiveError::Change(tried) => match &tried.error {
                ChangeError::RolledBack(rolled_back) => details_of_rolled_back(rolled_back),
                ChangeError::Incomplete(failures) | ChangeError::Unsettled(failures) => join(String::new(), failures),
                _ => String::new(),
            },
            LiveError::Plan(error) => Self::from(error).details,
            _ => String::new(),
        };
        Self::new(code_of(error), error.to_string()).with_details(details)
    }
}

fn code_of(error: &LiveError) -> u32 {
    match error {
        LiveError::NoContainer { .. }
        | LiveError::NoJournal { .. }
        | LiveError::Gone { .. }
        | LiveError::AnotherNamespace { .. }
        | LiveError::UnprovenNamespace { .. } => code::UNKNOWN_CONTAINER,
        LiveError::SeveralContainers { .. }
        | LiveError::SeveralJournals { .. }
        | LiveError::NoInterface { .. }
        | LiveError::Primary { .. }
        | LiveError::NotMade { .. }
        | LiveError::Taken { .. }
        | LiveError::PortTaken { .. }
        | LiveError::NoPod { .. }
        | LiveError::Shared { .. } => code::INVALID_CONFIG,
        LiveError::Corrupt { .. } | LiveError::Owed { .. } => code::CLEANUP_INCOMPLETE,
        LiveError::NotWhole { .. } | LiveError::KeepsChanging { .. } => code::TRY_AGAIN,
        LiveError::Namespace(_) => code::NAMESPACE,
        LiveError::Update(error) => CniError::from(error).code,
        LiveError::Plan(error) => CniError::from(error).code,
        LiveError::Store(error) => store_code(error),
        LiveError::Change(tried) => match &tried.error {
            ChangeError::Store(error) => store_code(error),
            ChangeError::Update(error) => CniError::from(error).code,
            ChangeError::RolledBack(rolled_back) => code_of_failure(&rolled_back.cause),
            ChangeError::Incomplete(_) | ChangeError::Unsettled(_) => code::CLEANUP_INCOMPLETE,
            ChangeError::Result(_) => code::DECODE,
        },
    }
}
