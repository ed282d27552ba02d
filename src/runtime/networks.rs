//! Whole networks: what a container runtime calls.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::value::RawValue;

use super::cache::{Cache, DEFAULT_DIR};
use super::chain::{Attachment, Chain, Limits, StepError, StepResult, ValidAttachment};
use super::exec::{Exec, Launcher};
use super::find::Finder;
use crate::cni::config::raw;
use crate::cni::result::version_of;
use crate::cni::{AddResult, NetworkConfig};

/// Runs network configurations on behalf of a container runtime, and keeps the results that CHECK and DEL need where
/// libcni keeps them.
///
/// ```no_run
/// use std::path::Path;
/// use braid_cni::runtime::{Attachment, Networks, load};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let networks = Networks::new("/opt/cni/bin");
/// let network = load::by_name(Path::new("/etc/cni/net.d"), "mynet")?.loaded.ok_or("no such network")?.network;
/// let attachment = Attachment {
///     container_id: "c1".into(),
///     netns: "/var/run/netns/c1".into(),
///     ifname: "eth0".into(),
///     ..Attachment::default()
/// };
/// let result = networks.add(&network, &attachment)?;
/// println!("{}", result.raw);
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

/// Why an operation on a network failed.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// ADD failed. What was done has been undone, apart from what `cleanup` lists; a DEL is owed only for that.
    #[error("network {network:?}: {cause}")]
    Add {
        /// The network.
        network: String,
        /// The plugin that failed.
        cause: Box<StepError>,
        /// What could not be undone.
        cleanup: Vec<StepError>,
    },
    /// ADD for an attachment that exists: failing and undoing it would take down what is there.
    #[error("network {network:?}: container {container_id:?} is attached on {ifname:?} already")]
    AlreadyAttached {
        /// The network.
        network: String,
        /// The container.
        container_id: String,
        /// The interface.
        ifname: String,
    },
    /// Plugins failed. The others were called all the same.
    #[error("network {network:?}: {}", failures.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Plugins {
        /// The network.
        network: String,
        /// Each failure.
        failures: Vec<StepError>,
    },
    /// CHECK needs the version 0.4.0, and GC and STATUS need 1.1.0.
    #[error("network {network:?}: CNI {version} has no CHECK")]
    NoCheck {
        /// The network.
        network: String,
        /// Its version.
        version: crate::cni::Version,
    },
    /// CHECK needs the result of ADD, and there is none.
    #[error("network {network:?}: no result of an ADD of container {container_id:?} on {ifname:?} is cached")]
    NotCached {
        /// The network.
        network: String,
        /// The container.
        container_id: String,
        /// The interface.
        ifname: String,
    },
    /// The cache could not be read or written.
    #[error("network {network:?}: the cache of results: {source}")]
    Cache {
        /// The network.
        network: String,
        /// Why.
        source: io::Error,
    },
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

    /// The executable of each plugin of a network.
    ///
    /// # Errors
    /// The first that is missing.
    pub fn executables(&self, network: &NetworkConfig) -> Result<Vec<PathBuf>, super::PluginError> {
        network.plugins.iter().map(|plugin| self.finder.find(plugin.plugin_type())).collect()
    }

    fn chain<'a>(&'a self, network: &'a NetworkConfig) -> Chain<'a> {
        Chain { network, finder: &self.finder, exec: &*self.exec, limits: self.limits }
    }

    /// Attaches a container to a network. If a plugin fails, the plugins that ran, the failing one included, are called
    /// with DEL in reverse. (libcni leaves that to its caller.)
    ///
    /// # Errors
    /// When a plugin fails, or its result cannot be kept.
    pub fn add(&self, network: &NetworkConfig, attachment: &Attachment) -> Result<StepResult, NetworkError> {
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
                    let cleanup = (0..=step).rev().filter_map(|s| chain.del_step(s, attachment, prev_result).err());
                    return Err(NetworkError::Add {
                        network: network.name.clone(),
                        cleanup: cleanup.collect(),
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
        if let Err(source) = kept {
            drop(chain.del(attachment, Some(&result.raw)));
            return Err(NetworkError::Cache { network: network.name.clone(), source });
        }
        Ok(result)
    }

    /// Detaches a container from a network, every plugin whatever the others do. The cached result is forgotten once all
    /// have succeeded.
    ///
    /// # Errors
    /// Every plugin that failed.
    pub fn del(&self, network: &NetworkConfig, attachment: &Attachment) -> Result<(), NetworkError> {
        let prev_result = self.cached(network, attachment)?;
        let failures = self.chain(network).del(attachment, prev_result.as_deref());
        if !failures.is_empty() {
            return Err(NetworkError::Plugins { network: network.name.clone(), failures });
        }
        self.cache
            .remove(&network.name, &attachment.container_id, &attachment.ifname)
            .map_err(|source| NetworkError::Cache { network: network.name.clone(), source })
    }

    /// Asks every plugin whether an attachment is as it should be. Succeeds without asking where the configuration says
    /// `disableCheck`.
    ///
    /// # Errors
    /// Every plugin that says no, or that there is nothing to check.
    pub fn check(&self, network: &NetworkConfig, attachment: &Attachment) -> Result<(), NetworkError> {
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

    /// Asks the plugins whether they could attach a container.
    ///
    /// # Errors
    /// The first that could not.
    pub fn status(&self, network: &NetworkConfig) -> Result<(), NetworkError> {
        Self::all(network, self.chain(network).status().err().into_iter().collect())
    }

    /// Detaches what the cache knows and `valid` does not list, then passes GC on to the plugins.
    ///
    /// # Errors
    /// Everything that failed; the rest was done.
    pub fn gc(&self, network: &NetworkConfig, valid: &[ValidAttachment]) -> Result<(), NetworkError> {
        if network.disable_gc {
            return Ok(());
        }
        let mut failures = Vec::new();
        let cached = self
            .cache
            .attachments(&network.name)
            .map_err(|source| NetworkError::Cache { network: network.name.clone(), source })?;
        for stale in cached {
            let one = ValidAttachment { container_id: stale.container_id.clone(), ifname: stale.if_name.clone() };
            if valid.contains(&one) {
                continue;
            }
            match self.del(network, &stale.attachment()) {
                Err(NetworkError::Plugins { failures: more, .. }) => failures.extend(more),
                Err(other) => return Err(other),
                Ok(()) => {}
            }
        }
        failures.extend(self.chain(network).gc(valid));
        Self::all(network, failures)
    }

    fn all(network: &NetworkConfig, failures: Vec<StepError>) -> Result<(), NetworkError> {
        if failures.is_empty() {
            Ok(())
        } else {
            Err(NetworkError::Plugins { network: network.name.clone(), failures })
        }
    }

    /// The cached result in the network's version.
    fn cached(&self, network: &NetworkConfig, of: &Attachment) -> Result<Option<Box<RawValue>>, NetworkError> {
        let cache = |source| NetworkError::Cache { network: network.name.clone(), source };
        let cached = self.cache.load(&network.name, &of.container_id, &of.ifname).map_err(cache)?;
        let Some(result) = cached.and_then(|cached| cached.result) else { return Ok(None) };
        let bytes = result.get().as_bytes();
        if version_of(bytes, network.version).is_ok_and(|version| version == network.version) {
            return Ok(Some(result));
        }
        let parsed = AddResult::parse(bytes, network.version).map_err(|error| cache(io::Error::other(error)))?;
        Ok(Some(parsed.to_raw(network.version)))
    }
}
