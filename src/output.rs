//! Writes to standard output and standard error without waiting for ever for their readers.
//!
//! If a runtime starts a plugin and does not read its output, the plugin must still exit and release its locks. The descriptors
//! themselves cannot be made non-blocking, because they are shared with the runtime. [`Output`] has a way of writing that never
//! blocks for each kind of descriptor.
//!
//! Standard error is shared by the whole process ([`write_stderr`]), so log lines and plugins' messages keep their order. What
//! cannot be written immediately is kept, up to a limit. [`flush_stderr`] waits a moment for the reader. What is left at the end of
//! a call is dropped and counted ([`abandon_stderr`]).

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::libc::{O_CLOEXEC, O_NOCTTY, O_NONBLOCK};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, fstat};
use rustix::net::{SendFlags, send};

/// How long standard error may stay full, with something to write, until its reader counts as gone.
const STDERR_PATIENCE: Duration = Duration::from_secs(1);
/// How much is kept for a slow reader of standard error, in bytes.
const MAX_BACKLOG: usize = 1 << 20;
/// How much may be kept before plugins have to wait, in bytes.
const SLOW_BACKLOG: usize = 64 << 10;
/// How much can be written to a pipe without blocking once it is writable (POSIX: `PIPE_BUF`), in bytes.
const PIPE_BUF: usize = 4096;

/// A descriptor, with a way of writing to it that never blocks.
#[derive(Debug)]
pub struct Output<'a> {
    fd: BorrowedFd<'a>,
    way: Way,
}

/// How a descriptor is written to.
#[derive(Debug)]
enum Way {
    /// A regular file takes what it is given.
    Directly,
    /// A socket has a flag for each call.
    Send,
    /// A pipe, terminal or device, opened again only for this process.
    Reopened(File),
    /// The same, if it cannot be opened again. It is written only when it is writable, and in small pieces.
    WhenReady,
}

impl<'a> Output<'a> {
    /// Finds out how to write to a descriptor.
    pub fn new(fd: BorrowedFd<'a>) -> Self {
        let way = match fstat(fd).map(|stat| FileType::from_raw_mode(stat.st_mode)) {
            Ok(FileType::Socket) => Way::Send,
            Ok(FileType::RegularFile) | Err(_) => Way::Directly,
            Ok(_) => {
                let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
                let flags = O_NONBLOCK | O_NOCTTY | O_CLOEXEC;
                File::options().write(true).custom_flags(flags).open(path).map_or(Way::WhenReady, Way::Reopened)
            }
        };
        Self { fd, way }
    }

