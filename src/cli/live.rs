//! `attach`, `detach`, `update` and `sync`: changes of a running container.

mod shown;
mod values;

use std::process::ExitCode;

use clap::{Args, ValueEnum};
use serde_json::value::RawValue;

use self::shown::{CniErrorShown, Shown, StepShown, dry_run, millis, synced_table};
use self::values::{Key, Mappings, PluginName, bandwidth, key, key_and_value, plugin, port_mappings};

use super::operations::loaded;
use super::paths::{cache_dir, cni_path};
use super::table;
use super::{CliError, StateDir, print};
use crate::cni::config::parse_object;
use crate::cni::{CniError, RawObject, Version};
use crate::config::meta::is_braid;
use crate::config::{Config, OperatorSelection, Problems, Selection};
use crate::plan::update::{BandwidthUpdate, PluginUpdate, Update};
use crate::transaction::StepReport;
use crate::verb::live::{ContainerRef, ForeignContainer, Live, LiveError, Outcome};

/// Which container.
#[derive(Debug, Args)]
struct Target {
    /// The container's ID, or its first characters
    #[arg(value_name = "CONTAINER")]
    id: String,
    /// The interface that the runtime asked for, if the container was attached several times
    #[arg(long = "of", value_name = "IFNAME")]
    of: Option<String>,
    #[command(flatten)]
    state: StateDir,
}

/// Which container is changed, and what is printed about it.
#[derive(Debug, Args)]
pub(super) struct Container {
    #[command(flatten)]
    target: Target,
    /// Print on standard error how long each step took
    #[arg(long)]
    timings: bool,
    /// What to print: the container's current merged result, or also the steps that were run
    #[arg(short, long, value_enum, default_value_t = Output::Result)]
    output: Output,
}

/// What a change prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    /// The merged result.
    Result,
    /// An object with the container, the interface, the steps and the result.
    Json,
}

/// The arguments of `attach`.
#[derive(Debug, Args)]
pub(super) struct Attach {
    #[command(flatten)]
    container: Container,
    /// Networks: [namespace/]name[@interface], or a network selection as JSON, "config" included
    #[arg(required = true, value_name = "SELECTION")]
    selections: Vec<String>,
    /// Braid's configuration: the network's name in NETCONFPATH, or a file [default: the container's own]
    #[arg(long)]
    network: Option<String>,
}

/// The arguments of `detach`.
#[derive(Debug, Args)]
pub(super) struct Detach {
    #[command(flatten)]
    container: Container,
    /// Interfaces in the container
    #[arg(required = true, value_name = "INTERFACE")]
    interfaces: Vec<String>,
}

/// The arguments of `update`.
#[derive(Debug, Args)]
#[group(id = "values", required = true, multiple = true, args = ["bandwidth", "port_mappings", "plugin"])]
pub(super) struct UpdateArgs {
    #[command(flatten)]
    container: Container,
    /// The interface in the container
    interface: String,
    /// Limits in bits per second, such as ingress=50M,egress=20M,egressBurst=2M; `ingress=none`, or `none` for both directions
    #[arg(long, value_name = "LIMITS", value_parser = bandwidth)]
    bandwidth: Option<BandwidthUpdate>,
    /// The new list of all mappings, such as 8080:80/tcp,127.0.0.1:53:53/udp,9000-9002:90-92, or as JSON; `none` for none
    #[arg(long, value_name = "MAPPINGS", value_parser = port_mappings)]
    port_mappings: Option<Mappings>,
    /// A plugin of the interface's chain, by its type: bandwidth, portmap, firewall or tuning; #2 is the second of that type
    #[arg(long, value_name = "TYPE[#N]", value_parser = plugin)]
    plugin: Option<PluginName>,
    /// Keys of that plugin's configuration and their new values, in JSON
    #[arg(long, value_name = "KEY=JSON", requires = "plugin", value_parser = key_and_value)]
    set: Vec<(String, Box<RawValue>)>,
    /// Keys to remove from that plugin's configuration
    #[arg(long, value_name = "KEY", requires = "plugin")]
    unset: Vec<String>,
    /// More keys of --set and --unset
    #[arg(value_name = "KEY[=JSON]", requires = "plugin", value_parser = key, hide = true)]
    more: Vec<Key>,
    /// Print which steps would be undone and done, and with which values, and change nothing
    #[arg(long)]
    dry_run: bool,
}

