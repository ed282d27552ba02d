//! Restores the node as it was before `install`.
//!
//! Nothing else removes what `install` wrote: pods must not start without their networks because a container was restarted. The
//! runtime then uses the primary network's current configuration. If that no longer exists, Braid has the only copy, and restores
//! it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use super::conflist::{self, Conflist};
use super::left::{Left, attachments, look};
use super::places::{Places, Uninstall};
use super::primary::first;
use super::report::{Problem, say};
use super::{call, dry_run, files};
use crate::cli::{CliError, Outcome};
use crate::cni::RawObject;
use crate::transaction::journal::State;

/// How often `--drain` checks whether containers are gone.
const INTERVAL: Duration = Duration::from_secs(2);

/// Puts the node back as it was.
pub(in crate::cli) fn uninstall(args: &Uninstall) -> Outcome {
    if args.dry_run {
        return dry_run::uninstall(args);
    }
    let places = &args.places;
    take_configuration_away(places)?;
    let left = if args.drain { drain(places)? } else { detach_gone(places, &mut Problem::default())? };
    if !left.is_empty() && !args.force {
        return Err(CliError::Plain(format!("new pods no longer use braid; {}", stays(places, &left))));
    }
    remove(&places.executable())?;
    Ok(ExitCode::SUCCESS)
}

/// Says why the executable stays.
pub(super) fn stays(places: &Places, left: &Left) -> String {
    let executable = places.executable();
    format!("{left}, so that {} stays: run this again when they are gone, or with --force", executable.display())
}

/// Removes Braid's configuration, which comes before the primary network's.
fn take_configuration_away(places: &Places) -> Result<(), CliError> {
    if let Some(copy) = OnlyCopy::of(places) {
        let io = |error| CliError::Plain(format!("{}: {error}", copy.path.display()));
        files::write(&copy.path, &copy.content, conflist::MODE).map_err(io)?;
        say(&format!("wrote {}, {}", copy.path.display(), copy.why()));
    }
    for path in [places.conflist(), places.kubeconfig()] {
        remove(&path)?;
    }
    if let Some(directory) = places.kubeconfig().parent() {
        // Whatever else is in it is not ours.
        drop(fs::remove_dir(directory));
    }
    Ok(())
}

/// The primary network's configuration, if Braid has the only copy of it: its owner has removed it, or renamed it so that runtimes
/// do not read it. Without it the node would have no network.
pub(super) struct OnlyCopy {
    /// Where it is restored. The original name is not known; with this name it comes after any file that is written later.
    pub(super) path: PathBuf,
    content: Vec<u8>,
    network: String,
}

impl OnlyCopy {
    /// The copy, if there is no other.
    pub(super) fn of(places: &Places) -> Option<Self> {
        // A file that cannot be read may be the primary network's.
        let None = first(&places.conf_dir).ok()? else { return None };
        let copy = Conflist::new(places.conflist()).copy_of_primary()?;
        let mut content = serde_json::to_vec(&copy).ok()?;
        content.push(b'\n');
        let is_list = serde_json::from_slice::<RawObject>(&content).is_ok_and(|object| object.contains_key("plugins"));
        let ending = if is_list { "conflist" } else { "conf" };
        let path = places.conf_dir.join(format!("99-{}.{ending}", copy.name));
        Some(Self { path, content, network: copy.name })
    }

    /// Why it is put back.
    pub(super) fn why(&self) -> String {
        format!("as nothing else has the configuration of network {:?} any more", self.network)
    }
}

/// Detaches containers as they disappear, until no more can disappear.
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

/// Detaches containers that are gone, and returns what is left.
fn detach_gone(places: &Places, failing: &mut Problem) -> Result<Left, CliError> {
    let mut detach = |id: &str, state: &State| {
        call::del(places, &state.header.plan)?;
        say(&format!("detached {id}, which is gone, from network {:?}", state.header.plan.network));
        Ok(())
    };
    let (left, failures) = look(places, &mut detach)?;
    if failures.is_empty() {
        failing.is_over();
    } else {
        failing.is(failures.join("; "));
    }
    Ok(left)
}

/// Removes a file, and the temporary files that killed installers have left beside it.
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
