//! One ADD under way, and its rollback.

use std::borrow::Borrow;
use std::io;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::value::RawValue;

use super::bandwidth::BandwidthError;
use super::claim::Claim;
use super::journal::{Event, Journal, State, now_millis};
use super::revert::revert;
use super::store::{Container, Store, StoreError};
use super::undo::{CleanupFailure, undo};
use crate::cni::{CniError, Verb};
use crate::config::Concurrency;
use crate::netns::{self, NetnsError};
use crate::panic::{Panicked, caught};
use crate::plan::concurrency::{Needs, Part, parts, schedule, schedule_parts, whole_parts};
use crate::plan::update::UpdateError;
use crate::plan::{Attachment, Plan};
use crate::runtime::chain::Limits;
use crate::runtime::{Ahead, Chain, DiskWork, Durable, Exec, Finder, LookAhead, Schedule, StepError};

/// What runs a plan's plugins.
#[derive(Clone, Copy)]
pub struct Tools<'a> {
    /// Where plugins are.
    pub finder: &'a Finder,
    /// What runs them.
    pub exec: &'a dyn Exec,
    /// Their time.
    pub limits: Limits,
    /// The time for undoing, after an ADD has failed.
    pub rollback: Duration,
    /// How many plugins are started ahead of their turns.
    pub look_ahead: LookAhead<'a>,
    /// Which attachments they may work on at once. The primary interface is made first, and removed last.
    pub concurrency: Concurrency,
    /// The files that must be on disk before a plugin gets its input.
    pub after: Option<&'a Durable>,
}

impl std::fmt::Debug for Tools<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tools").field("limits", &self.limits).finish_non_exhaustive()
    }
}

impl<'a> Tools<'a> {
    /// The same tools with the time for a rollback, because the time of the call may be used up.
    pub(super) fn for_rollback(self) -> Self {
        let limits = Limits {
            deadline: Instant::now().checked_add(self.rollback),
            plugin: Some(self.limits.plugin.map_or(self.rollback, |plugin| plugin.min(self.rollback))),
        };
        Self { limits, ..self }
    }

