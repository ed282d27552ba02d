//! The cache of results that libcni keeps for CHECK and DEL: `<cacheDir>/results/<network>-<container>-<interface>`.
//!
//! Braid's plugin side does not use it, its journal holds more. It is here for a runtime built on this library, and so
//! that attachments made by another runtime's libcni can be read.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::chain::Attachment;
use crate::cni::Args;
use crate::cni::config::RawObject;

/// libcni's default directory.
pub const DEFAULT_DIR: &str = "/var/lib/cni";
const KIND: &str = "cniCacheV1";

/// One file of the cache.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Cached {
    /// Always `cniCacheV1`.
    pub kind: String,
    /// The container's ID.
    pub container_id: String,
    /// The configuration that was run, in base64.
    pub config: String,
    /// The interface's name.
    pub if_name: String,
    /// The network's name.
    pub network_name: String,
    /// The namespace's path.
    #[serde(default)]
    pub netns: String,
    /// `CNI_ARGS`, as pairs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cni_args: Option<Vec<[String; 2]>>,
    /// The capability arguments.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capability_args: Option<RawObject>,
    /// The result of ADD.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<Box<RawValue>>,
}

impl Cached {
    /// The configuration that was run.
    pub fn config_bytes(&self) -> Option<Vec<u8>> {
        STANDARD.decode(&self.config).ok()
    }

    /// The parameters of the attachment.
    pub fn attachment(&self) -> Attachment {
        let mut args = Args::default();
        for [key, value] in self.cni_args.iter().flatten() {
            args.set(key, value);
        }
        Attachment {
            container_id: self.container_id.clone(),
            netns: self.netns.clone(),
            ifname: self.if_name.clone(),
            args: args.to_string(),
            capability_args: self.capability_args.clone().unwrap_or_default(),
            plugin_args: RawObject::new(),
        }
    }
}

/// libcni's cache in a directory.
#[derive(Debug, Clone)]
pub struct Cache {
    results: PathBuf,
}

impl Cache {
    /// The cache below `directory`, which is libcni's `cacheDir`.
    pub fn new(directory: &Path) -> Self {
        Self { results: directory.join("results") }
    }

    fn file(&self, network: &str, container_id: &str, ifname: &str) -> PathBuf {
        self.results.join(format!("{network}-{container_id}-{ifname}"))
    }

    /// Writes the result of an ADD.
    ///
    /// # Errors
    /// When writing fails; the file that was there before is then still there.
    pub fn store(&self, network: &str, config: &[u8], attachment: &Attachment, result: &RawValue) -> io::Result<()> {
        let args: Args = attachment.args.parse().map_err(io::Error::other)?;
        let cached = Cached {
            kind: KIND.into(),
            container_id: attachment.container_id.clone(),
            config: STANDARD.encode(config),
            if_name: attachment.ifname.clone(),
            network_name: network.into(),
            netns: attachment.netns.clone(),
            cni_args: Some(args.iter().map(|(key, value)| [key.to_owned(), value.to_owned()]).collect()),
            capability_args: Some(attachment.capability_args.clone()).filter(|args| !args.is_empty()),
            result: Some(result.to_owned()),
        };
        fs::create_dir_all(&self.results)?;
        let file = self.file(network, &attachment.container_id, &attachment.ifname);
        let mut temporary = file.clone().into_os_string();
        temporary.push(format!(".{}", std::process::id()));
        let mut writer = fs::OpenOptions::new().write(true).create(true).truncate(true).open(&temporary)?;
        writer.write_all(&serde_json::to_vec(&cached)?)?;
        fs::rename(&temporary, &file)
    }

    /// Reads the cached attachment, if there is one.
    ///
    /// # Errors
    /// When the file cannot be read or is not of this format.
    pub fn load(&self, network: &str, container_id: &str, ifname: &str) -> io::Result<Option<Cached>> {
        let bytes = match fs::read(self.file(network, container_id, ifname)) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        parse(&bytes).map(Some)
    }

    /// Every cached attachment of a network.
    ///
    /// # Errors
    /// When the directory cannot be read. Files of another format are passed over, as libcni does.
    pub fn attachments(&self, network: &str) -> io::Result<Vec<Cached>> {
        let start = format!("{network}-");
        let mut found = self.matching(|name| name.starts_with(&start))?;
        found.retain(|cached| cached.network_name == network);
        Ok(found)
    }

    fn matching(&self, is_wanted: impl Fn(&str) -> bool) -> io::Result<Vec<Cached>> {
        let entries = match fs::read_dir(&self.results) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut found = Vec::new();
        for entry in entries {
            let entry = entry?;
            if is_wanted(&entry.file_name().to_string_lossy()) {
                found.extend(fs::read(entry.path()).and_then(|bytes| parse(&bytes)).ok());
            }
        }
        Ok(found)
    }

    /// Every cached attachment of a container.
    ///
    /// # Errors
    /// When the directory cannot be read. Files of another format are passed over, as libcni does.
    pub fn of_container(&self, container_id: &str) -> io::Result<Vec<Cached>> {
        let part = format!("-{container_id}-");
        let mut found = self.matching(|name| name.contains(&part))?;
        found.retain(|cached| cached.container_id == container_id);
        Ok(found)
    }

    /// Forgets an attachment; one that is not there is forgotten already.
    ///
    /// # Errors
    /// When the file cannot be removed.
    pub fn remove(&self, network: &str, container_id: &str, ifname: &str) -> io::Result<()> {
        match fs::remove_file(self.file(network, container_id, ifname)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

fn parse(bytes: &[u8]) -> io::Result<Cached> {
    let cached: Cached = serde_json::from_slice(bytes)?;
    if cached.kind == KIND {
        Ok(cached)
    } else {
        Err(io::Error::other(format!("kind is {:?}, expected {KIND:?}", cached.kind)))
    }
}
