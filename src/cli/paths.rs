//! The paths of plugins and configurations, from cnitool's environment variables.

use std::path::PathBuf;

use super::CliError;
use crate::request::{own_executable, variable};
use crate::runtime::Finder;

/// The directory of configurations without `NETCONFPATH`.
const DEFAULT_NETCONFPATH: &str = "/etc/cni/net.d";

/// The directories of plugins, from the environment.
pub(super) fn cni_path() -> Result<String, CliError> {
    Ok(variable("CNI_PATH")?.unwrap_or_else(|| crate::config::DEFAULT_BIN_DIR.into()))
}

/// The directory for the results of attachments.
pub(super) fn cache_dir() -> Result<PathBuf, CliError> {
    let directory = variable("CNI_CACHE_DIR")?.filter(|directory| !directory.is_empty());
    Ok(std::path::absolute(directory.unwrap_or_else(|| crate::runtime::cache::DEFAULT_DIR.into()))?)
}

/// Where plugins are.
pub(super) fn finder() -> Result<Finder, CliError> {
    let finder = Finder::new(&cni_path()?);
    Ok(match own_executable() {
        Ok(own) => finder.with_fallback("braid", own),
        Err(_) => finder,
    })
}

/// Where configurations are.
pub(super) fn conf_dir() -> Result<PathBuf, CliError> {
    Ok(PathBuf::from(variable("NETCONFPATH")?.unwrap_or_else(|| DEFAULT_NETCONFPATH.into())))
}
