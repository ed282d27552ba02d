//! The state of a node, read once. The checks use nothing else.

use std::collections::{BTreeMap, HashSet};
use std::fs;
#[cfg(feature = "kubernetes")]
use std::path::Path;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use super::attached::Attached;
use super::claims::{self, ClaimsNote};
use super::records::{self, Reservation, ResultRecord};
use super::rules::{self, ContainerRule};
use super::running::Running;
use super::setup::{self, Configuration, Kernel, Missing, UsedPlugins};
use super::unexamined::Unexamined;
use crate::cni::NetworkConfig;
use crate::netns::{Device, Netns, NetnsError};
use crate::runtime::Finder;
#[cfg(feature = "kubernetes")]
use crate::runtime::load;
use crate::source::bearer_token::{Token, TokenError};
#[cfg(feature = "kubernetes")]
use crate::source::kubernetes::kubeconfig_as_json;

/// The files and directories that are read.
#[derive(Debug, Clone)]
pub struct Places {
    /// The state directory. Those that configurations name are read too.
    pub state_dir: PathBuf,
    /// libcni's cache directories.
    pub cache_dirs: Vec<PathBuf>,
    /// The runtime's directory of configurations.
    pub conf_dir: PathBuf,
    /// Finds plugins.
    pub finder: Finder,
    /// The directory of Multus's state.
    pub multus_dir: PathBuf,
}

/// A token of a kubeconfig.
#[derive(Debug, Clone)]
pub struct KubeconfigToken {
    /// The file that it is in.
    pub file: PathBuf,
    /// The token, or why it is not valid.
    pub token: Result<Token, TokenError>,
}

/// The state of a node.
#[derive(Debug, Clone)]
pub struct Node {
    /// When it was read.
    pub now: SystemTime,
    /// The namespaces and cgroups that are in use.
    pub running: Running,
    /// The contents of the state directories.
    pub attached: Attached,
    /// The results in libcni's caches.
    pub results: Vec<ResultRecord>,
    /// The IDs of the containers in Multus's own state.
    pub known_to_multus: HashSet<String>,
    /// The addresses that host-local has assigned.
    pub reservations: Vec<Reservation>,
    /// The rules of iptables whose comment names a container.
    pub rules: Vec<ContainerRule>,
    /// The links of the host.
    pub links: Vec<Device>,
    /// The indexes of the host's links that have an address other than a link-local one.
    pub addressed: HashSet<u32>,
    /// The indexes of the host's links to which a filter redirects.
    pub redirected_to: HashSet<u32>,
    /// Notes about the status of resource claims, in state directories whose agent does not run.
    pub claims: Vec<ClaimsNote>,
    /// The configurations in the runtime's directory.
    pub configurations: Vec<Configuration>,
    /// The plugins that are missing.
    pub missing_plugins: Missing,
    /// The programs that are missing.
    pub missing_programs: Missing,
    /// The kinds of links that are missing.
    pub missing_kinds: Missing,
    /// The tokens of the kubeconfigs.
    pub tokens: Vec<KubeconfigToken>,
    /// The state directories.
    pub state_dirs: Vec<PathBuf>,
    /// What could not be read, and why.
    pub unexamined: BTreeMap<PathBuf, Unexamined>,
}

impl Node {
    /// Reads the state of the node.
    ///
    /// # Errors
    /// When the kernel does not list the links, or their addresses or filters.
    pub fn read(places: &Places) -> Result<Self, NetnsError> {
        let (configurations, unread) = setup::configurations(&places.conf_dir);
        let state_dirs = setup::state_dirs(&places.state_dir, &configurations);
        let attached = Attached::read(&state_dirs);
        let now = SystemTime::now();
        let mut host = Netns::current()?;
        // Listing the links comes first: the kernel numbers a namespace when it lists a link that leads there.
        let links = host.devices()?;
        let running = Running::read(&mut host);
        let mut unexamined = attached.unexamined.clone();
        unexamined.extend(unread);
        if running.is_restricted {
            let denied =
                std::io::Error::new(std::io::ErrorKind::PermissionDenied, "not all processes may be inspected");
            unexamined.insert("/proc".into(), Unexamined::record(&denied));
        }
        let mut noted = |(path, error): (PathBuf, std::io::Error)| {
            unexamined.insert(path, Unexamined::record(&error));
        };
        let mut results = Vec::new();
        for read in records::results(&places.cache_dirs, boot_time(now)) {
            match read {
                Ok(result) => results.push(result),
                Err(unread) => noted(unread),
            }
        }
        let known_to_multus = records::known_to_multus(&places.multus_dir).unwrap_or_else(|unread| {
            noted(unread);
            HashSet::new()
        });
        let networks = networks(&configurations, &attached, &results);
        let (pools, unread) = records::pools(&records::data_dirs(networks.iter()));
        unexamined.extend(unread.iter().map(|(path, error)| (path.clone(), Unexamined::other(error))));
        let claims = claims::notes(&state_dirs, &mut unexamined);
        let used = UsedPlugins::of(&configurations, &attached, places.finder.path());
        let mut kernel = Kernel::new();
        Ok(Self {
            now,
            reservations: records::reservations(&pools, now),
            rules: rules::rules(),
            known_to_multus,
            addressed: addressed(&mut host)?,
            redirected_to: redirected_to(&mut host, &links)?,
            missing_plugins: used.missing_plugins(&places.finder),
            missing_programs: used.missing_programs(&|name| setup::program(name).is_some()),
            missing_kinds: used.missing_kinds(&mut |kind| kernel.knows(kind)),
            #[cfg(feature = "kubernetes")]
            tokens: tokens(&places.conf_dir, &configurations),
            #[cfg(not(feature = "kubernetes"))]
            tokens: Vec::new(),
            claims,
            running,
            attached,
            results,
            links,
            configurations,
            state_dirs,
            unexamined,
        })
    }
}

