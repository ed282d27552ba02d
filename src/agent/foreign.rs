//! Containers of which Braid has no journal, because another plugin has attached them: they were started before Braid was configured,
//! or with another configuration. They are found in libcni's cache of results. The cache is read only while a pod that asks for
//! networks has no journal.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use crate::config::meta::is_braid;
use crate::config::{Config, Problems};
use crate::netns::Netns;
use crate::runtime::cache::{Cache, Cached};
use crate::runtime::load;

/// How long to wait before reading the cache again, while a pod has no journal.
const REFRESH_PAUSE: Duration = Duration::from_secs(5);
/// How old the timestamp of a directory must be before an equal timestamp proves that the directory has not changed. Two changes in
/// quick succession can have the same timestamp.
const MIN_TIMESTAMP_AGE: Duration = Duration::from_secs(2);
/// The interface that containerd gives every container in addition to its networks.
const LOOPBACK: &str = "lo";

/// The state of a file when it was last read: its path, when it was changed, and its size.
type FileStamp = (PathBuf, Option<SystemTime>, u64);

/// The age of a container; the greatest value is the newest. The machine's clock is used only for containers that existed when the
/// agent started, because it may have been set since.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Age {
    /// Whether its namespace existed when the cache was read.
    has_netns: bool,
    /// The number of the refresh that first found it.
    first_refresh: u64,
    /// When its result was written.
    written: SystemTime,
}

/// A pod's newest container with a cached result.
#[derive(Debug)]
struct PodContainer {
    container: String,
    age: Age,
}

/// What a cached result of a pod says, if the network is not Braid's.
struct ForeignResult {
    uid: String,
    container: String,
    netns: String,
    /// The file's name.
    file: String,
}

/// The containers that another plugin has attached, by the UIDs of their pods.
#[derive(Debug)]
pub(super) struct Foreign {
    cache_dir: PathBuf,
    conf_dir: PathBuf,
    pods: HashMap<String, PodContainer>,
    /// The number of the refresh that first found each container. Containers that have left the cache are removed.
    first_refreshes: HashMap<String, u64>,
    /// How many times the cache was read.
    refreshes: u64,
    /// The timestamp of the directory of results at the last refresh, if an equal one proves that nothing has changed.
    results_changed: Option<SystemTime>,
    /// The configurations of the node.
    files: Vec<FileStamp>,
    /// Braid's configuration, with which such a container gets what its pod asks for.
    configuration: Option<PathBuf>,
    refreshed: Option<Instant>,
}

impl Foreign {
    /// Starts empty. `cache_dir` is libcni's cache directory, `conf_dir` the directory of configurations.
    pub(super) fn new(cache_dir: &Path, conf_dir: &Path) -> Self {
        Self {
            cache_dir: cache_dir.to_owned(),
            conf_dir: conf_dir.to_owned(),
            pods: HashMap::new(),
            first_refreshes: HashMap::new(),
            refreshes: 0,
            results_changed: None,
            files: Vec::new(),
            configuration: None,
            refreshed: None,
        }
    }

    /// When to call `refresh` next, while a pod has no journal.
    pub(super) fn next(&self, now: Instant) -> Instant {
        self.refreshed.map_or(now, |refreshed| refreshed + REFRESH_PAUSE)
    }

    /// Reads the configurations and the cache. Returns whether a configuration has changed since the last refresh.
    pub(super) fn refresh(&mut self, now: Instant) -> bool {
        self.refreshed = Some(now);
        let files = stamps(&self.conf_dir);
        let has_changed = files != self.files;
        if has_changed {
            self.configuration = configuration(&files);
            self.files = files;
        }
        if self.configuration.is_some() {
            self.read_results();
        }
        has_changed
    }

    /// The container of a pod. If there are several, the newest. `None` without a configuration of Braid, because such a container
    /// then cannot get anything.
    pub(super) fn container_of(&self, uid: &str) -> Option<&str> {
        self.configuration.as_ref()?;
        self.pods.get(uid).map(|pod| pod.container.as_str())
    }

    /// Braid's configuration, with which such a container gets what its pod asks for.
    pub(super) fn configuration(&self) -> Option<&Path> {
        self.configuration.as_deref()
    }

