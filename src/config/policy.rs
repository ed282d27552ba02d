//! `policy`: which namespaces may use which networks and plugins.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::object::{KeyError, Keys};
use super::selector::Globs;
use crate::cni::config::{NetworkConfig, RawObject, fold, folds_to};

/// The keys of a rule.
pub(super) const KEYS: [&str; 3] = ["namespaces", "networks", "plugins"];

/// One rule: all of its parts must match. A part that is missing matches anything.
#[derive(Debug, Clone)]
struct Rule {
    namespaces: Option<Globs>,
    networks: Option<Globs>,
    plugins: Option<Globs>,
}

/// The rules for attachments that a pod asks for. At least one must match.
#[derive(Debug, Clone)]
pub struct Policy {
    rules: Vec<Rule>,
}

impl Policy {
    /// Reads the list of rules.
    ///
    /// # Errors
    /// When a rule has an unknown key, or something that is not a glob.
    pub fn from_list(list: &[RawObject]) -> Result<Self, KeyError> {
        let rules = list.iter().enumerate().map(|(index, object)| {
            let place = format!("policy[{index}]");
            let keys = Keys::new(object, &place);
            keys.only(&KEYS)?;
            Ok(Rule {
                namespaces: keys.globs("namespaces")?,
                networks: keys.globs("networks")?,
                plugins: keys.globs("plugins")?,
            })
        });
        Ok(Self { rules: rules.collect::<Result<_, _>>()? })
    }

    /// Whether a pod of `namespace` may use `network`, whose reference is `namespace/name`, or a plain name.
    pub fn allows(&self, namespace: Option<&str>, reference: &str, network: &NetworkConfig) -> bool {
        let plugins = plugins_of(network);
        let may = |globs: &Option<Globs>, value: Option<&str>| globs.as_ref().is_none_or(|globs| globs.matches(value));
        self.rules.iter().any(|rule| {
            may(&rule.namespaces, namespace)
                && may(&rule.networks, Some(reference))
                && plugins
                    .iter()
                    .all(|plugin| may(&rule.plugins, Some(plugin)) && (rule.plugins.is_none() || plugin != UNREADABLE))
        })
    }
}

/// Every executable that a network's configuration can make its plugins run: their types, and every `type` in objects under keys
/// that contain other plugins' configurations, at any depth. As in the plugins' own parsers (Go's), keys are compared without
/// regard to case, all values of a repeated key count, and invalid Unicode is read as the replacement character.
pub fn plugins_of(network: &NetworkConfig) -> Vec<String> {
    let mut types = Vec::new();
    for plugin in &network.plugins {
        types.push(plugin.plugin_type().to_owned());
        for (key, value) in plugin.keys() {
            if holds_plugins(key) {
                collect_types(value, &mut types, DEPTH);
            }
        }
    }
    types
}

/// Stands for a part that is too deep to read, and may name anything. No plugin can have this name, and no rule allows it.
const UNREADABLE: &str = "(unreadable)/";

/// How deeply nested configurations are read. No plugin nests others as deeply.
const DEPTH: usize = 16;

fn holds_plugins(key: &str) -> bool {
    ["ipam", "delegate", "delegates", "plugins"].iter().any(|name| folds_to(key, name))
}

fn collect_types(value: &RawValue, into: &mut Vec<String>, depth: usize) {
    let nested = match value.get().as_bytes().first() {
        Some(b'[') => serde_json::from_str::<Vec<&RawValue>>(value.get())
            .map(|list| list.into_iter().map(|value| (None, value)).collect()),
        Some(b'{') => {
            members(value).map(|members| members.into_iter().map(|(key, value)| (Some(fold(&key)), value)).collect())
        }
        _ => return,
    };
    let nested: Vec<(Option<String>, &RawValue)> = match nested {
        Ok(nested) if depth > 0 => nested,
        _ => return into.push(UNREADABLE.into()),
    };
    for (key, value) in nested {
        match key.as_deref() {
            Some("type") => {
                into.extend(text(value).ok().filter(|name| !name.is_empty()));
            }
            Some(key) if !holds_plugins(key) => {}
            Some(_) | None => collect_types(value, into, depth - 1),
        }
    }
}

/// The members of an object, including repeated keys.
fn members(object: &RawValue) -> serde_json::Result<Vec<(String, &RawValue)>> {
    let strict = serde_json::from_str::<Members<'_, String>>(object.get()).map(|members| members.0);
    strict.or_else(|_| {
        let members = serde_json::from_str::<Members<'_, Text>>(object.get())?.0;
        Ok(members.into_iter().map(|(key, value)| (key.0, value)).collect())
    })
}

