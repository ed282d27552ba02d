//! The journal of an attachment set: what is to be done, what was done, and what is still to be undone.
//!
//! A journal is a file of JSON lines. The first is the [`Header`] with the whole plan, made durable before the first
//! plugin gets its input. After it comes one [`Event`] a line, as steps start and end. Events are not synced: after a power
//! failure the containers are gone too, and the plan alone is enough to release what they held.
//!
//! The header's `boot` tells whether the machine has been started anew since. If so, events may be missing, and every
//! step of the plan counts as attempted.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::claim::Claim;
use super::store::{Container, Content, MAX_JOURNAL, Store, StoreError};
use crate::cni::CniError;
use crate::cni::error::code;
use crate::netns::{self, DefaultRouteChange, Sameness};
use crate::plan::Plan;

/// The format that this binary writes.
pub const FORMAT: u32 = 1;

/// The first line of a journal.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Header {
    /// The format of the journal.
    pub format: u32,
    /// When ADD began, in milliseconds since 1970.
    pub time: u64,
    /// The kernel's boot ID.
    pub boot: String,
    /// Which namespace the plan's path led to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netns_id: Option<netns::Identity>,
    /// The plan.
    pub plan: Plan,
}

/// A plugin of an attachment: their indexes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Step(pub usize, pub usize);

/// What happened.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Event {
    /// A plugin is about to run ADD.
    Start(Step),
    /// It has, and this is its result.
    Done {
        /// Which.
        step: Step,
        /// How long it took, in microseconds.
        micros: u64,
        /// The result, word for word.
        result: Box<RawValue>,
    },
    /// It failed.
    Failed {
        /// Which.
        step: Step,
        /// With what.
        error: CniError,
    },
    /// It has been undone.
    Undone(Step),
    /// It could not be undone.
    Owed {
        /// Which.
        step: Step,
        /// Why.
        error: CniError,
    },
    /// Default routes are about to be changed.
    Routes(DefaultRouteChange),
    /// They have been put back.
    RoutesUndone,
    /// ADD has ended well, and this is what the runtime got.
    Complete {
        /// How long ADD took, in microseconds.
        micros: u64,
        /// The answer.
        result: Box<RawValue>,
        /// What the results say and the namespace did not have. `None` where that is not known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        absent: Option<Vec<Claim>>,
    },
}

/// What is known of one step.
#[derive(Debug, Clone, Default)]
pub struct StepState {
    /// It was started.
    pub started: bool,
    /// It was started, and what became of it is not known or it was killed: it may have been half-way.
    pub interrupted: bool,
    /// It has been undone.
    pub undone: bool,
    /// Its result, if it had one.
    pub result: Option<Box<RawValue>>,
    /// How long it took, in microseconds.
    pub micros: Option<u64>,
    /// Why it failed.
    pub failed: Option<CniError>,
    /// Why it could not be undone.
    pub owed: Option<CniError>,
}

/// What a journal tells.
#[derive(Debug, Clone)]
pub struct State {
    /// The header.
    pub header: Header,
    /// For each attachment, each of its steps.
    pub steps: Vec<Vec<StepState>>,
    /// Changes of default routes, not put back.
    pub routes: Vec<DefaultRouteChange>,
    /// The answer, if ADD ended well.
    pub complete: Option<Box<RawValue>>,
    /// What the results say and the namespace did not have when ADD ended, if that is known.
    pub absent: Option<Vec<Claim>>,
    /// How long ADD took, in microseconds.
    pub micros: Option<u64>,
    /// How many lines could not be read.
    pub unreadable: usize,
}

impl State {
    /// The state of a plan of which nothing is done.
    pub fn new(header: Header) -> Self {
        let steps = header
            .plan
            .attachments
            .iter()
            .map(|attachment| vec![StepState::default(); attachment.network.plugins.len()])
            .collect();
        Self { header, steps, routes: Vec::new(), complete: None, absent: None, micros: None, unreadable: 0 }
    }

