//! What `portmap` does not look at: whether a host port is another container's, and whose its rules are.

use serde_json::value::RawValue;

use super::error::LiveError;
use crate::cni::config::{PluginConfig, RawObject, folds_to};
use crate::config::selection::PortMapping;
use crate::plan::Attachment;
use crate::plan::update::{How, Kind, PlannedUpdate};
use crate::transaction::journal::State;
use crate::transaction::{Container, Journal, Opened, Store};

/// Holds the new mappings of an attachment against all that the node's journals tell of.
pub(super) fn refuse_taken(
    store: &Store,
    container: &Container,
    state: &State,
    index: usize,
    planned: &PlannedUpdate,
) -> Result<(), LiveError> {
    let is_mapped = |how| how == How::Again(Kind::Portmap);
    if !planned.steps.iter().any(|redo| is_mapped(redo.how)) {
        return Ok(());
    }
    let attachment = &planned.attachment;
    for (other, known) in state.attachments().filter(|(other, _)| *other != index) {
        if state.is_attached(other) {
            refuse_shared(attachment, known)?;
            refuse_same_port(attachment, known, container.id())?;
        }
    }
    for id in store.container_ids()? {
        for (known, ifname) in others(store, &id, container.id(), &state.header.plan.ifname)? {
            if id == container.id() {
                refuse_shared(attachment, &known).map_err(|error| match error {
                    LiveError::SharedRules { ifname: own, why, .. } => {
                        LiveError::SharedRules { ifname: own, other: ifname.clone(), why }
                    }
                    other => other,
                })?;
            }
            refuse_same_port(attachment, &known, &id)?;
        }
    }
    Ok(())
}

/// The attachments of a container, with their interfaces, but for those of the journal that is being changed.
fn others(store: &Store, id: &str, own_id: &str, own: &str) -> Result<Vec<(Attachment, String)>, LiveError> {
    let Some(container) = store.unlocked_container(id)? else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    for ifname in container.entries()?.ifnames.into_iter().filter(|ifname| id != own_id || ifname != own) {
        // A journal that cannot be read tells of no ports.
        if let Ok(Opened::Journal(journal)) = Journal::look(&container, &ifname) {
            let state = &journal.state;
            let there = state.attachments().filter(|(index, _)| state.is_attached(*index));
            found.extend(there.map(|(_, attachment)| (attachment.clone(), attachment.ifname.clone())));
        }
    }
    Ok(found)
}

fn refuse_same_port(new: &Attachment, known: &Attachment, container_id: &str) -> Result<(), LiveError> {
    for mapping in mappings(new) {
        if mappings(known).iter().any(|other| overlap(&mapping, other)) {
            return Err(LiveError::PortTaken {
                port: format!("{}/{}", mapping.host_port, mapping.protocol),
                container_id: container_id.to_owned(),
                ifname: known.ifname.clone(),
            });
        }
    }
    Ok(())
}

/// Rules made by `iptables` are in a chain of the network and the container, those by `nft` are marked with the container alone.
fn refuse_shared(new: &Attachment, known: &Attachment) -> Result<(), LiveError> {
    if mappings(known).is_empty() {
        return Ok(());
    }
    let shared = |why| Err(LiveError::SharedRules { ifname: new.ifname.clone(), other: known.ifname.clone(), why });
    if new.network.name == known.network.name {
        return shared("they are of one network");
    }
    let uses_nft = |attachment: &Attachment| portmap(attachment).any(is_nftables);
    if uses_nft(new) && uses_nft(known) {
        return shared("its nftables backend marks rules with the container alone");
    }
    Ok(())
}

fn portmap(attachment: &Attachment) -> impl Iterator<Item = &PluginConfig> {
    attachment.network.plugins.iter().filter(|plugin| Kind::of(plugin) == Some(Kind::Portmap))
}

/// Without a word about it, the plugin takes iptables where that is there.
fn is_nftables(plugin: &PluginConfig) -> bool {
    let backend = plugin.keys().iter().rev().find(|(key, _)| folds_to(key, "backend"));
    match backend.and_then(|(_, raw)| serde_json::from_str::<String>(raw.get()).ok()) {
        Some(backend) => backend == "nftables",
        None => !["/usr/sbin/iptables", "/sbin/iptables", "/usr/bin/iptables", "/bin/iptables"]
            .iter()
            .any(|path| std::path::Path::new(path).exists()),
    }
}

/// The mappings that an attachment has.
fn mappings(attachment: &Attachment) -> Vec<PortMapping> {
    let declares = portmap(attachment).any(|plugin| plugin.declares("portMappings"));
    let given: Option<&RawValue> = get(&attachment.capability_args).filter(|_| declares);
    given
        .and_then(|raw| serde_json::from_str::<Vec<Given>>(raw.get()).ok())
        .unwrap_or_default()
        .into_iter()
        .map(Into::into)
        .collect()
}

fn get(args: &RawObject) -> Option<&RawValue> {
    args.get("portMappings").map(|raw| &**raw)
}

/// A mapping as runtimes write it, with keys that are no concern of ours.
#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Given {
    host_port: u16,
    container_port: u16,
    #[serde(default)]
    protocol: String,
    #[serde(default, rename = "hostIP")]
    host_ip: Option<String>,
}

impl From<Given> for PortMapping {
    fn from(given: Given) -> Self {
        let protocol = if given.protocol.is_empty() { "tcp".into() } else { given.protocol.to_ascii_lowercase() };
        Self {
            host_port: given.host_port,
            container_port: given.container_port,
            protocol,
            host_ip: given.host_ip.unwrap_or_default(),
        }
    }
}

fn overlap(a: &PortMapping, b: &PortMapping) -> bool {
    let is_any = |ip: &str| ip.is_empty() || ["0.0.0.0", "::"].contains(&ip);
    a.host_port == b.host_port
        && a.protocol == b.protocol
        && (is_any(&a.host_ip) || is_any(&b.host_ip) || a.host_ip == b.host_ip)
}
