//! Assigns devices to attachments, each to one. Devices that are requested by name are assigned first. If there is an assignment in
//! which every attachment gets a device, it is found.

use std::collections::{BTreeMap, BTreeSet};

use super::error::DeviceError;
use super::inventory::{
    AllocatedDevice, Claim, ClaimObject, Device, Grant, HeldDevice, Inventory, PodClaims, Question,
};
use crate::config::claim::ClaimRequest;

/// The most devices that a message names.
const SHOWN: usize = 8;

/// An attachment that takes a device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Demand {
    /// The place of the request, which is different for every attachment.
    pub origin: String,
    /// The claim and request, if it says which.
    pub claim: Option<ClaimRequest>,
    /// The resource, if its definition names one.
    pub resource: Option<String>,
    /// The device's ID, if it says which.
    pub device_id: Option<String>,
}

impl Demand {
    /// More specific demands go first, so that their devices are not taken by others.
    fn rank(&self) -> u8 {
        match &self.claim {
            _ if self.device_id.is_some() => 0,
            Some(ClaimRequest { request: Some(_), .. }) => 1,
            Some(_) => 2,
            None => 3,
        }
    }
}

/// The device of each attachment, by the origin of its [`Demand`].
pub type Assignments = BTreeMap<String, Result<Device, DeviceError>>;

impl Inventory {
    /// Assigns a device to each demand. If some get none, they go first in a second round, in case the demands that took their
    /// devices can use others. If that does not help, the first round counts.
    ///
    /// # Errors
    /// What has to be asked first.
    pub fn assign(&self, demands: &[Demand]) -> Result<Assignments, Question> {
        let mut ordered: Vec<&Demand> = demands.iter().collect();
        ordered.sort_by_key(|demand| demand.rank());
        let mut best = self.round(demands, &ordered)?;
        let mut latest = best.clone();
        let mut preferred = BTreeSet::new();
        let is_without = |assignments: &Assignments, origin: &str| assignments.get(origin).is_some_and(Result::is_err);
        let without = |assignments: &Assignments| assignments.values().filter(|device| device.is_err()).count();
        while without(&best) > 0 {
            let next = ordered
                .iter()
                .position(|demand| is_without(&latest, &demand.origin) && !preferred.contains(demand.origin.as_str()));
            let Some(next) = next else { break };
            preferred.insert(ordered[next].origin.as_str());
            ordered[..=next].rotate_right(1);
            latest = self.round(demands, &ordered)?;
            if without(&latest) < without(&best) {
                best.clone_from(&latest);
            }
        }
        Ok(best)
    }

    /// Assigns a device to each demand, in this order.
    fn round(&self, demands: &[Demand], ordered: &[&Demand]) -> Result<Assignments, Question> {
        let asked = demands.iter().filter_map(|demand| demand.device_id.as_deref()).collect();
        let mut round = Round { inventory: self, asked, taken: Vec::new(), used: BTreeSet::new() };
        self.held.iter().for_each(|device| round.hold(device));
        let mut assignments = Assignments::new();
        for demand in ordered {
            let device = match &demand.claim {
                Some(wanted) => round.of_claim(demand, wanted)?,
                None => round.of_resource(demand)?,
            };
            assignments.insert(demand.origin.clone(), device);
        }
        Ok(assignments)
    }
}

/// A device that has been handed out.
struct Taken {
    id: String,
    share: Option<String>,
    /// The `ResourceClaim` it is from.
    claim: Option<String>,
}

/// One round of handing out.
struct Round<'a> {
    inventory: &'a Inventory,
    /// The IDs that are requested by name, and so reserved.
    asked: BTreeSet<&'a str>,
    taken: Vec<Taken>,
    /// The grants that have been assigned: the claim, and the grant's index.
    used: BTreeSet<(&'a str, usize)>,
}

/// Which grants of a claim will do.
struct Filter<'a> {
    requests: Option<Vec<&'a str>>,
    /// The resource that the device must belong to, according to its driver.
    resource: Option<&'a str>,
    device_id: Option<&'a str>,
}

impl Filter<'_> {
    /// Whether the grant is for one of the requests. `None` if its request is not known.
    fn is_requested(&self, grant: &Grant) -> Option<bool> {
        let Some(requests) = &self.requests else { return Some(true) };
        let given = grant.request.as_deref()?;
        // A request with alternatives can be named too, not only its alternatives.
        let main = given.split_once('/').map_or(given, |(main, _)| main);
        Some(requests.iter().any(|request| *request == given || *request == main))
    }
}