    /// Looks at a journal without its lock. What cannot be used is an error in words.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn peek(container: &Container, ifname: &str) -> Result<Option<Result<Self, String>>, StoreError> {
        Ok(match Journal::read(container, ifname)? {
            Opened::None | Opened::Unborn => None,
            Opened::Journal(journal) => Some(Ok(journal.state)),
            Opened::Corrupt(reason) => Some(Err(reason)),
        })
    }

    /// Reads the journal of an interface of a container: what it tells, and how many bytes of it are whole lines. There is
    /// nothing in one so early in its life that no plugin had been told anything.
    ///
    /// # Errors
    /// When it makes no sense, in words.
    pub fn parse(bytes: &[u8], container_id: &str, ifname: &str) -> Result<Option<(Self, usize)>, String> {
        let Some(end) = bytes.iter().position(|byte| *byte == b'\n') else {
            // The header's line is synced before the first plugin gets its input: without its end, none has.
            if bytes.first().is_some_and(|byte| *byte != b'{') {
                return Err("its first line is not a plan".into());
            }
            return Ok(None);
        };
        let header = read_header(&bytes[..end])?;
        let Plan { container_id: own_id, ifname: own_ifname, .. } = &header.plan;
        if own_id != container_id || own_ifname != ifname {
            return Err(format!("it is the journal of {own_ifname:?} of container {own_id:?}"));
        }
        let mut state = Self::new(header);
        let mut length = end + 1;
        while let Some(end) = bytes[length..].iter().position(|byte| *byte == b'\n') {
            match serde_json::from_slice(&bytes[length..length + end]) {
                Ok(event) => state.apply(event),
                Err(_) => state.unreadable += 1,
            }
            length += end + 1;
        }
        Ok(Some((state, length)))
    }

    /// The result of an attachment: that of the last of its steps that had one.
    pub fn result(&self, attachment: usize) -> Option<&RawValue> {
        self.steps[attachment].iter().rev().find_map(|step| step.result.as_deref())
    }

    /// Whether an attachment is there: its last step had a result and none has been undone.
    pub fn is_attached(&self, attachment: usize) -> bool {
        let steps = &self.steps[attachment];
        steps.last().is_some_and(|step| step.result.is_some()) && !steps.iter().any(|step| step.undone)
    }

    /// What is still to be undone, in the order of ADD.
    pub fn owed(&self) -> Vec<Step> {
        let may_have_run = |step: &StepState| step.started || self.lost_events();
        let steps = self.steps.iter().enumerate().flat_map(|(a, steps)| {
            let left = steps.iter().enumerate().filter(move |(_, step)| may_have_run(step) && !step.undone);
            left.map(move |(s, _)| Step(a, s))
        });
        steps.collect()
    }

    /// Whether undoing it has begun.
    pub fn is_being_undone(&self) -> bool {
        let plan = &self.header.plan;
        let required = |attachment: usize| !plan.attachments[attachment].optional;
        self.steps.iter().enumerate().any(|(a, steps)| required(a) && steps.iter().any(|step| step.undone))
    }

    /// Whether a step is refused at the door whatever is asked: its ADD failed, it could not be undone before, and now its
    /// DEL fails just as ADD did. A plugin that cannot even start its work (its parent interface is not there, it does not
    /// speak the version, it refuses an argument) has nothing to undo, and would say so for ever.
    pub fn is_refused(&self, step: Step, error: &CniError) -> bool {
        let known = &self.steps[step.0][step.1];
        known.result.is_none() && !known.interrupted && known.owed.is_some() && known.failed.as_ref() == Some(error)
    }

    /// Whether the plugin of a step made nothing because it does not speak the version: it said so of ADD, and says so of
    /// DEL.
    pub fn lacks_version(&self, step: Step, error: &CniError) -> bool {
        let known = &self.steps[step.0][step.1];
        let is_about_version = |error: &CniError| error.code == code::INCOMPATIBLE_VERSION;
        known.result.is_none() && known.failed.as_ref().is_some_and(is_about_version) && is_about_version(error)
    }

    /// The path of the namespace if it is certain that it still leads there, else nothing: the interfaces of another namespace
    /// are not ours.
    pub fn netns_if_same(&self) -> String {
        let path = &self.header.plan.netns;
        if self.compare_netns(path) == Sameness::Same { path.clone() } else { String::new() }
    }

    /// The path of the namespace for DEL, where the runtime says that it is at `path`: nothing if that leads to another
    /// namespace than ADD's, whose interfaces are not ours, or to something else. One that leads nowhere is told as it is.
    pub fn netns_for_del(&self, path: &str) -> String {
        if self.compare_netns(path) == Sameness::Different { String::new() } else { path.to_owned() }
    }

    /// Whether `path` leads to the namespace that ADD was called for.
    fn compare_netns(&self, path: &str) -> Sameness {
        match (netns::Identity::of(Path::new(path)), self.header.netns_id) {
            (Ok(now), Some(then)) => match then.compare(&now) {
                // The kernel counts from the start again.
                Sameness::Same if self.is_of_another_boot() => Sameness::Unknown,
                sameness => sameness,
            },
            _ => Sameness::Unknown,
        }
    }

    fn is_of_another_boot(&self) -> bool {
        let (then, now) = (&self.header.boot, boot_id());
        !then.is_empty() && !now.is_empty() && *then != now
    }

    /// Whether the container is gone for certain: the machine was started anew since, or its namespace's name is no longer
    /// in the directory that it was in. A directory that is not there tells nothing, it may only be out of sight.
    pub fn is_container_gone(&self) -> bool {
        let path = Path::new(&self.header.plan.netns);
        self.is_of_another_boot() || (path.parent().is_some_and(Path::is_dir) && matches!(path.try_exists(), Ok(false)))
    }

    /// Whether events may be missing.
    fn lost_events(&self) -> bool {
        self.unreadable > 0 || self.header.boot != boot_id()
    }

    fn apply(&mut self, event: Event) {
        let Step(a, s) = match &event {
            Event::Start(step)
            | Event::Undone(step)
            | Event::Done { step, .. }
            | Event::Failed { step, .. }
            | Event::Owed { step, .. } => *step,
            Event::Routes(_) | Event::RoutesUndone | Event::Complete { .. } => Step(0, 0),
        };
        let step = self.steps.get_mut(a).and_then(|steps| steps.get_mut(s));
        match (event, step) {
            (Event::Routes(change), _) => self.routes.push(change),
            (Event::RoutesUndone, _) => self.routes.clear(),
            (Event::Complete { micros, result, absent }, _) => {
                self.complete = Some(result);
                self.absent = absent;
                self.micros = Some(micros);
            }
            (_, None) => self.unreadable += 1,
            (Event::Start(_), Some(step)) => {
                step.started = true;
                step.interrupted = true;
                step.undone = false;
            }
            (Event::Failed { error, .. }, Some(step)) => {
                step.started = true;
                step.interrupted = error.code == code::TIMED_OUT;
                step.undone = false;
                step.failed = Some(error);
            }
            (Event::Done { micros, result, .. }, Some(step)) => {
                step.started = true;
                step.interrupted = false;
                step.micros = Some(micros);
                step.result = Some(result);
            }
            (Event::Undone(_), Some(step)) => {
                step.undone = true;
                step.owed = None;
            }
            (Event::Owed { error, .. }, Some(step)) => step.owed = Some(error),
        }
    }
}

