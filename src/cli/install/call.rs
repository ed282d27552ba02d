//! Calls of the installed Braid, made as a runtime makes them.

use std::io::{self, Write as _};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use super::places::Places;
use crate::cni::config::{get, raw};
use crate::cni::{RawObject, Version};
use crate::plan::Plan;
use crate::runtime::cache::{self, Cache};

/// Keys about the node's log. They are left out, because the log file does not exist in the DaemonSet's container and each call
/// would warn about it.
const LOG_KEYS: [&str; 3] = ["logFile", "logOptions", "logToStderr"];

/// Calls the installed Braid. If the call fails, the error is the message in its answer.
fn call(places: &Places, variables: &[(&str, &str)], config: &[u8]) -> Result<(), String> {
    let output = run(places, variables, config)
        .map_err(|error| format!("{} cannot be run: {error}", places.executable().display()))?;
    if output.status.success() {
        return Ok(());
    }
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let message = answer["msg"].as_str().map(str::to_owned);
    Err(message.unwrap_or_else(|| format!("{} answered nothing: {}", places.executable().display(), output.status)))
}

fn run(places: &Places, variables: &[(&str, &str)], config: &[u8]) -> io::Result<Output> {
    let mut child = Command::new(places.executable())
        .env("CNI_PATH", &places.bin_dir)
        .envs(variables.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        match stdin.write_all(config) {
            // Braid has exited without reading all of its input, and its answer says why.
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(error),
            _ => {}
        }
    }
    child.wait_with_output()
}

/// Runs STATUS of the installed Braid with this configuration list: whether it could attach a pod.
pub(super) fn status(places: &Places, conflist: &[u8]) -> Result<(), String> {
    let list: RawObject = serde_json::from_slice(conflist).map_err(|error| error.to_string())?;
    let plugins = get::<Vec<RawObject>>(&list, "plugins", "a list").map_err(|error| error.to_string())?;
    let mut config = plugins.and_then(|plugins| plugins.into_iter().next()).unwrap_or_default();
    config.retain(|key, _| !LOG_KEYS.contains(&key.as_str()));
    config.insert("name".into(), raw("braid"));
    config.insert("cniVersion".into(), raw(&Version::V1_1_0));
    let config = serde_json::to_vec(&config).map_err(|error| error.to_string())?;
    call(places, &[("CNI_COMMAND", "STATUS")], &config).map_err(|reason| format!("this node is not ready: {reason}"))
}

/// Runs DEL for a container, from its journal.
pub(super) fn del(places: &Places, plan: &Plan) -> Result<(), String> {
    let config =
        json!({"cniVersion": plan.version, "name": plan.network, "type": "braid", "stateDir": places.state_dir});
    let variables = [
        ("CNI_COMMAND", "DEL"),
        ("CNI_CONTAINERID", &plan.container_id),
        ("CNI_IFNAME", &plan.ifname),
        ("CNI_NETNS", &plan.netns),
    ];
    call(places, &variables, config.to_string().as_bytes())?;
    // The runtime's libcni keeps it for a DEL of this network, which will not come.
    drop(Cache::new(Path::new(cache::DEFAULT_DIR)).remove(&plan.network, &plan.container_id, &plan.ifname));
    Ok(())
}
