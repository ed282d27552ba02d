//! Finds out whether a NetworkAttachmentDefinition has changed.
//!
//! Braid has the right to get single definitions, but not to watch all of them. So the agent requests the definitions that pods name
//! at intervals: short ones while a pod waits for a definition, and otherwise long ones.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::source::kubernetes::node::Node;
use crate::source::pod::DefinitionKey;

/// How often the definitions of failing pods are requested.
pub(super) const SHORT_INTERVAL: Duration = Duration::from_secs(2);
/// How often all other definitions are requested.
pub(super) const LONG_INTERVAL: Duration = Duration::from_secs(60);

/// The known versions of the definitions that pods name.
#[derive(Debug, Default)]
pub(super) struct Definitions {
    /// The version of each definition. `None` if it does not exist.
    versions: BTreeMap<String, Option<String>>,
    /// When all definitions were last requested.
    all_requested: Option<Instant>,
    /// When the definitions of failing pods were last requested.
    failing_requested: Option<Instant>,
}

impl Definitions {
    /// When to make the next request. `any` says whether a pod asks for a definition, and `failing` whether a failing pod does.
    pub(super) fn next(&self, failing: bool, any: bool, now: Instant) -> Option<Instant> {
        let after = |last: Option<Instant>, interval| last.map_or(now, |last| last + interval);
        let of_failing = failing.then(|| after(self.failing_requested, SHORT_INTERVAL));
        let of_all = any.then(|| after(self.all_requested, LONG_INTERVAL));
        [of_failing, of_all].into_iter().flatten().min()
    }

    /// Begins a round of requests. Returns whether all definitions are due, and not only those of failing pods.
    pub(super) fn begin(&mut self, now: Instant) -> bool {
        self.failing_requested = Some(now);
        let is_due = self.all_requested.is_none_or(|last| now >= last + LONG_INTERVAL);
        if is_due {
            self.all_requested = Some(now);
        }
        is_due
    }

    /// Records versions. Returns the definitions that have changed.
    pub(super) fn record(&mut self, found: Vec<(String, Option<String>)>) -> Vec<String> {
        let mut changed = Vec::new();
        for (name, version) in found {
            match self.versions.insert(name.clone(), version.clone()) {
                Some(before) if before != version => changed.push(name),
                _ => {}
            }
        }
        changed
    }

    /// Removes the definitions that no pod names any more.
    pub(super) fn keep_only(&mut self, named: &BTreeSet<String>) {
        self.versions.retain(|name, _| named.contains(name));
    }
}

/// Requests the versions of definitions. Definitions that cannot be read are left out.
pub(super) async fn versions(node: &Node, names: BTreeSet<String>) -> Vec<(String, Option<String>)> {
    let mut found = Vec::new();
    for name in names {
        let Some((namespace, own)) = name.split_once('/') else { continue };
        let key = DefinitionKey { namespace: namespace.into(), name: own.into() };
        match node.definition_version(&key).await {
            Ok(version) => found.push((name, version)),
            // The pods that need it report the error, and the watch reports whether the API server is down.
            Err(error) => tracing::debug!("{error}"),
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_reported_once_and_the_first_version_is_no_change() {
        let mut definitions = Definitions::default();
        let found = |version: Option<&str>| vec![("web/lan".to_owned(), version.map(str::to_owned))];
        assert!(definitions.record(found(Some("1"))).is_empty());
        assert!(definitions.record(found(Some("1"))).is_empty());
        assert_eq!(definitions.record(found(Some("2"))), ["web/lan"]);
        assert_eq!(definitions.record(found(None)), ["web/lan"]);
        assert!(definitions.record(found(None)).is_empty());
        assert_eq!(definitions.record(found(Some("9"))), ["web/lan"]);
        definitions.keep_only(&BTreeSet::new());
        assert!(definitions.record(found(Some("10"))).is_empty());
    }

    #[test]
    fn requests_are_frequent_only_while_a_pod_fails() {
        let mut definitions = Definitions::default();
        let start = Instant::now();
        assert_eq!(definitions.next(false, false, start), None);
        assert_eq!(definitions.next(true, true, start), Some(start));
        assert!(definitions.begin(start));
        assert_eq!(definitions.next(true, true, start), Some(start + SHORT_INTERVAL));
        assert_eq!(definitions.next(false, true, start), Some(start + LONG_INTERVAL));
        assert!(!definitions.begin(start + SHORT_INTERVAL));
        assert!(definitions.begin(start + LONG_INTERVAL));
    }
}
