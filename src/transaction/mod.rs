//! Attaching as one transaction: all of it, or nothing.
//!
//! [`Transaction::run`] is the one place where a failed ADD is rolled back, and [`undo`] the one way in which anything is
//! undone: by the rollback, by DEL, by GC, and by an ADD that finds what another one left half done.

mod claim;
mod device_info;
mod forward;
pub mod journal;
pub mod multus;
mod routes;
pub mod store;
mod undo;

use std::io;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use serde_json::value::RawValue;

pub use claim::{Claim, Seen};
pub use device_info::read_device_info;
pub use forward::attach;
pub use journal::{Event, Journal, Opened, Step};
pub use routes::set_default_routes;
pub use store::{Container, Sharing, Store, StoreError};
pub use undo::{CleanupFailure, UndoError, undo};

use crate::cni::CniError;
use crate::netns::{self, NetnsError};
use crate::plan::{Attachment, Plan};
use crate::runtime::chain::Limits;
use crate::runtime::{Chain, Exec, Finder, StepError};

/// What runs a plan's plugins.
#[derive(Clone, Copy)]
pub struct Tools<'a> {
    /// Where plugins are.
    pub finder: &'a Finder,
    /// What runs them.
    pub exec: &'a dyn Exec,
    /// Their time.
    pub limits: Limits,
    /// How long undoing may take once an ADD has failed.
    pub rollback: Duration,
}

impl std::fmt::Debug for Tools<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tools").field("limits", &self.limits).finish_non_exhaustive()
    }
}

impl<'a> Tools<'a> {
    /// The same with the time for undoing an ADD that has failed: its own may be used up.
    pub(super) fn for_rollback(self) -> Self {
        let limits = Limits {
            deadline: Instant::now().checked_add(self.rollback),
            plugin: Some(self.limits.plugin.map_or(self.rollback, |plugin| plugin.min(self.rollback))),
        };
        Self { limits, ..self }
    }

    /// The plugins of an attachment, ready to run.
    pub fn chain<'b>(&self, attachment: &'b Attachment) -> Chain<'b>
    where
        'a: 'b,
    {
        Chain { network: &attachment.network, finder: self.finder, exec: self.exec, limits: self.limits }
    }
}

/// Why an ADD failed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// A plugin did.
    #[error("{label}: {source}")]
    Attach {
        /// Which attachment.
        label: String,
        /// The plugin and why.
        source: StepError,
    },
    /// The default routes could not be set.
    #[error("{label}: cannot set the default route: {source}")]
    Routes {
        /// Which attachment asked for them.
        label: String,
        /// Why.
        source: NetnsError,
    },
    /// The description of an attachment's device could not be put where its plugins look for it.
    #[error("{label}: cannot write {}: {source}", path.display())]
    DeviceInfo {
        /// Which attachment.
        label: String,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The status of the pod's networks could not be written.
    #[error("{}", .0.msg)]
    Status(CniError),
    /// The journal could not be written.
    #[error("cannot write the journal {}: {source}", path.display())]
    Journal {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The answer could not be written.
    #[error("cannot write the answer to standard output: {0}")]
    Answer(#[source] io::Error),
}

/// An ADD that failed and was rolled back.
#[derive(Debug, thiserror::Error)]
#[error("{cause}")]
pub struct RolledBack {
    /// Why it failed.
    pub cause: Failure,
    /// What could not be undone. It stays in the journal.
    pub cleanup: Vec<CleanupFailure>,
}

/// An ADD under way. Its plan is written, and is durable before any plugin gets its input.
#[derive(Debug)]
pub struct Transaction<'a> {
    /// The plan.
    pub plan: &'a Plan,
    tools: Tools<'a>,
    container: &'a Container,
    journal: Mutex<Journal>,
}

impl<'a> Transaction<'a> {
    /// Writes the plan to a new journal, with the identity of the container's namespace.
    ///
    /// # Errors
    /// When that fails; nothing has then been done.
    pub fn begin(
        store: &Store,
        container: &'a Container,
        plan: &'a Plan,
        netns: Option<netns::Identity>,
        tools: Tools<'a>,
    ) -> Result<Self, StoreError> {
        let journal = Journal::begin(container, plan, netns)?;
        let sync = |files| {
            let path = container.journal_path(&plan.ifname);
            tools.exec.sync_first(files).map_err(|source| StoreError::Io { action: "sync", path, source })
        };
        if let Err(error) = sync(journal.to_sync(store, container)) {
            journal.unmake(container);
            return Err(error);
        }
        Ok(Self { plan, tools, container, journal: Mutex::new(journal) })
    }

    /// Ends it before anything was done.
    ///
    /// # Panics
    /// If another thread has panicked while it wrote to the journal.
    pub fn abandon(self) {
        self.journal.into_inner().expect("no holder panics").unmake(self.container);
    }

    /// Runs `work`. If it fails, every step that was attempted is undone, in reverse, however many of them fail to be.
    ///
    /// # Errors
    /// The failure, and what could not be undone.
    ///
    /// # Panics
    /// If `work` panicked while it wrote to the journal.
    pub fn run<T>(self, work: impl FnOnce(&Self) -> Result<T, Failure>) -> Result<T, RolledBack> {
        let cause = match work(&self) {
            Ok(done) => return Ok(done),
            Err(cause) => cause,
        };
        let tools = self.tools.for_rollback();
        let mut journal = self.journal.into_inner().expect("no holder panics");
        let mut cleanup = undo(&mut journal, tools, &self.plan.netns);
        if cleanup.is_empty()
            && let Err(source) = Journal::remove(self.container, &self.plan.ifname)
        {
            cleanup.push(CleanupFailure::journal(source));
        }
        Err(RolledBack { cause, cleanup })
    }

    /// Writes an event to the journal.
    fn record(&self, event: Event) -> Result<(), Failure> {
        let mut journal = self.journal.lock().expect("no holder panics");
        journal.append(event).map_err(|source| self.journal_failure(source))
    }

    /// Writes an event to the journal together with the next, which is about to come: one write is cheaper than two.
    fn record_with_next(&self, event: Event) -> Result<(), Failure> {
        let mut journal = self.journal.lock().expect("no holder panics");
        journal.queue(event).map_err(|source| self.journal_failure(source))
    }

    /// Writes to the journal what waits for a next event, before something that takes its time.
    ///
    /// # Errors
    /// When the journal cannot be written.
    ///
    /// # Panics
    /// If another thread has panicked while it wrote to the journal.
    pub fn write_queued(&self) -> Result<(), Failure> {
        let mut journal = self.journal.lock().expect("no holder panics");
        journal.write_queued().map_err(|source| self.journal_failure(source))
    }

    fn journal_failure(&self, source: io::Error) -> Failure {
        Failure::Journal { path: self.container.journal_path(&self.plan.ifname), source }
    }

    /// Closes the journal: the attachments are made, and `answer` is what the runtime gets. `absent` is what their results
    /// say and the namespace does not have, if that is known.
    ///
    /// # Errors
    /// When the journal cannot be written.
    pub fn complete(&self, answer: &RawValue, absent: Option<Vec<Claim>>, took: Duration) -> Result<(), Failure> {
        self.tools.exec.rest();
        self.record(Event::Complete { micros: micros(took), result: answer.to_owned(), absent })
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
