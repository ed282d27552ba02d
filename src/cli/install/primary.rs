//! The primary network of the node: the configuration that the runtime would use without Braid.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::places::CONFLIST;
use crate::cni::{NetworkConfig, PluginConfig};
use crate::config::meta::is_meta_plugin;
use crate::runtime::load;

/// How long a different network must be first until it counts as the primary one: an agent that replaces its file may remove the
/// old file first.
const SETTLING: Duration = Duration::from_secs(1);

/// Finds the primary network: the first configuration, in the runtime's order, that is neither Braid's nor Multus's. `before` is
/// the name of the one that was found last time. `None` if there is no configuration.
///
/// # Errors
/// When a file that comes before it cannot be read, or is being written: it may be the primary network's.
pub(super) fn primary(conf_dir: &Path, before: Option<&str>) -> Result<Option<NetworkConfig>, String> {
    settled(conf_dir, before, || std::thread::sleep(SETTLING))
}

fn settled(conf_dir: &Path, before: Option<&str>, wait: impl FnOnce()) -> Result<Option<NetworkConfig>, String> {
    let found = first(conf_dir)?;
    match (&found, before) {
        (Some(network), Some(before)) if network.name != before => {}
        _ => return Ok(found),
    }
    wait();
    let settled = first(conf_dir)?;
    let name = |network: &Option<NetworkConfig>| network.as_ref().map(|network| network.name.clone());
    if name(&settled) == name(&found) || name(&settled).as_deref() == before {
        Ok(settled)
    } else {
        Err(format!("the configurations in {} are being changed", conf_dir.display()))
    }
}

/// The first configuration that is neither Braid's nor Multus's now.
///
/// # Errors
/// When a file that comes before it cannot be read.
pub(super) fn first(conf_dir: &Path) -> Result<Option<NetworkConfig>, String> {
    for file in configurations(conf_dir)? {
        if file.file_name().is_some_and(|name| name == CONFLIST) {
            continue;
        }
        let loaded = load::from_file(&file).map_err(|error| format!("the primary network is not known: {error}"))?;
        let is_meta = |kind: &str| is_meta_plugin(kind);
        if !loaded.network.plugins.iter().any(|plugin| is_meta(plugin.plugin_type())) {
            return Ok(Some(loaded.network));
        }
    }
    Ok(None)
}

/// The file that the runtime uses.
pub(super) fn first_file(conf_dir: &Path) -> Option<PathBuf> {
    configurations(conf_dir).ok()?.into_iter().next()
}

/// The configurations that call Braid, apart from its own.
pub(super) fn calling_braid(conf_dir: &Path) -> Vec<PathBuf> {
    let mut files = configurations(conf_dir).unwrap_or_default();
    files.retain(|file| {
        let is_braid = |plugin: &PluginConfig| plugin.plugin_type() == "braid";
        file.file_name().is_some_and(|name| name != CONFLIST)
            && load::from_file(file).is_ok_and(|loaded| loaded.network.plugins.iter().any(is_braid))
    });
    files
}

/// The configurations in the order of their names, as runtimes read them.
pub(super) fn configurations(conf_dir: &Path) -> Result<Vec<PathBuf>, String> {
    let mut files = load::files(conf_dir).map_err(|error| error.to_string())?;
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    const PODS: &str = r#"{"cniVersion":"1.0.0","name":"pods","plugins":[{"type":"alpha"}]}"#;

    #[test]
    fn no_prefix_of_the_first_file_gives_its_place_to_the_next() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("20-next.conflist"), PODS.replace("pods", "next")).unwrap();
        for end in 0..PODS.len() {
            fs::write(dir.path().join("10-pods.conflist"), &PODS[..end]).unwrap();
            let error = primary(dir.path(), None).unwrap_err();
            assert!(error.contains("10-pods.conflist"), "{error}");
        }
        fs::write(dir.path().join("10-pods.conflist"), PODS).unwrap();
        assert_eq!(primary(dir.path(), None).unwrap().unwrap().name, "pods");
    }

    #[test]
    fn braids_own_file_and_configurations_of_multus_are_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(CONFLIST), "{broken").unwrap();
        fs::write(dir.path().join("05-multus.conf"), r#"{"name":"m","type":"multus"}"#).unwrap();
        assert!(primary(dir.path(), None).unwrap().is_none());
        fs::write(dir.path().join("10-pods.conflist"), PODS).unwrap();
        assert_eq!(primary(dir.path(), None).unwrap().unwrap().name, "pods");
    }

    #[test]
    fn a_file_that_is_away_for_a_moment_does_not_give_its_place_to_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("10-pods.conflist");
        fs::write(dir.path().join("20-next.conflist"), PODS.replace("pods", "next")).unwrap();
        let found = settled(dir.path(), Some("pods"), || fs::write(&path, PODS).unwrap()).unwrap();
        assert_eq!(found.unwrap().name, "pods");
        fs::remove_file(&path).unwrap();
        assert_eq!(settled(dir.path(), Some("pods"), || ()).unwrap().unwrap().name, "next");
        let third = || fs::write(&path, PODS.replace("pods", "third")).unwrap();
        assert!(settled(dir.path(), Some("pods"), third).unwrap_err().contains("are being changed"));
    }
}
