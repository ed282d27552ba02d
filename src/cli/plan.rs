//! `plan`: what ADD would run.

use std::fmt::Write as _;
use std::process::ExitCode;

use clap::Args;
use serde::Serialize;

use super::attached::Attached;
use super::operations::loaded;
use super::paths::finder;
use super::table::{cell, table};
use super::{CliError, Format, Outcome, print};
use crate::cni::NetworkConfig;
use crate::config::meta::is_braid;
use crate::config::{Config, Problems};
use crate::plan::traps::{self, Trap};
use crate::plan::{self, Asked, concurrency};
use crate::request::Request;
use crate::runtime::{Finder, deadline};
use crate::source;
use crate::verb::is_own_executable;

/// The arguments of `plan`.
#[derive(Debug, Args)]
pub(super) struct PlanArgs {
    /// The network: its name, or its configuration's file
    network: String,
    /// `CNI_ARGS` of the call, such as `K8S_POD_NAMESPACE=prod;K8S_POD_NAME=web-0`
    #[arg(long, value_name = "K=V;…", default_value = "", hide_default_value = true)]
    args: String,
    /// The pod of the call, looked up in the Kubernetes cluster that the configuration names
    #[arg(long, value_name = "NAMESPACE/NAME", value_parser = pod)]
    pod: Option<(String, String)>,
    /// `CNI_IFNAME` of the call
    #[arg(short, long, default_value = "eth0")]
    ifname: String,
    /// Say of each delegate why it was kept or dropped, and what is attached at once
    #[arg(long)]
    explain: bool,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    output: Format,
}

/// One plugin that would run.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Step {
    interface: String,
    network: String,
    /// The network as it was asked for: `namespace/name` if it is a NetworkAttachmentDefinition.
    reference: String,
    plugin: String,
    origin: String,
    reason: String,
    /// Whether the pod has it, where the pod runs here.
    #[serde(skip_serializing_if = "Option::is_none")]
    attached: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
}

#[derive(Debug, Default, Serialize)]
struct Report {
    steps: Vec<Step>,
    dropped: Vec<String>,
    /// Of each attachment, with which others it is made at once and why, where any may be.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    concurrency: Vec<String>,
    /// What the pod has and does not ask for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    besides: Vec<String>,
    warnings: Vec<String>,
    errors: Vec<String>,
}

fn pod(text: &str) -> Result<(String, String), String> {
    match text.split_once('/') {
        Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() => Ok((namespace.into(), name.into())),
        _ => Err("expected a pod as NAMESPACE/NAME".into()),
    }
}

pub(super) fn plan(args: &PlanArgs) -> Outcome {
    let network = loaded(&args.network)?.network;
    let report = report(args, &network)?;
    let text = match args.output {
        Format::Json => serde_json::to_string_pretty(&report)? + "\n",
        Format::Table => report.text(args.explain),
    };
    print(&text)?;
    let is_sound = report.errors.is_empty() && report.steps.iter().all(|step| step.problem.is_none());
    if is_sound { Ok(ExitCode::SUCCESS) } else { Err(CliError::Printed) }
}

