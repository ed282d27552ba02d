//! The checks of `validate` for Kubernetes objects.

use std::collections::BTreeSet;

use super::manifest_devices::{CLAIM, TEMPLATE, devices};
use super::validate::{Given, Report};
use crate::cni::config::{Defaults, NetworkConfig, RawObject, get, parse_object};
use crate::cni::{Args, validate};
use crate::config::Config;
use crate::config::Problems;
use crate::config::claim::ClaimRequest;
use crate::config::meta::is_meta_plugin;
use crate::config::object::{Keys, nearest};
use crate::config::policy::plugins_of;
use crate::plan::{self, Asked, traps};
use crate::request::Request;
use crate::source::device::{Assignments, DeviceError};
use crate::source::kubernetes::manifest::{Annotations, Content, DefinitionSpec, Manifest, PodTemplate, at};
use crate::source::pod::{
    AnnotationError, DEFAULT_NETWORK, Definition, DefinitionKey, NETWORKS, Pod, PodView, RESOURCE_CLAIM, RESOURCE_NAME,
};
use crate::source::{self, SourceError, Wanted};

/// The API group of NetworkAttachmentDefinitions, as in `apiVersion`.
const API_VERSION: &str = "k8s.cni.cncf.io/v1";
/// The prefix of the annotations of the Kubernetes Network Plumbing Working Group, and the known annotations.
const PREFIX: &str = "k8s.v1.cni.cncf.io/";
const ANNOTATIONS: [&str; 5] =
    [NETWORKS, RESOURCE_NAME, RESOURCE_CLAIM, "k8s.v1.cni.cncf.io/network-status", STATUS_BEFORE];
/// The older name of the network status annotation.
const STATUS_BEFORE: &str = "k8s.v1.cni.cncf.io/networks-status";
/// Annotations with which pods ask other software for networks, and that software.
const OTHERS_ANNOTATIONS: [(&str, &str); 7] = [
    ("danm.io/interfaces", "an annotation of DANM"),
    ("danm.k8s.io/interfaces", "an annotation of DANM"),
    ("cni", "an annotation of CNI-Genie"),
    ("multi-ip-preferences", "an annotation of CNI-Genie"),
    ("kubernetes.v1.cni.cncf.io/networks", "an annotation of the first releases of Multus"),
    ("networks", "an annotation of Knitter, or one without its prefix"),
    ("network-status", "the name of an annotation without its prefix"),
];
/// The keys of a configuration list.
const LIST_KEYS: [&str; 7] =
    ["name", "cniVersion", "cniVersions", "plugins", "disableCheck", "disableGC", "loadOnlyInlinedPlugins"];
/// Keys under which plugins expect the name of an interface of the node.
const INTERFACE_KEYS: [&str; 3] = ["bridge", "master", "device"];

/// Collects all definitions in files, and reports in each file which ones were given before.
pub(super) fn collect<'a>(files: impl Iterator<Item = (&'a Vec<Manifest>, &'a mut Report)>, given: &mut Given) {
    let mut known = Vec::new();
    for (objects, report) in files {
        for object in objects {
            if let Content::Claim(spec) = &object.content {
                let kind = if object.kind == CLAIM { CLAIM } else { TEMPLATE };
                given.claims.insert((kind, namespace(object, given).to_owned(), object.name.clone()), spec.clone());
            }
            let Content::Definition(spec) = &object.content else { continue };
            let key = DefinitionKey { namespace: namespace(object, given).to_owned(), name: object.name.clone() };
            if given.keys.contains(&key) {
                report.warnings.push(format!("{}: it is given more than once", label(object, given)));
            }
            let annotation =
                |key: &str| object.annotations.get(key).map(|text| text.value.clone()).filter(|text| !text.is_empty());
            let (resource, claim) = (annotation(RESOURCE_NAME), annotation(RESOURCE_CLAIM));
            let config = spec.config.as_ref().map(|text| text.value.clone());
            known.push((key.clone(), Definition { config, resource, claim }));
            given.keys.push(key);
        }
    }
    given.definitions = known.into_iter().collect();
}

