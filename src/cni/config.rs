//! Network configurations (SPEC §1) and the request configuration derived from them (SPEC §3).
//!
//! A configuration is kept as the text it came in: every value stays the JSON it was written as, in its order, so that
//! what a plugin gets is what its author wrote, down to the spelling of a number. Only the keys that the protocol
//! defines are read.

use std::str::FromStr;

use indexmap::IndexMap;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::capability;
use super::error::{CniError, code};
use super::validate::{self, InvalidName};
use super::version::{UnknownVersion, Version};

/// A JSON object whose values are kept as text. A key that stands twice has its last value, as in libcni.
pub type RawObject = IndexMap<String, Box<RawValue>>;

/// What is wrong with a configuration. The caller says which file or delegate it is.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It is not JSON, or not a JSON object.
    #[error("the configuration is not a JSON object: {}", without_values(.0))]
    Json(serde_json::Error),
    /// A key that must be there is not.
    #[error("{key:?} is missing, expected {expected}")]
    Missing {
        /// The key.
        key: String,
        /// What should stand there.
        expected: &'static str,
    },
    /// A key holds the wrong thing.
    #[error("{key:?} is {found}, expected {expected}")]
    Wrong {
        /// The key.
        key: String,
        /// What stands there; see [`kind`].
        found: String,
        /// What should stand there.
        expected: &'static str,
    },
    /// A name breaks the rules.
    #[error("{key:?}: {source}")]
    Name {
        /// The key that holds the name.
        key: String,
        /// The rule that is broken.
        source: InvalidName,
    },
    /// None of the versions it is written for is known.
    #[error("{key:?}: {source}", key = "cniVersion")]
    Version {
        /// The version.
        source: UnknownVersion,
    },
}

impl From<&ConfigError> for CniError {
    /// The CNI error of a configuration that breaks the protocol's rules.
    fn from(error: &ConfigError) -> Self {
        let code = match error {
            ConfigError::Json(_) => code::DECODE,
            ConfigError::Version { .. } => code::INCOMPATIBLE_VERSION,
            ConfigError::Missing { .. } | ConfigError::Wrong { .. } | ConfigError::Name { .. } => code::INVALID_CONFIG,
        };
        Self::new(code, error.to_string())
    }
}

impl ConfigError {
    fn within(self, place: &str) -> Self {
        let prefix = |key: String| format!("{place}.{key}");
        match self {
            Self::Missing { key, expected } => Self::Missing { key: prefix(key), expected },
            Self::Wrong { key, found, expected } => Self::Wrong { key: prefix(key), found, expected },
            Self::Name { key, source } => Self::Name { key: prefix(key), source },
            other => other,
        }
    }
}

/// What a parser says is wrong, without the strings it found where it expected something else: they may be secrets.
pub fn without_values(error: &serde_json::Error) -> String {
    let mut message = error.to_string();
    if let (Some(from), Some(to)) = (message.find("string \""), message.rfind("\", expected ")) {
        let from = from + "string".len();
        if from <= to {
            message.replace_range(from..=to, "");
        }
    }
    message
}

/// Says what kind of JSON value this is. A string is not shown: where none is expected, it may be a secret.
pub fn kind(raw: &RawValue) -> String {
    if raw.get().starts_with('"') { "a string".into() } else { describe(raw) }
}

/// Says in a few words what a JSON value is, without giving away what a large or nested one holds.
pub fn describe(raw: &RawValue) -> String {
    let text = raw.get();
    match text.as_bytes().first() {
        Some(b'{') => "an object".into(),
        Some(b'[') if text[1..text.len() - 1].trim_ascii().is_empty() => "an empty list".into(),
        Some(b'[') => "a list".into(),
        Some(b'"') => {
            let value: String = serde_json::from_str(text).unwrap_or_default();
            let short: String = value.chars().take(64).collect();
            format!("the string {short:?}")
        }
        _ => text.chars().take(64).collect(),
    }
}