/// A journal, open for more.
#[derive(Debug)]
pub struct Journal {
    file: Arc<File>,
    /// How long the readable part is.
    length: u64,
    /// What it tells so far.
    pub state: State,
    /// Lines that go with the next one.
    queued: Vec<u8>,
    /// Whether something is behind the readable part.
    is_torn: bool,
}

/// What was found where a journal should be.
#[derive(Debug)]
pub enum Opened {
    /// Nothing.
    None,
    /// A journal so early in its life that no plugin had been told anything. [`Journal::open`] removes it.
    Unborn,
    /// A journal.
    Journal(Box<Journal>),
    /// Something that cannot be used, and why.
    Corrupt(String),
}

impl Journal {
    /// Begins a journal. Before the first plugin gets its input it must be made durable: see `to_sync`.
    ///
    /// # Errors
    /// When it cannot be written; there is then none.
    pub fn begin(container: &Container, plan: &Plan, netns_id: Option<netns::Identity>) -> Result<Self, StoreError> {
        let header = Header { format: FORMAT, time: now_millis(), boot: boot_id(), netns_id, plan: plan.clone() };
        let mut file = container.create(&plan.ifname)?;
        let mut written = || -> io::Result<u64> {
            let line = line(&header)?;
            refuse_larger(line.len() as u64)?;
            file.write_all(&line)?;
            Ok(line.len() as u64)
        };
        match written() {
            Ok(length) => {
                let state = State::new(header);
                Ok(Self { file: Arc::new(file), length, state, queued: Vec::new(), is_torn: false })
            }
            Err(source) => {
                unmake(container, &plan.ifname);
                Err(StoreError::Io { action: "write", path: container.journal_path(&plan.ifname), source })
            }
        }
    }

