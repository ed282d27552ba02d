//! What pods, journals and definitions report, entered into the items.

use std::collections::HashSet;
use std::time::Instant;

use serde::de::IgnoredAny;

use super::item::{Container, Item, NetworkStatus, Priority, State};
use super::items::Queue;
use crate::source::kubernetes::node::PodOfNode;

impl Queue {
    /// Enters a pod that is new or has changed. `container` is its container, if it is known.
    pub(in crate::agent) fn update_pod(&mut self, pod: PodOfNode, container: Option<Container>, now: Instant) {
        let (networks, status) = (self.hash(pod.networks.as_deref()), self.network_status(pod.status.as_deref()));
        let Some(item) = self.items.get_mut(&pod.uid) else {
            self.add_pod(pod, container, now);
            return;
        };
        item.is_gone = false;
        if is_older(&pod.version, &item.version) {
            return;
        }
        let is_edited = networks != item.networks;
        // A change that Braid itself has written is no reason for another attempt.
        let is_changed_by_others = pod.version != item.version && status == item.status;
        // Somebody else has removed it or overwritten it, because Braid always writes the primary network.
        let is_status_lost = item.status.has_entries && !status.has_entries;
        (item.version, item.networks, item.status, item.is_terminating) =
            (pod.version, networks, status, pod.is_terminating);
        if is_edited {
            item.is_edited = true;
            item.failures = 0;
            item.make_due(Priority::Change, now);
        } else if is_status_lost {
            // Whoever removes it each time is not answered at once each time.
            item.make_due(Priority::Check, item.soon(now));
        } else if is_changed_by_others {
            item.retry_soon(now);
        }
    }

    fn add_pod(&mut self, pod: PodOfNode, container: Option<Container>, now: Instant) {
        let networks = self.hash(pod.networks.as_deref());
        // A pod that asks for nothing has nothing to get, unless Braid has attached it: then it may have asked for networks before.
        let is_due = networks.is_some() || matches!(container, Some(Container::Attached(_)));
        let item = Item {
            networks,
            status: self.network_status(pod.status.as_deref()),
            namespace: pod.namespace,
            name: pod.name,
            version: pod.version,
            is_terminating: pod.is_terminating,
            is_gone: false,
            is_edited: false,
            container,
            state: if is_due { State::Due(Priority::Check, now) } else { State::Idle },
            failures: 0,
            last_end: None,
            definitions: Vec::new(),
        };
        self.items.insert(pod.uid, item);
    }

    fn network_status(&self, text: Option<&str>) -> NetworkStatus {
        let entries = text.map(serde_json::from_str::<Vec<IgnoredAny>>);
        let has_entries = entries.is_some_and(|entries| entries.is_ok_and(|entries| !entries.is_empty()));
        NetworkStatus { hash: self.hash(text), has_entries }
    }

    /// Records that the API server no longer knows a pod.
    pub(in crate::agent) fn remove_pod(&mut self, uid: &str) {
        if let Some(item) = self.items.get_mut(uid) {
            item.is_gone = true;
            self.forget_if_gone(uid);
        }
    }

    /// Removes all pods except these.
    pub(in crate::agent) fn keep_only(&mut self, uids: &HashSet<String>) {
        let others: Vec<String> = self.items.keys().filter(|uid| !uids.contains(*uid)).cloned().collect();
        for uid in others {
            self.remove_pod(&uid);
        }
    }

    /// Sets the container of a pod. `None` if it has no container any more.
    pub(in crate::agent) fn set_container(&mut self, uid: &str, container: Option<Container>, now: Instant) {
        let Some(item) = self.items.get_mut(uid).filter(|item| item.container != container) else { return };
        item.container = container;
        // The annotation may have changed while the container was being attached.
        if item.container.is_some() && (item.networks.is_some() || item.is_edited) {
            item.make_due(Priority::Check, now);
        }
    }

    /// Makes every pod due that asks for a definition, because the definition has changed.
    pub(in crate::agent) fn definition_changed(&mut self, definition: &str, now: Instant) {
        let names = |item: &&mut Item| item.definitions.iter().any(|name| name == definition);
        for item in self.items.values_mut().filter(names) {
            item.make_due(Priority::Change, now);
        }
    }

    /// Retries every pod soon whose last run has failed, because a device has appeared that the pod may have lacked.
    pub(in crate::agent) fn device_appeared(&mut self, now: Instant) {
        for item in self.items.values_mut() {
            match item.state {
                // That run may have looked for the device already.
                State::Running { .. } => item.make_due(Priority::Check, now),
                _ => item.retry_soon(now),
            }
        }
    }

    /// Makes every pod due that waits for `"repair": true`, because Braid's configuration has changed.
    pub(in crate::agent) fn configuration_changed(&mut self, now: Instant) {
        for item in self.items.values_mut().filter(|item| item.needs_repair()) {
            item.make_due(Priority::Check, now);
        }
    }
}

/// Whether one version of an object is older than another. Since Kubernetes 1.34, versions are defined as numbers that grow. Versions
/// that are not numbers cannot be compared.
fn is_older(version: &str, than: &str) -> bool {
    matches!((version.parse::<u64>(), than.parse::<u64>()), (Ok(version), Ok(than)) if version < than)
}