impl<'a> Round<'a> {
    /// Removes the devices that existing attachments use. Of a shared device, this is one share.
    fn hold(&mut self, device: &HeldDevice) {
        let share = device.allocated.as_ref().and_then(|allocated| {
            let is_taken = |grant: &Grant| {
                let is_same =
                    |taken: &Taken| taken.claim.as_ref() == Some(&allocated.claim) && taken.share == grant.share;
                self.taken.iter().any(is_same)
            };
            let claim = self.inventory.claims.get(&allocated.claim);
            let grants = claim.map(|claim| claim.grants.as_slice()).unwrap_or_default();
            let held = grants.iter().find(|grant| allocated.may_be(grant) && !is_taken(grant));
            allocated.share.clone().or_else(|| held?.share.clone())
        });
        let claim = device.allocated.as_ref().map(|allocated| allocated.claim.clone());
        self.taken.push(Taken { id: device.id.clone(), share, claim });
    }

    /// A device of the claim that the attachment names.
    fn of_claim(
        &mut self,
        demand: &'a Demand,
        wanted: &'a ClaimRequest,
    ) -> Result<Result<Device, DeviceError>, Question> {
        let pod = self.inventory.pod.as_ref().ok_or(Question::Pod)?;
        let Some(claim) = pod.claims.iter().find(|claim| claim.name == wanted.claim) else {
            let has = pod.claims.iter().map(|claim| claim.name.clone()).collect();
            return Ok(Err(DeviceError::NoClaim { claim: wanted.claim.clone(), has }));
        };
        let object = match &claim.object {
            ClaimObject::Named(object) => object,
            ClaimObject::Pending => return Ok(Err(DeviceError::ClaimPending { claim: claim.name.clone() })),
            ClaimObject::NotNeeded => return Ok(Err(DeviceError::NotNeeded { wanted: wanted.clone() })),
        };
        let filter = Filter {
            requests: wanted.request.as_deref().map(|request| vec![request]),
            resource: None,
            device_id: demand.device_id.as_deref(),
        };
        let known = self.claim(object)?;
        if known.is_unallocated {
            return Ok(Err(DeviceError::Unallocated { wanted: wanted.to_string(), object: object.clone() }));
        }
        // A device of unknown resource is accepted; one of another resource than the definition's is not.
        let resource = demand.resource.as_deref();
        match self.pick(object, known, &filter, resource)? {
            Some(device) => Ok(Ok(device)),
            None if !known.is_complete => Err(Question::Claim(object.clone())),
            None => Ok(Err(self.not_in_claim(wanted, object, demand))),
        }
    }

    /// A device of a resource: from the pod's claims, then from the claim for extended resources, then from a device plugin.
    fn of_resource(&mut self, demand: &'a Demand) -> Result<Result<Device, DeviceError>, Question> {
        let resource = demand.resource.as_deref().unwrap_or_default();
        let device_id = demand.device_id.as_deref();
        // If the kubelet reports claims at all, they are looked at first.
        let Some(pod) = &self.inventory.pod else {
            let plugin = if self.inventory.claims.is_empty() { self.of_plugin(resource, device_id) } else { None };
            return plugin.map(Ok).ok_or(Question::Pod);
        };
        let mut unallocated = None;
        let mut incomplete = None;
        for (object, filter) in claims_with(pod, resource, device_id) {
            let known = self.claim(object)?;
            if let Some(device) = self.pick(object, known, &filter, None)? {
                return Ok(Ok(Device { resource: Some(resource.to_owned()), ..device }));
            }
            if known.is_unallocated {
                unallocated.get_or_insert(object);
            }
            if !known.is_complete {
                incomplete.get_or_insert(object);
            }
        }
        if let Some(device) = self.of_plugin(resource, device_id) {
            return Ok(Ok(device));
        }
        if let Some(object) = incomplete {
            return Err(Question::Claim(object.to_owned()));
        }
        if let Some(object) = unallocated {
            let wanted = format!("resource {resource:?}");
            return Ok(Err(DeviceError::Unallocated { wanted, object: object.to_owned() }));
        }
        if let Some(claim) = pod.claims.iter().find(|claim| claim.object == ClaimObject::Pending) {
            return Ok(Err(DeviceError::ClaimPending { claim: claim.name.clone() }));
        }
        Ok(Err(self.not_of_resource(resource, device_id)))
    }

