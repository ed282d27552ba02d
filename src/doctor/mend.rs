//! What `--fix` and `--forget` do. Before anything is undone, released or removed, it is checked once more.
//!
//! Braid's own records are mended while the state directory is locked exclusively, as GC locks it, so that no ADD or DEL of
//! Braid is under way. For a cached result, DEL is called as a runtime would call it. That needs to happen without the lock,
//! because it may call Braid. A pool of host-local is locked as host-local itself locks it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};
use std::{io, thread};

use super::attached::{Attached, ContainerState, LOCK_TIMEOUT};
use super::records::{Reservation, ResultRecord};
use super::running::Running;
use super::{Examined, Finding, Kind, Mending, Node, Places, claims, examine, rules};
use crate::config::{Concurrency, Timeouts};
use crate::netns::Netns;
use crate::request::GUARD;
use crate::runtime::chain::Limits;
use crate::runtime::{Finder, Launcher, LookAhead, Networks, deadline};
use crate::transaction::multus::{Asking, MultusState};
use crate::transaction::{
    Debt, DebtId, Journal, Opened, ReleasedClaims, Sharing, Store, StoreError, Tools, remove_undone, undo,
};

/// How long an interface or a rule must be without an owner. A plugin takes less time to make it and to give it to its container.
const PAUSE: Duration = Duration::from_secs(5);

/// The outcome of mending a finding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It is mended. The text says what was done.
    Mended(String),
    /// It is left as it was. The text says why.
    Left(String),
}

/// A finding that was to be mended.
#[derive(Debug, Clone)]
pub struct Mended {
    /// The finding.
    pub finding: Finding,
    /// Whether it was mended.
    pub outcome: Outcome,
}

/// The outcome of one attempt: what was done, or why nothing was done.
type Attempt = Result<String, String>;

/// Mends those of the findings of an examination that are safe to mend, except for `attempted`.
pub fn mend(places: &Places, min_age: Duration, examined: &Examined, attempted: &[Mended]) -> Vec<Mended> {
    let is_new = |finding: &&Finding| !attempted.iter().any(|mended| mended.finding.is_same(finding));
    let safe = examined.findings.iter().filter(|finding| finding.mending == Mending::Safe).filter(is_new);
    let safe: Vec<&Finding> = safe.collect();
    let of_kinds = |kinds: &[Kind]| -> Vec<&Finding> {
        safe.iter().filter(|finding| kinds.contains(&finding.kind)).copied().collect()
    };
    let mender = Mender { places, min_age, node: &examined.node };
    let mut all = mender.mend_results(&of_kinds(&[Kind::ResultStale]));
    all.extend(mender.mend_records(&of_kinds(&[Kind::ContainerGone, Kind::Debt])));
    all.extend(mender.mend_claims(&of_kinds(&[Kind::ClaimStatusLeft])));
    all.extend(mender.mend_unaccounted(&of_kinds(&[Kind::AddressLeaked, Kind::RuleLeaked, Kind::InterfaceOrphaned])));
    all
}

/// Forgets a debt.
///
/// # Errors
/// When there is no such debt, or it cannot be removed.
pub fn forget(state_dirs: &[PathBuf], id: &DebtId) -> Result<(), ForgetError> {
    for state_dir in state_dirs {
        let until = deadline::after(LOCK_TIMEOUT);
        let Some(store) = Store::open_existing(state_dir, Sharing::Shared, until)? else { continue };
        if let Some(debt) = Debt::open(&store, id, until)? {
            return Ok(debt.forget()?);
        }
    }
    Err(ForgetError::None(id.clone()))
}

/// Why a debt cannot be forgotten.
#[derive(Debug, thiserror::Error)]
pub enum ForgetError {
    /// There is no such debt.
    #[error("there is no debt {0}; `braid list` shows those that there are")]
    None(DebtId),
    /// The state directory or the debt's file cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Mends the findings of one examination.
struct Mender<'a> {
    places: &'a Places,
    min_age: Duration,
    /// The node as it was when the findings were made.
    node: &'a Node,
}