    /// What has to be synced for a new journal to survive whatever happens to the machine: the file, its directory, and
    /// the one above that where the file system does not see to it.
    pub(super) fn to_sync(&self, store: &Store, container: &Container) -> Vec<Arc<File>> {
        let mut files = vec![Arc::clone(&self.file), container.lock_handle()];
        if !store.syncs_new_directories() {
            files.push(store.attachments_handle());
        }
        files
    }

    /// Removes a new journal that cannot be used.
    pub(super) fn unmake(self, container: &Container) {
        unmake(container, &self.state.header.plan.ifname);
    }

    /// Opens the journal of an interface. One so early in its life that no plugin had been told anything is
    /// removed.
    ///
    /// # Errors
    /// When what is there cannot be read. What can be read and makes no sense is [`Opened::Corrupt`].
    pub fn open(container: &Container, ifname: &str) -> Result<Opened, StoreError> {
        let opened = Self::read(container, ifname)?;
        if let Opened::Unborn = opened {
            container.unlink(ifname)?;
            return Ok(Opened::None);
        }
        Ok(opened)
    }

    /// Reads the journal of an interface as it is.
    fn read(container: &Container, ifname: &str) -> Result<Opened, StoreError> {
        let (file, bytes) = match container.read(ifname)? {
            Content::Missing => return Ok(Opened::None),
            Content::NotAFile => return Ok(Opened::Corrupt("it is not a regular file".into())),
            Content::File(file, bytes) => (file, bytes),
        };
        Ok(match State::parse(&bytes, container.id(), ifname) {
            Ok(None) => Opened::Unborn,
            // What follows the last line's end is what a crash left of the next, and is written over.
            Ok(Some((state, length))) => {
                let is_torn = length < bytes.len();
                Opened::Journal(Box::new(Self {
                    file: Arc::new(file),
                    length: length as u64,
                    state,
                    queued: Vec::new(),
                    is_torn,
                }))
            }
            Err(reason) => Opened::Corrupt(reason),
        })
    }

    /// Removes the journal of an interface.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn remove(container: &Container, ifname: &str) -> Result<(), StoreError> {
        container.unlink(ifname)
    }

    /// Moves what cannot be used as a journal out of the way. Returns where it is now.
    ///
    /// # Errors
    /// When it cannot be moved.
    pub fn set_aside(container: &Container, ifname: &str) -> Result<PathBuf, StoreError> {
        container.set_aside(ifname)
    }

    /// Appends an event.
    ///
    /// # Errors
    /// When it cannot be written; the journal is then as it was before.
    pub fn append(&mut self, event: Event) -> io::Result<()> {
        let before = self.queued.len();
        self.queued.extend(line(&event)?);
        let written = self.write_queued();
        match written {
            Ok(()) => self.state.apply(event),
            // What has happened is still to be written, with whatever comes next.
            Err(_) => self.queued.truncate(before),
        }
        written
    }

    /// Writes what was queued.
    ///
    /// # Errors
    /// When it cannot be written; it is then still queued.
    pub fn write_queued(&mut self) -> io::Result<()> {
        let lines = &self.queued;
        refuse_larger(self.length + lines.len() as u64)?;
        if self.is_torn {
            self.file.set_len(self.length)?;
            self.is_torn = false;
        }
        if let Err(error) = self.file.write_all(lines) {
            self.is_torn = self.file.set_len(self.length).is_err();
            return Err(error);
        }
        self.length += lines.len() as u64;
        self.queued.clear();
        Ok(())
    }

    /// Has an event written with the next, which must be about to come.
    ///
    /// # Errors
    /// When it cannot be put into words.
    pub fn queue(&mut self, event: Event) -> io::Result<()> {
        self.queued.extend(line(&event)?);
        self.state.apply(event);
        Ok(())
    }

    /// Takes note of an event whose writing may fail: losing it only means that something is undone twice.
    pub fn note(&mut self, event: Event) {
        if self.append(event.clone()).is_err() {
            self.state.apply(event);
        }
    }

    /// The journal's text, for whoever wants to see it.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn text(&mut self) -> io::Result<String> {
        let mut text = String::new();
        self.file.seek(SeekFrom::Start(0))?;
        self.file.read_to_string(&mut text)?;
        Ok(text)
    }
}

