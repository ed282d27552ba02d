//! The cache of results that libcni keeps for CHECK and DEL: `<cacheDir>/results/<network>-<container>-<interface>`.
//!
//! Braid as a plugin does not write it, as its journal holds more. It exists for runtimes that are built on this library, and so
//! that Braid can read and undo attachments that another runtime's libcni made.

use std::fs::{self, DirBuilder};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::chain::Attachment;
use crate::cni::config::{ConfigError, Defaults, RawObject, parse_object, raw};
use crate::cni::{Args, NetworkConfig};

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
    #[serde(default, skip_serializing_if = "String::is_empty")]
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
    /// The configuration that was run, as text.
    pub fn config_bytes(&self) -> Option<Vec<u8>> {
        STANDARD.decode(&self.config).ok()
    }

    /// The configuration that was run. For a list, libcni keeps only the file, without the plugins of the directory beside it.
    ///
    /// # Errors
    /// When it is no complete network configuration.
    pub fn network(&self) -> Result<NetworkConfig, ConfigError> {
        let object = parse_object(&self.config_bytes().unwrap_or_default())?;
        NetworkConfig::complete_from_object(object, Defaults::default())
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

    /// The directory of the results.
    pub fn directory(&self) -> &Path {
        &self.results
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
            cni_args: Some(args.iter().map(|(key, value)| [key.to_owned(), value.to_owned()]).collect::<Vec<_>>())
                .filter(|args| !args.is_empty()),
            capability_args: Some(attachment.capability_args.clone()).filter(|args| !args.is_empty()),
            result: Some(result.to_owned()),
        };
        // libcni uses the same permissions.
        DirBuilder::new().recursive(true).mode(0o700).create(&self.results)?;
        let file = self.file(network, &attachment.container_id, &attachment.ifname);
        let mut temporary = file.clone().into_os_string();
        temporary.push(format!(".{}", std::process::id()));
        let written = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)
            .and_then(|mut writer| writer.write_all(&serde_json::to_vec(&cached)?))
            .and_then(|()| fs::rename(&temporary, &file));
        if written.is_err() {
            drop(fs::remove_file(&temporary));
        }
        written
    }

    /// Reads the cached attachment, if there is one. A file from libcni before 0.8.0 holds only the result.
    ///
    /// # Errors
    /// When the file cannot be read or is of neither format.
    pub fn load(&self, network: &str, container_id: &str, ifname: &str) -> io::Result<Option<Cached>> {
        let bytes = match fs::read(self.file(network, container_id, ifname)) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        parse(&bytes)
            .or_else(|error| {
                let object: RawObject = serde_json::from_slice(&bytes)?;
                let is_result = ["ips", "ip4", "ip6", "interfaces"].iter().any(|key| object.contains_key(*key));
                if object.contains_key("kind") || !is_result {
                    return Err(error);
                }
                Ok(Cached {
                    kind: String::new(),
                    container_id: container_id.into(),
                    config: String::new(),
                    if_name: ifname.into(),
                    network_name: network.into(),
                    netns: String::new(),
                    cni_args: None,
                    capability_args: None,
                    result: Some(raw(&object)),
                })
            })
            .map(Some)
    }

    /// Every cached attachment of a network.
    ///
    /// # Errors
    /// As [`Self::all`].
    pub fn attachments(&self, network: &str) -> io::Result<Vec<Cached>> {
        let mut found = self.all()?;
        found.retain(|cached| cached.network_name == network);
        Ok(found)
    }

    /// Every cached attachment of a container. Files of other containers are not read.
    ///
    /// # Errors
    /// As [`Self::all`].
    pub fn of_container(&self, container_id: &str) -> io::Result<Vec<Cached>> {
        let part = format!("-{container_id}-");
        let mut files = self.files()?;
        files.retain(|file| file.file_name().is_some_and(|name| name.to_string_lossy().contains(&part)));
        Ok(read_whole(files).filter(|cached| cached.container_id == container_id).collect())
    }

    /// Every cached attachment, by file name.
    ///
    /// # Errors
    /// When the directory cannot be read. Files of another format are skipped, as in libcni.
    pub fn all(&self) -> io::Result<Vec<Cached>> {
        self.each().map(Iterator::collect)
    }

    /// Every cached attachment, by file name. Each file is read when the iterator reaches it.
    ///
    /// # Errors
    /// As [`Self::all`].
    pub fn each(&self) -> io::Result<impl Iterator<Item = Cached> + use<>> {
        Ok(read_whole(self.files()?))
    }

    fn files(&self) -> io::Result<Vec<PathBuf>> {
        let entries = match fs::read_dir(&self.results) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut files = entries.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
        files.sort();
        Ok(files)
    }

    /// Removes an attachment. Succeeds if it is not there.
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

