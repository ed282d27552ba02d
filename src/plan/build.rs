//! From candidates to a plan: names, arguments, capabilities, and every check that needs no I/O.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::cni::config::{NetworkConfig, PluginConfig, RawObject, overlay_objects, raw};
use crate::cni::validate;
use crate::cni::{Args, Version};
use crate::config::Problems;
use crate::config::meta::is_meta_plugin;
use crate::config::policy::plugins_of;
use crate::config::selection::MAX_ATTACHMENTS;
use crate::config::{Author, Config, Selection};
use crate::request::Request;
use crate::runtime;
use crate::source::device::AllocatedDevice;
use crate::source::{Candidate, appended};

/// The capability by which a plugin gets the path of a [`DeviceInfo`].
const DEVICE_INFO: &str = "CNIDeviceInfoFile";
/// The most that the configurations of one container's attachments may take together, in bytes.
const MAX_SIZE: usize = 64 << 20;

/// A file in which a device is described to the attachment's plugins and to whoever reads the pod's status.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceInfo {
    /// The file.
    pub file: PathBuf,
    /// The device plugin's file, which it is a copy of if that is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<PathBuf>,
}

/// Where Braid stands in its list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Position {
    /// First: its first attachment is the primary one.
    Primary,
    /// After another plugin, whose result it adds to.
    Chained,
}

/// One attachment of a plan: complete enough to undo it with nothing else.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Attachment {
    /// The interface's name in the container.
    pub ifname: String,
    /// The network.
    pub network: NetworkConfig,
    /// The network as the status of a pod names it: `namespace/name`, or its plain name.
    pub reference: String,
    /// Who asked for it.
    #[serde(default, skip_serializing_if = "Author::is_operator")]
    pub author: Author,
    /// Where it was asked for.
    pub origin: String,
    /// Why it applies.
    #[serde(default)]
    pub reason: String,
    /// `CNI_ARGS` for its plugins.
    #[serde(default)]
    pub args: String,
    /// Its capability arguments.
    #[serde(default, skip_serializing_if = "RawObject::is_empty")]
    pub capability_args: RawObject,
    /// Laid over every plugin's `args`.
    #[serde(default, skip_serializing_if = "RawObject::is_empty")]
    pub plugin_args: RawObject,
    /// Whether the container may do without it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub optional: bool,
    /// The default routes it asks for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_route: Option<Vec<IpAddr>>,
    /// All that the pod asked of it, in the words of a selection: what a later change of the pod's annotation is held against,
    /// whatever values an operator has given it since. None where the operator asked for it, and in older journals.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked: Option<RawObject>,
    /// The description of its device; there while the attachment is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_info: Option<DeviceInfo>,
    /// Its device as the pod's resource claim names it, if it is from one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allocated: Option<AllocatedDevice>,
}

impl Attachment {
    /// What its plugins get, for a container whose namespace is at `netns` now.
    pub fn parameters(&self, container_id: &str, netns: &str) -> runtime::Attachment {
        runtime::Attachment {
            container_id: container_id.to_owned(),
            netns: netns.to_owned(),
            ifname: self.ifname.clone(),
            args: self.args.clone(),
            capability_args: self.capability_args.clone(),
            plugin_args: self.plugin_args.clone(),
        }
    }

    /// What plugins know its device by, if it has one.
    pub fn device_id(&self) -> Option<String> {
        serde_json::from_str(self.capability_args.get("deviceID")?.get()).ok()
    }

    /// All that was asked of it, in the words of a selection. Of one that an older journal tells of, that is what its plugins
    /// were given: devices and claims are not known.
    pub fn asked(&self) -> RawObject {
        if let Some(asked) = &self.asked {
            return asked.clone();
        }
        let of = |key: &str| self.capability_args.get(key).cloned();
        let keys = ["ips", "mac", "portMappings", "bandwidth"].map(|key| (key, of(key)));
        let mut asked: RawObject = keys.into_iter().filter_map(|(key, value)| Some((key.into(), value?))).collect();
        asked.extend(of("infinibandGUID").map(|guid| ("infiniband-guid".into(), guid)));
        asked.extend(self.default_route.as_ref().map(|gateways| ("default-route".into(), raw(gateways))));
        asked
    }

