//! Finds the network of each requested attachment, in a definition or on disk, and its device.

use super::candidate::Candidate;
use super::conf_dir;
use super::device::DeviceError;
use super::error::SourceError;
use super::pod::{Definition, DefinitionKey, Definitions, PodView};
use super::wanted::{Target, Want, Wanted, auxiliary_chain, operators_networks};
use crate::cni::config::{Defaults, NetworkConfig, parse_object};
use crate::config::problems::Problems;
use crate::config::{Author, Config};
use crate::request::Request;
use crate::runtime::load::LoadError;

/// The attachments of a call, with their networks.
#[derive(Debug, Default)]
pub struct Gathered {
    /// The attachments, primary first. `None` for an optional one that was not found: the names of the others depend on their
    /// position.
    pub candidates: Vec<Option<Candidate>>,
    /// What does not apply to this call, with the reasons.
    pub dropped: Vec<String>,
    /// What is odd and not wrong.
    pub warnings: Vec<String>,
}

/// The attachments of a call, with all problems.
#[derive(Debug, Default)]
pub struct Surveyed {
    /// The attachments, primary first. `None` for one that was not found: the names of the others depend on their position.
    pub candidates: Vec<Option<Candidate>>,
    /// What does not apply to this call, with the reasons.
    pub dropped: Vec<String>,
    /// What is odd and not wrong.
    pub warnings: Vec<String>,
    /// What is wrong.
    pub errors: Problems<SourceError>,
}

impl Surveyed {
    /// The attachments, if there is no problem.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn or_first(self) -> Result<Gathered, SourceError> {
        let Self { candidates, dropped, warnings, errors } = self;
        errors.or_first(Gathered { candidates, dropped, warnings })
    }
}

/// Collects the attachments of a call that uses no Kubernetes API server, from the configuration and from disk.
///
/// # Errors
/// When a network that is asked for cannot be found or read.
pub fn gather(config: &Config, request: &Request) -> Result<Gathered, SourceError> {
    look_up(Wanted::list(config, request, None).or_first()?, config, None).or_first()
}

/// Collects the attachments, and continues after a problem. `view` is given if an API server was asked.
pub fn survey(config: &Config, request: &Request, view: Option<&PodView>) -> Surveyed {
    look_up(Wanted::list(config, request, view.map(|view| &view.pod)), config, view)
}

/// Looks up every network, and continues after a problem: a network that cannot be found, read or used by this pod, or a missing
/// device. For an optional attachment, this is only a warning, unless it would be the primary one.
pub fn look_up(wanted: Wanted, config: &Config, view: Option<&PodView>) -> Surveyed {
    let Wanted { wants, dropped, mut warnings, problems: mut errors } = wanted;
    let mut lookup = Lookup { config, definitions: view.map(|view| &view.definitions), warnings: &mut warnings };
    let has_primary = config.prev_result.is_none();
    let mut candidates = Vec::with_capacity(wants.len());
    for (index, want) in wants.into_iter().enumerate() {
        let is_forgiven = want.as_ref().is_some_and(|want| want.optional) && !(has_primary && index == 0);
        candidates.push(match want.map(|want| lookup.candidate(want, view)).transpose() {
            Err(error) if is_forgiven => {
                lookup.warnings.push(format!("{error}; it is optional, so the container goes without it"));
                None
            }
            found => errors.record(found).flatten(),
        });
    }
    Surveyed { candidates, dropped, warnings, errors }
}

/// The networks that a container could get, each once.
#[derive(Debug, Default)]
pub struct Known {
    /// Those that were found, each with whether it is optional.
    pub networks: Vec<(NetworkConfig, bool)>,
    /// What cannot be found.
    pub errors: Vec<SourceError>,
    /// What cannot be found and is optional.
    pub forgiven: Vec<SourceError>,
}

/// Every network that a container could get, according to the configuration and the disk: all delegates, whatever their `when`.
pub fn every_network(config: &Config) -> Known {
    every_network_with(config, None)
}

/// The same as [`every_network`] with an API server: `definitions` are those of
/// [`operators_definitions`](super::operators_definitions). If it is not known whether a definition exists, the network on disk of
/// that name is used, if there is one.
pub fn every_network_with(config: &Config, definitions: Option<&Definitions>) -> Known {
    let mut known = Known::default();
    let mut lookup = Lookup { config, definitions, warnings: &mut Vec::new() };
    for network in operators_networks(config).into_iter().chain(auxiliary_chain(config)) {
        let (origin, is_optional) = (network.origin.clone(), network.is_optional());
        let found = network.target(config, definitions.is_some()).and_then(|target| match target {
            Target::Network(network) => Ok(Some(network)),
            Target::Named { definition: Some(key), on_disk } if lookup.withheld(&key).is_some() => {
                lookup.on_disk_if_there(on_disk.as_deref(), &origin)
            }
            Target::Named { definition, on_disk } => match lookup.definition(definition.as_ref()) {
                Some((key, definition)) => lookup.of_definition(&key, &definition, &origin).map(Some),
                None => lookup.by_name(definition, on_disk.as_deref(), &origin).map(Some),
            },
        });
        match found {
            Ok(Some(network)) => match known.networks.iter_mut().find(|(one, _)| one.name == network.name) {
                Some((_, may_lack)) => *may_lack &= is_optional,
                None => known.networks.push((network, is_optional)),
            },
            Ok(None) => {}
            Err(error) if is_optional => known.forgiven.push(error),
            Err(error) => known.errors.push(error),
        }
    }
    known
}

/// Where networks are looked up.
struct Lookup<'a> {
    config: &'a Config,
    definitions: Option<&'a Definitions>,
    warnings: &'a mut Vec<String>,
}

