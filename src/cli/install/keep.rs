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
    let mut keeper = Keeper {
        args,
        extra,
        executable: Executable::new(places),
        kubeconfig: Kubeconfig::new(places.kubeconfig(), &args.service_account),
        conflist: Conflist::new(places.conflist()),
        is_ready: false,
    };
    let mut problem = Problem::default();
    loop {
        let outcome = keeper.keep();
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
struct Keeper<'a> {
    args: &'a Install,
    extra: ExtraKeys,
    executable: Executable,
    kubeconfig: Kubeconfig<'a>,
    conflist: Conflist,
    /// Whether Braid has said that it could serve a pod with the configuration that is there.
    is_ready: bool,
}

impl Keeper<'_> {
    /// Looks at everything and mends what is not as it should be. A problem with one thing keeps the others from being
    /// mended only where they need it.
    fn keep(&mut self) -> Result<(), String> {
        let executable = self.args.places.executable();
        let problems = [
            self.executable.keep().map_err(|error| format!("{}: {error}", executable.display())),
            self.kubeconfig.keep(),
        ];
        let problems: Vec<String> = problems.into_iter().filter_map(Result::err).collect();
        // What is there from before can still be used.
        let can_serve = problems.is_empty() || (executable.exists() && self.kubeconfig.is_there());
        let outcome = if can_serve { self.keep_in_front() } else { Ok(()) };
        let problems: Vec<String> = problems.into_iter().chain(outcome.err()).collect();
        if problems.is_empty() { Ok(()) } else { Err(problems.join("; ")) }
    }

    /// Keeps Braid's configuration in front of the primary network's.
    fn keep_in_front(&mut self) -> Result<(), String> {
        let places = &self.args.places;
        let kept = "what braid wrote before stays";
        let primary = primary(&places.conf_dir, self.conflist.primary().as_deref())
            .map_err(|error| format!("{error}; {kept}"))?
            .ok_or_else(|| {
                format!("{} holds no configuration of a primary network yet; {kept}", places.conf_dir.display())
            })?;
        let kubeconfig = self.kubeconfig.is_there().then(|| places.kubeconfig());
        let (conflist, is_written) = self.conflist.keep(&self.extra, &primary, places, kubeconfig.as_deref())?;
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
