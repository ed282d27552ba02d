//! Collects the attachments that a call asks for, from every place that can ask.

use std::path::PathBuf;

use super::conf_dir;
use crate::cni::config::{Defaults, NetworkConfig};
use crate::config::{Config, Delegate};
use crate::plan::build::{Author, Candidate, appended};
use crate::plan::selection::{OperatorSelection, Selection};
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

/// Collects the attachments for a call.
///
/// # Errors
/// When a network that is asked for cannot be found or read.
pub fn gather(config: &Config, request: &Request) -> Result<Gathered, SourceError> {
    let mut gathered = Gathered::default();
    match &config.multus.cluster_network {
        Some(reference) => {
            gathered.by_reference(config, reference, "clusterNetwork")?;
            let namespace = request.arg("K8S_POD_NAMESPACE").unwrap_or_default();
            let is_system = config.multus.system_namespaces.iter().any(|name| name == namespace);
            for (index, reference) in config.multus.default_networks.iter().enumerate() {
                let origin = format!("defaultNetworks[{index}]");
                if is_system {
                    gathered.dropped.push(format!("{origin}: {namespace} is one of systemNamespaces"));
                } else {
                    gathered.by_reference(config, reference, &origin)?;
                }
            }
        }
        None => {
            for (index, delegate) in config.delegates.iter().enumerate() {
                gathered.delegate(config, request, delegate, format!("delegates[{index}]"))?;
            }
        }
    }
    for (index, selection) in config.runtime_selections.iter().enumerate() {
        let origin = format!("runtimeConfig.networks[{index}]");
        let network = find(config, &selection.name, &origin, &mut gathered.warnings)?;
        gathered.candidates.push(Candidate {
            network,
            // On disk networks have no namespace. One that the pod writes is not to be what the policy judges by.
            selection: Selection { namespace: None, ..selection.clone() },
            optional: false,
            author: Author::Pod,
            origin,
            reason: "the runtime asks for it".into(),
        });
    }
    gathered.auxiliary_chain(config)?;
    Ok(gathered)
}

/// Every network that some container could get: all delegates, whatever their `when` says, each once. What cannot be
/// found is returned beside them.
pub fn every_network(config: &Config) -> (Vec<NetworkConfig>, Vec<SourceError>) {
    let mut networks: Vec<NetworkConfig> = Vec::new();
    let mut errors = Vec::new();
    let mut take = |found: Result<NetworkConfig, SourceError>| match found {
        Ok(network) if networks.iter().any(|known| known.name == network.name) => {}
        Ok(network) => networks.push(network),
        Err(error) => errors.push(error),
    };
    let mut ignored = Vec::new();
    if let Some(reference) = &config.multus.cluster_network {
        take(find(config, reference, "clusterNetwork", &mut ignored));
        for (index, reference) in config.multus.default_networks.iter().enumerate() {
            take(find(config, reference, &format!("defaultNetworks[{index}]"), &mut ignored));
        }
    } else {
        for (index, delegate) in config.delegates.iter().enumerate() {
            take(network_of(config, delegate, &format!("delegates[{index}]"), &mut ignored));
        }
    }
    (networks, errors)
}

impl Gathered {
    fn by_reference(&mut self, config: &Config, reference: &str, origin: &str) -> Result<(), SourceError> {
        let network = find(config, reference, origin, &mut self.warnings)?;
        self.candidates.push(Candidate {
            network,
            selection: Selection { name: reference.into(), ..Selection::default() },
            optional: false,
            author: Author::Operator,
            origin: origin.into(),
            reason: "always".into(),
        });
        Ok(())
    }

    fn delegate(
        &mut self,
        config: &Config,
        request: &Request,
        delegate: &Delegate,
        origin: String,
    ) -> Result<(), SourceError> {
        let (selection, optional, reason) = match delegate {
            Delegate::Network(_) => (Selection::default(), false, "always".into()),
            Delegate::Selection(operator) => match operator.when.judge(&request.args) {
                Ok(reason) => (operator.selection.clone(), operator.optional, reason),
                Err(reason) => {
                    let name = name_of(operator);
                    self.dropped.push(format!("{origin} ({name}): {reason}"));
                    return Ok(());
                }
            },
        };
        let network = network_of(config, delegate, &origin, &mut self.warnings)?;
        self.candidates.push(Candidate { network, selection, optional, author: Author::Operator, origin, reason });
        Ok(())
    }

    /// The chain in `<directory of clusterNetwork>/<auxiliaryCNIChainName>/*.conf`, if there is any file.
    fn auxiliary_chain(&mut self, config: &Config) -> Result<(), SourceError> {
        let (Some(name), Some(cluster_network)) = (&config.multus.auxiliary_chain, &config.multus.cluster_network)
        else {
            return Ok(());
        };
        let origin = "auxiliaryCNIChainName";
        let path = std::path::Path::new(cluster_network);
        let directory = match path.parent() {
            Some(parent) if path.is_absolute() && !path.is_dir() => parent.to_owned(),
            _ if path.is_absolute() => path.to_owned(),
            _ => config.conf_dir.clone(),
        };
        let plugins = crate::runtime::load::plugins_of(&directory.join(name))
            .map_err(|source| SourceError::Load { origin: origin.into(), source })?;
        if plugins.is_empty() {
            return Ok(());
        }
        let network = NetworkConfig {
            name: name.clone(),
            version: config.version,
            disable_check: false,
            disable_gc: false,
            load_only_inlined_plugins: true,
            plugins,
        };
        self.candidates.push(Candidate {
            network,
            selection: Selection::default(),
            optional: false,
            author: Author::Operator,
            origin: origin.into(),
            reason: "always".into(),
        });
        Ok(())
    }
}

fn name_of(operator: &OperatorSelection) -> String {
    if operator.selection.name.is_empty() { "inline".into() } else { operator.selection.reference() }
}

fn network_of(
    config: &Config,
    delegate: &Delegate,
    origin: &str,
    warnings: &mut Vec<String>,
) -> Result<NetworkConfig, SourceError> {
    let operator = match delegate {
        Delegate::Network(network) => return Ok(network.clone()),
        Delegate::Selection(operator) => operator,
    };
    match &operator.config {
        Some(object) => {
            let defaults = Defaults { name: None, version: Some(config.version) };
            NetworkConfig::complete_from_object(object.clone(), defaults).map_err(|source| SourceError::Load {
                origin: origin.into(),
                source: LoadError::Config { path: format!("{origin}.config").into(), source },
            })
        }
        None => find(config, &operator.selection.name, origin, warnings),
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
