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
use crate::cni::{NetworkConfig, PluginConfig};
use crate::config::meta::is_braid;
use crate::config::{Config, Problems};
use crate::plan::traps::{self, Trap};
use crate::plan::{self, Asked, Attachment, Plan, Planned, concurrency};
use crate::request::Request;
use crate::runtime::{Finder, deadline};
use crate::source::{self, Surveyed};
use crate::verb::is_own_executable;

/// The arguments of `plan`.
#[derive(Debug, Args)]
pub(super) struct PlanArgs {
    /// The network: its name, or the file of its configuration
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
    /// Say why each delegate was kept or dropped, and which attachments are made at once
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
    /// The network as it was requested: `namespace/name` if it is a NetworkAttachmentDefinition.
    reference: String,
    plugin: String,
    origin: String,
    reason: String,
    /// Whether the pod has it, if the pod runs here.
    #[serde(skip_serializing_if = "Option::is_none")]
    attached: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
}

#[derive(Debug, Default, Serialize)]
struct Report {
    steps: Vec<Step>,
    dropped: Vec<String>,
    /// For each attachment, with which others it runs at once and why, if any do.
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
        if is_braid(plugin) {
            report.add_braid(args, network, index, &finder)?;
        } else {
            report.steps.push(Step::beside_braid(args, network, index, &finder));
        }
    }
    Ok(report)
}

/// The call that the arguments describe, and its requested attachments.
fn survey(args: &PlanArgs, config: &Config) -> Result<(Request, Surveyed), CliError> {
    let mut request = Request::of_no_container(args.args.parse()?);
    request.ifname.clone_from(&args.ifname);
    crate::cni::validate::interface_name(&request.ifname)?;
    let Some((namespace, name)) = &args.pod else {
        let surveyed = source::survey(config, &request, None);
        return Ok((request, surveyed));
    };
    let deadline = deadline::after(config.timeouts.total);
    Ok(source::kubernetes::explain(config, &request, (namespace, name), deadline)?)
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

impl Step {
    /// A plugin of the outer list that is not Braid.
    fn beside_braid(args: &PlanArgs, network: &NetworkConfig, index: usize, finder: &Finder) -> Self {
        let plugin = network.plugins[index].plugin_type();
        Self {
            interface: args.ifname.clone(),
            network: network.name.clone(),
            reference: network.name.clone(),
            plugin: plugin.to_owned(),
            origin: format!("plugins[{index}]"),
            reason: "beside braid in the outer list".to_owned(),
            attached: None,
            problem: problem(finder, plugin),
        }
    }

    /// A plugin of an attachment.
    fn of(attachment: &Attachment, plugin: &str, attached: Option<&Attached>, finder: &Finder) -> Self {
        Self {
            interface: attachment.ifname.clone(),
            network: attachment.network.name.clone(),
            reference: attachment.reference.clone(),
            plugin: plugin.to_owned(),
            origin: attachment.origin.clone(),
            reason: attachment.reason.clone(),
            attached: attached.map(|attached| attached.has(attachment)),
            problem: problem(finder, plugin),
        }
    }
}

impl Report {
    /// Adds what the Braid at this position of a network would do.
    fn add_braid(
        &mut self,
        args: &PlanArgs,
        network: &NetworkConfig,
        index: usize,
        finder: &Finder,
    ) -> Result<(), CliError> {
        let mut problems = Problems::new();
        let config = Config::in_network(network, index, &mut problems);
        self.errors.extend(problems.iter().map(|error| format!("plugins[{index}]: {error}")));
        let Some(config) = config else { return Ok(()) };
        let (request, surveyed) = survey(args, &config)?;
        let asked = Asked { candidates: surveyed.candidates, dropped: &surveyed.dropped, taken: &[] };
        let mut wrong = Problems::new();
        let Planned { plan, warnings } = plan::build(&config, &request, asked, &mut wrong);

        let attached = args.pod.as_ref().and_then(|(namespace, name)| self.attached(&config, (namespace, name)));
        self.besides.extend(attached.iter().flat_map(|attached| attached.besides(&plan.attachments)));
        self.add_traps(&plan);
        self.concurrency.extend(concurrency::explain(config.concurrency, &plan));
        self.dropped.extend(surveyed.dropped);
        self.errors.extend(surveyed.errors.iter().map(ToString::to_string));
        self.errors.extend(wrong.iter().map(ToString::to_string));
        self.add_missing_readiness(&config);
        self.add_steps(&plan, attached.as_ref(), &Finder::new(&config.plugin_path(finder.path())));
        let of_config = config.operator_warnings.into_iter().chain(config.call_warnings);
        self.warnings.extend(of_config.chain(surveyed.warnings).chain(warnings));
        Ok(())
    }

    /// The attachments that a pod has, if they are known. A user who may not read the journals gets a warning.
    fn attached(&mut self, config: &Config, pod: (&str, &str)) -> Option<Attached> {
        match Attached::of_pod(&config.state_dir, &config.name, pod) {
            Ok(attached) => attached,
            Err(CliError::Plain(reason)) => {
                self.warnings.push(format!("it is not known what the pod has: {reason}"));
                None
            }
            Err(_) => None,
        }
    }

    /// Adds problems of known plugins: for each network separately, and for all together.
    fn add_traps(&mut self, plan: &Plan) {
        let networks = plan.attachments.iter().map(|attachment| &attachment.network);
        let alone = networks.flat_map(|network| {
            let at = |trap: Trap| Trap { message: format!("network {:?}: {}", network.name, trap.message), ..trap };
            traps::of_network(network).into_iter().map(at)
        });
        for trap in alone.chain(traps::of_plan(plan)) {
            let lines = if trap.is_fatal { &mut self.errors } else { &mut self.warnings };
            lines.push(trap.message);
        }
    }

    fn add_missing_readiness(&mut self, config: &Config) {
        if let Some(file) = config.readiness_file.as_ref().filter(|file| !file.exists()) {
            self.errors.push(format!("the readiness file {} is not there yet; ADD waits for it", file.display()));
        }
    }

    fn add_steps(&mut self, plan: &Plan, attached: Option<&Attached>, finder: &Finder) {
        for attachment in &plan.attachments {
            let plugins = attachment.network.plugins.iter().map(PluginConfig::plugin_type);
            self.steps.extend(plugins.map(|plugin| Step::of(attachment, plugin, attached, finder)));
        }
    }

    fn text(&self, explain: bool) -> String {
        let mut text = self.table(explain);
        let shown: [(&str, &[String]); 4] = [
            ("dropped", if explain { &self.dropped } else { &[] }),
            ("concurrency", if explain { &self.concurrency } else { &[] }),
            ("attached, and not asked for", &self.besides),
            ("warning", &self.warnings),
        ];
        for (what, lines) in shown {
            for line in lines {
                let _ = writeln!(text, "{what}: {}", cell(line));
            }
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

    /// The steps as a table. Empty if there are none.
    fn table(&self, explain: bool) -> String {
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
        if rows.is_empty() { String::new() } else { table(&headings, &rows) }
    }
}
