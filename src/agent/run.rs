//! The loop of the agent: handles events and starts work.

use std::cell::RefCell;
use std::collections::HashSet;
use std::convert::Infallible;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::io;
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, mpsc};
use tokio::task::{JoinSet, LocalSet};
use tokio::time::{sleep, sleep_until, timeout};

use super::calls;
use super::child::{Children, SyncOutcome};
use super::cleanup::Cleanup;
use super::definitions::{self, Definitions};
use super::devices::Devices;
use super::enter;
use super::error::AgentError;
use super::foreign::Foreign;
use super::index::{DirectoryWatch, Index};
use super::lock::Lock;
use super::queue::{Container, Outcome, Queue, Work};
use super::serve;
use super::settings::{Listen, Settings};
use super::shared::Shared;
use crate::metrics::Calls;
use crate::source::kubernetes::node::{Node, PodEvent};

/// How long to wait, after a change of the journals, for more changes.
const SETTLE: Duration = Duration::from_millis(50);
/// The pause before reading the journals again if they could not be read.
const INDEX_RETRY_PAUSE: Duration = Duration::from_secs(1);
/// How long children may take to exit when the agent exits. Those that take longer are left running.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(20);

/// Runs the agent of a node until it gets a signal.
///
/// # Errors
/// When it cannot start.
pub(crate) fn run(settings: &Settings) -> Result<(), AgentError> {
    let _lock = Lock::take(&settings.state_dir)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(AgentError::Start)?;
    let outcome = LocalSet::new().block_on(&runtime, Agent::run(settings));
    // Does not wait for a host name that is still being looked up.
    runtime.shutdown_background();
    outcome
}

/// The running agent.
struct Agent {
    shared: Rc<Shared>,
    services: JoinSet<Infallible>,
    index: Index,
    foreign: Foreign,
    children: Rc<Children>,
    running: JoinSet<(Work, SyncOutcome)>,
    definitions: Definitions,
    /// Devices that appear, if the kernel says so.
    devices: Option<Devices>,
    /// A request for the versions of definitions.
    requests: JoinSet<Vec<(String, Option<String>)>>,
    cleanup: Cleanup,
    /// Whether all pods of the node have been listed.
    has_list: bool,
    /// When to read the journals next.
    index_due: Option<Instant>,
    /// The pods of the list that is arriving.
    listing: Option<HashSet<String>>,
    random: RandomState,
}

impl Agent {
    async fn run(settings: &Settings) -> Result<(), AgentError> {
        let node = match &settings.node {
            Some(node) => node.clone(),
            None => enter::host_name().map_err(|_| AgentError::NodeName)?,
        };
        let host = enter::process_to_enter(settings.host)?;
        let shared = Rc::new(Shared {
            node: Node::new(settings.kubeconfig.as_deref()),
            queue: RefCell::new(Queue::new(settings.concurrency)),
            braid_problem: RefCell::default(),
            started: Instant::now(),
            longest_wait: settings.timeout.saturating_mul(2),
            calls: Calls::default(),
            attached: Notify::new(),
            state_dir: settings.state_dir.clone(),
            conf_dir: settings.conf_dir.clone(),
        });
        calls::start(settings, &node, &shared)?;
        // These tasks never end.
        let mut services = JoinSet::new();
        if let Listen::At(address) = settings.listen {
            services.spawn_local(serve::serve(serve::listen(address).await?, Rc::clone(&shared)));
        }
        let changes = DirectoryWatch::watch(&settings.state_dir)?;
        let (sender, events) = mpsc::unbounded_channel();
        services.spawn_local({
            let shared = Rc::clone(&shared);
            let node = node.clone();
            async move { shared.node.watch_pods(&node, |event| drop(sender.send(event))).await }
        });
        let agent = Self {
            shared,
            services,
            index: Index::new(&settings.state_dir),
            foreign: Foreign::new(&settings.cache_dir, &settings.conf_dir),
            children: Rc::new(Children::new(settings, host)),
            running: JoinSet::new(),
            definitions: Definitions::default(),
            devices: devices(),
            requests: JoinSet::new(),
            cleanup: Cleanup::new(settings),
            has_list: false,
            index_due: None,
            listing: None,
            random: RandomState::new(),
        };
        tracing::info!(node, "the agent starts");
        agent.work(settings, changes, events).await
    }