/// The definitions that an object's networks may use, each once.
pub(super) fn named_definitions(object: &Manifest, given: &Given) -> Vec<DefinitionKey> {
    let Content::Pod(template) = &object.content else { return Vec::new() };
    let (pod, _) = read_pod(object, template, given);
    let request = request_of(&pod);
    let mut keys = Vec::new();
    for (_, config) in configs(given) {
        keys.extend(Wanted::list(&config, &request, Some(&pod)).definitions());
    }
    keys.sort();
    keys.dedup();
    keys
}

/// Reports the problems with the objects of one file.
pub(super) fn check(report: &mut Report, objects: &[Manifest], given: &Given) {
    report.summary = summary(objects);
    for object in objects {
        let mut checker = Checker { label: label(object, given), object, given, report };
        checker.object();
        match &object.content {
            Content::Definition(spec) => checker.definition(spec),
            Content::Pod(template) => checker.pod(template),
            Content::Claim(_) | Content::Other => {}
        }
    }
}

/// The number of objects of each kind.
fn summary(objects: &[Manifest]) -> String {
    let mut kinds: Vec<(&str, usize)> = Vec::new();
    for object in objects {
        let kind = if object.kind.is_empty() { "object without a kind" } else { &object.kind };
        match kinds.iter_mut().find(|(known, _)| *known == kind) {
            Some((_, count)) => *count += 1,
            None => kinds.push((kind, 1)),
        }
    }
    let parts: Vec<String> = kinds.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
    if parts.is_empty() { "no objects".into() } else { parts.join(", ") }
}

fn namespace<'a>(object: &'a Manifest, given: &'a Given) -> &'a str {
    object.namespace.as_ref().map_or(given.namespace.as_str(), |text| text.value.as_str())
}

/// How messages call an object.
fn label(object: &Manifest, given: &Given) -> String {
    format!("{} {}/{}{}", object.kind, namespace(object, given), object.name, at(object.line))
}

/// Checks one object.
struct Checker<'a> {
    label: String,
    object: &'a Manifest,
    given: &'a Given,
    report: &'a mut Report,
}