    /// What is known of a claim.
    fn claim(&self, object: &str) -> Result<&'a Claim, Question> {
        let known = self.inventory.claims.get(object);
        known
            .filter(|claim| claim.is_complete || !claim.grants.is_empty())
            .ok_or_else(|| Question::Claim(object.into()))
    }

    /// The first suitable free device of a claim. `resource` is the resource that it must belong to, if that is known.
    fn pick(
        &mut self,
        object: &'a str,
        claim: &'a Claim,
        filter: &Filter<'_>,
        resource: Option<&str>,
    ) -> Result<Option<Device>, Question> {
        let mut open = None;
        for (index, grant) in claim.grants.iter().enumerate() {
            if self.used.contains(&(object, index)) {
                continue;
            }
            match filter.is_requested(grant) {
                Some(false) => continue,
                None => {
                    if let Some(question) = self.inventory.metadata_question(object, &grant.key.driver) {
                        return Err(question);
                    }
                    open.get_or_insert(Question::Claim(object.into()));
                    continue;
                }
                Some(true) => {}
            }
            if let Some(question) = self.inventory.question_about(object, &grant.key, filter.resource.is_some()) {
                return Err(question);
            }
            let identity = self.inventory.identity(&grant.key);
            let Some(id) = identity.id else { continue };
            let is_asked_for = filter.device_id.map_or(!self.asked.contains(id.as_str()), |asked| asked == id);
            let is_of_resource = filter.resource.is_none_or(|wanted| identity.resource.as_deref() == Some(wanted))
                && resource.is_none_or(|wanted| identity.resource.as_deref().is_none_or(|found| found == wanted));
            if is_asked_for && is_of_resource && self.is_free(&id, object, grant)? {
                self.used.insert((object, index));
                let share = grant.share.clone();
                self.taken.push(Taken { id: id.clone(), share, claim: Some(object.to_owned()) });
                let allocated = Some(allocated(object, grant));
                return Ok(Some(Device { id, resource: identity.resource, allocated }));
            }
        }
        open.map_or(Ok(None), Err)
    }

    /// Whether a device is free. Shares of one device are distinguished by their claims.
    fn is_free(&self, id: &str, object: &str, grant: &Grant) -> Result<bool, Question> {
        for taken in self.taken.iter().filter(|taken| taken.id == id) {
            let Some(other) = &taken.claim else { return Ok(false) };
            for (object, share) in [(object, &grant.share), (other.as_str(), &taken.share)] {
                let is_complete = self.inventory.claims.get(object).is_none_or(|claim| claim.is_complete);
                if share.is_none() && !is_complete {
                    return Err(Question::Claim(object.to_owned()));
                }
            }
            if grant.share.is_none() || grant.share == taken.share {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// A free device of a device plugin.
    fn of_plugin(&mut self, resource: &str, device_id: Option<&str>) -> Option<Device> {
        let own = self.inventory.plugin_devices.get(resource)?;
        let is_free = |id: &&String| !self.taken.iter().any(|taken| taken.id == **id);
        let is_wanted = |id: &&String| device_id.map_or(!self.asked.contains(id.as_str()), |asked| asked == *id);
        let id = own.iter().filter(is_free).find(is_wanted)?.clone();
        self.taken.push(Taken { id: id.clone(), share: None, claim: None });
        Some(Device { id, resource: Some(resource.to_owned()), allocated: None })
    }

    fn not_of_resource(&self, resource: &str, device_id: Option<&str>) -> DeviceError {
        let of_claims = self.inventory.claims.values().flat_map(|claim| &claim.grants);
        let own = self.of_claims(resource);
        let is_own = |id: &String| own.iter().any(|grant| self.inventory.identity(&grant.key).id.as_ref() == Some(id));
        let of_plugins = self.inventory.plugin_devices.get(resource).into_iter().flatten();
        let had = own.len() + of_plugins.filter(|id| !is_own(id)).count();
        let name = resource.to_owned();
        match device_id {
            _ if had == 0 => DeviceError::None { resource: name, found: self.shown(of_claims) },
            Some(device) => DeviceError::NotTheirs { resource: name, device: device.to_owned() },
            None => DeviceError::Taken { resource: name, had, found: self.shown(own) },
        }
    }

    /// What claims have of a resource.
    fn of_claims(&self, resource: &str) -> Vec<&'a Grant> {
        let mut found = Vec::new();
        for (object, filter) in self.inventory.pod.iter().flat_map(|pod| claims_with(pod, resource, None)) {
            let grants = self.inventory.claims.get(object).map(|claim| claim.grants.as_slice()).unwrap_or_default();
            found.extend(grants.iter().filter(|grant| {
                let identity = self.inventory.identity(&grant.key);
                filter.is_requested(grant) == Some(true)
                    && identity.id.is_some()
                    && filter.resource.is_none_or(|wanted| identity.resource.as_deref() == Some(wanted))
            }));
        }
        found
    }

    fn not_in_claim(&self, wanted: &ClaimRequest, object: &str, demand: &Demand) -> DeviceError {
        let grants = self.inventory.claims.get(object).map(|claim| claim.grants.as_slice()).unwrap_or_default();
        let requests = wanted.request.as_deref().map(|request| vec![request]);
        let filter = Filter { requests, resource: None, device_id: None };
        let matching: Vec<&Grant> = grants.iter().filter(|grant| filter.is_requested(grant) == Some(true)).collect();
        let identities: Vec<_> = matching.iter().map(|grant| self.inventory.identity(&grant.key)).collect();
        let reason = if matching.is_empty() {
            "it has no device for that request".to_owned()
        } else if identities.iter().all(|identity| identity.id.is_none()) {
            "its driver does not say which device ID plugins use".to_owned()
        } else if let Some(device) = &demand.device_id {
            format!("the device {device:?} is not one of its devices, or is asked for twice")
        } else if let Some(resource) = &demand.resource
            && identities.iter().all(|identity| identity.resource.as_ref().is_some_and(|found| found != resource))
        {
            format!("the network takes a device of resource {resource:?}")
        } else {
            "all of its devices are taken by other networks".to_owned()
        };
        let shown = if matching.is_empty() { self.shown(grants) } else { self.shown(matching) };
        let found = if shown.is_empty() { "no device".into() } else { shown };
        DeviceError::NotInClaim { wanted: wanted.clone(), object: object.into(), reason, found }
    }

    /// Devices of claims, with what is known about them.
    fn shown<'g>(&self, grants: impl IntoIterator<Item = &'g Grant>) -> String {
        let mut shown: Vec<String> = grants.into_iter().map(|grant| self.show(grant)).collect();
        let left_out = shown.len().saturating_sub(SHOWN);
        shown.truncate(SHOWN);
        if left_out > 0 {
            shown.push(format!("{left_out} more"));
        }
        shown.join(", ")
    }

    fn show(&self, grant: &Grant) -> String {
        let identity = self.inventory.identity(&grant.key);
        let request = grant.request.as_ref().map(|request| format!("request {request:?}: ")).unwrap_or_default();
        let id = match (identity.id, self.inventory.published(&grant.key)) {
            (Some(id), _) => id,
            (None, Some(_)) => {
                "without the attribute k8s.cni.cncf.io/deviceID or resource.kubernetes.io/pciBusID".into()
            }
            (None, None) if self.inventory.has_listed_slices(&grant.key.driver) => {
                "in no current ResourceSlice of its driver".into()
            }
            // Nobody had to ask.
            (None, None) => return format!("{request}{}", grant.key),
        };
        let resource = identity.resource.map(|resource| format!(" of resource {resource:?}")).unwrap_or_default();
        format!("{request}{} ({id}{resource})", grant.key)
    }
}

