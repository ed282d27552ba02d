//! `list` and `show`: the content of the journals.

use std::fmt::Write as _;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;

use super::table::{cell, table};
use super::{CliError, Format, Outcome, print};
use crate::cni::{AddResult, RawObject};
use crate::runtime::deadline;
use crate::transaction::journal::State;
use crate::transaction::{DebtId, Parked, Sharing, Store, StoreError, look_at_debt};

/// How long to wait for another call's lock.
const LOCK_TIMEOUT: Duration = Duration::from_secs(5);

/// A container's attachments under one `CNI_IFNAME`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Known {
    #[serde(rename = "containerID")]
    container_id: String,
    ifname: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    network: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    netns: String,
    /// Milliseconds since 1970.
    since: u64,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    micros: Option<u64>,
    attachments: Vec<KnownAttachment>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    changes: Vec<KnownChange>,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
    /// The ID of the debt, if it is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    debt: Option<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct KnownAttachment {
    ifname: String,
    network: String,
    reference: String,
    origin: String,
    ips: Vec<String>,
    /// The capability arguments as of now.
    #[serde(rename = "capabilityArgs", skip_serializing_if = "RawObject::is_empty")]
    capability_args: RawObject,
    plugins: Vec<KnownPlugin>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct KnownPlugin {
    #[serde(rename = "type")]
    plugin_type: String,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    micros: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    owed: Option<String>,
    /// Its configuration as of now.
    config: RawObject,
}

/// A change that was made while the container was running.
#[derive(Debug, Serialize)]
struct KnownChange {
    /// Milliseconds since 1970.
    time: u64,
    what: String,
    by: String,
    micros: u64,
}

pub(super) fn list(state_dir: &Path, format: Format) -> Outcome {
    let known = read(state_dir, "")?;
    if format == Format::Json {
        return print(&(serde_json::to_string_pretty(&known)? + "\n"));
    }
    let mut rows = Vec::new();
    for one in &known {
        let set = |first: bool, text: &str| if first { cell(text) } else { String::new() };
        if let Some(problem) = &one.problem {
            let owed = cell(problem);
            rows.push(vec![
                cell(&one.container_id),
                cell(&one.ifname),
                String::new(),
                String::new(),
                String::new(),
                String::new(),
                owed,
            ]);
        }
        for (index, attachment) in one.attachments.iter().enumerate() {
            let plugins: Vec<&str> = attachment.plugins.iter().map(|plugin| plugin.plugin_type.as_str()).collect();
            rows.push(vec![
                set(index == 0, &one.container_id),
                cell(&attachment.ifname),
                cell(&attachment.network),
                cell(&attachment.ips.join(" ")),
                cell(&plugins.join(" > ")),
                set(index == 0, &ago(one.since)),
                cell(&state_of(one, attachment)),
            ]);
        }
    }
    if rows.is_empty() {
        eprint_line!("braid: nothing is attached according to {}", state_dir.display());
    }
    print(&table(&["CONTAINER", "INTERFACE", "NETWORK", "ADDRESSES", "PLUGINS", "SINCE", "STATE"], &rows))
}

fn state_of(one: &Known, attachment: &KnownAttachment) -> String {
    let any = |state| attachment.plugins.iter().any(|plugin| plugin.state == state);
    match &one.debt {
        Some(id) if any("owed") => format!("parked ({id})"),
        None if any("owed") => "clean-up owed".into(),
        _ if attachment.plugins.iter().all(|plugin| matches!(plugin.state, "undone" | "not run")) => "detached".into(),
        _ => one.state.into(),
    }
}

pub(super) fn show(container: &str, state_dir: &Path, format: Format) -> Outcome {
    let known = read(state_dir, container)?;
    if known.is_empty() {
        let place = state_dir.display();
        let message = match container.split_once('/') {
            Some((id, ifname)) => format!("container {id:?} is not attached on {ifname:?} according to {place}"),
            None => format!("no container whose ID begins with {container:?} is attached according to {place}"),
        };
        return Err(CliError::Plain(message));
    }
    if format == Format::Json {
        return print(&(serde_json::to_string_pretty(&known)? + "\n"));
    }
    let mut text = String::new();
    for one in &known {
        describe(one, &mut text);
    }
    print(&text)
}

