//! What can be found wrong before the first plugin runs, and needs a look at the disk.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;

use super::error::Error;
use crate::plan::Plan;
use crate::runtime::Finder;

/// Every plugin of the plan has an executable, and none of them is Braid under another name.
pub(super) fn preflight(plan: &Plan, finder: &Finder) -> Result<(), Error> {
    let own = std::fs::metadata("/proc/self/exe").ok().map(|meta| (meta.dev(), meta.ino()));
    let mut seen = BTreeSet::new();
    for attachment in &plan.attachments {
        for plugin in &attachment.network.plugins {
            if !seen.insert(plugin.plugin_type()) {
                continue;
            }
            let path = finder
                .find(plugin.plugin_type())
                .map_err(|source| Error::Plugin { label: attachment.label(), source })?;
            let found = std::fs::metadata(&path).ok().map(|meta| (meta.dev(), meta.ino()));
            if own.is_some() && found == own {
                let plugin_type = plugin.plugin_type().to_owned();
                return Err(Error::OwnExecutable { label: attachment.label(), plugin_type, path });
            }
        }
    }
    Ok(())
}
