//! Lists the requested attachments of a call, before their networks are looked up.
//!
//! If an API server is used, the definitions in this list are fetched before [`super::lookup`] continues.

use std::path::Path;

use super::device::{Assignments, Demand, DeviceError};
use super::error::SourceError;
use super::pod::{self, Definition, DefinitionKey, Definitions, Pod};
use crate::cni::config::{Defaults, NetworkConfig};
use crate::config::claim::ClaimRequest;
use crate::config::problems::Problems;
use crate::config::selection::Selection;
use crate::config::{Author, Config, Delegate};
use crate::request::Request;
use crate::runtime::load::{self, LoadError};

/// The key that names the auxiliary chain.
const AUXILIARY: &str = "auxiliaryCNIChainName";
/// Why the selections in a pod's annotation apply.
const BY_POD: &str = "the pod asks for it";

/// All requests, before their networks are looked up.
#[derive(Debug, Default)]
pub struct Wanted {
    /// The attachments, primary first. `None` stands for one that was not found.
    pub(super) wants: Vec<Option<Want>>,
    /// What does not apply to this call, with the reasons.
    pub(super) dropped: Vec<String>,
    /// What is odd and not wrong.
    pub(super) warnings: Vec<String>,
    /// What is wrong.
    pub(super) problems: Problems<SourceError>,
}

/// One attachment that is asked for.
#[derive(Debug)]
pub(super) struct Want {
    pub(super) target: Target,
    pub(super) selection: Selection,
    pub(super) optional: bool,
    pub(super) author: Author,
    /// The place of the request, such as `delegates[1]`.
    pub(super) origin: String,
    /// Why it applies.
    pub(super) reason: String,
}

/// Where a network is found.
#[derive(Debug)]
pub(super) enum Target {
    /// It was given in place.
    Network(NetworkConfig),
    /// By name: a NetworkAttachmentDefinition, then a network on disk. A `None` is not looked up.
    Named { definition: Option<DefinitionKey>, on_disk: Option<String> },
}

impl Want {
    /// The device that it needs, if any. The selection takes precedence over the definition.
    fn demand(&self, definition: Option<(&DefinitionKey, &Definition)>) -> Result<Option<Demand>, DeviceError> {
        let of_definition = || {
            let (key, definition) = definition?;
            let parsed = ClaimRequest::parse(definition.claim.as_ref()?, pod::RESOURCE_CLAIM);
            Some(parsed.map_err(|source| DeviceError::Annotation { definition: key.to_string(), source }))
        };
        let claim = match &self.selection.resource_claim {
            Some(claim) => Some(claim.clone()),
            None => of_definition().transpose()?,
        };
        let resource = definition.and_then(|(_, definition)| definition.resource.clone());
        if claim.is_none() && resource.is_none() {
            return Ok(None);
        }
        let device_id = self.selection.device_id.clone();
        Ok(Some(Demand { origin: self.origin.clone(), claim, resource, device_id }))
    }
}

impl Target {
    /// The definition that may contain the network.
    fn definition(&self) -> Option<&DefinitionKey> {
        match self {
            Self::Named { definition, .. } => definition.as_ref(),
            Self::Network(_) => None,
        }
    }
}

impl Wanted {
    /// Lists the requests, and continues after a problem. `pod` is given if an API server is used.
    pub fn list(config: &Config, request: &Request, pod: Option<&Pod>) -> Self {
        let mut wanted = Self::default();
        for network in operators_networks(config) {
            wanted.by_operator(config, request, pod.is_some(), network);
        }
        if let Some(pod) = pod {
            wanted.default_network(config, pod);
        }
        let namespace = pod.map(|pod| pod.namespace.as_str()).or_else(|| request.arg("K8S_POD_NAMESPACE"));
        let place = Place { pod_namespace: namespace, default_namespace: namespace, has_api: pod.is_some() };
        wanted.by_pod(config, place, &config.runtime_selections, "runtimeConfig.networks", "the runtime asks for it");
        if let Some(pod) = pod {
            wanted.warnings.extend(pod.warnings.iter().cloned());
            wanted.by_pod(config, place, &pod.networks, pod::NETWORKS, BY_POD);
        }
        if let Some(chain) = auxiliary_chain(config) {
            wanted.by_operator(config, request, pod.is_some(), chain);
        }
        wanted
    }