/// Reads `key` of a raw object.
///
/// # Errors
/// [`ConfigError::Wrong`] when it holds something that is not a `T`. A missing key and `null` are `None`.
pub fn get<T: DeserializeOwned>(
    object: &RawObject,
    key: &str,
    expected: &'static str,
) -> Result<Option<T>, ConfigError> {
    match object.get(key) {
        None => Ok(None),
        Some(raw) => serde_json::from_str(raw.get()).map_err(|_| wrong(key, raw, expected)),
    }
}

/// Reads `key` as a list of `T`. `item` says what each element should be.
///
/// # Errors
/// [`ConfigError::Wrong`] when it is no list, or for the first element that is not a `T`. A missing key and `null` are
/// `None`.
pub fn get_list<T: DeserializeOwned>(
    object: &RawObject,
    key: &str,
    expected: &'static str,
    item: &'static str,
) -> Result<Option<Vec<T>>, ConfigError> {
    let Some(list) = get::<Vec<Box<RawValue>>>(object, key, expected)? else { return Ok(None) };
    let element = |(index, raw): (usize, Box<RawValue>)| {
        serde_json::from_str(raw.get()).map_err(|_| wrong(&format!("{key}[{index}]"), &raw, item))
    };
    list.into_iter().enumerate().map(element).collect::<Result<_, _>>().map(Some)
}

/// What is expected of a boolean.
pub const BOOLEAN: &str = "true or false, as a boolean or a string";

/// Reads `key` as a boolean, which may be written `true` or `"true"`, in any case, as libcni allows.
///
/// # Errors
/// [`ConfigError::Wrong`] when it is neither.
pub fn get_bool(object: &RawObject, key: &str) -> Result<bool, ConfigError> {
    let Some(raw) = object.get(key) else { return Ok(false) };
    if let Ok(value) = serde_json::from_str::<Option<bool>>(raw.get()) {
        return Ok(value.unwrap_or(false));
    }
    let text: String = serde_json::from_str(raw.get()).unwrap_or_default();
    match text.to_ascii_lowercase().as_str() {
        "true" => Ok(true),
        "false" => Ok(false),
        // What it says instead may be a secret in the wrong place.
        _ if raw.get().starts_with('"') => {
            Err(ConfigError::Wrong { key: key.into(), found: "a string that says neither".into(), expected: BOOLEAN })
        }
        _ => Err(wrong(key, raw, BOOLEAN)),
    }
}

/// The error that `key` holds the wrong thing.
pub fn wrong(key: &str, raw: &RawValue, expected: &'static str) -> ConfigError {
    ConfigError::Wrong { key: key.into(), found: kind(raw), expected }
}

/// Parses a JSON object, keeping its values as text.
///
/// # Errors
/// [`ConfigError::Json`] when it is not one JSON object and nothing else.
pub fn parse_object(bytes: &[u8]) -> Result<RawObject, ConfigError> {
    serde_json::from_slice(bytes).map_err(ConfigError::Json)
}

/// Makes a raw value of something that serialises.
///
/// # Panics
/// Never for the types of this crate, which all serialise.
pub fn raw<T: Serialize + ?Sized>(value: &T) -> Box<RawValue> {
    serde_json::value::to_raw_value(value).expect("plain data serialises")
}

/// The configuration of one plugin: a validated `type`, and every key as it was written.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(try_from = "RawObject", into = "RawObject")]
pub struct PluginConfig {
    plugin_type: String,
    capabilities: Vec<String>,
    keys: RawObject,
}

