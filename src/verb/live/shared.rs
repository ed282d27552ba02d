//! What plugins keep for a network and a container together, so that it belongs to two attachments at once: the DEL of the
//! one takes it from the other.

use super::error::LiveError;
use super::find::readable_states;
use super::ports::{mappings, portmap};
use crate::cni::config::{PluginConfig, find_folded};
use crate::plan::Attachment;
use crate::plan::update::{How, Kind, Limits, PlannedUpdate};
use crate::transaction::Container;
use crate::transaction::journal::State;

/// What two attachments share, and what helps.
#[derive(Debug, Clone, Copy)]
struct Shared {
    what: &'static str,
    remedy: &'static str,
}

const OF_ONE_NETWORK: Shared = Shared {
    what: "portmap cannot distinguish their rules, as they are of one network",
    remedy: "attach the networks under different names, and detach these two at once",
};

const OF_NFTABLES: Shared = Shared {
    what: "portmap cannot distinguish their rules, as its nftables backend marks rules with the container alone",
    remedy: "use the iptables backend and different names of networks, and detach these two at once",
};

const IFB: Shared = Shared {
    what: "bandwidth limits what they send with one device, which is named by the network and the container alone",
    remedy: "attach the networks under different names, detach these two at once, or take the limit away before",
};

const MASQUERADING: Shared = Shared {
    what: "the rules of their ipMasq are in one chain, which is named by the network and the container alone",
    remedy: "attach the networks under different names, and detach these two at once",
};

/// New attachments share nothing with those that are there, or with one another.
pub(super) fn refuse_with_new(container: &Container, state: &State, new: &[Attachment]) -> Result<(), LiveError> {
    if !new.iter().any(keeps_any) {
        return Ok(());
    }
    let mut known: Vec<Attachment> = of_container(container, state)?.into_iter().map(|(_, one)| one).collect();
    for attachment in new {
        known.iter().try_for_each(|other| refuse(attachment, other))?;
        known.push(attachment.clone());
    }
    Ok(())
}

/// Attachments that go share nothing with one that stays.
pub(super) fn refuse_with_rest(container: &Container, state: &State, indexes: &[usize]) -> Result<(), LiveError> {
    let going: Vec<&Attachment> = indexes.iter().map(|index| &state.header.plan.attachments[*index]).collect();
    if !going.iter().any(|attachment| keeps_any(attachment)) {
        return Ok(());
    }
    let staying = of_container(container, state)?;
    let staying = staying.iter().filter(|(index, _)| index.is_none_or(|index| !indexes.contains(&index)));
    staying.map(|(_, other)| other).try_for_each(|other| going.iter().try_for_each(|one| refuse(one, other)))
}

/// What is to be redone of an attachment is shared with none of the others.
pub(super) fn refuse_for_update(
    container: &Container,
    state: &State,
    index: usize,
    planned: &PlannedUpdate,
) -> Result<(), LiveError> {
    let new = &planned.attachment;
    let portmap = planned.steps.iter().any(|redo| redo.how == How::Again(Kind::Portmap));
    let bandwidth = planned.steps.iter().any(|redo| match redo.how {
        How::Add => true,
        How::InPlace { from, to } => from.egress.is_none() && to.egress.is_some(),
        How::Again(_) => false,
    });
    if !portmap && !bandwidth {
        return Ok(());
    }
    for (_, other) in of_container(container, state)?.iter().filter(|(at, _)| *at != Some(index)) {
        let found = (portmap.then(|| of_portmap(new, other)).flatten())
            .or_else(|| bandwidth.then(|| of_bandwidth(new, other)).flatten());
        refuse_found(new, other, found)?;
    }
    Ok(())
}