impl Checker<'_> {
    fn error(&mut self, message: impl std::fmt::Display) {
        self.report.errors.push(format!("{}: {message}", self.label));
    }

    fn warning(&mut self, message: impl std::fmt::Display) {
        self.report.warnings.push(format!("{}: {message}", self.label));
    }

    fn note(&mut self, message: impl std::fmt::Display) {
        self.report.notes.push(format!("{}: {message}", self.label));
    }

    fn unknown(&mut self, message: impl std::fmt::Display) {
        self.report.unknown.push(format!("{}: {message}", self.label));
    }

    /// Reports on an object of any kind.
    fn object(&mut self) {
        let object = self.object;
        if object.kind.is_empty() {
            let place = if object.line == 0 { "the object".to_owned() } else { format!("line {}", object.line) };
            self.report.warnings.push(format!("{place}: it has no \"kind\", so it is no Kubernetes object"));
            return;
        }
        if matches!(object.content, Content::Other) {
            return;
        }
        for error in &object.errors {
            self.error(error);
        }
        if object.name.is_empty() {
            self.error("metadata.name is missing");
        } else if !is_name(object.name.trim_end_matches('-')) {
            let expected = "expected lower-case letters, digits, '-' and '.', the ends a letter or digit";
            self.error(format!("metadata.name is {:?}, {expected}", object.name));
        }
        if let Some(namespace) = object.namespace.as_ref().filter(|text| !is_label(&text.value)) {
            let expected = "expected at most 63 lower-case letters, digits and '-', the ends a letter or digit";
            self.error(format!("metadata.namespace{} is {:?}, {expected}", at(namespace.line), namespace.value));
        }
    }

    fn definition(&mut self, spec: &DefinitionSpec) {
        let object = self.object;
        if object.api_version != API_VERSION {
            self.error(format!("apiVersion is {:?}, expected {API_VERSION:?}", object.api_version));
        }
        self.annotations(&object.annotations, "metadata.annotations");
        if let Some(resource) = object.annotations.get(RESOURCE_NAME)
            && !is_resource(&resource.value)
        {
            let expected = "expected the name of a device resource such as vendor.com/vf";
            let message = format!("{RESOURCE_NAME}{} is {:?}, {expected}", at(resource.line), resource.value);
            if is_resource(&format!("any/{}", resource.value)) {
                // The attribute of a DRA device may be any word.
                self.warning(format!("{message}, unless it is what a DRA driver calls its devices"));
            } else {
                self.error(message);
            }
        }
        if let Some(claim) = object.annotations.get(RESOURCE_CLAIM)
            && let Err(error) = ClaimRequest::parse(&claim.value, RESOURCE_CLAIM)
        {
            self.error(format!("{error}{}", at(claim.line)));
        }
        for key in &spec.other_keys {
            let hint = nearest(key, &["config"]).map(|_| ", did you mean \"config\"?").unwrap_or_default();
            self.warning(format!("spec: the key {key:?} is not known{hint}"));
        }
        let Some(config) = &spec.config else {
            if object.errors.is_empty() {
                let name = &object.name;
                self.note(format!("it has no spec.config; it stands for the configuration in confDir called {name:?}"));
            }
            return;
        };
        let place = format!("spec.config{}", at(config.line));
        let parsed = parse_object(config.value.as_bytes()).and_then(|object| {
            // The problem with the object's own name has been reported.
            let own = Some(self.object.name.as_str()).filter(|name| validate::network_name(name).is_ok());
            let defaults = Defaults { name: own.or(Some("unnamed")), version: None };
            NetworkConfig::complete_from_object(object.clone(), defaults).map(|network| (object, network))
        });
        match parsed {
            Ok((keys, network)) => self.network(&place, &keys, &network),
            Err(error) => self.error(format!("{place}: {error}")),
        }
    }

    /// Reports on a definition's configuration that can be parsed.
    fn network(&mut self, place: &str, keys: &RawObject, network: &NetworkConfig) {
        if !keys.contains_key("cniVersion") && !keys.contains_key("cniVersions") {
            let hint =
                if keys.contains_key("version") { " (\"version\" is another key, which nothing reads)" } else { "" };
            self.warning(format!(
                "{place}: \"cniVersion\" is missing{hint}; it speaks the one of Braid's configuration"
            ));
        }
        if !keys.contains_key("type") {
            for error in Keys::new(keys, place).unknown(&LIST_KEYS) {
                self.warning(error);
            }
        }
        let is_meta = |name: &&String| is_meta_plugin(name);
        if let Some(plugin) = plugins_of(network).iter().find(is_meta) {
            self.error(format!(
                "{place}: a plugin of type {plugin:?} would lead back to braid; expected another plugin"
            ));
        }
        self.report.traps(&format!("{}: {place}: ", self.label), traps::of_network(network));
        let is_list = !keys.contains_key("type");
        for (index, plugin) in network.plugins.iter().enumerate() {
            let place = if is_list { format!("{place}: plugins[{index}]") } else { place.to_owned() };
            for key in INTERFACE_KEYS {
                if let Ok(Some(name)) = get::<String>(plugin.keys(), key, "a string")
                    && !name.is_empty()
                    && let Err(error) = validate::interface_name(&name)
                {
                    self.error(format!("{place}: {key:?}: {error}"));
                }
            }
            match get::<RawObject>(plugin.keys(), "ipam", "an object with a \"type\"") {
                Ok(Some(ipam)) if !ipam.is_empty() && !ipam.contains_key("type") => {
                    self.error(format!("{place}: \"ipam.type\" is missing, expected the file name of a plugin"));
                }
                Ok(_) => {}
                Err(error) => self.error(format!("{place}: {error}")),
            }
            let place = format!("{}: {place}", self.label);
            self.report.executable(self.given, plugin.plugin_type(), &place);
        }
    }

    fn pod(&mut self, template: &PodTemplate) {
        let object = self.object;
        let annotations = template.annotations.as_ref().unwrap_or(&object.annotations);
        self.annotations(annotations, template.place);
        if template.annotations.is_some() {
            for key in [NETWORKS, DEFAULT_NETWORK] {
                if let Some(text) = object.annotations.get(key) {
                    let place = template.place;
                    let line = at(text.line);
                    self.warning(format!(
                        "metadata.annotations[{key:?}]{line} has no effect there; pods get what is in {place}"
                    ));
                }
            }
        }
        let (pod, problems) = read_pod(object, template, self.given);
        for problem in problems {
            self.error(with_line(problem.reason, annotations));
        }
        if pod.networks.is_empty() && pod.default_network.is_none() {
            return;
        }
        let view = PodView { pod, definitions: self.given.definitions.clone(), devices: Assignments::new() };
        let without = PodView {
            pod: Pod { networks: Vec::new(), default_network: None, warnings: Vec::new(), ..view.pod.clone() },
            ..view.clone()
        };
        let mut reported = BTreeSet::new();
        for (place, config) in configs(self.given) {
            // Problems that do not depend on the pod are reported for the configuration.
            let anyway: BTreeSet<Finding> = findings(&config, &without, template, self.given).into_iter().collect();
            for finding in findings(&config, &view, template, self.given) {
                if anyway.contains(&finding) || !reported.insert(finding.clone()) {
                    continue;
                }
                let by = if self.given.configs.len() > 1 { format!(" (by {place})") } else { String::new() };
                match finding {
                    Finding::Error(message) => self.error(with_line(message, annotations) + &by),
                    Finding::Warning(message) => self.warning(with_line(message, annotations)),
                    Finding::Note(message) => self.note(with_line(message, annotations)),
                    Finding::Unknown(message) => self.unknown(with_line(message, annotations)),
                }
            }
        }
    }

    /// Annotations that look like known ones but are not.
    fn annotations(&mut self, annotations: &Annotations, place: &str) {
        for (key, text) in annotations {
            let known = ANNOTATIONS.iter().chain(&[DEFAULT_NETWORK]).copied().collect::<Vec<_>>();
            let is_ours = key.starts_with(PREFIX) || key.starts_with("v1.multus-cni.io/");
            if let Some((_, whose)) = OTHERS_ANNOTATIONS.iter().find(|(other, _)| other == key) {
                self.warning(format!(
                    "{place}{}: {key:?} is {whose}, which Braid does not read; networks are asked for in {NETWORKS:?}",
                    at(text.line)
                ));
            }
            if is_ours && !known.contains(&key.as_str()) {
                let hint = nearest(key, &known).map(|name| format!(", did you mean {name:?}?")).unwrap_or_default();
                self.warning(format!("{place}{}: the key {key:?} is not known{hint}", at(text.line)));
            }
        }
    }
}

