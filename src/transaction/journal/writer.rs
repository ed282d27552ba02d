//! Journals on disk.

use std::fs::File;
use std::io::{self, Write};
use std::sync::Arc;

use super::format::{CHANGED_FORMAT, Checksum, Event, FORMAT, Header, boot_id, encode, now_millis};
use super::reader::{Reading, read};
use super::state::State;
use crate::netns;
use crate::plan::Plan;
use crate::transaction::store::{Container, Content, JournalFile, MAX_JOURNAL, Store, StoreError};

/// A journal, open for more.
#[derive(Debug)]
pub struct Journal {
    file: Arc<File>,
    /// How long the readable part is.
    length: u64,
    /// What it says so far.
    pub state: State,
    /// Lines that go with the next one.
    queued: Vec<u8>,
    /// The checksum of the last line, queued ones included.
    checksum: Checksum,
    /// Whether something is behind the readable part.
    is_torn: bool,
}

/// What was found where a journal should be.
#[derive(Debug)]
pub enum Opened {
    /// Nothing.
    None,
    /// The beginning of a first line: no plugin had got its input. [`Journal::open`] removes it.
    Unfinished,
    /// A journal.
    Journal(Box<Journal>),
    /// Something that cannot be used, and why.
    Corrupt(String),
}

/// A journal that cannot be written is opened for reading alone, and the kernel then says no more than that of a write.
fn unwritable(error: io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(nix::libc::EBADF | nix::libc::EINVAL) => io::Error::other("it can only be read"),
        _ => error,
    }
}

impl Journal {
    /// Begins a journal. Before the first plugin gets its input it must be made durable: see `to_sync`.
    ///
    /// # Errors
    /// When it cannot be written; there is then none.
    pub fn begin(container: &Container, plan: &Plan, netns_id: Option<netns::Identity>) -> Result<Self, StoreError> {
        let header =
            Header { format: FORMAT, time: now_millis(), boot: boot_id().into(), netns_id, plan: plan.clone() };
        let place = container.journal(&plan.ifname);
        let mut file = place.create()?;
        let mut checksum = Checksum::default();
        let mut written = || -> io::Result<u64> {
            let line = encode(&header, &mut checksum)?;
            refuse_larger(line.len() as u64)?;
            file.write_all(&line)?;
            Ok(line.len() as u64)
        };
        match written() {
            Ok(length) => {
                let (file, state) = (Arc::new(file), State::new(header));
                Ok(Self { file, length, state, queued: Vec::new(), checksum, is_torn: false })
            }
            Err(source) => {
                // Why it could not be made is what there is to report.
                drop(place.remove());
                Err(StoreError::Io { action: "write", path: place.path(), source })
            }
        }
    }

    /// What has to be synced for a new journal to survive whatever happens to the machine: the file, its directory, and
    /// the one above that where the file system does not see to it.
    pub(in crate::transaction) fn to_sync(&self, store: &Store, container: &Container) -> Vec<Arc<File>> {
        let mut files = vec![Arc::clone(&self.file), container.lock_handle()];
        if !store.syncs_new_directories() {
            files.push(store.attachments_handle());
        }
        files
    }

    /// Opens the journal of an interface. One that ends within its first line is removed.
    ///
    /// # Errors
    /// When what is there cannot be read. What can be read and makes no sense is [`Opened::Corrupt`].
    pub fn open(container: &Container, ifname: &str) -> Result<Opened, StoreError> {
        let opened = Self::look(container, ifname)?;
        if let Opened::Unfinished = opened {
            container.journal(ifname).remove()?;
            return Ok(Opened::None);
        }
        Ok(opened)
    }

