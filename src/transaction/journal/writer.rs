//! Journals on disk.

use std::fs::File;
use std::io::{self, Write};
use std::sync::Arc;

use super::format::{CHANGED_FORMAT, Checksum, Event, FORMAT, Header, boot_id, encode, now_millis};
use super::reader::{Reading, read, read_plan};
use super::state::State;
use crate::netns;
use crate::plan::Plan;
use crate::runtime::DiskWork;
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
    /// The checksum of the last line, including queued lines.
    checksum: Checksum,
    /// Whether the file has bytes after the last line that can be read.
    is_torn: bool,
    /// The events that the next change writes after the header, because it writes the journal anew.
    anew: Option<Vec<Event>>,
}

/// What was found in the place of a journal.
#[derive(Debug)]
pub enum Opened {
    /// Nothing.
    None,
    /// An incomplete first line: no plugin had got its input. [`Journal::open`] removes such a journal.
    Unfinished,
    /// A journal.
    Journal(Box<Journal>),
    /// Something that cannot be used, and why.
    Corrupt(String),
}

/// Why something that is not a file is not a journal.
const NOT_A_FILE: &str = "it is not a regular file";

/// A journal without write permission is opened for reading only. A write then fails with one of these errors, which do not say so.
fn unwritable(error: io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(nix::libc::EBADF | nix::libc::EINVAL) => io::Error::other("it can only be read"),
        _ => error,
    }
}

