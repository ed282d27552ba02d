//! Checks of the status of resource claims: entries for pods that are gone, which no agent removes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::attached::Attached;
use super::unexamined::Unexamined;
use super::{Finding, Kind, Mending, Node};
use crate::cni::Args;
use crate::telemetry::has_agent;
use crate::transaction::ReleasedClaims;

/// A note of DEL: the claims of a pod whose status entries the agent has to remove.
#[derive(Debug, Clone)]
pub struct ClaimsNote {
    /// The state directory.
    pub state_dir: PathBuf,
    /// Its contents.
    pub released: ReleasedClaims,
}

/// The notes in state directories whose agent does not run. What cannot be read is added to `unexamined`, even where an agent runs:
/// the agent cannot read it either.
pub(super) fn notes(state_dirs: &[PathBuf], unexamined: &mut BTreeMap<PathBuf, Unexamined>) -> Vec<ClaimsNote> {
    let mut all = Vec::new();
    for state_dir in state_dirs {
        let (notes, unread) = ReleasedClaims::all(state_dir);
        unexamined.extend(unread.into_iter().map(|(path, error)| (path, Unexamined::other(&error))));
        if !has_agent(state_dir) {
            all.extend(notes.into_iter().map(|released| ClaimsNote { state_dir: state_dir.clone(), released }));
        }
    }
    all
}

/// Whether a container of a pod is attached. The status of the pod's claims then describes that container.
pub(super) fn has_container(attached: &Attached, uid: &str) -> bool {
    let mut states = attached.journals.iter().map(|journal| &journal.state);
    states.any(|state| {
        let args: Args = state.header.plan.args.parse().unwrap_or_default();
        args.get("K8S_POD_UID") == Some(uid)
    })
}

/// The kubeconfig with which the status of claims can be taken back: that of a configuration with this state directory or, if
/// there is none, that of any configuration.
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
            Some(_) => Mending::Not("this braid is built without Kubernetes".into()),
            None => Mending::Not("no configuration of braid has a \"kubeconfig\"".into()),
        };
        Finding { mending, ..finding }
    });
    findings.collect()
}
