//! What a Kubernetes API server and the kubelet report about a pod's networks, as data. Nothing here makes a request.

use std::collections::BTreeMap;
use std::fmt;

use super::device::Assignments;
use crate::config::{KeyError, Problems, Selection};

/// The annotation in which a pod asks for networks (NPWG specification, §4.1).
pub const NETWORKS: &str = "k8s.v1.cni.cncf.io/networks";
/// The annotation in which a pod asks for another primary network.
pub const DEFAULT_NETWORK: &str = "v1.multus-cni.io/default-network";
/// The annotation of a NetworkAttachmentDefinition that names the device resource for its attachments.
pub const RESOURCE_NAME: &str = "k8s.v1.cni.cncf.io/resourceName";
/// The annotation of a NetworkAttachmentDefinition that names the request of the pod's resource claims for its attachments.
pub const RESOURCE_CLAIM: &str = "k8s.v1.cni.cncf.io/resourceClaim";

/// A pod, and the networks it asks for.
#[derive(Debug, Clone, Default)]
pub struct Pod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// The networks it asks for.
    pub networks: Vec<Selection>,
    /// The network that it asks for instead of the primary one.
    pub default_network: Option<Selection>,
    /// Warnings about its annotations.
    pub warnings: Vec<String>,
}

impl Pod {
    /// Reads a pod's annotations, which `annotation` looks up. Continues after a problem.
    pub fn read<'a>(
        namespace: &str,
        name: &str,
        uid: &str,
        annotation: impl Fn(&str) -> Option<&'a str>,
    ) -> (Self, Problems<AnnotationError>) {
        let wrong = |reason: String| AnnotationError { namespace: namespace.into(), name: name.into(), reason };
        let mut problems = Problems::new();
        let mut parse = |key: &str| {
            let mut errors = Problems::new();
            let parsed = Selection::parse_all(annotation(key).unwrap_or_default(), key, &mut errors);
            problems.extend(errors.into_iter().map(|error: KeyError| wrong(error.to_string())));
            parsed
        };
        let networks = parse(NETWORKS);
        let mut default_network = parse(DEFAULT_NETWORK);
        if default_network.selections.len() > 1 {
            problems.push(wrong(format!("{DEFAULT_NETWORK} names more than one network")));
        }
        let warnings = networks.warnings.iter().chain(&default_network.warnings);
        let pod = Self {
            namespace: namespace.into(),
            name: name.into(),
            uid: uid.into(),
            warnings: warnings.map(ToString::to_string).collect(),
            networks: networks.selections,
            default_network: default_network.selections.pop(),
        };
        (pod, problems)
    }
}

/// A running pod, as the API server knows it now.
#[derive(Debug, Default)]
pub struct PodNow {
    /// The unchanged text of its networks annotation. Empty if it has none.
    pub networks: String,
    /// The pod, with the networks that it asks for now.
    pub pod: Pod,
    /// What is wrong with its annotations.
    pub problems: Problems<AnnotationError>,
    /// Whether it is being deleted.
    pub is_deleting: bool,
    /// Its `network-status`. Empty if it has none.
    pub status: String,
}

impl Pod {
    /// The references with which attachments of a selection know their network: that of the definition, and that of the network on
    /// disk which can replace it.
    pub fn references(&self, selection: &Selection) -> Vec<String> {
        let namespace = selection.namespace.as_deref().unwrap_or(&self.namespace);
        let mut references = vec![format!("{namespace}/{}", selection.name)];
        references.extend(selection.namespace.is_none().then(|| selection.name.clone()));
        references
    }
}

/// A pod's annotation that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("pod {namespace}/{name}: {reason}")]
pub struct AnnotationError {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub name: String,
    /// What is wrong, and where.
    pub reason: String,
}

/// The name of a NetworkAttachmentDefinition.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct DefinitionKey {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl fmt::Display for DefinitionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A NetworkAttachmentDefinition (NPWG specification, §3).
#[derive(Debug, Clone, Default)]
pub struct Definition {
    /// Its configuration. Without one, the definition refers to the configuration on disk that has its name.
    pub config: Option<String>,
    /// The device resource of which each of its attachments needs one.
    pub resource: Option<String>,
    /// The request of the pod's claims whose device its attachments use, as written in its annotation.
    pub claim: Option<String>,
}

/// Definitions that exist, and those of which this is not known.
#[derive(Debug, Clone, Default)]
pub struct Definitions {
    known: BTreeMap<DefinitionKey, Definition>,
    withheld: BTreeMap<DefinitionKey, String>,
}

impl Definitions {
    /// A definition, if it is there.
    pub fn get(&self, key: &DefinitionKey) -> Option<&Definition> {
        self.known.get(key)
    }

    /// Takes in what others say.
    pub fn merge(&mut self, others: Self) {
        self.known.extend(others.known);
        self.withheld.extend(others.withheld);
    }

    /// Records that it is not known whether a definition exists, and why.
    pub fn withhold(&mut self, key: DefinitionKey, reason: String) {
        self.withheld.insert(key, reason);
    }

    /// Why it is not known whether a definition exists.
    pub fn withheld(&self, key: &DefinitionKey) -> Option<&str> {
        self.withheld.get(key).map(String::as_str)
    }
}

impl Extend<(DefinitionKey, Definition)> for Definitions {
    fn extend<I: IntoIterator<Item = (DefinitionKey, Definition)>>(&mut self, definitions: I) {
        self.known.extend(definitions);
    }
}

impl FromIterator<(DefinitionKey, Definition)> for Definitions {
    fn from_iter<I: IntoIterator<Item = (DefinitionKey, Definition)>>(definitions: I) -> Self {
        let mut all = Self::default();
        all.extend(definitions);
        all
    }
}

/// A pod, with the definitions and devices for its attachments.
#[derive(Debug, Clone, Default)]
pub struct PodView {
    /// The pod.
    pub pod: Pod,
    /// The definitions that its networks may use.
    pub definitions: Definitions,
    /// The device of each attachment that needs one, as far as it is known.
    pub devices: Assignments,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_asks_for_networks_in_its_annotations() {
        let read = |networks: &'static str, default: &'static str| {
            let (pod, problems) =
                Pod::read("ns", "p", "u", |key| Some(if key == NETWORKS { networks } else { default }));
            problems.or_first(pod)
        };
        let pod = read("a, x/b@if0", r#"[{"name": "d", "mac": "02:00:00:00:00:01"}]"#).unwrap();
        assert_eq!(pod.networks.len(), 2);
        assert_eq!(pod.default_network.unwrap().name, "d");
        assert!(read("a,,b", "").unwrap_err().to_string().contains(NETWORKS));
        assert!(read("", "a,b").unwrap_err().to_string().contains("more than one"));
        assert!(Pod::read("ns", "p", "u", |_| None).0.networks.is_empty());
    }
}
