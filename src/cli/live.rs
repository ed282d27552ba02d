//! `attach`, `detach`, `update` and `sync`: a container changes while it lives.

use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, ValueEnum};
use serde::Serialize;
use serde_json::value::RawValue;

use super::operations::loaded;
use super::paths::{cache_dir, cni_path};
use super::table::{self, table};
use super::{CliError, StateDir, print};
use crate::cni::config::parse_object;
use crate::cni::{CniError, RawObject, Version};
use crate::config::meta::is_braid;
use crate::config::selection::PortMapping;
use crate::config::{Config, OperatorSelection, Problems, Selection, Timeouts};
use crate::plan::Attachment;
use crate::plan::update::{BandwidthUpdate, How, LimitUpdate, PlannedUpdate, PluginUpdate, Update};
use crate::transaction::StepReport;
use crate::verb::live::{Live, LiveError, Outcome, Synced, Unknown, Which};

/// Which container.
#[derive(Debug, Args)]
struct Target {
    /// The container's ID, or the beginning of it
    #[arg(value_name = "CONTAINER")]
    id: String,
    /// The interface that the runtime asked for, where the container was attached several times
    #[arg(long = "of", value_name = "IFNAME")]
    of: Option<String>,
    #[command(flatten)]
    state: StateDir,
}