    /// How messages call it.
    pub fn label(&self) -> String {
        format!("delegate {:?} on {}", self.network.name, self.ifname)
    }
}

/// What ADD will do.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Plan {
    /// The network that Braid was called for.
    pub network: String,
    /// The version to answer in.
    #[serde(rename = "cniVersion")]
    pub version: Version,
    /// The container.
    #[serde(rename = "containerID")]
    pub container_id: String,
    /// The path of its network namespace.
    pub netns: String,
    /// `CNI_IFNAME`.
    pub ifname: String,
    /// `CNI_ARGS` of the call, for whoever reads the journal.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub args: String,
    /// Where plugins are looked up.
    pub path: String,
    /// Where Braid stands in its list.
    pub position: Position,
    /// Whether another plugin has attached the container without Braid, and Braid has added to that later: DEL then has more to
    /// undo than the journal tells of.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_repair: bool,
    /// The attachments in order.
    pub attachments: Vec<Attachment>,
}

/// A plan that cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// More is asked for than any container needs.
    #[error("{found}, and a container gets at most {MAX_ATTACHMENTS} attachments with {} MiB of configuration", MAX_SIZE >> 20)]
    TooMuch {
        /// How much.
        found: String,
    },
    /// Nothing is left to be the primary attachment.
    #[error(
        "none of the delegates applies to this container, and one has to be the primary{}",
        appended("; ", reasons)
    )]
    NoPrimary {
        /// Why each was dropped.
        reasons: Vec<String>,
    },
    /// The primary is marked optional.
    #[error("{origin}: the primary attachment cannot be optional")]
    OptionalPrimary {
        /// Which.
        origin: String,
    },
    /// Two attachments want one interface name.
    #[error("{first} and {second} would both get the interface {ifname:?}; give one of them another \"interface\"")]
    DuplicateInterface {
        /// The name.
        ifname: String,
        /// One.
        first: String,
        /// The other.
        second: String,
    },
    /// A delegate would lead back to Braid.
    #[error(
        "{origin} (network {network:?}) has a plugin of type {plugin_type:?}, which would lead back to braid; a delegate must be another plugin"
    )]
    SelfDelegation {
        /// Which.
        origin: String,
        /// The network.
        network: String,
        /// The type.
        plugin_type: String,
    },
    /// More than one attachment wants a default route of a family.
    #[error("{first} and {second} both ask for the {family} default route, and only one can have it")]
    DefaultRoutes {
        /// The family.
        family: &'static str,
        /// One.
        first: String,
        /// The other.
        second: String,
    },
    /// A capability is asked for that no plugin of the network has.
    #[error("{origin}: {capability:?} is asked for, but no plugin of network {network:?} declares that capability")]
    Capability {
        /// Which.
        origin: String,
        /// The capability.
        capability: String,
        /// The network.
        network: String,
    },
    /// Policy forbids an attachment.
    #[error("{origin}: the policy of this node does not let namespace {namespace:?} use network {reference:?} (plugins {})", plugins.join(", "))]
    Forbidden {
        /// Which.
        origin: String,
        /// The pod's namespace.
        namespace: String,
        /// The network.
        reference: String,
        /// Its plugins.
        plugins: Vec<String>,
    },
}

/// A plan, and what is worth a word about it.
#[derive(Debug)]
pub struct Planned {
    /// The plan.
    pub plan: Plan,
    /// Things that are odd and not wrong.
    pub warnings: Vec<String>,
}

/// What a plan is made of.
#[derive(Debug, Default)]
pub struct Asked<'a> {
    /// The attachments that are asked for, primary first. None is one that cannot be had, and keeps its place.
    pub candidates: Vec<Option<Candidate>>,
    /// Why others do not apply.
    pub dropped: &'a [String],
    /// The names of interfaces that other networks have given the container.
    pub taken: &'a [String],
}

