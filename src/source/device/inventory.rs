//! The known devices of a pod, and the requests that can find out more.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};

/// The devices that the kubelet has given to a pod from device plugins: the IDs of each resource.
pub type Devices = BTreeMap<String, Vec<String>>;

/// The device of an attachment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Its ID for network plugins, such as its PCI address.
    pub id: String,
    /// Its resource, if it has a name.
    pub resource: Option<String>,
    /// Its name in its claim, if it is from one.
    pub allocated: Option<AllocatedDevice>,
}

/// The name of a device in its resource claim (`resource.k8s.io`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AllocatedDevice {
    /// The name of the `ResourceClaim`, which is in the pod's namespace.
    pub claim: String,
    /// The driver.
    pub driver: String,
    /// The driver's pool.
    pub pool: String,
    /// The name in the pool.
    pub device: String,
    /// The request for which it was allocated, if that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
    /// The share of the device, if it is shared and that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share: Option<String>,
}

impl AllocatedDevice {
    /// Whether this can be the same as what a claim was given. Unknown values are compatible with any value.
    pub fn may_be(&self, grant: &Grant) -> bool {
        let agree = |a: &Option<String>, b: &Option<String>| a.is_none() || b.is_none() || a == b;
        (&self.driver, &self.pool, &self.device) == (&grant.key.driver, &grant.key.pool, &grant.key.name)
            && agree(&self.request, &grant.request)
            && agree(&self.share, &grant.share)
    }
}

/// A device that an existing attachment of the pod uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldDevice {
    /// What plugins know it by.
    pub id: String,
    /// Its name in its claim, if it is from one.
    pub allocated: Option<AllocatedDevice>,
}

/// A device as claims and slices name it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct DeviceKey {
    /// The driver.
    pub driver: String,
    /// The driver's pool.
    pub pool: String,
    /// The name in the pool.
    pub name: String,
}

impl fmt::Display for DeviceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.driver, self.pool, self.name)
    }
}

/// What a driver says a device is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Identity {
    /// What plugins know it by.
    pub id: Option<String>,
    /// The resource that it is one of.
    pub resource: Option<String>,
}

/// A device that a claim has been given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// The request for which it was allocated, as `name` or `name/alternative`. Unknown if only the kubelet has reported it.
    pub request: Option<String>,
    /// The device.
    pub key: DeviceKey,
    /// The share of the device, if it is given to several requests.
    pub share: Option<String>,
}

/// A part of a driver's pool, as a `ResourceSlice` publishes it.
#[derive(Debug, Clone)]
pub struct Slice {
    /// The pool.
    pub pool: String,
    /// The pool's generation. Slices of an older generation are out of date.
    pub generation: i64,
    /// The devices, by name.
    pub devices: Vec<(String, Identity)>,
}

/// Which slices of a driver are listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SliceScope {
    /// Those that name the pod's node.
    Node,
    /// Those that name no node.
    Unbound,
}

impl SliceScope {
    /// All drivers, in the order in which they are listed.
    const ALL: [Self; 2] = [Self::Node, Self::Unbound];
}

/// What a pod says of its claims.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PodClaims {
    /// Its node.
    pub node: String,
    /// `spec.resourceClaims`, in order.
    pub claims: Vec<PodClaim>,
    /// `status.extendedResourceClaimStatus`.
    pub extended: Option<ExtendedClaim>,
}

/// One of a pod's claims.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodClaim {
    /// Its name in the pod.
    pub name: String,
    /// The `ResourceClaim`.
    pub object: ClaimObject,
}

/// The `ResourceClaim` behind a pod's claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClaimObject {
    /// It is there, with this name.
    Named(String),
    /// It has not yet been made from its template.
    Pending,
    /// The pod needs none.
    NotNeeded,
}

/// The claim that stands for extended resources.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExtendedClaim {
    /// The name of the `ResourceClaim`.
    pub object: String,
    /// The resources of its requests, as (resource, request).
    pub requests: Vec<(String, String)>,
}

/// What must be requested before the devices can be assigned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Question {
    /// The files in which a driver describes the devices of a claim.
    Metadata {
        /// The name of the `ResourceClaim`.
        claim: String,
        /// The driver.
        driver: String,
    },
    /// The whole pod, for its claims.
    Pod,
    /// This `ResourceClaim`.
    Claim(String),
    /// The slices of a driver.
    Slices {
        /// The driver.
        driver: String,
        /// Which of them.
        scope: SliceScope,
    },
}

/// The known facts about a `ResourceClaim`.
#[derive(Debug, Clone, Default)]
pub(super) struct Claim {
    pub(super) grants: Vec<Grant>,
    /// Whether the claim itself has been read. The kubelet does not report requests, nor devices that the driver does not prepare.
    pub(super) is_complete: bool,
    pub(super) is_unallocated: bool,
    /// The drivers whose files about this claim have been read.
    pub(super) described_by: BTreeSet<String>,
}

#[derive(Debug, Default)]
struct Pool {
    generation: i64,
    devices: BTreeMap<String, Identity>,
}

/// What is known of a pod's devices.
#[derive(Debug, Default)]
pub struct Inventory {
    pub(super) plugin_devices: Devices,
    pub(super) pod: Option<PodClaims>,
    pub(super) claims: BTreeMap<String, Claim>,
    /// What drivers' files say of devices.
    described: BTreeMap<DeviceKey, Identity>,
    /// By driver and pool.
    pools: BTreeMap<(String, String), Pool>,
    listed: BTreeSet<(String, SliceScope)>,
    pub(super) held: Vec<HeldDevice>,
}

