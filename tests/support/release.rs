//! The output of `.ci/release`, for tests.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

use super::braid;

/// The version of a copy of the repository, for upgrades.
pub(crate) const NEXT: &str = "99.0.0";

/// A folder of downloads. Packing is tested with a script in place of each executable, which calls the braid under test, so nothing
/// has to be built.
pub(crate) struct Release {
    repository: PathBuf,
    version: &'static str,
    dir: TempDir,
}

impl Release {
    /// Of this repository.
    pub(crate) fn new() -> Self {
        let dir = TempDir::new().expect("a temporary folder");
        Self { repository: env!("CARGO_MANIFEST_DIR").into(), version: env!("CARGO_PKG_VERSION"), dir }
            .with_executables()
    }

    /// Of a copy of the repository with another version.
    pub(crate) fn of(version: &'static str) -> Self {
        let dir = TempDir::new().expect("a temporary folder");
        let repository = dir.path().join("repository");
        let from = Path::new(env!("CARGO_MANIFEST_DIR"));
        for entry in
            [".ci", "conf", "docs", "src", "tests", "CHANGELOG.md", "Cargo.lock", "Cargo.toml", "LICENSE", "README.md"]
        {
            fs::create_dir_all(&repository).expect("make a folder");
            let copied = Command::new("cp").arg("-a").arg(from.join(entry)).arg(&repository).status().expect("run cp");
            assert!(copied.success(), "cannot copy {entry}");
        }
        for file in ["Cargo.toml", "Cargo.lock"] {
            let path = repository.join(file);
            let text = fs::read_to_string(&path).expect("read it");
            let own = concat!("name = \"braid-cni\"\nversion = \"", env!("CARGO_PKG_VERSION"), "\"");
            assert!(text.contains(own), "{file} has another version");
            fs::write(&path, text.replace(own, &format!("name = \"braid-cni\"\nversion = \"{version}\"")))
                .expect("write it");
        }
        Self { repository, version, dir }.with_executables()
    }

    fn with_executables(self) -> Self {
        fs::create_dir_all(self.path()).expect("make a folder");
        let text = format!("#!/bin/sh\nexec {} \"$@\"\n", braid().display());
        for platform in ["amd64", "arm64"] {
            let path = self.file(&format!("braid-{}-linux-{platform}", self.version));
            fs::write(&path, &text).expect("write a script");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("make it executable");
        }
        self
    }

    /// Runs steps of `.ci/release`, only for the variant with Kubernetes.
    #[track_caller]
    pub(crate) fn make(self, steps: &[&str]) -> Self {
        let output = self.run(steps);
        assert!(output.status.success(), "{steps:?}: {output:?}");
        self
    }

    pub(crate) fn run(&self, steps: &[&str]) -> Output {
        Command::new(self.repository.join(".ci/release"))
            .args(steps)
            .env("BRAID_RELEASE_DIR", self.path())
            .env("BRAID_RELEASE_VARIANTS", "kubernetes")
            .env("SOURCE_DATE_EPOCH", "1700000000")
            .env("CARGO_NET_OFFLINE", "true")
            .output()
            .expect("run .ci/release")
    }

    /// The folder.
    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path().join("dist")
    }

    /// A file in it.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    /// The files in it by name, with their contents.
    pub(crate) fn content(&self) -> Vec<(String, Vec<u8>)> {
        let entries = fs::read_dir(self.path()).expect("the folder").flatten();
        let mut files: Vec<_> = entries
            .map(|entry| (entry.file_name().into_string().expect("UTF-8"), fs::read(entry.path()).expect("read it")))
            .collect();
        files.sort();
        files
    }
}
