//! Kubernetes objects in files: NetworkAttachmentDefinitions, pods, and objects with a pod template.
//!
//! Reads YAML with any number of documents, JSON, and lists of objects. Only the parts about networks are read.

mod claims;

use std::collections::BTreeMap;
use std::fmt;

pub use claims::{ClaimSpec, PodClaim, RequestSpec};

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use serde_saphyr::{Location, Spanned};

use crate::source::device::Devices;

/// An object of a file.
#[derive(Debug)]
pub struct Manifest {
    /// The line where it begins. 0 if it is not from a file.
    pub line: u64,
    /// Its `kind`, empty if it has none.
    pub kind: String,
    /// Its `apiVersion`, empty if it has none.
    pub api_version: String,
    /// Its name, or what its name is made from.
    pub name: String,
    /// Its namespace, if it says.
    pub namespace: Option<Text>,
    /// Its own annotations.
    pub annotations: Annotations,
    /// What it says of networks.
    pub content: Content,
    /// Parts that an API server would not accept.
    pub errors: Vec<String>,
}

/// What an object says of networks.
#[derive(Debug)]
pub enum Content {
    /// A network.
    Definition(DefinitionSpec),
    /// A pod, or what pods are made from.
    Pod(PodTemplate),
    /// A resource claim, or a template for claims.
    Claim(ClaimSpec),
    /// Nothing.
    Other,
}

/// The `spec` of a NetworkAttachmentDefinition.
#[derive(Debug, Default)]
pub struct DefinitionSpec {
    /// Its `config`.
    pub config: Option<Text>,
    /// Its other keys.
    pub other_keys: Vec<String>,
}

/// A pod as its author writes it.
#[derive(Debug, Default)]
pub struct PodTemplate {
    /// The annotations of the pod template, if it has one.
    pub annotations: Option<Annotations>,
    /// Where its annotations stand.
    pub place: &'static str,
    /// The resources that its containers request, as if there were that many devices of them.
    pub requests: Devices,
    /// Its resource claims.
    pub claims: Vec<PodClaim>,
}

/// A string and its line.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Text {
    /// The string.
    pub value: String,
    /// The line where it begins. 0 if it is not from a file.
    pub line: u64,
}

/// The line as a part of a message. Empty if there is none.
pub fn at(line: u64) -> String {
    if line == 0 { String::new() } else { format!(" (line {line})") }
}

/// Annotations by their keys.
pub type Annotations = BTreeMap<String, Text>;

/// A file that holds no objects.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// It is no text.
    #[error("the file is not UTF-8")]
    NotText,
    /// It is no YAML, and no JSON either.
    #[error("{0}")]
    Syntax(String),
}

/// A value with its line, whatever it is.
#[derive(Debug)]
enum Node {
    Null,
    Text(String),
    /// A boolean or a number, as it was written.
    Plain(String),
    List(Vec<Spanned<Node>>),
    Map(Vec<(String, Spanned<Node>)>),
}

/// The path of the pod template, by the object's kind.
const TEMPLATES: [(&str, &[&str], &str); 8] = [
    ("Deployment", &["spec", "template"], "spec.template.metadata.annotations"),
    ("DaemonSet", &["spec", "template"], "spec.template.metadata.annotations"),
    ("StatefulSet", &["spec", "template"], "spec.template.metadata.annotations"),
    ("ReplicaSet", &["spec", "template"], "spec.template.metadata.annotations"),
    ("ReplicationController", &["spec", "template"], "spec.template.metadata.annotations"),
    ("Job", &["spec", "template"], "spec.template.metadata.annotations"),
    ("CronJob", &["spec", "jobTemplate", "spec", "template"], "spec.jobTemplate.spec.template.metadata.annotations"),
    ("PodTemplate", &["template"], "template.metadata.annotations"),
];
/// How many values aliases may expand to: a few nested aliases can expand to any number.
const MAX_REPLAYED: usize = 50_000;
/// How deeply lists of objects may be nested.
const DEPTH: usize = 4;

/// Reads the objects of a file.
///
/// # Errors
/// When it is not YAML or JSON. What is wrong with one object is in that object.
pub fn read(bytes: &[u8]) -> Result<Vec<Manifest>, ManifestError> {
    let text = std::str::from_utf8(bytes).map_err(|_| ManifestError::NotText)?;
    let options = serde_saphyr::options! {
        with_snippet: false,
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: MAX_REPLAYED },
    };
    let documents: Vec<Spanned<Node>> = serde_saphyr::from_multiple_with_options(text, options)
        .map_err(|error| ManifestError::Syntax(error.to_string()))?;
    let mut manifests = Vec::new();
    for document in &documents {
        collect(document, &mut manifests, DEPTH);
    }
    Ok(manifests)
}

