//! Collects the attachments that a call asks for, from every place that can ask.
//!
//! It takes two steps: first everything that is asked for is listed ([`Wanted`]), then the network of each is looked up.
//! Between them, whoever talks to a Kubernetes API server fetches what the list names.

use std::path::PathBuf;

use super::conf_dir;
use super::kubernetes::ClusterError;
use super::pod::{Allocation, Definition, DefinitionKey, DeviceError, Pod, PodView};
use crate::cni::config::{ConfigError, Defaults, NetworkConfig, parse_object};
use crate::config::selection::{OperatorSelection, Selection};
use crate::config::{Config, Delegate};
use crate::plan::build::{Author, Candidate, appended};
use crate::request::Request;
use crate::runtime::load::LoadError;

/// A selection that leads nowhere.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// No configuration has that name.
    #[error("{origin}: no network is called {reference:?} in {}{}", conf_dir.display(), appended("; passed over ", skipped))]
    Unknown {
        /// Where it was asked for.
        origin: String,
        /// The name.
        reference: String,
        /// Where it was looked for.
        conf_dir: PathBuf,
        /// What could not be read there.
        skipped: Vec<String>,
    },
    /// There is no such NetworkAttachmentDefinition.
    #[error("{origin}: there is no network-attachment-definition {}/{}{}", key.namespace, key.name, on_disk.as_ref().map(|reason| format!(", and {reason}")).unwrap_or_default())]
    NoDefinition {
        /// Where it was asked for.
        origin: String,
        /// Which.
        key: DefinitionKey,
        /// Why there is none on disk either, if it was looked for there.
        on_disk: Option<String>,
    },
    /// Whether there is such a NetworkAttachmentDefinition was not told.
    #[error("{origin}: {reason}")]
    Withheld {
        /// Where it was asked for.
        origin: String,
        /// Who did not tell, and why.
        reason: String,
    },
    /// The pod may not use networks of that namespace.
    #[error("{origin}: namespaceIsolation is on, and a pod of namespace {pod_namespace:?} may not use {reference}: only networks of its own namespace and of {}", global.join(", "))]
    Isolated {
        /// Where it was asked for.
        origin: String,
        /// The network.
        reference: String,
        /// The pod's namespace.
        pod_namespace: String,
        /// The namespaces whose networks every pod may use.
        global: Vec<String>,
    },
    /// A pod's annotation cannot be read.
    #[error("pod {namespace}/{name}: {reason}")]
    Annotation {
        /// The pod's namespace.
        namespace: String,
        /// The pod's name.
        name: String,
        /// What is wrong, and where.
        reason: String,
    },
    /// There is no device for an attachment that needs one.
    #[error("{origin}: {source}")]
    Device {
        /// Where it was asked for.
        origin: String,
        /// Why.
        source: DeviceError,
    },
    /// The Kubernetes API server or the kubelet could not be asked.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// A configuration cannot be read.
    #[error("{origin}: {source}")]
    Load {
        /// Where it was asked for.
        origin: String,
        /// Why.
        source: LoadError,
    },
}

/// What was asked for.
#[derive(Debug, Default)]
pub struct Gathered {
    /// The attachments, primary first.
    pub candidates: Vec<Candidate>,
    /// What does not apply to this call, and why.
    pub dropped: Vec<String>,
    /// What is worth a word.
    pub warnings: Vec<String>,
}

/// What was asked for, and all that is wrong with it.
#[derive(Debug, Default)]
pub struct Surveyed {
    /// The attachments, primary first. None stands where one cannot be had, and keeps its place: the others have their names
    /// by theirs.
    pub candidates: Vec<Option<Candidate>>,
    /// What does not apply to this call, and why.
    pub dropped: Vec<String>,
    /// What is worth a word.
    pub warnings: Vec<String>,
    /// What is wrong.
    pub errors: Vec<SourceError>,
}