    /// Lists one selection of a pod's annotation, by its index.
    pub fn of_pod(config: &Config, pod: &Pod, index: usize) -> Self {
        let mut wanted = Self::default();
        let namespace = Some(pod.namespace.as_str());
        let place = Place { pod_namespace: namespace, default_namespace: namespace, has_api: true };
        if let Some(selection) = pod.networks.get(index) {
            wanted.want(place.want(config, selection, &format!("{}[{index}]", pod::NETWORKS), BY_POD));
        }
        wanted
    }

    /// The list, if there is no problem.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn or_first(mut self) -> Result<Self, SourceError> {
        let problems = std::mem::take(&mut self.problems);
        problems.or_first(self)
    }

    /// The NetworkAttachmentDefinitions in the list, each once.
    pub fn definitions(&self) -> Vec<DefinitionKey> {
        let mut keys = Vec::new();
        for want in self.wants.iter().flatten() {
            if let Some(key) = want.target.definition()
                && !keys.contains(key)
            {
                keys.push(key.clone());
            }
        }
        keys
    }

    /// Where its attachments are asked for.
    pub fn origins(&self) -> impl Iterator<Item = &str> {
        self.wants.iter().flatten().map(|want| want.origin.as_str())
    }

    /// The attachments that need a device, and the problems with those that do not name it correctly.
    pub fn demands(&self, definitions: &Definitions) -> (Vec<Demand>, Assignments) {
        let mut demands = Vec::new();
        let mut wrong = Assignments::new();
        for want in self.wants.iter().flatten() {
            let definition = want.target.definition().and_then(|key| Some((key, definitions.get(key)?)));
            match want.demand(definition) {
                Ok(demand) => demands.extend(demand),
                Err(error) => drop(wrong.insert(want.origin.clone(), Err(error))),
            }
        }
        (demands, wrong)
    }

    fn want(&mut self, want: Result<Want, SourceError>) {
        let want = self.problems.record(want);
        self.wants.push(want);
    }

    fn by_operator(&mut self, config: &Config, request: &Request, has_api: bool, network: OperatorsNetwork<'_>) {
        let (origin, selection, optional) = (network.origin.clone(), network.selection(), network.is_optional());
        match network.applies(config, request) {
            Ok(reason) => {
                let target = network.target(config, has_api);
                let author = Author::Operator;
                self.want(target.map(|target| Want { target, selection, optional, author, origin, reason }));
            }
            Err(reason) => self.dropped.push(reason),
        }
    }

    fn by_pod(&mut self, config: &Config, place: Place<'_>, selections: &[Selection], key: &str, reason: &str) {
        for (index, selection) in selections.iter().enumerate() {
            self.want(place.want(config, selection, &format!("{key}[{index}]"), reason));
        }
    }

    /// The pod may replace the primary network, by the same rules as for its other networks.
    fn default_network(&mut self, config: &Config, pod: &Pod) {
        let Some(selection) = &pod.default_network else { return };
        let origin = pod::DEFAULT_NETWORK;
        if config.prev_result.is_some() {
            self.dropped.push(format!("{origin}: the primary network is another plugin's"));
            return;
        }
        let default_namespace = Some(config.multus.multus_namespace.as_str());
        let place = Place { pod_namespace: Some(&pod.namespace), default_namespace, has_api: true };
        let reason = "the pod asks for it in place of the primary network";
        self.want(place.want(config, selection, origin, reason));
        if self.wants.len() > 1 {
            let replaced = self.wants.swap_remove(0);
            let replaced = replaced.map_or_else(|| "the first delegate".into(), |want| want.origin);
            self.dropped.push(format!("{replaced}: {origin} takes its place"));
        }
    }
}

/// A network that the operator's configuration names for some containers.
pub(super) struct OperatorsNetwork<'a> {
    /// Where it is named.
    pub(super) origin: String,
    entry: Entry<'a>,
}

