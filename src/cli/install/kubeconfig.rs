//! The kubeconfig with which Braid connects to the API server, and the token in it.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use super::files::{self, Change, Links};
use super::report::{Problem, say};
use crate::request::variable;
use crate::source::bearer_token::Token;
use crate::source::kubernetes::lasting_token;

/// The permissions of the file and of its directory: only root may read the token.
const MODE: u32 = 0o600;
const DIRECTORY_MODE: u32 = 0o700;
/// The requested lifetime of a token. For this long, pods can be attached with it even if no new one can be obtained.
const LIFETIME: Duration = Duration::from_secs(7 * 24 * 3600);
/// How often a new one is asked for.
const RENEWAL: Duration = Duration::from_secs(3600);
/// When it is tried again after a refusal.
const RETRY: Duration = Duration::from_secs(60);

/// Maintains a kubeconfig with a valid token.
#[derive(Debug)]
pub(super) struct Kubeconfig<'a> {
    path: PathBuf,
    /// Where the service account is mounted.
    account: &'a Path,
    /// A token that stays valid after this pod, unlike the one that Kubernetes gives to the pod, and its expiry time.
    lasting: Option<(Token, Instant)>,
    /// When to ask for another.
    ask_at: Instant,
    /// Why there was none the last time.
    refusal: Problem,
}

/// The content of the kubeconfig, apart from the token.
struct Server {
    url: String,
    /// The certificate of its authority, in base64.
    authority: String,
}

impl<'a> Kubeconfig<'a> {
    pub(super) fn new(path: PathBuf, account: &'a Path) -> Self {
        Self { path, account, lasting: None, ask_at: Instant::now(), refusal: Problem::default() }
    }

    /// Whether there is one.
    pub(super) fn is_there(&self) -> bool {
        self.path.exists()
    }

    /// What [`Self::maintain`] would do, if anything. Requests no token.
    ///
    /// # Errors
    /// When there is no good token, or it could not be written.
    pub(super) fn change(&self) -> Result<Option<Change>, String> {
        if address_of_server().is_none() {
            return Ok(None);
        }
        self.read("ca.crt").and_then(|bytes| certificate(&bytes))?;
        self.token_of_pod()?;
        let directory = self.path.parent().unwrap_or(&self.path);
        let could_write = match directory.symlink_metadata() {
            Ok(metadata) if metadata.is_dir() => files::could_write(&self.path),
            Ok(_) => Err(no_directory(directory)),
            Err(_) => files::could_write(directory),
        };
        could_write.map_err(|error| format!("{}: {error}", self.path.display()))?;
        Ok(Some(Change::of(&self.path, false, "the credentials of this pod's service account")))
    }

    /// Writes a kubeconfig with a token for the node or, until there is one, with the token of this pod. Without a service account
    /// nothing is written.
    ///
    /// # Errors
    /// When there is no good token, or it cannot be written. What was written before then stays.
    pub(super) fn maintain(&mut self) -> Result<(), String> {
        let Some(address) = address_of_server() else { return Ok(()) };
        let authority = self.read("ca.crt").and_then(|bytes| certificate(&bytes))?;
        let server = Server { url: format!("https://{address}"), authority };
        let now = Instant::now();
        self.lasting.take_if(|(_, expires)| now >= *expires);
        let of_pod = self.token_of_pod();
        match (&self.lasting, &of_pod) {
            (Some((token, _)), _) | (None, Ok(token)) => self.write(&server, token)?,
            (None, Err(_)) => {}
        }
        let of_pod = of_pod?;
        if now >= self.ask_at {
            self.renew(&server, &of_pod, now)?;
        }
        Ok(())
    }

    fn read(&self, name: &str) -> Result<Vec<u8>, String> {
        let path = self.account.join(name);
        files::read(&path, Links::Followed).map_err(|error| format!("{}: {error}", path.display()))
    }

    /// The token that Kubernetes gives to this pod.
    fn token_of_pod(&self) -> Result<Token, String> {
        self.read("token").and_then(|bytes| {
            Token::parse(&bytes, SystemTime::now())
                .map_err(|error| format!("{}: {error}", self.account.join("token").display()))
        })
    }