/// Makes the plan for a call, and goes on after what is wrong.
pub fn build(config: &Config, request: &Request, asked: Asked<'_>, problems: &mut Problems<PlanError>) -> Planned {
    let Asked { candidates, dropped, taken } = asked;
    let position = if config.prev_result.is_some() { Position::Chained } else { Position::Primary };
    let mut warnings = Vec::new();
    let mut attachments: Vec<Attachment> = Vec::with_capacity(candidates.len());
    if candidates.is_empty() && position == Position::Primary {
        problems.push(PlanError::NoPrimary { reasons: dropped.to_vec() });
    }
    let is_too_much = problems.keep(refuse_too_much(config, &candidates)).is_none();
    let candidates = if is_too_much { Vec::new() } else { candidates };
    let mut names = Names::new(taken, &candidates);
    for (index, candidate) in candidates.into_iter().enumerate() {
        let Some(candidate) = candidate else { continue };
        let is_primary = position == Position::Primary && index == 0;
        if is_primary && candidate.optional {
            problems.push(PlanError::OptionalPrimary { origin: candidate.origin.clone() });
        }
        problems.keep(refuse_self_delegation(config, &candidate));
        problems.keep(refuse_forbidden(config, request, &candidate));
        check_capabilities(&candidate, &mut warnings, problems);
        let ifname = match position {
            _ if is_primary => request.ifname.clone(),
            Position::Primary => names.extra(&candidate.selection, index),
            Position::Chained => names.extra(&candidate.selection, index + 1),
        };
        attachments.push(attachment(config, request, candidate, ifname, is_primary));
    }
    refuse_duplicates(&foreign_names(request, position, taken), &attachments, problems);
    problems.keep(refuse_two_default_routes(&attachments));
    let plan = Plan {
        network: config.name.clone(),
        version: config.version,
        container_id: request.container_id.clone(),
        netns: request.netns.clone(),
        ifname: request.ifname.clone(),
        args: request.args_text.clone(),
        path: config.plugin_path(&request.cni_path),
        position,
        is_repair: false,
        attachments,
    };
    Planned { plan, warnings }
}

/// What a plan may hold: it is kept in memory, in the journal and in the configuration of each plugin.
fn refuse_too_much(config: &Config, candidates: &[Option<Candidate>]) -> Result<(), PlanError> {
    if candidates.len() > MAX_ATTACHMENTS {
        return Err(PlanError::TooMuch { found: format!("{} attachments are asked for", candidates.len()) });
    }
    let of = |object: &RawObject| object.iter().map(|(key, value)| key.len() + value.get().len()).sum::<usize>();
    let own = of(&config.args);
    let size: usize = candidates
        .iter()
        .flatten()
        .map(|one| own + of(&one.selection.cni_args) + one.network.plugins.iter().map(|p| of(p.keys())).sum::<usize>())
        .sum();
    if size > MAX_SIZE {
        let found = format!("{} attachments with {} MiB of configuration are asked for", candidates.len(), size >> 20);
        return Err(PlanError::TooMuch { found });
    }
    Ok(())
}

/// The names of interfaces after the primary.
struct Names<'a> {
    /// Those that other networks have given the container.
    taken: &'a [String],
    /// Those that are asked for, or given already.
    used: BTreeSet<String>,
}

impl<'a> Names<'a> {
    fn new(taken: &'a [String], candidates: &[Option<Candidate>]) -> Self {
        let asked = candidates.iter().flatten().filter_map(|candidate| candidate.selection.interface.clone());
        Self { taken, used: asked.collect() }
    }

    /// The name that is asked for; else the one of its place, or the next free one where another network has that.
    fn extra(&mut self, selection: &Selection, index: usize) -> String {
        if let Some(name) = &selection.interface {
            return name.clone();
        }
        let name = |number: usize| format!("net{number}");
        let own = name(index);
        let is_moved = self.taken.contains(&own) || (!self.taken.is_empty() && self.used.contains(&own));
        let is_free = |name: &String| !self.taken.contains(name) && !self.used.contains(name);
        // Of one more number than there are names, one is free.
        let last = index + 1 + self.taken.len() + self.used.len();
        let name = if is_moved { (index + 1..=last).map(name).find(is_free).unwrap_or(own) } else { own };
        self.used.insert(name.clone());
        name
    }
}

