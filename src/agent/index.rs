//! Maps pods to their containers, using the journals.
//!
//! The kernel reports when a container's directory is made or removed. Only new directories are read.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use inotify::{EventMask, EventStream, Inotify, WatchMask};
use nix::errno::Errno;

use super::error::AgentError;
use super::gone::PodName;
use crate::cni::Args;
use crate::transaction::journal::State;
use crate::transaction::{Container, Sharing, Store, StoreError};

/// The pause before an unfinished ADD is first read again. It doubles each time.
const FIRST_RETRY_PAUSE: Duration = Duration::from_millis(250);
/// The longest pause.
const LONGEST_RETRY_PAUSE: Duration = Duration::from_secs(16);

/// The age of a container; the greatest value is the newest. The machine's clock is used only for containers that existed when the
/// agent started, because it may have been set since.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Age {
    /// Whether its namespace existed when the journals were read, as far as this process can see.
    has_netns: bool,
    /// The number of the refresh that first found it.
    first_refresh: u64,
    /// When its ADD began, in milliseconds since 1970.
    since: u64,
}

/// A container, as its journals describe it.
#[derive(Debug, Clone)]
struct IndexedContainer {
    /// The inode and the timestamp of its directory. If they differ, a journal has been made or removed.
    stamp: (u64, i64, i64),
    /// Its pod, if it has one.
    pod: Option<PodName>,
    /// Its age.
    age: Age,
    /// Whether every ADD has succeeded.
    is_complete: bool,
}

/// The containers of a node.
#[derive(Debug)]
pub(super) struct Index {
    state_dir: PathBuf,
    containers: HashMap<String, IndexedContainer>,
    /// How many times the directories were read.
    refreshes: u64,
    /// The time until an unfinished ADD is read again.
    pause: Duration,
}

impl Index {
    /// An index of the containers of a state directory. Nothing is read yet.
    pub(super) fn new(state_dir: &Path) -> Self {
        Self { state_dir: state_dir.to_owned(), containers: HashMap::new(), refreshes: 0, pause: FIRST_RETRY_PAUSE }
    }

    /// The container of a pod. If there are several, the newest, because a pod gets another container after the first has exited.
    pub(super) fn container_of(&self, uid: &str) -> Option<&str> {
        let of_pod = |(_, known): &(&String, &IndexedContainer)| known.pod.as_ref().is_some_and(|pod| pod.uid == uid);
        let newest = self.containers.iter().filter(of_pod).max_by_key(|(id, known)| (known.age, id.as_str()));
        newest.filter(|(_, known)| known.is_complete).map(|(id, _)| id.as_str())
    }

    /// Whether a container of a pod has a journal, complete or not.
    pub(super) fn has_pod(&self, uid: &str) -> bool {
        self.containers.values().any(|known| known.pod.as_ref().is_some_and(|pod| pod.uid == uid))
    }

    /// Reads the directories, and returns the UIDs of the pods of which a container was added or removed.
    ///
    /// # Errors
    /// When the state directory cannot be read, or a GC holds it.
    pub(super) fn refresh(&mut self) -> Result<BTreeSet<String>, StoreError> {
        // Does not wait for a GC; the directories are read again later.
        let store = Store::open_existing(&self.state_dir, Sharing::Shared, Instant::now())?;
        let ids = store.as_ref().map(Store::container_ids).transpose()?.unwrap_or_default();
        self.refreshes += 1;
        let mut changed = BTreeSet::new();
        let existing: BTreeSet<&String> = ids.iter().collect();
        self.containers.retain(|id, known| {
            let stays = existing.contains(id);
            if !stays {
                changed.extend(uid_of(known));
            }
            stays
        });
        for (store, id) in store.iter().flat_map(|store| ids.iter().map(move |id| (store, id))) {
            let Some(stamp) = self.stamp(id) else { continue };
            if self.containers.get(id).is_some_and(|known| known.stamp == stamp && known.is_complete) {
                continue;
            }
            let Some(container) = store.unlocked_container(id)? else { continue };
            let mut known = read(&container, stamp);
            let before = self.containers.get(id);
            known.age.first_refresh = before.map_or(self.refreshes, |before| before.age.first_refresh);
            // An ADD that has just begun ends soon, whatever older ones do.
            if before.is_none() && !known.is_complete {
                self.pause = FIRST_RETRY_PAUSE;
            }
            changed.extend(uid_of(&known));
            changed.extend(self.containers.insert(id.clone(), known).as_ref().and_then(uid_of));
        }
        Ok(changed)
    }

