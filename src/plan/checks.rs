//! What is refused before anything runs.

use super::{Attachment, PlanError, Position};
use crate::cni::{RawObject, validate};
use crate::config::meta::is_meta_plugin;
use crate::config::policy::plugins_of;
use crate::config::selection::MAX_ATTACHMENTS;
use crate::config::{Author, Config, Problems};
use crate::request::Request;
use crate::source::Candidate;

/// The size limit for all configurations of a container's attachments together, in bytes.
pub(super) const MAX_SIZE: usize = 64 << 20;

/// Checks the size of a plan: it is kept in memory, in the journal and in the configuration of each plugin.
pub(super) fn refuse_too_much(config: &Config, candidates: &[Option<Candidate>]) -> Result<(), PlanError> {
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

pub(super) fn refuse_self_delegation(config: &Config, candidate: &Candidate) -> Result<(), PlanError> {
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

pub(super) fn refuse_forbidden(config: &Config, request: &Request, candidate: &Candidate) -> Result<(), PlanError> {
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

/// A selection may ask only for capabilities that a plugin of the network declares (NPWG specification, §4.1.2.1). Addresses and
/// hardware addresses are also passed in `CNI_ARGS`, so for these two it is only a warning.
pub(super) fn check_capabilities(
    candidate: &Candidate,
    warnings: &mut Vec<String>,
    problems: &mut Problems<PlanError>,
) {
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
            // A delegate that cannot use a device works without it.
            "deviceID" => {}
            _ => problems.push(error),
        }
    }
}

/// The interface names of the container, each with its owner.
pub(super) fn foreign_names<'a>(
    request: &'a Request,
    position: Position,
    taken: &'a [String],
) -> Vec<(&'a str, &'a str)> {
    let incoming = (position == Position::Chained)
        .then_some((request.ifname.as_str(), "the interface that the runtime asked for"));
    let held = taken.iter().map(|name| (name.as_str(), "another network of this container"));
    incoming.into_iter().chain(held).collect()
}

pub(super) fn refuse_duplicates(
    foreign: &[(&str, &str)],
    attachments: &[Attachment],
    problems: &mut Problems<PlanError>,
) {
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

/// For each family, only one attachment of a container may ask for the default route.
///
/// # Errors
/// When two do.
pub fn refuse_two_default_routes(attachments: &[Attachment]) -> Result<(), PlanError> {
    let asking = || attachments.iter().filter_map(|a| a.default_route.as_ref().map(|gateways| (a, gateways)));
    for (family, v4) in [("IPv4", true), ("IPv6", false)] {
        // An empty list may stand for either family, which is known only after its plugins have run.
        let mut wanted =
            asking().filter(|(_, gateways)| gateways.is_empty() || gateways.iter().any(|g| g.is_ipv4() == v4));
        if let (Some((first, _)), Some((second, _))) = (wanted.next(), wanted.next()) {
            let (first, second) = (first.label(), second.label());
            return Err(PlanError::DefaultRoutes { family, first, second });
        }
    }
    Ok(())
}
