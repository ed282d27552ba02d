//! What can be found wrong before the first plugin runs, and needs a look at the disk.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::error::Error;
use crate::netns::{Netns, NetnsError, OwnNetns};
use crate::plan::{Attachment, Plan};
use crate::request::Request;
use crate::runtime::Finder;
use crate::transaction::journal::State;
use crate::transaction::{Container, Store, StoreError};

/// The executable of this process.
const OWN: &str = "/proc/self/exe";

/// The path leads to the same place at DEL, and not to the namespace that this process runs in, unless the runtime says that it
/// may: the container would be given interfaces and routes of the host. Plugins of a later make refuse that too, some of
/// them when they have done it.
pub(super) fn refuse_unfit_namespace(request: &Request) -> Result<(), Error> {
    let unfit = |why| Err(Error::Unfit { path: request.netns.chars().take(64).collect(), why });
    if !request.netns.starts_with('/') {
        return unfit("is a relative path, expected an absolute one");
    }
    let is_own = OwnNetns::of_this_thread().is_ok_and(|own| own.is_at(Path::new(&request.netns)));
    if is_own && !request.own_netns_allowed {
        return unfit("is the network namespace that braid itself runs in, expected a container's");
    }
    Ok(())
}

/// Opens the container's namespace. None where this process may not: plugins may have rights that it has not, and then say
/// what is wrong.
pub(super) fn open_namespace(plan: &Plan) -> Result<Option<Netns>, Error> {
    match Netns::open(Path::new(&plan.netns)) {
        Ok(netns) => Ok(Some(netns)),
        Err(error @ (NetnsError::Gone { .. } | NetnsError::NotANamespace { .. })) => Err(Error::Namespace(error)),
        Err(error) => {
            warn_unseen(plan, &error);
            Ok(None)
        }
    }
}

/// The namespace has no interface of a name that the plan gives to an attachment. A plugin would fail on one, and undoing
/// that failure would take down an interface that is not ours (SPEC §2, ADD).
pub(super) fn refuse_taken_names(plan: &Plan, netns: Option<&mut Netns>) -> Result<(), Error> {
    let Some(netns) = netns else { return Ok(()) };
    for attachment in &plan.attachments {
        match netns.has_link(&attachment.ifname) {
            Ok(false) => {}
            Ok(true) => return Err(Error::InterfaceExists { label: attachment.label() }),
            Err(error) => {
                warn_unseen(plan, &error);
                return Ok(());
            }
        }
    }
    Ok(())
}

fn warn_unseen(plan: &Plan, error: &NetnsError) {
    let reason = std::error::Error::source(error).map(|source| format!(": {source}")).unwrap_or_default();
    tracing::warn!(container = plan.container_id, "cannot look into the namespace: {error}{reason}");
}

/// The interfaces that other networks have given the container, by their journals.
pub(super) fn names_held_by_others(container: &Container, own: &str) -> Result<Vec<String>, StoreError> {
    held_by_others(container, own, |attachment| Some(attachment.ifname.clone()))
}

/// What `part` says of each attachment that other networks have given the container, by their journals.
pub(super) fn held_by_others<T>(
    container: &Container,
    own: &str,
    part: impl Fn(&Attachment) -> Option<T>,
) -> Result<Vec<T>, StoreError> {
    let mut held = Vec::new();
    for ifname in container.entries()?.ifnames.iter().filter(|ifname| *ifname != own) {
        if let Some(Ok(state)) = State::peek(container, ifname)? {
            let there = state.attachments().filter(|(index, _)| !state.is_forgone(*index));
            held.extend(there.filter_map(|(_, attachment)| part(attachment)));
        }
    }
    Ok(held)
}

/// Whether the journal of another container says that the namespace at `netns` is its own. One without interfaces has nothing that
/// could be taken from it, and is not looked for.
pub(super) fn is_namespace_of_another(store: &Store, own: &str, netns: &str) -> bool {
    let Ok(mut namespace) = Netns::open(Path::new(netns)) else { return false };
    let Ok(identity) = namespace.identity() else { return false };
    let is_in_use = namespace.links().is_ok_and(|links| links.iter().any(|link| link.name != "lo"));
    is_in_use
        && store.container_ids().unwrap_or_default().iter().filter(|id| *id != own).any(|id| {
            let Ok(Some(container)) = store.unlocked_container(id) else { return false };
            let ifnames = container.entries().map(|entries| entries.ifnames).unwrap_or_default();
            ifnames.iter().any(|ifname| {
                matches!(State::peek(&container, ifname), Ok(Some(Ok(state))) if state.is_of_namespace(&identity))
            })
        })
}

/// A container goes without an optional attachment whose plugins are not there.
pub(super) fn forgo_without_plugins(plan: &mut Plan, finder: &Finder) {
    plan.attachments.retain(|attachment| {
        let mut plugins = attachment.network.plugins.iter().filter(|_| attachment.optional);
        let missing = plugins.find_map(|plugin| finder.find(plugin.plugin_type()).err());
        if let Some(error) = &missing {
            tracing::warn!("{}: {error}; it is optional, so the container goes without it", attachment.label());
        }
        missing.is_none()
    });
}

/// Every plugin of the plan has an executable, and none of them is Braid under another name.
pub(super) fn preflight(plan: &Plan, finder: &Finder) -> Result<(), Error> {
    let own = identity(Path::new(OWN));
    let mut seen = BTreeSet::new();
    for attachment in &plan.attachments {
        for plugin in &attachment.network.plugins {
            if !seen.insert(plugin.plugin_type()) {
                continue;
            }
            let path = finder
                .find(plugin.plugin_type())
                .map_err(|source| Error::Plugin { label: attachment.label(), source })?;
            if own.is_some() && identity(&path) == own {
                let plugin_type = plugin.plugin_type().to_owned();
                return Err(Error::OwnExecutable { label: attachment.label(), plugin_type, path });
            }
        }
    }
    Ok(())
}

/// Whether a file is the executable of this process.
pub(crate) fn is_own_executable(path: &Path) -> bool {
    identity(path).is_some_and(|found| identity(Path::new(OWN)) == Some(found))
}

/// What identifies a file, whatever its name.
fn identity(path: &Path) -> Option<(u64, u64)> {
    path.metadata().ok().map(|metadata| (metadata.dev(), metadata.ino()))
}