    /// Asks for a token that outlives this pod.
    fn renew(&mut self, server: &Server, of_pod: &Token, now: Instant) -> Result<(), String> {
        match longer_lived(&self.path, of_pod) {
            Ok((token, lifetime)) => {
                self.write(server, &token)?;
                let expires = now.checked_add(lifetime).unwrap_or_else(|| now + LIFETIME);
                self.lasting = Some((token, expires));
                self.ask_at = now + RENEWAL.min(lifetime / 2);
                self.refusal.is_over();
            }
            Err(reason) => {
                self.ask_at = now + RETRY;
                let what = if self.lasting.is_some() { "is not renewed" } else { "ends with this pod" };
                self.refusal.is(format!("the token in {} {what}: {reason}", self.path.display()));
            }
        }
        Ok(())
    }

    /// Writes a kubeconfig, unless the existing one is as it should be.
    fn write(&self, server: &Server, token: &Token) -> Result<(), String> {
        // JSON is YAML.
        let kubeconfig = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{
                "name": "local",
                "cluster": {"server": server.url, "certificate-authority-data": server.authority},
            }],
            "users": [{"name": "braid", "user": {"token": token.text()}}],
            "contexts": [{"name": "braid", "context": {"cluster": "local", "user": "braid"}}],
            "current-context": "braid",
        });
        let wanted = format!("{kubeconfig:#}\n").into_bytes();
        let write = || {
            keep_directory(self.path.parent().unwrap_or(&self.path))?;
            if files::is_as(&self.path, &wanted, MODE) {
                return Ok(false);
            }
            files::write(&self.path, &wanted, MODE)?;
            Ok(true)
        };
        let is_written = write().map_err(|error: io::Error| format!("{}: {error}", self.path.display()))?;
        if is_written {
            say(&format!("wrote {}", self.path.display()));
        }
        Ok(())
    }
}

/// The API server's host and port, if this process runs in a cluster.
fn address_of_server() -> Option<String> {
    let is_set = |name| variable(name).ok().flatten().filter(|value| !value.is_empty());
    let (host, port) = (is_set("KUBERNETES_SERVICE_HOST")?, is_set("KUBERNETES_SERVICE_PORT")?);
    Some(if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") })
}

/// A certificate in base64. A file that is incomplete, because it is being written, is rejected.
fn certificate(bytes: &[u8]) -> Result<String, String> {
    let text = String::from_utf8_lossy(bytes);
    let is_whole = text.matches("-----BEGIN ").count() == text.matches("-----END ").count();
    if text.trim().is_empty() || !is_whole {
        return Err("ca.crt of the service account is empty or incomplete".into());
    }
    Ok(STANDARD.encode(bytes))
}

/// Makes the directory of the kubeconfig, or corrects its permissions.
fn keep_directory(path: &Path) -> io::Result<()> {
    match path.symlink_metadata() {
        Ok(metadata) if !metadata.is_dir() => Err(no_directory(path)),
        Ok(metadata) if files::has_mode(&metadata, DIRECTORY_MODE) => Ok(()),
        Ok(_) => fs::set_permissions(path, Permissions::from_mode(DIRECTORY_MODE)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            DirBuilder::new().recursive(true).mode(DIRECTORY_MODE).create(path)
        }
        Err(error) => Err(error),
    }
}

fn no_directory(path: &Path) -> io::Error {
    io::Error::other(format!("{} is not a directory, expected one", path.display()))
}

/// Requests a token for this pod's service account. Returns it with its lifetime.
fn longer_lived(kubeconfig: &Path, of_pod: &Token) -> Result<(Token, Duration), String> {
    let (namespace, name) = of_pod.service_account().ok_or("the token of this pod names no service account")?;
    let (text, lifetime) =
        lasting_token(kubeconfig, (&namespace, &name), LIFETIME).map_err(|error| error.to_string())?;
    if lifetime.is_zero() {
        return Err("the token in the API server's answer has expired".into());
    }
    let token = Token::parse(text.as_bytes(), SystemTime::now())
        .map_err(|error| format!("the API server's answer cannot be used: {error}"))?;
    Ok((token, lifetime))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_that_is_being_written_is_refused() {
        let whole = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert!(certificate(whole.as_bytes()).is_ok());
        for end in [0, 11, 30] {
            assert!(certificate(&whole.as_bytes()[..end]).is_err());
        }
    }

    #[test]
    fn the_directory_is_for_root_alone_and_no_link() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("braid.d");
        let mode = || path.metadata().unwrap().permissions().mode() & 0o777;
        keep_directory(&path).unwrap();
        assert_eq!(mode(), 0o700);
        fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
        keep_directory(&path).unwrap();
        assert_eq!(mode(), 0o700);
        fs::remove_dir(&path).unwrap();
        std::os::unix::fs::symlink(dir.path(), &path).unwrap();
        assert!(keep_directory(&path).unwrap_err().to_string().contains("not a directory"));
    }
}