/// The files that can be read completely.
fn read_whole(files: Vec<PathBuf>) -> impl Iterator<Item = Cached> {
    let read = |file: PathBuf| fs::read(file).and_then(|bytes| parse(&bytes)).ok();
    let is_whole = |cached: &Cached| !cached.if_name.is_empty() && !cached.network_name.is_empty();
    files.into_iter().filter_map(read).filter(is_whole)
}

fn parse(bytes: &[u8]) -> io::Result<Cached> {
    let cached: Cached = serde_json::from_slice(bytes)?;
    if cached.kind == KIND {
        Ok(cached)
    } else {
        Err(io::Error::other(format!("kind is {:?}, expected {KIND:?}", cached.kind)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn result() -> Box<RawValue> {
        RawValue::from_string(r#"{"cniVersion":"1.0.0","dns":{}}"#.into()).unwrap()
    }

    /// The text is what libcni 1.3 wrote for the same call.
    #[test]
    fn the_format_is_libcnis_to_the_byte() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::new(dir.path());
        let full = Attachment {
            args: "A=1;B=2".into(),
            capability_args: parse_object(br#"{"mac":"02:00:00:00:00:01"}"#).unwrap(),
            ..Attachment::new("c1", "/run/netns/c1", "eth0")
        };
        cache.store("n", br#"{"name":"n"}"#, &full, &result()).unwrap();
        let file = dir.path().join("results/n-c1-eth0");
        assert_eq!(
            fs::read_to_string(&file).unwrap(),
            concat!(
                r#"{"kind":"cniCacheV1","containerId":"c1","config":"eyJuYW1lIjoibiJ9","ifName":"eth0","#,
                r#""networkName":"n","netns":"/run/netns/c1","cniArgs":[["A","1"],["B","2"]],"#,
                r#""capabilityArgs":{"mac":"02:00:00:00:00:01"},"result":{"cniVersion":"1.0.0","dns":{}}}"#
            )
        );
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(dir.path().join("results").metadata().unwrap().permissions().mode() & 0o777, 0o700);

        cache.store("n", b"{}", &Attachment::new("c1", "", "eth1"), &result()).unwrap();
        assert_eq!(
            fs::read_to_string(dir.path().join("results/n-c1-eth1")).unwrap(),
            concat!(
                r#"{"kind":"cniCacheV1","containerId":"c1","config":"e30=","ifName":"eth1","networkName":"n","#,
                r#""result":{"cniVersion":"1.0.0","dns":{}}}"#
            )
        );
        let back = cache.load("n", "c1", "eth0").unwrap().unwrap().attachment();
        assert_eq!((back.args, back.netns), (full.args, full.netns));
    }

    #[test]
    fn lists_are_by_network_and_by_container_and_pass_over_what_is_no_cache() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::new(dir.path());
        assert!(cache.all().unwrap().is_empty());
        for (network, id) in [("n", "c1"), ("n", "c2"), ("n-c1", "c3")] {
            cache.store(network, b"{}", &Attachment::new(id, "", "eth0"), &result()).unwrap();
        }
        fs::write(dir.path().join("results/n-c4-eth0"), "{").unwrap();
        fs::write(dir.path().join("results/n-c5-eth0"), r#"{"kind":"other"}"#).unwrap();
        let ids = |found: Vec<Cached>| found.into_iter().map(|cached| cached.container_id).collect::<Vec<_>>();
        assert_eq!(ids(cache.attachments("n").unwrap()), ["c1", "c2"]);
        assert_eq!(ids(cache.of_container("c3").unwrap()), ["c3"]);
        assert!(cache.load("n", "c4", "eth0").is_err());
        assert!(cache.load("n", "c5", "eth0").is_err());
        assert!(cache.load("n", "c6", "eth0").unwrap().is_none());
    }

    #[test]
    fn a_result_alone_is_what_libcni_kept_before_0_8() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("results")).unwrap();
        fs::write(dir.path().join("results/n-c-eth0"), r#"{"cniVersion":"0.4.0","ips":[]}"#).unwrap();
        let cached = Cache::new(dir.path()).load("n", "c", "eth0").unwrap().unwrap();
        assert_eq!(cached.result.unwrap().get(), r#"{"cniVersion":"0.4.0","ips":[]}"#);
    }
}
