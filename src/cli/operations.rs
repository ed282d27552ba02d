//! `add`, `check`, `del`, `gc` and `status`: the operations of CNI on the command line, as with cnitool.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::slice;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use sha2::{Digest, Sha512};

use super::paths::{conf_dir, finder};
use super::{AttachmentArgs, CliError, Outcome, print};
use crate::cni::ValidAttachment;
use crate::cni::config::RawObject;
use crate::cni::error::code;
use crate::cni::validate;
use crate::cni::{Args, CniError, NetworkConfig, Version};
use crate::config::meta::is_braid;
use crate::request::variable;
use crate::runtime::exec::Stdout;
use crate::runtime::{self, Call, Exec, Launcher, NetworkError, Networks, PluginError, load};
use crate::transaction::store::debts;

/// Where `ip netns` keeps namespaces.
const NAMESPACES: &str = "/run/netns";

pub(super) fn add(args: &AttachmentArgs) -> Outcome {
    let network = network(&args.network)?;
    let attachment = attachment(args)?;
    if !Path::new(&attachment.netns).exists() {
        return Err(CliError::Plain(format!("there is no network namespace at {}", attachment.netns)));
    }
    let watch = std::sync::Arc::new(Stopwatch::default());
    let networks = networks()?.with_exec(Timed { launcher: Launcher::new(), watch: watch.clone() });
    let began = Instant::now();
    let result = networks.add(&network, &attachment).map_err(|error| cni_error(&error, network.version));
    if args.timings {
        watch.print(began.elapsed());
        own_timings(&network, &attachment);
    }
    print(&pretty(result?.raw.get())?)
}

pub(super) fn check(args: &AttachmentArgs) -> Outcome {
    let network = network(&args.network)?;
    networks()?.check(&network, &attachment(args)?).map_err(|error| cni_error(&error, network.version))?;
    Ok(ExitCode::SUCCESS)
}

pub(super) fn del(args: &AttachmentArgs) -> Outcome {
    let network = network(&args.network)?;
    networks()?.del(&network, &attachment(args)?).map_err(|error| cni_error(&error, network.version))?;
    Ok(ExitCode::SUCCESS)
}

pub(super) fn gc(name: &str, valid: &[String]) -> Outcome {
    let valid: Vec<ValidAttachment> = valid
        .iter()
        .map(|text| match text.split_once('/') {
            Some((container_id, ifname)) => {
                validate::container_id(container_id)?;
                validate::interface_name(ifname)?;
                Ok(ValidAttachment { container_id: container_id.into(), ifname: ifname.into() })
            }
            None => Err(CliError::Plain(format!("--valid is {text:?}, expected CONTAINER/INTERFACE"))),
        })
        .collect::<Result<_, CliError>>()?;
    let network = network(name)?;
    networks()?.gc(&network, &valid).map_err(|error| cni_error(&error, network.version))?;
    Ok(ExitCode::SUCCESS)
}

pub(super) fn status(name: &str) -> Outcome {
    let network = network(name)?;
    // If the network's version has no STATUS, no plugin is called, so debts are reported here.
    for state_dir in state_dirs(&network) {
        for id in debts(&state_dir)? {
            eprint_line!("braid: {}", id.describe(&state_dir));
        }
    }
    networks()?.status(&network).map_err(|error| cni_error(&error, network.version))?;
    Ok(ExitCode::SUCCESS)
}

/// The runtime that the environment describes. If no directory contains Braid, this executable is used.
pub(super) fn networks() -> Result<Networks, CliError> {
    runtime::keep_descriptors_from_plugins();
    let networks = Networks::new("").with_finder(finder()?);
    Ok(match variable("CNI_CACHE_DIR")?.filter(|directory| !directory.is_empty()) {
        Some(directory) => networks.with_cache_dir(&std::path::absolute(directory)?),
        None => networks,
    })
}

/// The network of a name, or of a file.
pub(super) fn network(name: &str) -> Result<NetworkConfig, CliError> {
    loaded(name).map(|loaded| loaded.network)
}

