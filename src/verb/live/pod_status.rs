//! After changes of a container, updates what is written about its pod: the `network-status` annotation, and the status of its
//! resource claims.

use std::time::{Duration, Instant};

use super::error::LiveError;
use super::locked::request_of;
use crate::cni::AddResult;
use crate::config::Config;
use crate::plan::{Attachment, Position};
use crate::runtime::deadline;
use crate::source::kubernetes::{Attached, Claimed, NetworkEntries, Session, changed_network_status, interfaces_in};
use crate::source::{ClusterError, SourceError};
use crate::transaction::journal::State;
use crate::transaction::{self, read_device_info};

/// How long to wait for the API server. The container is locked meanwhile.
const API_TIMEOUT: Duration = Duration::from_secs(10);

/// Updates what is written about a pod, given its container's journal before and after a change. Makes no request if the journal
/// names no pod, `config` does not ask for Kubernetes, or nothing relevant has changed. Without `before`, every entry of the
/// container is written.
///
/// Entries of the annotation that did not change, and entries of others, keep their place and content. The caller has locked the
/// container, so that nobody writes at the same time.
///
/// # Errors
/// When the pod is gone or another one, or the API server does not take the annotation. A claim's status that cannot be written
/// is logged.
pub fn write_pod_status(config: &Config, before: Option<&State>, after: &State) -> Result<(), LiveError> {
    let request = request_of(&after.header.plan)?;
    let until = deadline::from(Instant::now(), API_TIMEOUT);
    let before = before.map(PodStatus::read).transpose()?.unwrap_or_default();
    let after = PodStatus { gone: gone(after), ..PodStatus::read(after)? };
    let is_written = before.entries.is_same(&after.entries);
    let is_claimed = !config.kubernetes.claim_status || before.claims() == after.claims();
    if is_written && is_claimed {
        return Ok(());
    }
    let Some(session) = Session::open(config, &request, until).map_err(unwritten)? else { return Ok(()) };
    let edit = |now: &str| {
        if is_written {
            return now.to_owned();
        }
        let is_gone = |network: &str, ifname: &str| after.gone.iter().any(|(n, i)| n == network && i == ifname);
        changed_network_status(now, &before.entries, &after.entries, is_gone)
    };
    let pod = session.edit_status(&request, edit).map_err(unwritten)?;
    if !is_claimed {
        session.write_claim_status(&pod, &request.netns, &after.claimed_since(before));
    }
    Ok(())
}

/// Whether the annotation lists exactly the existing attachments of a container.
pub(super) fn is_written(state: &State, status: &str) -> Result<bool, LiveError> {
    let entries = PodStatus::read(state)?.entries;
    let is_gone = |network: &str, ifname: &str| gone(state).iter().any(|(n, i)| n == network && i == ifname);
    Ok(entries.are_in(status, is_gone))
}

/// Adds missing attachments of a container to the annotation, and removes those that no longer exist. This repairs the annotation
/// after a change that was interrupted before writing it. The caller has locked the container.
pub(super) fn complete_pod_status(session: &Session, state: &State) -> Result<(), LiveError> {
    let entries = PodStatus::read(state)?.entries;
    let gone = gone(state);
    let is_gone = |network: &str, ifname: &str| gone.iter().any(|(n, i)| n == network && i == ifname);
    let edit = |now: &str| changed_network_status(now, &entries, &entries, is_gone);
    session.edit_status(&request_of(&state.header.plan)?, edit).map(drop).map_err(unwritten)
}

/// Adds the primary network, which another plugin has attached, unless the annotation has an entry for that interface.
pub(super) fn write_primary(
    session: &Session,
    state: &State,
    network: &str,
    result: &AddResult,
    status: &str,
) -> Result<(), LiveError> {
    let plan = &state.header.plan;
    if interfaces_in(status).contains(&plan.ifname) {
        return Ok(());
    }
    let attached = [Attached { network, ifname: &plan.ifname, result, device_info: None }];
    let entries = NetworkEntries::new(&plan.netns, &attached, true);
    let edit = |now: &str| changed_network_status(now, &NetworkEntries::default(), &entries, |_, _| false);
    session.edit_status(&request_of(&state.header.plan)?, edit).map(drop).map_err(unwritten)
}

fn unwritten(error: ClusterError) -> LiveError {
    LiveError::Plan(SourceError::from(error).into())
}

/// The part of a journal that goes into the status of its pod and of its claims.
#[derive(Debug, Default)]
struct PodStatus {
    entries: NetworkEntries,
    claimed: Vec<Claimed>,
    /// Networks and interfaces of attachments that no longer exist.
    gone: Vec<(String, String)>,
}

impl PodStatus {
    fn read(state: &State) -> Result<Self, LiveError> {
        let plan = &state.header.plan;
        let results = transaction::results(state).map_err(transaction::ChangeError::Result)?;
        let attached: Vec<(&Attachment, &AddResult)> =
            results.iter().map(|(index, result)| (&plan.attachments[*index], result)).collect();
        let entry = |(one, result): &(&'_ Attachment, &'_ AddResult)| {
            one.allocated.clone().map(|device| Claimed {
                device,
                ifname: one.ifname.clone(),
                result: Some((*result).clone()),
            })
        };
        let claimed = attached.iter().filter_map(entry).collect();
        let attached: Vec<_> = attached
            .into_iter()
            .map(|(one, result)| Attached {
                network: &one.reference,
                ifname: &one.ifname,
                result,
                device_info: one.device_info.as_ref().and_then(read_device_info),
            })
            .collect();
        let entries = NetworkEntries::new(&plan.netns, &attached, plan.position == Position::Primary);
        Ok(Self { entries, claimed, gone: Vec::new() })
    }

    /// The entries for the status of claims, sorted.
    fn claims(&self) -> Vec<String> {
        let mut claims: Vec<String> = self.claimed.iter().map(|one| format!("{one:?}")).collect();
        claims.sort();
        claims
    }

    /// The devices of existing attachments, and of earlier ones.
    fn claimed_since(self, before: Self) -> Vec<Claimed> {
        let mut claimed = self.claimed;
        for one in before.claimed {
            if !claimed.iter().any(|now| now.device == one.device) {
                claimed.push(Claimed { result: None, ..one });
            }
        }
        claimed
    }
}

/// The attachments of a journal that no longer exist.
fn gone(state: &State) -> Vec<(String, String)> {
    let attachments = state.header.plan.attachments.iter().enumerate();
    let gone = attachments.filter(|(index, _)| state.is_detached(*index));
    gone.map(|(_, one)| (one.reference.clone(), one.ifname.clone())).collect()
}