impl Lookup<'_> {
    /// A request, with its network and its device.
    fn candidate(&mut self, want: Want, view: Option<&PodView>) -> Result<Candidate, SourceError> {
        let Want { target, mut selection, optional, author, origin, reason } = want;
        let asked = (author == Author::Pod).then(|| selection.asked());
        let mut resource = None;
        let mut on_disk_name = None;
        let network = match target {
            Target::Network(network) => network,
            Target::Named { definition, on_disk } => {
                if let Some(reason) = definition.as_ref().and_then(|key| self.withheld(key)) {
                    return Err(SourceError::Withheld { origin, reason: reason.into() });
                }
                if let Some((key, definition)) = self.definition(definition.as_ref()) {
                    if definition.config.is_none() {
                        self.refuse_isolated_on_disk(author, &key, &origin)?;
                        on_disk_name = Some(key.name.clone());
                    }
                    let network = self.of_definition(&key, &definition, &origin)?;
                    selection.name = key.name;
                    selection.namespace = Some(key.namespace);
                    resource = definition.resource;
                    network
                } else {
                    if author == Author::Pod {
                        // Networks on disk are in no namespace. The policy must not use a namespace that the pod wrote.
                        selection.namespace = None;
                    }
                    self.by_name(definition, on_disk.as_deref(), &origin)?
                }
            }
        };
        let mut allocated = None;
        match (view.map(|view| view.devices.get(&origin)), &selection.resource_claim) {
            (Some(Some(device)), _) => {
                let device = device.clone().map_err(|source| SourceError::Device { origin: origin.clone(), source })?;
                selection.device_id = Some(device.id);
                resource = device.resource.or(resource);
                allocated = device.allocated;
            }
            (None, Some(wanted)) => {
                let source = DeviceError::NoPod { wanted: wanted.clone() };
                return Err(SourceError::Device { origin, source });
            }
            // It needs no device, or the device is not known.
            _ => {}
        }
        Ok(Candidate { network, selection, asked, on_disk_name, optional, author, origin, reason, resource, allocated })
    }

    /// Why it is not known whether a definition exists.
    fn withheld(&self, key: &DefinitionKey) -> Option<&str> {
        self.definitions?.withheld(key)
    }

    fn definition(&self, key: Option<&DefinitionKey>) -> Option<(DefinitionKey, Definition)> {
        let key = key?;
        Some((key.clone(), self.definitions?.get(key)?.clone()))
    }

    /// With `namespaceIsolation`, a pod cannot name networks on disk. It cannot use a definition without a configuration either,
    /// because then the definition's author could use every network on the node. A policy checks that name itself.
    fn refuse_isolated_on_disk(&self, author: Author, key: &DefinitionKey, origin: &str) -> Result<(), SourceError> {
        let is_judged = self.config.policy.is_some();
        if author == Author::Operator || !self.config.multus.namespace_isolation || is_judged {
            return Ok(());
        }
        Err(SourceError::IsolatedOnDisk { origin: origin.into(), key: key.clone() })
    }

    /// The network of a definition: its configuration, or the network on disk that has its name.
    fn of_definition(
        &mut self,
        key: &DefinitionKey,
        definition: &Definition,
        origin: &str,
    ) -> Result<NetworkConfig, SourceError> {
        let Some(text) = &definition.config else { return self.on_disk(&key.name, origin) };
        let defaults = Defaults { name: Some(&key.name), version: Some(self.config.version) };
        parse_object(text.as_bytes()).and_then(|object| NetworkConfig::complete_from_object(object, defaults)).map_err(
            |source| {
                let path = format!("network-attachment-definition {key}").into();
                SourceError::Load { origin: origin.into(), source: LoadError::Config { path, source } }
            },
        )
    }

    /// The network for a definition that does not exist: the one on disk, if that is allowed.
    fn by_name(
        &mut self,
        definition: Option<DefinitionKey>,
        on_disk: Option<&str>,
        origin: &str,
    ) -> Result<NetworkConfig, SourceError> {
        let missing = |key, on_disk| SourceError::NoDefinition { origin: origin.into(), key, on_disk };
        match (definition, on_disk) {
            (None, reference) => self.on_disk(reference.unwrap_or_default(), origin),
            (Some(key), None) => Err(missing(key, None)),
            (Some(key), Some(reference)) => match self.on_disk(reference, origin) {
                Err(SourceError::Unknown { conf_dir, skipped, .. }) => {
                    let appended = skipped.iter().fold(String::new(), |text, error| text + "; skipped " + error);
                    let reason = format!("no network is called {reference:?} in {}{appended}", conf_dir.display());
                    Err(missing(key, Some(reason)))
                }
                found => found,
            },
        }
    }

    fn on_disk_if_there(
        &mut self,
        reference: Option<&str>,
        origin: &str,
    ) -> Result<Option<NetworkConfig>, SourceError> {
        match reference.map(|reference| self.on_disk(reference, origin)) {
            None | Some(Err(SourceError::Unknown { .. })) => Ok(None),
            Some(found) => found.map(Some),
        }
    }

    fn on_disk(&mut self, reference: &str, origin: &str) -> Result<NetworkConfig, SourceError> {
        let found = conf_dir::look_up(&self.config.conf_dir, reference)
            .map_err(|source| SourceError::Load { origin: origin.into(), source })?;
        let skipped: Vec<String> = found.skipped.iter().map(ToString::to_string).collect();
        match found.loaded {
            Some(loaded) => {
                self.warnings.extend(skipped.iter().map(|error| format!("skipped {error}")));
                Ok(loaded.network)
            }
            None => Err(SourceError::Unknown {
                origin: origin.into(),
                reference: reference.into(),
                conf_dir: self.config.conf_dir.clone(),
                skipped,
            }),
        }
    }
}