fn report(args: &PlanArgs, network: &NetworkConfig) -> Result<Report, CliError> {
    let finder = finder()?;
    let mut report = Report::default();
    for (index, plugin) in network.plugins.iter().enumerate() {
        if !is_braid(plugin) {
            report.steps.push(Step {
                interface: args.ifname.clone(),
                network: network.name.clone(),
                reference: network.name.clone(),
                plugin: plugin.plugin_type().to_owned(),
                origin: format!("plugins[{index}]"),
                reason: "beside braid in the outer list".to_owned(),
                attached: None,
                problem: problem(&finder, plugin.plugin_type()),
            });
            continue;
        }
        let mut problems = Problems::new();
        let config = Config::in_network(network, index, &mut problems);
        report.errors.extend(problems.iter().map(|error| format!("plugins[{index}]: {error}")));
        let Some(config) = config else { continue };
        let mut request = Request::of_no_container(args.args.parse()?);
        request.ifname.clone_from(&args.ifname);
        crate::cni::validate::interface_name(&request.ifname)?;
        let (request, surveyed) = if let Some((namespace, name)) = &args.pod {
            let deadline = deadline::after(config.timeouts.total);
            source::kubernetes::explain(&config, &request, (namespace, name), deadline)?
        } else {
            let surveyed = source::survey(&config, &request, None);
            (request, surveyed)
        };
        let mut wrong = Problems::new();
        let planned = plan::build(
            &config,
            &request,
            Asked { candidates: surveyed.candidates, dropped: &surveyed.dropped, taken: &[] },
            &mut wrong,
        );
        let attached = match &args.pod {
            Some((namespace, name)) => attached_of(&config, (namespace, name), &mut report),
            None => None,
        };
        if let Some(attached) = &attached {
            report.besides.extend(attached.besides(&planned.plan.attachments));
        }
        let networks = planned.plan.attachments.iter().map(|attachment| &attachment.network);
        let alone = networks.flat_map(|network| {
            let at = |trap: Trap| Trap { message: format!("network {:?}: {}", network.name, trap.message), ..trap };
            traps::of_network(network).into_iter().map(at)
        });
        for trap in alone.chain(traps::of_plan(&planned.plan)) {
            let lines = if trap.is_fatal { &mut report.errors } else { &mut report.warnings };
            lines.push(trap.message);
        }
        report.concurrency.extend(concurrency::explain(config.concurrency, &planned.plan));
        report.dropped.extend(surveyed.dropped);
        report.errors.extend(surveyed.errors.iter().map(ToString::to_string));
        report.errors.extend(wrong.iter().map(ToString::to_string));
        report.warnings.extend(
            config
                .operator_warnings
                .into_iter()
                .chain(config.call_warnings)
                .chain(surveyed.warnings)
                .chain(planned.warnings),
        );
        if let Some(file) = config.readiness_file.filter(|file| !file.exists()) {
            report.errors.push(format!("the readiness file {} is not there yet; ADD waits for it", file.display()));
        }
        let finder = match &config.bin_dir {
            Some(directory) => Finder::new(&format!("{directory}:{}", finder.path())),
            None => finder.clone(),
        };
        for attachment in &planned.plan.attachments {
            for plugin in &attachment.network.plugins {
                report.steps.push(Step {
                    interface: attachment.ifname.clone(),
                    network: attachment.network.name.clone(),
                    reference: attachment.reference.clone(),
                    plugin: plugin.plugin_type().to_owned(),
                    origin: attachment.origin.clone(),
                    reason: attachment.reason.clone(),
                    attached: attached.as_ref().map(|attached| attached.has(attachment)),
                    problem: problem(&finder, plugin.plugin_type()),
                });
            }
        }
    }
    Ok(report)
}

/// What a pod has, if that is known. A user who may not read the journals gets a warning.
fn attached_of(config: &Config, pod: (&str, &str), report: &mut Report) -> Option<Attached> {
    match Attached::of_pod(&config.state_dir, &config.name, pod) {
        Ok(attached) => attached,
        Err(CliError::Plain(reason)) => {
            report.warnings.push(format!("it is not known what the pod has: {reason}"));
            None
        }
        Err(_) => None,
    }
}

/// Why a plugin cannot be run.
fn problem(finder: &Finder, plugin: &str) -> Option<String> {
    let path = match finder.find(plugin) {
        Ok(path) => path,
        Err(error) => return Some(error.to_string()),
    };
    let is_own = plugin != "braid" && is_own_executable(&path);
    is_own.then(|| format!("plugin {plugin:?} is braid itself ({}); a delegate must be another plugin", path.display()))
}

impl Report {
    fn text(&self, explain: bool) -> String {
        let mut headings = vec!["STEP", "INTERFACE", "NETWORK", "PLUGIN", "FROM"];
        let is_running = self.steps.iter().any(|step| step.attached.is_some());
        if is_running {
            headings.push("STATE");
        }
        if explain {
            headings.push("BECAUSE");
        }
        let rows: Vec<Vec<String>> = self
            .steps
            .iter()
            .enumerate()
            .map(|(index, step)| {
                let mut row = vec![(index + 1).to_string()];
                row.extend([&step.interface, &step.reference, &step.plugin, &step.origin].map(|text| cell(text)));
                let state = step.attached.map_or("", |is| if is { "attached" } else { "not attached" });
                row.extend(is_running.then(|| state.to_owned()));
                row.extend(explain.then(|| cell(&step.reason)));
                row
            })
            .collect();
        let mut text = if rows.is_empty() { String::new() } else { table(&headings, &rows) };
        if explain {
            for dropped in &self.dropped {
                let _ = writeln!(text, "dropped: {}", cell(dropped));
            }
            for line in &self.concurrency {
                let _ = writeln!(text, "concurrency: {}", cell(line));
            }
        }
        for attachment in &self.besides {
            let _ = writeln!(text, "attached, and not asked for: {}", cell(attachment));
        }
        for warning in &self.warnings {
            let _ = writeln!(text, "warning: {}", cell(warning));
        }
        let mut printed = Vec::new();
        for error in self.errors.iter().chain(self.steps.iter().filter_map(|step| step.problem.as_ref())) {
            if !printed.contains(&error) {
                let _ = writeln!(text, "error: {}", cell(error));
                printed.push(error);
            }
        }
        text
    }
}