/// All networks in configurations, journals and cached results.
fn networks(configurations: &[Configuration], attached: &Attached, results: &[ResultRecord]) -> Vec<NetworkConfig> {
    let configured = configurations.iter().flat_map(|one| std::iter::once(&one.network).chain(&one.delegates)).cloned();
    let attached = attached.states().flat_map(|state| &state.header.plan.attachments);
    let cached = results.iter().filter_map(|one| one.cached.network().ok());
    configured.chain(attached.map(|attachment| attachment.network.clone())).chain(cached).collect()
}

/// When the machine was started.
fn boot_time(now: SystemTime) -> SystemTime {
    let uptime = fs::read_to_string("/proc/uptime").unwrap_or_default();
    let seconds: f64 = uptime.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or_default();
    let uptime = Duration::try_from_secs_f64(seconds).unwrap_or_default();
    // If the time is unknown, nothing counts as older.
    if uptime.is_zero() { SystemTime::UNIX_EPOCH } else { now.checked_sub(uptime).unwrap_or(SystemTime::UNIX_EPOCH) }
}

/// The links that have an address other than a link-local one, which every link gets.
fn addressed(host: &mut Netns) -> Result<HashSet<u32>, NetnsError> {
    let is_link_local = |address: std::net::IpAddr| match address {
        std::net::IpAddr::V4(_) => false,
        std::net::IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    let addresses = host.addresses()?.into_iter();
    Ok(addresses.filter(|address| !is_link_local(address.net.addr())).map(|address| address.link).collect())
}

/// The links to which filters redirect. The filters are listed only if there is an ifb device: no other link needs this check.
fn redirected_to(host: &mut Netns, links: &[Device]) -> Result<HashSet<u32>, NetnsError> {
    let mut found = HashSet::new();
    if !links.iter().any(|link| link.kind == "ifb") {
        return Ok(found);
    }
    for device in links {
        found.extend(host.ingress_filters(&device.link)?.iter().filter_map(|filter| filter.redirects_to));
    }
    Ok(found)
}

/// The tokens in the kubeconfig that `install` writes, and in those that configurations name.
#[cfg(feature = "kubernetes")]
fn tokens(conf_dir: &Path, configurations: &[Configuration]) -> Vec<KubeconfigToken> {
    let named = configurations.iter().flat_map(|one| &one.braids).filter_map(|config| config.kubeconfig.clone());
    let mut files: Vec<PathBuf> = std::iter::once(conf_dir.join("braid.d/kubeconfig")).chain(named).collect();
    files.sort();
    files.dedup();
    files.into_iter().flat_map(|file| tokens_of(&file)).collect()
}

/// The token of the kubeconfig's current user, in the kubeconfig or in a file that it names. Without a current context, that of each
/// user.
#[cfg(feature = "kubernetes")]
fn tokens_of(kubeconfig: &Path) -> Vec<KubeconfigToken> {
    let read = load::read(kubeconfig).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    let object = read.and_then(|text| kubeconfig_as_json(&text)).unwrap_or_default();
    let list = |key: &str| object[key].as_array().into_iter().flatten();
    let context = list("contexts").find(|one| one["name"] == object["current-context"]);
    let users = list("users").filter(|one| context.is_none_or(|context| one["name"] == context["context"]["user"]));
    let tokens = users.filter_map(|one| {
        let user = &one["user"];
        let file = user["tokenFile"].as_str().map(|file| kubeconfig.with_file_name(file));
        let in_file = file.and_then(|file| load::read(&file).ok().map(|token| (file, token)));
        in_file.or_else(|| Some((kubeconfig.to_owned(), user["token"].as_str()?.as_bytes().to_vec())))
    });
    tokens.map(|(file, token)| KubeconfigToken { file, token: Token::parse(&token, SystemTime::now()) }).collect()
}