/// Collects the attachments for a call that no Kubernetes API server has a say in: from the configuration and from disk.
///
/// # Errors
/// When a network that is asked for cannot be found or read.
pub fn gather(config: &Config, request: &Request) -> Result<Gathered, SourceError> {
    Wanted::list(config, request, None)?.resolve(config, None)
}

/// Collects the attachments for a pod, with what the API server and the kubelet say about it.
///
/// # Errors
/// When a network that is asked for cannot be found, read or used by this pod.
pub fn gather_for_pod(config: &Config, request: &Request, view: &PodView) -> Result<Gathered, SourceError> {
    Wanted::list(config, request, Some(&view.pod))?.resolve(config, Some(view))
}

/// Collects the attachments as [`gather`] and [`gather_for_pod`] do, and goes on after what is wrong.
pub fn survey(config: &Config, request: &Request, view: Option<&PodView>) -> Surveyed {
    Wanted::survey(config, request, view.map(|view| &view.pod)).survey_networks(config, view)
}

/// Everything that is asked for, its networks not looked up yet.
#[derive(Debug, Default)]
pub struct Wanted {
    /// None stands where one cannot be had.
    wants: Vec<Option<Want>>,
    dropped: Vec<String>,
    warnings: Vec<String>,
    errors: Vec<SourceError>,
}

/// One attachment that is asked for.
#[derive(Debug)]
struct Want {
    target: Target,
    selection: Selection,
    optional: bool,
    author: Author,
    origin: String,
    reason: String,
}

/// Where a network is to be had from.
#[derive(Debug)]
enum Target {
    /// It was given in place.
    Network(NetworkConfig),
    /// By name: from a NetworkAttachmentDefinition, then from disk. What is not to be asked is none.
    Named { definition: Option<DefinitionKey>, on_disk: Option<String> },
}

impl Wanted {
    /// Lists what is asked for. `pod` is there if an API server is to be asked.
    ///
    /// # Errors
    /// When a pod asks for a network of a namespace that it may not use.
    pub fn list(config: &Config, request: &Request, pod: Option<&Pod>) -> Result<Self, SourceError> {
        let mut wanted = Self::survey(config, request, pod);
        if wanted.errors.is_empty() { Ok(wanted) } else { Err(wanted.errors.swap_remove(0)) }
    }

    /// Lists what is asked for as [`Self::list`] does, and goes on after what is wrong.
    pub fn survey(config: &Config, request: &Request, pod: Option<&Pod>) -> Self {
        let mut wanted = Self::default();
        wanted.operators(config, request, pod.is_some());
        if let Some(pod) = pod {
            wanted.default_network(config, pod);
        }
        let namespace = pod.map(|pod| pod.namespace.as_str()).or_else(|| request.arg("K8S_POD_NAMESPACE"));
        for (index, selection) in config.runtime_selections.iter().enumerate() {
            let origin = format!("runtimeConfig.networks[{index}]");
            let target = pods_target(config, namespace, namespace, pod.is_some(), selection, &origin);
            wanted.by_pod(target, selection, origin, "the runtime asks for it");
        }
        if let Some(pod) = pod {
            wanted.warnings.extend(pod.warnings.iter().cloned());
            for (index, selection) in pod.networks.iter().enumerate() {
                let origin = format!("{}[{index}]", super::pod::NETWORKS);
                let target = pods_target(config, namespace, namespace, true, selection, &origin);
                wanted.by_pod(target, selection, origin, "the pod asks for it");
            }
        }
        wanted.auxiliary_chain(config);
        wanted
    }

    fn want(&mut self, want: Result<Want, SourceError>) {
        let want = want.map_err(|error| self.errors.push(error)).ok();
        self.wants.push(want);
    }

    /// The NetworkAttachmentDefinitions that are named, each once.
    pub fn definitions(&self) -> Vec<DefinitionKey> {
        let mut keys = Vec::new();
        for want in self.wants.iter().flatten() {
            if let Target::Named { definition: Some(key), .. } = &want.target
                && !keys.contains(key)
            {
                keys.push(key.clone());
            }
        }
        keys
    }

