//! Whole networks: what a container runtime calls.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::value::RawValue;

use super::cache::{Cache, DEFAULT_DIR};
use super::chain::{Attachment, Chain, Limits, StepError, StepResult};
use super::exec::Exec;
use super::find::Finder;
use super::launcher::Launcher;
use super::network_error::NetworkError;
use crate::cni::config::raw;
use crate::cni::result::version_of;
use crate::cni::validate::{self, InvalidName};
use crate::cni::{AddResult, NetworkConfig, ValidAttachment};

/// Runs network configurations on behalf of a container runtime. The results that CHECK and DEL need are kept in libcni's cache.
///
/// ```no_run
/// use std::path::Path;
/// use braid_cni::runtime::{Attachment, Networks, load};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let networks = Networks::new("/opt/cni/bin");
/// let network = load::by_name(Path::new("/etc/cni/net.d"), "mynet")?.loaded.ok_or("no such network")?.network;
/// let attachment = Attachment::new("c1", "/run/netns/c1", "eth0");
/// let result = networks.add(&network, &attachment)?;
/// eprintln!("{}", result.raw);
/// networks.check(&network, &attachment)?;
/// networks.del(&network, &attachment)?;
/// # Ok(())
/// # }
/// ```
pub struct Networks {
    finder: Finder,
    exec: Box<dyn Exec>,
    cache: Cache,
    limits: Limits,
}

impl std::fmt::Debug for Networks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Networks").field("finder", &self.finder).field("cache", &self.cache).finish_non_exhaustive()
    }
}

impl Networks {
    /// A runtime that looks plugins up in `path`, directories separated by `:`.
    pub fn new(path: &str) -> Self {
        Self {
            finder: Finder::new(path),
            exec: Box::new(Launcher::new()),
            cache: Cache::new(Path::new(DEFAULT_DIR)),
            limits: Limits::default(),
        }
    }

    /// Looks plugins up with `finder`.
    #[must_use]
    pub fn with_finder(mut self, finder: Finder) -> Self {
        self.finder = finder;
        self
    }

    /// Runs plugins with `exec`.
    #[must_use]
    pub fn with_exec(mut self, exec: impl Exec + 'static) -> Self {
        self.exec = Box::new(exec);
        self
    }

    /// Keeps results below `directory`, libcni's `cacheDir`.
    #[must_use]
    pub fn with_cache_dir(mut self, directory: &Path) -> Self {
        self.cache = Cache::new(directory);
        self
    }

    /// Lets each plugin run for `timeout` at most.
    #[must_use]
    pub fn with_plugin_timeout(mut self, timeout: Duration) -> Self {
        self.limits.plugin = Some(timeout);
        self
    }

    /// The cache of results.
    pub fn cache(&self) -> &Cache {
        &self.cache
    }

    /// The path of the executable of each plugin of a network.
    ///
    /// # Errors
    /// The first that is missing.
    pub fn executables(&self, network: &NetworkConfig) -> Result<Vec<PathBuf>, super::PluginError> {
        network.plugins.iter().map(|plugin| self.finder.find(plugin.plugin_type())).collect()
    }

    /// Checks that every plugin of a network exists and supports the network's version (SPEC §1, "Version considerations"). Each
    /// plugin gets a VERSION call.
    ///
    /// # Errors
    /// The first plugin that does not.
    pub fn validate(&self, network: &NetworkConfig) -> Result<(), NetworkError> {
        validate::network_name(&network.name)?;
        for (step, plugin) in network.plugins.iter().enumerate() {
            let failed = |error| NetworkError::Plugins { network: network.name.clone(), failures: vec![error] };
            if !self.chain(network).versions(step).map_err(failed)?.contains(&network.version) {
                return Err(NetworkError::Version {
                    network: network.name.clone(),
                    plugin_type: plugin.plugin_type().to_owned(),
                    version: network.version,
                });
            }
        }
        Ok(())
    }

    fn chain<'a>(&'a self, network: &'a NetworkConfig) -> Chain<'a> {
        Chain { network, finder: &self.finder, exec: &*self.exec, limits: self.limits, after: None }
    }

