//! Undoes the attachments of containers that are gone, debts, and the entries for such containers in the status of claims. `gone`
//! decides on the steps. Each step is a request to the API server, or a run of the node's own Braid.

use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;
use std::time::Instant;

use tokio::sync::Mutex;
use tokio::task::{JoinError, JoinSet};

use super::child::Children;
use super::gone::{Gone, PodName, Step, Subject};
use super::index::Index;
use super::queue::Queue;
use super::settings::Settings;
use super::shared::Shared;
use crate::transaction::ReleasedClaims;
use crate::transaction::store::debts;

/// The outcome of a step.
#[derive(Debug)]
pub(super) enum StepOutcome {
    /// Whether the API server knows the pod of a container, if the request could be made.
    PodRequested(Subject, Option<bool>),
    /// Whether it is undone and, if not, why.
    Undone(Subject, Result<(), String>),
}

/// The steps that are under way.
#[derive(Debug)]
pub(super) struct Cleanup {
    gone: Gone,
    /// Held while a child runs, so that one runs at a time.
    child_lock: Rc<Mutex<()>>,
    steps: JoinSet<StepOutcome>,
    /// Whether a pod was reported that the watch does not list. All may be missing for the same reason.
    has_warned: bool,
}

impl Cleanup {
    pub(super) fn new(settings: &Settings) -> Self {
        Self {
            gone: Gone::new(settings.gone_after, settings.retry_after),
            child_lock: Rc::default(),
            steps: JoinSet::new(),
            has_warned: false,
        }
    }

    /// Lists what may have to be undone, once the watch has listed all pods.
    pub(super) fn find(&mut self, index: &Index, queue: &Queue, state_dir: &Path, now: Instant) {
        let lost = index.of_pods().filter(|(_, pod)| !queue.knows(&pod.uid));
        let lost = lost.map(|(id, pod)| (Subject::Container(id.to_owned()), Some(pod.clone())));
        let debts = debts(state_dir).unwrap_or_default();
        let debts = debts.iter().filter(|debt| debt.is_journal()).map(|debt| (Subject::Debt(debt.to_string()), None));
        // If the pod still exists, it gets another container, and the status of its claims then describes that one.
        let is_over =
            |released: &ReleasedClaims| !index.has_pod(&released.uid) && !queue.may_be_attached(&released.uid);
        let (notes, unread) = ReleasedClaims::all(state_dir);
        for (path, error) in unread {
            tracing::debug!("{} cannot be read: {error}", path.display());
        }
        let claims = notes.into_iter().filter(is_over);
        let claims = claims.map(|released| (Subject::Claims(released.uid), None));
        let all: BTreeMap<Subject, Option<PodName>> = lost.chain(debts).chain(claims).collect();
        self.gone.set(all, now);
    }

    /// Starts the steps that are due.
    pub(super) fn start_due(&mut self, shared: &Rc<Shared>, children: &Rc<Children>, now: Instant) {
        for step in self.gone.take(now) {
            let (shared, children) = (Rc::clone(shared), Rc::clone(children));
            let child_lock = Rc::clone(&self.child_lock);
            self.steps.spawn_local(async move {
                match step {
                    Step::RequestPod(subject, pod) => request_pod(&shared, subject, &pod).await,
                    Step::Undo(subject) => {
                        let outcome = match &subject {
                            Subject::Container(id) | Subject::Debt(id) => {
                                let _lock = child_lock.lock().await;
                                undo(&shared, &children, &subject, id).await
                            }
                            Subject::Claims(uid) => take_back(&shared, uid).await,
                        };
                        StepOutcome::Undone(subject, outcome)
                    }
                }
            });
        }
    }

    /// Waits for the end of a step. `None` if there is no step; an error if a step panics.
    pub(super) async fn next_end(&mut self) -> Option<Result<StepOutcome, JoinError>> {
        self.steps.join_next().await
    }

    /// Records the outcome of a step. Returns whether something may have changed on the node.
    pub(super) fn finished(&mut self, outcome: StepOutcome, now: Instant) -> bool {
        match outcome {
            StepOutcome::PodRequested(subject, knows) => {
                if let Some(pod) = self.gone.record_answer(&subject, knows, now)
                    && !std::mem::replace(&mut self.has_warned, true)
                {
                    tracing::warn!(
                        "pod {}/{} has a container here, and is not among the running pods of this node: if it runs, --node is not the node's name in Kubernetes",
                        pod.namespace,
                        pod.name
                    );
                }
                false
            }
            StepOutcome::Undone(subject, outcome) => {
                let (Subject::Container(id) | Subject::Debt(id) | Subject::Claims(id)) = &subject;
                let is_claims = matches!(subject, Subject::Claims(_));
                match &outcome {
                    Ok(()) if is_claims => tracing::info!(
                        uid = id,
                        "the entries of a pod that is gone are removed from the status of its claims"
                    ),
                    Ok(()) => tracing::info!(id, "the attachments of a container that is gone are undone"),
                    Err(reason) if is_claims => {
                        tracing::warn!(
                            uid = id,
                            "the status of a pod's claims cannot be updated: {reason}; trying again later"
                        );
                    }
                    Err(reason) => {
                        tracing::warn!(
                            id,
                            "the attachments of a container cannot be undone: {reason}; trying again later"
                        );
                    }
                }
                self.gone.record_attempt(&subject, outcome.is_ok(), now);
                true
            }
        }
    }

    /// When something is due next.
    pub(super) fn next(&self) -> Option<Instant> {
        self.gone.next()
    }
}

/// Requests the pod of a container from the API server.
async fn request_pod(shared: &Shared, subject: Subject, pod: &PodName) -> StepOutcome {
    match shared.node.pod_uid(&pod.namespace, &pod.name).await {
        Ok(uid) => StepOutcome::PodRequested(subject, Some(uid.as_deref() == Some(&pod.uid))),
        Err(error) => {
            tracing::debug!("{error}");
            StepOutcome::PodRequested(subject, None)
        }
    }
}

/// Runs the node's Braid to undo what can be undone safely. It does not report containers that may be running.
async fn undo(shared: &Shared, children: &Children, subject: &Subject, id: &str) -> Result<(), String> {
    children.undo(id).await?;
    let has_journals =
        matches!(subject, Subject::Container(_)) && shared.state_dir.join("attachments").join(id).exists();
    if has_journals { Err("its container may live".into()) } else { Ok(()) }
}

/// Removes the entries for a pod from the status of its claims.
async fn take_back(shared: &Shared, uid: &str) -> Result<(), String> {
    let released = ReleasedClaims::read(&shared.state_dir, uid).map_err(|error| error.to_string())?;
    let Some(released) = released else { return Ok(()) };
    for claim in &released.claims {
        let taken = shared.node.take_back_claim_status(&released.namespace, claim, uid).await;
        taken.map_err(|error| error.to_string())?;
    }
    released.forget(&shared.state_dir).map_err(|error| error.to_string())
}
