//! What every operation needs: its time limits, the plugins, and a launcher.

use std::fs::File;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::config::{Concurrency, Config, Timeouts};
use crate::request::{GUARD, Request};
use crate::runtime::chain::Limits;
use crate::runtime::{Finder, Launcher, LookAhead, Runs, deadline};
use crate::telemetry;
use crate::transaction::Tools;

/// The means of one call.
#[derive(Debug)]
pub(super) struct Context {
    /// When the call began.
    pub(super) began: Instant,
    /// When it has to be over, rollback aside.
    pub(super) deadline: Instant,
    /// Where plugins are.
    pub(super) finder: Finder,
    limits: Limits,
    rollback: Duration,
    guard: String,
    runs: Arc<Runs>,
    look_ahead: usize,
    no_look_ahead: Vec<String>,
    concurrency: Concurrency,
}

impl Context {
    pub(super) fn new(request: &Request, config: &Config) -> Self {
        let began = Instant::now();
        let deadline = deadline::from(began, config.timeouts.total);
        Self {
            began,
            deadline,
            finder: Finder::new(&config.plugin_path(&request.cni_path)).remembering(),
            limits: Limits { plugin: Some(config.timeouts.plugin), deadline: Some(deadline) },
            rollback: config.timeouts.rollback,
            guard: format!("{} {} of {:?}", config.name, request.ifname, request.container_id),
            runs: Arc::new(Runs::new(request.traceparent.as_deref(), telemetry::may_be_listened_to(&config.state_dir))),
            look_ahead: config.look_ahead,
            no_look_ahead: config.no_look_ahead.clone(),
            concurrency: config.concurrency,
        }
    }

    /// What a change of a running container needs.
    pub(super) fn of_container(container_id: &str, timeouts: Timeouts, look_ahead: LookAhead<'_>) -> Self {
        let began = Instant::now();
        let deadline = deadline::from(began, timeouts.total);
        Self {
            began,
            deadline,
            finder: Finder::new("").remembering(),
            limits: Limits { plugin: Some(timeouts.plugin), deadline: Some(deadline) },
            rollback: timeouts.rollback,
            guard: format!("a change of {container_id:?}"),
            // For the report of what it did.
            runs: Arc::new(Runs::new(None, true)),
            look_ahead: look_ahead.plugins,
            no_look_ahead: look_ahead.except.to_vec(),
            concurrency: Concurrency::AtMost(1),
        }
    }

    /// Looks plugins up in the path of an earlier call, instead of this call's.
    pub(super) fn finder_for(&self, path: &str) -> Finder {
        if path.is_empty() { self.finder.clone() } else { Finder::new(path).remembering() }
    }

    /// A launcher that keeps `locks` until its plugins are dead.
    pub(super) fn launcher(&self, locks: Vec<Arc<File>>) -> Launcher {
        Launcher::new().with_variable(GUARD, &self.guard).holding(locks).recording(self.runs.clone())
    }

    pub(super) fn tools<'a>(&'a self, finder: &'a Finder, launcher: &'a Launcher) -> Tools<'a> {
        let look_ahead = LookAhead { plugins: self.look_ahead, except: &self.no_look_ahead };
        Tools {
            finder,
            exec: launcher,
            limits: self.limits,
            rollback: self.rollback,
            look_ahead,
            concurrency: self.concurrency,
            after: None,
        }
    }

    /// The plugins that were run so far.
    pub(super) fn runs(&self) -> &Runs {
        &self.runs
    }
}