/// The arguments of `sync`.
#[derive(Debug, Args)]
pub(super) struct Sync {
    #[command(flatten)]
    target: Target,
    /// Braid's configuration: the network's name in NETCONFPATH, or a file [default: the container's own]
    #[arg(long)]
    network: Option<String>,
    /// Print what would be done, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// What to print
    #[arg(short, long, value_enum, default_value_t = super::Format::Table)]
    output: super::Format,
    /// Who does it, for the journal
    #[arg(long, hide = true, default_value = "sync")]
    by: String,
}

pub(super) fn sync(args: &Sync) -> super::Outcome {
    let container_ref = args.target.container_ref();
    let live = Live::new(&args.target.state.state_dir).by(&args.by);
    let config = configuration_of(&live, container_ref, args.network.as_deref())?;
    let synced = match live.sync(&config, container_ref, args.dry_run) {
        Err(LiveError::NoContainer { .. }) if args.network.is_some() => {
            let (cache, cni_path) = (cache_dir()?, cni_path()?);
            let foreign = ForeignContainer { container: &args.target.id, cache: &cache, cni_path: &cni_path };
            live.repair(&config, foreign, args.dry_run)
        }
        outcome => outcome,
    };
    let synced = synced.map_err(|error| refused(&error))?;
    print(&match args.output {
        super::Format::Json => format!("{}\n", serde_json::to_string_pretty(&synced)?),
        super::Format::Table => synced_table(&synced),
    })?;
    if synced.is_whole() { Ok(ExitCode::SUCCESS) } else { Err(CliError::Printed) }
}

pub(super) fn attach(args: &Attach) -> super::Outcome {
    let container_ref = args.container.container_ref();
    let config = configuration_of(&args.container.live(), container_ref, args.network.as_deref())?;
    let selections = selections(&args.selections)?;
    let live = args.container.live().configured_by(&config).writing_pod_status(config.clone());
    let outcome =
        live.attach(&config, container_ref, selections).map_err(|error| args.container.refused(&error, ""))?;
    args.container.report(&outcome, "")
}

pub(super) fn detach(args: &Detach) -> super::Outcome {
    let interfaces: Vec<&str> = args.interfaces.iter().map(String::as_str).collect();
    let live = args.container.configured_live()?;
    let outcome =
        live.detach(args.container.container_ref(), &interfaces).map_err(|error| args.container.refused(&error, ""))?;
    args.container.report(&outcome, "")
}

pub(super) fn update(args: &UpdateArgs) -> super::Outcome {
    let (container_ref, values) = (args.container.container_ref(), args.update()?);
    if args.dry_run {
        let live = args.container.live();
        let (now, planned) =
            live.plan_update(container_ref, &args.interface, &values).map_err(|error| refused(&error))?;
        return print(&dry_run(&now, &planned));
    }
    let live = args.container.configured_live()?;
    let outcome = live
        .update(container_ref, &args.interface, &values)
        .map_err(|error| args.container.refused(&error, &args.interface))?;
    args.container.report(&outcome, &args.interface)
}

fn refused(error: &LiveError) -> CliError {
    CliError::Cni(CniError::from(error), Version::LATEST)
}

/// Braid's part of the given network or, without one, of the network that the container was attached to.
fn configuration_of(live: &Live, container_ref: ContainerRef<'_>, network: Option<&str>) -> Result<Config, CliError> {
    match network {
        Some(network) => configuration(network),
        None => configuration(&live.network_of(container_ref).map_err(|error| refused(&error))?),
    }
}

/// Braid's part of a network.
fn configuration(network: &str) -> Result<Config, CliError> {
    let network = loaded(network)?.network;
    let index = network
        .plugins
        .iter()
        .position(is_braid)
        .ok_or_else(|| CliError::Plain(format!("network {:?} has no plugin of type braid", network.name)))?;
    let mut problems = Problems::new();
    let config = Config::in_network(&network, index, &mut problems);
    Ok(problems.or_first(config)?.expect("there is a configuration where there is no problem"))
}

/// Selections that an operator writes on the command line.
fn selections(words: &[String]) -> Result<Vec<OperatorSelection>, CliError> {
    let mut selections = Vec::new();
    for word in words {
        let place = |index: usize| format!("selection {}", index + 1);
        if word.trim_start().starts_with('{') {
            let place = place(selections.len());
            let object = parse_object(word.as_bytes())
                .map_err(|error| wrong(format!("{place} ({word:?}) cannot be read: {error}")))?;
            let selection = OperatorSelection::from_object(&object, &place);
            selections.push(selection.map_err(|error| wrong(error.to_string()))?);
            continue;
        }
        for text in word.split(',') {
            let place = place(selections.len());
            let selection =
                Selection::from_text(text, &place).map_err(|error| wrong(format!("{error} (in {word:?})")))?;
            selections.push(OperatorSelection { place, selection, ..OperatorSelection::default() });
        }
    }
    Ok(selections)
}