/// The configuration of this name, or of this file.
pub(super) fn loaded(name: &str) -> Result<load::Loaded, CliError> {
    let is_file_name = [".conflist", ".conf", ".json"].iter().any(|extension| name.ends_with(extension));
    if name.contains('/') || is_file_name {
        return Ok(load::from_file(Path::new(name))?);
    }
    let directory = conf_dir()?;
    let found = load::by_name(&directory, name)?;
    for skipped in &found.skipped {
        eprint_line!("braid: skipped {skipped}");
    }
    found.loaded.ok_or_else(|| {
        let names = match names_in(&directory).as_slice() {
            [] => "which holds none".to_owned(),
            names => format!("which holds {}", names.join(", ")),
        };
        CliError::Plain(format!("no network is called {name:?} in {}, {names}", directory.display()))
    })
}

/// The names of the networks in a directory that can be read.
fn names_in(directory: &Path) -> Vec<String> {
    let files = load::files(directory).unwrap_or_default();
    files.iter().filter_map(|file| load::from_file(file).ok()).map(|loaded| loaded.network.name).collect()
}

/// The path of a namespace given by path, or by name as for `ip netns`.
fn namespace(given: &Path) -> std::io::Result<PathBuf> {
    let is_name = given.parent() == Some(Path::new("")) && !given.exists();
    if is_name { Ok(Path::new(NAMESPACES).join(given)) } else { std::path::absolute(given) }
}

/// The attachment that the command line and the environment describe.
fn attachment(args: &AttachmentArgs) -> Result<runtime::Attachment, CliError> {
    let netns = namespace(&args.netns)?.to_string_lossy().into_owned();
    let container_id = match &args.container_id {
        Some(id) => id.clone(),
        None => container_id(&netns),
    };
    let ifname = match &args.ifname {
        Some(ifname) => ifname.clone(),
        // As in cnitool, an empty name is an error.
        None => variable("CNI_IFNAME")?.unwrap_or_else(|| "eth0".into()),
    };
    validate::container_id(&container_id)?;
    let source = if args.ifname.is_some() { "--ifname" } else { "CNI_IFNAME" };
    validate::interface_name(&ifname).map_err(|error| CliError::Plain(format!("{source}: {error}")))?;
    parameters(container_id, netns, ifname)
}

/// An attachment with the arguments in the environment.
pub(super) fn parameters(container_id: String, netns: String, ifname: String) -> Result<runtime::Attachment, CliError> {
    let args = variable("CNI_ARGS")?.unwrap_or_default();
    args.parse::<Args>()?;
    let capability_args = match variable("CAP_ARGS")?.filter(|text| !text.is_empty()) {
        Some(text) => serde_json::from_str::<RawObject>(&text)
            .map_err(|error| CliError::Plain(format!("CAP_ARGS is not a JSON object: {error}")))?,
        None => RawObject::new(),
    };
    Ok(runtime::Attachment { container_id, netns, ifname, args, capability_args, plugin_args: RawObject::new() })
}

/// The ID that cnitool gives a namespace.
fn container_id(netns: &str) -> String {
    let mut id = String::from("cnitool-");
    for byte in &Sha512::digest(netns)[..10] {
        let _ = write!(id, "{byte:02x}");
    }
    id
}

fn pretty(json: &str) -> Result<String, CliError> {
    // Parsed to a map that keeps the order of its keys.
    let value: serde_json::Value = serde_json::from_str(json)?;
    Ok(serde_json::to_string_pretty(&value)? + "\n")
}

