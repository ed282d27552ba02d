//! The settings of the agent.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use super::export::Endpoint;

/// The settings of the agent.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// The name of the node. If it is missing, the machine's host name is used.
    pub(crate) node: Option<String>,
    /// The credentials for the API server. If they are missing, those of the pod in which the agent runs are used.
    pub(crate) kubeconfig: Option<PathBuf>,
    /// Where the journals are.
    pub(crate) state_dir: PathBuf,
    /// The directory of configurations, for the children.
    pub(crate) conf_dir: PathBuf,
    /// The directories of plugins, for the children.
    pub(crate) cni_path: String,
    /// The directory in which the runtime's libcni keeps results.
    pub(crate) cache_dir: PathBuf,
    /// The node's own Braid.
    pub(crate) braid: PathBuf,
    /// The process in whose namespaces the children run.
    pub(crate) host: HostProcess,
    /// How many children run at once.
    pub(crate) concurrency: usize,
    /// How long a child may take.
    pub(crate) timeout: Duration,
    /// How long the API server must not know a pod before the attachments of its containers are undone.
    pub(crate) gone_after: Duration,
    /// The pause before an attempt that failed is first repeated.
    pub(crate) retry_after: Duration,
    /// Where the HTTP server listens.
    pub(crate) listen: Listen,
    /// The collector for the spans of traced calls, if there is one.
    pub(crate) otlp_endpoint: Option<Endpoint>,
}

/// The process in whose mount and network namespaces changes are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HostProcess {
    /// A process that is in the namespaces of the node.
    Pid(u32),
    /// The agent itself.
    None,
}

impl FromStr for HostProcess {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let pid = |text: &str| text.parse().ok().filter(|pid| *pid > 0).map(Self::Pid);
        none_or(Self::None, pid, text).ok_or("expected the ID of a process, or \"none\"")
    }
}

/// Where the HTTP server listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Listen {
    /// On this address.
    At(SocketAddr),
    /// There is no HTTP server.
    None,
}

impl FromStr for Listen {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let expected = "expected an address and a port such as 127.0.0.1:9797 or [::]:9797, or \"none\"";
        none_or(Self::None, |text| text.parse().ok().map(Self::At), text).ok_or(expected)
    }
}

/// Parses `none`, or another value.
fn none_or<T>(none: T, read: impl FnOnce(&str) -> Option<T>, text: &str) -> Option<T> {
    if text == "none" { Some(none) } else { read(text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_and_addresses_are_read_or_refused() {
        assert_eq!("none".parse(), Ok(HostProcess::None));
        assert_eq!("4711".parse(), Ok(HostProcess::Pid(4711)));
        for text in ["0", "-1", "self", "", "4294967296"] {
            assert!(text.parse::<HostProcess>().unwrap_err().contains("process"), "{text}");
        }
        assert_eq!("none".parse(), Ok(Listen::None));
        assert_eq!("[::]:9797".parse(), Ok(Listen::At("[::]:9797".parse().unwrap())));
        for text in [":9797", "localhost:9797", "127.0.0.1", "127.0.0.1:99999"] {
            assert!(text.parse::<Listen>().unwrap_err().contains("port"), "{text}");
        }
    }
}
