//! Shows what `install` and `uninstall` would do. Changes nothing, and makes no request.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::conflist::{Conflist, ExtraKeys};
use super::executable::Executable;
use super::files::{self, Change};
use super::kubeconfig::Kubeconfig;
use super::left::look;
use super::places::{Install, Places, Uninstall};
use super::primary::{configurations, first_file, primary};
use super::uninstall::{OnlyCopy, stays};
use crate::cli::{CliError, Outcome, print};
use crate::transaction::journal::State;

/// What is printed.
#[derive(Debug, Default)]
struct Lines(String);

impl Lines {
    fn change(&mut self, path: &Path, change: &Change) {
        match change {
            Change::Write(wanted) => self.line("write", path, wanted),
            Change::Replace(wanted) => self.line("replace", path, &format!("with {wanted}")),
            Change::Leave(wanted) => self.line("leave", path, &format!("it is {wanted}")),
        }
    }

    fn line(&mut self, verb: &str, path: &Path, what: &str) {
        let _ = writeln!(self.0, "would {verb} {}: {what}", path.display());
    }

    /// Temporary files that killed installers have left beside a file.
    fn temporaries(&mut self, path: &Path) {
        for left in files::temporaries(path) {
            self.line("remove", &left, "an installer that was killed has left it");
        }
    }

    /// The content of a file, printed below the line about it.
    fn content(&mut self, content: &[u8]) {
        for line in String::from_utf8_lossy(content).lines() {
            let _ = writeln!(self.0, "    {line}");
        }
    }

    /// Ends as the command itself would.
    fn end(self, problems: &[String]) -> Outcome {
        print(&self.0)?;
        if problems.is_empty() { Ok(ExitCode::SUCCESS) } else { Err(CliError::Plain(problems.join("; "))) }
    }
}

/// Shows what `install` would do to each file, and what would prevent it.
pub(super) fn install(args: &Install, extra: &ExtraKeys) -> Outcome {
    let places = &args.places;
    let (mut lines, mut problems) = (Lines::default(), Vec::new());
    for path in [places.executable(), places.kubeconfig(), places.conflist()] {
        lines.temporaries(&path);
    }
    let path = places.executable();
    let executable = Executable::new(places).change().map_err(|error| format!("{}: {error}", path.display()));
    match executable {
        Ok(change) => lines.change(&path, &change),
        Err(problem) => problems.push(problem),
    }
    let kubeconfig = Kubeconfig::new(places.kubeconfig(), &args.service_account);
    let mut has_kubeconfig = kubeconfig.is_there();
    match kubeconfig.change() {
        Ok(None) => {}
        Ok(Some(change)) => {
            lines.change(&places.kubeconfig(), &change);
            has_kubeconfig = true;
        }
        Err(problem) => problems.push(problem),
    }
    if problems.is_empty() || (places.executable().exists() && has_kubeconfig) {
        let kubeconfig = has_kubeconfig.then(|| places.kubeconfig());
        problems.extend(in_front(places, extra, kubeconfig.as_deref(), &mut lines).err());
    }
    lines.end(&problems)
}

/// Shows what would happen to Braid's configuration.
fn in_front(places: &Places, extra: &ExtraKeys, kubeconfig: Option<&Path>, lines: &mut Lines) -> Result<(), String> {
    let conflist = Conflist::new(places.conflist());
    let primary = primary(&places.conf_dir, conflist.primary().as_deref())?
        .ok_or_else(|| format!("{} holds no configuration of a primary network yet", places.conf_dir.display()))?;
    let (change, content) = conflist.change(extra, &primary, places, kubeconfig)?;
    lines.change(&places.conflist(), &change);
    lines.content(&content);
    match first_file(&places.conf_dir) {
        Some(first) if first < places.conflist() => {
            Err(format!("{} sorts before {}", first.display(), places.conflist().display()))
        }
        _ => Ok(()),
    }
}

/// Shows what `uninstall` would remove, detach and restore, and what would prevent it from finishing.
pub(super) fn uninstall(args: &Uninstall) -> Outcome {
    let places = &args.places;
    let mut lines = Lines::default();
    let copy = OnlyCopy::of(places);
    if let Some(copy) = &copy {
        lines.line("write", &copy.path, &copy.why());
    }
    removed(&mut lines, &places.conflist(), "braid's configuration");
    removed(&mut lines, &places.kubeconfig(), "its credentials");
    let mut gone = Vec::new();
    let mut note = |id: &str, state: &State| {
        gone.push(format!("would detach {id}, which is gone, from network {:?}\n", state.header.plan.network));
        Ok(())
    };
    let (left, _) = look(places, &mut note)?;
    lines.0.extend(gone);
    let mut problems = Vec::new();
    if args.drain && !left.attached.is_empty() {
        let _ = writeln!(lines.0, "would wait: {left}");
    } else if !left.is_empty() && !args.force {
        problems.push(stays(places, &left));
    }
    if problems.is_empty() {
        removed(&mut lines, &places.executable(), "braid");
    }
    if let Some(next) = next(places).or(copy.map(|copy| copy.path)) {
        let _ = writeln!(lines.0, "the runtime would use {}", next.display());
    }
    lines.end(&problems)
}

fn removed(lines: &mut Lines, path: &Path, what: &str) {
    lines.temporaries(path);
    if path.symlink_metadata().is_ok() {
        lines.line("remove", path, what);
    }
}

/// The configuration that would come first without Braid's.
fn next(places: &Places) -> Option<PathBuf> {
    let own = places.conflist();
    configurations(&places.conf_dir).ok()?.into_iter().find(|file| *file != own)
}