/// The claims that may have a device of a resource, each with its suitable devices: the pod's own claims, then the one for extended
/// resources.
fn claims_with<'a>(
    pod: &'a PodClaims,
    resource: &'a str,
    device_id: Option<&'a str>,
) -> impl Iterator<Item = (&'a str, Filter<'a>)> {
    let own = pod.claims.iter().filter_map(move |claim| match &claim.object {
        ClaimObject::Named(object) => {
            Some((object.as_str(), Filter { requests: None, resource: Some(resource), device_id }))
        }
        ClaimObject::Pending | ClaimObject::NotNeeded => None,
    });
    let extended = pod.extended.iter().filter_map(move |extended| {
        let of_resource = extended.requests.iter().filter(|(name, _)| name == resource);
        let requests: Vec<&str> = of_resource.map(|(_, request)| request.as_str()).collect();
        // The pod's status says which resource they are for, whatever the driver says.
        let is_there = !requests.is_empty();
        is_there.then_some((extended.object.as_str(), Filter { requests: Some(requests), resource: None, device_id }))
    });
    own.chain(extended)
}

fn allocated(object: &str, grant: &Grant) -> AllocatedDevice {
    AllocatedDevice {
        claim: object.to_owned(),
        driver: grant.key.driver.clone(),
        pool: grant.key.pool.clone(),
        device: grant.key.name.clone(),
        request: grant.request.clone(),
        share: grant.share.clone(),
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