/// Reads an object from an API server, which has no line numbers.
pub fn from_json(object: &Value) -> Manifest {
    Manifest::from(&Spanned::new(Node::from(object), Location::UNKNOWN, Location::UNKNOWN))
}

fn collect(document: &Spanned<Node>, into: &mut Vec<Manifest>, depth: usize) {
    let kind = document.value.at("kind").and_then(Node::text).unwrap_or_default();
    match document.value.member("items").map(|items| &items.value) {
        Some(Node::List(items)) if kind.ends_with("List") && depth > 0 => {
            for item in items {
                collect(item, into, depth - 1);
            }
        }
        _ => into.push(Manifest::from(document)),
    }
}

impl From<&Spanned<Node>> for Manifest {
    fn from(document: &Spanned<Node>) -> Self {
        let node = &document.value;
        let mut errors = Vec::new();
        if !matches!(node, Node::Map(_)) {
            errors.push(format!("it is {}, expected an object", node.kind()));
        }
        let kind = text_of(node, "kind", "kind", &mut errors).unwrap_or_default();
        let api_version = text_of(node, "apiVersion", "apiVersion", &mut errors).unwrap_or_default();
        let metadata = node.at("metadata").unwrap_or(&Node::Null);
        let name = text_of(metadata, "name", "metadata.name", &mut errors);
        let name = name.or_else(|| text_of(metadata, "generateName", "metadata.generateName", &mut errors));
        let annotations = annotations_of(metadata, "metadata.annotations", &mut errors);
        let content = match kind.value.as_str() {
            "NetworkAttachmentDefinition" => Content::Definition(definition(node, &mut errors)),
            "Pod" => Content::Pod(PodTemplate {
                annotations: None,
                place: "metadata.annotations",
                requests: requests(node.at("spec").unwrap_or(&Node::Null)),
                claims: claims::pod_claims(node.at("spec").unwrap_or(&Node::Null)),
            }),
            "ResourceClaim" if is_resource_api(&api_version) => Content::Claim(claim(node, &["spec"])),
            "ResourceClaimTemplate" if is_resource_api(&api_version) => Content::Claim(claim(node, &["spec", "spec"])),
            kind => match TEMPLATES.iter().find(|(known, ..)| *known == kind) {
                Some((_, path, place)) => Content::Pod(template(node, path, place, &mut errors)),
                None => Content::Other,
            },
        };
        Self {
            line: document.referenced.line(),
            kind: kind.value,
            api_version: api_version.value,
            name: name.unwrap_or_default().value,
            namespace: text_of(metadata, "namespace", "metadata.namespace", &mut errors),
            annotations,
            content,
            errors,
        }
    }
}

fn definition(node: &Node, errors: &mut Vec<String>) -> DefinitionSpec {
    let Some(spec) = node.member("spec") else { return DefinitionSpec::default() };
    match &spec.value {
        Node::Null => DefinitionSpec::default(),
        Node::Map(members) => DefinitionSpec {
            config: text_of(&spec.value, "config", "spec.config", errors).filter(|text| !text.value.trim().is_empty()),
            other_keys: members.iter().map(|(key, _)| key.clone()).filter(|key| key != "config").collect(),
        },
        other => {
            errors.push(format!("spec{} is {}, expected an object", at(spec.referenced.line()), other.kind()));
            DefinitionSpec::default()
        }
    }
}

fn template(node: &Node, path: &[&str], place: &'static str, errors: &mut Vec<String>) -> PodTemplate {
    let Some(pod) = path.iter().try_fold(node, |node, key| node.at(key)) else {
        errors.push(format!("{} is missing, expected a pod's template", path.join(".")));
        return PodTemplate { place, annotations: Some(Annotations::new()), ..PodTemplate::default() };
    };
    PodTemplate {
        annotations: Some(annotations_of(pod.at("metadata").unwrap_or(&Node::Null), place, errors)),
        place,
        requests: requests(pod.at("spec").unwrap_or(&Node::Null)),
        claims: claims::pod_claims(pod.at("spec").unwrap_or(&Node::Null)),
    }
}