/// How the operator names a network.
enum Entry<'a> {
    Delegate(&'a Delegate),
    ClusterNetwork(&'a str),
    /// One of `defaultNetworks`, which the pods of `systemNamespaces` do not get.
    DefaultNetwork(&'a str),
    AuxiliaryChain(NetworkConfig),
    /// A chain that cannot be read.
    Unreadable(LoadError),
}

/// The networks that the operator names, primary first, without the auxiliary chain.
pub(super) fn operators_networks(config: &Config) -> Vec<OperatorsNetwork<'_>> {
    let numbered = |key: &str, index: usize| format!("{key}[{index}]");
    let Some(reference) = &config.multus.cluster_network else {
        let delegates = config.delegates.iter().enumerate();
        return delegates
            .map(|(index, delegate)| {
                let origin = match delegate {
                    Delegate::Selection(operator) => operator.place.clone(),
                    Delegate::Network(_) => numbered("delegates", index),
                };
                OperatorsNetwork { origin, entry: Entry::Delegate(delegate) }
            })
            .collect();
    };
    let cluster_network = OperatorsNetwork { origin: "clusterNetwork".into(), entry: Entry::ClusterNetwork(reference) };
    let default_networks = config.multus.default_networks.iter().enumerate().map(|(index, reference)| {
        OperatorsNetwork { origin: numbered("defaultNetworks", index), entry: Entry::DefaultNetwork(reference) }
    });
    std::iter::once(cluster_network).chain(default_networks).collect()
}

/// The chain in `<directory of clusterNetwork>/<auxiliaryCNIChainName>/*.conf`, if there is any file. It is attached last.
pub(super) fn auxiliary_chain(config: &Config) -> Option<OperatorsNetwork<'static>> {
    let (Some(name), Some(cluster_network)) = (&config.multus.auxiliary_chain, &config.multus.cluster_network) else {
        return None;
    };
    let path = Path::new(cluster_network);
    let directory = match path.parent() {
        Some(parent) if path.is_absolute() && !path.is_dir() => parent.to_owned(),
        _ if path.is_absolute() => path.to_owned(),
        _ => config.conf_dir.clone(),
    };
    let entry = match load::plugins_of(&directory.join(name)) {
        Ok(plugins) if plugins.is_empty() => return None,
        Ok(plugins) => Entry::AuxiliaryChain(NetworkConfig {
            name: name.clone(),
            version: config.version,
            disable_check: false,
            disable_gc: false,
            load_only_inlined_plugins: true,
            plugins,
        }),
        Err(error) => Entry::Unreadable(error),
    };
    Some(OperatorsNetwork { origin: AUXILIARY.into(), entry })
}

/// The NetworkAttachmentDefinitions that the operator's own networks may use.
pub fn operators_definitions(config: &Config) -> Vec<DefinitionKey> {
    let definition = |network: OperatorsNetwork<'_>| match network.target(config, true) {
        Ok(Target::Named { definition, .. }) => definition,
        _ => None,
    };
    operators_networks(config).into_iter().filter_map(definition).collect()
}