impl Inventory {
    /// Starts with what the kubelet reports: the devices of device plugins, and the allocated devices by the names of their
    /// `ResourceClaim`s.
    pub fn new(plugin_devices: Devices, prepared: impl IntoIterator<Item = (String, DeviceKey)>) -> Self {
        let mut claims: BTreeMap<String, Claim> = BTreeMap::new();
        for (claim, key) in prepared {
            let grants = &mut claims.entry(claim).or_default().grants;
            if !grants.iter().any(|grant| grant.key == key) {
                grants.push(Grant { request: None, key, share: None });
            }
        }
        // The kubelet lists them in no order.
        for claim in claims.values_mut() {
            claim.grants.sort_by(|a, b| a.key.cmp(&b.key));
        }
        Self { plugin_devices, claims, ..Self::default() }
    }

    /// Adds a device that an existing attachment uses. No other attachment gets it, unless it gets another share.
    pub fn reserve(&mut self, device: &HeldDevice) {
        self.held.push(device.clone());
    }

    /// Adds the claims that the pod lists, once the pod has been read.
    pub fn pod(&self) -> Option<&PodClaims> {
        self.pod.as_ref()
    }

    /// Takes note of what the pod says.
    pub fn add_claims_of_pod(&mut self, pod: PodClaims) {
        self.pod = Some(pod);
    }

    /// Adds the devices of a claim from a driver's files, each with its request.
    pub fn add_metadata(&mut self, claim: &str, driver: &str, devices: Vec<(String, DeviceKey, Identity)>) {
        let claim = self.claims.entry(claim.to_owned()).or_default();
        claim.described_by.insert(driver.to_owned());
        for (request, key, identity) in devices {
            // If the claim has been read, it takes precedence over a file.
            if !claim.is_complete {
                let of_device =
                    |grant: &&mut Grant| grant.key == key && grant.request.as_ref().is_none_or(|r| *r == request);
                // A device that the kubelet does not list was allocated to an earlier claim of the same name.
                let is_listed = claim.grants.iter().any(|grant| grant.key == key);
                match claim.grants.iter_mut().find(of_device) {
                    Some(grant) => grant.request = Some(request),
                    None if is_listed => {
                        claim.grants.push(Grant { request: Some(request), key: key.clone(), share: None });
                    }
                    None => continue,
                }
            }
            self.described.insert(key, identity);
        }
    }

    /// Adds what has been allocated to a claim. `None` if nothing has been allocated yet.
    pub fn add_grants(&mut self, name: &str, grants: Option<Vec<Grant>>) {
        let claim = self.claims.entry(name.to_owned()).or_default();
        claim.is_complete = true;
        claim.is_unallocated = grants.is_none();
        claim.grants = grants.unwrap_or_default();
    }

    /// Adds the slices of a driver. Of each pool, only the slices of the newest generation count.
    pub fn add_slices(&mut self, driver: &str, scope: SliceScope, slices: Vec<Slice>) {
        self.listed.insert((driver.to_owned(), scope));
        for slice in slices {
            let pool = self.pools.entry((driver.to_owned(), slice.pool)).or_default();
            if slice.generation < pool.generation {
                continue;
            }
            if slice.generation > pool.generation {
                pool.generation = slice.generation;
                pool.devices.clear();
            }
            pool.devices.extend(slice.devices);
        }
    }

    /// What is known of a device.
    pub(super) fn identity(&self, key: &DeviceKey) -> Identity {
        let described = self.described.get(key).cloned().unwrap_or_default();
        let published = self.published(key).cloned().unwrap_or_default();
        Identity { id: described.id.or(published.id), resource: described.resource.or(published.resource) }
    }

    /// The device's description in its slice, if a slice has it.
    pub(super) fn published(&self, key: &DeviceKey) -> Option<&Identity> {
        self.pools.get(&(key.driver.clone(), key.pool.clone()))?.devices.get(&key.name)
    }

    /// The request that would find out more about a device, if there is one.
    pub(super) fn question_about(&self, name: &str, key: &DeviceKey, needs_resource: bool) -> Option<Question> {
        // What one slice says counts only once all are known: another may be of a newer generation of its pool.
        let described = || self.described.get(key).cloned().unwrap_or_default();
        let known = if self.has_listed_slices(&key.driver) { self.identity(key) } else { described() };
        if known.id.is_some() && (known.resource.is_some() || !needs_resource) {
            return None;
        }
        if let Some(question) = self.metadata_question(name, &key.driver) {
            return Some(question);
        }
        let scope = SliceScope::ALL.into_iter().find(|scope| !self.listed.contains(&(key.driver.clone(), *scope)))?;
        Some(Question::Slices { driver: key.driver.clone(), scope })
    }

    /// Whether all slices of a driver have been listed.
    pub(super) fn has_listed_slices(&self, driver: &str) -> bool {
        SliceScope::ALL.into_iter().all(|scope| self.listed.contains(&(driver.to_owned(), scope)))
    }

    /// The request for a driver's files about a claim, if they have not been read.
    pub(super) fn metadata_question(&self, claim: &str, driver: &str) -> Option<Question> {
        let is_read = self.claims.get(claim).is_some_and(|claim| claim.described_by.contains(driver));
        (!is_read).then(|| Question::Metadata { claim: claim.into(), driver: driver.into() })
    }
}
