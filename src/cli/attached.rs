//! Compares what a running pod has, according to its journal, with what it asks for.

use std::path::Path;
use std::time::Duration;

use super::CliError;
use crate::cni::Args;
use crate::plan::Attachment;
use crate::runtime::deadline;
use crate::transaction::journal::State;
use crate::transaction::{Sharing, Store};

/// How long to wait for another call's lock.
const LOCK_TIMEOUT: Duration = Duration::from_secs(5);

/// The attachments of a pod on this node, from the journal of the ADD that made them.
#[derive(Debug)]
pub(super) struct Attached(State);

impl Attached {
    /// Finds the attachments that a network has made for a pod. `None` if the pod does not run here, or was never attached.
    pub(super) fn of_pod(
        state_dir: &Path,
        network: &str,
        (namespace, name): (&str, &str),
    ) -> Result<Option<Self>, CliError> {
        let Some(store) = Store::open_existing(state_dir, Sharing::Shared, deadline::after(LOCK_TIMEOUT))? else {
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
                // A journal that cannot be used counts as having no attachments; `list` shows it.
                let Some(Ok(state)) = State::peek(&container, &ifname)? else { continue };
                if is_of_pod(&state) && latest.as_ref().is_none_or(|other| other.header.time < state.header.time) {
                    latest = Some(state);
                }
            }
        }
        Ok(latest.map(Self))
    }

    /// Whether the pod has a requested attachment.
    pub(super) fn has(&self, wanted: &Attachment) -> bool {
        self.attachments().any(|attachment| is_same(attachment, wanted))
    }

    /// The attachments that the pod has but no longer asks for, as text.
    pub(super) fn besides(&self, wanted: &[Attachment]) -> Vec<String> {
        let is_extra = |attachment: &&Attachment| !wanted.iter().any(|other| is_same(attachment, other));
        self.attachments().filter(is_extra).map(|one| format!("{} on {}", one.reference, one.ifname)).collect()
    }

    fn attachments(&self) -> impl Iterator<Item = &Attachment> {
        self.0.attached().map(|(_, attachment)| attachment)
    }
}

/// Whether two attachments are of the same network under the same interface name.
fn is_same(one: &Attachment, other: &Attachment) -> bool {
    (&one.reference, &one.ifname) == (&other.reference, &other.ifname)
}