/// A pod, as its template asks for networks, and the problems with that.
fn read_pod(object: &Manifest, template: &PodTemplate, given: &Given) -> (Pod, Problems<AnnotationError>) {
    let annotations = template.annotations.as_ref().unwrap_or(&object.annotations);
    let annotation = |key: &str| annotations.get(key).map(|text| text.value.as_str());
    Pod::read(namespace(object, given), &object.name, "", annotation)
}

/// An ADD of a pod.
fn request_of(pod: &Pod) -> Request {
    let mut args = Args::default();
    args.set("K8S_POD_NAMESPACE", &pod.namespace);
    args.set("K8S_POD_NAME", &pod.name);
    Request::of_no_container(args)
}

/// Something to report about a pod.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Finding {
    Error(String),
    Warning(String),
    Note(String),
    /// It may be wrong, because the cluster could not be asked.
    Unknown(String),
}

/// The configurations with which pods are checked: the given ones, or one that allows everything.
fn configs(given: &Given) -> Vec<(String, Config)> {
    if !given.configs.is_empty() {
        return given.configs.clone();
    }
    let json =
        format!(r#"{{"cniVersion":"1.1.0","name":"braid","type":"braid","delegates":[{{"type":"{PRIMARY}"}}]}}"#);
    let config = Config::parse(json.as_bytes()).expect("a good configuration");
    vec![(String::new(), config)]
}

/// The plugin type of the primary network if it is not known.
const PRIMARY: &str = "primary";

/// Errors in what a pod asks for, and other remarks.
fn findings(config: &Config, view: &PodView, template: &PodTemplate, given: &Given) -> Vec<Finding> {
    let request = request_of(&view.pod);
    let (devices, of_devices) = devices(config, &request, view, template, given);
    let view = PodView { devices, ..view.clone() };
    let surveyed = source::survey(config, &request, Some(&view));
    let mut refusals = Problems::new();
    let planned = plan::build(
        config,
        &request,
        Asked { candidates: surveyed.candidates, dropped: &surveyed.dropped, taken: &[] },
        &mut refusals,
    );
    let of_errors = surveyed.errors.into_iter().map(|error| match error {
        SourceError::NoDefinition { origin, key, .. } => match given.missing(&origin, &key) {
            Ok(error) => Finding::Error(error),
            Err(note) => Finding::Note(note),
        },
        SourceError::Device { source: DeviceError::NotTheirs { device, .. }, origin } => {
            Finding::Note(format!("{origin}: whether the pod has the device {device:?} is known on its node"))
        }
        SourceError::Device { source: DeviceError::Annotation { .. }, .. } => Finding::Error(error.to_string()),
        error @ SourceError::Withheld { .. } => Finding::Unknown(error.to_string()),
        SourceError::Unknown { .. } if given.finder.is_none() => Finding::Note(error.to_string()),
        // The node's disk is not known here, and a webhook may add a request when the pod is made.
        SourceError::Unknown { .. } | SourceError::Device { .. } => Finding::Warning(error.to_string()),
        error => Finding::Error(error.to_string()),
    });
    let is_stand_in = given.configs.is_empty();
    let of_refusals = refusals.into_iter().map(|error| {
        let message = error.to_string();
        Finding::Error(if is_stand_in { message.replace("delegates[0]", "the primary network") } else { message })
    });
    let traps = traps::of_plan(&planned.plan).into_iter().map(|trap| trap.message);
    let of_warnings = surveyed.warnings.into_iter().chain(planned.warnings).chain(traps).map(Finding::Warning);
    of_errors.chain(of_devices).chain(of_refusals).chain(of_warnings).collect()
}

/// A message about an annotation, with the annotation's line.
fn with_line(message: String, annotations: &Annotations) -> String {
    // The older name of an annotation begins like the current one.
    let of = [DEFAULT_NETWORK, NETWORKS].into_iter().find(|key| message.contains(*key));
    match of.and_then(|key| annotations.get(key)) {
        Some(text) => message + &at(text.line),
        None => message,
    }
}

/// A name of an object: a DNS subdomain (RFC 1123).
fn is_name(name: &str) -> bool {
    name.len() <= 253 && name.split('.').all(is_part)
}

/// The name of a namespace: a DNS label (RFC 1123).
fn is_label(name: &str) -> bool {
    name.len() <= 63 && is_part(name)
}

fn is_part(name: &str) -> bool {
    let is_end = |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    let bytes = name.as_bytes();
    is_end(bytes.first())
        && is_end(bytes.last())
        && bytes.iter().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'-')
}

/// The name of an extended resource: `domain/name`.
fn is_resource(name: &str) -> bool {
    let Some((domain, name)) = name.split_once('/') else { return false };
    let is_end = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = name.as_bytes();
    is_name(domain)
        && name.len() <= 63
        && is_end(bytes.first())
        && is_end(bytes.last())
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
}
