//! Containers that Braid has no journal of, because another plugin has attached them: before Braid's configuration was there, or
//! under another one. What is known of them is what the runtime's libcni keeps. It is looked at only while a pod that asks for
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

/// How long it is until the next look while a pod has no journal.
const AGAIN: Duration = Duration::from_secs(5);
/// A directory that has not changed for so long has changed since the last look only if its time says so: two changes right
/// after one another may have the same.
const SETTLED: Duration = Duration::from_secs(2);
/// The interface that containerd gives every container beside its networks.
const LOOPBACK: &str = "lo";

/// A file as it was looked at: when it was changed, and its size.
type Stamp = (PathBuf, Option<SystemTime>, u64);

/// How new a container is: the greatest is the newest. The machine's clock decides only between those that were there when the
/// agent started, as it may have been set since.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Age {
    /// Whether its namespace was there when it was looked at.
    is_there: bool,
    /// The look at which it was first seen.
    seen: u64,
    /// When its result was written.
    since: SystemTime,
}

/// A container of which libcni keeps a result.
#[derive(Debug)]
struct Seen {
    container: String,
    age: Age,
}

/// A pod's result of a network that is not Braid's.
struct Result {
    uid: String,
    container: String,
    netns: String,
    /// The file's name.
    file: String,
}

/// The containers that another plugin has attached, by the UIDs of their pods.
#[derive(Debug)]
pub(super) struct Unknown {
    cache_dir: PathBuf,
    conf_dir: PathBuf,
    pods: HashMap<String, Seen>,
    /// The look at which each container was first seen, for as long as it is there.
    first_seen: HashMap<String, u64>,
    /// How many looks there have been.
    looks: u64,
    /// When the directory of results had been changed last, if nothing can have escaped the look.
    results_of: Option<SystemTime>,
    /// The configurations of the node.
    files: Vec<Stamp>,
    /// The one by which such a container gets what its pod asks for.
    configuration: Option<PathBuf>,
    looked: Option<Instant>,
}

impl Unknown {
    /// Nothing is read yet. `cache_dir` is libcni's directory, `conf_dir` that of configurations.
    pub(super) fn new(cache_dir: &Path, conf_dir: &Path) -> Self {
        Self {
            cache_dir: cache_dir.to_owned(),
            conf_dir: conf_dir.to_owned(),
            pods: HashMap::new(),
            first_seen: HashMap::new(),
            looks: 0,
            results_of: None,
            files: Vec::new(),
            configuration: None,
            looked: None,
        }
    }

    /// When to look next while there is a reason to.
    pub(super) fn next(&self, now: Instant) -> Instant {
        self.looked.map_or(now, |looked| looked + AGAIN)
    }

