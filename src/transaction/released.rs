//! Resource claims whose status still names a container that is no longer attached.
//!
//! DEL calls no API server, so it leaves a note of the pod's claims in `<stateDir>/claims/<UID>.json`, and the node's agent removes
//! what the claims' status says of the pod. If no agent has ever run on the node, nobody would read the notes, and none are
//! written.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::journal::State;
use super::store::{Container, Store, StoreError};
use crate::cni::Args;
use crate::telemetry::socket_path;

/// The directory of the notes, in the state directory.
const CLAIMS: &str = "claims";
const EXTENSION: &str = ".json";

/// Claims of a pod that no longer uses their devices.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReleasedClaims {
    /// The namespace of the pod and of the claims.
    pub namespace: String,
    /// The pod's UID.
    pub uid: String,
    /// The names of the `ResourceClaim` objects.
    pub claims: BTreeSet<String>,
}

impl ReleasedClaims {
    /// The claims whose devices a container's attachments use. `None` if there are none, or if no pod is known.
    fn of(state: &State) -> Option<Self> {
        let of_attachment = |(_, attachment): (usize, &crate::plan::Attachment)| {
            attachment.allocated.as_ref().map(|device| device.claim.clone())
        };
        let claims: BTreeSet<String> = state.attachments().filter_map(of_attachment).collect();
        let args: Args = state.header.plan.args.parse().unwrap_or_default();
        let value = |key| args.get(key).unwrap_or_default().to_owned();
        let released = Self { namespace: value("K8S_POD_NAMESPACE"), uid: value("K8S_POD_UID"), claims };
        (!released.claims.is_empty() && !released.namespace.is_empty() && is_uid(&released.uid)).then_some(released)
    }

    /// Every note in a state directory, and the files and directories that cannot be read.
    pub fn all(state_dir: &Path) -> (Vec<Self>, Vec<(PathBuf, io::Error)>) {
        let directory = state_dir.join(CLAIMS);
        let entries = match fs::read_dir(&directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return (Vec::new(), Vec::new()),
            Err(error) => return (Vec::new(), vec![(directory, error)]),
        };
        let uid = |entry: fs::DirEntry| Some(entry.file_name().to_str()?.strip_suffix(EXTENSION)?.to_owned());
        let uids = entries.filter_map(|entry| uid(entry.ok()?)).filter(|uid| is_uid(uid));
        let (mut notes, mut unread) = (Vec::new(), Vec::new());
        for uid in uids {
            match Self::read(state_dir, &uid) {
                Ok(note) => notes.extend(note),
                Err(error) => unread.push((file(state_dir, &uid), error)),
            }
        }
        (notes, unread)
    }

    /// The note about a pod, if there is one.
    ///
    /// # Errors
    /// When it cannot be read, or is no such note.
    pub fn read(state_dir: &Path, uid: &str) -> io::Result<Option<Self>> {
        let bytes = match fs::read(file(state_dir, uid)) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let note: Self = serde_json::from_slice(&bytes)?;
        if note.uid == uid {
            return Ok(Some(note));
        }
        let reason = format!("expected \"uid\" {uid:?}, as its name says, got {:?}", note.uid);
        Err(io::Error::new(io::ErrorKind::InvalidData, reason))
    }