impl Journal {
    /// Begins a journal. It must be synced before the first plugin gets its input: see `to_sync`.
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
                Ok(Self { file, length, state, queued: Vec::new(), checksum, is_torn: false, anew: None })
            }
            Err(source) => {
                // The error to report is that of making the file.
                drop(place.remove());
                Err(StoreError::Io { action: "write", path: place.path(), source })
            }
        }
    }

    /// What must be synced so that a new journal survives a crash of the machine: the file, its directory, and the directory above
    /// unless the file system syncs that too.
    pub(in crate::transaction) fn to_sync(&self, store: &Store, container: &Container) -> Vec<DiskWork> {
        let mut files = vec![Arc::clone(&self.file), container.lock_handle()];
        if !container.is_in_order_on_disk() {
            files.push(store.attachments_handle());
        }
        files.into_iter().map(DiskWork::Sync).collect()
    }

    /// Opens the journal of an interface. A journal with an incomplete first line is removed.
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

    /// Opens the journal of an interface and changes nothing. The container need not be locked.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn look(container: &Container, ifname: &str) -> Result<Opened, StoreError> {
        let opened = Self::open_file(&container.journal(ifname))?;
        if let Opened::Journal(journal) = &opened
            && let Err(reason) = refuse_misplaced(&journal.state.header.plan, container, ifname)
        {
            return Ok(Opened::Corrupt(reason));
        }
        Ok(opened)
    }

    /// Opens a journal wherever it is.
    pub(in crate::transaction) fn open_file(place: &JournalFile) -> Result<Opened, StoreError> {
        let (file, bytes) = match place.read()? {
            Content::Missing => return Ok(Opened::None),
            Content::NotAFile => return Ok(Opened::Corrupt(NOT_A_FILE.into())),
            Content::File(file, bytes) => (Arc::new(file), bytes),
        };
        Ok(match read(&bytes) {
            Ok(None) => Opened::Unfinished,
            // Bytes after the last complete line are what a crash left of the next one, and are overwritten.
            Ok(Some(Reading { state, length, checksum })) => {
                let is_torn = length < bytes.len();
                let length = length as u64;
                Opened::Journal(Box::new(Self {
                    file,
                    length,
                    state,
                    queued: Vec::new(),
                    checksum,
                    is_torn,
                    anew: None,
                }))
            }
            Err(reason) => Opened::Corrupt(reason),
        })
    }

    /// Drops detached attachments from the journal if the next change is to write it anew: because the journal has no change yet
    /// and thus the older format, or because changes have made it long. Returns the new indexes of these attachments.
    pub(in crate::transaction) fn condense(&mut self, attachments: &[usize]) -> Vec<usize> {
        let is_first = self.state.header.format < CHANGED_FORMAT;
        let is_due = is_first || self.length > LONG;
        let Some((header, events)) = is_due.then(|| self.state.condensed()).flatten() else {
            return attachments.to_vec();
        };
        let is_worth_it =
            || encoded(&header, events.iter()).is_ok_and(|(text, _)| text.len() as u64 <= self.length / 2);
        if !is_first && !is_worth_it() {
            return attachments.to_vec();
        }
        let places = attachments.iter().map(|index| self.state.attachments().take_while(|(at, _)| at < index).count());
        let places = places.collect();
        self.state = State::new(header);
        for event in &events {
            self.apply(event.clone());
        }
        self.anew = Some(events);
        places
    }

    /// Begins a change: writes these events, and returns what must be done on disk before its first plugin gets its input. If the
    /// journal was condensed, this writes a new file beside it, with these events in it. The new file replaces the old one once it
    /// is on disk, so that there is a complete journal at any time.
    ///
    /// # Errors
    /// When it cannot be written; the journal is then as it was before.
    pub(in crate::transaction) fn begin_change(
        &mut self,
        container: &Container,
        events: Vec<Event>,
    ) -> Result<Vec<DiskWork>, StoreError> {
        let place = container.journal(&self.state.header.plan.ifname);
        let Some(before) = self.anew.take() else {
            self.append_all(events).map_err(|source| StoreError::Io { action: "write", path: place.path(), source })?;
            let mut work = vec![DiskWork::Sync(Arc::clone(&self.file))];
            if !container.is_in_order_on_disk() {
                work.push(DiskWork::Sync(container.lock_handle()));
            }
            return Ok(work);
        };
        self.write_beside(&place, before.iter().chain(&events))?;
        for event in events {
            self.apply(event);
        }
        let rename = place.beside().to_replace(&place);
        Ok(vec![DiskWork::Sync(Arc::clone(&self.file)), rename, DiskWork::Sync(container.lock_handle())])
    }

    /// Removes the new file of [`Self::begin_change`] if it did not replace the journal.
    pub(in crate::transaction) fn remove_beside(container: &Container, ifname: &str) {
        drop(container.journal(ifname).beside().remove());
    }

    /// Writes the header and these events to a new file beside the journal, and continues with that file.
    fn write_beside<'a>(
        &mut self,
        place: &JournalFile,
        events: impl Iterator<Item = &'a Event>,
    ) -> Result<(), StoreError> {
        let beside = place.beside();
        beside.remove()?;
        let mut file = beside.create()?;
        let written = || -> io::Result<(u64, Checksum)> {
            let (text, checksum) = encoded(&self.state.header, events)?;
            refuse_larger(text.len() as u64)?;
            file.write_all(&text)?;
            Ok((text.len() as u64, checksum))
        };
        let (length, checksum) = written().map_err(|source| {
            drop(beside.remove());
            StoreError::Io { action: "write", path: beside.path(), source }
        })?;
        (self.file, self.length, self.checksum, self.is_torn) = (Arc::new(file), length, checksum, false);
        self.queued.clear();
        Ok(())
    }

    /// Appends events, all or none.
    fn append_all(&mut self, events: Vec<Event>) -> io::Result<()> {
        let before = (self.queued.len(), self.checksum);
        let encoded = events.iter().try_for_each(|event| {
            self.queued.extend(encode(event, &mut self.checksum)?);
            Ok(())
        });
        if let Err(error) = encoded.and_then(|()| self.write_queued()) {
            // The queued events have happened, and must still be written together with the next one.
            self.queued.truncate(before.0);
            self.checksum = before.1;
            return Err(error);
        }
        for event in events {
            self.apply(event);
        }
        Ok(())
    }

    /// Appends an event.
    ///
    /// # Errors
    /// When it cannot be written; the journal is then as it was before.
    pub fn append(&mut self, event: Event) -> io::Result<()> {
        debug_assert!(self.anew.is_none(), "a condensed journal is written anew by a change first");
        self.append_all(vec![event])
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

    /// Queues an event, to be written together with the next one, which must follow soon.
    ///
    /// # Errors
    /// When it cannot be encoded.
    pub fn queue(&mut self, event: Event) -> io::Result<()> {
        self.queued.extend(encode(&event, &mut self.checksum)?);
        self.apply(event);
        Ok(())
    }

    /// Writes an event, but ignores a failure: if the event is lost, a step is only undone twice.
    pub fn note(&mut self, event: Event) {
        if self.append(event.clone()).is_err() {
            self.apply(event);
        }
    }

    /// Records that undoing has failed, so that it is known for how long.
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
    /// Reads a journal. Its container need not be locked. A journal that cannot be used is returned as an error message.
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

    /// Reads only ADD's plan at the beginning of a journal. Otherwise the same as [`Self::peek`].
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn peek_at_plan(container: &Container, ifname: &str) -> Result<Option<Result<Plan, String>>, StoreError> {
        let bytes = match container.journal(ifname).read()? {
            Content::Missing => return Ok(None),
            Content::NotAFile => return Ok(Some(Err(NOT_A_FILE.into()))),
            Content::File(_, bytes) => bytes,
        };
        let plan = read_plan(&bytes)
            .and_then(|plan| plan.map(|plan| refuse_misplaced(&plan, container, ifname).map(|()| plan)).transpose());
        Ok(plan.transpose())
    }
}

/// A whole journal, and the checksum of its last line.
fn encoded<'a>(header: &Header, events: impl Iterator<Item = &'a Event>) -> io::Result<(Vec<u8>, Checksum)> {
    let mut checksum = Checksum::default();
    let mut text = encode(header, &mut checksum)?;
    for event in events {
        text.extend(encode(event, &mut checksum)?);
    }
    Ok((text, checksum))
}

/// A journal names its container and its interface.
fn refuse_misplaced(plan: &Plan, container: &Container, ifname: &str) -> Result<(), String> {
    let Plan { container_id: own_id, ifname: own_ifname, .. } = plan;
    if own_id == container.id() && own_ifname == ifname {
        return Ok(());
    }
    Err(format!("it is the journal of {own_ifname:?} of container {own_id:?}"))
}

/// If a journal is longer than this, in bytes, the next change writes it anew, provided that this makes it half as long. Every
/// change reads all of the journal, which takes 1 ms for 64 KiB.
const LONG: u64 = 32 << 10;

/// A journal that could be written but not read again would be lost.
fn refuse_larger(length: u64) -> io::Result<()> {
    if length > MAX_JOURNAL {
        return Err(io::Error::other(format!("it would be larger than {} MiB", MAX_JOURNAL >> 20)));
    }
    Ok(())
}
