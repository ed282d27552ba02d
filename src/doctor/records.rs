//! Records that others keep of attachments: the results in libcni's caches, and the addresses that host-local has assigned.

use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::attached::{Attached, ContainerState};
use super::running::{PathTarget, Running, age_of};
use crate::cni::AddResult;
use crate::cni::config::{RawObject, get};
use crate::cni::{NetworkConfig, PluginConfig, Version};
use crate::runtime::cache::{Cache, Cached};
use crate::runtime::host_local::{self, DEFAULT_DATA_DIR};

/// How much older than the last boot a file must be to be of an earlier boot. The clock may have been set since.
const BOOT_MARGIN: Duration = Duration::from_secs(120);
/// The hardware address of a loopback interface.
const NO_MAC: &str = "00:00:00:00:00:00";

/// A result in a cache of libcni.
#[derive(Debug, Clone)]
pub struct ResultRecord {
    /// The cache directory.
    pub cache_dir: PathBuf,
    /// What libcni wrote.
    pub cached: Cached,
    /// What the path of its network namespace leads to now.
    pub target: PathTarget,
    /// Whether it was written before the last boot.
    pub is_of_another_boot: bool,
}

impl ResultRecord {
    /// Its ID, which is the name of its file: `NETWORK-CONTAINER-INTERFACE`.
    pub fn id(&self) -> String {
        let Cached { network_name, container_id, if_name, .. } = &self.cached;
        format!("{network_name}-{container_id}-{if_name}")
    }

    /// The path of the network namespace. libcni before 1.2 does not record it, but the result may contain it. Empty if it does not.
    pub fn netns(&self) -> String {
        if !self.cached.netns.is_empty() {
            return self.cached.netns.clone();
        }
        let sandboxes = self.result().interfaces.into_iter().map(|interface| interface.sandbox);
        sandboxes.into_iter().find(|sandbox| sandbox.starts_with('/')).unwrap_or_default()
    }

    /// What is at the namespace's path now.
    pub(super) fn look_for_netns(&self) -> PathTarget {
        let netns = self.netns();
        if netns.is_empty() { PathTarget::Unknown } else { PathTarget::of(Path::new(&netns)) }
    }

    /// The result. Empty if it cannot be read.
    pub fn result(&self) -> AddResult {
        let raw = self.cached.result.as_ref();
        raw.and_then(|raw| AddResult::parse(raw.get().as_bytes(), Version::LATEST).ok()).unwrap_or_default()
    }

    /// Whether its container still exists. libcni does not record the identity of the namespace, so the answer needs more evidence.
    pub fn container_state(&self, running: &Running, attached: &Attached) -> ContainerState {
        let own = || attached.journals.iter().filter(|journal| journal.container_id() == self.cached.container_id);
        if own().any(|journal| journal.container_state(running) == ContainerState::Alive)
            || running.has_process_of(&self.cached.container_id)
        {
            return ContainerState::Alive;
        }
        // A journal records the identity of the namespace, so its answer is certain.
        let netns = self.netns();
        if own().any(|journal| netns.is_empty() || journal.state.header.plan.netns == netns) {
            return ContainerState::Gone;
        }
        if matches!(self.target, PathTarget::Namespace(_)) {
            return ContainerState::Alive;
        }
        // The loopback interface is the same in every namespace, and proves nothing.
        let result = self.result();
        let is_unique = |mac: &str| !mac.is_empty() && mac != NO_MAC;
        let macs = || result.interfaces.iter().filter(|one| !one.sandbox.is_empty() && is_unique(&one.mac));
        let ips = || result.ips.iter().map(|ip| ip.address.addr()).filter(|ip| !ip.is_loopback());
        if ips().any(|ip| running.has_address(ip)) || macs().any(|one| running.has_mac(&one.mac)) {
            return ContainerState::Alive;
        }
        // This comes after the evidence that the container exists: if the clock was set, files can look older than they are.
        if self.is_of_another_boot {
            return ContainerState::Gone;
        }
        let has_evidence = ips().next().is_some() || macs().next().is_some();
        let is_process_path = Path::new(&netns).starts_with("/proc");
        match self.target {
            PathTarget::Nothing | PathTarget::SomethingElse if !netns.is_empty() => ContainerState::Gone,
            // The process has exited, and no namespace has the addresses in the result.
            PathTarget::Unknown
                if is_process_path && running.sees_all && !running.has_refused_namespace() && has_evidence =>
            {
                ContainerState::Gone
            }
            _ => ContainerState::Alive,
        }
    }
}

