//! The outcome of syncing: the holder writes an error number, and its parent reads it.

use std::ffi::c_int;
use std::io::{self, PipeReader, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, poll};

use crate::runtime::process::poll_timeout;

/// The holder's report on syncing.
#[derive(Debug)]
pub(in crate::runtime::launcher) struct SyncOutcome(pub(super) PipeReader);

impl SyncOutcome {
    /// Waits until the files are synced.
    ///
    /// # Errors
    /// When one could not be, or `deadline` is over.
    pub(in crate::runtime::launcher) fn wait(&mut self, deadline: Option<Instant>) -> io::Result<()> {
        let began = Instant::now();
        loop {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            match poll(&mut [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)], poll_timeout(left)) {
                Ok(0) if left.is_some_and(|left| left.is_zero()) => {
                    let message = format!("the disk has not answered for {:.1} s", began.elapsed().as_secs_f64());
                    return Err(io::Error::new(io::ErrorKind::TimedOut, message));
                }
                Ok(0) | Err(Errno::EINTR | Errno::EAGAIN) => {}
                Ok(_) => break,
                Err(error) => return Err(error.into()),
            }
        }
        let mut error = [0; size_of::<c_int>()];
        self.0.read_exact(&mut error)?;
        match c_int::from_ne_bytes(error) {
            0 => Ok(()),
            error => Err(io::Error::from_raw_os_error(error)),
        }
    }
}

/// Reports the outcome of syncing. Does not allocate.
pub(super) fn report(outcome: Result<(), rustix::io::Errno>, to: BorrowedFd<'_>) {
    let error: c_int = outcome.map_or_else(rustix::io::Errno::raw_os_error, |()| 0);
    let _ = rustix::io::write(to, &error.to_ne_bytes());
}