fn describe(one: &Known, text: &mut String) {
    let _ = writeln!(text, "container  {}", cell(&one.container_id));
    let _ = writeln!(text, "interface  {}", cell(&one.ifname));
    if let Some(problem) = &one.problem {
        let _ = writeln!(text, "problem    {}\n", cell(problem));
        return;
    }
    let _ = writeln!(text, "network    {}", cell(&one.network));
    let _ = writeln!(text, "namespace  {}", cell(&one.netns));
    let took = one.micros.map(|micros| format!(", in {}", millis(micros))).unwrap_or_default();
    if let Some(debt) = &one.debt {
        let _ = writeln!(text, "debt       {}", cell(debt));
    }
    let _ = writeln!(text, "state      {} since {}{took}\n", one.state, ago(one.since));
    let mut rows = Vec::new();
    for attachment in &one.attachments {
        for (index, plugin) in attachment.plugins.iter().enumerate() {
            let set = |value: &str| if index == 0 { cell(value) } else { String::new() };
            rows.push(vec![
                set(&attachment.ifname),
                set(&attachment.network),
                set(&attachment.ips.join(" ")),
                cell(&plugin.plugin_type),
                plugin.micros.map(millis).unwrap_or_default(),
                plugin.state.to_owned(),
                plugin.owed.as_deref().map(cell).unwrap_or_default(),
            ]);
        }
    }
    *text += &table(&["INTERFACE", "NETWORK", "ADDRESSES", "PLUGIN", "TOOK", "STATE", "OWED"], &rows);
    if !one.changes.is_empty() {
        let rows: Vec<Vec<String>> = one
            .changes
            .iter()
            .map(|change| vec![ago(change.time), cell(&change.what), cell(&change.by), millis(change.micros)])
            .collect();
        let _ = write!(text, "\n{}", table(&["CHANGED", "WHAT", "BY", "TOOK"], &rows));
    }
    text.push('\n');
}

/// Prints to standard error how long the plugins of a container took.
pub(super) fn print_timings(state_dir: &Path, container: &str, ifname: &str) {
    let known = read(state_dir, container).unwrap_or_default();
    let Some(one) = known.iter().find(|one| one.ifname == ifname && one.container_id == container) else { return };
    let mut plugins = 0;
    eprint_line!("within braid:");
    for attachment in &one.attachments {
        for plugin in &attachment.plugins {
            let micros = plugin.micros.unwrap_or(0);
            plugins += micros;
            eprint_line!(
                "{:>12}  {} {} ({})",
                millis(micros),
                attachment.ifname,
                plugin.plugin_type,
                attachment.network
            );
        }
    }
    if let Some(all) = one.micros {
        eprint_line!("{:>12}  braid's own", millis(all.saturating_sub(plugins)));
        eprint_line!("{:>12}  in all", millis(all));
    }
}

fn millis(micros: u64) -> String {
    format!("{}.{:03} ms", micros / 1000, micros % 1000)
}

fn ago(since: u64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let seconds = now.saturating_sub(Duration::from_millis(since)).as_secs();
    match seconds {
        0..120 => format!("{seconds} s ago"),
        120..7200 => format!("{} min ago", seconds / 60),
        7200..172_800 => format!("{} h ago", seconds / 3600),
        _ => format!("{} days ago", seconds / 86400),
    }
}

/// The entries of the container that is `wanted`, by ID. That is a container's ID, or else the beginning of several, or
/// `CONTAINER/INTERFACE`, which is the ID of a debt too. An empty text means all.
fn read(state_dir: &Path, wanted: &str) -> Result<Vec<Known>, CliError> {
    let mut known = Vec::new();
    let deadline = deadline::after(LOCK_TIMEOUT);
    let Some(store) = Store::open_existing(state_dir, Sharing::Shared, deadline)? else { return Ok(known) };
    let (mut ids, debts) = (store.container_ids()?, store.debts()?);
    let (container, ifname) = wanted.split_once('/').map_or((wanted, None), |(id, ifname)| (id, Some(ifname)));
    let is_whole = ifname.is_some()
        || ids.iter().any(|id| id == container)
        || debts.iter().any(|debt| debt.container_id() == container);
    let is_meant = |id: &str| if is_whole { id == container } else { id.starts_with(container) };
    ids.retain(|id| is_meant(id));
    ids.sort();
    for id in ids {
        // A problem with one container does not hide the others.
        if let Err(error) = read_container(&store, &id, &mut known) {
            known.push(unusable(&id, "", &error.to_string()));
        }
    }
    for id in debts.iter().filter(|id| is_meant(id.container_id())) {
        known.extend(read_debt(&store, id));
    }
    if let Some(ifname) = ifname {
        known.retain(|one| one.ifname == ifname || one.debt.as_deref() == Some(wanted));
        return Ok(known);
    }
    for path in store.not_directories()? {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if container.is_empty() || name.contains(container) {
            known.push(unusable(&name, "", &format!("set aside: {}", path.display())));
        }
    }
    Ok(known)
}