impl PluginConfig {
    /// Reads a plugin configuration out of a JSON object.
    ///
    /// # Errors
    /// When `type` is missing or not a plugin's file name, or `capabilities` is not an object.
    pub fn from_object(keys: RawObject) -> Result<Self, ConfigError> {
        const TYPE: &str = "the file name of a plugin, a string";
        let plugin_type: String =
            get(&keys, "type", TYPE)?.ok_or_else(|| ConfigError::Missing { key: "type".into(), expected: TYPE })?;
        validate::plugin_type(&plugin_type).map_err(|source| ConfigError::Name { key: "type".into(), source })?;
        let declared: Option<IndexMap<String, serde_json::Value>> =
            get(&keys, "capabilities", "an object of booleans")?;
        let capabilities = declared
            .unwrap_or_default()
            .into_iter()
            .filter(|(_, value)| value == &serde_json::Value::Bool(true))
            .map(|(name, _)| name)
            .collect();
        Ok(Self { plugin_type, capabilities, keys })
    }

    /// The file name of the plugin's executable.
    pub fn plugin_type(&self) -> &str {
        &self.plugin_type
    }

    /// Whether the plugin declares a capability.
    pub fn declares(&self, capability: &str) -> bool {
        self.capabilities.iter().any(|name| name == capability)
    }

    /// The capabilities declared `true`.
    pub fn capabilities(&self) -> &[String] {
        &self.capabilities
    }

    /// Every key as it was written.
    pub fn keys(&self) -> &RawObject {
        &self.keys
    }

    /// Derives what this plugin gets on standard input (SPEC §3, "Deriving request configuration from plugin
    /// configuration"): `cniVersion` and `name` set, `runtimeConfig` and `prevResult` inserted where they apply,
    /// `capabilities` and keys under `cni.dev/` left out, and every other key as it was and in its order.
    pub fn request(&self, insert: &Insert<'_>) -> Vec<u8> {
        let runtime_config = self.runtime_config(insert.capability_args);
        let args = insert.args.filter(|args| !args.is_empty()).map(|overlay| {
            let own = get(&self.keys, "args", "an object").ok().flatten().unwrap_or_default();
            raw(&overlay_objects(own, overlay))
        });
        let version = raw(insert.version.as_str());
        let name = raw(insert.name);
        let mut writer = ObjectWriter::new();
        let mut last: Vec<(&str, &RawValue)> = Vec::with_capacity(4);
        for (key, own) in [("cniVersion", &*version), ("name", &*name)] {
            if !self.keys.contains_key(key) {
                writer.entry(key, own);
            }
        }
        for (key, own) in &self.keys {
            if is_misspelt(key) {
                continue;
            }
            let value = match key.as_str() {
                "cniVersion" => &*version,
                "name" => &*name,
                "capabilities" | "prevResult" => continue,
                "runtimeConfig" if runtime_config.is_some() => continue,
                "args" => args.as_deref().unwrap_or(own),
                reserved if reserved.starts_with("cni.dev/") => continue,
                _ => own,
            };
            writer.entry(key, value);
        }
        if let Some(args) = args.as_deref().filter(|_| !self.keys.contains_key("args")) {
            last.push(("args", args));
        }
        if let Some(runtime_config) = &runtime_config {
            last.push(("runtimeConfig", runtime_config));
        }
        if let Some(attachments) = insert.valid_attachments {
            // The specification's key, and the one that libcni's first release of GC used.
            last.push(("cni.dev/valid-attachments", attachments));
            last.push(("cni.dev/attachments", attachments));
        }
        if let Some(prev_result) = insert.prev_result {
            last.push(("prevResult", prev_result));
        }
        for (key, value) in last {
            writer.entry(key, value);
        }
        writer.finish()
    }

    /// The plugin's own `runtimeConfig`, if its author wrote one, overlaid with what it declares of `given`.
    fn runtime_config(&self, given: &RawObject) -> Option<Box<RawValue>> {
        let mut derived = capability::derive(self, given).peekable();
        derived.peek()?;
        let mut object: RawObject = get(&self.keys, "runtimeConfig", "an object").ok().flatten().unwrap_or_default();
        object.extend(derived.map(|(name, value)| (name.to_owned(), value.to_owned())));
        Some(raw(&object))
    }
}