/// The CNI error of a failure, with the first plugin's code. Its details are what the message does not contain.
fn cni_error(error: &NetworkError, version: Version) -> CliError {
    let in_version = |error| CliError::Cni(error, version);
    let message = error.to_string();
    let (failures, cleanup) = match error {
        NetworkError::Add { cause, cleanup, .. } => (slice::from_ref(&**cause), cleanup.as_slice()),
        NetworkError::Gc { stale, failures, .. } if stale.is_empty() => (failures.as_slice(), [].as_slice()),
        NetworkError::Gc { .. } => return in_version(CniError::new(code::CLEANUP_INCOMPLETE, message)),
        NetworkError::NotKept { cleanup, .. } => {
            let cleanup: Vec<_> = cleanup.iter().map(ToString::to_string).collect();
            return in_version(CniError::new(code::IO, message).with_details(cleanup.join("; ")));
        }
        NetworkError::Name(_) => return in_version(CniError::new(code::INVALID_ENVIRONMENT, message)),
        NetworkError::Version { .. } => return in_version(CniError::new(code::INCOMPATIBLE_VERSION, message)),
        NetworkError::Plugins { failures, .. } => (failures.as_slice(), [].as_slice()),
        NetworkError::NoCheck { .. } => {
            return in_version(CniError::new(code::INCOMPATIBLE_VERSION, message));
        }
        NetworkError::NotCached { .. } => return in_version(CniError::new(code::UNKNOWN_CONTAINER, message)),
        NetworkError::AlreadyAttached { .. } => return in_version(CniError::new(code::ALREADY_ATTACHED, message)),
        NetworkError::Cache { .. } => return in_version(CniError::new(code::IO, message)),
    };
    let own: Vec<CniError> = failures.iter().map(|step| CniError::from(&step.source)).collect();
    let details = own.iter().zip(failures).filter(|(own, _)| !own.details.is_empty());
    let details = details.map(|(own, step)| match failures {
        [_] => own.details.clone(),
        _ => format!("plugin {:?}: {}", step.plugin_type, own.details),
    });
    let details: Vec<String> = details.chain(cleanup.iter().map(ToString::to_string)).collect();
    let code = own.first().map_or(code::PLUGIN_FAILED, |own| own.code);
    in_version(CniError::new(code, message).with_details(details.join("; ")))
}

/// How long each plugin took.
#[derive(Debug, Default)]
struct Stopwatch {
    calls: Mutex<Vec<(String, Duration)>>,
}

impl Stopwatch {
    fn print(&self, total: Duration) {
        let calls = self.calls.lock().expect("no holder panics");
        for (what, took) in &*calls {
            eprint_line!("{:>9.3} ms  {what}", took.as_secs_f64() * 1e3);
        }
        let plugins: Duration = calls.iter().map(|(_, took)| *took).sum();
        eprint_line!("{:>9.3} ms  the runtime's own", total.saturating_sub(plugins).as_secs_f64() * 1e3);
        eprint_line!("{:>9.3} ms  in all", total.as_secs_f64() * 1e3);
    }
}

/// A launcher under a stopwatch.
struct Timed {
    launcher: Launcher,
    watch: std::sync::Arc<Stopwatch>,
}

impl Exec for Timed {
    fn run(&self, call: &Call<'_>) -> Result<Stdout, PluginError> {
        let began = Instant::now();
        let outcome = self.launcher.run(call);
        let name = call.executable.file_name().unwrap_or_default().to_string_lossy();
        let what = format!("{name} {}", call.verb);
        self.watch.calls.lock().expect("no holder panics").push((what, began.elapsed()));
        outcome
    }
}

/// How long the delegates of the network's Braid plugins took, from their journals.
fn own_timings(network: &NetworkConfig, attachment: &runtime::Attachment) {
    for state_dir in state_dirs(network) {
        super::inspect::print_timings(&state_dir, &attachment.container_id, &attachment.ifname);
    }
}

/// Where the network's Braid plugins keep their journals.
fn state_dirs(network: &NetworkConfig) -> Vec<PathBuf> {
    let plugins = network.plugins.iter().filter(|plugin| is_braid(plugin));
    let directories = plugins.map(|plugin| {
        let state_dir = ["stateDir", "cniDir"].iter().find_map(|key| plugin.keys().get(*key));
        let state_dir: Option<PathBuf> = state_dir.and_then(|raw| serde_json::from_str(raw.get()).ok());
        state_dir.unwrap_or_else(|| crate::config::DEFAULT_STATE_DIR.into())
    });
    directories.collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn container_ids_are_cnitools() {
        assert_eq!(super::container_id("/var/run/netns/blue"), "cnitool-296747069b8a02dc4e2a");
    }
}
