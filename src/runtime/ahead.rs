//! Looking ahead: while one plugin of a call runs, the next ones are started and wait for their input.
//!
//! A plugin does nothing before it has its input, and everything else about its call is known in advance: the executable, the
//! operation, and the `CNI_*` variables. So its start-up can overlap with the run of the plugin before it. The caller announces the
//! calls to come, in order ([`Ahead::expect`]), and [`Ahead`] runs each call as any [`Exec`] does. A call uses a waiting process
//! only if everything but the input is the same. So a wrong expectation costs a process, which is killed, and never causes a wrong
//! call.

use std::io;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use rustix::process::{Resource, getrlimit};

use super::chain::{Attachment, Chain};
use super::exec::{Call, Exec, PluginError, Stdout, Waiting};
use super::launcher::{DiskWork, Durable};
use super::together::processors;
use crate::cni::Verb;
use crate::cni::config::PluginConfig;

/// Plugins that act before they have read their input, so they are never started ahead: `azure-vnet` and its IPAM plugin first take
/// the lock of a store that the whole node shares, and keep it until they exit.
pub const ACT_BEFORE_INPUT: [&str; 2] = ["azure-vnet", "azure-vnet-ipam"];
/// The plugins that wait may use one part in this many of the descriptors that this process may open. Each uses a few.
const DESCRIPTORS_FOR_EACH: u64 = 16;

/// How far a call looks ahead.
#[derive(Debug, Clone, Copy, Default)]
pub struct LookAhead<'a> {
    /// How many of the next plugins may wait for their input while one runs. With 0 each is started when its turn comes.
    pub plugins: usize,
    /// Plugin types that are never started ahead, in addition to [`ACT_BEFORE_INPUT`].
    pub except: &'a [String],
}

impl LookAhead<'_> {
    fn leaves_out(&self, plugin_type: &str) -> bool {
        ACT_BEFORE_INPUT.contains(&plugin_type) || self.except.iter().any(|except| except == plugin_type)
    }
}

/// The next plugins of a call, started and waiting. Dropping it kills those that still wait.
pub struct Ahead<'a> {
    exec: &'a dyn Exec,
    look: LookAhead<'a>,
    queue: Mutex<Queue<'a>>,
}

impl std::fmt::Debug for Ahead<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ahead").field("look", &self.look).finish_non_exhaustive()
    }
}

#[derive(Default)]
struct Queue<'a> {
    /// In the order in which they are expected.
    coming: Vec<Coming<'a>>,
    expected: usize,
    /// The limit on all waiting plugins together.
    most: usize,
}

/// A call that is expected.
struct Coming<'a> {
    /// Its place among all calls that were expected.
    place: usize,
    of: Of,
    executable: PathBuf,
    verb: Verb,
    environment: Vec<(&'static str, String)>,
    process: Process<'a>,
}

enum Process<'a> {
    /// It may be started ahead.
    NotYet,
    /// It is started only when its turn comes.
    InTurn,
    Waiting(Box<dyn Waiting + 'a>),
}

/// Which step an expected call belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Of {
    /// The network, as the caller counts them.
    pub network: usize,
    /// The plugin's index in its chain.
    pub step: usize,
}

impl<'a> Ahead<'a> {
    /// Looks ahead by what `exec` starts, for a call in which `at_once` plugins may run at the same time. No more are started ahead
    /// than processors can start meanwhile.
    pub fn new(exec: &'a dyn Exec, look: LookAhead<'a>, at_once: usize) -> Self {
        let at_once = if at_once > 1 { at_once.min(processors()) } else { at_once };
        let most = look.plugins.saturating_mul(at_once).min(room());
        Self { exec, look, queue: Mutex::new(Queue { most, ..Queue::default() }) }
    }

    /// Adds expected calls after the existing ones: `verb` of the plugins at `steps` of a chain, in this order. [`Self::give_up`]
    /// takes `network`.
    pub fn expect(
        &self,
        network: usize,
        chain: &Chain<'_>,
        verb: Verb,
        steps: impl Iterator<Item = usize>,
        attachment: Option<&Attachment>,
    ) {
        if self.look.plugins == 0 {
            return;
        }
        let environment = chain.environment(attachment);
        let mut queue = self.lock();
        for step in steps {
            let Some(plugin_type) = chain.network.plugins.get(step).map(PluginConfig::plugin_type) else { continue };
            // A missing plugin is reported when its turn comes.
            let Ok(executable) = chain.finder.find(plugin_type) else { continue };
            let environment = environment.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
            let process = if self.look.leaves_out(plugin_type) { Process::InTurn } else { Process::NotYet };
            let place = queue.expected;
            queue.expected += 1;
            queue.coming.push(Coming { place, of: Of { network, step }, executable, verb, environment, process });
        }
    }