    /// The containers whose pods can be requested from the API server, each with its pod.
    pub(super) fn of_pods(&self) -> impl Iterator<Item = (&str, &PodName)> {
        let of_pods = self.containers.iter().filter_map(|(id, known)| Some((id.as_str(), known.pod.as_ref()?)));
        of_pods.filter(|(_, pod)| !pod.namespace.is_empty() && !pod.name.is_empty())
    }

    /// The pause before the journals are read again, if one of them has an unfinished ADD.
    pub(super) fn next_retry(&mut self) -> Option<Duration> {
        if self.containers.values().all(|known| known.is_complete) {
            self.pause = FIRST_RETRY_PAUSE;
            return None;
        }
        let pause = self.pause;
        self.pause = (pause * 2).min(LONGEST_RETRY_PAUSE);
        Some(pause)
    }

    fn stamp(&self, id: &str) -> Option<(u64, i64, i64)> {
        let metadata = self.state_dir.join("attachments").join(id).symlink_metadata().ok()?;
        Some((metadata.ino(), metadata.mtime(), metadata.mtime_nsec()))
    }
}

fn uid_of(known: &IndexedContainer) -> Option<String> {
    known.pod.as_ref().map(|pod| pod.uid.clone())
}

/// The pod in `CNI_ARGS`. At least its UID must be there.
fn pod_of(args: &Args) -> Option<PodName> {
    let value = |key| args.get(key).unwrap_or_default().to_owned();
    let pod = PodName { uid: value("K8S_POD_UID"), namespace: value("K8S_POD_NAMESPACE"), name: value("K8S_POD_NAME") };
    Some(pod).filter(|pod| !pod.uid.is_empty())
}

/// Reads the journals of a container. `braid doctor` reports those that cannot be read.
fn read(container: &Container, stamp: (u64, i64, i64)) -> IndexedContainer {
    let mut known = IndexedContainer { stamp, pod: None, age: Age::default(), is_complete: true };
    let entries = container.entries().unwrap_or_default();
    known.is_complete = !entries.ifnames.is_empty() || !entries.set_aside.is_empty();
    for ifname in entries.ifnames {
        match State::peek(container, &ifname) {
            Ok(Some(Ok(state))) => {
                let args: Args = state.header.plan.args.parse().unwrap_or_default();
                known.pod = known.pod.or_else(|| pod_of(&args));
                known.age.since = known.age.since.max(state.header.time);
                known.age.has_netns |= !state.is_container_gone();
                known.is_complete &= state.complete.is_some();
            }
            Ok(None) => known.is_complete = false,
            Ok(Some(Err(reason))) => tracing::debug!(container = container.id(), "a journal cannot be used: {reason}"),
            Err(error) => tracing::debug!(container = container.id(), "{error}"),
        }
    }
    known
}

/// Names the limit that the kernel means: `inotify` uses the errors of other limits.
fn with_limit(error: io::Error) -> io::Error {
    let limit = match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EMFILE) => "fs.inotify.max_user_instances",
        Some(Errno::ENOSPC) => "fs.inotify.max_user_watches",
        _ => return error,
    };
    io::Error::new(error.kind(), format!("{error}; the limit is the sysctl {limit}, which other programs use up too"))
}