/// Whether a key that is not one of the protocol's would be read as one: Go's parser, which most plugins have, compares
/// without case. What the protocol inserts is not to be overruled by what stands beside it.
fn is_misspelt(key: &str) -> bool {
    const INSERTED: [&str; 4] = ["cniVersion", "name", "prevResult", "runtimeConfig"];
    INSERTED.iter().any(|name| key != *name && folds_to(key, name))
}

/// Whether Go's parser takes a key for `name`, which is within ASCII.
pub fn folds_to(key: &str, name: &str) -> bool {
    if key.is_ascii() { key.eq_ignore_ascii_case(name) } else { fold(key).eq_ignore_ascii_case(name) }
}

/// A key as Go's parser compares it: without case, in which two letters beyond ASCII fold onto one within.
pub fn fold(key: &str) -> String {
    key.chars()
        .map(|c| match c {
            '\u{17f}' => 's',
            '\u{212a}' => 'k',
            c => c.to_ascii_lowercase(),
        })
        .collect()
}

impl TryFrom<RawObject> for PluginConfig {
    type Error = ConfigError;

    fn try_from(keys: RawObject) -> Result<Self, Self::Error> {
        Self::from_object(keys)
    }
}

impl From<PluginConfig> for RawObject {
    fn from(plugin: PluginConfig) -> Self {
        plugin.keys
    }
}

/// What a request configuration adds to a plugin's own.
#[derive(Debug, Clone, Copy)]
pub struct Insert<'a> {
    /// The network's name.
    pub name: &'a str,
    /// The version to speak.
    pub version: Version,
    /// The runtime's capability arguments; a plugin gets those it declares.
    pub capability_args: &'a RawObject,
    /// Laid over the plugin's `args`, two levels deep.
    pub args: Option<&'a RawObject>,
    /// The previous result, in `version`'s shape.
    pub prev_result: Option<&'a RawValue>,
    /// For GC: what is still attached.
    pub valid_attachments: Option<&'a RawValue>,
}

/// Lays `over` over `base`: objects that stand under the same key are joined, everything else is replaced.
pub fn overlay_objects(mut base: RawObject, over: &RawObject) -> RawObject {
    for (key, value) in over {
        let object = |raw: &RawValue| serde_json::from_str::<RawObject>(raw.get()).ok();
        let joined = match (base.get(key).and_then(|own| object(own)), object(value)) {
            (Some(mut own), Some(over)) => {
                own.extend(over);
                raw(&own)
            }
            _ => value.clone(),
        };
        base.insert(key.clone(), joined);
    }
    base
}

/// Writes one JSON object into a buffer, value by value.
struct ObjectWriter {
    buffer: Vec<u8>,
}

impl ObjectWriter {
    fn new() -> Self {
        let mut buffer = Vec::with_capacity(1024);
        buffer.push(b'{');
        Self { buffer }
    }

    fn entry(&mut self, key: &str, value: &RawValue) {
        if self.buffer.len() > 1 {
            self.buffer.push(b',');
        }
        serde_json::to_writer(&mut self.buffer, key).expect("writing to memory succeeds");
        self.buffer.push(b':');
        self.buffer.extend_from_slice(value.get().as_bytes());
    }

    fn finish(mut self) -> Vec<u8> {
        self.buffer.push(b'}');
        self.buffer
    }
}

/// A network configuration: a name, a version, and the plugins that make the network, in order.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NetworkConfig {
    /// The network's name.
    pub name: String,
    /// The version that is spoken with its plugins: the highest of `cniVersion` and `cniVersions` known here.
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

/// What a configuration that does not say so itself is taken to say.
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

    /// Reads a configuration that must hold its plugins itself: at least one.
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

    /// Reads a configuration that holds its name and its plugins itself.
    fn from_str(json: &str) -> Result<Self, Self::Err> {
        Self::complete_from_object(parse_object(json.as_bytes())?, Defaults::default())
    }
}

