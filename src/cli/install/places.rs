//! The paths on the node, and the arguments for them.

use std::path::PathBuf;

use clap::Args;

use crate::config::{DEFAULT_BIN_DIR, DEFAULT_STATE_DIR};

/// The file that the runtime should find first.
pub(super) const CONFLIST: &str = "00-braid.conflist";
/// The path of the credentials, in the configurations' directory.
const KUBECONFIG: &str = "braid.d/kubeconfig";

/// The arguments of `install`.
#[derive(Debug, Args)]
pub(in crate::cli) struct Install {
    #[command(flatten)]
    pub(super) places: Places,
    /// Keys for Braid's configuration, a JSON object such as `{"namespaceIsolation": true}`
    #[arg(long, value_name = "JSON", default_value = "{}")]
    pub(super) with: String,
    /// Where the service account is mounted
    #[arg(long, value_name = "DIR", default_value = "/var/run/secrets/kubernetes.io/serviceaccount")]
    pub(super) service_account: PathBuf,
    /// Do everything once and exit
    #[arg(long)]
    pub(super) once: bool,
    /// Print what would be written and where, and change nothing
    #[arg(long)]
    pub(super) dry_run: bool,
}

/// The arguments of `uninstall`.
#[derive(Debug, Args)]
pub(in crate::cli) struct Uninstall {
    #[command(flatten)]
    pub(super) places: Places,
    /// Wait until all containers that Braid has attached are gone, and clean up after each
    #[arg(long)]
    pub(super) drain: bool,
    /// Remove the executable even if Braid has attached pods that still run. Their clean-up then fails
    #[arg(long, conflicts_with = "drain")]
    pub(super) force: bool,
    /// Print what would be removed, detached and restored, and change nothing
    #[arg(long)]
    pub(super) dry_run: bool,
}

/// Where things are on the node. In a container these directories have to be mounted at the same paths.
#[derive(Debug, Args)]
#[expect(clippy::struct_field_names, reason = "they are the names of the options")]
pub(super) struct Places {
    /// Where the runtime looks for configurations
    #[arg(long, value_name = "DIR", value_parser = absolute, default_value = "/etc/cni/net.d")]
    pub(super) conf_dir: PathBuf,
    /// Where the runtime looks for plugins
    #[arg(long, value_name = "DIR", value_parser = absolute, default_value = DEFAULT_BIN_DIR)]
    pub(super) bin_dir: PathBuf,
    /// Where journals are kept
    #[arg(long, value_name = "DIR", value_parser = absolute, default_value = DEFAULT_STATE_DIR)]
    pub(super) state_dir: PathBuf,
}

impl Places {
    pub(super) fn conflist(&self) -> PathBuf {
        self.conf_dir.join(CONFLIST)
    }

    pub(super) fn kubeconfig(&self) -> PathBuf {
        self.conf_dir.join(KUBECONFIG)
    }

    pub(super) fn executable(&self) -> PathBuf {
        self.bin_dir.join("braid")
    }
}

/// A directory, whose path must be the same for the runtime and the node.
fn absolute(text: &str) -> Result<PathBuf, &'static str> {
    let path = PathBuf::from(text);
    if path.is_absolute() { Ok(path) } else { Err("expected an absolute path") }
}

#[cfg(test)]
mod tests {
    use clap::FromArgMatches;

    use super::*;

    #[test]
    fn a_relative_directory_is_refused_before_anything_is_installed() {
        let parse = |option: &str, directory: &str| {
            let command = Places::augment_args(clap::Command::new("install"));
            let matches = command.try_get_matches_from(["install", option, directory])?;
            Places::from_arg_matches(&matches)
        };
        for option in ["--conf-dir", "--bin-dir", "--state-dir"] {
            let error = parse(option, "relative").unwrap_err().to_string();
            assert!(error.contains(option) && error.contains("an absolute path"), "{error}");
            assert!(parse(option, "/absolute").is_ok());
        }
    }
}
