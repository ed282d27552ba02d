//! The loop of the agent: handles events and starts work.

use std::cell::RefCell;
use std::collections::HashSet;
use std::convert::Infallible;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::{JoinSet, LocalSet};
use tokio::time::{sleep, sleep_until, timeout};

use super::calls;
use super::child::{Children, Ended};
use super::definitions::{self, Definitions};
use super::enter;
use super::error::AgentError;
use super::index::{Changes, Index};
use super::lock::Lock;
use super::queue::{Container, Outcome, Queue, Work};
use super::serve;
use super::settings::{Listen, Settings};
use super::tidy::Tidying;
use super::unknown::Unknown;
use crate::metrics::Calls;
use crate::source::kubernetes::node::{Node, PodEvent};

/// How long to wait for more changes of the journals after the first.
const SETTLE: Duration = Duration::from_millis(50);
/// The pause before reading the journals again if they could not be read.
const INDEX_RETRY_PAUSE: Duration = Duration::from_secs(1);
/// How long children may take to exit when the agent exits. Those that take longer continue without it.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(20);

/// The state that the HTTP server reads.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) node: Node,
    pub(super) queue: RefCell<Queue>,
    /// Why the node's own Braid cannot be used, if it cannot.
    pub(super) braid_problem: RefCell<Option<String>>,
    pub(super) started: Instant,
    /// How long a pod may wait for its turn.
    pub(super) longest_wait: Duration,
    /// What calls have reported.
    pub(super) calls: Calls,
    /// Where the journals are.
    pub(super) state_dir: PathBuf,
    /// Where the node's configurations are.
    pub(super) conf_dir: PathBuf,
}

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