/// The version to speak, from `cniVersion` and `cniVersions`.
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

/// The version that a runtime speaks with the plugin it hands a configuration to: `cniVersion`, which the runtime has
/// chosen (SPEC §3). `cniVersions` may stand beside it with versions that the runtime does not know, and counts only
/// where `cniVersion` is missing or not known here.
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

    fn plugin(json: &str) -> PluginConfig {
        PluginConfig::from_object(parse_object(json.as_bytes()).unwrap()).unwrap()
    }

    fn request(plugin: &PluginConfig, given: &str, args: Option<&str>, prev: Option<&str>) -> String {
        let given = parse_object(given.as_bytes()).unwrap();
        let args = args.map(|args| parse_object(args.as_bytes()).unwrap());
        let prev = prev.map(|prev| RawValue::from_string(prev.into()).unwrap());
        let insert = Insert {
            name: "net",
            version: Version::V1_1_0,
            capability_args: &given,
            args: args.as_ref(),
            prev_result: prev.as_deref(),
            valid_attachments: None,
        };
        String::from_utf8(plugin.request(&insert)).unwrap()
    }

    #[test]
    fn a_request_keeps_every_key_as_it_was_written() {
        let plugin = plugin(
            r#"{"z": 1e400, "type": "x", "capabilities": {"mac": true, "ips": false}, "a": [1.0, 12345678901234567890123],
                "cni.dev/x": 1, "prevResult": {}, "cniVersion": "0.4.0"}"#,
        );
        assert_eq!(
            request(&plugin, r#"{"mac": "02::", "ips": ["1"], "other": 1}"#, None, Some(r#"{"ips":[]}"#)),
            concat!(
                r#"{"name":"net","z":1e400,"type":"x","a":[1.0, 12345678901234567890123],"cniVersion":"1.1.0","#,
                r#""runtimeConfig":{"mac":"02::"},"prevResult":{"ips":[]}}"#
            )
        );
    }

    #[test]
    fn no_capability_asked_for_means_no_runtime_config() {
        let plugin = plugin(r#"{"type":"x","capabilities":{"mac":true}}"#);
        assert_eq!(request(&plugin, "{}", None, None), r#"{"cniVersion":"1.1.0","name":"net","type":"x"}"#);
    }

    #[test]
    fn a_key_in_another_case_does_not_overrule_what_is_inserted() {
        let plugin =
            plugin(r#"{"type":"x","Name":"../up","CNIVERSION":"9","prevRe\u017fult":{},"RuntimeConfig":{},"Else":1}"#);
        assert_eq!(request(&plugin, "{}", None, None), r#"{"cniVersion":"1.1.0","name":"net","type":"x","Else":1}"#);
    }

    #[test]
    fn args_are_laid_over_the_plugins_own() {
        let plugin = plugin(r#"{"type":"x","args":{"cni":{"a":1,"b":1e400},"keep":1}}"#);
        assert!(
            request(&plugin, "{}", Some(r#"{"cni":{"a":2}}"#), None)
                .contains(r#""args":{"cni":{"a":2,"b":1e400},"keep":1}"#)
        );
    }

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

    #[test]
    fn booleans_may_be_strings() {
        for (text, expected) in [("true", true), ("\"TRUE\"", true), ("\"false\"", false), ("null", false)] {
            let object = parse_object(format!(r#"{{"disableCheck":{text}}}"#).as_bytes()).unwrap();
            assert_eq!(get_bool(&object, "disableCheck").unwrap(), expected, "{text}");
        }
        let object = parse_object(br#"{"disableCheck":"yes"}"#).unwrap();
        let error = get_bool(&object, "disableCheck").unwrap_err().to_string();
        assert!(error.contains("is a string that says neither, expected true or false"), "{error}");
    }
}