    fn operators(&mut self, config: &Config, request: &Request, has_api: bool) {
        let Some(reference) = &config.multus.cluster_network else {
            for (index, delegate) in config.delegates.iter().enumerate() {
                self.delegate(config, request, has_api, delegate, format!("delegates[{index}]"));
            }
            return;
        };
        self.by_reference(config, reference, has_api, "clusterNetwork".into());
        let namespace = request.arg("K8S_POD_NAMESPACE").unwrap_or_default();
        let is_system = config.multus.system_namespaces.iter().any(|name| name == namespace);
        for (index, reference) in config.multus.default_networks.iter().enumerate() {
            let origin = format!("defaultNetworks[{index}]");
            if is_system {
                self.dropped.push(format!("{origin}: {namespace} is one of systemNamespaces"));
            } else {
                self.by_reference(config, reference, has_api, origin);
            }
        }
    }

    fn by_reference(&mut self, config: &Config, reference: &str, has_api: bool, origin: String) {
        let (namespace, name) = match reference.split_once('/') {
            Some((namespace, name)) if !namespace.is_empty() => (Some(namespace.to_owned()), name),
            _ => (None, reference),
        };
        let selection = Selection { name: name.into(), namespace, ..Selection::default() };
        self.want(Ok(Want {
            target: operators_target(config, has_api, &selection),
            selection,
            optional: false,
            author: Author::Operator,
            origin,
            reason: "always".into(),
        }));
    }

    fn delegate(&mut self, config: &Config, request: &Request, has_api: bool, delegate: &Delegate, origin: String) {
        let (selection, optional, reason) = match delegate {
            Delegate::Network(_) => (Selection::default(), false, "always".into()),
            Delegate::Selection(operator) => match operator.when.judge(&request.args) {
                Ok(reason) => (operator.selection.clone(), operator.optional, reason),
                Err(reason) => {
                    let name = name_of(operator);
                    self.dropped.push(format!("{origin} ({name}): {reason}"));
                    return;
                }
            },
        };
        let target = target_of(config, has_api, delegate, &origin);
        let author = Author::Operator;
        self.want(target.map(|target| Want { target, selection, optional, author, origin, reason }));
    }

    fn by_pod(
        &mut self,
        target: Result<Target, SourceError>,
        selection: &Selection,
        origin: String,
        reason: &'static str,
    ) {
        self.want(target.map(|target| {
            let mut selection = selection.clone();
            if let Target::Named { definition: None, .. } = target {
                // On disk networks have no namespace. One that the pod writes is not to be what the policy judges by.
                selection.namespace = None;
            }
            Want { target, selection, optional: false, author: Author::Pod, origin, reason: reason.into() }
        }));
    }

    /// The pod may replace the primary network, and is held to the same rules as with any other it asks for.
    fn default_network(&mut self, config: &Config, pod: &Pod) {
        let Some(selection) = &pod.default_network else { return };
        let origin = super::pod::DEFAULT_NETWORK;
        if config.prev_result.is_some() {
            self.dropped.push(format!("{origin}: the primary network is another plugin's"));
            return;
        }
        let own = &config.multus.multus_namespace;
        let target = pods_target(config, Some(&pod.namespace), Some(own), true, selection, origin);
        self.want(target.map(|target| Want {
            target,
            selection: selection.clone(),
            optional: false,
            author: Author::Pod,
            origin: origin.into(),
            reason: "the pod asks for it in place of the primary network".into(),
        }));
        if self.wants.len() > 1 {
            let replaced = self.wants.swap_remove(0);
            let replaced = replaced.map_or_else(|| "the first delegate".into(), |want| want.origin);
            self.dropped.push(format!("{replaced}: {origin} takes its place"));
        }
    }

    /// The auxiliary chain, if there is one.
    fn auxiliary_chain(&mut self, config: &Config) {
        let Some(network) = auxiliary_network(config).transpose() else { return };
        self.want(network.map(|network| Want {
            target: Target::Network(network),
            selection: Selection::default(),
            optional: false,
            author: Author::Operator,
            origin: AUXILIARY.into(),
            reason: "always".into(),
        }));
    }