    /// Starts plugins ahead of their turns, for up to `at_once` attachments at the same time.
    pub fn ahead(&self, at_once: usize) -> Ahead<'a> {
        Ahead::new(self.exec, self.look_ahead, at_once)
    }

    /// The parts of some attachments of a plan, which are given by their indexes. Each part is worked on in one go.
    pub fn parts(&self, plan: &Plan, attachments: &[usize]) -> Vec<Part> {
        parts(self.concurrency, plan, attachments)
    }

    /// The same, with each attachment as one part.
    pub fn whole_parts(&self, plan: &Plan, attachments: &[usize]) -> Vec<Part> {
        whole_parts(self.concurrency, plan, attachments)
    }

    /// Which of these parts, in this order, may be worked on at once by plugins that are called with `verb`.
    pub fn schedule_parts<P: Borrow<Part>>(&self, verb: Verb, parts: &[P]) -> Schedule {
        schedule_parts(self.concurrency, verb, parts)
    }

    /// Which of several that have these needs may be worked on at once by plugins that are called with `verb`.
    pub fn schedule(&self, verb: Verb, needs: impl ExactSizeIterator<Item = Needs>) -> Schedule {
        schedule(self.concurrency, verb, needs)
    }

    /// The plugins of an attachment, ready to run.
    pub fn chain<'b>(&self, attachment: &'b Attachment) -> Chain<'b>
    where
        'a: 'b,
    {
        Chain {
            network: &attachment.network,
            finder: self.finder,
            exec: self.exec,
            limits: self.limits,
            after: self.after,
        }
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
    /// The description of an attachment's device could not be written where its plugins look for it.
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
    /// A defect of Braid's own.
    #[error(transparent)]
    Panicked(#[from] Panicked),
    /// The limits of a `bandwidth` step could not be changed.
    #[error("{label}: {source}")]
    Bandwidth {
        /// Which attachment.
        label: String,
        /// The step's place in its chain.
        step: usize,
        /// How long it was tried.
        took: Duration,
        /// Why.
        source: BandwidthError,
    },
    /// Kernel parameters of a `tuning` step could not be read or written.
    #[error("{label}: cannot {source}")]
    Sysctl {
        /// Which attachment.
        label: String,
        /// Why.
        source: NetnsError,
    },
    /// A step's new result changes the input of a later step that cannot be redone.
    #[error(transparent)]
    Update(UpdateError),
    /// A result cannot be read.
    #[error("the results of the attachments cannot be read: {0}")]
    Result(String),
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

/// An ADD or a change that is under way. Its plan is written, and is synced before any plugin gets its input.
#[derive(Debug)]
pub struct Transaction<'a> {
    /// The plan.
    pub plan: &'a Plan,
    pub(super) tools: Tools<'a>,
    container: &'a Container,
    /// The journal's first line on disk.
    pub(super) durable: Durable,
    pub(super) journal: Mutex<Journal>,
    scope: Scope,
}

/// What a transaction makes, which is what a failure undoes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scope {
    /// Everything that the journal records.
    Whole,
    /// A change of what is there.
    Change,
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
        let sync = |work: &[DiskWork]| {
            let path = container.journal_path(&plan.ifname);
            tools.exec.sync(Verb::Add, work).map_err(|source| StoreError::Io { action: "sync", path, source })
        };
        let durable = match sync(&journal.to_sync(store, container)) {
            Ok(durable) => durable,
            Err(error) => {
                drop(container.remove_journal(&plan.ifname));
                return Err(error);
            }
        };
        Ok(Self { plan, tools, container, durable, journal: Mutex::new(journal), scope: Scope::Whole })
    }

    /// Begins a change of a running container: writes to its journal what is to be done. `plan` is the journal's plan including the
    /// change.
    ///
    /// # Errors
    /// When that fails; nothing has then been done.
    pub fn begin_change(
        container: &'a Container,
        mut journal: Journal,
        plan: &'a Plan,
        tools: Tools<'a>,
        beginning: Beginning,
    ) -> Result<Self, StoreError> {
        let durable = begin_change(container, &mut journal, tools, beginning)?;
        Ok(Self { plan, tools, container, durable, journal: Mutex::new(journal), scope: Scope::Change })
    }

    fn lock(&self) -> MutexGuard<'_, Journal> {
        self.journal.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the journal is on disk, for at most the time of a plugin. This is needed before Braid itself changes something.
    pub(super) fn wait_until_durable(&self) -> Result<(), Failure> {
        self.durable.wait(self.tools.limits.deadline()).map_err(|source| self.journal_failure(source))
    }

    /// Reads what the journal says now.
    pub(super) fn with_state<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.lock().state)
    }

    /// Locks the journal and works on it.
    pub(super) fn with_journal<T>(&self, work: impl FnOnce(&mut Journal) -> T) -> T {
        work(&mut self.lock())
    }

    /// Ends it before anything was done.
    pub fn abandon(self) {
        drop(self.container.remove_journal(&self.plan.ifname));
    }

    /// Runs `work`. If it fails or panics, every step that was attempted is undone, in reverse, even if some of them cannot be
    /// undone.
    ///
    /// # Errors
    /// The failure, and what could not be undone.
    pub fn run<T>(self, work: impl FnOnce(&Self) -> Result<T, Failure>) -> Result<T, RolledBack> {
        let cause = match caught(|| work(&self)) {
            Ok(Ok(done)) => return Ok(done),
            Ok(Err(cause)) => cause,
            Err(panicked) => panicked.into(),
        };
        let tools = self.tools.for_rollback();
        let mut journal = self.journal.into_inner().unwrap_or_else(PoisonError::into_inner);
        if self.scope == Scope::Change {
            let cleanup = revert(&mut journal, tools);
            return Err(RolledBack { cause, cleanup });
        }
        journal.note(Event::Rollback);
        let mut cleanup = undo(&mut journal, tools, &self.plan.netns);
        if cleanup.is_empty()
            && let Err(source) = self.container.remove_journal(&self.plan.ifname)
        {
            cleanup.push(CleanupFailure::of_journal(source.into()));
        }
        Err(RolledBack { cause, cleanup })
    }

    /// Writes an event to the journal.
    pub(super) fn record(&self, event: Event) -> Result<(), Failure> {
        let mut journal = self.journal.lock().expect("no holder panics");
        journal.append(event).map_err(|source| self.journal_failure(source))
    }

    /// Writes an event to the journal. A failure is ignored, because the event has happened.
    pub(super) fn note(&self, event: Event) {
        self.lock().note(event);
    }

    /// Queues an event, to be written together with the next one, which follows soon: one write is cheaper than two.
    pub(super) fn record_with_next(&self, event: Event) -> Result<(), Failure> {
        let mut journal = self.journal.lock().expect("no holder panics");
        journal.queue(event).map_err(|source| self.journal_failure(source))
    }

    /// Writes queued events to the journal, before something that takes time.
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

    pub(super) fn journal_failure(&self, source: io::Error) -> Failure {
        Failure::Journal { path: self.container.journal_path(&self.plan.ifname), source }
    }

    /// Closes the journal after the attachments are made. `answer` is what the runtime gets. `absent` is what the results list and
    /// the namespace does not have, if that is known.
    ///
    /// # Errors
    /// When the journal cannot be written.
    pub fn complete(&self, answer: &RawValue, absent: Option<Vec<Claim>>, took: Duration) -> Result<(), Failure> {
        self.record(Event::Complete { micros: micros(took), result: answer.to_owned(), absent })
    }
}