/// The attachments of the container, and the places of those in the journal that is being changed.
fn of_container(container: &Container, state: &State) -> Result<Vec<(Option<usize>, Attachment)>, LiveError> {
    let own = state.attached();
    let mut found: Vec<_> = own.map(|(index, attachment)| (Some(index), attachment.clone())).collect();
    for other in readable_states(container, Some(&state.header.plan.ifname))? {
        found.extend(other.attached().map(|(_, attachment)| (None, attachment.clone())));
    }
    Ok(found)
}

fn refuse(one: &Attachment, other: &Attachment) -> Result<(), LiveError> {
    let found = of_portmap(one, other).or_else(|| of_bandwidth(one, other)).or_else(|| of_masquerading(one, other));
    refuse_found(one, other, found)
}

fn refuse_found(one: &Attachment, other: &Attachment, found: Option<Shared>) -> Result<(), LiveError> {
    found.map_or(Ok(()), |Shared { what, remedy }| {
        Err(LiveError::Shared { ifname: one.ifname.clone(), other: other.ifname.clone(), what, remedy })
    })
}

/// Whether an attachment has anything that could be another's too.
fn keeps_any(attachment: &Attachment) -> bool {
    !mappings(attachment).is_empty() || bandwidth(attachment).next().is_some() || masquerades(attachment)
}

/// Rules made by `iptables` are in a chain of the network and the container, those by `nft` are marked with the container alone.
fn of_portmap(one: &Attachment, other: &Attachment) -> Option<Shared> {
    if mappings(one).is_empty() || mappings(other).is_empty() {
        return None;
    }
    let uses_nft = |attachment: &Attachment| portmap(attachment).any(|plugin| is_nftables(plugin, "backend"));
    if one.network.name == other.network.name {
        return Some(OF_ONE_NETWORK);
    }
    (uses_nft(one) && uses_nft(other)).then_some(OF_NFTABLES)
}

/// The DEL of each `bandwidth` step removes the device, whether or not that step has made it.
fn of_bandwidth(one: &Attachment, other: &Attachment) -> Option<Shared> {
    let limits = |attachment: &Attachment| {
        bandwidth(attachment).any(|plugin| Limits::of(plugin, &attachment.capability_args).egress.is_some())
    };
    let both =
        one.network.name == other.network.name && bandwidth(one).next().is_some() && bandwidth(other).next().is_some();
    (both && (limits(one) || limits(other))).then_some(IFB)
}

/// The DEL of one empties the chain of both, and cannot remove it.
fn of_masquerading(one: &Attachment, other: &Attachment) -> Option<Shared> {
    (one.network.name == other.network.name && masquerades(one) && masquerades(other)).then_some(MASQUERADING)
}

fn bandwidth(attachment: &Attachment) -> impl Iterator<Item = &PluginConfig> {
    attachment.network.plugins.iter().filter(|plugin| Kind::of(plugin) == Some(Kind::Bandwidth))
}

/// Whether a plugin has addresses masqueraded by iptables. Rules of nftables are marked with the interface too.
fn masquerades(attachment: &Attachment) -> bool {
    attachment.network.plugins.iter().any(|plugin| {
        ["bridge", "ptp"].contains(&plugin.plugin_type())
            && read(plugin, "ipMasq").unwrap_or(false)
            && !is_nftables(plugin, "ipMasqBackend")
    })
}

/// Whether a plugin uses nftables. Where it is not told, it uses iptables if that is installed.
fn is_nftables(plugin: &PluginConfig, key: &str) -> bool {
    match read::<String>(plugin, key) {
        Some(backend) => backend == "nftables",
        None => !["/usr/sbin/iptables", "/sbin/iptables", "/usr/bin/iptables", "/bin/iptables"]
            .iter()
            .any(|path| std::path::Path::new(path).exists()),
    }
}

/// The value of a key, as a plugin reads it.
fn read<T: serde::de::DeserializeOwned>(plugin: &PluginConfig, key: &str) -> Option<T> {
    find_folded(plugin.keys(), key).and_then(|raw| serde_json::from_str(raw.get()).ok())
}
