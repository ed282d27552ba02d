//! All items, and what is reported about them.

use std::collections::hash_map::RandomState;
use std::collections::{BTreeSet, HashMap};
use std::hash::BuildHasher as _;
use std::time::{Duration, Instant};

use super::item::{Container, Item, State};

/// The items of a node.
#[derive(Debug)]
pub(in crate::agent) struct Queue {
    /// The items by the UIDs of their pods.
    pub(super) items: HashMap<String, Item>,
    /// How many runs are under way.
    pub(super) running: usize,
    /// The limit on concurrent runs.
    pub(super) max_running: usize,
    hashes: RandomState,
}

impl Queue {
    /// An empty queue with a limit on concurrent runs.
    pub(in crate::agent) fn new(max_running: usize) -> Self {
        Self { items: HashMap::new(), running: 0, max_running, hashes: RandomState::new() }
    }

    /// The hash of a text. Texts themselves can be long and are not kept.
    pub(super) fn hash(&self, text: Option<&str>) -> Option<u64> {
        text.map(|text| self.hashes.hash_one(text))
    }

    /// Removes the item of a pod that is gone, unless a run is under way for it.
    pub(super) fn forget_if_gone(&mut self, uid: &str) {
        if self.items.get(uid).is_some_and(|item| item.is_gone && !matches!(item.state, State::Running { .. })) {
            self.items.remove(uid);
        }
    }

    /// The pods whose container another plugin may have attached: they ask for networks, or did, and Braid has no journal.
    pub(in crate::agent) fn pods_without_journal(&self) -> impl Iterator<Item = &str> {
        let is_without = |(_, item): &(&String, &Item)| {
            !item.is_terminating
                && !item.is_gone
                && !matches!(item.container, Some(Container::Attached(_)))
                && (item.networks.is_some() || item.is_edited)
        };
        self.items.iter().filter(is_without).map(|(uid, _)| uid.as_str())
    }

    /// How long the item that has been due for the longest time has been due.
    pub(in crate::agent) fn longest_wait(&self, now: Instant) -> Duration {
        let waits = self.items.values().filter_map(Item::due).map(|(_, at)| now.saturating_duration_since(at));
        waits.max().unwrap_or_default()
    }

    /// How many pods do not have what they ask for.
    pub(in crate::agent) fn failing(&self) -> usize {
        self.items.values().filter(|item| item.failures > 0).count()
    }

    /// Whether the API server knows a pod with this UID.
    pub(in crate::agent) fn knows(&self, uid: &str) -> bool {
        self.items.get(uid).is_some_and(|item| !item.is_gone)
    }

    /// Whether the API server knows a pod with this UID, and the pod may be attached now or later.
    pub(in crate::agent) fn may_be_attached(&self, uid: &str) -> bool {
        self.items.get(uid).is_some_and(|item| !item.is_gone && !item.is_terminating)
    }

    /// How many pods there are.
    pub(in crate::agent) fn pods(&self) -> usize {
        self.items.len()
    }

    /// The definitions that pods ask for: of all pods, or only of those whose last run has failed.
    pub(in crate::agent) fn definitions(&self, only_failing: bool) -> BTreeSet<String> {
        let items = self.items.values().filter(|item| !only_failing || item.is_retried());
        items.flat_map(|item| item.definitions.iter().cloned()).collect()
    }

    /// Whether any pod asks for a definition, and whether one of these pods is tried again after a failure.
    pub(in crate::agent) fn asks_for_definitions(&self) -> (bool, bool) {
        let mut items = self.items.values().filter(|item| !item.definitions.is_empty());
        let any = items.clone().next().is_some();
        (any, items.any(Item::is_retried))
    }
}