impl Mender<'_> {
    fn mend_results(&self, findings: &[&Finding]) -> Vec<Mended> {
        let Some(running) = (!findings.is_empty()).then(read_running).flatten() else { return Vec::new() };
        let attached = Attached::read(&self.node.state_dirs);
        attempt_each(findings, |finding| {
            let result = self.node.results.iter().find(|result| result.id() == finding.subject);
            let mut result = result.ok_or("it is not there any more")?.clone();
            result.target = result.look_for_netns();
            match result.container_state(&running, &attached) {
                ContainerState::Gone => self.mend_result(&result, &attached),
                ContainerState::Alive => Err("its container may live".into()),
            }
        })
    }

    /// Calls DEL of a result's network as libcni would, and removes the result.
    fn mend_result(&self, one: &ResultRecord, attached: &Attached) -> Attempt {
        let id = &one.cached.container_id;
        let remove = || {
            let cache = crate::runtime::cache::Cache::new(&one.cache_dir);
            cache.remove(&one.cached.network_name, id, &one.cached.if_name).map_err(|error| error.to_string())
        };
        let Ok(network) = one.cached.network() else {
            return remove().map(|()| "removed it; its configuration cannot be read, so no DEL was called".into());
        };
        if network.plugins.iter().any(|plugin| ["multus", "multus-shim"].contains(&plugin.plugin_type())) {
            let undone = self.undo_multus(one)?;
            return remove().map(|()| format!("{undone}removed it"));
        }
        let own = attached.journals.iter().find(|journal| journal.container_id() == id);
        let path = own.map(|journal| journal.state.header.plan.path.as_str()).filter(|path| !path.is_empty());
        let finder = path.map_or_else(|| self.places.finder.clone(), Finder::new);
        let networks = Networks::new("").with_finder(finder).with_cache_dir(&one.cache_dir);
        if let Err(error) = networks.executables(&network) {
            return remove().map(|()| format!("removed it; no DEL was called: {error}"));
        }
        let mut attachment = one.cached.attachment();
        attachment.netns.clear();
        let deleted = networks.del(&network, &attachment).map_err(|error| error.to_string());
        deleted.map(|()| format!("called DEL of network {:?} and removed it", network.name))
    }

    fn undo_multus(&self, one: &ResultRecord) -> Attempt {
        let asking =
            Asking { container_id: &one.cached.container_id, ifname: &one.cached.if_name, netns: "", args: "" };
        let state = MultusState::read(&self.places.multus_dir, asking).map_err(|error| error.to_string())?;
        let Some(state) = state else { return Ok(String::new()) };
        let launcher = Launcher::new();
        let failures = state.undo(tools(&self.places.finder, &launcher, deadline::after(Timeouts::default().total)));
        if !failures.is_empty() {
            let failures: Vec<_> = failures.iter().map(|(label, error)| format!("{label}: {error}")).collect();
            return Err(failures.join("; "));
        }
        state.remove().map_err(|error| error.to_string())?;
        Ok("undid what Multus had attached, and ".into())
    }

    /// Undoes what Braid's own records name.
    fn mend_records(&self, findings: &[&Finding]) -> Vec<Mended> {
        if findings.is_empty() {
            return Vec::new();
        }
        let mut all = Vec::new();
        for state_dir in &self.node.state_dirs {
            let is_here = |finding: &&&Finding| self.directory_of(finding) == Some(state_dir);
            let findings: Vec<&Finding> = findings.iter().filter(is_here).copied().collect();
            if findings.is_empty() {
                continue;
            }
            match Store::open_existing(state_dir, Sharing::Exclusive, deadline::after(Timeouts::default().total)) {
                Ok(Some(store)) => all.extend(self.mend_in_store(&store, &findings)),
                Ok(None) => all.extend(attempt_each(&findings, |_| Err("it is not there any more".into()))),
                Err(error) => all.extend(attempt_each(&findings, |_| Err(error.to_string()))),
            }
        }
        all
    }

    fn directory_of(&self, finding: &Finding) -> Option<&PathBuf> {
        let attached = &self.node.attached;
        if finding.kind == Kind::Debt {
            let debt = attached.debts.iter().find(|debt| debt.id.to_string() == finding.subject);
            return debt.map(|debt| &debt.state_dir);
        }
        attached.journals.iter().find(|journal| journal.id() == finding.subject).map(|journal| &journal.state_dir)
    }

    fn mend_in_store(&self, store: &Store, findings: &[&Finding]) -> Vec<Mended> {
        let until = deadline::after(Timeouts::default().total);
        let launcher = Launcher::new().with_variable(GUARD, "braid doctor").holding(vec![store.lock_handle()]);
        let Some(running) = read_running() else { return Vec::new() };
        let mut attached = Attached::default();
        attached.read_store(store);
        attempt_each(findings, |finding| {
            if Instant::now() >= until {
                return Err("there was no time left for it; run this again".into());
            }
            if finding.kind == Kind::Debt {
                return self.mend_debt(store, &finding.subject, &launcher, until);
            }
            match attached.journals.iter().find(|journal| journal.id() == finding.subject) {
                None => Ok("undone with its cached result".into()),
                Some(journal) if journal.container_state(&running) == ContainerState::Gone => {
                    let plan = &journal.state.header.plan;
                    self.mend_journal(store, (&plan.container_id, &plan.ifname), &launcher, until)
                }
                Some(_) => Err("its container may live".into()),
            }
        })
    }

    fn mend_journal(&self, store: &Store, (id, ifname): (&str, &str), launcher: &Launcher, until: Instant) -> Attempt {
        let text = |error: StoreError| error.to_string();
        let Some(container) = store.existing_container(id, until).map_err(text)? else {
            return Ok("it was undone meanwhile".into());
        };
        let outcome = match Journal::open(&container, ifname).map_err(text)? {
            Opened::None | Opened::Unfinished => Ok("it was undone meanwhile".into()),
            Opened::Corrupt(reason) => Err(format!("its journal cannot be used: {reason}")),
            Opened::Journal(mut journal) => {
                let finder = self.finder_for(&journal.state.header.plan.path);
                let failures = undo(&mut journal, tools(&finder, launcher, until), "");
                if failures.is_empty() {
                    remove_undone(store, &container, &journal.state).map_err(text)?;
                    Ok("undid its attachments".into())
                } else {
                    Err(failures.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
                }
            }
        };
        container.tidy();
        outcome
    }

    fn mend_debt(&self, store: &Store, id: &str, launcher: &Launcher, until: Instant) -> Attempt {
        let id: DebtId = id.parse().map_err(|error: <DebtId as std::str::FromStr>::Err| error.to_string())?;
        let Some(mut debt) = Debt::open(store, &id, until).map_err(|error| error.to_string())? else {
            return Ok("it was undone meanwhile".into());
        };
        let path = debt.state().map(|state| state.header.plan.path.clone()).unwrap_or_default();
        let finder = self.finder_for(&path);
        let failures = debt.retry(tools(&finder, launcher, until));
        if failures.is_empty() {
            return Ok("undid what was owed".into());
        }
        Err(failures.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
    }

    fn finder_for(&self, path: &str) -> Finder {
        if path.is_empty() { self.places.finder.clone() } else { Finder::new(path) }
    }

    /// Takes back the status of the resource claims of pods, except for pods of which a container is attached by now.
    fn mend_claims(&self, findings: &[&Finding]) -> Vec<Mended> {
        attempt_each(findings, |finding| {
            let mut notes = self.node.claims.iter();
            let one = notes.find(|one| one.released.uid == finding.subject).ok_or("it is not there any more")?;
            let until = deadline::after(Timeouts::default().total);
            let store =
                Store::open_existing(&one.state_dir, Sharing::Exclusive, until).map_err(|error| error.to_string())?;
            let mut attached = Attached::default();
            if let Some(store) = &store {
                attached.read_store(store);
            }
            if claims::has_container(&attached, &one.released.uid) {
                return Err("a container of its pod is attached".into());
            }
            let kubeconfig = claims::kubeconfig(self.node, &one.state_dir).ok_or("there is no kubeconfig")?;
            take_back_claims(kubeconfig, &one.released)?;
            one.released.forget(&one.state_dir).map_err(|error| error.to_string())?;
            Ok("took it back".into())
        })
    }

    /// Mends what no record accounts for, if another examination finds the same.
    fn mend_unaccounted(&self, findings: &[&Finding]) -> Vec<Mended> {
        if findings.is_empty() {
            return Vec::new();
        }
        // The age of an address is known, so only other findings need the pause.
        if findings.iter().any(|finding| finding.kind != Kind::AddressLeaked) {
            thread::sleep(PAUSE);
        }
        let node = match Node::read(self.places) {
            Ok(node) => node,
            Err(error) => return attempt_each(findings, |_| Err(error.to_string())),
        };
        let current = examine(&node, self.min_age);
        attempt_each(findings, |finding| {
            let is_still_found = current.iter().any(|seen| seen.is_same(finding) && seen.mending == Mending::Safe);
            if !is_still_found {
                return Err("another look at the node does not find it any more".into());
            }
            match finding.kind {
                Kind::AddressLeaked => self.release_address(Path::new(&finding.subject), &node),
                Kind::RuleLeaked => rules::remove(&finding.subject, &node),
                _ => self.remove_interface(&finding.subject, &node),
            }
        })
    }

    /// Releases an address as host-local would: with its pool locked.
    fn release_address(&self, file: &Path, node: &Node) -> Attempt {
        let text = |error: io::Error| error.to_string();
        let seen = node.reservations.iter().find(|one| one.file() == file).ok_or("it is not there any more")?;
        let lock = lock_pool(&seen.pool)?;
        let now = Reservation::read(file, node.now).ok_or("it is not there any more")?;
        if now != *seen {
            return Err("it was given to another container meanwhile".into());
        }
        if seen.age.is_none() && !self.min_age.is_zero() {
            // Its age is unknown. Its file gets the present time, so that its age is known from now on.
            let dated = File::options().append(true).open(file).and_then(|file| file.set_modified(SystemTime::now()));
            dated.map_err(text)?;
            return Err(format!(
                "its file has a time in the future, because the clock was set back; the file now has the present time, and \
                 --fix releases the address in {} s",
                self.min_age.as_secs()
            ));
        }
        fs::remove_file(file).map_err(text)?;
        drop(lock);
        Ok("released it".into())
    }

    fn remove_interface(&self, name: &str, node: &Node) -> Attempt {
        let of =
            |node: &Node| node.links.iter().find(|device| device.link.name == name).map(|device| device.link.clone());
        let (Some(before), Some(now)) = (of(self.node), of(node)) else {
            return Err("it is not there any more".into());
        };
        if before.index != now.index {
            return Err("it is another interface of that name".into());
        }
        let removed = Netns::current().and_then(|mut host| host.remove_link(&now));
        removed.map(|()| "removed it".into()).map_err(|error| error.to_string())
    }
}

#[cfg(feature = "kubernetes")]
fn take_back_claims(kubeconfig: &Path, released: &ReleasedClaims) -> Result<(), String> {
    crate::source::kubernetes::node::take_back_claims(kubeconfig, &released.namespace, &released.claims, &released.uid)
        .map_err(|error| error.to_string())
}

#[cfg(not(feature = "kubernetes"))]
fn take_back_claims(_: &Path, _: &ReleasedClaims) -> Result<(), String> {
    Err("this braid is built without Kubernetes".into())
}

fn read_running() -> Option<Running> {
    Netns::current().ok().map(|mut host| Running::read(&mut host))
}

fn tools<'a>(finder: &'a Finder, launcher: &'a Launcher, until: Instant) -> Tools<'a> {
    let timeouts = Timeouts::default();
    let limits = Limits { plugin: Some(timeouts.plugin), deadline: Some(until) };
    // Undoing may take as long as a rollback.
    Tools {
        finder,
        exec: launcher,
        limits,
        rollback: timeouts.rollback,
        look_ahead: LookAhead::default(),
        concurrency: Concurrency::AtMost(1),
        after: None,
    }
}

/// Locks a pool of host-local.
fn lock_pool(pool: &Path) -> Result<File, String> {
    let path = pool.join("lock");
    let failed = |error: io::Error| format!("{}: {error}", path.display());
    // host-local makes this file with its first address.
    let file = File::options().read(true).append(true).create(true).open(&path).map_err(failed)?;
    let until = deadline::after(LOCK_TIMEOUT);
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(fs::TryLockError::WouldBlock) if Instant::now() < until => thread::sleep(Duration::from_millis(10)),
            Err(error) => return Err(format!("{}: {error}", path.display())),
        }
    }
}

fn attempt_each(findings: &[&Finding], attempt: impl FnMut(&Finding) -> Attempt) -> Vec<Mended> {
    let mut attempt = attempt;
    let outcomes = findings.iter().map(|finding| {
        let outcome = match attempt(finding) {
            Ok(done) => Outcome::Mended(done),
            Err(why) => Outcome::Left(why),
        };
        Mended { finding: (*finding).clone(), outcome }
    });
    outcomes.collect()
}
