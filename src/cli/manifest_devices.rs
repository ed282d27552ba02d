//! The checks of `validate` for the devices of pods' networks.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::manifests::Finding;
use super::validate::Given;
use crate::config::Config;
use crate::config::claim::ClaimRequest;
use crate::config::object::nearest;
use crate::request::Request;
use crate::source::Wanted;
use crate::source::device::{Assignments, Demand, DeviceError, Inventory, PodClaims};
use crate::source::kubernetes::manifest::{ClaimSpec, PodClaim, PodTemplate, RequestSpec};
use crate::source::pod::PodView;

/// The kinds of objects that a pod's claim can come from.
pub(super) const CLAIM: &str = "ResourceClaim";
pub(super) const TEMPLATE: &str = "ResourceClaimTemplate";

/// The given claims and templates, by kind, namespace and name.
pub(super) type GivenClaims = BTreeMap<(&'static str, String, String), ClaimSpec>;

/// The devices of a pod's attachments, as far as its manifest shows them, and findings about the others.
pub(super) fn devices(
    config: &Config,
    request: &Request,
    view: &PodView,
    template: &PodTemplate,
    given: &Given,
) -> (Assignments, Vec<Finding>) {
    let (demands, mut devices) = Wanted::list(config, request, Some(&view.pod)).demands(&view.definitions);
    let (named, of_resource): (Vec<Demand>, Vec<Demand>) = demands.into_iter().partition(|d| d.claim.is_some());
    let mut findings = Vec::new();
    for (origin, device) in of_containers(&of_resource, template) {
        if let Err(DeviceError::None { resource, .. } | DeviceError::Taken { resource, .. }) = &device
            && !template.claims.is_empty()
        {
            let known = "is known once devices are allocated";
            findings.push(Finding::Note(format!(
                "{origin}: whether the pod's resource claims have a device of resource {resource:?} {known}"
            )));
            continue;
        }
        devices.insert(origin, device);
    }
    findings.extend(Claims { template, given, namespace: &view.pod.namespace }.check(&named));
    (devices, findings)
}

/// The devices that the pod's containers request.
fn of_containers(demands: &[Demand], template: &PodTemplate) -> Assignments {
    let mut inventory = Inventory::new(template.requests.clone(), []);
    inventory.add_claims_of_pod(PodClaims::default());
    inventory.assign(demands).unwrap_or_default()
}

/// The claims of a pod.
struct Claims<'a> {
    template: &'a PodTemplate,
    given: &'a Given,
    namespace: &'a str,
}

impl Claims<'_> {
    /// Whether the requests that attachments name exist, and have enough devices.
    fn check(&self, demands: &[Demand]) -> Vec<Finding> {
        let mut left: BTreeMap<&str, Vec<RequestSpec>> = BTreeMap::new();
        let mut ordered: Vec<(&Demand, &ClaimRequest)> =
            demands.iter().filter_map(|demand| Some((demand, demand.claim.as_ref()?))).collect();
        // Who says more goes first.
        let precision =
            |request: &Option<String>| request.as_ref().map_or(0, |name| 1 + usize::from(name.contains('/')));
        ordered.sort_by_key(|(_, wanted)| Reverse(precision(&wanted.request)));
        let mut findings = Vec::new();
        for (demand, wanted) in ordered {
            findings.extend(self.check_one(&demand.origin, wanted, &mut left));
        }
        findings
    }

    fn check_one<'w>(
        &self,
        origin: &str,
        wanted: &'w ClaimRequest,
        left: &mut BTreeMap<&'w str, Vec<RequestSpec>>,
    ) -> Option<Finding> {
        let Some(claim) = self.template.claims.iter().find(|claim| claim.name == wanted.claim) else {
            let has: Vec<&str> = self.template.claims.iter().map(|claim| claim.name.as_str()).collect();
            let error = DeviceError::NoClaim {
                claim: wanted.claim.clone(),
                has: has.iter().map(|name| (*name).to_owned()).collect(),
            };
            return Some(Finding::Error(format!("{origin}: {error}{}", hint(&wanted.claim, &has))));
        };
        let Some((object, spec)) = self.object(claim) else {
            let where_ = "is looked up in the cluster at ADD";
            return Some(Finding::Note(format!("{origin}: {wanted}: the claim {where_}")));
        };
        let requests = left.entry(&wanted.claim).or_insert_with(|| spec.requests.clone());
        if requests.iter_mut().any(|request| take(request, wanted)) {
            return None;
        }
        if spec.requests.iter().any(|request| take(&mut request.clone(), wanted)) {
            let taken = "all the devices that it requests are taken by other networks of the pod";
            return Some(Finding::Error(format!("{origin}: {wanted} ({object}): {taken}")));
        }
        let alternatives = spec.requests.iter().flat_map(|request| &request.alternatives);
        let has: Vec<&str> = alternatives.map(|(name, _)| name.as_str()).collect();
        let hint = hint(wanted.request.as_deref().unwrap_or_default(), &has);
        let has = if has.is_empty() { "none".into() } else { has.join(", ") };
        Some(Finding::Error(format!("{origin}: {wanted} ({object}): it has no such request; it has {has}{hint}")))
    }

    /// The claim or template, if it is given.
    fn object(&self, claim: &PodClaim) -> Option<(String, &ClaimSpec)> {
        let (kind, name) = match (&claim.claim, &claim.template) {
            (Some(name), _) => (CLAIM, name),
            (None, Some(name)) => (TEMPLATE, name),
            (None, None) => return None,
        };
        let spec = self.given.claims.get(&(kind, self.namespace.to_owned(), name.clone()))?;
        Some((format!("{kind} {}/{name}", self.namespace), spec))
    }
}

/// Takes a device of a request, if it is the wanted request and has one left. Alternatives with fewer devices, and alternatives
/// other than the named one, are then no longer possible.
fn take(request: &mut RequestSpec, wanted: &ClaimRequest) -> bool {
    let is_meant =
        |alternative: &str| wanted.request.as_ref().is_none_or(|name| *name == request.name || name == alternative);
    let mut alternatives = request.alternatives.clone();
    alternatives.retain(|(name, devices)| is_meant(name) && *devices > 0);
    if alternatives.is_empty() {
        return false;
    }
    for (_, devices) in &mut alternatives {
        *devices -= 1;
    }
    request.alternatives = alternatives;
    true
}

fn hint(name: &str, known: &[&str]) -> String {
    nearest(name, known).map(|name| format!(", did you mean {name:?}?")).unwrap_or_default()
}