    /// Writes as much as is taken now.
    ///
    /// # Errors
    /// [`WouldBlock`](io::ErrorKind::WouldBlock) when nothing is, and whatever else keeps it from being written.
    pub fn write_some(&self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            let written = match &self.way {
                Way::Directly => rustix::io::write(self.fd, bytes).map_err(io::Error::from),
                Way::Send => send(self.fd, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL).map_err(io::Error::from),
                Way::Reopened(file) => (&*file).write(bytes),
                Way::WhenReady if self.can_be_written(Duration::ZERO) => {
                    rustix::io::write(self.fd, &bytes[..bytes.len().min(PIPE_BUF)]).map_err(io::Error::from)
                }
                Way::WhenReady => Err(io::ErrorKind::WouldBlock.into()),
            };
            match written {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                written => return written,
            }
        }
    }

    /// Writes everything. Waits at most `patience` whenever nothing can be written.
    ///
    /// # Errors
    /// [`TimedOut`](io::ErrorKind::TimedOut) when nobody reads, and whatever else keeps it from being written.
    pub fn write_all(&self, mut bytes: &[u8], patience: Duration) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.write_some(bytes) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => bytes = &bytes[written..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if !self.can_be_written(patience) {
                        let message = format!("nobody has read from it for {:.0} s", patience.as_secs_f64());
                        return Err(io::Error::new(io::ErrorKind::TimedOut, message));
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Whether it is writable, now or within `at_most`.
    fn can_be_written(&self, at_most: Duration) -> bool {
        let until = Instant::now() + at_most;
        loop {
            let left = Timespec::try_from(until.saturating_duration_since(Instant::now())).ok();
            match poll(&mut [PollFd::new(&self.fd, PollFlags::OUT)], left.as_ref()) {
                Err(rustix::io::Errno::INTR) => {}
                ready => return ready.is_ok_and(|ready| ready > 0),
            }
        }
    }
}

/// The bytes that are kept for the reader of standard error.
struct Backlog {
    bytes: Vec<u8>,
    /// How many bytes have been dropped.
    dropped: u64,
    /// When the reader began to read nothing while there was something to write.
    stuck_since: Option<Instant>,
}

static BACKLOG: Mutex<Backlog> = Mutex::new(Backlog { bytes: Vec::new(), dropped: 0, stuck_since: None });

fn backlog() -> MutexGuard<'static, Backlog> {
    // A panic leaves nothing in an inconsistent state that matters.
    BACKLOG.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Backlog {
    /// Writes what can be written now. If there is no reader, nothing is kept.
    fn write_some(&mut self, output: &Output<'_>) {
        // A full pipe still accepts a few bytes that fit into its last page. That does not mean that the reader has read.
        if self.stuck_since.is_some() && !output.can_be_written(Duration::ZERO) {
            return;
        }
        let mut written = 0;
        while written < self.bytes.len() {
            match output.write_some(&self.bytes[written..]) {
                Ok(more) if more > 0 => {
                    self.stuck_since = None;
                    written += more;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.stuck_since.get_or_insert_with(Instant::now);
                    break;
                }
                _ => written = self.bytes.len(),
            }
        }
        self.bytes.drain(..written);
    }

    /// Whether the reader has read nothing for as long as this process waits.
    fn is_stuck(&self) -> bool {
        self.stuck_since.is_some_and(|since| since.elapsed() >= STDERR_PATIENCE)
    }
}

/// Writes to standard error what can be written now, and keeps the rest for later. Never waits.
pub fn write_stderr(bytes: &[u8]) {
    let mut backlog = backlog();
    if bytes.is_empty() && backlog.bytes.is_empty() {
        return;
    }
    let room = MAX_BACKLOG.saturating_sub(backlog.bytes.len()).min(bytes.len());
    backlog.bytes.extend_from_slice(&bytes[..room]);
    backlog.write_some(&Output::new(io::stderr().as_fd()));
    let rest = &bytes[room..];
    let room = MAX_BACKLOG.saturating_sub(backlog.bytes.len()).min(rest.len());
    backlog.bytes.extend_from_slice(&rest[..room]);
    backlog.dropped += (rest.len() - room) as u64;
}

/// Writes the kept bytes to standard error. Waits at most a second without progress. After that, it does not wait for this reader
/// again until it reads.
pub fn flush_stderr() {
    let mut backlog = backlog();
    if backlog.bytes.is_empty() {
        return;
    }
    let stderr = io::stderr();
    let output = Output::new(stderr.as_fd());
    backlog.write_some(&output);
    while !backlog.bytes.is_empty() && !backlog.is_stuck() {
        output.can_be_written(STDERR_PATIENCE);
        backlog.write_some(&output);
    }
}

/// Whether to delay further output to standard error because its reader is slow. After a second without progress, it is not
/// delayed.
pub fn is_stderr_behind() -> bool {
    let backlog = backlog();
    backlog.bytes.len() >= SLOW_BACKLOG && !backlog.is_stuck()
}

/// Whether bytes are kept for the reader of standard error.
pub fn has_backlog() -> bool {
    !backlog().bytes.is_empty()
}

/// Drops the bytes that are kept for the reader of standard error. Returns the number of all bytes dropped so far.
pub fn abandon_stderr() -> u64 {
    let mut backlog = backlog();
    let left = std::mem::take(&mut backlog.bytes).len() as u64;
    std::mem::take(&mut backlog.dropped) + left
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;

    fn pipe() -> (OwnedFd, OwnedFd) {
        let (reader, writer) = io::pipe().unwrap();
        (reader.into(), writer.into())
    }

    fn socket() -> (OwnedFd, OwnedFd) {
        let (reader, writer) = UnixStream::pair().unwrap();
        (reader.into(), writer.into())
    }

    /// Pieces of odd lengths leave room in the last page of a full pipe, into which some of the next pieces fit.
    #[test]
    fn what_a_full_pipe_takes_is_no_sign_of_its_reader() {
        let (_reader, writer) = pipe();
        let output = Output::new(writer.as_fd());
        let mut backlog = Backlog { bytes: Vec::new(), dropped: 0, stuck_since: None };
        let mut write = |length: usize| {
            backlog.bytes.extend(std::iter::repeat_n(b'x', length));
            backlog.write_some(&output);
            backlog.stuck_since
        };
        let since = (0..1000).find_map(|_| write(3001)).expect("a full pipe");
        for length in 1..200 {
            assert_eq!(write(length), Some(since), "a piece of {length} bytes");
        }
    }

    #[rstest]
    #[case::pipe(pipe())]
    #[case::socket(socket())]
    fn without_a_reader_writing_ends(
        #[case] (reader, writer): (OwnedFd, OwnedFd),
        #[values(false, true)] reopen: bool,
    ) {
        let mut output = Output::new(writer.as_fd());
        if !reopen && matches!(output.way, Way::Reopened(_)) {
            output.way = Way::WhenReady;
        }
        output.write_all(b"taken", Duration::ZERO).unwrap();
        let error = output.write_all(&vec![b'x'; 4 << 20], Duration::from_millis(10)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        let read = std::thread::spawn(move || io::copy(&mut File::from(reader), &mut io::sink()).unwrap());
        output.write_all(&vec![b'y'; 4 << 20], Duration::from_secs(60)).unwrap();
        drop(output);
        drop(writer);
        assert!(read.join().unwrap() > 4 << 20);
    }

    #[test]
    fn a_file_takes_everything() {
        let file = tempfile::tempfile().unwrap();
        Output::new(file.as_fd()).write_all(&vec![b'x'; 4 << 20], Duration::ZERO).unwrap();
        assert_eq!(file.metadata().unwrap().len(), 4 << 20);
    }
}
