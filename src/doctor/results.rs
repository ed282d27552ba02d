//! Checks of the results in libcni's caches.

use super::attached::ContainerState;
use super::{Finding, Kind, Node};

/// All findings of this family.
pub(super) fn check(node: &Node) -> Vec<Finding> {
    let gone = node
        .results
        .iter()
        .filter(|result| result.container_state(&node.running, &node.attached) == ContainerState::Gone);
    let findings = gone.map(|result| {
        let meaning = format!(
            "libcni keeps a result in {} for a container that is gone",
            result.cache_dir.join("results").display()
        );
        let remedy = "call DEL of the network as libcni would, and remove the result";
        Finding::safe(Kind::ResultStale, result.id(), meaning, remedy)
    });
    findings.collect()
}
