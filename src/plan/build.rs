//! From candidates to a plan.

use super::checks::{
    check_capabilities, foreign_names, refuse_duplicates, refuse_forbidden, refuse_self_delegation, refuse_too_much,
    refuse_two_default_routes,
};
use super::device::{DEVICE_INFO, device_info, hand_over_device};
use super::names::Names;
use super::{Attachment, Plan, PlanError, Position, arguments};
use crate::cni::config::raw;
use crate::config::{Config, Problems};
use crate::request::Request;
use crate::source::Candidate;

/// A plan, with warnings.
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
    /// The requested attachments, primary first. `None` for one that was not found.
    pub candidates: Vec<Option<Candidate>>,
    /// Why others do not apply.
    pub dropped: &'a [String],
    /// The interface names that other networks have given to the container.
    pub taken: &'a [String],
}

/// Makes the plan for a call. Continues after a problem, to find all of them.
pub fn build(config: &Config, request: &Request, asked: Asked<'_>, problems: &mut Problems<PlanError>) -> Planned {
    let Asked { candidates, dropped, taken } = asked;
    let position = if config.prev_result.is_some() { Position::Chained } else { Position::Primary };
    let mut warnings = Vec::new();
    let mut attachments: Vec<Attachment> = Vec::with_capacity(candidates.len());
    if candidates.is_empty() && position == Position::Primary {
        problems.push(PlanError::NoPrimary { reasons: dropped.to_vec() });
    }
    let is_too_much = problems.record(refuse_too_much(config, &candidates)).is_none();
    let candidates = if is_too_much { Vec::new() } else { candidates };
    let mut names = Names::new(taken, &candidates);
    for (index, candidate) in candidates.into_iter().enumerate() {
        let Some(candidate) = candidate else { continue };
        let is_primary = position == Position::Primary && index == 0;
        if is_primary && candidate.optional {
            problems.push(PlanError::OptionalPrimary { origin: candidate.origin.clone() });
        }
        problems.record(refuse_self_delegation(config, &candidate));
        problems.record(refuse_forbidden(config, request, &candidate));
        check_capabilities(&candidate, &mut warnings, problems);
        let ifname = match position {
            _ if is_primary => request.ifname.clone(),
            Position::Primary => names.extra(&candidate.selection, index),
            Position::Chained => names.extra(&candidate.selection, index + 1),
        };
        attachments.push(attachment(config, request, candidate, ifname, is_primary));
    }
    refuse_duplicates(&foreign_names(request, position, taken), &attachments, problems);
    problems.record(refuse_two_default_routes(&attachments));
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

fn attachment(
    config: &Config,
    request: &Request,
    candidate: Candidate,
    ifname: String,
    is_primary: bool,
) -> Attachment {
    let Candidate { mut network, selection, asked, optional, author, origin, reason, resource, allocated, .. } =
        candidate;
    let mut capability_args = arguments::capability_args(config, &selection, is_primary);
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
        args: arguments::cni_args(request, &selection, is_primary),
        plugin_args: arguments::plugin_args(config, &selection, is_primary),
        ifname,
        network,
        reference,
        author,
        origin,
        reason,
        capability_args,
        optional,
        default_route: selection.default_route,
        asked,
        device_info,
        allocated,
    }
}
