//! The way back: the node as it was before `install`.
//!
//! Nothing else ever removes what `install` wrote: pods must not start without their networks because a container was
//! restarted. What the primary network's configuration has become meanwhile is what the runtime uses from now on. If none is
//! there any more, Braid has the only copy, and puts it back.

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

/// How often `--drain` looks whether containers have gone.
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
        return Err(CliError::Plain(format!("new pods no longer get to braid; {}", stays(places, &left))));
    }
    remove(&places.executable())?;
    Ok(ExitCode::SUCCESS)
}

/// Says why the executable stays.
pub(super) fn stays(places: &Places, left: &Left) -> String {
    let executable = places.executable();
    format!("{left}, so that {} stays: run this again when they are gone, or with --force", executable.display())
}

/// Takes Braid from in front of the primary network.
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

/// The primary network's configuration, where Braid's has the only copy of it: whoever wrote it has removed it, or has given it
/// a name that runtimes do not read. Without it the node would have no network.
pub(super) struct OnlyCopy {
    /// Where it is put back. The name is not known that it had; with this one it stays behind whatever is written later.
    pub(super) path: PathBuf,
    content: Vec<u8>,
    network: String,
}

impl OnlyCopy {
    /// The copy, if there is no other.
    pub(super) fn of(places: &Places) -> Option<Self> {
        // One that cannot be read may be the primary network's.
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

/// Detaches what belongs to containers that are gone, and returns what is left.
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
