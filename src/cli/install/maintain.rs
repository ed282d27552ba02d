//! The loop of `install`.

use std::process::ExitCode;
use std::time::Duration;

use super::conflist::{Conflist, ExtraKeys};
use super::executable::Executable;
use super::kubeconfig::Kubeconfig;
use super::places::Install;
use super::primary::{first_file, primary};
use super::report::{Problem, say};
use super::{call, dry_run, files};
use crate::cli::{CliError, Outcome};

/// How often everything is looked at.
const INTERVAL: Duration = Duration::from_secs(2);

/// Installs Braid on this node and keeps it installed.
pub(in crate::cli) fn install(args: &Install) -> Outcome {
    let extra = ExtraKeys::parse(&args.with).map_err(CliError::Plain)?;
    if args.dry_run {
        return dry_run::install(args, &extra);
    }
    let places = &args.places;
    for path in [places.executable(), places.kubeconfig(), places.conflist()] {
        files::remove_temporaries(&path);
    }
    let mut maintenance = Maintenance {
        args,
        extra,
        executable: Executable::new(places),
        kubeconfig: Kubeconfig::new(places.kubeconfig(), &args.service_account),
        conflist: Conflist::new(places.conflist()),
        is_ready: false,
    };
    let mut problem = Problem::default();
    loop {
        let outcome = maintenance.maintain();
        if args.once {
            return outcome.map(|()| ExitCode::SUCCESS).map_err(CliError::Plain);
        }
        match outcome {
            Ok(()) => problem.is_over(),
            Err(reason) => problem.is(reason),
        }
        std::thread::sleep(INTERVAL);
    }
}

/// What keeps the node as it should be.
struct Maintenance<'a> {
    args: &'a Install,
    extra: ExtraKeys,
    executable: Executable,
    kubeconfig: Kubeconfig<'a>,
    conflist: Conflist,
    /// Whether Braid's STATUS has succeeded with the current configuration.
    is_ready: bool,
}

impl Maintenance<'_> {
    /// Checks everything and repairs what has changed. A problem with one part prevents the repair of another only if that needs
    /// it.
    fn maintain(&mut self) -> Result<(), String> {
        let executable = self.args.places.executable();
        let problems = [
            self.executable.maintain().map_err(|error| format!("{}: {error}", executable.display())),
            self.kubeconfig.maintain(),
        ];
        let problems: Vec<String> = problems.into_iter().filter_map(Result::err).collect();
        // The earlier files can still be used.
        let can_serve = problems.is_empty() || (executable.exists() && self.kubeconfig.is_there());
        let outcome = if can_serve { self.maintain_conflist() } else { Ok(()) };
        let problems: Vec<String> = problems.into_iter().chain(outcome.err()).collect();
        if problems.is_empty() { Ok(()) } else { Err(problems.join("; ")) }
    }

    /// Keeps Braid's configuration before the primary network's.
    fn maintain_conflist(&mut self) -> Result<(), String> {
        let places = &self.args.places;
        let kept = "what braid wrote before stays";
        let primary = primary(&places.conf_dir, self.conflist.primary().as_deref())
            .map_err(|error| format!("{error}; {kept}"))?
            .ok_or_else(|| {
                format!("{} holds no configuration of a primary network yet; {kept}", places.conf_dir.display())
            })?;
        let kubeconfig = self.kubeconfig.is_there().then(|| places.kubeconfig());
        let (conflist, is_written) = self.conflist.maintain(&self.extra, &primary, places, kubeconfig.as_deref())?;
        self.is_ready &= !is_written;
        let own = places.conflist();
        if let Some(first) = first_file(&places.conf_dir).filter(|first| *first != own) {
            let first = first.display();
            return Err(format!(
                "{first} sorts before {}: the runtime uses it, and pods go without braid",
                own.display()
            ));
        }
        if !self.is_ready {
            call::status(places, &conflist)?;
            say("this node is ready");
            self.is_ready = true;
        }
        Ok(())
    }
}
