//! Braid's own configuration, which goes before the primary network's.

use std::fs;
use std::path::{Path, PathBuf};

use indexmap::IndexMap;
use serde_json::Value;
use serde_json::value::RawValue;

use super::files::{self, Change, Links};
use super::places::{CONFLIST, Places};
use super::report::{say, warn};
use crate::cni::config::{get, parse_object, raw};
use crate::cni::{NetworkConfig, PluginConfig, RawObject};
use crate::config::Config;

/// Only root may read the file: it may contain a password for a plugin.
pub(super) const MODE: u32 = 0o600;

/// Keys that `--with` must not contain, with the reasons.
const RESERVED: [(&str, &str); 9] = [
    ("cniVersion", "it is the primary network's"),
    ("name", "it is always \"braid\""),
    ("type", "it is always \"braid\""),
    ("plugins", "they are keys of the configuration's only plugin"),
    ("prevResult", "it comes from the runtime"),
    ("delegates", "the primary network is the only one"),
    ("clusterNetwork", "it would take the place of the primary network"),
    ("stateDir", "use --state-dir"),
    ("cni.dev/valid-attachments", "it comes from the runtime"),
];

/// The keys of `--with`, checked.
#[derive(Debug)]
pub(super) struct ExtraKeys {
    keys: RawObject,
    capabilities: IndexMap<String, bool>,
}

impl ExtraKeys {
    /// Reads the value of `--with`.
    ///
    /// # Errors
    /// When Braid could not use a configuration with these keys. The message names the key.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut keys =
            parse_object(text.as_bytes()).map_err(|error| format!("--with is not a JSON object: {error}"))?;
        if let Some((key, reason)) = RESERVED.iter().find(|(key, _)| keys.contains_key(*key)) {
            return Err(format!("--with must not hold {key:?}: {reason}"));
        }
        let capabilities = get(&keys, "capabilities", "an object of booleans, such as {\"portMappings\": true}")
            .map_err(|error| format!("--with: {error}"))?
            .unwrap_or_default();
        keys.shift_remove("capabilities");
        let extra = Self { keys, capabilities };
        let example = r#"{"cniVersion": "1.0.0", "name": "primary", "type": "example"}"#;
        let example: NetworkConfig = example.parse().map_err(|error| format!("{error}"))?;
        let config =
            extra.in_front_of(&example, Path::new("/"), None).check().map_err(|error| format!("--with: {error}"))?;
        for warning in config.operator_warnings {
            warn(&format!("--with: {warning}"));
        }
        Ok(extra)
    }

    /// The configuration that runs before a primary network's, with the capabilities that the runtime should serve for it.
    fn in_front_of(&self, primary: &NetworkConfig, state_dir: &Path, kubeconfig: Option<&Path>) -> Built {
        let declared = primary.plugins.iter().flat_map(PluginConfig::capabilities);
        let mut capabilities: IndexMap<&String, bool> = declared.map(|name| (name, true)).collect();
        capabilities.extend(self.capabilities.iter().map(|(name, is_declared)| (name, *is_declared)));
        let mut plugin = RawObject::new();
        plugin.insert("type".into(), raw("braid"));
        plugin.insert("stateDir".into(), raw(state_dir));
        if !capabilities.is_empty() {
            plugin.insert("capabilities".into(), raw(&capabilities));
        }
        if let Some(kubeconfig) = kubeconfig {
            plugin.insert("kubeconfig".into(), raw(kubeconfig));
        }
        plugin.extend(self.keys.clone());
        // Kept as raw text, so that the primary's plugins get exactly what their author wrote.
        plugin.insert("delegates".into(), raw(&[primary]));
        let mut list = RawObject::new();
        list.insert("cniVersion".into(), raw(&primary.version));
        list.insert("name".into(), raw("braid"));
        Built { list, plugin }
    }

    /// The configuration that runs before a primary network's, after checking that Braid can use it.
    fn checked(&self, primary: &NetworkConfig, places: &Places, kubeconfig: Option<&Path>) -> Result<Vec<u8>, String> {
        let built = self.in_front_of(primary, &places.state_dir, kubeconfig);
        built.check().map_err(|error| format!("network {:?} cannot be a delegate: {error}", primary.name))?;
        Ok(built.into_bytes())
    }
}

/// A configuration list, and its only plugin.
struct Built {
    list: RawObject,
    plugin: RawObject,
}

impl Built {
    /// The configuration that Braid will read, after the runtime has added the list's keys to the plugin's.
    fn check(&self) -> Result<Config, String> {
        let request = self.list.iter().chain(&self.plugin).map(|(key, value)| (key.clone(), value.clone())).collect();
        Config::from_object(&request).map_err(|error| error.to_string())
    }

    fn into_bytes(mut self) -> Vec<u8> {
        self.list.insert("plugins".into(), raw(&[self.plugin]));
        let mut bytes = serde_json::to_vec(&self.list).unwrap_or_default();
        bytes.push(b'\n');
        bytes
    }
}

/// Keeps Braid's configuration in place.
#[derive(Debug)]
pub(super) struct Conflist {
    path: PathBuf,
    /// What was written last by this process.
    written: Option<Vec<u8>>,
}