/// Reports when containers' directories are made or removed.
pub(super) struct DirectoryWatch(EventStream<[u8; 4 << 10]>);

impl DirectoryWatch {
    /// Watches the directory of attachments, which is made if it does not exist.
    ///
    /// # Errors
    /// When it cannot be made, or the kernel lets it watch no more.
    pub(super) fn watch(state_dir: &Path) -> Result<Self, AgentError> {
        let path = state_dir.join("attachments");
        let wrong = |action, source| AgentError::State { action, path: path.clone(), source };
        std::fs::create_dir_all(&path).map_err(|error| wrong("make", error))?;
        Self::of(&path).map_err(|error| wrong("watch", with_limit(error)))
    }

    fn of(attachments: &Path) -> io::Result<Self> {
        let inotify = Inotify::init()?;
        let kinds = WatchMask::CREATE
            | WatchMask::DELETE
            | WatchMask::MOVE
            | WatchMask::DELETE_SELF
            | WatchMask::MOVE_SELF
            | WatchMask::ONLYDIR;
        inotify.watches().add(attachments, kinds)?;
        Ok(Self(inotify.into_event_stream([0; 4 << 10])?))
    }

    /// Waits for the next change. Returns whether there can be more: the directory itself may have been removed.
    pub(super) async fn next(&mut self) -> bool {
        let end = EventMask::DELETE_SELF | EventMask::MOVE_SELF | EventMask::IGNORED;
        match self.0.next().await {
            Some(Ok(event)) => !event.mask.intersects(end),
            Some(Err(_)) | None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A container whose ADD never ends is read less and less often. Another one is not.
    #[test]
    fn an_add_that_has_just_begun_is_read_again_soon() {
        let dir = tempfile::tempdir().unwrap();
        let begin = |id: &str| std::fs::create_dir_all(dir.path().join("attachments").join(id)).unwrap();
        begin("lost");
        let mut index = Index::new(dir.path());
        let mut look = || {
            index.refresh().unwrap();
            index.next_retry().unwrap()
        };
        let pauses: Vec<Duration> = (0..9).map(|_| look()).collect();
        assert_eq!((pauses[0], pauses[8]), (FIRST_RETRY_PAUSE, LONGEST_RETRY_PAUSE));
        begin("new");
        assert_eq!(look(), FIRST_RETRY_PAUSE);
        assert_eq!(look(), 2 * FIRST_RETRY_PAUSE);
    }

    #[test]
    fn the_limit_that_the_kernel_means_is_named() {
        let said = |errno: Errno| with_limit(errno.into()).to_string();
        assert!(said(Errno::EMFILE).contains("fs.inotify.max_user_instances"));
        assert!(said(Errno::ENOSPC).contains("fs.inotify.max_user_watches"));
        assert_eq!(said(Errno::EACCES), io::Error::from(Errno::EACCES).to_string());
    }

    #[test]
    fn a_pod_is_identified_by_its_uid_and_can_be_requested_by_its_name() {
        let pod = |text: &str| pod_of(&text.parse().unwrap());
        assert_eq!(pod("K8S_POD_NAMESPACE=web;K8S_POD_NAME=shop"), None);
        let known = |id: &str, args: &str| {
            (
                id.to_owned(),
                IndexedContainer { stamp: (0, 0, 0), pod: pod(args), age: Age::default(), is_complete: true },
            )
        };
        let containers =
            [known("c1", "K8S_POD_UID=1"), known("c2", "K8S_POD_UID=2;K8S_POD_NAMESPACE=web;K8S_POD_NAME=shop")];
        let index =
            Index { state_dir: PathBuf::new(), containers: containers.into(), refreshes: 1, pause: FIRST_RETRY_PAUSE };
        assert_eq!((index.container_of("1"), index.container_of("2")), (Some("c1"), Some("c2")));
        assert_eq!(index.of_pods().map(|(id, _)| id).collect::<Vec<_>>(), ["c2"]);
    }
}
