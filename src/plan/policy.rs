//! `policy`: which namespaces may use which networks and plugins.

use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::key::{KeyError, Keys};
use super::selector::Globs;
use crate::cni::config::{NetworkConfig, RawObject};

/// One rule: all that it says must match. What it does not say matches anything.
#[derive(Debug, Clone)]
struct Rule {
    namespaces: Option<Globs>,
    networks: Option<Globs>,
    plugins: Option<Globs>,
}

/// The rules for attachments that a pod asks for. One of them must match.
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
            keys.only(&["namespaces", "networks", "plugins"])?;
            Ok(Rule {
                namespaces: keys.globs("namespaces")?,
                networks: keys.globs("networks")?,
                plugins: keys.globs("plugins")?,
            })
        });
        Ok(Self { rules: rules.collect::<Result<_, _>>()? })
    }

    /// Whether a pod of `namespace` may use `network`, known as `reference` (`namespace/name`, or a plain name).
    pub fn allows(&self, namespace: Option<&str>, reference: &str, network: &NetworkConfig) -> bool {
        let plugins = plugins_of(network);
        let may = |globs: &Option<Globs>, value: Option<&str>| globs.as_ref().is_none_or(|globs| globs.matches(value));
        self.rules.iter().any(|rule| {
            may(&rule.namespaces, namespace)
                && may(&rule.networks, Some(reference))
                && plugins.iter().all(|plugin| may(&rule.plugins, Some(plugin)))
        })
    }
}

/// Every executable that a network's configuration can make its plugins run: their types, and every `type` in their
/// `ipam` and `delegate` objects. Keys are compared without case and all values of a key that stands twice are taken, as
/// the plugins' own parsers (Go's) read any of them.
pub fn plugins_of(network: &NetworkConfig) -> Vec<String> {
    let mut types = Vec::new();
    for plugin in &network.plugins {
        types.push(plugin.plugin_type().to_owned());
        for (key, value) in plugin.keys() {
            if ["ipam", "delegate"].iter().any(|name| key.eq_ignore_ascii_case(name)) {
                collect_types(value, &mut types);
            }
        }
    }
    types
}

fn collect_types(value: &RawValue, into: &mut Vec<String>) {
    let mut deserializer = serde_json::Deserializer::from_str(value.get());
    // Nothing that fails to parse here can reach a plugin: the whole configuration has been parsed before.
    drop(deserializer.deserialize_any(Types(into)));
}

struct Types<'a>(&'a mut Vec<String>);

impl<'de> Visitor<'de> for Types<'_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("any value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            if key.eq_ignore_ascii_case("type") {
                let value: serde_json::Value = map.next_value()?;
                self.0.extend(value.as_str().filter(|text| !text.is_empty()).map(str::to_owned));
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }
    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }
    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }
    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }
    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }
    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
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
