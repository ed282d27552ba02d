//! Checks of what the status of resource claims says of pods that are gone, where no agent takes it back.

use std::path::{Path, PathBuf};

use super::attached::Attached;
use super::{Finding, Kind, Mending, Node};
use crate::cni::Args;
use crate::telemetry::has_agent;
use crate::transaction::ReleasedClaims;

/// What DEL has noted for an agent.
#[derive(Debug, Clone)]
pub struct ClaimsNote {
    /// The state directory.
    pub state_dir: PathBuf,
    /// The note.
    pub released: ReleasedClaims,
}

/// The notes in state directories whose agent does not run.
pub(super) fn notes(state_dirs: &[PathBuf]) -> Vec<ClaimsNote> {
    let of_directory = |state_dir: &PathBuf| {
        let notes = if has_agent(state_dir) { Vec::new() } else { all(state_dir) };
        notes.into_iter().map(|released| ClaimsNote { state_dir: state_dir.clone(), released }).collect::<Vec<_>>()
    };
    state_dirs.iter().flat_map(of_directory).collect()
}

fn all(state_dir: &Path) -> Vec<ReleasedClaims> {
    ReleasedClaims::all(state_dir).unwrap_or_default()
}

/// Whether a container of a pod is attached: its claims say what that has.
pub(super) fn has_container(attached: &Attached, uid: &str) -> bool {
    let mut states = attached.journals.iter().map(|journal| &journal.state);
    states.any(|state| {
        let args: Args = state.header.plan.args.parse().unwrap_or_default();
        args.get("K8S_POD_UID") == Some(uid)
    })
}

/// The kubeconfig by which the status of claims can be taken back: of a configuration with this state directory, else of any.
pub(super) fn kubeconfig<'a>(node: &'a Node, state_dir: &Path) -> Option<&'a Path> {
    let configs = || node.configurations.iter().flat_map(|one| &one.braids);
    let own = configs().filter(|config| config.state_dir == state_dir).find_map(|config| config.kubeconfig.as_deref());
    own.or_else(|| configs().find_map(|config| config.kubeconfig.as_deref()))
}

/// All findings of this family.
pub(super) fn check(node: &Node) -> Vec<Finding> {
    let left = node.claims.iter().filter(|one| !has_container(&node.attached, &one.released.uid));
    let findings = left.map(|one| {
        let ReleasedClaims { namespace, uid, claims } = &one.released;
        let claims = claims.iter().cloned().collect::<Vec<_>>().join(", ");
        let meaning = format!(
            "the status of resource claims of namespace {namespace} ({claims}) names what the pod with this UID had, and no agent \
             runs here that takes that back"
        );
        let remedy = "start the agent, or take it back with the kubeconfig of Braid's configuration";
        let finding = Finding::safe(Kind::ClaimStatusLeft, uid, meaning, remedy);
        let mending = match kubeconfig(node, &one.state_dir) {
            Some(_) if cfg!(feature = "kubernetes") => Mending::Safe,
            Some(_) => Mending::Not("this build has no part for Kubernetes".into()),
            None => Mending::Not("no configuration of Braid's names a kubeconfig".into()),
        };
        Finding { mending, ..finding }
    });
    findings.collect()
}
