//! Ensures that only one agent runs on a node.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

use nix::libc::O_NOFOLLOW;

use super::error::AgentError;
use crate::telemetry::agent_lock_path;

/// The lock that the agent of a node holds. The kernel releases it when the process exits, in whatever way.
#[derive(Debug)]
pub(super) struct Lock(#[expect(dead_code, reason = "it is held, not used")] File);

impl Lock {
    /// Makes the state directory if it does not exist, and takes the lock. If another agent holds the lock, logs that once and waits:
    /// this agent may be replacing it.
    ///
    /// # Errors
    /// When the state directory cannot be used.
    pub(super) fn take(state_dir: &Path) -> Result<Self, AgentError> {
        let attachments = state_dir.join("attachments");
        let wrong = |action, path: &Path| {
            let path = path.to_owned();
            move |source: io::Error| AgentError::State { action, path, source }
        };
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&attachments);
        made.map_err(wrong("make the state directory", &attachments))?;
        let path = agent_lock_path(state_dir);
        let mut options = OpenOptions::new();
        let options = options.read(true).write(true).create(true).truncate(false).mode(0o600).custom_flags(O_NOFOLLOW);
        let mut file = options.open(&path).map_err(wrong("open", &path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                tracing::warn!("{} holds {}; this agent waits until it exits", holder(&mut file), path.display());
                file.lock().map_err(wrong("lock", &path))?;
                tracing::info!("the other agent has exited");
            }
            Err(TryLockError::Error(error)) => return Err(wrong("lock", &path)(error)),
        }
        write_holder(&mut file).map_err(wrong("write", &path))?;
        Ok(Self(file))
    }
}

fn write_holder(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", std::process::id())
}

/// The process that holds the lock, according to the file.
fn holder(file: &mut File) -> String {
    let mut text = String::new();
    match file.take(32).read_to_string(&mut text).ok().and_then(|_| text.trim().parse::<u32>().ok()) {
        Some(pid) => format!("another agent, process {pid},"),
        None => "another agent".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::sync::mpsc;
    use std::thread;
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_second_waits_for_the_first() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        let first = Lock::take(&state).unwrap();
        assert_eq!(fs::read_to_string(agent_lock_path(&state)).unwrap().trim(), std::process::id().to_string());
        let (sender, receiver) = mpsc::channel();
        let second = thread::spawn({
            let state = state.clone();
            move || sender.send(Lock::take(&state).is_ok())
        });
        assert!(receiver.recv_timeout(Duration::from_millis(50)).is_err());
        drop(first);
        assert!(receiver.recv_timeout(Duration::from_secs(20)).unwrap());
        second.join().unwrap().unwrap();
    }

    #[test]
    fn a_link_in_place_of_the_lock_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        symlink("/dev/null", agent_lock_path(dir.path())).unwrap();
        let error = Lock::take(dir.path()).unwrap_err().to_string();
        assert!(error.contains("cannot open") && error.contains("agent.lock"), "{error}");
    }
}
