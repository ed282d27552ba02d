//! Network configurations (SPEC §1): lists of plugins, and single ones.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{ConfigError, PluginConfig, RawObject, get, get_bool, get_list, parse_object};
use crate::cni::{Version, validate};

/// A network configuration: a name, a version, and the plugins that make the network, in order.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NetworkConfig {
    /// The network's name.
    pub name: String,
    /// The version that is used with its plugins: the highest of `cniVersion` and `cniVersions` that is known here.
    #[serde(rename = "cniVersion")]
    pub version: Version,
    /// CHECK must not be called.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub disable_check: bool,
    /// GC must not be called.
    #[serde(default, rename = "disableGC", skip_serializing_if = "std::ops::Not::not")]
    pub disable_gc: bool,
    /// Plugin configurations beside the file are not appended.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub load_only_inlined_plugins: bool,
    /// The plugins, in the order of ADD.
    pub plugins: Vec<PluginConfig>,
}

/// Defaults for a configuration that does not set these values itself.
#[derive(Debug, Clone, Copy, Default)]
pub struct Defaults<'a> {
    /// Its name, if it may go without one.
    pub name: Option<&'a str>,
    /// Its version; [`Version::DEFAULT`] if there is none.
    pub version: Option<Version>,
}

impl NetworkConfig {
    /// Reads a configuration list (`plugins`) or a single plugin configuration (`type`), which becomes a list of one.
    ///
    /// # Errors
    /// When a key that the protocol defines is missing or wrong.
    pub fn from_object(object: RawObject, defaults: Defaults<'_>) -> Result<Self, ConfigError> {
        let name: Option<String> = get(&object, "name", "the network's name, a string")?;
        let name = match name.filter(|name| !name.is_empty()) {
            Some(name) => name,
            None => defaults
                .name
                .map(str::to_owned)
                .ok_or_else(|| ConfigError::Missing { key: "name".into(), expected: "the network's name, a string" })?,
        };
        validate::network_name(&name).map_err(|source| ConfigError::Name { key: "name".into(), source })?;
        let version = select_version(&object)?.or(defaults.version).unwrap_or(Version::DEFAULT);
        let single = object.contains_key("type");
        let mut config = Self {
            name,
            version,
            disable_check: get_bool(&object, "disableCheck")?,
            disable_gc: get_bool(&object, "disableGC")?,
            load_only_inlined_plugins: get_bool(&object, "loadOnlyInlinedPlugins")?,
            plugins: Vec::new(),
        };
        if single {
            config.plugins.push(PluginConfig::from_object(object)?);
        } else {
            let plugins: Option<Vec<RawObject>> =
                get_list(&object, "plugins", "a list of plugin configurations", "a plugin configuration, an object")?;
            if plugins.is_none() && config.load_only_inlined_plugins {
                return Err(ConfigError::Missing {
                    key: "plugins".into(),
                    expected: "a list of plugin configurations, as loadOnlyInlinedPlugins is true",
                });
            }
            for (index, plugin) in plugins.unwrap_or_default().into_iter().enumerate() {
                let plugin =
                    PluginConfig::from_object(plugin).map_err(|error| error.within(&format!("plugins[{index}]")))?;
                config.plugins.push(plugin);
            }
        }
        Ok(config)
    }

    /// Reads a configuration that must contain at least one plugin itself.
    ///
    /// # Errors
    /// As [`Self::from_object`], and when there is no plugin.
    pub fn complete_from_object(object: RawObject, defaults: Defaults<'_>) -> Result<Self, ConfigError> {
        let config = Self::from_object(object, defaults)?;
        if config.plugins.is_empty() {
            return Err(ConfigError::Missing {
                key: "plugins".into(),
                expected: "a list of plugin configurations, or \"type\" for a single one",
            });
        }
        Ok(config)
    }
}

impl FromStr for NetworkConfig {
    type Err = ConfigError;

    /// Reads a configuration that contains its name and its plugins itself.
    fn from_str(json: &str) -> Result<Self, Self::Err> {
        Self::complete_from_object(parse_object(json.as_bytes())?, Defaults::default())
    }
}

/// The version to use, from `cniVersion` and `cniVersions`.
///
/// # Errors
/// When one of them is of the wrong type, or nothing that is declared is known.
pub fn select_version(object: &RawObject) -> Result<Option<Version>, ConfigError> {
    let one: Option<String> = get(object, "cniVersion", "a CNI version, a string")?;
    let many: Option<Vec<String>> =
        get_list(object, "cniVersions", "a list of CNI versions", "a CNI version, a string")?;
    let declared = one.iter().chain(many.iter().flatten()).map(String::as_str);
    Version::select(declared).map_err(|source| ConfigError::Version { source })
}

/// The version that a runtime uses with the plugin to which it gives a configuration: `cniVersion`, which the runtime has chosen
/// (SPEC §3). There may also be `cniVersions`, with versions that the runtime does not know. It counts only if `cniVersion` is
/// missing or not known here.
///
/// # Errors
/// When one of them is of the wrong type, or nothing that is declared is known.
pub fn spoken_version(object: &RawObject) -> Result<Version, ConfigError> {
    let chosen: Option<String> = get(object, "cniVersion", "a CNI version, a string")?;
    match chosen.and_then(|version| version.parse().ok()) {
        Some(version) => Ok(version),
        None => Ok(select_version(object)?.unwrap_or(Version::DEFAULT)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_names_the_plugin_that_is_wrong() {
        let object = parse_object(br#"{"name":"n","plugins":[{"type":"a"},{"type":"../b"}]}"#).unwrap();
        let error = NetworkConfig::from_object(object, Defaults::default()).unwrap_err();
        assert!(error.to_string().contains("plugins[1].type"), "{error}");
    }

    #[test]
    fn a_runtime_has_chosen_the_version_that_is_spoken() {
        for (text, expected) in [
            (r#"{"cniVersion":"1.0.0","cniVersions":["0.4.0","1.1.0"]}"#, Version::V1_0_0),
            (r#"{"cniVersions":["0.4.0","9.9.9"]}"#, Version::V0_4_0),
            (r#"{"cniVersion":"9.9.9","cniVersions":["1.0.0"]}"#, Version::V1_0_0),
            ("{}", Version::V0_1_0),
            (r#"{"cniVersion":""}"#, Version::V0_1_0),
        ] {
            assert_eq!(spoken_version(&parse_object(text.as_bytes()).unwrap()).unwrap(), expected, "{text}");
        }
        assert!(spoken_version(&parse_object(br#"{"cniVersion":"9.9.9"}"#).unwrap()).is_err());
    }
}