impl Conflist {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, written: None }
    }

    /// The name of the primary network in the existing file.
    pub(super) fn primary(&self) -> Option<String> {
        let list: Value = serde_json::from_slice(&files::read(&self.path, Links::Refused).ok()?).ok()?;
        Some(list["plugins"][0]["delegates"][0]["name"].as_str()?.to_owned())
    }

    /// The primary network's configuration in the existing file.
    pub(super) fn copy_of_primary(&self) -> Option<NetworkConfig> {
        let list = parse_object(&files::read(&self.path, Links::Refused).ok()?).ok()?;
        let plugins = get::<Vec<RawObject>>(&list, "plugins", "a list").ok()??;
        let delegates = get::<Vec<Box<RawValue>>>(plugins.first()?, "delegates", "a list").ok()??;
        delegates.first()?.get().parse().ok()
    }

    /// What [`Self::maintain`] would do, and what it would write.
    ///
    /// # Errors
    /// When Braid could not use it, or it could not be written.
    pub(super) fn change(
        &self,
        extra: &ExtraKeys,
        primary: &NetworkConfig,
        places: &Places,
        kubeconfig: Option<&Path>,
    ) -> Result<(Change, Vec<u8>), String> {
        let wanted = extra.checked(primary, places, kubeconfig)?;
        let is_there = files::is_as(&self.path, &wanted, MODE);
        if !is_there {
            files::could_write(&self.path).map_err(|error| format!("{}: {error}", self.path.display()))?;
        }
        let what = format!("braid's configuration in front of network {:?}", primary.name);
        Ok((Change::of(&self.path, is_there, &what), wanted))
    }

    /// Writes the configuration for a primary network. Returns it, and whether the file had to be written.
    ///
    /// # Errors
    /// When Braid could not use it, or it cannot be written. What was written before then stays.
    pub(super) fn maintain(
        &mut self,
        extra: &ExtraKeys,
        primary: &NetworkConfig,
        places: &Places,
        kubeconfig: Option<&Path>,
    ) -> Result<(Vec<u8>, bool), String> {
        let wanted = extra.checked(primary, places, kubeconfig)?;
        let path = self.path.display();
        let is_as_wanted = files::is_as(&self.path, &wanted, MODE);
        if !is_as_wanted {
            self.report_foreign_change(&wanted);
            files::write(&self.path, &wanted, MODE).map_err(|error| format!("{path}: {error}"))?;
            say(&format!("wrote {path}, in front of network {:?}", primary.name));
        }
        self.written = Some(wanted.clone());
        Ok((wanted, !is_as_wanted))
    }

    /// Reports what somebody else did to the file that this process wrote.
    fn report_foreign_change(&self, wanted: &[u8]) {
        let Some(written) = &self.written else { return };
        let path = self.path.display();
        match files::read(&self.path, Links::Refused) {
            Ok(now) if now == *written && now != wanted => {}
            Err(_) if self.path.symlink_metadata().is_err() => {
                let beside = self.path.parent().map(renamed).unwrap_or_default();
                warn(&format!("{path} was removed or renamed by someone else{beside}; it is written again"));
            }
            _ => warn(&format!("{path} was changed by someone else; it is written again")),
        }
    }
}

/// What may have happened to Braid's configuration, for the message that it is missing.
fn renamed(conf_dir: &Path) -> String {
    let is_ours = |name: &str| name.starts_with(CONFLIST) && name != CONFLIST;
    let entries = fs::read_dir(conf_dir).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| is_ours(name)).fold(String::new(), |text, name| text + " (there is " + &name + ")")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn keys_that_braid_cannot_use_are_refused() {
        for (text, part) in [
            ("[]", "not a JSON object"),
            (r#"{"policy": 5}"#, "policy"),
            (r#"{"policy": [{"namespace": ["a"]}]}"#, "namespaces"),
            (r#"{"type": "evil"}"#, "always"),
            (r#"{"delegates": []}"#, "delegates"),
            (r#"{"clusterNetwork": "other"}"#, "clusterNetwork"),
            (r#"{"stateDir": "/else"}"#, "--state-dir"),
            (r#"{"capabilities": ["mac"]}"#, "capabilities"),
            (r#"{"timeouts": {"plugin": "soon"}}"#, "timeouts"),
            (r#"{"confDir": "relative"}"#, "confDir"),
        ] {
            let error = ExtraKeys::parse(text).unwrap_err();
            assert!(error.contains("--with") && error.contains(part), "{text}: {error}");
        }
        assert!(ExtraKeys::parse(r#"{"namespaceIsolation": true}"#).is_ok());
    }

    #[test]
    fn capabilities_are_the_primary_networks_and_those_asked_for() {
        let extra = ExtraKeys::parse(r#"{"capabilities": {"bandwidth": true, "mac": false}}"#).unwrap();
        let primary = r#"{"cniVersion": "1.0.0", "name": "pods", "type": "alpha",
            "capabilities": {"portMappings": true, "mac": true}}"#;
        let built = extra.in_front_of(&primary.parse().unwrap(), Path::new("/s"), None);
        let list: Value = serde_json::from_slice(&built.into_bytes()).unwrap();
        let expected = json!({"portMappings": true, "mac": false, "bandwidth": true});
        assert_eq!(list["plugins"][0]["capabilities"], expected);
    }
}