/// Which container is changed, and what is said of it.
#[derive(Debug, Args)]
pub(super) struct Container {
    #[command(flatten)]
    target: Target,
    /// Tell on standard error how long each step took
    #[arg(long)]
    timings: bool,
    /// What to print: the container's merged result as of now, or that with the steps that were run
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
    /// The whole list of mappings, such as 8080:80/tcp,127.0.0.1:53:53/udp, or as JSON; `none` for none
    #[arg(long, value_name = "MAPPINGS", value_parser = port_mappings)]
    port_mappings: Option<Mappings>,
    /// A plugin of the interface's chain, by its type: bandwidth, portmap, firewall or tuning; #2 is the second of that type
    #[arg(long, value_name = "TYPE[#N]", value_parser = plugin)]
    plugin: Option<PluginName>,
    /// A key of that plugin's configuration and its new value, in JSON
    #[arg(long, value_name = "KEY=JSON", requires = "plugin", value_parser = key_and_value)]
    set: Vec<(String, Box<RawValue>)>,
    /// A key of that plugin's configuration to leave out
    #[arg(long, value_name = "KEY", requires = "plugin")]
    unset: Vec<String>,
    /// Say which steps would be undone and done, and with what, and do nothing
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
    /// Say what would be done, and do nothing
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
    let which = args.target.which();
    let live = Live::new(&args.target.state.state_dir).by(&args.by);
    let config = configuration_of(&live, which, args.network.as_deref())?;
    let synced = match live.sync(&config, which, args.dry_run) {
        Err(LiveError::NoContainer { .. }) if args.network.is_some() => {
            let (cache, cni_path) = (cache_dir()?, cni_path()?);
            let unknown = Unknown { container: &args.target.id, cache: &cache, cni_path: &cni_path };
            live.repair(&config, unknown, args.dry_run)
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

fn synced_table(synced: &Synced) -> String {
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

pub(super) fn attach(args: &Attach) -> super::Outcome {
    let which = args.container.which();
    let config = configuration_of(&args.container.live(None), which, args.network.as_deref())?;
    let selections = selections(&args.selections)?;
    let live = args.container.live(Some(config.timeouts)).writing_pod_status(config.clone());
    let outcome = live.attach(&config, which, selections).map_err(|error| args.container.refused(&error, ""))?;
    args.container.report(&outcome, "")
}

pub(super) fn detach(args: &Detach) -> super::Outcome {
    let interfaces: Vec<&str> = args.interfaces.iter().map(String::as_str).collect();
    let live = args.container.configured_live()?;
    let outcome =
        live.detach(args.container.which(), &interfaces).map_err(|error| args.container.refused(&error, ""))?;
    args.container.report(&outcome, "")
}

pub(super) fn update(args: &UpdateArgs) -> super::Outcome {
    let (which, values) = (args.container.which(), args.update());
    if args.dry_run {
        let live = args.container.live(None);
        let (now, planned) = live.plan_update(which, &args.interface, &values).map_err(|error| refused(&error))?;
        return print(&dry_run(&now, &planned));
    }
    let live = args.container.configured_live()?;
    let outcome = live
        .update(which, &args.interface, &values)
        .map_err(|error| args.container.refused(&error, &args.interface))?;
    args.container.report(&outcome, &args.interface)
}

fn refused(error: &LiveError) -> CliError {
    CliError::Cni(CniError::from(error), Version::LATEST)
}

/// Braid's part of the network that is given, or else of the one that the container was attached to.
fn configuration_of(live: &Live, which: Which<'_>, network: Option<&str>) -> Result<Config, CliError> {
    match network {
        Some(network) => configuration(network),
        None => configuration(&live.network_of(which).map_err(|error| refused(&error))?),
    }
}

/// Braid's part of a network.
fn configuration(network: &str) -> Result<Config, CliError> {
    let network = loaded(network)?.network;
    let index = network
        .plugins
        .iter()
        .position(is_braid)
        .ok_or_else(|| CliError::Plain(format!("network {:?} has no plugin of braid's", network.name)))?;
    let mut problems = Problems::new();
    let config = Config::in_network(&network, index, &mut problems);
    Ok(problems.or_first(config)?.expect("there is a configuration where there is no problem"))
}

/// Selections as an operator writes them on the command line.
fn selections(words: &[String]) -> Result<Vec<OperatorSelection>, CliError> {
    let mut selections = Vec::new();
    for word in words {
        if word.trim_start().starts_with('{') {
            let object = parse_object(word.as_bytes())
                .map_err(|error| wrong(format!("the selection {word:?} cannot be read: {error}")))?;
            let selection = OperatorSelection::from_object(&object, "selection");
            selections.push(selection.map_err(|error| wrong(error.to_string()))?);
            continue;
        }
        for text in word.split(',') {
            let selection =
                Selection::from_text(text, "selection").map_err(|error| wrong(format!("{error} (in {word:?})")))?;
            selections.push(OperatorSelection { selection, ..OperatorSelection::default() });
        }
    }
    Ok(selections)
}

fn wrong(message: String) -> CliError {
    CliError::Cni(CniError::new(crate::cni::error::code::INVALID_CONFIG, message), Version::LATEST)
}

impl Target {
    fn which(&self) -> Which<'_> {
        Which { container: &self.id, ifname: self.of.as_deref() }
    }
}

impl Container {
    fn which(&self) -> Which<'_> {
        self.target.which()
    }

    fn live(&self, timeouts: Option<Timeouts>) -> Live {
        Live::new(&self.target.state.state_dir).with_timeouts(timeouts.unwrap_or_default()).by("command line")
    }

    /// What makes a change that needs no configuration. One that is there says how long to wait, and how what is written about a
    /// pod follows.
    fn configured_live(&self) -> Result<Live, CliError> {
        let live = self.live(None);
        let network = live.network_of(self.which()).map_err(|error| refused(&error))?;
        match configuration(&network) {
            Ok(config) => Ok(self.live(Some(config.timeouts)).writing_pod_status(config)),
            Err(error) => {
                if live.pod_of(self.which()).is_ok_and(|pod| pod.is_some()) {
                    let reason = table::message(&error.message());
                    tell!("braid: what is written about the pod does not follow: {reason}");
                }
                Ok(live)
            }
        }
    }

    /// Prints what a change has led to. `interface` is the one that was updated.
    fn report(&self, outcome: &Outcome, interface: &str) -> super::Outcome {
        self.tell_timings(&outcome.changed.steps);
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

    /// Says why a change was not made, and if it was tried what was run.
    fn refused(&self, error: &LiveError, interface: &str) -> CliError {
        let LiveError::Change(tried) = error else { return refused(error) };
        self.tell_timings(&tried.steps);
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
            Ok(whole) => CliError::Told(cni, whole),
            Err(_) => refused(error),
        }
    }

    fn tell_timings(&self, steps: &[StepReport]) {
        for step in steps.iter().filter(|_| self.timings) {
            let failed = if step.error.is_some() { ": failed" } else { "" };
            let took = format!("{:.3} ms", millis(step.took));
            tell!("{took:>12}  {} {} ({}){failed}", step.interface, step.plugin, step.verb);
        }
    }
}

/// A change, in JSON: a CNI error with more keys where it failed.
#[derive(Serialize)]
struct Shown<'a> {
    #[serde(flatten)]
    error: Option<CniErrorShown<'a>>,
    container: &'a str,
    interface: &'a str,
    steps: Vec<StepShown<'a>>,
    result: Option<&'a RawValue>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct CniErrorShown<'a> {
    cni_version: Version,
    #[serde(flatten)]
    error: &'a CniError,
}

#[derive(Serialize)]
struct StepShown<'a> {
    interface: &'a str,
    step: usize,
    plugin: &'a str,
    verb: &'a str,
    ms: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a CniError>,
}

impl<'a> StepShown<'a> {
    fn of(step: &'a StepReport) -> Self {
        let StepReport { interface, step, plugin, verb, took, error } = step;
        Self { interface, step: *step, plugin, verb, ms: millis(*took), error: error.as_ref() }
    }
}

fn millis(took: Duration) -> f64 {
    (took.as_secs_f64() * 1e6).round() / 1e3
}

/// The steps that would be undone and done, and with what.
fn dry_run(now: &Attachment, planned: &PlannedUpdate) -> String {
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

/// A list of mappings: clap would take a vector for several arguments.
#[derive(Debug, Clone)]
struct Mappings(Vec<PortMapping>);

/// A plugin's type, and which one of that type.
#[derive(Debug, Clone)]
struct PluginName {
    plugin_type: String,
    number: Option<usize>,
}

impl UpdateArgs {
    fn update(&self) -> Update {
        let plugins = self.plugin.as_ref().map(|name| PluginUpdate {
            plugin_type: name.plugin_type.clone(),
            number: name.number,
            set: self.set.iter().cloned().collect::<RawObject>(),
            unset: self.unset.clone(),
        });
        Update {
            bandwidth: self.bandwidth,
            port_mappings: self.port_mappings.clone().map(|Mappings(mappings)| mappings),
            plugins: plugins.into_iter().collect(),
        }
    }
}

/// Reads `ingress=50M,egress=none,ingressBurst=5M`, or `none`.
fn bandwidth(text: &str) -> Result<BandwidthUpdate, String> {
    if text == "none" {
        let unlimited = Some(LimitUpdate::Unlimited);
        return Ok(BandwidthUpdate { ingress: unlimited, egress: unlimited });
    }
    let mut rates = [None; 2];
    let mut bursts = [None; 2];
    for item in text.split(',') {
        let expected =
            "expected ingress=RATE, egress=RATE, ingressBurst=BITS or egressBurst=BITS, separated by commas, or none";
        let (key, value) = item.split_once('=').ok_or_else(|| format!("{item:?} is no limit: {expected}"))?;
        let (at, is_rate) = match key.trim() {
            "ingress" | "ingressRate" => (0, true),
            "egress" | "egressRate" => (1, true),
            "ingressBurst" => (0, false),
            "egressBurst" => (1, false),
            _ => return Err(format!("{key:?} is no limit: {expected}")),
        };
        let slot = if is_rate { &mut rates[at] } else { &mut bursts[at] };
        let value = match value.trim() {
            "none" if is_rate => 0,
            value => bits(value)?,
        };
        if slot.replace(value).is_some() {
            return Err(format!("{key:?} is there twice"));
        }
    }
    let direction = |at: usize, name: &str| match (rates[at], bursts[at]) {
        (None, None) => Ok(None),
        (None, Some(_)) => Err(format!("{name}Burst needs {name}, its rate")),
        (Some(0), None) => Ok(Some(LimitUpdate::Unlimited)),
        (Some(0), Some(_)) => Err(format!("{name} has no limit, and so no burst")),
        (Some(rate), burst) => Ok(Some(LimitUpdate::Limited { rate, burst })),
    };
    Ok(BandwidthUpdate { ingress: direction(0, "ingress")?, egress: direction(1, "egress")? })
}

/// Reads a number of bits: `50M`, `1.5G`, `20000`.
fn bits(text: &str) -> Result<u64, String> {
    let expected = || format!("{text:?} is no number of bits above 0, such as 500k, 50M or 1.5G");
    let unit = text.chars().last().ok_or_else(expected)?;
    let (digits, unit) = match unit {
        'k' | 'K' => (&text[..text.len() - 1], 1_000),
        'M' => (&text[..text.len() - 1], 1_000_000),
        'G' => (&text[..text.len() - 1], 1_000_000_000),
        _ => (text, 1_u64),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let is_number = |text: &str| text.len() <= 15 && text.bytes().all(|byte| byte.is_ascii_digit());
    if !is_number(whole) || !is_number(fraction) || whole.is_empty() || (digits.contains('.') && fraction.is_empty()) {
        return Err(expected());
    }
    let part = |digits: &str| digits.parse::<u64>().map_err(|_| expected());
    let scale = 10_u64.pow(u32::try_from(fraction.len()).map_err(|_| expected())?);
    let of_fraction =
        if fraction.is_empty() { 0 } else { u128::from(part(fraction)?) * u128::from(unit) / u128::from(scale) };
    let all = u128::from(part(whole)?) * u128::from(unit) + of_fraction;
    u64::try_from(all).ok().filter(|bits| *bits > 0).ok_or_else(expected)
}

/// Reads `8080:80/tcp,127.0.0.1:53:53/udp`, a JSON list, or `none`.
fn port_mappings(text: &str) -> Result<Mappings, String> {
    if text == "none" {
        return Ok(Mappings(Vec::new()));
    }
    // In text form, an IPv6 address stands in brackets.
    let is_json = |rest: &str| rest.trim_start().starts_with(['{', ']']);
    if text.trim_start().strip_prefix('[').is_some_and(is_json) {
        return PortMapping::parse_list(text).map(Mappings).map_err(|error| error.to_string());
    }
    text.split(',').map(port_mapping).collect::<Result<_, _>>().map(Mappings)
}

/// Reads `[HOSTIP:]HOSTPORT:CONTAINERPORT[/PROTOCOL]`; an IPv6 address stands in brackets.
fn port_mapping(text: &str) -> Result<PortMapping, String> {
    let expected = || format!("{text:?} is no mapping, such as 8080:80/tcp or 127.0.0.1:53:53/udp");
    let (ports, protocol) = text.trim().split_once('/').unwrap_or((text.trim(), "tcp"));
    let (rest, container_port) = ports.rsplit_once(':').ok_or_else(expected)?;
    let (host_ip, host_port) = rest.rsplit_once(':').unwrap_or(("", rest));
    let host_ip = host_ip.strip_prefix('[').and_then(|ip| ip.strip_suffix(']')).unwrap_or(host_ip);
    let port = |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0).ok_or_else(expected);
    if !["tcp", "udp", "sctp"].contains(&protocol)
        || !(host_ip.is_empty() || host_ip.parse::<std::net::IpAddr>().is_ok())
    {
        return Err(expected());
    }
    Ok(PortMapping {
        host_port: port(host_port)?,
        container_port: port(container_port)?,
        protocol: protocol.to_owned(),
        host_ip: host_ip.to_owned(),
    })
}

fn plugin(text: &str) -> Result<PluginName, String> {
    let (plugin_type, number) = match text.split_once('#') {
        None => (text, None),
        Some((plugin_type, number)) => {
            let number = number.parse().ok().filter(|number| *number > 0);
            (plugin_type, Some(number.ok_or_else(|| format!("{text:?} names no plugin, such as tuning or tuning#2"))?))
        }
    };
    crate::cni::validate::plugin_type(plugin_type).map_err(|error| error.to_string())?;
    Ok(PluginName { plugin_type: plugin_type.to_owned(), number })
}

fn key_and_value(text: &str) -> Result<(String, Box<RawValue>), String> {
    let (key, value) = text.split_once('=').filter(|(key, _)| !key.is_empty()).ok_or("expected KEY=JSON")?;
    let value = RawValue::from_string(value.to_owned()).map_err(|_| {
        format!("the value of {key:?} is no JSON; a string stands in quotes: --set '{key}=\"{value}\"'")
    })?;
    Ok((key.to_owned(), value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_as_text() {
        let limited = |rate, burst| Some(LimitUpdate::Limited { rate, burst });
        let both = bandwidth("ingress=50M,egress=1.5G,egressBurst=20000").unwrap();
        assert_eq!(both.ingress, limited(50_000_000, None));
        assert_eq!(both.egress, limited(1_500_000_000, Some(20_000)));
        assert_eq!(
            bandwidth("egress=none").unwrap(),
            BandwidthUpdate { ingress: None, egress: Some(LimitUpdate::Unlimited) }
        );
        assert_eq!(bandwidth("none").unwrap().ingress, Some(LimitUpdate::Unlimited));
        for wrong in [
            "",
            "50M",
            "ingress",
            "ingress=",
            "ingress=0",
            "ingress=-1",
            "ingress=1m",
            "ingress=1.M",
            "ingress=1e3",
            "up=1M",
            "ingress=1M,ingress=2M",
            "ingressBurst=1M",
            "ingress=none,ingressBurst=1",
            "ingress=99999999999G",
            "ingress=0.0001",
        ] {
            assert!(bandwidth(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn mappings_as_text() {
        let one =
            |text: &str| port_mapping(text).map(|one| (one.host_ip, one.host_port, one.container_port, one.protocol));
        let expected =
            |ip: &str, host, container, protocol: &str| Ok((ip.to_owned(), host, container, protocol.to_owned()));
        assert_eq!(one("8080:80"), expected("", 8080, 80, "tcp"));
        assert_eq!(one("127.0.0.1:53:5353/udp"), expected("127.0.0.1", 53, 5353, "udp"));
        assert_eq!(one("[fd00::1]:53:5353/sctp"), expected("fd00::1", 53, 5353, "sctp"));
        for wrong in ["", "80", "0:80", "80:0", "80:80/icmp", "65536:80", "host:80:80", ":80:80:80"] {
            assert!(one(wrong).is_err(), "{wrong}");
        }
        assert_eq!(port_mappings("none").unwrap().0.len(), 0);
        assert_eq!(port_mappings("80:80,81:81").unwrap().0.len(), 2);
        assert_eq!(port_mappings("[::1]:80:80,[fd00::1]:81:81/udp").unwrap().0[1].host_ip, "fd00::1");
        assert_eq!(port_mappings("[ ]").unwrap().0.len(), 0);
        assert_eq!(port_mappings(r#"[{"hostPort":80,"containerPort":81}]"#).unwrap().0[0].container_port, 81);
        assert!(port_mappings(r#"[{"hostPort":0,"containerPort":81}]"#).is_err());
    }

    #[test]
    fn plugins_and_keys_as_text() {
        assert_eq!(plugin("tuning#2").unwrap().number, Some(2));
        for wrong in ["tuning#0", "tuning#x", "../tuning", ""] {
            assert!(plugin(wrong).is_err(), "{wrong}");
        }
        assert_eq!(key_and_value(r#"a={"b=c":1}"#).unwrap().1.get(), r#"{"b=c":1}"#);
        assert!(key_and_value("backend=iptables").unwrap_err().contains("in quotes"));
        assert!(key_and_value("=1").is_err());
    }
}