    fn read_results(&mut self) {
        let results = self.cache_dir.join("results");
        let changed = results.metadata().and_then(|metadata| metadata.modified()).ok();
        if changed.is_some() && changed == self.results_changed {
            return;
        }
        let is_settled = |at: &SystemTime| at.elapsed().is_ok_and(|age| age > MIN_TIMESTAMP_AGE);
        self.results_changed = changed.filter(is_settled);
        self.pods.clear();
        let cached = match Cache::new(&self.cache_dir).each() {
            Ok(cached) => cached,
            Err(error) => {
                tracing::warn!("{} cannot be read: {error}", results.display());
                return;
            }
        };
        self.refreshes += 1;
        let before = std::mem::take(&mut self.first_refreshes);
        for ForeignResult { uid, container, netns, file } in cached.filter_map(|cached| from_another_plugin(&cached)) {
            let first_refresh = before.get(&container).copied().unwrap_or(self.refreshes);
            self.first_refreshes.insert(container.clone(), first_refresh);
            let written = results.join(file).metadata().and_then(|metadata| metadata.modified());
            let written = written.unwrap_or(SystemTime::UNIX_EPOCH);
            let age = Age { has_netns: Netns::open(Path::new(&netns)).is_ok(), first_refresh, written };
            if self.pods.get(&uid).is_none_or(|before| before.age <= age) {
                self.pods.insert(uid, PodContainer { container, age });
            }
        }
    }
}

/// Reads a cached result. `None` if it is not a pod's, or if the network is Braid's: such a result exists for a moment after DEL has
/// removed the journal.
fn from_another_plugin(cached: &Cached) -> Option<ForeignResult> {
    let Cached { network_name, container_id, if_name, .. } = cached;
    let uid = cached.cni_args.iter().flatten().find(|[key, _]| key == "K8S_POD_UID").map(|[_, uid]| uid)?;
    let is_braids = || cached.network().is_ok_and(|network| network.plugins.iter().any(is_braid));
    let is_wanted = !uid.is_empty() && if_name != LOOPBACK && !is_braids();
    is_wanted.then(|| ForeignResult {
        uid: uid.clone(),
        container: container_id.clone(),
        netns: cached.netns.clone(),
        file: format!("{network_name}-{container_id}-{if_name}"),
    })
}

/// The configurations of a directory, in the order in which runtimes use them.
fn stamps(conf_dir: &Path) -> Vec<FileStamp> {
    let mut files = load::files(conf_dir).unwrap_or_default();
    files.sort();
    let stamp = |file: PathBuf| {
        let metadata = fs::metadata(&file).ok();
        let changed = metadata.as_ref().and_then(|metadata| metadata.modified().ok());
        (file, changed, metadata.map_or(0, |metadata| metadata.len()))
    };
    files.into_iter().map(stamp).collect()
}