fn attachment(
    config: &Config,
    request: &Request,
    candidate: Candidate,
    ifname: String,
    is_primary: bool,
) -> Attachment {
    let Candidate { mut network, selection, asked, optional, author, origin, reason, resource, allocated, .. } =
        candidate;
    // What the runtime gave is for the interface it asked for (NPWG specification, §7.5).
    let mut capability_args = if is_primary { config.runtime_config.clone() } else { RawObject::new() };
    capability_args.shift_remove("networks");
    capability_args.extend(selection.capability_args());
    let mut plugin_args = config.args.clone();
    if !is_primary {
        forget_addresses(&mut plugin_args);
    }
    if !selection.cni_args.is_empty() {
        let mut cni = RawObject::new();
        cni.insert("cni".into(), raw(&selection.cni_args));
        plugin_args = overlay_objects(plugin_args, &cni);
    }
    let reference = if selection.name.is_empty() || selection.name.starts_with('/') {
        network.name.clone()
    } else {
        selection.reference()
    };
    if let Some(device) = &selection.device_id {
        hand_over_device(&mut network, device);
    }
    let device_info = device_info(config, request, &network, &selection, resource.as_deref(), (&reference, &ifname));
    if let Some(info) = &device_info {
        capability_args.insert(DEVICE_INFO.into(), raw(&info.file));
    }
    Attachment {
        args: args_for(request, &selection, is_primary),
        ifname,
        network,
        reference,
        author,
        origin,
        reason,
        capability_args,
        plugin_args,
        optional,
        default_route: selection.default_route,
        asked,
        device_info,
        allocated,
    }
}

/// Plugins for devices look for them in these keys of their own configuration; the first plugin of a network is the one
/// that takes the device.
fn hand_over_device(network: &mut NetworkConfig, device: &str) {
    if let Some(first) = network.plugins.first_mut() {
        let mut keys = first.keys().clone();
        keys.insert("deviceID".into(), raw(device));
        keys.insert("pciBusID".into(), raw(device));
        *first = PluginConfig::from_object(keys).expect("a plugin's configuration stays one with a device in it");
    }
}

/// Where the device of an attachment is described (NPWG device information specification, §3), if it has one or its
/// plugins want to describe it.
fn device_info(
    config: &Config,
    request: &Request,
    network: &NetworkConfig,
    selection: &Selection,
    resource: Option<&str>,
    (reference, ifname): (&str, &str),
) -> Option<DeviceInfo> {
    let is_declared = network.plugins.iter().any(|plugin| plugin.declares(DEVICE_INFO));
    if resource.is_none() && !is_declared {
        return None;
    }
    let below =
        |directory: &str, name: String| config.kubernetes.device_info_dir.join(directory).join(name.replace('/', "-"));
    let source = resource.zip(selection.device_id.as_deref());
    Some(DeviceInfo {
        file: below("cni", format!("{reference}-{}_{ifname}", request.container_id)),
        source: source.map(|(resource, device)| below("dp", format!("{resource}-{device}-device.json"))),
    })
}

/// What `CNI_ARGS` say of the one interface that the runtime asked for, by convention.
const OF_ONE_INTERFACE: [&str; 3] = ["IP", "GATEWAY", "MAC"];

/// `CNI_ARGS` for an attachment: as they came, with the selection's address and hardware address added. The addresses
/// that the runtime asks for are the primary attachment's alone: no other could have them too.
fn args_for(request: &Request, selection: &Selection, is_primary: bool) -> String {
    let is_for_another = |key: &str| !is_primary && OF_ONE_INTERFACE.contains(&key);
    let is_plain = selection.ips.is_empty() && selection.mac.is_none();
    if is_plain && !request.args.iter().any(|(key, _)| is_for_another(key)) {
        return request.args_text.clone();
    }
    let mut args: Args = request.args.clone();
    args.retain(|key| !is_for_another(key));
    if is_plain {
        return args.to_string();
    }
    args.set("IgnoreUnknown", "true");
    if !selection.ips.is_empty() {
        args.set("IP", &selection.ips.join(","));
    }
    if let Some(mac) = &selection.mac {
        args.set("MAC", mac);
    }
    args.to_string()
}

/// Takes out of `args.cni` what the runtime asks for the one interface that it asked for (CONVENTIONS, "`args` in network
/// config").
fn forget_addresses(args: &mut RawObject) {
    let Some(mut cni) = args.get("cni").and_then(|cni| serde_json::from_str::<RawObject>(cni.get()).ok()) else {
        return;
    };
    let before = cni.len();
    cni.retain(|key, _| !["ips", "mac"].contains(&key.as_str()));
    if cni.len() != before {
        args.insert("cni".into(), raw(&cni));
    }
}