    /// Attaches a container to a network. If a plugin fails, DEL is run in reverse for the plugins that ran, including the failing
    /// one. (libcni leaves that to its caller.)
    ///
    /// # Errors
    /// When a plugin fails, or its result cannot be kept.
    pub fn add(&self, network: &NetworkConfig, attachment: &Attachment) -> Result<StepResult, NetworkError> {
        check_names(network, attachment)?;
        if self.cached(network, attachment)?.is_some() {
            return Err(NetworkError::AlreadyAttached {
                network: network.name.clone(),
                container_id: attachment.container_id.clone(),
                ifname: attachment.ifname.clone(),
            });
        }
        let chain = self.chain(network);
        let mut last: Option<StepResult> = None;
        for step in 0..network.plugins.len() {
            match chain.add_step(step, attachment, last.as_ref().map(|result| &*result.raw)) {
                Ok(result) => last = Some(result),
                Err(cause) => {
                    let prev_result = last.as_ref().map(|result| &*result.raw);
                    return Err(NetworkError::Add {
                        network: network.name.clone(),
                        cleanup: chain.undo(step + 1, attachment, prev_result),
                        cause: Box::new(cause),
                    });
                }
            }
        }
        let result = last.unwrap_or_else(|| {
            let parsed = AddResult::default();
            StepResult { raw: parsed.to_raw(network.version), parsed }
        });
        let config = raw(network);
        let kept = self.cache.store(&network.name, config.get().as_bytes(), attachment, &result.raw);
        kept.map(|()| result.clone()).map_err(|source| NetworkError::NotKept {
            network: network.name.clone(),
            directory: self.cache.directory().to_owned(),
            source,
            cleanup: chain.del(attachment, Some(&result.raw)),
        })
    }

    /// Detaches a container from a network. Every plugin is called, even if others fail. The cached result is removed once all have
    /// succeeded. If it cannot be read, the plugins are called without it.
    ///
    /// # Errors
    /// Every plugin that failed.
    pub fn del(&self, network: &NetworkConfig, attachment: &Attachment) -> Result<(), NetworkError> {
        check_names(network, attachment)?;
        let prev_result = self.cached(network, attachment).unwrap_or_else(|error| {
            tracing::warn!(container = attachment.container_id, "DEL goes on without the result of ADD: {error}");
            None
        });
        let failures = self.chain(network).del(attachment, prev_result.as_deref());
        if !failures.is_empty() {
            return Err(NetworkError::Plugins { network: network.name.clone(), failures });
        }
        self.cache
            .remove(&network.name, &attachment.container_id, &attachment.ifname)
            .map_err(|source| self.cache_error(network, source))
    }

    /// Runs CHECK of every plugin. Succeeds without calling them if the configuration has `disableCheck`.
    ///
    /// # Errors
    /// The failure of every plugin, or that there is no result of an ADD to check.
    pub fn check(&self, network: &NetworkConfig, attachment: &Attachment) -> Result<(), NetworkError> {
        check_names(network, attachment)?;
        if !network.version.has_check() {
            return Err(NetworkError::NoCheck { network: network.name.clone(), version: network.version });
        }
        if network.disable_check {
            return Ok(());
        }
        let prev_result = self.cached(network, attachment)?.ok_or_else(|| NetworkError::NotCached {
            network: network.name.clone(),
            container_id: attachment.container_id.clone(),
            ifname: attachment.ifname.clone(),
        })?;
        Self::all(network, self.chain(network).check(attachment, Some(&prev_result)))
    }

    /// Runs STATUS of the plugins: whether they could attach a container.
    ///
    /// # Errors
    /// The first plugin that could not.
    pub fn status(&self, network: &NetworkConfig) -> Result<(), NetworkError> {
        Self::all(network, self.chain(network).status().err().into_iter().collect())
    }

    /// Detaches the attachments that are in the cache but not in `valid`, then runs GC of the plugins.
    ///
    /// # Errors
    /// Everything that failed; the rest was done.
    pub fn gc(&self, network: &NetworkConfig, valid: &[ValidAttachment]) -> Result<(), NetworkError> {
        if network.disable_gc {
            return Ok(());
        }
        let cached = self.cache.attachments(&network.name).map_err(|source| self.cache_error(network, source))?;
        let mut stale = Vec::new();
        for cached in cached {
            let one = ValidAttachment { container_id: cached.container_id.clone(), ifname: cached.if_name.clone() };
            if !valid.contains(&one)
                && let Err(error) = self.del(network, &cached.attachment())
            {
                stale.push((one, error));
            }
        }
        let failures = self.chain(network).gc(valid);
        if stale.is_empty() && failures.is_empty() {
            Ok(())
        } else {
            Err(NetworkError::Gc { network: network.name.clone(), stale, failures })
        }
    }

    fn all(network: &NetworkConfig, failures: Vec<StepError>) -> Result<(), NetworkError> {
        if failures.is_empty() {
            Ok(())
        } else {
            Err(NetworkError::Plugins { network: network.name.clone(), failures })
        }
    }

    fn cache_error(&self, network: &NetworkConfig, source: io::Error) -> NetworkError {
        NetworkError::Cache { network: network.name.clone(), directory: self.cache.directory().to_owned(), source }
    }