    /// Looks every network up.
    ///
    /// # Errors
    /// When one cannot be found or read, or needs a device that is not there.
    pub fn resolve(self, config: &Config, view: Option<&PodView>) -> Result<Gathered, SourceError> {
        let Surveyed { candidates, dropped, warnings, mut errors } = self.survey_networks(config, view);
        if !errors.is_empty() {
            return Err(errors.swap_remove(0));
        }
        Ok(Gathered { candidates: candidates.into_iter().flatten().collect(), dropped, warnings })
    }

    /// Looks every network up as [`Self::resolve`] does, and goes on after what is wrong.
    pub fn survey_networks(self, config: &Config, view: Option<&PodView>) -> Surveyed {
        let Self { wants, dropped, mut warnings, mut errors } = self;
        let asked = wants.iter().flatten().filter_map(|want| want.selection.device_id.clone());
        let mut devices = Allocation::new(asked.collect());
        let mut candidate = |want| match look_up_want(want, config, view, &mut devices, &mut warnings) {
            Ok(candidate) => Some(candidate),
            Err(error) => {
                errors.push(error);
                None
            }
        };
        let candidates = wants.into_iter().map(|want| want.and_then(&mut candidate)).collect();
        Surveyed { candidates, dropped, warnings, errors }
    }
}

/// What is asked for, with its network and its device.
fn look_up_want(
    want: Want,
    config: &Config,
    view: Option<&PodView>,
    devices: &mut Allocation,
    warnings: &mut Vec<String>,
) -> Result<Candidate, SourceError> {
    let Want { target, mut selection, optional, author, origin, reason } = want;
    let definition = match (&target, view) {
        (Target::Named { definition: Some(key), .. }, Some(view)) => {
            if let Some(reason) = view.definitions.withheld(key) {
                return Err(SourceError::Withheld { origin, reason: reason.into() });
            }
            view.definitions.get(key).map(|definition| (key.clone(), definition))
        }
        _ => None,
    };
    let mut resource = None;
    let network = match (target, definition) {
        (Target::Network(network), _) => network,
        (Target::Named { .. }, Some((key, definition))) => {
            let network = network_of_definition(config, &key, definition, &origin, warnings)?;
            selection.name = key.name;
            selection.namespace = Some(key.namespace);
            resource.clone_from(&definition.resource);
            network
        }
        (Target::Named { definition, on_disk }, None) => {
            if author == Author::Pod {
                // On disk networks have no namespace. One that the pod wrote is not what the policy judges by.
                selection.namespace = None;
            }
            look_up(config, definition, on_disk.as_deref(), &origin, warnings)?
        }
    };
    if let (Some(resource), Some(view)) = (&resource, view) {
        let device = devices.take(&view.devices, resource, selection.device_id.as_deref());
        let device = device.map_err(|source| SourceError::Device { origin: origin.clone(), source })?;
        selection.device_id = Some(device);
    }
    Ok(Candidate { network, selection, optional, author, origin, reason, resource })
}

/// Every network that some container could get, as far as the configuration and the disk tell: all delegates, whatever
/// their `when` says, each once. What cannot be found is returned beside them.
pub fn every_network(config: &Config) -> (Vec<NetworkConfig>, Vec<SourceError>) {
    every_network_with(config, None)
}