/// What a change begins with.
#[derive(Debug)]
pub struct Beginning {
    /// What is to be done.
    pub events: Vec<Event>,
    /// What its first plugin does.
    pub verb: Verb,
}

/// Writes to a journal what a change will do, and starts to sync it.
pub(super) fn begin_change(
    container: &Container,
    journal: &mut Journal,
    tools: Tools<'_>,
    beginning: Beginning,
) -> Result<Durable, StoreError> {
    let work = journal.begin_change(container, beginning.events)?;
    tools.exec.sync(beginning.verb, &work).map_err(|source| {
        let ifname = journal.state.header.plan.ifname.clone();
        journal.note(Event::Reverted { time: now_millis(), owing: Vec::new() });
        Journal::remove_beside(container, &ifname);
        StoreError::Io { action: "sync", path: container.journal_path(&ifname), source }
    })
}

pub(super) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::{Opened, Sharing, attach};
    use super::*;
    use crate::cni::Verb;
    use crate::runtime::exec::Stdout;
    use crate::runtime::{Call, PluginError};

    /// Plugins that do nothing, and record their calls.
    #[derive(Default)]
    struct Calls(Mutex<Vec<Verb>>);

    impl Exec for Calls {
        fn run(&self, call: &Call<'_>) -> Result<Stdout, PluginError> {
            self.0.lock().unwrap().push(call.verb);
            Ok(br#"{"cniVersion":"1.0.0"}"#.to_vec())
        }
    }

    #[test]
    fn a_panic_is_rolled_back() {
        let dir = tempfile::tempdir().unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        let store = Store::open(dir.path(), Sharing::Shared, deadline).unwrap();
        let container = store.container("c1", deadline).unwrap();
        let plan: Plan = serde_json::from_value(serde_json::json!({
            "network": "outer", "cniVersion": "1.0.0", "containerID": "c1", "netns": "", "ifname": "eth0", "path": "/bin",
            "position": "primary",
            "attachments": [{"ifname": "eth0", "reference": "n", "origin": "delegates[0]", "reason": "always", "args": "",
                "network": {"cniVersion": "1.0.0", "name": "n", "plugins": [{"type": "true"}]}}],
        }))
        .unwrap();
        let (calls, finder) = (Calls::default(), Finder::new("/bin"));
        let tools = Tools {
            finder: &finder,
            exec: &calls,
            limits: Limits::default(),
            rollback: Duration::from_secs(60),
            look_ahead: LookAhead::default(),
            concurrency: Concurrency::AtMost(1),
            after: None,
        };
        let transaction = Transaction::begin(&store, &container, &plan, None, tools).unwrap();
        let outcome = transaction.run(|tx| -> Result<(), Failure> {
            attach(tx)?;
            let _journal = tx.journal.lock();
            panic!("a defect");
        });
        let rolled_back = outcome.unwrap_err();
        assert!(matches!(rolled_back.cause, Failure::Panicked(_)), "{rolled_back}");
        assert!(rolled_back.cleanup.is_empty());
        assert_eq!(*calls.0.lock().unwrap(), [Verb::Add, Verb::Del]);
        assert!(matches!(Journal::open(&container, "eth0").unwrap(), Opened::None));
    }
}