    /// Looks at what is there. Says whether Braid's configuration has changed since the last look.
    pub(super) fn refresh(&mut self, now: Instant) -> bool {
        self.looked = Some(now);
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

    /// The container of a pod: of several the one that was attached last. None without a configuration by which it could get
    /// anything.
    pub(super) fn container_of(&self, uid: &str) -> Option<&str> {
        let seen = self.configuration.as_ref().and_then(|_| self.pods.get(uid));
        seen.map(|seen| seen.container.as_str())
    }

    /// Braid's configuration, by which such a container gets what its pod asks for.
    pub(super) fn configuration(&self) -> Option<&Path> {
        self.configuration.as_deref()
    }

    fn read_results(&mut self) {
        let results = self.cache_dir.join("results");
        let changed = results.metadata().and_then(|metadata| metadata.modified()).ok();
        if changed.is_some() && changed == self.results_of {
            return;
        }
        let is_settled = |at: &SystemTime| at.elapsed().is_ok_and(|age| age > SETTLED);
        self.results_of = changed.filter(is_settled);
        self.pods.clear();
        let cached = match Cache::new(&self.cache_dir).each() {
            Ok(cached) => cached,
            Err(error) => {
                tracing::warn!("{} cannot be read: {error}", results.display());
                return;
            }
        };
        self.looks += 1;
        let before = std::mem::take(&mut self.first_seen);
        for Result { uid, container, netns, file } in cached.filter_map(|cached| of_another(&cached)) {
            let seen = before.get(&container).copied().unwrap_or(self.looks);
            self.first_seen.insert(container.clone(), seen);
            let written = results.join(file).metadata().and_then(|metadata| metadata.modified());
            let since = written.unwrap_or(SystemTime::UNIX_EPOCH);
            let age = Age { is_there: Netns::open(Path::new(&netns)).is_ok(), seen, since };
            if self.pods.get(&uid).is_none_or(|before| before.age <= age) {
                self.pods.insert(uid, Seen { container, age });
            }
        }
    }
}

/// What is known from a pod's result of a network that is not Braid's. One of Braid's stays for a moment after DEL has removed the
/// journal.
fn of_another(cached: &Cached) -> Option<Result> {
    let Cached { network_name, container_id, if_name, .. } = cached;
    let uid = cached.cni_args.iter().flatten().find(|[key, _]| key == "K8S_POD_UID").map(|[_, uid]| uid)?;
    let is_braids = || cached.network().is_ok_and(|network| network.plugins.iter().any(is_braid));
    let is_wanted = !uid.is_empty() && if_name != LOOPBACK && !is_braids();
    is_wanted.then(|| Result {
        uid: uid.clone(),
        container: container_id.clone(),
        netns: cached.netns.clone(),
        file: format!("{network_name}-{container_id}-{if_name}"),
    })
}

/// The configurations of a directory in the order in which runtimes take them.
fn stamps(conf_dir: &Path) -> Vec<Stamp> {
    let mut files = load::files(conf_dir).unwrap_or_default();
    files.sort();
    let stamp = |file: PathBuf| {
        let metadata = fs::metadata(&file).ok();
        let changed = metadata.as_ref().and_then(|metadata| metadata.modified().ok());
        (file, changed, metadata.map_or(0, |metadata| metadata.len()))
    };
    files.into_iter().map(stamp).collect()
}

/// The first configuration with a Braid that may ask an API server.
fn configuration(files: &[Stamp]) -> Option<PathBuf> {
    let asks = |file: &Path| {
        let Ok(loaded) = load::from_file(file) else { return false };
        let network = loaded.network;
        let plugins = network.plugins.iter().enumerate().filter(|(_, plugin)| is_braid(plugin));
        let configs = plugins.filter_map(|(index, _)| Config::in_network(&network, index, &mut Problems::new()));
        configs.into_iter().any(|config| config.kubeconfig.is_some())
    };
    files.iter().map(|(file, ..)| file).find(|file| asks(file)).cloned()
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use serde_json::json;
    use serde_json::value::RawValue;

    use super::*;
    use crate::runtime::Attachment;

    fn keep(dir: &Path, network: &str, kind: &str, container: &str, (ifname, uid): (&str, &str)) {
        keep_at(dir, (network, kind), container, (ifname, uid), "/run/netns/c");
    }

    fn keep_at(dir: &Path, (network, kind): (&str, &str), container: &str, (ifname, uid): (&str, &str), netns: &str) {
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
        keep(&cache, "cbr0", "bridge", "c1", ("eth0", "1"));
        keep(&cache, "cni-loopback", "loopback", "c2", ("lo", "2"));
        keep(&cache, "pods", "braid", "c3", ("eth0", "3"));
        let mut unknown = Unknown::new(&cache, &conf);
        let now = Instant::now();
        unknown.refresh(now);
        assert_eq!((unknown.container_of("1"), unknown.configuration()), (None, None));

        let plugin = |kubeconfig| json!({"type": "braid", "kubeconfig": kubeconfig, "delegates": [{"cniVersion": "1.0.0", "name": "extra", "type": "bridge"}]});
        let file = conf.join("50-braid.conflist");
        let text = json!({"cniVersion": "1.0.0", "name": "pods", "plugins": [{"type": "bridge"}, plugin("/none")]});
        fs::write(&file, text.to_string()).unwrap();
        assert!(unknown.refresh(now));
        assert_eq!(unknown.configuration(), Some(&*file));
        assert_eq!(["1", "2", "3"].map(|uid| unknown.container_of(uid)), [Some("c1"), None, None]);
        assert!(!unknown.refresh(now));

        // The pod gets another container.
        keep(&cache, "cbr0", "bridge", "c0", ("eth0", "1"));
        unknown.refresh(now);
        assert_eq!(unknown.container_of("1"), Some("c0"));
        fs::remove_dir_all(&cache).unwrap();
        unknown.refresh(now);
        assert_eq!(unknown.container_of("1"), None);
        assert_eq!(unknown.next(now), now + AGAIN);
    }

    fn date(cache: &Path, file: &str, time: SystemTime) {
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
        keep(&cache, "cbr0", "bridge", "c1", ("eth0", "1"));
        let (mut unknown, now) = (Unknown::new(&cache, &conf), Instant::now());
        unknown.refresh(now);
        assert_eq!(unknown.container_of("1"), Some("c1"));
        keep(&cache, "cbr0", "bridge", "c2", ("eth0", "1"));
        date(&cache, "cbr0-c2-eth0", yesterday);
        unknown.refresh(now);
        assert_eq!(unknown.container_of("1"), Some("c2"), "it was seen later");
        // Another agent goes by the clock, but only where both have a namespace, or neither.
        let mut another = Unknown::new(&cache, &conf);
        another.refresh(now);
        assert_eq!(another.container_of("1"), Some("c1"));
        keep_at(&cache, ("cbr0", "bridge"), "c3", ("eth0", "1"), "/proc/self/ns/net");
        date(&cache, "cbr0-c3-eth0", yesterday);
        let mut another = Unknown::new(&cache, &conf);
        another.refresh(now);
        assert_eq!(another.container_of("1"), Some("c3"));
    }
}
