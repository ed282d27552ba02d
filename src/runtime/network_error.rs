//! Why an operation on a network failed.

use std::io;
use std::path::PathBuf;

use super::chain::StepError;
use crate::cni::validate::InvalidName;
use crate::cni::{ValidAttachment, Version};

/// Why an operation on a network failed.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// ADD failed. Everything was undone, except what `cleanup` lists; a DEL is needed only for that.
    #[error("network {network:?}: {cause}")]
    Add {
        /// The network.
        network: String,
        /// The plugin that failed.
        cause: Box<StepError>,
        /// What could not be undone.
        cleanup: Vec<StepError>,
    },
    /// ADD for an attachment that exists. Doing it again could fail, and undoing it would remove the existing attachment.
    #[error("network {network:?}: container {container_id:?} is attached on {ifname:?} already")]
    AlreadyAttached {
        /// The network.
        network: String,
        /// The container.
        container_id: String,
        /// The interface.
        ifname: String,
    },
    /// Plugins failed. The other plugins were called nevertheless.
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
        version: Version,
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
    #[error("network {network:?}: the cache of results in {} cannot be used: {source}", directory.display())]
    Cache {
        /// The network.
        network: String,
        /// The directory of the results.
        directory: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// ADD succeeded, but its result could not be kept, so it was undone.
    #[error("network {network:?}: the result cannot be kept in {}: {source}", directory.display())]
    NotKept {
        /// The network.
        network: String,
        /// The directory of the results.
        directory: PathBuf,
        /// Why.
        source: io::Error,
        /// What could not be undone.
        cleanup: Vec<StepError>,
    },
    /// A name breaks the rules of the protocol. It would become part of a path.
    #[error(transparent)]
    Name(#[from] InvalidName),
    /// A plugin does not speak the network's version.
    #[error("network {network:?}: plugin {plugin_type:?} does not support CNI {version}")]
    Version {
        /// The network.
        network: String,
        /// The plugin.
        plugin_type: String,
        /// The network's version.
        version: Version,
    },
    /// GC could not clean up everything.
    #[error("network {network:?}: {}", gc_failures(stale, failures))]
    Gc {
        /// The network.
        network: String,
        /// The stale attachments that could not be deleted, and why.
        stale: Vec<(ValidAttachment, NetworkError)>,
        /// The plugins that failed on GC.
        failures: Vec<StepError>,
    },
}

fn gc_failures(stale: &[(ValidAttachment, NetworkError)], failures: &[StepError]) -> String {
    let stale = stale.iter().map(|(one, error)| {
        let ValidAttachment { container_id, ifname } = one;
        format!("stale attachment {ifname:?} of container {container_id:?}: {error}")
    });
    stale.chain(failures.iter().map(ToString::to_string)).collect::<Vec<_>>().join("; ")
}
