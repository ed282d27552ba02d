//! The way back: the node as it was before `install`.
//!
//! Nothing else ever removes what `install` wrote: pods must not start without their networks because a container was
//! restarted.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use super::places::{Places, Uninstall};
use super::report::{Problem, say};
use super::{call, files};
use crate::cli::{CliError, Outcome};
use crate::runtime::deadline;
use crate::transaction::journal::State;
use crate::transaction::store::debts;
use crate::transaction::{DebtId, Sharing, Store};

/// How long another call's lock is waited for.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often `--drain` looks whether containers have gone.
const INTERVAL: Duration = Duration::from_secs(2);

/// Puts the node back as it was.
pub(in crate::cli) fn uninstall(args: &Uninstall) -> Outcome {
    let places = &args.places;
    take_configuration_away(places)?;
    let left = if args.drain { drain(places)? } else { detach_gone(places, &mut Problem::default())? };
    if !left.is_empty() && !args.force {
        let executable = places.executable();
        let message = format!(
            "new pods no longer get to braid; {left}, so that {} stays: run this again when they are gone, or with --force",
            executable.display()
        );
        return Err(CliError::Plain(message));
    }
    remove(&places.executable())?;
    Ok(ExitCode::SUCCESS)
}

/// Takes Braid from in front of the primary network.
fn take_configuration_away(places: &Places) -> Result<(), CliError> {
    for path in [places.conflist(), places.kubeconfig()] {
        remove(&path)?;
    }
    if let Some(directory) = places.kubeconfig().parent() {
        // Whatever else is in it is not ours.
        drop(fs::remove_dir(directory));
    }
    Ok(())
}

/// What keeps the executable on the node.
#[derive(Debug, Default, PartialEq, Eq)]
struct Left {
    /// Containers that are attached.
    attached: Vec<String>,
    /// Files that record attachments and cannot be read, with the reason: only a person can clean up after them.
    unreadable: Vec<String>,
    /// How many debts are parked.
    debts: usize,
}

impl Left {
    fn is_empty(&self) -> bool {
        self.attached.is_empty() && self.unreadable.is_empty() && self.debts == 0
    }
}

impl fmt::Display for Left {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let attached = match self.attached.len() {
            0 => None,
            1 => Some("1 container is still attached by it".to_owned()),
            many => Some(format!("{many} containers are still attached by it")),
        };
        let unreadable = (!self.unreadable.is_empty()).then(|| {
            let journals = self.unreadable.join(", ");
            format!("what is attached by these journals must be cleaned up by hand, as they cannot be used: {journals}")
        });
        let debts = match self.debts {
            0 => None,
            1 => Some("1 debt is parked, which `braid list` shows".to_owned()),
            many => Some(format!("{many} debts are parked, which `braid list` shows")),
        };
        let parts: Vec<String> = attached.into_iter().chain(unreadable).chain(debts).collect();
        f.write_str(&parts.join("; "))
    }
}

/// Detaches containers as they go, until none is left that a later look could find gone.
fn drain(places: &Places) -> Result<Left, CliError> {
    let (mut waiting, mut failing) = (Problem::default(), Problem::default());
    loop {
        if places.conflist().exists() {
            let conflist = places.conflist();
            let message = format!("{} is there again: stop `braid install` on this node first", conflist.display());
            return Err(CliError::Plain(message));
        }
        let left = detach_gone(places, &mut failing)?;
        if left.attached.is_empty() {
            return Ok(left);
        }
        waiting.is(format!("waiting: {left}"));
        for id in &left.attached {
            // Only if it is empty, and so records nothing.
            drop(fs::remove_dir(attachments(places).join(id)));
        }
        std::thread::sleep(INTERVAL);
    }
}

/// Detaches what belongs to containers that are gone, and returns what is left. Not every runtime calls DEL with the
/// configuration that ADD had: containerd calls the plugins of the one that comes first by then.
fn detach_gone(places: &Places, failing: &mut Problem) -> Result<Left, CliError> {
    let (parked, set_aside): (Vec<_>, Vec<_>) = debts(&places.state_dir)?.into_iter().partition(DebtId::is_journal);
    let mut left = Left { debts: parked.len(), ..Left::default() };
    let unusable = set_aside.iter().map(|id| format!("{} (set aside)", id.path(&places.state_dir).display()));
    left.unreadable.extend(unusable);
    let Some(store) = Store::open_existing(&places.state_dir, Sharing::Shared, deadline::after(PATIENCE))? else {
        return Ok(left);
    };
    let mut failures = Vec::new();
    let mut ids = store.container_ids()?;
    ids.sort();
    for id in ids {
        let Some(container) = store.unlocked_container(&id)? else { continue };
        let entries = container.entries()?;
        let mut is_attached = entries.ifnames.is_empty() && entries.set_aside.is_empty();
        left.unreadable.extend(entries.set_aside.iter().map(|path| format!("{} (set aside)", path.display())));
        for ifname in entries.ifnames {
            match State::peek(&container, &ifname)? {
                Some(Ok(state)) => match detach_if_gone(places, &id, &state) {
                    Ok(is_gone) => is_attached |= !is_gone,
                    Err(failure) => {
                        failures.push(failure);
                        is_attached = true;
                    }
                },
                Some(Err(reason)) => {
                    let path = container.journal_path(&ifname);
                    left.unreadable.push(format!("{} ({reason})", path.display()));
                }
                None => {}
            }
        }
        if is_attached && exists(places, &id) {
            left.attached.push(id);
        }
    }
    left.unreadable.extend(store.not_directories()?.iter().map(|path| format!("{} (set aside)", path.display())));
    if failures.is_empty() {
        failing.is_over();
    } else {
        failing.is(failures.join("; "));
    }
    Ok(left)
}

/// Detaches a container if it is gone. Returns whether it was.
fn detach_if_gone(places: &Places, id: &str, state: &State) -> Result<bool, String> {
    if !state.is_container_gone() {
        return Ok(false);
    }
    call::del(places, &state.header.plan).map_err(|reason| format!("{id} is gone and cannot be detached: {reason}"))?;
    say(&format!("detached {id}, which is gone, from network {:?}", state.header.plan.network));
    Ok(true)
}

/// Whether a container has a directory, which the DEL of its last attachment removes.
fn exists(places: &Places, id: &str) -> bool {
    attachments(places).join(id).exists()
}

fn attachments(places: &Places) -> PathBuf {
    places.state_dir.join("attachments")
}

/// Removes a file, and what killed installers have left of it.
fn remove(path: &Path) -> Result<(), CliError> {
    files::remove_temporaries(path);
    match fs::remove_file(path) {
        Ok(()) => {
            say(&format!("removed {}", path.display()));
            Ok(())
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(CliError::Plain(format!("{}: {error}", path.display()))),
    }
}
