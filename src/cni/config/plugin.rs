//! The configuration of one plugin, and the request configuration derived from it (SPEC §3).

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{ConfigError, RawObject, folds_to, get, overlay_objects, raw};
use crate::cni::{Version, validate};

/// The configuration of one plugin: a validated `type`, and every key with its original text.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(try_from = "RawObject", into = "RawObject")]
pub struct PluginConfig {
    plugin_type: String,
    capabilities: Vec<String>,
    keys: RawObject,
}

impl PluginConfig {
    /// Reads a plugin configuration from a JSON object.
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

    /// Derives the plugin's standard input (SPEC §3, "Deriving request configuration from plugin configuration"): `cniVersion` and
    /// `name` are set, `runtimeConfig` and `prevResult` are inserted if they apply, `capabilities` and keys under `cni.dev/` are
    /// left out, and every other key keeps its text and its place.
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

    /// The plugin's own `runtimeConfig`, if its author wrote one, with the values of `given` for the capabilities that it declares
    /// (SPEC §3, "Deriving `runtimeConfig`").
    fn runtime_config(&self, given: &RawObject) -> Option<Box<RawValue>> {
        let mut derived = given.iter().filter(|(name, _)| self.declares(name)).peekable();
        derived.peek()?;
        let mut object: RawObject = get(&self.keys, "runtimeConfig", "an object").ok().flatten().unwrap_or_default();
        object.extend(derived.map(|(name, value)| (name.clone(), value.clone())));
        Some(raw(&object))
    }
}

/// Whether a key that is not the protocol's would be read as one of its keys: Go's parser, which most plugins use, ignores case.
/// Such a key must not override what the protocol inserts.
fn is_misspelt(key: &str) -> bool {
    const INSERTED: [&str; 4] = ["cniVersion", "name", "prevResult", "runtimeConfig"];
    INSERTED.iter().any(|name| key != *name && folds_to(key, name))
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
    /// The runtime's capability arguments. A plugin gets those that it declares.
    pub capability_args: &'a RawObject,
    /// Merged into the plugin's `args`, two levels deep.
    pub args: Option<&'a RawObject>,
    /// The previous result, in the format of `version`.
    pub prev_result: Option<&'a RawValue>,
    /// For GC: what is still attached.
    pub valid_attachments: Option<&'a RawValue>,
}

/// Writes one JSON object to a buffer, value by value.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cni::config::parse_object;

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
}