    /// Expects no more calls of `network`, and kills its waiting plugins. Returns the steps whose plugin has exited with success
    /// without its input. Such a plugin did not wait, and what it did must be undone.
    pub fn give_up(&self, network: usize) -> Vec<Of> {
        self.end(|coming| coming.of.network == network)
    }

    /// Does the same for all networks.
    pub fn give_up_all(&self) -> Vec<Of> {
        self.end(|_| true)
    }

    fn end(&self, which: impl Fn(&Coming<'_>) -> bool) -> Vec<Of> {
        let ended: Vec<Coming<'_>> = {
            let mut queue = self.lock();
            let (ended, kept) = std::mem::take(&mut queue.coming).into_iter().partition(which);
            queue.coming = kept;
            ended
        };
        let has_acted =
            |coming: &Coming<'_>| matches!(&coming.process, Process::Waiting(plugin) if plugin.has_succeeded());
        // Dropping `ended` kills the waiting plugins.
        ended.iter().filter(|coming| has_acted(coming)).map(|coming| coming.of).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Queue<'a>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts plugins that come after the one at `place`, until the limit is reached.
    fn start_next(&self, place: usize) {
        let mut queue = self.lock();
        let mut room = queue.most.saturating_sub(queue.coming.iter().filter(|coming| coming.is_waiting()).count());
        let next = queue.most;
        for coming in queue.coming.iter_mut().filter(|coming| coming.place > place).take(next) {
            if room == 0 {
                break;
            }
            if let Process::NotYet = coming.process {
                // If a plugin cannot be started now, its turn will report the error.
                coming.process = coming.start(self.exec).map_or(Process::InTurn, Process::Waiting);
                room -= usize::from(coming.is_waiting());
            }
        }
    }

    /// Kills all waiting plugins and starts no others. Returns whether there were any.
    fn make_room(&self) -> bool {
        let mut queue = self.lock();
        queue.most = 0;
        let waiting = queue.coming.iter_mut().filter(|coming| coming.is_waiting());
        waiting.map(|coming| coming.process = Process::InTurn).count() > 0
    }
}

impl Exec for Ahead<'_> {
    fn run(&self, call: &Call<'_>) -> Result<Stdout, PluginError> {
        let taken = {
            let mut queue = self.lock();
            let at = queue.coming.iter().position(|coming| coming.is(call));
            at.map(|at| queue.coming.remove(at))
        };
        let Some(Coming { place, process, .. }) = taken else { return self.exec.run(call) };
        let mut meanwhile = || self.start_next(place);
        if let Process::Waiting(plugin) = process {
            return plugin.run_meanwhile(call, &mut meanwhile);
        }
        match self.exec.run_meanwhile(call, &mut meanwhile) {
            // The waiting plugins may use up the resources that this one lacks.
            Err(PluginError::Start { source, .. }) if lacks_room(&source) && self.make_room() => {
                self.exec.run_meanwhile(call, &mut meanwhile)
            }
            outcome => outcome,
        }
    }

    fn sync(&self, verb: Verb, work: &[DiskWork]) -> io::Result<Durable> {
        self.exec.sync(verb, work)
    }
}

impl Coming<'_> {
    fn is_waiting(&self) -> bool {
        matches!(self.process, Process::Waiting(_))
    }

    /// Whether it is the same call, apart from the input, which is not known yet.
    fn is(&self, call: &Call<'_>) -> bool {
        let own = self.environment.iter().map(|(name, value)| (*name, value.as_str()));
        self.verb == call.verb && self.executable == call.executable && own.eq(call.environment.iter().copied())
    }
}

impl<'a> Coming<'a> {
    fn start(&self, exec: &'a dyn Exec) -> Option<Box<dyn Waiting + 'a>> {
        let environment: Vec<_> = self.environment.iter().map(|(name, value)| (*name, value.as_str())).collect();
        exec.start_ahead(&Call {
            executable: &self.executable,
            verb: self.verb,
            step: self.of.step,
            environment: &environment,
            stdin: &[],
            deadline: None,
            after: None,
        })
    }
}

/// How many plugins may wait, so that enough descriptors are left for everything else.
fn room() -> usize {
    let most = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    usize::try_from(most / DESCRIPTORS_FOR_EACH).unwrap_or(usize::MAX)
}

/// Whether the error means that a resource shared by processes has run out.
fn lacks_room(error: &io::Error) -> bool {
    let lacking = [Errno::EMFILE, Errno::ENFILE, Errno::EAGAIN, Errno::ENOMEM];
    error.raw_os_error().is_some_and(|errno| lacking.contains(&Errno::from_raw(errno)))
}
