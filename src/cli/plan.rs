//! `plan`: what ADD would run.

use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::Instant;

use clap::Args;
use serde::Serialize;

use super::playing_runtime::{finder, loaded};
use super::table::{cell, table};
use super::validate::{braid_config, is_braid, request_for};
use super::{CliError, Format, Outcome, print};
use crate::cni::NetworkConfig;
use crate::plan;
use crate::runtime::Finder;
use crate::source;

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
    /// Say of each delegate why it was kept or dropped
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
    plugin: String,
    origin: String,
    reason: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
}

#[derive(Debug, Default, Serialize)]
struct Report {
    steps: Vec<Step>,
    dropped: Vec<String>,
    warnings: Vec<String>,
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
    let is_sound = report.steps.iter().all(|step| step.problem.is_none());
    if is_sound { Ok(ExitCode::SUCCESS) } else { Err(CliError::Printed) }
}

fn report(args: &PlanArgs, network: &NetworkConfig) -> Result<Report, CliError> {
    let finder = finder()?;
    let mut report = Report::default();
    for (index, plugin) in network.plugins.iter().enumerate() {
        if !is_braid(plugin) {
            let reason = "beside braid in the outer list".to_owned();
            let origin = format!("plugins[{index}]");
            report.step(&finder, &args.ifname, &network.name, plugin.plugin_type(), (origin, reason));
            continue;
        }
        let config = braid_config(network, index)?;
        let mut request = request_for(&config, args.args.parse()?);
        request.ifname.clone_from(&args.ifname);
        crate::cni::validate::interface_name(&request.ifname)?;
        let (request, gathered) = if let Some((namespace, name)) = &args.pod {
            let deadline = Instant::now() + config.timeouts.total;
            source::kubernetes::explain(&config, &request, (namespace, name), deadline)?
        } else {
            let gathered = source::gather(&config, &request)?;
            (request, gathered)
        };
        let planned = plan::build(&config, &request, gathered.candidates, &gathered.dropped)?;
        report.dropped.extend(gathered.dropped);
        report.warnings.extend(config.warnings.into_iter().chain(gathered.warnings).chain(planned.warnings));
        let finder = match &config.bin_dir {
            Some(directory) => Finder::new(&format!("{directory}:{}", finder.path())),
            None => finder.clone(),
        };
        for attachment in &planned.plan.attachments {
            for plugin in &attachment.network.plugins {
                let why = (attachment.origin.clone(), attachment.reason.clone());
                report.step(&finder, &attachment.ifname, &attachment.network.name, plugin.plugin_type(), why);
            }
        }
    }
    Ok(report)
}

impl Report {
    fn step(&mut self, finder: &Finder, interface: &str, network: &str, plugin: &str, why: (String, String)) {
        self.steps.push(Step {
            interface: interface.into(),
            network: network.into(),
            plugin: plugin.into(),
            origin: why.0,
            reason: why.1,
            problem: finder.find(plugin).err().map(|error| error.to_string()),
        });
    }

    fn text(&self, explain: bool) -> String {
        let mut headings = vec!["STEP", "INTERFACE", "NETWORK", "PLUGIN", "FROM"];
        if explain {
            headings.push("BECAUSE");
        }
        let rows: Vec<Vec<String>> = self
            .steps
            .iter()
            .enumerate()
            .map(|(index, step)| {
                let mut row = vec![(index + 1).to_string()];
                row.extend([&step.interface, &step.network, &step.plugin, &step.origin].map(|text| cell(text)));
                row.extend(explain.then(|| cell(&step.reason)));
                row
            })
            .collect();
        let mut text = table(&headings, &rows);
        if explain {
            for dropped in &self.dropped {
                let _ = writeln!(text, "dropped: {}", cell(dropped));
            }
        }
        for warning in &self.warnings {
            let _ = writeln!(text, "warning: {}", cell(warning));
        }
        let mut problems: Vec<&String> = self.steps.iter().filter_map(|step| step.problem.as_ref()).collect();
        problems.dedup();
        for problem in problems {
            let _ = writeln!(text, "error: {}", cell(problem));
        }
        text
    }
}