/// The first configuration in which Braid has access to an API server.
fn configuration(files: &[FileStamp]) -> Option<PathBuf> {
    let has_access = |file: &Path| {
        let Ok(loaded) = load::from_file(file) else { return false };
        let network = loaded.network;
        let plugins = network.plugins.iter().enumerate().filter(|(_, plugin)| is_braid(plugin));
        let configs = plugins.filter_map(|(index, _)| Config::in_network(&network, index, &mut Problems::new()));
        configs.into_iter().any(|config| config.kubeconfig.is_some())
    };
    files.iter().map(|(file, ..)| file).find(|file| has_access(file)).cloned()
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use serde_json::json;
    use serde_json::value::RawValue;

    use super::*;
    use crate::runtime::Attachment;

    fn store(dir: &Path, network: &str, kind: &str, container: &str, (ifname, uid): (&str, &str)) {
        store_with_netns(dir, (network, kind), container, (ifname, uid), "/run/netns/c");
    }

    fn store_with_netns(
        dir: &Path,
        (network, kind): (&str, &str),
        container: &str,
        (ifname, uid): (&str, &str),
        netns: &str,
    ) {
        let config = json!({"cniVersion": "1.0.0", "name": network, "plugins": [{"type": kind}]}).to_string();
        let args = format!("IgnoreUnknown=1;K8S_POD_UID={uid}");
        let attachment = Attachment { args, ..Attachment::new(container, netns, ifname) };
        let result = RawValue::from_string("{}".into()).unwrap();
        Cache::new(dir).store(network, config.as_bytes(), &attachment, &result).unwrap();
    }

    #[test]
    fn containers_are_known_by_the_results_of_other_plugins_while_braid_is_configured() {
        let dir = tempfile::tempdir().unwrap();
        let (cache, conf) = (dir.path().join("cni"), dir.path().join("net.d"));
        fs::create_dir(&conf).unwrap();
        store(&cache, "cbr0", "bridge", "c1", ("eth0", "1"));
        store(&cache, "cni-loopback", "loopback", "c2", ("lo", "2"));
        store(&cache, "pods", "braid", "c3", ("eth0", "3"));
        let mut foreign = Foreign::new(&cache, &conf);
        let now = Instant::now();
        foreign.refresh(now);
        assert_eq!((foreign.container_of("1"), foreign.configuration()), (None, None));

        let plugin = |kubeconfig| json!({"type": "braid", "kubeconfig": kubeconfig, "delegates": [{"cniVersion": "1.0.0", "name": "extra", "type": "bridge"}]});
        let file = conf.join("50-braid.conflist");
        let text = json!({"cniVersion": "1.0.0", "name": "pods", "plugins": [{"type": "bridge"}, plugin("/none")]});
        fs::write(&file, text.to_string()).unwrap();
        assert!(foreign.refresh(now));
        assert_eq!(foreign.configuration(), Some(&*file));
        assert_eq!(["1", "2", "3"].map(|uid| foreign.container_of(uid)), [Some("c1"), None, None]);
        assert!(!foreign.refresh(now));

        // The pod gets another container.
        store(&cache, "cbr0", "bridge", "c0", ("eth0", "1"));
        foreign.refresh(now);
        assert_eq!(foreign.container_of("1"), Some("c0"));
        fs::remove_dir_all(&cache).unwrap();
        foreign.refresh(now);
        assert_eq!(foreign.container_of("1"), None);
        assert_eq!(foreign.next(now), now + REFRESH_PAUSE);
    }

    fn set_modified(cache: &Path, file: &str, time: SystemTime) {
        File::options().append(true).open(cache.join("results").join(file)).unwrap().set_modified(time).unwrap();
    }

    #[test]
    fn the_newest_container_of_a_pod_is_known_though_the_clock_was_set_back() {
        let dir = tempfile::tempdir().unwrap();
        let (cache, conf) = (dir.path().join("cni"), dir.path().join("net.d"));
        fs::create_dir(&conf).unwrap();
        let plugin = json!({"type": "braid", "kubeconfig": "/none", "delegates": [{"cniVersion": "1.0.0", "name": "extra", "type": "bridge"}]});
        let text = json!({"cniVersion": "1.0.0", "name": "pods", "plugins": [{"type": "bridge"}, plugin]});
        fs::write(conf.join("50-braid.conflist"), text.to_string()).unwrap();
        let yesterday = SystemTime::now() - Duration::from_secs(86400);
        store(&cache, "cbr0", "bridge", "c1", ("eth0", "1"));
        let (mut foreign, now) = (Foreign::new(&cache, &conf), Instant::now());
        foreign.refresh(now);
        assert_eq!(foreign.container_of("1"), Some("c1"));
        store(&cache, "cbr0", "bridge", "c2", ("eth0", "1"));
        set_modified(&cache, "cbr0-c2-eth0", yesterday);
        foreign.refresh(now);
        assert_eq!(foreign.container_of("1"), Some("c2"), "it was found later");
        // A new agent compares by the clock, but only containers that both have a namespace, or both have none.
        let mut new = Foreign::new(&cache, &conf);
        new.refresh(now);
        assert_eq!(new.container_of("1"), Some("c1"));
        store_with_netns(&cache, ("cbr0", "bridge"), "c3", ("eth0", "1"), "/proc/self/ns/net");
        set_modified(&cache, "cbr0-c3-eth0", yesterday);
        let mut new = Foreign::new(&cache, &conf);
        new.refresh(now);
        assert_eq!(new.container_of("1"), Some("c3"));
    }
}