fn text(value: &RawValue) -> serde_json::Result<String> {
    serde_json::from_str(value.get()).or_else(|_| serde_json::from_str::<Text>(value.get()).map(|text| text.0))
}

/// An object's members, with keys of either kind.
struct Members<'a, K>(Vec<(K, &'a RawValue)>);

impl<'de: 'a, 'a, K: Deserialize<'de>> Deserialize<'de> for Members<'a, K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read<K>(PhantomData<K>);
        impl<'de, K: Deserialize<'de>> Visitor<'de> for Read<K> {
            type Value = Vec<(K, &'de RawValue)>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(members)
            }
        }
        deserializer.deserialize_map(Read(PhantomData)).map(Self)
    }
}

/// A string that may contain unpaired surrogates, which are not valid Unicode. It is read as bytes, which makes memchr query the
/// processor for its instructions first. On a virtual machine that takes as long as the rest of a plan, so this is used only if
/// reading a [`String`] fails.
struct Text(String);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;
        impl Visitor<'_> for Read {
            type Value = Text;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Text, E> {
                Ok(Text(String::from_utf8_lossy(bytes).into_owned()))
            }

            fn visit_str<E>(self, text: &str) -> Result<Text, E> {
                Ok(Text(text.to_owned()))
            }
        }
        deserializer.deserialize_bytes(Read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cni::config::{Defaults, parse_object};

    fn network(json: &str) -> NetworkConfig {
        NetworkConfig::from_object(parse_object(json.as_bytes()).unwrap(), Defaults::default()).unwrap()
    }

    fn policy(json: &str) -> Policy {
        Policy::from_list(&serde_json::from_str::<Vec<RawObject>>(json).unwrap()).unwrap()
    }

    #[test]
    fn a_hidden_ipam_plugin_is_seen() {
        let sneaky = network(
            r#"{"name":"n","type":"bridge","IPAM":{"type":"host-local","type":"evil"},"ipam":{"Type":"worse"}}"#,
        );
        assert_eq!(plugins_of(&sneaky), ["bridge", "host-local", "evil", "worse"]);
        let only = policy(r#"[{"plugins": ["bridge", "host-local"]}]"#);
        assert!(!only.allows(Some("a"), "n", &sneaky));
    }

    #[test]
    fn what_stops_a_parser_hides_nothing_from_the_policy() {
        let deep = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
        let delegates = format!("{}{{\"type\":\"evil\"}}{}", "[".repeat(20), "]".repeat(20));
        for ipam in [
            r#""ipam":{"type":"\ud800","type":"evil"}"#,
            r#""ipam":{"\ud800":1,"type":"evil"}"#,
            r#""ipam":{"type":1e999,"TYPE":"evil"}"#,
            r#""ipam":{"typ\u0065":"evil"}"#,
            r#""delegate":{"type":"bridge","ipam":{"type":"evil"}}"#,
            r#""delegate":{"type":"bridge","Ipam":[{"type":"evil"}]}"#,
            r#""delegate\u017f":[{"type":"evil"}]"#,
            r#""ipam":[{"type":"evil"}]"#,
            &format!(r#""ipam":{{"type":{deep},"Type":"evil"}}"#),
            &format!(r#""ipam":{deep}"#),
            &format!(r#""delegates":{delegates}"#),
        ] {
            let sneaky = network(&format!(r#"{{"name":"n","type":"bridge",{ipam}}}"#));
            let types = plugins_of(&sneaky);
            let shown: String = ipam.chars().take(80).collect();
            assert!(types.iter().any(|name| name == "evil" || name == UNREADABLE), "{shown}: {types:?}");
            assert!(!policy(r#"[{"plugins": ["bridge", "host-local"]}]"#).allows(Some("a"), "n", &sneaky), "{shown}");
        }
    }

    #[test]
    fn one_rule_must_match_as_a_whole() {
        let policy = policy(
            r#"[{"namespaces": ["prod"], "networks": ["prod/*"]}, {"namespaces": ["dev"], "plugins": ["bridge"]}]"#,
        );
        let bridge = network(r#"{"name":"n","type":"bridge"}"#);
        let sriov = network(r#"{"name":"n","type":"sriov"}"#);
        assert!(policy.allows(Some("prod"), "prod/n", &sriov));
        assert!(!policy.allows(Some("prod"), "dev/n", &bridge));
        assert!(policy.allows(Some("dev"), "x/n", &bridge));
        assert!(!policy.allows(Some("dev"), "x/n", &sriov));
        assert!(!policy.allows(None, "prod/n", &bridge));
        assert!(!Policy::from_list(&[]).unwrap().allows(Some("prod"), "n", &bridge));
    }
}