/// The same as [`every_network`] where there is an API server: `definitions` are those of [`operators_definitions`].
pub fn every_network_with(
    config: &Config,
    definitions: Option<&super::pod::Definitions>,
) -> (Vec<NetworkConfig>, Vec<SourceError>) {
    let mut networks: Vec<NetworkConfig> = Vec::new();
    let mut errors = Vec::new();
    let mut ignored = Vec::new();
    for (target, origin) in operators_targets(config, definitions.is_some()) {
        let found = target.and_then(|target| match target {
            Target::Network(network) => Ok(network),
            Target::Named { definition, on_disk } => {
                let known = definition.as_ref().and_then(|key| Some((key, definitions?.get(key)?)));
                match known {
                    Some((key, definition)) => network_of_definition(config, key, definition, &origin, &mut ignored),
                    None => look_up(config, definition, on_disk.as_deref(), &origin, &mut ignored),
                }
            }
        });
        match found {
            Ok(network) if networks.iter().any(|known| known.name == network.name) => {}
            Ok(network) => networks.push(network),
            Err(error) => errors.push(error),
        }
    }
    (networks, errors)
}

/// The NetworkAttachmentDefinitions that the operator's own networks may be.
pub fn operators_definitions(config: &Config) -> Vec<DefinitionKey> {
    operators_targets(config, true)
        .into_iter()
        .filter_map(|(target, _)| match target {
            Ok(Target::Named { definition, .. }) => definition,
            _ => None,
        })
        .collect()
}

fn operators_targets(config: &Config, has_api: bool) -> Vec<(Result<Target, SourceError>, String)> {
    let mut wanted = Wanted::default();
    if let Some(reference) = &config.multus.cluster_network {
        wanted.by_reference(config, reference, has_api, "clusterNetwork".into());
        for (index, reference) in config.multus.default_networks.iter().enumerate() {
            wanted.by_reference(config, reference, has_api, format!("defaultNetworks[{index}]"));
        }
        let wants = wanted.wants.into_iter().flatten();
        let mut targets: Vec<_> = wants.map(|want| (Ok(want.target), want.origin)).collect();
        if let Some(chain) = auxiliary_network(config).transpose() {
            targets.push((chain.map(Target::Network), AUXILIARY.to_owned()));
        }
        return targets;
    }
    let delegates = config.delegates.iter().enumerate().map(|(index, delegate)| {
        let origin = format!("delegates[{index}]");
        (target_of(config, has_api, delegate, &origin), origin)
    });
    delegates.collect()
}

/// The key that names the auxiliary chain.
const AUXILIARY: &str = "auxiliaryCNIChainName";

/// The chain in `<directory of clusterNetwork>/<auxiliaryCNIChainName>/*.conf`, if there is any file.
fn auxiliary_network(config: &Config) -> Result<Option<NetworkConfig>, SourceError> {
    let (Some(name), Some(cluster_network)) = (&config.multus.auxiliary_chain, &config.multus.cluster_network) else {
        return Ok(None);
    };
    let path = std::path::Path::new(cluster_network);
    let directory = match path.parent() {
        Some(parent) if path.is_absolute() && !path.is_dir() => parent.to_owned(),
        _ if path.is_absolute() => path.to_owned(),
        _ => config.conf_dir.clone(),
    };
    let plugins = crate::runtime::load::plugins_of(&directory.join(name))
        .map_err(|source| SourceError::Load { origin: AUXILIARY.into(), source })?;
    if plugins.is_empty() {
        return Ok(None);
    }
    Ok(Some(NetworkConfig {
        name: name.clone(),
        version: config.version,
        disable_check: false,
        disable_gc: false,
        load_only_inlined_plugins: true,
        plugins,
    }))
}

fn name_of(operator: &OperatorSelection) -> String {
    if operator.selection.name.is_empty() { "inline".into() } else { operator.selection.reference() }
}

fn target_of(config: &Config, has_api: bool, delegate: &Delegate, origin: &str) -> Result<Target, SourceError> {
    let operator = match delegate {
        Delegate::Network(network) => return Ok(Target::Network(network.clone())),
        Delegate::Selection(operator) => operator,
    };
    let Some(object) = &operator.config else { return Ok(operators_target(config, has_api, &operator.selection)) };
    let defaults = Defaults { name: None, version: Some(config.version) };
    let network = NetworkConfig::complete_from_object(object.clone(), defaults);
    network.map(Target::Network).map_err(|source| wrong_config(origin, format!("{origin}.config"), source))
}