/// Removes a journal that could not be made. Why it could not is what there is to tell.
fn unmake(container: &Container, ifname: &str) {
    drop(Journal::remove(container, ifname));
}

fn read_header(line: &[u8]) -> Result<Header, String> {
    #[derive(Deserialize)]
    struct Head {
        format: u32,
    }
    let head: Head = serde_json::from_slice(line).map_err(|_| "its first line is not a plan".to_owned())?;
    if head.format > FORMAT {
        return Err(format!("its format is {}, and this braid reads up to {FORMAT}", head.format));
    }
    serde_json::from_slice(line).map_err(|_| "its first line is not a plan of its format".to_owned())
}

/// A journal that could be written and not be read again would lose what it tells of.
fn refuse_larger(length: u64) -> io::Result<()> {
    if length > MAX_JOURNAL {
        return Err(io::Error::other(format!("it would be larger than {} MiB", MAX_JOURNAL >> 20)));
    }
    Ok(())
}

/// One line of JSON. What came in as text may hold line breaks between its tokens, and nowhere else.
fn line(value: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(value)?;
    for byte in &mut line {
        if matches!(byte, b'\n' | b'\r') {
            *byte = b' ';
        }
    }
    line.push(b'\n');
    Ok(line)
}

fn now_millis() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// The kernel's boot ID; empty where it cannot be read.
fn boot_id() -> String {
    static BOOT: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    BOOT.get_or_init(|| {
        let mut text = [0; 64];
        let read = File::open("/proc/sys/kernel/random/boot_id").and_then(|mut file| file.read(&mut text));
        String::from_utf8_lossy(&text[..read.unwrap_or(0)]).trim().to_owned()
    })
    .clone()
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: &[u8] = include_bytes!("../../tests/fuzz/seeds/journal/whole.jsonl");

    /// A crash leaves any beginning of a journal. Whatever whole lines it has are read, and a step that one of them says was
    /// started and none says was undone is owed.
    #[test]
    fn a_journal_torn_at_any_byte_is_read_as_far_as_it_goes() {
        let header = WHOLE.iter().position(|byte| *byte == b'\n').unwrap() + 1;
        for cut in 0..=WHOLE.len() {
            let torn = &WHOLE[..cut];
            let read = State::parse(torn, "c", "eth0").unwrap_or_else(|error| panic!("{cut}: {error}"));
            let Some((state, length)) = read else {
                assert!(cut < header, "{cut}");
                continue;
            };
            let whole = torn.iter().rposition(|byte| *byte == b'\n').unwrap() + 1;
            assert_eq!(length, whole, "{cut}");
            let lines = String::from_utf8_lossy(&torn[..whole]).into_owned();
            let is_owed = |step: Step| state.owed().contains(&step);
            assert!(!lines.contains("start") || is_owed(Step(0, 0)), "{cut}");
            assert_eq!(is_owed(Step(0, 1)), !lines.contains("undone"), "{cut}: not of this boot, so every step counts");
        }
    }
}