/// Reads the results below libcni's directories.
pub(super) fn results(
    cache_dirs: &[PathBuf],
    boot_time: SystemTime,
) -> Vec<Result<ResultRecord, (PathBuf, io::Error)>> {
    let mut all = Vec::new();
    for cache_dir in cache_dirs {
        match Cache::new(cache_dir).all() {
            Ok(results) => all.extend(results.into_iter().map(|cached| Ok(record_of(cache_dir, cached, boot_time)))),
            Err(error) => all.push(Err((cache_dir.join("results"), error))),
        }
    }
    all
}

fn record_of(cache_dir: &Path, cached: Cached, boot_time: SystemTime) -> ResultRecord {
    let (target, is_of_another_boot) = (PathTarget::Unknown, false);
    let mut one = ResultRecord { cache_dir: cache_dir.into(), cached, target, is_of_another_boot };
    one.target = one.look_for_netns();
    let age = age_of(&cache_dir.join("results").join(one.id()), boot_time);
    one.is_of_another_boot = age.is_some_and(|age| age > BOOT_MARGIN);
    one
}

/// An address that host-local has given away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reservation {
    /// The directory of the network.
    pub pool: PathBuf,
    /// The address.
    pub address: IpAddr,
    /// The container that has it. Empty if host-local was killed before it had written the ID.
    pub container_id: String,
    /// How long ago it was assigned. `None` if that time is in the future, because the clock was set back.
    pub age: Option<Duration>,
}

impl Reservation {
    /// The file of the reservation.
    pub fn file(&self) -> PathBuf {
        host_local::file_of(&self.pool, self.address)
    }

    /// Reads the file of an address. `None` if it does not exist, or is not the file of an address.
    pub(super) fn read(file: &Path, now: SystemTime) -> Option<Self> {
        let address = host_local::address_of(file)?;
        let container_id = host_local::container_of(file).ok()?;
        let age = now.duration_since(file.metadata().and_then(|metadata| metadata.modified()).ok()?).ok();
        Some(Self { pool: file.parent()?.to_owned(), address, container_id, age })
    }
}

/// The pools of host-local in its data directories, and the directories that cannot be read.
pub(super) fn pools(data_dirs: &BTreeSet<PathBuf>) -> (BTreeSet<PathBuf>, Vec<(PathBuf, io::Error)>) {
    let (mut pools, mut unread) = (BTreeSet::new(), Vec::new());
    for directory in data_dirs {
        match fs::read_dir(directory) {
            Ok(entries) => pools.extend(entries.flatten().map(|entry| entry.path())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => unread.push((directory.clone(), error)),
        }
    }
    // There may be other files next to the pools.
    pools.retain(|pool| pool.is_dir());
    pools.retain(|pool| match fs::read_dir(pool) {
        Ok(_) => true,
        Err(error) => {
            unread.push((pool.clone(), error));
            false
        }
    });
    (pools, unread)
}

/// Reads pools of host-local, and sorts the addresses by network and value.
pub(super) fn reservations(pools: &BTreeSet<PathBuf>, now: SystemTime) -> Vec<Reservation> {
    let files = pools
        .iter()
        .flat_map(|pool| host_local::addresses(pool).into_iter().map(|address| host_local::file_of(pool, address)));
    let mut all: Vec<Reservation> = files.filter_map(|file| Reservation::read(&file, now)).collect();
    all.sort_by(|a, b| (&a.pool, a.address).cmp(&(&b.pool, b.address)));
    all
}

/// The data directories of host-local: the default one, and those that networks name.
pub(super) fn data_dirs<'a>(networks: impl Iterator<Item = &'a NetworkConfig>) -> BTreeSet<PathBuf> {
    let mut directories = BTreeSet::from([PathBuf::from(DEFAULT_DATA_DIR)]);
    for plugin in networks.flat_map(|network| &network.plugins) {
        let Some(ipam) = ipam(plugin) else { continue };
        let data_dir: Option<PathBuf> = get(&ipam, "dataDir", "a directory").ok().flatten();
        directories.extend(data_dir.filter(|directory| directory.is_absolute()));
    }
    directories
}

/// The configuration of a plugin's IPAM plugin.
pub(super) fn ipam(plugin: &PluginConfig) -> Option<RawObject> {
    get(plugin.keys(), "ipam", "an object").ok().flatten()
}

/// The IDs of the containers in Multus's own state.
///
/// # Errors
/// When it cannot be read.
pub(super) fn known_to_multus(multus_dir: &Path) -> Result<HashSet<String>, (PathBuf, io::Error)> {
    let unread = |error| (multus_dir.to_owned(), error);
    let own = crate::transaction::multus::MultusState::container_ids(multus_dir).map_err(unread)?;
    let cached = Cache::new(multus_dir).all().map_err(unread)?;
    Ok(own.into_iter().chain(cached.into_iter().map(|cached| cached.container_id)).collect())
}
