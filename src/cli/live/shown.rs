//! What the changes of a container print.

use std::fmt::Write as _;
use std::time::Duration;

use serde::Serialize;
use serde_json::value::RawValue;

use crate::cli::table::table;
use crate::cni::{CniError, Version};
use crate::plan::Attachment;
use crate::plan::update::{How, PlannedUpdate};
use crate::transaction::StepReport;
use crate::verb::live::Synced;

/// A change as JSON: if it failed, a CNI error with additional keys.
#[derive(Serialize)]
pub(super) struct Shown<'a> {
    #[serde(flatten)]
    pub(super) error: Option<CniErrorShown<'a>>,
    pub(super) container: &'a str,
    pub(super) interface: &'a str,
    pub(super) steps: Vec<StepShown<'a>>,
    pub(super) result: Option<&'a RawValue>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct CniErrorShown<'a> {
    pub(super) cni_version: Version,
    #[serde(flatten)]
    pub(super) error: &'a CniError,
}

#[derive(Serialize)]
pub(super) struct StepShown<'a> {
    pub(super) interface: &'a str,
    pub(super) step: usize,
    pub(super) plugin: &'a str,
    pub(super) verb: &'a str,
    pub(super) ms: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) error: Option<&'a CniError>,
}

impl<'a> StepShown<'a> {
    pub(super) fn of(step: &'a StepReport) -> Self {
        let StepReport { interface, step, plugin, verb, took, error } = step;
        Self { interface, step: *step, plugin, verb, ms: millis(*took), error: error.as_ref() }
    }
}

pub(super) fn millis(took: Duration) -> f64 {
    (took.as_secs_f64() * 1e6).round() / 1e3
}

/// The steps that would be undone and redone, with their values.
pub(super) fn dry_run(now: &Attachment, planned: &PlannedUpdate) -> String {
    let mut rows = Vec::new();
    for redo in &planned.steps {
        let plugin = &planned.attachment.network.plugins[redo.step];
        let with = |attachment: &Attachment| {
            let plugin = &attachment.network.plugins[redo.step];
            let mut text = crate::cni::config::raw(plugin.keys()).get().to_owned();
            for name in plugin.capabilities() {
                if let Some(value) = attachment.capability_args.get(name) {
                    let _ = write!(text, " {name}={value}");
                }
            }
            text
        };
        let mut row = |verb: &str, attachment: &Attachment| {
            rows.push(vec![verb.to_owned(), now.ifname.clone(), plugin.plugin_type().to_owned(), with(attachment)]);
        };
        match redo.how {
            How::Add => row("ADD", &planned.attachment),
            How::Again(_) => {
                row("DEL", now);
                row("ADD", &planned.attachment);
            }
            How::InPlace { .. } => row("change", &planned.attachment),
        }
    }
    table(&["VERB", "INTERFACE", "PLUGIN", "WITH"], &rows)
}

pub(super) fn synced_table(synced: &Synced) -> String {
    if let Some(reason) = &synced.skipped {
        return format!("nothing was done: {reason}\n");
    }
    let row = |what: &str, interface: &str, network: &str, more: String| {
        [what, interface, network].map(str::to_owned).into_iter().chain([more]).collect::<Vec<_>>()
    };
    let mut rows = Vec::new();
    rows.extend(synced.detached.iter().map(|one| row("detached", &one.interface, &one.network, String::new())));
    rows.extend(synced.updated.iter().map(|one| row("updated", &one.interface, &one.network, String::new())));
    rows.extend(synced.attached.iter().map(|one| row("attached", &one.interface, &one.network, one.ips.join(" "))));
    rows.extend(
        synced.failed.iter().map(|one| {
            row("failed", one.interface.as_deref().unwrap_or_default(), &one.network, one.error.to_string())
        }),
    );
    if rows.is_empty() {
        return "the container has what its pod asks for\n".to_owned();
    }
    table(&["WHAT", "INTERFACE", "NETWORK", "DETAILS"], &rows)
}
