//! Undoes the attachments of containers that are gone, debts, and the entries for them in the status of claims. `gone` decides on
//! the steps, each of which is a request to the API server or a child.

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
use super::run::Shared;
use super::settings::Settings;
use crate::transaction::ReleasedClaims;
use crate::transaction::store::debts;

/// The outcome of a step.
#[derive(Debug)]
pub(super) enum Stepped {
    /// Whether the API server knows the pod of a container, if the request could be made.
    Answered(Subject, Option<bool>),
    /// Why it is not undone, if it is not.
    Tried(Subject, Result<(), String>),
}

/// The steps that are taken.
#[derive(Debug)]
pub(super) struct Tidying {
    gone: Gone,
    /// Held by the step that undoes something: no other call of Braid runs meanwhile.
    one: Rc<Mutex<()>>,
    steps: JoinSet<Stepped>,
}

impl Tidying {
    pub(super) fn new(settings: &Settings) -> Self {
        Self { gone: Gone::new(settings.gone_after, settings.retry_after), one: Rc::default(), steps: JoinSet::new() }
    }

    /// Lists what may have to be undone, once the watch has listed all pods.
    pub(super) fn find(&mut self, index: &Index, queue: &Queue, state_dir: &Path, now: Instant) {
        let lost = index.of_pods().filter(|(_, pod)| !queue.knows(&pod.uid));
        let lost = lost.map(|(id, pod)| (Subject::Container(id.to_owned()), Some(pod.clone())));
        let debts = debts(state_dir).unwrap_or_default();
        let debts = debts.iter().filter(|debt| debt.is_journal()).map(|debt| (Subject::Debt(debt.to_string()), None));
        // A running pod gets another container, and its claims' status then describes that one.
        let is_over = |released: &ReleasedClaims| !index.knows(&released.uid) && !queue.may_be_attached(&released.uid);
        let claims = ReleasedClaims::all(state_dir).unwrap_or_default().into_iter().filter(is_over);
        let claims = claims.map(|released| (Subject::Claims(released.uid), None));
        let all: BTreeMap<Subject, Option<PodName>> = lost.chain(debts).chain(claims).collect();
        self.gone.are(all, now);
    }

    /// Begins what is due.
    pub(super) fn start_due(&mut self, shared: &Rc<Shared>, children: &Rc<Children>, now: Instant) {
        for step in self.gone.take(now) {
            let (shared, children, one) = (Rc::clone(shared), Rc::clone(children), Rc::clone(&self.one));
            self.steps.spawn_local(async move {
                match step {
                    Step::Ask(subject, pod) => ask(&shared, subject, &pod).await,
                    Step::Undo(subject) => {
                        let outcome = match &subject {
                            Subject::Container(id) | Subject::Debt(id) => {
                                let _turn = one.lock().await;
                                undo(&shared, &children, &subject, id).await
                            }
                            Subject::Claims(uid) => take_back(&shared, uid).await,
                        };
                        Stepped::Tried(subject, outcome)
                    }
                }
            });
        }
    }

    /// Waits for the end of a step. `None` if there is no step; an error if a step panics.
    pub(super) async fn next_end(&mut self) -> Option<Result<Stepped, JoinError>> {
        self.steps.join_next().await
    }

    /// Records the outcome of a step. Returns whether something may have changed on the node.
    pub(super) fn finished(&mut self, stepped: Stepped, now: Instant) -> bool {
        match stepped {
            Stepped::Answered(subject, knows) => {
                self.gone.answered(&subject, knows, now);
                false
            }
            Stepped::Tried(subject, outcome) => {
                let (Subject::Container(id) | Subject::Debt(id) | Subject::Claims(id)) = &subject;
                let is_claims = matches!(subject, Subject::Claims(_));
                match &outcome {
                    Ok(()) if is_claims => tracing::info!(uid = id, "the status of a pod's claims is taken back"),
                    Ok(()) => tracing::info!(id, "what a container that is gone had is undone"),
                    Err(reason) if is_claims => {
                        tracing::warn!(uid = id, "the status of a pod's claims stays: {reason}; trying again later");
                    }
                    Err(reason) => {
                        tracing::warn!(id, "what a container had is not undone: {reason}; trying again later");
                    }
                }
                self.gone.tried(&subject, outcome.is_ok(), now);
                true
            }
        }
    }

    /// When something is due next.
    pub(super) fn next(&self) -> Option<Instant> {
        self.gone.next()
    }
}

async fn ask(shared: &Shared, subject: Subject, pod: &PodName) -> Stepped {
    match shared.node.pod_uid(&pod.namespace, &pod.name).await {
        Ok(uid) => Stepped::Answered(subject, Some(uid.as_deref() == Some(&pod.uid))),
        Err(error) => {
            tracing::debug!("{error}");
            Stepped::Answered(subject, None)
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
    let Some(released) = ReleasedClaims::read(&shared.state_dir, uid) else { return Ok(()) };
    for claim in &released.claims {
        let taken = shared.node.take_back_claim_status(&released.namespace, claim, uid).await;
        taken.map_err(|error| error.to_string())?;
    }
    released.forget(&shared.state_dir).map_err(|error| error.to_string())
}