fn refuse_self_delegation(config: &Config, candidate: &Candidate) -> Result<(), PlanError> {
    let own = |name: &str| is_meta_plugin(name) || name == config.plugin_type;
    match plugins_of(&candidate.network).into_iter().find(|name| own(name)) {
        Some(plugin_type) => Err(PlanError::SelfDelegation {
            origin: candidate.origin.clone(),
            network: candidate.network.name.clone(),
            plugin_type,
        }),
        None => Ok(()),
    }
}

fn refuse_forbidden(config: &Config, request: &Request, candidate: &Candidate) -> Result<(), PlanError> {
    let (Some(policy), Author::Pod) = (&config.policy, candidate.author) else { return Ok(()) };
    let namespace = request.arg("K8S_POD_NAMESPACE");
    let names = std::iter::once(candidate.selection.reference()).chain(candidate.on_disk_name.clone());
    match names.into_iter().find(|name| !policy.allows(namespace, name, &candidate.network)) {
        None => Ok(()),
        Some(reference) => Err(PlanError::Forbidden {
            origin: candidate.origin.clone(),
            namespace: namespace.unwrap_or_default().into(),
            reference,
            plugins: plugins_of(&candidate.network),
        }),
    }
}

/// A selection may ask only for capabilities that a plugin of the network declares (NPWG specification, §4.1.2.1).
/// Addresses and hardware addresses also go out in `CNI_ARGS`, so that those two get a warning.
fn check_capabilities(candidate: &Candidate, warnings: &mut Vec<String>, problems: &mut Problems<PlanError>) {
    for capability in candidate.selection.capability_args().keys() {
        if candidate.network.plugins.iter().any(|plugin| plugin.declares(capability)) {
            continue;
        }
        let error = PlanError::Capability {
            origin: candidate.origin.clone(),
            capability: capability.clone(),
            network: candidate.network.name.clone(),
        };
        match capability.as_str() {
            "ips" | "mac" => warnings.push(format!("{error}; it is passed in CNI_ARGS only")),
            // A device goes to a delegate that can use it and is of no harm to another.
            "deviceID" => {}
            _ => problems.push(error),
        }
    }
}

/// The interfaces that the container has, and who has made each.
fn foreign_names<'a>(request: &'a Request, position: Position, taken: &'a [String]) -> Vec<(&'a str, &'a str)> {
    let incoming = (position == Position::Chained)
        .then_some((request.ifname.as_str(), "the interface that braid is chained after"));
    let held = taken.iter().map(|name| (name.as_str(), "another network of this container"));
    incoming.into_iter().chain(held).collect()
}

fn refuse_duplicates(foreign: &[(&str, &str)], attachments: &[Attachment], problems: &mut Problems<PlanError>) {
    for (index, attachment) in attachments.iter().enumerate() {
        debug_assert!(validate::interface_name(&attachment.ifname).is_ok());
        let before = attachments[..index].iter().map(|other| (other.ifname.as_str(), other.origin.as_str()));
        if let Some((_, first)) = foreign.iter().copied().chain(before).find(|(name, _)| *name == attachment.ifname) {
            problems.push(PlanError::DuplicateInterface {
                ifname: attachment.ifname.clone(),
                first: first.into(),
                second: attachment.origin.clone(),
            });
        }
    }
}

/// Of each family, one attachment of a container may ask for the default route.
///
/// # Errors
/// When two do.
pub fn refuse_two_default_routes(attachments: &[Attachment]) -> Result<(), PlanError> {
    let asking = || attachments.iter().filter_map(|a| a.default_route.as_ref().map(|gateways| (a, gateways)));
    for (family, v4) in [("IPv4", true), ("IPv6", false)] {
        // Which families an empty list stands for is known only once its plugins have run: it may be either.
        let mut wanted =
            asking().filter(|(_, gateways)| gateways.is_empty() || gateways.iter().any(|g| g.is_ipv4() == v4));
        if let (Some((first, _)), Some((second, _))) = (wanted.next(), wanted.next()) {
            let (first, second) = (first.label(), second.label());
            return Err(PlanError::DefaultRoutes { family, first, second });
        }
    }
    Ok(())
}
