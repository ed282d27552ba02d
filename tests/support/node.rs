//! The directories of a node on which Braid is installed.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output};

use serde_json::Value;

use super::braid;

/// A primary network. It contains a number that no float can represent.
pub(crate) const PRIMARY: &str = r#"{"cniVersion": "1.0.0", "name": "pods", "plugins": [
    {"type": "alpha", "x": 1e400, "capabilities": {"portMappings": true}}]}"#;

/// A node's directories, and a service account.
pub(crate) struct Node(tempfile::TempDir);

impl Node {
    pub(crate) fn new() -> Self {
        let node = Self(tempfile::tempdir().unwrap());
        for directory in ["net.d", "bin", "account"] {
            fs::create_dir(node.path(directory)).unwrap();
        }
        node.write("account/token", "token-1");
        node.write("account/ca.crt", "certificate");
        node.write("bin/alpha", "#!/bin/sh\nexit 0\n");
        fs::set_permissions(node.path("bin/alpha"), PermissionsExt::from_mode(0o755)).unwrap();
        node
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// A command with a time limit, after which it is ended and has an exit status of its own.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("timeout");
        command.arg("60").arg(braid()).args(arguments);
        command.env_remove("CNI_COMMAND").env_remove("KUBERNETES_SERVICE_HOST");
        for (option, directory) in [("--conf-dir", "net.d"), ("--bin-dir", "bin"), ("--state-dir", "state")] {
            command.arg(option).arg(self.path(directory));
        }
        command
    }

    /// `install` as it runs in a pod of a cluster.
    pub(crate) fn install_in_cluster(&self, more: &[&str]) -> Command {
        let mut command = self.command(&[&["install"], more].concat());
        command.arg("--service-account").arg(self.path("account"));
        // No server listens there, and there is no retry.
        command.args(["--with", r#"{"kubernetes": {"retries": 0}}"#]);
        command.env("KUBERNETES_SERVICE_HOST", "::1").env("KUBERNETES_SERVICE_PORT", "1");
        command
    }

    pub(crate) fn mode(&self, name: &str) -> u32 {
        self.path(name).symlink_metadata().unwrap().permissions().mode() & 0o7777
    }

    pub(crate) fn token(&self) -> String {
        let kubeconfig = fs::read(self.path("net.d/braid.d/kubeconfig")).unwrap();
        let kubeconfig: Value = serde_json::from_slice(&kubeconfig).unwrap();
        kubeconfig["users"][0]["user"]["token"].as_str().unwrap().to_owned()
    }

    pub(crate) fn files(&self, directory: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path(directory)).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    pub(crate) fn install(&self, more: &[&str]) -> Output {
        self.run(&[&["install", "--once"], more].concat())
    }

    pub(crate) fn conflist(&self) -> Value {
        let text = fs::read_to_string(self.path("net.d/00-braid.conflist")).unwrap();
        serde_json::from_str(&text.replace("1e400", "1")).unwrap()
    }
}
