//! The handle that a process has of its holder.

use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::{Pid, getpgrp, setpgid};

use super::super::disk_work::DiskWork;
use super::super::spawn::new_group;
use super::child::{Arguments, start};
use super::grace::Grace;
use super::lifeline::{CLOSE_INPUT, DISMISS, send_input};
use super::sync_outcome::SyncOutcome;
use crate::runtime::process::{wait, wait_at_most};

/// How long to wait until a dismissed holder exits.
const DISMISSAL: Duration = Duration::from_secs(1);

/// A process in the group of the plugins, which makes the group die with this process.
#[derive(Debug)]
pub(in crate::runtime::launcher) struct Holder {
    pid: Pid,
    group: Option<Pid>,
    grace: Grace,
    /// The kernel closes it when this process dies. This process sends orders over it.
    lifeline: UnixStream,
    state: State,
    /// Set if a dismissed holder does not exit, so that its copies of the lock files stay open.
    hangs: Arc<AtomicBool>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// It watches over its group.
    Watching,
    /// It has been dismissed.
    Dismissed,
    /// It was left to kill its group, and keeps the locks until the group is gone.
    LeftBehind,
}

impl Holder {
    /// Makes a holder that is not yet in a plugin's group. It keeps the descriptors in `kept_open`, and closes all others.
    pub(in crate::runtime::launcher) fn new(kept_open: &[BorrowedFd<'_>], grace: Grace) -> io::Result<Self> {
        Self::syncing(kept_open, grace, &[]).map(|(holder, _)| holder)
    }

    /// The same, and it does `work` first.
    pub(in crate::runtime::launcher) fn syncing(
        kept_open: &[BorrowedFd<'_>],
        grace: Grace,
        work: &[DiskWork],
    ) -> io::Result<(Self, SyncOutcome)> {
        let (holders_end, lifeline) = UnixStream::pair()?;
        let (outcome, report) = io::pipe()?;
        let of_work = work.iter().map(|work| match work {
            DiskWork::Sync(file) | DiskWork::Rename { directory: file, .. } => file.as_raw_fd(),
        });
        let mut open: Vec<RawFd> = kept_open.iter().map(AsRawFd::as_raw_fd).chain([holders_end.as_raw_fd()]).collect();
        let mut open_at_first: Vec<RawFd> = open.iter().copied().chain(of_work).chain([report.as_raw_fd()]).collect();
        open.sort_unstable();
        open_at_first.sort_unstable();
        let arguments = Arguments {
            work,
            outcome: report.as_fd(),
            lifeline: holders_end.as_fd(),
            open_at_first,
            open,
            caller: getpgrp(),
            grace,
        };
        let holder = Self {
            pid: start(&arguments)?,
            group: None,
            grace,
            lifeline,
            state: State::Watching,
            hangs: Arc::default(),
        };
        Ok((holder, SyncOutcome(outcome)))
    }

    /// `hangs` is set if the holder does not exit when it is dismissed.
    pub(in crate::runtime::launcher) fn reporting_to(mut self, hangs: &Arc<AtomicBool>) -> Self {
        self.hangs = Arc::clone(hangs);
        self
    }

    /// Puts it into the process group `group`.
    pub(in crate::runtime::launcher) fn join(&mut self, group: Pid) {
        // If joining fails, the plugin has left its own group immediately. There is nothing to kill, and the plugin is not watched.
        self.group = setpgid(self.pid, group).is_ok().then_some(group);
    }

    /// Puts the holder into a new group, in which nothing else is. It no longer watches the processes of its previous group.
    ///
    /// # Errors
    /// When no group can be made.
    pub(in crate::runtime::launcher) fn join_new_group(&mut self) -> io::Result<()> {
        let leader = new_group()?;
        self.join(leader);
        // The group exists for as long as a process is in it.
        wait(leader)?;
        self.group.map(drop).ok_or_else(|| io::Error::other("its process group cannot be joined"))
    }

    /// Keeps the standard input of a plugin open, until [`Self::close_input`] is called or the holder exits.
    ///
    /// # Errors
    /// When the message cannot be sent.
    pub(in crate::runtime::launcher) fn keep_input_open(&self, input: BorrowedFd<'_>) -> io::Result<()> {
        send_input(&self.lifeline, input)
    }

    /// Makes the holder close the input that it keeps open, because the plugin's turn has come.
    pub(in crate::runtime::launcher) fn close_input(&mut self) {
        // One that is gone has nothing open.
        let _ = self.lifeline.write(&[CLOSE_INPUT]);
    }

    /// The group it is in, for plugins to join.
    pub(in crate::runtime::launcher) fn group(&self) -> Option<Pid> {
        self.group
    }

    /// Which processes get time to finish when this process dies.
    pub(in crate::runtime::launcher) fn grace(&self) -> Grace {
        self.grace
    }

    /// Dismisses the holder. Does not wait for its exit, as `drop` does. Processes that a plugin left running on purpose are not
    /// killed.
    pub(in crate::runtime::launcher) fn dismiss(&mut self) {
        if self.state == State::Watching {
            self.state = State::Dismissed;
            let _ = self.lifeline.write(&[DISMISS]);
            let _ = kill(self.pid, Signal::SIGKILL);
        }
    }

    /// Kills everything in the group, including the holder.
    pub(in crate::runtime::launcher) fn kill_group(mut self) {
        if let Some(group) = self.group {
            let _ = killpg(group, Signal::SIGKILL);
        }
        self.dismiss();
    }

    /// Leaves the holder to kill its group, as if this process had died, because a process in the group has not exited.
    pub(in crate::runtime::launcher) fn leave_behind(mut self) {
        self.state = State::LeftBehind;
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        if self.state == State::LeftBehind {
            return;
        }
        self.dismiss();
        if matches!(wait_at_most(self.pid, DISMISSAL), Ok(None)) {
            // It ends when the kernel lets it.
            self.hangs.store(true, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::errno::Errno;
    use nix::poll::{PollFd, PollFlags, poll};
    use std::fs::File;
    use std::io::PipeReader;
    use std::os::fd::OwnedFd;
    use std::os::unix::process::CommandExt;
    use std::process::{Child, Command, Stdio};
    use std::time::Instant;

    /// A shell with a child, in a group of their own.
    fn family() -> (Child, Pid) {
        let mut shell = Command::new("sh");
        let shell = shell.args(["-c", "sleep 1000 & wait"]).process_group(0).stdout(Stdio::null()).spawn().unwrap();
        let group = Pid::from_raw(shell.id().cast_signed());
        (shell, group)
    }

    fn holder_of(group: Pid) -> Holder {
        let mut holder = Holder::new(&[], Grace::Children).unwrap();
        holder.join(group);
        holder
    }

    fn is_empty_soon(group: Pid) -> bool {
        // What is dead is init's to reap.
        (0..500).any(|_| {
            std::thread::sleep(Duration::from_millis(10));
            killpg(group, None).is_err()
        })
    }

    #[test]
    fn killing_the_group_kills_grandchildren() {
        let (mut shell, group) = family();
        holder_of(group).kill_group();
        assert!(!shell.wait().unwrap().success());
        assert!(is_empty_soon(group));
    }

    #[test]
    fn the_group_dies_with_the_process_that_made_the_holder() {
        let (mut shell, group) = family();
        // What is left behind has its lifeline closed, as the kernel does for the dead.
        holder_of(group).leave_behind();
        assert!(!shell.wait().unwrap().success());
        assert!(is_empty_soon(group));
    }

    #[test]
    fn letting_go_leaves_the_group_alone() {
        let (mut shell, group) = family();
        drop(holder_of(group));
        assert!(shell.try_wait().unwrap().is_none());
        killpg(group, Signal::SIGKILL).unwrap();
        shell.wait().unwrap();
    }

    /// A sandbox may forbid signals.
    #[test]
    fn a_holder_that_is_dismissed_exits_without_a_signal() {
        let (mut shell, group) = family();
        let mut holder = holder_of(group);
        holder.lifeline.write_all(&[DISMISS]).unwrap();
        assert!(wait_at_most(holder.pid, Duration::from_secs(20)).unwrap().is_some_and(|status| status.success()));
        assert!(shell.try_wait().unwrap().is_none());
        holder.state = State::LeftBehind;
        killpg(group, Signal::SIGKILL).unwrap();
        shell.wait().unwrap();
    }

    #[test]
    fn only_what_is_to_be_kept_stays_open() {
        let (kept, writer_of_kept) = io::pipe().unwrap();
        let (other, writer_of_other) = io::pipe().unwrap();
        let holder = Holder::new(&[writer_of_kept.as_fd()], Grace::Children).unwrap();
        drop((writer_of_kept, writer_of_other));
        let is_open = |reader: &PipeReader, patience: u16| {
            poll(&mut [PollFd::new(reader.as_fd(), PollFlags::POLLIN)], patience).unwrap() == 0
        };
        assert!(!is_open(&other, 20_000));
        assert!(is_open(&kept, 10));
        drop(holder);
        assert!(!is_open(&kept, 20_000));
    }

    #[test]
    fn the_holder_says_how_syncing_went() {
        let (first, second) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        let sync = |file: File| DiskWork::Sync(Arc::new(file));
        let files = [sync(first), sync(second)];
        let (_holder, mut outcome) = Holder::syncing(&[], Grace::Children, &files).unwrap();
        outcome.wait(None).unwrap();
        // A pipe cannot be synced.
        let (reader, _writer) = io::pipe().unwrap();
        let (_holder, mut outcome) =
            Holder::syncing(&[], Grace::Children, &[sync(OwnedFd::from(reader).into())]).unwrap();
        assert_eq!(outcome.wait(None).unwrap_err().raw_os_error(), Some(Errno::EINVAL as i32));
    }

    #[test]
    fn a_file_gets_its_name_once_all_before_it_is_done() {
        let folder = tempfile::tempdir().unwrap();
        let directory = Arc::new(File::open(folder.path()).unwrap());
        let text = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap_or_default();
        let rename = DiskWork::Rename { directory: Arc::clone(&directory), from: c".new".into(), to: c"old".into() };
        let (reader, _writer) = io::pipe().unwrap();
        for (first, expected) in [(OwnedFd::from(reader).into(), "old"), (tempfile::tempfile().unwrap(), "new")] {
            std::fs::write(folder.path().join("old"), "old").unwrap();
            std::fs::write(folder.path().join(".new"), "new").unwrap();
            let work = [DiskWork::Sync(Arc::new(first)), rename.clone(), DiskWork::Sync(Arc::clone(&directory))];
            let (_holder, mut outcome) = Holder::syncing(&[], Grace::Children, &work).unwrap();
            assert_eq!(outcome.wait(None).is_ok(), expected == "new");
            assert_eq!(text("old"), expected);
        }
        assert_eq!(text(".new"), "");
    }

    /// A holder that is stopped stands for one whose disk does not answer.
    #[test]
    fn syncing_is_not_waited_for_for_ever() {
        let (holder, _) = Holder::syncing(&[], Grace::Children, &[]).unwrap();
        let (reader, writer) = io::pipe().unwrap();
        let deadline = Some(Instant::now() + Duration::from_millis(20));
        assert_eq!(SyncOutcome(reader).wait(deadline).unwrap_err().kind(), io::ErrorKind::TimedOut);
        drop(writer);
        kill(holder.pid, Signal::SIGSTOP).unwrap();
        drop(holder);
    }

    #[test]
    fn a_group_that_is_gone_is_not_joined() {
        let mut child = Command::new("true").process_group(0).spawn().unwrap();
        let group = Pid::from_raw(child.id().cast_signed());
        child.wait().unwrap();
        assert_eq!(holder_of(group).group(), None);
    }
}