fn wrong_config(origin: &str, place: String, source: ConfigError) -> SourceError {
    SourceError::Load { origin: origin.into(), source: LoadError::Config { path: place.into(), source } }
}

/// A network that the operator names: a definition in the operator's namespace, or something on disk.
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

/// A network that a pod names: the one place where `namespaceIsolation` is judged, before anything is looked up.
/// `default_namespace` is where a name without a namespace leads.
fn pods_target(
    config: &Config,
    pod_namespace: Option<&str>,
    default_namespace: Option<&str>,
    has_api: bool,
    selection: &Selection,
    origin: &str,
) -> Result<Target, SourceError> {
    let multus = &config.multus;
    let namespace = selection.namespace.as_deref().or(default_namespace).unwrap_or_default();
    let own = pod_namespace.unwrap_or_default();
    if multus.namespace_isolation && namespace != own && !multus.global_namespaces.iter().any(|name| name == namespace)
    {
        return Err(SourceError::Isolated {
            origin: origin.into(),
            reference: format!("{namespace}/{}", selection.name),
            pod_namespace: own.into(),
            global: multus.global_namespaces.clone(),
        });
    }
    let name = selection.name.clone();
    if !has_api {
        return Ok(Target::Named { definition: None, on_disk: Some(name) });
    }
    // What is on disk is in no namespace: a pod that is kept to some namespaces gets it through a definition only.
    let on_disk = (selection.namespace.is_none() && !multus.namespace_isolation).then(|| name.clone());
    Ok(Target::Named { definition: Some(DefinitionKey { namespace: namespace.into(), name }), on_disk })
}

/// The network that a definition stands for: its configuration, or the one on disk that has its name.
fn network_of_definition(
    config: &Config,
    key: &DefinitionKey,
    definition: &Definition,
    origin: &str,
    warnings: &mut Vec<String>,
) -> Result<NetworkConfig, SourceError> {
    let Some(text) = &definition.config else { return find(config, &key.name, origin, warnings) };
    let defaults = Defaults { name: Some(&key.name), version: Some(config.version) };
    parse_object(text.as_bytes())
        .and_then(|object| NetworkConfig::complete_from_object(object, defaults))
        .map_err(|source| wrong_config(origin, format!("network-attachment-definition {key}"), source))
}

fn look_up(
    config: &Config,
    definition: Option<DefinitionKey>,
    on_disk: Option<&str>,
    origin: &str,
    warnings: &mut Vec<String>,
) -> Result<NetworkConfig, SourceError> {
    let missing = |key, on_disk| SourceError::NoDefinition { origin: origin.into(), key, on_disk };
    match (definition, on_disk) {
        (None, reference) => find(config, reference.unwrap_or_default(), origin, warnings),
        (Some(key), None) => Err(missing(key, None)),
        (Some(key), Some(reference)) => match find(config, reference, origin, warnings) {
            Err(SourceError::Unknown { conf_dir, skipped, .. }) => {
                let passed_over = skipped.iter().fold(String::new(), |text, error| text + "; passed over " + error);
                let reason = format!("no network is called {reference:?} in {}{passed_over}", conf_dir.display());
                Err(missing(key, Some(reason)))
            }
            found => found,
        },
    }
}

fn find(
    config: &Config,
    reference: &str,
    origin: &str,
    warnings: &mut Vec<String>,
) -> Result<NetworkConfig, SourceError> {
    let found = conf_dir::look_up(&config.conf_dir, reference)
        .map_err(|source| SourceError::Load { origin: origin.into(), source })?;
    let skipped: Vec<String> = found.skipped.iter().map(ToString::to_string).collect();
    match found.loaded {
        Some(loaded) => {
            warnings.extend(skipped.iter().map(|error| format!("passed over {error}")));
            Ok(loaded.network)
        }
        None => Err(SourceError::Unknown {
            origin: origin.into(),
            reference: reference.into(),
            conf_dir: config.conf_dir.clone(),
            skipped,
        }),
    }
}