fn read_container(store: &Store, id: &str, known: &mut Vec<Known>) -> Result<(), StoreError> {
    let Some(container) = store.unlocked_container(id)? else { return Ok(()) };
    let entries = container.entries()?;
    for ifname in entries.ifnames {
        match State::peek(&container, &ifname)? {
            Some(Ok(state)) => known.push(describe_state(&state)),
            Some(Err(reason)) => known.push(unusable(id, &ifname, &reason)),
            None => {}
        }
    }
    for path in entries.set_aside {
        known.push(unusable(id, &interface_of(&path), &format!("set aside: {}", path.display())));
    }
    Ok(())
}

fn read_debt(store: &Store, id: &DebtId) -> Option<Known> {
    let unusable = |reason: &str| unusable(id.container_id(), id.ifname(), reason);
    let known = match look_at_debt(store, id) {
        Ok(None) => return None,
        Ok(Some(Parked::Journal(journal))) => Known { state: "parked", ..describe_state(&journal.state) },
        Ok(Some(Parked::Unusable(reason))) => unusable(&reason),
        Err(error) => unusable(&error.to_string()),
    };
    Some(Known { debt: Some(id.to_string()), ..known })
}

/// The interface of a journal that was set aside.
fn interface_of(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.split(".jsonl").next().unwrap_or_default().to_owned()
}

fn unusable(container_id: &str, ifname: &str, reason: &str) -> Known {
    Known {
        container_id: container_id.into(),
        ifname: ifname.into(),
        network: String::new(),
        netns: String::new(),
        since: 0,
        state: "unusable",
        micros: None,
        attachments: Vec::new(),
        changes: Vec::new(),
        problem: Some(format!("journal unusable ({reason}); clean up by hand")),
        debt: None,
    }
}

fn describe_state(state: &State) -> Known {
    let plan = &state.header.plan;
    let attachments = state.attachments().map(|(index, attachment)| {
        let result =
            state.result(index).and_then(|raw| AddResult::parse(raw.get().as_bytes(), attachment.network.version).ok());
        let plugins = attachment.network.plugins.iter().zip(&state.steps[index]).map(|(plugin, step)| KnownPlugin {
            plugin_type: plugin.plugin_type().to_owned(),
            state: match step {
                step if step.owed.is_some() => "owed",
                step if step.undone => "undone",
                step if step.result.is_some() => "attached",
                step if step.started => "unfinished",
                _ => "not run",
            },
            micros: step.micros,
            owed: step.owed.as_ref().map(ToString::to_string),
            config: plugin.keys().clone(),
        });
        KnownAttachment {
            ifname: attachment.ifname.clone(),
            network: attachment.network.name.clone(),
            reference: attachment.reference.clone(),
            origin: attachment.origin.clone(),
            ips: result.map(|r| r.ips.iter().map(|ip| ip.address.to_string()).collect()).unwrap_or_default(),
            capability_args: attachment.capability_args.clone(),
            plugins: plugins.collect(),
        }
    });
    let changes = state.history.iter().map(|change| KnownChange {
        time: change.time,
        what: change.what.clone(),
        by: change.author.clone(),
        micros: change.micros,
    });
    Known {
        container_id: plan.container_id.clone(),
        ifname: plan.ifname.clone(),
        network: plan.network.clone(),
        netns: plan.netns.clone(),
        since: state.header.time,
        changes: changes.collect(),
        state: match (&state.complete, state.is_being_undone()) {
            (_, true) => "clean-up owed",
            _ if state.is_container_gone() => "left behind",
            (Some(_), false) if state.pending.is_some() => "change unfinished",
            (Some(_), false) => "attached",
            (None, false) => "unfinished",
        },
        micros: state.micros,
        attachments: attachments.collect(),
        problem: None,
        debt: None,
    }
}
