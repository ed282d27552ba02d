//! Checks that `portmap` does not make: whether another container uses a host port.

use serde_json::value::RawValue;

use super::error::LiveError;
use super::find::readable_states;
use crate::cni::config::{PluginConfig, RawObject};
use crate::config::selection::PortMapping;
use crate::plan::Attachment;
use crate::plan::update::{How, Kind, PlannedUpdate};
use crate::transaction::journal::State;
use crate::transaction::{Container, Store};

/// Compares the new mappings of an attachment with all mappings in the node's journals.
pub(super) fn refuse_taken(
    store: &Store,
    container: &Container,
    state: &State,
    index: usize,
    planned: &PlannedUpdate,
) -> Result<(), LiveError> {
    if !planned.steps.iter().any(|redo| redo.how == How::Again(Kind::Portmap)) {
        return Ok(());
    }
    let mut known = known(store, container, state)?;
    known.retain(|known| known.index != Some(index));
    refuse(&planned.attachment, &known)
}

/// Compares the mappings of new attachments with all mappings in the node's journals, and with one another.
pub(super) fn refuse_taken_by_new(
    store: &Store,
    container: &Container,
    state: &State,
    attachments: &[Attachment],
) -> Result<(), LiveError> {
    if attachments.iter().all(|attachment| mappings(attachment).is_empty()) {
        return Ok(());
    }
    let mut known = known(store, container, state)?;
    for attachment in attachments.iter().filter(|attachment| !mappings(attachment).is_empty()) {
        refuse(attachment, &known)?;
        known.push(Known { container_id: container.id().to_owned(), index: None, attachment: attachment.clone() });
    }
    Ok(())
}

/// An attachment in one of the node's journals.
struct Known {
    container_id: String,
    /// Its index, if it is in the journal that is being changed.
    index: Option<usize>,
    attachment: Attachment,
}

/// The attachments of the node.
fn known(store: &Store, container: &Container, state: &State) -> Result<Vec<Known>, LiveError> {
    let own = state.attached();
    let own = own.map(|(index, attachment)| Known {
        container_id: container.id().to_owned(),
        index: Some(index),
        attachment: attachment.clone(),
    });
    let mut found: Vec<Known> = own.collect();
    for id in store.container_ids()? {
        found.extend(others(store, &id, container.id(), &state.header.plan.ifname)?);
    }
    Ok(found)
}

/// The attachments of a container, without those of the journal that is being changed.
fn others(store: &Store, id: &str, own_id: &str, own: &str) -> Result<Vec<Known>, LiveError> {
    let Some(container) = store.unlocked_container(id)? else { return Ok(Vec::new()) };
    let states = readable_states(&container, (id == own_id).then_some(own))?;
    let attachments = states.iter().flat_map(State::attached);
    let known = |(_, attachment): (usize, &Attachment)| Known {
        container_id: id.to_owned(),
        index: None,
        attachment: attachment.clone(),
    };
    Ok(attachments.map(known).collect())
}

fn refuse(new: &Attachment, known: &[Known]) -> Result<(), LiveError> {
    known.iter().try_for_each(|known| refuse_same_port(new, &known.attachment, &known.container_id))
}

fn refuse_same_port(new: &Attachment, known: &Attachment, container_id: &str) -> Result<(), LiveError> {
    for mapping in mappings(new) {
        if mappings(known).iter().any(|other| mapping.overlaps(other)) {
            return Err(LiveError::PortTaken {
                port: format!("{}/{}", mapping.host_port, mapping.protocol),
                container_id: container_id.to_owned(),
                ifname: known.ifname.clone(),
            });
        }
    }
    Ok(())
}

/// The steps that forward ports.
pub(super) fn portmap(attachment: &Attachment) -> impl Iterator<Item = &PluginConfig> {
    attachment.network.plugins.iter().filter(|plugin| Kind::of(plugin) == Some(Kind::Portmap))
}

/// The mappings that an attachment has.
pub(super) fn mappings(attachment: &Attachment) -> Vec<PortMapping> {
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

/// A mapping as runtimes write it, ignoring other keys.
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
