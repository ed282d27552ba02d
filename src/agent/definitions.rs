//! Finds out whether a NetworkAttachmentDefinition has changed.
//!
//! Braid may only get single definitions, and not watch all of a cluster. So the definitions that pods name are requested again and
//! again: often while a pod waits for one, and otherwise seldom.

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
    /// When all were last asked for.
    all_asked: Option<Instant>,
    /// When those of failing pods were.
    some_asked: Option<Instant>,
}

impl Definitions {
    /// When to make the next request, if there is a definition to request.
    pub(super) fn next(&self, failing: bool, any: bool, now: Instant) -> Option<Instant> {
        let after = |asked: Option<Instant>, pause| asked.map_or(now, |asked| asked + pause);
        let often = failing.then(|| after(self.some_asked, SHORT_INTERVAL));
        let seldom = any.then(|| after(self.all_asked, LONG_INTERVAL));
        [often, seldom].into_iter().flatten().min()
    }

    /// Begins a round of requests. Returns whether all definitions are due, and not only those of failing pods.
    pub(super) fn begin(&mut self, now: Instant) -> bool {
        self.some_asked = Some(now);
        let is_due = self.all_asked.is_none_or(|asked| now >= asked + LONG_INTERVAL);
        if is_due {
            self.all_asked = Some(now);
        }
        is_due
    }

    /// Records versions. Returns the definitions that have changed.
    pub(super) fn note(&mut self, found: Vec<(String, Option<String>)>) -> Vec<String> {
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
    fn changes_are_reported_once_and_the_first_look_is_no_change() {
        let mut definitions = Definitions::default();
        let found = |version: Option<&str>| vec![("web/lan".to_owned(), version.map(str::to_owned))];
        assert!(definitions.note(found(Some("1"))).is_empty());
        assert!(definitions.note(found(Some("1"))).is_empty());
        assert_eq!(definitions.note(found(Some("2"))), ["web/lan"]);
        assert_eq!(definitions.note(found(None)), ["web/lan"]);
        assert!(definitions.note(found(None)).is_empty());
        assert_eq!(definitions.note(found(Some("9"))), ["web/lan"]);
        definitions.keep_only(&BTreeSet::new());
        assert!(definitions.note(found(Some("10"))).is_empty());
    }

    #[test]
    fn it_is_asked_often_only_while_something_fails_and_not_at_all_for_nothing() {
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
