//! Attachments that Multus made before Braid replaced it on the node. DEL and GC undo them using what Multus left.

use std::path::Path;

use super::context::Context;
use super::error::Error;
use crate::config::Config;
use crate::request::Request;
use crate::runtime::Launcher;
use crate::runtime::cache::{self, Cache, Cached};
use crate::transaction::multus::{Asking, MultusState};

/// Undoes what Multus did for the container of this call, which is locked. Returns false if it did nothing.
pub(super) fn del(context: &Context, request: &Request, config: &Config, launcher: &Launcher) -> Result<bool, Error> {
    let asking = Asking {
        container_id: &request.container_id,
        ifname: &request.ifname,
        netns: &request.netns,
        args: &request.args_text,
    };
    let is_undone = match read(config, asking)? {
        Some(state) => undo(context, &state, asking.container_id, launcher).map(|()| true)?,
        None => false,
    };
    forget_result(&config.name, asking.container_id);
    Ok(is_undone)
}

/// The types of Multus's plugin.
const MULTUS: [&str; 2] = ["multus", "multus-shim"];

/// Removes the cached result of Multus's own network. The runtime calls DEL of Braid's network, and would keep the other network's
/// result for ever.
pub(super) fn forget_result(now: &str, container_id: &str) {
    let cache = Cache::new(Path::new(cache::DEFAULT_DIR));
    let is_multus = |cached: &Cached| {
        let network = cached.network();
        network.is_ok_and(|network| network.plugins.iter().any(|plugin| MULTUS.contains(&plugin.plugin_type())))
    };
    let results = cache.of_container(container_id).unwrap_or_default();
    for cached in results.iter().filter(|cached| cached.network_name != now && is_multus(cached)) {
        let network = &cached.network_name;
        if let Err(error) = cache.remove(network, container_id, &cached.if_name) {
            tracing::warn!(container = container_id, network, "its cached result stays: {error}");
        }
    }
}

/// Reads what Multus left of a container.
pub(super) fn read(config: &Config, asking: Asking<'_>) -> Result<Option<MultusState>, Error> {
    let path = || config.multus_dir.join(asking.container_id);
    MultusState::read(&config.multus_dir, asking).map_err(|source| Error::MultusState { path: path(), source })
}

/// Undoes what Multus did. Once everything is undone, removes the files that it left.
pub(super) fn undo(
    context: &Context,
    state: &MultusState,
    container_id: &str,
    launcher: &Launcher,
) -> Result<(), Error> {
    let failures = state.undo(context.tools(&context.finder, launcher));
    if !failures.is_empty() {
        return Err(Error::Takeover(failures));
    }
    let io = |source| Error::MultusState { path: state.file().to_owned(), source };
    state.remove().map_err(io)?;
    if !state.unreadable.is_empty() {
        let set_aside = state.set_aside().map_err(io)?;
        return Err(Error::Corrupt { reason: state.unreadable.join("; "), set_aside, failures });
    }
    let attachments = state.attachments.len();
    tracing::info!(container = container_id, attachments, "detached from what multus had attached");
    Ok(())
}