fn wrong(message: String) -> CliError {
    CliError::Cni(CniError::new(crate::cni::error::code::INVALID_CONFIG, message), Version::LATEST)
}

impl Target {
    fn container_ref(&self) -> ContainerRef<'_> {
        ContainerRef { container: &self.id, ifname: self.of.as_deref() }
    }
}

impl Container {
    fn container_ref(&self) -> ContainerRef<'_> {
        self.target.container_ref()
    }

    fn live(&self) -> Live {
        Live::new(&self.target.state.state_dir).by("command line")
    }

    /// What a change without a configuration needs. If there is a configuration, it sets the time limits and how the pod's status
    /// is updated.
    fn configured_live(&self) -> Result<Live, CliError> {
        let live = self.live();
        let network = live.network_of(self.container_ref()).map_err(|error| refused(&error))?;
        match configuration(&network) {
            Ok(config) => Ok(live.configured_by(&config).writing_pod_status(config)),
            Err(error) => {
                if live.pod_of(self.container_ref()).is_ok_and(|pod| pod.is_some()) {
                    let reason = table::message(&error.message());
                    eprint_line!("braid: the pod's network status is not updated: {reason}");
                }
                Ok(live)
            }
        }
    }

    /// Prints the outcome of a change. `interface` is the updated one.
    fn report(&self, outcome: &Outcome, interface: &str) -> super::Outcome {
        self.print_timings(&outcome.changed.steps);
        let result = outcome.changed.result.to_raw(outcome.version);
        if self.output == Output::Result {
            return print(&format!("{}\n", result.get()));
        }
        let shown = Shown {
            error: None,
            container: &outcome.container_id,
            interface: if interface.is_empty() { &outcome.ifname } else { interface },
            steps: outcome.changed.steps.iter().map(StepShown::of).collect(),
            result: Some(&result),
        };
        print(&format!("{}\n", serde_json::to_string_pretty(&shown)?))
    }

    /// Prints why a change was not made and, if it was attempted, what was run.
    fn refused(&self, error: &LiveError, interface: &str) -> CliError {
        let LiveError::Change(tried) = error else { return refused(error) };
        self.print_timings(&tried.steps);
        if self.output == Output::Result {
            return refused(error);
        }
        let cni = CniError::from(error);
        let result = tried.result.as_ref().map(|result| result.to_raw(tried.version));
        let shown = Shown {
            error: Some(CniErrorShown { cni_version: tried.version, error: &cni }),
            container: &tried.container_id,
            interface: if interface.is_empty() { &tried.ifname } else { interface },
            steps: tried.steps.iter().map(StepShown::of).collect(),
            result: result.as_deref(),
        };
        match serde_json::value::to_raw_value(&shown) {
            Ok(whole) => CliError::Reported(cni, whole),
            Err(_) => refused(error),
        }
    }

    fn print_timings(&self, steps: &[StepReport]) {
        for step in steps.iter().filter(|_| self.timings) {
            let failed = if step.error.is_some() { ": failed" } else { "" };
            let took = format!("{:.3} ms", millis(step.took));
            eprint_line!("{took:>12}  {} {} ({}){failed}", step.interface, step.plugin, step.verb);
        }
    }
}

impl UpdateArgs {
    fn update(&self) -> Result<Update, CliError> {
        let (mut set, mut unset) = (self.set.clone(), self.unset.clone());
        for key in &self.more {
            match key {
                Key::Set(key, value) if !self.set.is_empty() => set.push((key.clone(), value.clone())),
                Key::Unset(key) if !self.unset.is_empty() => unset.push(key.clone()),
                Key::Set(key, _) => return Err(wrong(format!("--set is missing before {key:?}"))),
                Key::Unset(key) => return Err(wrong(format!("--unset is missing before {key:?}"))),
            }
        }
        let mut seen = RawObject::new();
        for (key, value) in set {
            if seen.insert(key.clone(), value).is_some() {
                return Err(wrong(format!("--set has the key {key:?} twice")));
            }
        }
        let plugins = self.plugin.as_ref().map(|name| PluginUpdate {
            plugin_type: name.plugin_type.clone(),
            number: name.number,
            set: seen,
            unset,
        });
        Ok(Update {
            bandwidth: self.bandwidth,
            port_mappings: self.port_mappings.clone().map(|Mappings(mappings)| mappings),
            plugins: plugins.into_iter().collect(),
        })
    }
}