    /// Opens the journal of an interface as it is, for which the container need not be locked.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn look(container: &Container, ifname: &str) -> Result<Opened, StoreError> {
        let opened = Self::open_file(&container.journal(ifname))?;
        if let Opened::Journal(journal) = &opened {
            let Plan { container_id: own_id, ifname: own_ifname, .. } = &journal.state.header.plan;
            if own_id != container.id() || own_ifname != ifname {
                let reason = format!("it is the journal of {own_ifname:?} of container {own_id:?}");
                return Ok(Opened::Corrupt(reason));
            }
        }
        Ok(opened)
    }

    /// Opens a journal wherever it is.
    pub(in crate::transaction) fn open_file(place: &JournalFile) -> Result<Opened, StoreError> {
        let (file, bytes) = match place.read()? {
            Content::Missing => return Ok(Opened::None),
            Content::NotAFile => return Ok(Opened::Corrupt("it is not a regular file".into())),
            Content::File(file, bytes) => (Arc::new(file), bytes),
        };
        Ok(match read(&bytes) {
            Ok(None) => Opened::Unfinished,
            // What follows the last line's end is what a crash left of the next, and is written over.
            Ok(Some(Reading { state, length, checksum })) => {
                let is_torn = length < bytes.len();
                let length = length as u64;
                Opened::Journal(Box::new(Self { file, length, state, queued: Vec::new(), checksum, is_torn }))
            }
            Err(reason) => Opened::Corrupt(reason),
        })
    }

    /// Writes a journal anew that changes have made long. Attachments that were detached are not in it any more, so that the
    /// others may have other places.
    ///
    /// # Errors
    /// When it cannot be written; the journal is then as it was before.
    pub fn shorten(&mut self, container: &Container) -> Result<(), StoreError> {
        if self.length > LONG
            && let Some((header, kept)) = self.state.condensed()
        {
            *self = Self::write_anew(&container.journal(&self.state.header.plan.ifname), header, kept)?;
        }
        Ok(())
    }

    /// Begins a change: writes these events, and returns what has to be synced before its first plugin gets its input. A journal
    /// that tells of no change yet is written anew in the format that can.
    ///
    /// # Errors
    /// When it cannot be written; the journal is then as it was before.
    pub(in crate::transaction) fn begin_change(
        &mut self,
        container: &Container,
        events: Vec<Event>,
    ) -> Result<Vec<Arc<File>>, StoreError> {
        let place = container.journal(&self.state.header.plan.ifname);
        let io = |source| StoreError::Io { action: "write", path: place.path(), source };
        if self.state.header.format < CHANGED_FORMAT
            && let Some((header, kept)) = self.state.condensed()
        {
            *self = Self::write_anew(&place, header, kept)?;
        }
        let before = (self.queued.len(), self.checksum);
        let encoded = events.iter().try_for_each(|event| {
            self.queued.extend(encode(event, &mut self.checksum)?);
            Ok(())
        });
        if let Err(error) = encoded.and_then(|()| self.write_queued()) {
            self.queued.truncate(before.0);
            self.checksum = before.1;
            return Err(io(error));
        }
        for event in events {
            self.apply(event);
        }
        Ok(vec![Arc::clone(&self.file), container.lock_handle()])
    }

    /// Writes a journal beside the one that is there, syncs it, and puts it in its place.
    fn write_anew(place: &JournalFile, header: Header, events: Vec<Event>) -> Result<Self, StoreError> {
        let beside = place.beside();
        beside.remove()?;
        let mut file = beside.create()?;
        let mut checksum = Checksum::default();
        let mut written = || -> io::Result<u64> {
            let mut text = encode(&header, &mut checksum)?;
            for event in &events {
                text.extend(encode(event, &mut checksum)?);
            }
            refuse_larger(text.len() as u64)?;
            file.write_all(&text)?;
            file.sync_data()?;
            Ok(text.len() as u64)
        };
        let outcome = written().map_err(|source| StoreError::Io { action: "write", path: beside.path(), source });
        let length = outcome.and_then(|length| beside.replace(place).map(|()| length)).inspect_err(|_| {
            drop(beside.remove());
        })?;
        let mut state = State::new(header);
        for event in events {
            let applied = state.apply(event);
            debug_assert!(applied.is_ok(), "the events are of the plan");
        }
        Ok(Self { file: Arc::new(file), length, state, queued: Vec::new(), checksum, is_torn: false })
    }

    /// Appends an event.
    ///
    /// # Errors
    /// When it cannot be written; the journal is then as it was before.
    pub fn append(&mut self, event: Event) -> io::Result<()> {
        let before = (self.queued.len(), self.checksum);
        self.queued.extend(encode(&event, &mut self.checksum)?);
        let written = self.write_queued();
        if written.is_ok() {
            self.apply(event);
        } else {
            // What has happened is still to be written, with whatever comes next.
            self.queued.truncate(before.0);
            self.checksum = before.1;
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
            self.file.set_len(self.length).map_err(unwritable)?;
            self.is_torn = false;
        }
        if let Err(error) = (&*self.file).write_all(lines) {
            self.is_torn = self.file.set_len(self.length).is_err();
            return Err(unwritable(error));
        }
        self.length += lines.len() as u64;
        self.queued.clear();
        Ok(())
    }

    /// Has an event written with the next, which must be about to come.
    ///
    /// # Errors
    /// When it cannot be encoded.
    pub fn queue(&mut self, event: Event) -> io::Result<()> {
        self.queued.extend(encode(&event, &mut self.checksum)?);
        self.apply(event);
        Ok(())
    }

    /// Takes note of an event whose writing may fail: losing it only means that something is undone twice.
    pub fn note(&mut self, event: Event) {
        if self.append(event.clone()).is_err() {
            self.apply(event);
        }
    }

    /// Takes note that undoing has failed, so that it is known for how long it has.
    pub(in crate::transaction) fn note_failing(&mut self) {
        if self.state.failing_for().is_none() {
            self.note(Event::Failing { time: now_millis() });
        }
    }

    fn apply(&mut self, event: Event) {
        let applied = self.state.apply(event);
        debug_assert!(applied.is_ok(), "the event is about a step of the plan");
    }
}

impl State {
    /// Looks at a journal, for which its container need not be locked. What cannot be used is an error in words.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn peek(container: &Container, ifname: &str) -> Result<Option<Result<Self, String>>, StoreError> {
        Ok(match Journal::look(container, ifname)? {
            Opened::None | Opened::Unfinished => None,
            Opened::Journal(journal) => Some(Ok(journal.state)),
            Opened::Corrupt(reason) => Some(Err(reason)),
        })
    }
}

/// A journal that is longer, in bytes, is written anew before the next change.
const LONG: u64 = 256 << 10;

/// A journal that could be written and not be read again would lose what it says.
fn refuse_larger(length: u64) -> io::Result<()> {
    if length > MAX_JOURNAL {
        return Err(io::Error::other(format!("it would be larger than {} MiB", MAX_JOURNAL >> 20)));
    }
    Ok(())
}