/// The agent at work.
struct Agent {
    shared: Rc<Shared>,
    services: JoinSet<Infallible>,
    index: Index,
    unknown: Unknown,
    children: Rc<Children>,
    running: JoinSet<(Work, Ended)>,
    definitions: Definitions,
    /// A request for the versions of definitions.
    asking: JoinSet<Vec<(String, Option<String>)>>,
    tidying: Tidying,
    /// Whether all pods of the node have been listed.
    has_list: bool,
    /// When the journals are looked at next.
    look_at: Option<Instant>,
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
        let enters = enter::to_enter(settings.host)?;
        let shared = Rc::new(Shared {
            node: Node::new(settings.kubeconfig.as_deref()),
            queue: RefCell::new(Queue::new(settings.concurrency)),
            braid_problem: RefCell::default(),
            started: Instant::now(),
            longest_wait: settings.timeout.saturating_mul(2),
            calls: Calls::default(),
            state_dir: settings.state_dir.clone(),
            conf_dir: settings.conf_dir.clone(),
        });
        calls::count(settings, &node, &shared)?;
        // What never ends.
        let mut services = JoinSet::new();
        if let Listen::At(address) = settings.listen {
            services.spawn_local(serve::serve(serve::listen(address).await?, Rc::clone(&shared)));
        }
        let changes = Changes::watch(&settings.state_dir)?;
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
            unknown: Unknown::new(&settings.cache_dir, &settings.conf_dir),
            children: Rc::new(Children::new(settings, enters)),
            running: JoinSet::new(),
            definitions: Definitions::default(),
            asking: JoinSet::new(),
            tidying: Tidying::new(settings),
            has_list: false,
            look_at: None,
            listing: None,
            random: RandomState::new(),
        };
        tracing::info!(node, "the agent begins");
        agent.work(settings, changes, events).await
    }

    async fn work(
        mut self,
        settings: &Settings,
        mut changes: Changes,
        mut events: mpsc::UnboundedReceiver<PodEvent>,
    ) -> Result<(), AgentError> {
        let mut terminate = signal(SignalKind::terminate()).map_err(AgentError::Start)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(AgentError::Start)?;
        self.look();
        loop {
            self.look_for_unknown();
            self.start_due();
            let wake = self.next_wake();
            tokio::select! {
                event = events.recv() => {
                    if let Some(event) = event {
                        self.happened(event);
                    }
                    while let Ok(event) = events.try_recv() {
                        self.happened(event);
                    }
                }
                Some(joined) = self.services.join_next() => match joined? {},
                Some(joined) = self.running.join_next() => {
                    let (work, ended) = joined?;
                    self.finished(&work, ended);
                }
                Some(stepped) = self.tidying.next_end() => {
                    if self.tidying.finished(stepped?, Instant::now()) {
                        self.look();
                    }
                }
                Some(found) = self.asking.join_next() => self.found(found?),
                goes_on = changes.next() => {
                    if !goes_on {
                        // Somebody has removed the directory of attachments.
                        sleep(INDEX_RETRY_PAUSE).await;
                        changes = Changes::watch(&settings.state_dir)?;
                    }
                    self.look_by(Instant::now() + SETTLE);
                }
                () = until(wake) => self.look_if_due(),
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
            }
        }
        self.end().await;
        Ok(())
    }

    /// Something has happened to a pod.
    fn happened(&mut self, event: PodEvent) {
        let now = Instant::now();
        let mut queue = self.shared.queue.borrow_mut();
        match event {
            PodEvent::There(pod) => {
                if let Some(listing) = &mut self.listing {
                    listing.insert(pod.uid.clone());
                }
                let container = container_of(&self.index, &self.unknown, &pod.uid);
                queue.pod_is(pod, container, now);
            }
            PodEvent::Gone(uid) => {
                queue.pod_is_gone(&uid);
                drop(queue);
                self.look_by(now + SETTLE);
            }
            PodEvent::ListBegins => self.listing = Some(HashSet::new()),
            PodEvent::ListEnds => {
                if let Some(listing) = self.listing.take() {
                    queue.only(&listing);
                }
                self.has_list = true;
                drop(queue);
                self.look_by(now + SETTLE);
            }
        }
    }

    /// Starts the work that is due, up to the limit.
    fn start_due(&mut self) {
        let now = Instant::now();
        while let Some(work) = self.shared.queue.borrow_mut().take(now) {
            tracing::debug!(pod = work.pod, container = work.container.id(), "braid sync");
            let children = Rc::clone(&self.children);
            let configuration = self.unknown.configuration().map(Path::to_owned);
            self.running.spawn_local(async move {
                let ended = children.sync(&work.container, configuration.as_deref()).await;
                (work, ended)
            });
        }
        self.ask_for_definitions(now);
        self.tidying.start_due(&self.shared, &self.children, now);
    }

    fn ask_for_definitions(&mut self, now: Instant) {
        let (any, failing) = self.shared.queue.borrow().asks_for_definitions();
        let is_due = self.definitions.next(failing, any, now).is_some_and(|at| at <= now);
        if !self.asking.is_empty() || !is_due {
            return;
        }
        let all = self.definitions.begin(now);
        let names = self.shared.queue.borrow().definitions(!all);
        if all {
            self.definitions.keep_only(&names);
        }
        let shared = Rc::clone(&self.shared);
        self.asking.spawn_local(async move { definitions::versions(&shared.node, names).await });
    }

    fn found(&mut self, versions: Vec<(String, Option<String>)>) {
        for definition in self.definitions.note(versions) {
            tracing::info!(definition, "a network-attachment-definition has changed");
            self.shared.queue.borrow_mut().definition_has_changed(&definition, Instant::now());
        }
    }

    /// A `braid sync` has ended.
    fn finished(&mut self, work: &Work, ended: Ended) {
        let mut braid_problem = None;
        let (outcome, definitions, reason) = match ended {
            Ended::Answered { report, is_whole: true } => {
                if report.has_changes() {
                    tracing::info!(pod = work.pod, container = work.container.id(), "the pod has what it asks for now");
                }
                (Outcome::Done, Some(report.definitions), None)
            }
            Ended::Answered { report, is_whole: false } => {
                let reason = report.failures();
                let outcome = if report.needs_repair { Outcome::NeedsRepair } else { Outcome::Failed };
                (outcome, Some(report.definitions), Some(reason))
            }
            Ended::Unknown => {
                let problem = "the node's braid is older than the agent and has no `sync`".to_owned();
                braid_problem = Some(problem.clone());
                (Outcome::Failed, None, Some(problem))
            }
            Ended::Broken(reason) => (Outcome::Failed, None, Some(reason)),
        };
        self.report_braid_problem(braid_problem);
        // It may have failed because its container is gone.
        if outcome == Outcome::Failed {
            self.look();
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
            (None, Some(problem)) => tracing::error!("{problem}; no pod is given anything until it is replaced"),
            (Some(_), None) => tracing::info!("the node's braid can be used again"),
            _ => {}
        }
    }

    /// Looks at the journals.
    fn look(&mut self) {
        let now = Instant::now();
        match self.index.refresh() {
            Ok(changed) => {
                let mut queue = self.shared.queue.borrow_mut();
                for uid in changed {
                    queue.container_is(&uid, container_of(&self.index, &self.unknown, &uid), now);
                }
                if self.has_list {
                    self.tidying.find(&self.index, &queue, &self.shared.state_dir, now);
                }
                self.look_at = self.index.next_look().map(|pause| now + pause);
            }
            Err(error) => {
                tracing::debug!("the journals are looked at later: {error}");
                self.look_at = Some(now + INDEX_RETRY_PAUSE);
            }
        }
    }

    /// Looks for containers that another plugin has attached, if a pod that asks for networks has no journal.
    fn look_for_unknown(&mut self) {
        let now = Instant::now();
        let mut queue = self.shared.queue.borrow_mut();
        let pods: Vec<String> = queue.without_journal().map(str::to_owned).collect();
        if pods.is_empty() || now < self.unknown.next(now) {
            return;
        }
        let has_changed = self.unknown.refresh(now);
        for uid in pods {
            queue.container_is(&uid, container_of(&self.index, &self.unknown, &uid), now);
        }
        if has_changed {
            queue.configuration_has_changed(now);
        }
    }

    fn look_by(&mut self, at: Instant) {
        self.look_at = Some(self.look_at.map_or(at, |before| before.min(at)));
    }

    fn look_if_due(&mut self) {
        if self.look_at.is_some_and(|at| at <= Instant::now()) {
            self.look();
        }
    }

    /// The time of the next work if there is no event before.
    fn next_wake(&self) -> Option<Instant> {
        let queue = self.shared.queue.borrow();
        let (any, failing) = queue.asks_for_definitions();
        let ask = self.definitions.next(failing, any, Instant::now()).filter(|_| self.asking.is_empty());
        let unknown = queue.without_journal().next().map(|_| self.unknown.next(Instant::now()));
        [queue.next(), self.look_at, ask, self.tidying.next(), unknown].into_iter().flatten().min()
    }

    /// Lets the children end that run.
    async fn end(mut self) {
        let count = self.running.len();
        tracing::info!(count, "the agent ends; changes that are being made are waited for");
        let all = async { while self.running.join_next().await.is_some() {} };
        if timeout(SHUTDOWN_TIMEOUT, all).await.is_err() {
            tracing::warn!("a change takes long, and goes on without the agent");
        }
        self.running.detach_all();
    }
}

/// The container of a pod, if it can be changed. A container that Braid is still attaching cannot.
fn container_of(index: &Index, unknown: &Unknown, uid: &str) -> Option<Container> {
    match index.container_of(uid) {
        Some(id) => Some(Container::Attached(id.to_owned())),
        None if index.knows(uid) => None,
        None => unknown.container_of(uid).map(|id| Container::Unknown(id.to_owned())),
    }
}

/// Waits until a time. Waits for ever without one.
async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
