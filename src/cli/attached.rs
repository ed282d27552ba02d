//! What a pod that runs has of its networks: its journal beside what it asks for.

use std::path::Path;
use std::time::Duration;

use super::CliError;
use crate::cni::Args;
use crate::plan::Attachment;
use crate::runtime::deadline;
use crate::transaction::journal::State;
use crate::transaction::{Sharing, Store};

/// How long another call's lock is waited for.
const PATIENCE: Duration = Duration::from_secs(5);

/// The attachments of a pod on this node, by the journal of the ADD that made them.
#[derive(Debug)]
pub(super) struct Attached(State);

impl Attached {
    /// Finds the attachments that a network has made for a pod. None if it does not run here, or was never attached.
    pub(super) fn of_pod(
        state_dir: &Path,
        network: &str,
        (namespace, name): (&str, &str),
    ) -> Result<Option<Self>, CliError> {
        let Some(store) = Store::open_existing(state_dir, Sharing::Shared, deadline::after(PATIENCE))? else {
            return Ok(None);
        };
        let is_of_pod = |state: &State| {
            let args: Args = state.header.plan.args.parse().unwrap_or_default();
            state.header.plan.network == network
                && args.get("K8S_POD_NAMESPACE") == Some(namespace)
                && args.get("K8S_POD_NAME") == Some(name)
                && !state.is_container_gone()
        };
        let mut latest: Option<State> = None;
        for id in store.container_ids()? {
            let Some(container) = store.unlocked_container(&id)? else { continue };
            for ifname in container.entries()?.ifnames {
                // A journal that cannot be used has no attachments; `list` shows it.
                let Some(Ok(state)) = State::peek(&container, &ifname)? else { continue };
                if is_of_pod(&state) && latest.as_ref().is_none_or(|other| other.header.time < state.header.time) {
                    latest = Some(state);
                }
            }
        }
        Ok(latest.map(Self))
    }

    /// Whether the pod has an attachment that it asks for.
    pub(super) fn has(&self, wanted: &Attachment) -> bool {
        self.attachments().any(|attachment| is_same(attachment, wanted))
    }

    /// What the pod has and does not ask for any more, in words.
    pub(super) fn besides(&self, wanted: &[Attachment]) -> Vec<String> {
        let is_extra = |attachment: &&Attachment| !wanted.iter().any(|other| is_same(attachment, other));
        self.attachments().filter(is_extra).map(|one| format!("{} on {}", one.reference, one.ifname)).collect()
    }

    fn attachments(&self) -> impl Iterator<Item = &Attachment> {
        let attachments = self.0.header.plan.attachments.iter().enumerate();
        attachments.filter(|(index, _)| self.0.is_attached(*index)).map(|(_, attachment)| attachment)
    }
}

/// Whether two attachments are of one network under one name.
fn is_same(one: &Attachment, other: &Attachment) -> bool {
    (&one.reference, &one.ifname) == (&other.reference, &other.ifname)
}