    /// The cached result in the network's version.
    fn cached(&self, network: &NetworkConfig, of: &Attachment) -> Result<Option<Box<RawValue>>, NetworkError> {
        let cached = self.cache.load(&network.name, &of.container_id, &of.ifname);
        let cached = cached.map_err(|source| self.cache_error(network, source))?;
        let Some(result) = cached.and_then(|cached| cached.result) else { return Ok(None) };
        let bytes = result.get().as_bytes();
        if version_of(bytes, network.version).is_ok_and(|version| version == network.version) {
            return Ok(Some(result));
        }
        let parsed = AddResult::parse(bytes, network.version)
            .map_err(|error| self.cache_error(network, io::Error::other(error)))?;
        Ok(Some(parsed.to_raw(network.version)))
    }
}

/// The names become part of the cache's paths, so they may contain only what the protocol allows.
fn check_names(network: &NetworkConfig, attachment: &Attachment) -> Result<(), InvalidName> {
    validate::network_name(&network.name)?;
    attachment.validate()
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::cni::CniError;
    use crate::cni::Verb;
    use crate::runtime::exec::{Call, PluginError, Stdout};

    const RESULT: &str = r#"{"cniVersion":"1.1.0","ips":[{"address":"10.1.0.5/16"}]}"#;

    /// Writes calls down, and fails those whose command is in `fails`.
    #[derive(Clone, Default)]
    struct Script {
        calls: Arc<Mutex<Vec<(String, String)>>>,
        fails: Arc<Mutex<Vec<&'static str>>>,
    }

    impl Script {
        fn take(&self) -> Vec<String> {
            self.calls.lock().unwrap().drain(..).map(|(call, _)| call).collect()
        }
    }

    impl Exec for Script {
        fn run(&self, call: &Call<'_>) -> Result<Stdout, PluginError> {
            let name = call.executable.file_name().unwrap().to_str().unwrap();
            let stdin = String::from_utf8(call.stdin.to_vec()).unwrap();
            let words = format!("{} {name}", call.verb);
            self.calls.lock().unwrap().push((words.clone(), stdin));
            if self.fails.lock().unwrap().contains(&words.as_str()) {
                return Err(PluginError::Reported(CniError::new(142, words)));
            }
            Ok(match call.verb {
                Verb::Add => RESULT.into(),
                Verb::Version => br#"{"cniVersion":"1.1.0","supportedVersions":["0.4.0","1.1.0","7.0.0"]}"#.to_vec(),
                _ => Vec::new(),
            })
        }
    }

    fn setup() -> (tempfile::TempDir, Script, Networks) {
        let dir = tempfile::tempdir().unwrap();
        let script = Script::default();
        let networks = Networks::new("/bin").with_exec(script.clone()).with_cache_dir(dir.path());
        (dir, script, networks)
    }

    /// Two programs that every machine has stand for plugins; nothing runs them.
    fn network(version: &str) -> NetworkConfig {
        let json = format!(r#"{{"cniVersion":"{version}","name":"n","plugins":[{{"type":"true"}},{{"type":"cat"}}]}}"#);
        json.parse().unwrap()
    }

    fn attachment() -> Attachment {
        Attachment::new("c", "/ns", "eth0")
    }

    #[test]
    fn a_whole_life() {
        let (_dir, script, networks) = setup();
        let network = network("1.1.0");
        networks.add(&network, &attachment()).unwrap();
        let cached = networks.cache().load("n", "c", "eth0").unwrap().unwrap();
        assert_eq!(cached.result.as_ref().unwrap().get(), RESULT);
        assert_eq!(cached.network().unwrap().plugins.len(), 2);
        assert!(matches!(networks.add(&network, &attachment()), Err(NetworkError::AlreadyAttached { .. })));
        networks.check(&network, &attachment()).unwrap();
        networks.status(&network).unwrap();
        networks.del(&network, &attachment()).unwrap();
        networks.del(&network, &attachment()).unwrap();
        assert!(networks.cache().all().unwrap().is_empty());
        assert_eq!(
            script.take(),
            [
                "ADD true",
                "ADD cat",
                "CHECK true",
                "CHECK cat",
                "STATUS true",
                "STATUS cat",
                "DEL cat",
                "DEL true",
                "DEL cat",
                "DEL true"
            ]
        );
        assert!(matches!(networks.check(&network, &attachment()), Err(NetworkError::NotCached { .. })));
    }

    #[test]
    fn a_failed_add_is_undone_and_every_failure_reported() {
        let (_dir, script, networks) = setup();
        *script.fails.lock().unwrap() = vec!["ADD cat", "DEL true"];
        let Err(NetworkError::Add { cause, cleanup, .. }) = networks.add(&network("1.1.0"), &attachment()) else {
            panic!("it was to fail")
        };
        assert_eq!((cause.plugin_type.as_str(), cleanup.len()), ("cat", 1));
        assert_eq!(script.take(), ["ADD true", "ADD cat", "DEL cat", "DEL true"]);
        assert!(networks.cache().all().unwrap().is_empty());
    }

    #[test]
    fn a_result_that_cannot_be_kept_is_undone() {
        let (dir, script, networks) = setup();
        std::fs::write(dir.path().join("results"), "in the way").unwrap();
        let networks = networks.with_cache_dir(&dir.path().join("results"));
        // Reading finds a file where the directory is to be, as writing does.
        let error = networks.add(&network("1.1.0"), &attachment()).unwrap_err().to_string();
        assert!(error.contains(&format!("in {}/results/results cannot be used", dir.path().display())), "{error}");
        assert!(script.take().iter().all(|call| !call.starts_with("ADD")));
        let (dir, script, networks) = setup();
        let attachment = Attachment { args: "no pair".into(), ..attachment() };
        let Err(NetworkError::NotKept { cleanup, .. }) = networks.add(&network("1.1.0"), &attachment) else {
            panic!("it was to fail")
        };
        assert!(cleanup.is_empty());
        assert_eq!(script.take(), ["ADD true", "ADD cat", "DEL cat", "DEL true"]);
        drop(dir);
    }

    #[test]
    fn del_goes_on_without_a_result_that_cannot_be_read() {
        let (dir, script, networks) = setup();
        networks.add(&network("1.1.0"), &attachment()).unwrap();
        std::fs::write(dir.path().join("results/n-c-eth0"), "{").unwrap();
        script.take();
        networks.del(&network("1.1.0"), &attachment()).unwrap();
        assert_eq!(script.take(), ["DEL cat", "DEL true"]);
        assert!(!dir.path().join("results/n-c-eth0").exists());
    }

    #[test]
    fn gc_deletes_what_is_stale_whatever_fails_and_reports_all() {
        let (_dir, script, networks) = setup();
        for version in ["1.0.0", "1.1.0"] {
            let network = network(version);
            for id in ["c1", "c2", "c3"] {
                networks.add(&network, &Attachment::new(id, "/ns", "eth0")).unwrap();
            }
            script.take();
            *script.fails.lock().unwrap() = vec!["DEL cat", "GC cat"];
            let valid = [ValidAttachment { container_id: "c2".into(), ifname: "eth0".into() }];
            let error = networks.gc(&network, &valid).unwrap_err();
            let NetworkError::Gc { stale, failures, .. } = &error else { panic!("{error}") };
            assert_eq!((stale.len(), failures.len()), (2, usize::from(version == "1.1.0")));
            assert!(error.to_string().contains("container \"c1\"") && error.to_string().contains("container \"c3\""));
            script.fails.lock().unwrap().clear();
            networks.gc(&network, &valid).unwrap();
            let left: Vec<_> = networks.cache().all().unwrap().into_iter().map(|one| one.container_id).collect();
            assert_eq!(left, ["c2"]);
            networks.gc(&network, &[]).unwrap();
        }
        let disabled = NetworkConfig { disable_gc: true, ..network("1.1.0") };
        script.take();
        networks.gc(&disabled, &[]).unwrap();
        assert!(script.take().is_empty());
    }

    #[test]
    fn versions_decide_what_is_asked() {
        let (_dir, script, networks) = setup();
        networks.status(&network("1.0.0")).unwrap();
        assert!(matches!(networks.check(&network("0.3.1"), &attachment()), Err(NetworkError::NoCheck { .. })));
        let disabled = NetworkConfig { disable_check: true, ..network("1.0.0") };
        networks.check(&disabled, &attachment()).unwrap();
        assert!(script.take().is_empty());
        networks.validate(&network("1.1.0")).unwrap();
        let error = networks.validate(&network("1.0.0")).unwrap_err();
        assert_eq!(error.to_string(), "network \"n\": plugin \"true\" does not support CNI 1.0.0");
    }

    #[test]
    fn no_name_reaches_a_path_unchecked() {
        let (_dir, script, networks) = setup();
        for attachment in [
            Attachment::new("../c", "/ns", "eth0"),
            Attachment::new("c", "/ns", "a/b"),
            Attachment::new("", "/ns", "e"),
        ] {
            assert!(matches!(networks.add(&network("1.1.0"), &attachment), Err(NetworkError::Name(_))));
            assert!(matches!(networks.del(&network("1.1.0"), &attachment), Err(NetworkError::Name(_))));
        }
        let elsewhere = NetworkConfig { name: "../n".into(), ..network("1.1.0") };
        assert!(matches!(networks.add(&elsewhere, &attachment()), Err(NetworkError::Name(_))));
        assert!(script.take().is_empty());
    }
}