impl OperatorsNetwork<'_> {
    /// Where the network is found.
    pub(super) fn target(self, config: &Config, has_api: bool) -> Result<Target, SourceError> {
        let selection = self.selection();
        let Self { origin, entry } = self;
        match entry {
            Entry::Delegate(Delegate::Network(network)) => Ok(Target::Network(network.clone())),
            Entry::AuxiliaryChain(network) => Ok(Target::Network(network)),
            Entry::Delegate(Delegate::Selection(operator)) if operator.config.is_some() => {
                let object = operator.config.clone().unwrap_or_default();
                let defaults = Defaults { name: None, version: Some(config.version) };
                let network = NetworkConfig::complete_from_object(object, defaults);
                network.map(Target::Network).map_err(|source| {
                    let source = LoadError::Config { path: "config".into(), source };
                    SourceError::Load { origin, source }
                })
            }
            Entry::Delegate(Delegate::Selection(_)) | Entry::ClusterNetwork(_) | Entry::DefaultNetwork(_) => {
                Ok(operators_target(config, has_api, &selection))
            }
            Entry::Unreadable(source) => Err(SourceError::Load { origin, source }),
        }
    }

    /// What is asked of it.
    fn selection(&self) -> Selection {
        match &self.entry {
            Entry::Delegate(Delegate::Selection(operator)) => operator.selection.clone(),
            Entry::ClusterNetwork(reference) | Entry::DefaultNetwork(reference) => {
                let (namespace, name) = match reference.split_once('/') {
                    Some((namespace, name)) if !namespace.is_empty() => (Some(namespace.to_owned()), name),
                    _ => (None, *reference),
                };
                Selection { name: name.into(), namespace, ..Selection::default() }
            }
            Entry::Delegate(Delegate::Network(_)) | Entry::AuxiliaryChain(_) | Entry::Unreadable(_) => {
                Selection::default()
            }
        }
    }

    pub(super) fn is_optional(&self) -> bool {
        matches!(&self.entry, Entry::Delegate(Delegate::Selection(operator)) if operator.optional)
    }

    /// Why the container gets it, or why not.
    fn applies(&self, config: &Config, request: &Request) -> Result<String, String> {
        match &self.entry {
            Entry::Delegate(Delegate::Selection(operator)) => operator
                .when
                .evaluate(&request.args)
                .map_err(|reason| format!("{} ({}): {reason}", self.origin, operator.shown())),
            Entry::DefaultNetwork(_) => {
                let namespace = request.arg("K8S_POD_NAMESPACE").unwrap_or_default();
                if config.multus.system_namespaces.iter().any(|name| name == namespace) {
                    return Err(format!("{}: {namespace} is one of systemNamespaces", self.origin));
                }
                Ok("always".into())
            }
            _ => Ok("always".into()),
        }
    }
}

/// A network that the operator names: a definition in the operator's namespace, or a network on disk.
fn operators_target(config: &Config, has_api: bool, selection: &Selection) -> Target {
    let Selection { name, namespace, .. } = selection;
    if name.starts_with('/') || !has_api {
        return Target::Named { definition: None, on_disk: Some(name.clone()) };
    }
    let key = DefinitionKey {
        namespace: namespace.clone().unwrap_or_else(|| config.multus.multus_namespace.clone()),
        name: name.clone(),
    };
    Target::Named { definition: Some(key), on_disk: namespace.is_none().then(|| name.clone()) }
}

/// From where a pod asks for networks.
#[derive(Debug, Clone, Copy)]
struct Place<'a> {
    pod_namespace: Option<&'a str>,
    /// Where a name without a namespace leads.
    default_namespace: Option<&'a str>,
    has_api: bool,
}

impl Place<'_> {
    fn want(&self, config: &Config, selection: &Selection, origin: &str, reason: &str) -> Result<Want, SourceError> {
        Ok(Want {
            target: self.target(config, selection, origin)?,
            selection: selection.clone(),
            optional: false,
            author: Author::Pod,
            origin: origin.into(),
            reason: reason.into(),
        })
    }

    /// Where to look up a network that a pod names. `namespaceIsolation` is checked here, before the lookup.
    fn target(&self, config: &Config, selection: &Selection, origin: &str) -> Result<Target, SourceError> {
        let multus = &config.multus;
        let namespace = selection.namespace.as_deref().or(self.default_namespace).unwrap_or_default();
        let own = self.pod_namespace.unwrap_or_default();
        let is_open = namespace == own || multus.global_namespaces.iter().any(|name| name == namespace);
        if multus.namespace_isolation && !is_open {
            return Err(SourceError::Isolated {
                origin: origin.into(),
                reference: format!("{namespace}/{}", selection.name),
                pod_namespace: own.into(),
                global: multus.global_namespaces.clone(),
            });
        }
        let name = selection.name.clone();
        if !self.has_api {
            return Ok(Target::Named { definition: None, on_disk: Some(name) });
        }
        // Networks on disk are in no namespace, so a pod that is restricted to some namespaces cannot use them by name.
        let on_disk = (selection.namespace.is_none() && !multus.namespace_isolation).then(|| name.clone());
        Ok(Target::Named { definition: Some(DefinitionKey { namespace: namespace.into(), name }), on_disk })
    }
}
