//! Checks before the first plugin runs that need to look at the file system or the namespace.

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

/// Refuses a path that is relative, because it may lead elsewhere at DEL, and, unless the runtime allows it, the namespace in which
/// this process runs: otherwise the host would get the container's interfaces and routes. Recent plugins refuse this too, some of
/// them only after they have acted.
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

/// Opens the container's namespace. `None` if this process may not: plugins may have more rights, and otherwise report the problem.
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

/// Refuses a plan that gives an attachment a name that an interface of the namespace already has. A plugin would fail, and undoing
/// that failure would remove an interface that is not Braid's (SPEC §2, ADD).
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

/// The interfaces that other networks have given to the container, according to their journals.
pub(super) fn names_held_by_others(container: &Container, own: &str) -> Result<Vec<String>, StoreError> {
    held_by_others(container, own, |attachment| Some(attachment.ifname.clone()))
}

/// Collects `part` of each attachment that other networks have made for the container, according to their journals.
pub(super) fn held_by_others<T>(
    container: &Container,
    own: &str,
    part: impl Fn(&Attachment) -> Option<T>,
) -> Result<Vec<T>, StoreError> {
    let mut held = Vec::new();
    for ifname in container.entries()?.ifnames.iter().filter(|ifname| *ifname != own) {
        if let Some(Ok(state)) = State::peek(container, ifname)? {
            let there = state.attachments().filter(|(index, _)| !state.is_failed_optional(*index));
            held.extend(there.filter_map(|(_, attachment)| part(attachment)));
        }
    }
    Ok(held)
}

/// Whether another container's journal says that the namespace at `netns` is its own. Containers without interfaces are not
/// considered, because nothing could be taken from them.
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

/// An optional attachment whose plugins are missing is left out.
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

/// Checks that every plugin of the plan has an executable, and that none of them is Braid under another name.
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

/// The identity of a file, whatever its name.
fn identity(path: &Path) -> Option<(u64, u64)> {
    path.metadata().ok().map(|metadata| (metadata.dev(), metadata.ino()))
}
