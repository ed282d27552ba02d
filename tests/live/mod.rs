//! Changes of running containers: `attach`, `detach` and `update`.

/// Networks that are attached and detached.
mod attach;
/// What a change waits for on disk, and a disk that does not answer.
mod disk;
/// Changes that fail, are killed, or meet other calls.
mod faults;
/// Braid killed at its system calls.
mod killed;
/// Plugins that fail, hang or answer nonsense, and unusual containers.
mod stubborn;
/// Traffic while limits change.
mod traffic;
/// New values for a bandwidth limit, port mappings, a firewall and tuned parameters.
mod update;

use std::path::Path;

use serde_json::{Value, json};

use crate::support::{Case, Invocation, Network, Outcome, Plugin, braid};

const STRACE: &str = "/usr/bin/strace";

/// A command line for the container of the case, run by `strace` with these options.
fn traced<'a>(case: &'a Case, options: &[&str], words: &[&str]) -> Invocation<'a> {
    let braid = braid().display().to_string();
    let line = [options, &[&braid, words[0], Case::CONTAINER], &words[1..], &["--state-dir", "@DIR@/state"]].concat();
    case.command(Path::new(STRACE), &[&["-qqq"], &line[..]].concat())
}

/// A case whose configuration the command line finds: the network `outer`, with these delegates.
pub(super) fn live(case: Case, delegates: &[Value]) -> Case {
    let state = "@DIR@/state";
    let conf = json!({"cniVersion": "1.0.0", "name": "outer", "plugins": [
        {"type": "braid", "stateDir": state, "confDir": "@DIR@/net.d", "delegates": delegates}]});
    let case = delegates.iter().fold(case, |case, delegate| case.delegate(delegate.clone()));
    case.key("confDir", "@DIR@/net.d").configuration("outer.conflist", conf)
}

/// A network in `@DIR@/net.d`, for a selection to name.
pub(super) fn network(case: Case, name: &str, plugins: &[Plugin]) -> Case {
    let network = plugins.iter().cloned().fold(Network::new(name), Network::plugin);
    case.configuration(&format!("{name}.conflist"), network)
}

/// A command line for the container of the case.
pub(super) fn change<'a>(case: &'a Case, command: &str, words: &[&str]) -> Invocation<'a> {
    let line: Vec<&str> = [command, Case::CONTAINER]
        .into_iter()
        .chain(words.iter().copied())
        .chain(["--state-dir", "@DIR@/state"])
        .collect();
    case.braid(&line)
}

pub(super) fn attach<'a>(case: &'a Case, words: &[&str]) -> Outcome<'a> {
    change(case, "attach", words).run()
}

pub(super) fn detach<'a>(case: &'a Case, words: &[&str]) -> Outcome<'a> {
    change(case, "detach", words).run()
}

pub(super) fn update<'a>(case: &'a Case, words: &[&str]) -> Outcome<'a> {
    change(case, "update", words).run()
}

/// The interfaces of a result that are in the container.
pub(super) fn interfaces(result: &Value) -> Vec<&str> {
    let interfaces = result["interfaces"].as_array().into_iter().flatten();
    interfaces.filter(|one| one["sandbox"].is_string()).filter_map(|one| one["name"].as_str()).collect()
}
