//! Checks one object.

use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;
use serde_json::Value;

use super::review::{Refusal, Request, Verdict};
use crate::cli::manifests;
use crate::cli::validate::{Given, Report};
use crate::runtime::deadline;
use crate::source::kubernetes::definitions;
use crate::source::kubernetes::manifest::{Manifest, from_json};

/// How long the API server may take to return definitions.
const API_TIMEOUT: Duration = Duration::from_secs(5);

/// Checks objects.
#[derive(Debug)]
pub(super) struct Validator {
    /// The configurations and definitions that do not come from a cluster.
    pub(super) given: Given,
    /// Where definitions are looked up.
    pub(super) cluster: Option<Cluster>,
    /// Whether an object that cannot be checked is admitted.
    pub(super) failure_policy: FailurePolicy,
}

/// Whether an object that cannot be checked is admitted, as named in a `ValidatingWebhookConfiguration`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum FailurePolicy {
    // It is refused.
    Fail,
    // It is admitted, with a warning.
    Ignore,
}

/// A cluster, given by its kubeconfig or as the one in which this process runs.
#[derive(Debug)]
pub(super) struct Cluster {
    pub(super) kubeconfig: Option<PathBuf>,
}

impl Validator {
    /// Checks what an API server asks about.
    pub(super) fn validate(&self, request: &Request) -> Verdict {
        if !is_of_interest(request) {
            return Verdict::default();
        }
        let given = self.known(&from_json(&request.object), &request.namespace);
        let Report { mut errors, mut warnings, mut unknown, .. } = report(&request.object, &given);
        if !(errors.is_empty() && unknown.is_empty() || request.old_object.is_null()) {
            // Existing errors are no reason to refuse another change: otherwise the object could not be mended step by step.
            let before = report(&request.old_object, &given);
            let mut old: Vec<String> = errors.extract_if(.., |error| before.errors.contains(error)).collect();
            old.extend(unknown.extract_if(.., |reason| before.unknown.contains(reason)));
            warnings.splice(0..0, old);
        }
        if errors.is_empty() && !unknown.is_empty() {
            let verdict = self.unknown(unknown);
            return Verdict { warnings: [verdict.warnings, warnings].concat(), ..verdict };
        }
        let refusal = (!errors.is_empty()).then_some(Refusal::Wrong(errors));
        Verdict { refusal, warnings }
    }

    /// Whether an object that cannot be checked is admitted.
    pub(super) fn unknown(&self, reasons: Vec<String>) -> Verdict {
        match self.failure_policy {
            FailurePolicy::Fail => Verdict { refusal: Some(Refusal::Unknown(reasons)), warnings: Vec::new() },
            FailurePolicy::Ignore => Verdict { refusal: None, warnings: reasons },
        }
    }

    /// What is needed to check an object of a namespace, with the definitions that it names.
    fn known(&self, object: &Manifest, namespace: &str) -> Given {
        let mut given = self.given.clone();
        if !namespace.is_empty() {
            namespace.clone_into(&mut given.namespace);
        }
        let mut keys = manifests::named_definitions(object, &given);
        keys.retain(|key| given.definitions.get(key).is_none());
        if keys.is_empty() {
            return given;
        }
        if let Some(cluster) = &self.cluster {
            given.is_looked_up = true;
            given.definitions.merge(definitions(cluster.kubeconfig.as_deref(), keys, deadline::after(API_TIMEOUT)));
        } else {
            for key in keys {
                let reason = format!("whether there is a network-attachment-definition {key} is not known here");
                given.definitions.withhold(key, reason);
            }
        }
        given
    }
}

/// Whether an object is checked at all. One that is being deleted is not, and neither is one with unchanged networks: a client that
/// removes a finalizer or a label must not be stopped.
fn is_of_interest(request: &Request) -> bool {
    let Request { object, old_object, .. } = request;
    let is_change = matches!(request.operation.as_str(), "CREATE" | "UPDATE") && request.sub_resource.is_empty();
    let is_being_deleted = !object["metadata"]["deletionTimestamp"].is_null();
    let is_same = |key: &[&str]| {
        let of = |object: &Value| key.iter().fold(object.clone(), |object, key| object[key].clone());
        of(object) == of(old_object)
    };
    let is_as_before = !old_object.is_null() && is_same(&["metadata", "annotations"]) && is_same(&["spec"]);
    is_change && !is_being_deleted && !is_as_before
}

fn report(object: &Value, given: &Given) -> Report {
    let mut report = Report::default();
    manifests::check(&mut report, &[from_json(object)], given);
    report
}