    /// Removes the note, after the claims' status has been updated.
    ///
    /// # Errors
    /// When it is there and cannot be removed.
    pub fn forget(&self, state_dir: &Path) -> io::Result<()> {
        match fs::remove_file(file(state_dir, &self.uid)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn write(mut self, state_dir: &Path) -> io::Result<()> {
        let directory = state_dir.join(CLAIMS);
        match DirBuilder::new().mode(0o700).create(&directory) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        if !directory.symlink_metadata()?.is_dir() {
            return Err(io::Error::new(
                io::ErrorKind::NotADirectory,
                format!("{} is not a directory", directory.display()),
            ));
        }
        // A note that cannot be read is replaced.
        if let Ok(Some(before)) = Self::read(state_dir, &self.uid) {
            self.claims.extend(before.claims);
        }
        let new = directory.join(format!(".{}.{}", self.uid, std::process::id()));
        let mut options = OpenOptions::new();
        let written = options.write(true).create_new(true).mode(0o600).open(&new);
        let written = written.and_then(|mut file| file.write_all(&serde_json::to_vec(&self)?));
        let written = written.and_then(|()| fs::rename(&new, file(state_dir, &self.uid)));
        if written.is_err() {
            drop(fs::remove_file(&new));
        }
        written
    }
}

fn file(state_dir: &Path, uid: &str) -> PathBuf {
    state_dir.join(CLAIMS).join(format!("{uid}{EXTENSION}"))
}

/// Whether a text can be a UID. It comes from a runtime and becomes the name of a file.
fn is_uid(text: &str) -> bool {
    (1..=128).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

/// Removes the journal of a container that is completely undone. Before that, leaves a note of the claims whose status in the API
/// server has to be updated.
///
/// # Errors
/// When the journal cannot be removed.
pub fn remove_undone(store: &Store, container: &Container, state: &State) -> Result<(), StoreError> {
    note_released(store, state);
    container.remove_journal(&state.header.plan.ifname)
}

/// Writes a note of the claims of a container that is completely undone. A failure is only logged.
pub(super) fn note_released(store: &Store, state: &State) {
    let state_dir = store.path();
    let Some(released) = ReleasedClaims::of(state) else { return };
    if !socket_path(state_dir).exists() {
        return;
    }
    if let Err(error) = released.write(state_dir) {
        tracing::warn!(
            container = state.header.plan.container_id,
            "the status of its resource claims stays as it is, as no note of them can be written: {error}"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn released(uid: &str, claims: &[&str]) -> ReleasedClaims {
        let claims = claims.iter().map(|name| (*name).to_owned()).collect();
        ReleasedClaims { namespace: "web".into(), uid: uid.into(), claims }
    }

    /// The notes of a directory in which everything can be read.
    fn notes(state_dir: &Path) -> Vec<ReleasedClaims> {
        let (notes, unread) = ReleasedClaims::all(state_dir);
        assert!(unread.is_empty(), "{unread:?}");
        notes
    }

    #[test]
    fn a_note_that_cannot_be_read_is_reported_and_hides_no_other() {
        let dir = tempfile::tempdir().unwrap();
        released("1", &["nics"]).write(dir.path()).unwrap();
        let claims = dir.path().join("claims");
        fs::write(claims.join("2.json"), "{").unwrap();
        fs::copy(claims.join("1.json"), claims.join("3.json")).unwrap();
        fs::create_dir(claims.join("4.json")).unwrap();
        let (notes, mut unread) = ReleasedClaims::all(dir.path());
        unread.sort_by(|a, b| a.0.cmp(&b.0));
        let files: Vec<PathBuf> = unread.iter().map(|(file, _)| file.clone()).collect();
        assert_eq!(
            (notes, files),
            (vec![released("1", &["nics"])], ["2", "3", "4"].map(|uid| file(dir.path(), uid)).to_vec())
        );
        assert!(unread[1].1.to_string().contains(r#"expected "uid" "3""#), "{}", unread[1].1);
        // The next note about that pod replaces it.
        released("2", &["gpus"]).write(dir.path()).unwrap();
        assert_eq!(ReleasedClaims::all(dir.path()).0.len(), 2);
    }

    #[test]
    fn notes_of_one_pod_add_up_until_they_are_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(notes(dir.path()), []);
        released("1-a", &["nics"]).write(dir.path()).unwrap();
        released("1-a", &["gpus"]).write(dir.path()).unwrap();
        let both = released("1-a", &["gpus", "nics"]);
        assert_eq!(notes(dir.path()), std::slice::from_ref(&both));
        both.forget(dir.path()).unwrap();
        both.forget(dir.path()).unwrap();
        assert_eq!(notes(dir.path()), []);
    }

    #[test]
    fn a_link_in_the_place_of_the_directory_is_not_followed_and_a_uid_is_no_path() {
        let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::os::unix::fs::symlink(other.path(), dir.path().join(CLAIMS)).unwrap();
        assert!(released("1", &["nics"]).write(dir.path()).unwrap_err().to_string().contains("not a directory"));
        assert_eq!(fs::read_dir(other.path()).unwrap().count(), 0);
        for text in ["", "..", "a/b", ".a", "a b"] {
            assert!(!is_uid(text), "{text}");
        }
    }
}