fn is_resource_api(api_version: &Text) -> bool {
    api_version.value.starts_with("resource.k8s.io/")
}

fn claim(node: &Node, path: &[&str]) -> ClaimSpec {
    path.iter().try_fold(node, |node, key| node.at(key)).map(claims::claim).unwrap_or_default()
}

fn annotations_of(metadata: &Node, place: &str, errors: &mut Vec<String>) -> Annotations {
    let mut annotations = Annotations::new();
    let Some(found) = metadata.member("annotations") else { return annotations };
    match &found.value {
        Node::Null => {}
        Node::Map(members) => {
            for (key, _) in members {
                let text = text_of(&found.value, key, &format!("{place}[{key:?}]"), errors);
                annotations.extend(text.map(|text| (key.clone(), text)));
            }
        }
        other => errors.push(format!(
            "{place}{} is {}, expected an object of strings",
            at(found.referenced.line()),
            other.kind()
        )),
    }
    annotations
}

/// The extended resources that a pod's containers request. A request that is not a number counts as one.
fn requests(spec: &Node) -> Devices {
    let mut devices = Devices::new();
    let Some(Node::List(containers)) = spec.at("containers") else { return devices };
    for container in containers {
        let resources = container.value.at("resources").unwrap_or(&Node::Null);
        let Some(Node::Map(wanted)) = resources.at("limits").or_else(|| resources.at("requests")) else { continue };
        for (resource, amount) in wanted.iter().filter(|(resource, _)| resource.contains('/')) {
            let amount = amount.value.text().and_then(|text| text.parse::<usize>().ok()).unwrap_or(1);
            let ids = devices.entry(resource.clone()).or_default();
            let first = ids.len();
            ids.extend((first..first + amount.min(MAX_DEVICES)).map(|index| index.to_string()));
        }
    }
    devices
}

/// More of one resource than any container requests.
const MAX_DEVICES: usize = 1024;

/// The string at a key. `None`, with an error, if it has another type.
fn text_of(node: &Node, key: &str, place: &str, errors: &mut Vec<String>) -> Option<Text> {
    let found = node.member(key)?;
    let line = found.referenced.line();
    match &found.value {
        Node::Text(value) => Some(Text { value: value.clone(), line }),
        Node::Null => None,
        other => {
            let advice = if matches!(other, Node::Plain(_)) { "; put it in quotes" } else { "" };
            errors.push(format!("{place}{} is {}, expected a string{advice}", at(line), other.kind()));
            None
        }
    }
}

impl Node {
    fn member(&self, key: &str) -> Option<&Spanned<Self>> {
        let Self::Map(members) = self else { return None };
        members.iter().find(|(name, _)| name == key).map(|(_, value)| value)
    }

    fn at(&self, key: &str) -> Option<&Self> {
        self.member(key).map(|found| &found.value)
    }

    fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) | Self::Plain(text) => Some(text),
            _ => None,
        }
    }

    fn kind(&self) -> String {
        match self {
            Self::Null => "empty".into(),
            Self::Text(_) => "a string".into(),
            Self::Plain(text) => text.clone(),
            Self::List(_) => "a list".into(),
            Self::Map(_) => "an object".into(),
        }
    }
}

impl From<&Value> for Node {
    fn from(value: &Value) -> Self {
        let inner = |value: &Value| Spanned::new(Self::from(value), Location::UNKNOWN, Location::UNKNOWN);
        match value {
            Value::Null => Self::Null,
            Value::Bool(value) => Self::Plain(value.to_string()),
            Value::Number(value) => Self::Plain(value.to_string()),
            Value::String(text) => Self::Text(text.clone()),
            Value::Array(values) => Self::List(values.iter().map(inner).collect()),
            Value::Object(members) => {
                Self::Map(members.iter().map(|(key, value)| (key.clone(), inner(value))).collect())
            }
        }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Read)
    }
}

/// Reads a value of any kind.
struct Read;

