//! `delegates`: what the operator attaches.

use serde_json::value::RawValue;

use super::object::{KeyError, Keys};
use super::problems::Problems;
use super::selection::{OperatorSelection, Selection};
use super::validated::InvalidConfig;
use crate::cni::Version;
use crate::cni::config::{Defaults, NetworkConfig, RawObject, folds_to, get, kind, raw};

/// Keys of an operator's selection that decide which containers get a network. In a network configuration they would only be passed
/// to its plugins, which do not know them.
const DECIDING_KEYS: [&str; 2] = ["when", "optional"];
/// Keys of a selection that no plugin reads from its configuration.
const SELECTION_KEYS: [&str; 8] = [
    "interface",
    "interfaceRequest",
    "ips",
    "cni-args",
    "default-route",
    "infiniband-guid",
    "portMappings",
    "ipam-claim-reference",
];

/// An entry of `delegates`.
#[derive(Debug, Clone)]
pub enum Delegate {
    /// A plugin configuration or a configuration list, in place.
    Network(NetworkConfig),
    /// A selection.
    Selection(Box<OperatorSelection>),
}

/// What entries inherit from the configuration around them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Outer<'a> {
    /// The network's name.
    pub(super) name: &'a str,
    /// The version for entries without one.
    pub(super) version: Version,
}

/// Reads `delegates`. Adds what is valid but suspicious to `warnings`.
pub(super) fn read(
    keys: &Keys<'_>,
    outer: Outer<'_>,
    warnings: &mut Vec<String>,
    problems: &mut Problems<InvalidConfig>,
) -> Vec<Delegate> {
    let list = problems.record(keys.list("delegates", "a list of delegates")).flatten().unwrap_or_default();
    let mut delegates = Vec::with_capacity(list.len());
    for (index, entry) in list.into_iter().enumerate() {
        let place = format!("delegates[{index}]");
        let default_name = default_name(outer.name, index);
        let defaults = Defaults { name: Some(&default_name), version: Some(outer.version) };
        delegates.extend(problems.record(Entry { place, defaults }.read(entry, warnings)));
    }
    delegates
}

/// The name of the delegate at `index` of the list, if it has none itself. It must be unique, because plugins keep state by network
/// name and container.
fn default_name(outer: &str, index: usize) -> String {
    if index == 0 { outer.to_owned() } else { format!("{outer}-{index}") }
}

/// The place of an entry, and what it inherits.
struct Entry<'a> {
    place: String,
    defaults: Defaults<'a>,
}

impl Entry<'_> {
    fn read(&self, entry: &RawValue, warnings: &mut Vec<String>) -> Result<Delegate, InvalidConfig> {
        let wrong = |_| KeyError::Wrong {
            path: self.place.clone(),
            found: kind(entry),
            expected: "a plugin configuration, a configuration list or a selection".into(),
        };
        if entry.get().starts_with('"') {
            let text: String = serde_json::from_str(entry.get()).map_err(wrong)?;
            let selection = Selection::from_text(&text, &self.place)?;
            let place = self.place.clone();
            let selection = OperatorSelection { place, selection, ..OperatorSelection::default() };
            return Ok(Delegate::Selection(Box::new(selection)));
        }
        let object: RawObject = serde_json::from_str(entry.get()).map_err(wrong)?;
        if object.contains_key("type") || object.contains_key("plugins") {
            warnings.extend(self.misplaced(&object)?);
            return self.network(object, &self.place).map(Delegate::Network);
        }
        self.selection(&object).map(|selection| Delegate::Selection(Box::new(selection)))
    }

    fn network(&self, object: RawObject, place: &str) -> Result<NetworkConfig, InvalidConfig> {
        refuse_deciding_keys(&object, place)?;
        NetworkConfig::complete_from_object(object, self.defaults)
            .map_err(|source| InvalidConfig::Delegate { place: place.to_owned(), source })
    }

    /// Warnings about keys of a selection in a network configuration.
    fn misplaced(&self, object: &RawObject) -> Result<Vec<String>, InvalidConfig> {
        refuse_deciding_keys(object, &self.place)?;
        let beside = beside(object);
        let is_version_missing = !object.contains_key("cniVersion") && !object.contains_key("cniVersions");
        let version = (is_version_missing && object.contains_key("version"))
            .then(|| format!("{}: \"version\" is a key that nothing reads; expected \"cniVersion\"", self.place));
        let misplaced = SELECTION_KEYS.into_iter().filter(|key| object.contains_key(*key));
        let misplaced = misplaced.map(|key| {
            let place = &self.place;
            let form = right_form(object, key);
            format!("{place}: {key:?} beside {beside:?} has no effect unless a plugin reads it; expected {form}")
        });
        Ok(misplaced.chain(version).collect())
    }

    fn selection(&self, object: &RawObject) -> Result<OperatorSelection, InvalidConfig> {
        let mut selection = OperatorSelection::from_object(object, &self.place).map_err(|error| match error {
            KeyError::Unknown { place, key, nearest } => {
                let place = format!("{place} (a selection, as it has neither \"type\" nor \"plugins\")");
                KeyError::Unknown { place, key, nearest }
            }
            other => other,
        })?;
        if let Some(config) = &mut selection.config {
            if !config.contains_key("name") {
                let own = Some(selection.selection.name.as_str()).filter(|name| !name.is_empty());
                config.insert("name".into(), raw(own.or(self.defaults.name).unwrap_or_default()));
            }
            // A wrong configuration is reported now, whether or not the selection applies.
            self.network(config.clone(), &format!("{}.config", self.place))?;
        }
        Ok(selection)
    }
}

fn beside(object: &RawObject) -> &'static str {
    if object.contains_key("type") { "type" } else { "plugins" }
}

/// Rejects `when` and `optional` in a network configuration or one of its plugins: the network would be attached to every
/// container.
fn refuse_deciding_keys(object: &RawObject, place: &str) -> Result<(), KeyError> {
    let plugins = get::<Vec<RawObject>>(object, "plugins", "a list").ok().flatten().unwrap_or_default();
    let nested = plugins.iter().enumerate().map(|(index, plugin)| (format!("{place}.plugins[{index}]"), plugin));
    for (place, network) in std::iter::once((place.to_owned(), object)).chain(nested) {
        for key in DECIDING_KEYS {
            if network.keys().any(|found| folds_to(found, key)) {
                let reason = format!(
                    "{key:?} beside {:?} would decide nothing, as it belongs to a selection; expected {}",
                    beside(network),
                    right_form(object, key)
                );
                return Err(KeyError::Conflict { place, reason });
            }
        }
    }
    Ok(())
}

/// An example of a selection with this network and this key.
fn right_form(network: &RawObject, key: &str) -> String {
    let config = match get::<String>(network, "type", "a string") {
        Ok(Some(plugin)) => format!("{{\"type\": {plugin:?}, …}}"),
        _ => "{\"plugins\": […]}".to_owned(),
    };
    format!("{{\"config\": {config}, {key:?}: …}}")
}