    async fn work(
        mut self,
        settings: &Settings,
        mut changes: DirectoryWatch,
        mut events: mpsc::UnboundedReceiver<PodEvent>,
    ) -> Result<(), AgentError> {
        let mut terminate = signal(SignalKind::terminate()).map_err(AgentError::Start)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(AgentError::Start)?;
        self.refresh_index();
        loop {
            self.refresh_foreign();
            self.start_due();
            let wake = self.next_wake();
            tokio::select! {
                event = events.recv() => {
                    if let Some(event) = event {
                        self.handle_pod_event(event);
                    }
                    while let Ok(event) = events.try_recv() {
                        self.handle_pod_event(event);
                    }
                }
                Some(joined) = self.services.join_next() => match joined? {},
                Some(joined) = self.running.join_next() => {
                    let (work, outcome) = joined?;
                    self.finished(&work, outcome);
                }
                Some(outcome) = self.cleanup.next_end() => {
                    if self.cleanup.finished(outcome?, Instant::now()) {
                        self.refresh_index();
                    }
                }
                Some(found) = self.requests.join_next() => self.record_definitions(found?),
                goes_on = changes.next() => {
                    if !goes_on {
                        // Somebody has removed the directory of attachments.
                        sleep(INDEX_RETRY_PAUSE).await;
                        changes = DirectoryWatch::watch(&settings.state_dir)?;
                    }
                    self.refresh_index_by(Instant::now() + SETTLE);
                }
                // The kernel reports only the beginning of an ADD.
                () = self.shared.attached.notified() => self.refresh_index_by(Instant::now() + SETTLE),
                seen = next_device(self.devices.as_ref()) => self.device_appeared(seen),
                () = until(wake) => self.refresh_index_if_due(),
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
            }
        }
        self.shut_down().await;
        Ok(())
    }

    /// Handles an event of the watch.
    fn handle_pod_event(&mut self, event: PodEvent) {
        let now = Instant::now();
        let mut queue = self.shared.queue.borrow_mut();
        match event {
            PodEvent::There(pod) => {
                if let Some(listing) = &mut self.listing {
                    listing.insert(pod.uid.clone());
                }
                let container = container_of(&self.index, &self.foreign, &pod.uid);
                queue.update_pod(pod, container, now);
            }
            PodEvent::Gone(uid) => {
                queue.remove_pod(&uid);
                drop(queue);
                self.refresh_index_by(now + SETTLE);
            }
            PodEvent::ListBegins => self.listing = Some(HashSet::new()),
            PodEvent::ListEnds => {
                if let Some(listing) = self.listing.take() {
                    queue.keep_only(&listing);
                }
                self.has_list = true;
                drop(queue);
                self.refresh_index_by(now + SETTLE);
            }
        }
    }

    /// Starts the work that is due, up to the limit.
    fn start_due(&mut self) {
        let now = Instant::now();
        while let Some(work) = self.shared.queue.borrow_mut().take(now) {
            tracing::debug!(pod = work.pod, container = work.container.id(), "braid sync");
            let children = Rc::clone(&self.children);
            let configuration = self.foreign.configuration().map(Path::to_owned);
            self.running.spawn_local(async move {
                let outcome = children.sync(&work.container, configuration.as_deref()).await;
                (work, outcome)
            });
        }
        self.request_definitions(now);
        self.cleanup.start_due(&self.shared, &self.children, now);
    }

    fn request_definitions(&mut self, now: Instant) {
        let (any, failing) = self.shared.queue.borrow().asks_for_definitions();
        let is_due = self.definitions.next(failing, any, now).is_some_and(|at| at <= now);
        if !self.requests.is_empty() || !is_due {
            return;
        }
        let all = self.definitions.begin(now);
        let names = self.shared.queue.borrow().definitions(!all);
        if all {
            self.definitions.keep_only(&names);
        }
        let shared = Rc::clone(&self.shared);
        self.requests.spawn_local(async move { definitions::versions(&shared.node, names).await });
    }

    /// A device has appeared, or devices are not reported any more.
    fn device_appeared(&mut self, seen: io::Result<()>) {
        if let Err(error) = seen {
            tracing::warn!("devices that appear are not noticed any more: {error}");
            self.devices = None;
        }
        self.shared.queue.borrow_mut().device_appeared(Instant::now());
    }

    fn record_definitions(&mut self, versions: Vec<(String, Option<String>)>) {
        for definition in self.definitions.record(versions) {
            tracing::info!(definition, "a network-attachment-definition has changed");
            self.shared.queue.borrow_mut().definition_changed(&definition, Instant::now());
        }
    }

    /// Records the outcome of a `braid sync`.
    fn finished(&mut self, work: &Work, sync: SyncOutcome) {
        let mut braid_problem = None;
        let (outcome, definitions, reason) = match sync {
            SyncOutcome::Answered { report, is_whole: true } => {
                if report.has_changes() {
                    tracing::info!(pod = work.pod, container = work.container.id(), "the pod has what it asks for now");
                }
                (Outcome::Done, Some(report.definitions), None)
            }
            SyncOutcome::Answered { report, is_whole: false } => {
                let reason = report.failures();
                let outcome = if report.needs_repair { Outcome::NeedsRepair } else { Outcome::Failed };
                (outcome, Some(report.definitions), Some(reason))
            }
            SyncOutcome::UnknownCommand => {
                let problem = "the node's braid is older than the agent and has no `sync`".to_owned();
                braid_problem = Some(problem.clone());
                (Outcome::Failed, None, Some(problem))
            }
            SyncOutcome::NoAnswer(reason) => (Outcome::Failed, None, Some(reason)),
        };
        self.report_braid_problem(braid_problem);
        // The run may have failed because the container is gone.
        if outcome == Outcome::Failed {
            self.refresh_index();
        }
        let random = f64::from(u32::try_from(self.random.build_hasher().finish() % 1000).unwrap_or(0)) / 1000.0;
        let next = self.shared.queue.borrow_mut().finished(&work.uid, outcome, definitions, (Instant::now(), random));
        if let Some(reason) = reason {
            let next = match (outcome, next) {
                (_, Some(next)) => format!("in {:.1} s", next.as_secs_f64()),
                (Outcome::NeedsRepair, None) => "once its annotation or Braid's configuration changes".to_owned(),
                (_, None) => "at once".to_owned(),
            };
            tracing::warn!(
                pod = work.pod,
                container = work.container.id(),
                next,
                "the pod lacks what it asks for: {reason}"
            );
        }
    }