impl<'de> Visitor<'de> for Read {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a Kubernetes object")
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }

    fn visit_none<E>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        Node::deserialize(deserializer)
    }

    fn visit_str<E>(self, text: &str) -> Result<Node, E> {
        Ok(Node::Text(text.to_owned()))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
        Ok(Node::Plain(value.to_string()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
        Ok(Node::Plain(value.to_string()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Node, E> {
        Ok(Node::Plain(value.to_string()))
    }

    fn visit_i128<E>(self, value: i128) -> Result<Node, E> {
        Ok(Node::Plain(value.to_string()))
    }

    fn visit_u128<E>(self, value: u128) -> Result<Node, E> {
        Ok(Node::Plain(value.to_string()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Node, E> {
        Ok(Node::Plain(value.to_string()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Node, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = sequence.next_element()? {
            list.push(item);
        }
        Ok(Node::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
        let mut members: Vec<(String, Spanned<Node>)> = Vec::new();
        while let Some((key, value)) = map.next_entry::<String, _>()? {
            if members.iter().any(|(known, _)| *known == key) {
                return Err(A::Error::custom(format!("the key {key:?} is given twice")));
            }
            members.push((key, value));
        }
        Ok(Node::Map(members))
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn documents_lists_and_json_are_read_with_their_lines() {
        let text = "# a comment\n---\nkind: Pod\nmetadata:\n  name: a\n  annotations:\n    x: |\n      one\n      two\n---\n\
                    ---\nkind: List\nitems:\n- {kind: Pod, metadata: {generateName: b-, namespace: ns}}\n";
        let manifests = read(text.as_bytes()).unwrap();
        let shown: Vec<_> = manifests.iter().map(|m| (m.kind.as_str(), m.name.as_str(), m.line)).collect();
        assert_eq!(shown, [("Pod", "a", 3), ("Pod", "b-", 14)]);
        assert_eq!(manifests[0].annotations["x"], Text { value: "one\ntwo\n".into(), line: 8 });
        assert_eq!(manifests[1].namespace.as_ref().unwrap().value, "ns");
        let json = "{\n\t\"kind\": \"Pod\",\n\t\"metadata\": {\"name\": \"c\",\n\t\t\"annotations\": {\"x\": \"\\u00e4\\n\"}}\n}\n";
        let manifests = read(json.as_bytes()).unwrap();
        assert_eq!(manifests[0].annotations["x"], Text { value: "ä\n".into(), line: 4 });
    }

    #[test]
    fn an_object_of_an_api_server_is_read_as_the_same_in_a_file_without_lines() {
        let text = r#"{"kind": "Pod", "metadata": {"name": 5, "annotations": {"x": "y", "z": true}}}"#;
        let served = from_json(&serde_json::from_str(text).unwrap());
        let read = &read(text.as_bytes()).unwrap()[0];
        let lines = read.errors.iter().map(|error| error.replace(&at(1), "")).collect::<Vec<_>>();
        assert_eq!((served.line, &served.errors), (0, &lines));
        assert_eq!(served.annotations["x"], Text { value: "y".into(), line: 0 });
    }

    #[test]
    fn what_is_no_string_is_an_error_with_its_line() {
        let text = "kind: Pod\nmetadata:\n  name: 5\n  annotations:\n    x: true\n    y: [1]\n    z: 'true'\n";
        let manifest = &read(text.as_bytes()).unwrap()[0];
        assert_eq!(manifest.annotations.keys().collect::<Vec<_>>(), ["z"]);
        assert_eq!(
            manifest.errors,
            [
                "metadata.name (line 3) is 5, expected a string; put it in quotes",
                "metadata.annotations[\"x\"] (line 5) is true, expected a string; put it in quotes",
                "metadata.annotations[\"y\"] (line 6) is a list, expected a string",
            ]
        );
    }

    #[test]
    fn what_is_no_manifest_is_refused_in_bounded_time() {
        for text in ["a: [", "a: b: c", "{{ .Values.x }}", "a: 1\na: 2\n"] {
            assert!(read(text.as_bytes()).is_err(), "{text:?}");
        }
        let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x]\n");
        for level in 1..10 {
            let aliases = vec![format!("*a{}", level - 1); 9].join(", ");
            writeln!(bomb, "a{level}: &a{level} [{aliases}]").unwrap();
        }
        assert!(read(bomb.as_bytes()).is_err());
        assert!(read("[".repeat(100_000).as_bytes()).is_err());
        assert!(matches!(read(b"a: \xff"), Err(ManifestError::NotText)));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(500))]

        #[test]
        fn no_text_panics(text in "(kind: (Pod|Job|List)\n|metadata:|items:| {0,4}- |[-a-c1:{}\\[\\]'\"|>&*#!%@,?~\n \t]|<<: \\*a|&a |\\PC){0,60}") {
            if let Err(error) = read(text.as_bytes()) {
                prop_assert!(!error.to_string().is_empty());
            }
        }
    }
}
