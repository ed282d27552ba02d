//! STATUS: could an ADD be served?

use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;

use super::context::Context;
use super::error::{Error, NotReady};
use crate::cni::Verb;
use crate::config::Config;
use crate::request::Request;
use crate::runtime::Chain;
use crate::source::{self, kubernetes};
use crate::transaction::store::debts;

/// Checks everything that an ADD would need: the state directory, the readiness file, the Kubernetes API server if it is
/// configured, and every network that a container could get.
pub(super) fn status(context: &Context, request: &Request, config: &Config) -> Result<(), Error> {
    if !config.version.has_status_and_gc() {
        return Err(Error::NoSuchVerb { verb: Verb::Status, version: config.version });
    }
    let launcher = context.launcher(Vec::new());
    let mut missing = Vec::new();
    if let Some(reason) = unwritable(&config.state_dir) {
        missing.push(NotReady::Missing(reason));
    }
    if let Some(file) = config.readiness_file.as_ref().filter(|file| !file.exists()) {
        missing.push(NotReady::Missing(format!("the readiness file {} is not there yet", file.display())));
    }
    warn_of_debts(&config.state_dir);
    let definitions = kubernetes::probe(config, request, context.deadline).unwrap_or_else(|error| {
        missing.push(NotReady::Missing(error.to_string()));
        None
    });
    let known = source::every_network_with(config, definitions.as_ref());
    let forgive = |error: &dyn std::fmt::Display| tracing::warn!("{error}; it is optional, so pods go without it");
    known.forgiven.iter().for_each(|error| forgive(error));
    missing.extend(known.errors.into_iter().map(|error| NotReady::Missing(error.to_string())));
    let tools = context.tools(&context.finder, &launcher);
    let ahead = tools.ahead(1);
    let chain = |network| Chain { network, finder: tools.finder, exec: &ahead, limits: tools.limits, after: None };
    let chains = known.networks.iter().map(|(network, _)| chain(network)).enumerate();
    for (index, chain) in chains.filter(|(_, chain)| chain.is_called(Verb::Status)) {
        ahead.expect(index, &chain, Verb::Status, 0..chain.network.plugins.len(), None);
    }
    for (index, (network, is_optional)) in known.networks.iter().enumerate() {
        let Err(source) = chain(network).status() else { continue };
        ahead.give_up(index);
        let lack = NotReady::Plugin { network: network.name.clone(), source };
        if *is_optional {
            forgive(&lack);
        } else {
            missing.push(lack);
        }
    }
    if missing.is_empty() { Ok(()) } else { Err(Error::NotReady(missing)) }
}

/// Logs the debts, which wait for an operator. They do not prevent pods from being attached.
fn warn_of_debts(state_dir: &Path) {
    let debts = match debts(state_dir) {
        Ok(debts) => debts,
        Err(error) => return tracing::warn!("debts cannot be listed: {error}"),
    };
    for id in debts {
        tracing::warn!(container = id.container_id(), debt = %id, "{}", id.describe(state_dir));
    }
}

/// Why files cannot be written to the state directory, or to the directory where it would be made.
fn unwritable(state_dir: &Path) -> Option<String> {
    let existing = state_dir.ancestors().find(|path| path.exists())?;
    if !existing.is_dir() {
        return Some(format!("the state directory {} is not a directory", existing.display()));
    }
    // An unnamed file: it leaves nothing behind, and needs everything that a journal needs, including space.
    let flags = OFlag::O_TMPFILE | OFlag::O_WRONLY | OFlag::O_CLOEXEC;
    match open(existing, flags, Mode::S_IRUSR) {
        // Not every file system can do that.
        Ok(_) | Err(Errno::EOPNOTSUPP | Errno::EISDIR) => None,
        Err(error) => Some(format!("the state directory {} cannot be written: {}", state_dir.display(), error.desc())),
    }
}