    /// Reports once that the node's Braid cannot be used, or that it can be used again.
    fn report_braid_problem(&self, problem: Option<String>) {
        let before = self.shared.braid_problem.replace(problem.clone());
        match (before, problem) {
            (None, Some(problem)) => tracing::error!("{problem}; pods are not changed until it is replaced"),
            (Some(_), None) => tracing::info!("the node's braid can be used again"),
            _ => {}
        }
    }

    /// Reads the journals.
    fn refresh_index(&mut self) {
        let now = Instant::now();
        match self.index.refresh() {
            Ok(changed) => {
                let mut queue = self.shared.queue.borrow_mut();
                for uid in changed {
                    queue.set_container(&uid, container_of(&self.index, &self.foreign, &uid), now);
                }
                if self.has_list {
                    self.cleanup.find(&self.index, &queue, &self.shared.state_dir, now);
                }
                self.index_due = self.index.next_retry().map(|pause| now + pause);
            }
            Err(error) => {
                tracing::debug!("the journals are read again later: {error}");
                self.index_due = Some(now + INDEX_RETRY_PAUSE);
            }
        }
    }

    /// Looks for containers that another plugin has attached, if a pod that asks for networks has no journal.
    fn refresh_foreign(&mut self) {
        let now = Instant::now();
        let mut queue = self.shared.queue.borrow_mut();
        let pods: Vec<String> = queue.pods_without_journal().map(str::to_owned).collect();
        if pods.is_empty() || now < self.foreign.next(now) {
            return;
        }
        let has_changed = self.foreign.refresh(now);
        for uid in pods {
            queue.set_container(&uid, container_of(&self.index, &self.foreign, &uid), now);
        }
        if has_changed {
            queue.configuration_changed(now);
        }
    }

    fn refresh_index_by(&mut self, at: Instant) {
        self.index_due = Some(self.index_due.map_or(at, |before| before.min(at)));
    }

    fn refresh_index_if_due(&mut self) {
        if self.index_due.is_some_and(|at| at <= Instant::now()) {
            self.refresh_index();
        }
    }

    /// When to start the next work, unless an event comes first.
    fn next_wake(&self) -> Option<Instant> {
        let queue = self.shared.queue.borrow();
        let (any, failing) = queue.asks_for_definitions();
        let request = self.definitions.next(failing, any, Instant::now()).filter(|_| self.requests.is_empty());
        let foreign = queue.pods_without_journal().next().map(|_| self.foreign.next(Instant::now()));
        [queue.next(), self.index_due, request, self.cleanup.next(), foreign].into_iter().flatten().min()
    }

    /// Waits for the children that run.
    async fn shut_down(mut self) {
        let count = self.running.len();
        tracing::info!(count, "the agent exits when the running changes have finished");
        let all = async { while self.running.join_next().await.is_some() {} };
        if timeout(SHUTDOWN_TIMEOUT, all).await.is_err() {
            tracing::warn!("a change takes long, and is not waited for any longer");
        }
        self.running.detach_all();
    }
}

/// The container of a pod, if it can be changed. A container that Braid is still attaching cannot be changed.
fn container_of(index: &Index, foreign: &Foreign, uid: &str) -> Option<Container> {
    match index.container_of(uid) {
        Some(id) => Some(Container::Attached(id.to_owned())),
        None if index.has_pod(uid) => None,
        None => foreign.container_of(uid).map(|id| Container::Foreign(id.to_owned())),
    }
}

/// What reports devices. Without it, what lacks a device is tried again later.
fn devices() -> Option<Devices> {
    let devices = Devices::listen();
    if let Err(error) = &devices {
        tracing::warn!("devices that appear are not noticed: {error}");
    }
    devices.ok()
}

/// Waits until a device appears. Waits for ever if that is not reported.
async fn next_device(devices: Option<&Devices>) -> io::Result<()> {
    match devices {
        Some(devices) => devices.next().await,
        None => std::future::pending().await,
    }
}

/// Waits until a time. Without one, waits for ever.
async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
