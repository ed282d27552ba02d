//! What Multus left behind: attachments of containers that were started before Braid replaced it on the node.
//!
//! Multus keeps a file `<cniDir>/<containerID>` with the configurations that it ran, in order, and libcni keeps the results under
//! `<cniDir>/results`. That is enough to undo the attachments: each plugin in reverse, with the configuration, arguments and result
//! of its ADD, continuing after a failure.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::Tools;
use crate::cni::config::{Defaults, NetworkConfig, get, parse_object};
use crate::cni::{Verb, validate};
use crate::runtime::cache::{Cache, Cached};
use crate::runtime::load::{self, LoadError};
use crate::runtime::{Attachment, Chain, StepError, undo_in_reverse};

/// The directory of Multus's device files. No other file that a cache names is removed.
const DEVICE_INFO: &str = "/var/run/k8s.cni.cncf.io/devinfo/cni/";

/// An attachment that Multus made.
#[derive(Debug)]
pub struct Left {
    /// The network as it was run.
    pub network: NetworkConfig,
    /// What its plugins were given.
    pub parameters: Attachment,
    result: Option<Box<RawValue>>,
}

/// All that Multus did for a container.
#[derive(Debug)]
pub struct MultusState {
    file: PathBuf,
    cache: Cache,
    /// Its attachments, in the order in which they were made.
    pub attachments: Vec<Left>,
    /// The parts that cannot be read, of the file or of one of its configurations.
    pub unreadable: Vec<String>,
}

/// The call that asks for what Multus left.
#[derive(Debug, Clone, Copy)]
pub struct Asking<'a> {
    /// The container.
    pub container_id: &'a str,
    /// The interface of its first attachment.
    pub ifname: &'a str,
    /// The path of its namespace. Empty if the namespace is gone.
    pub netns: &'a str,
    /// `CNI_ARGS` for attachments whose own arguments are not known.
    pub args: &'a str,
}

#[derive(Deserialize)]
struct Delegate {
    #[serde(default, rename = "ifnameRequest")]
    ifname_request: String,
    #[serde(default, rename = "Bytes")]
    bytes: String,
}

impl MultusState {
    /// Reads what Multus left of a container in its directory. `None` if there is nothing.
    ///
    /// # Errors
    /// When the file or the cache is there and cannot be read. What makes no sense in them is in `unreadable`.
    pub fn read(directory: &Path, asking: Asking<'_>) -> io::Result<Option<Self>> {
        let file = directory.join(asking.container_id);
        if !file.symlink_metadata().is_ok_and(|metadata| metadata.is_file()) {
            return Ok(None);
        }
        let bytes = load::read(&file).map_err(|error| match error {
            LoadError::Io { source, .. } => source,
            other => io::Error::other(other.to_string()),
        })?;
        let cache = Cache::new(directory);
        let mut cached = cache.of_container(asking.container_id)?;
        let mut state = Self { file, cache, attachments: Vec::new(), unreadable: Vec::new() };
        match serde_json::from_slice::<Vec<Delegate>>(&bytes) {
            Ok(delegates) => {
                for (index, delegate) in delegates.iter().enumerate() {
                    match read_delegate(delegate, index, asking, &mut cached) {
                        Ok(left) => state.attachments.push(left),
                        Err(reason) => state.unreadable.push(format!("delegate {index}: {reason}")),
                    }
                }
            }
            Err(error) => state.unreadable.push(format!("it is not a list of delegates: {error}")),
        }
        // libcni's cache may have what the file lacks: it contains everything that DEL needs.
        cached.sort_by(|a, b| a.if_name.cmp(&b.if_name));
        for one in cached {
            let network = one.config_bytes().ok_or_else(|| "its configuration is not base64".to_owned());
            match network.and_then(|bytes| read_network(&bytes)) {
                Ok(network) => state.attachments.push(Left::new(network, asking, &one.if_name, Some(&one))),
                Err(reason) => {
                    state.unreadable.push(format!("result of {} on {}: {reason}", one.network_name, one.if_name));
                }
            }
        }
        Ok(Some(state))
    }

    /// The containers of which Multus left something, in no particular order.
    ///
    /// # Errors
    /// When the directory is there and cannot be read.
    pub fn container_ids(directory: &Path) -> io::Result<Vec<String>> {
        let entries = match fs::read_dir(directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut ids = Vec::new();
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            // The directory may also have files that were set aside.
            if entry.file_type()?.is_file() && validate::container_id(&name).is_ok() && !name.contains('.') {
                ids.push(name);
            }
        }
        Ok(ids)
    }

    /// Where Multus keeps it.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Runs DEL of every plugin, in reverse. Returns the failures, each with the name of its attachment.
    pub fn undo(&self, tools: Tools<'_>) -> Vec<(String, StepError)> {
        let steps: Vec<(&Left, usize)> = self
            .attachments
            .iter()
            .flat_map(|left| (0..left.network.plugins.len()).map(move |step| (left, step)))
            .collect();
        let ahead = tools.ahead(1);
        let tools = Tools { exec: &ahead, ..tools };
        for (index, left) in self.attachments.iter().enumerate().rev() {
            let steps = (0..left.network.plugins.len()).rev();
            ahead.expect(index, &left.chain(tools), Verb::Del, steps, Some(&left.parameters));
        }
        undo_in_reverse(steps, tools.limits, |(left, step), limits| {
            let chain = left.chain(Tools { limits, ..tools });
            let label = || format!("multus's delegate {:?} on {}", left.network.name, left.parameters.ifname);
            chain.del_step(step, &left.parameters, left.result.as_deref()).map_err(|error| (label(), error))
        })
    }

    /// Removes the files of the container, after everything is undone.
    ///
    /// # Errors
    /// When a file cannot be removed.
    pub fn remove(&self) -> io::Result<()> {
        for left in &self.attachments {
            let Attachment { container_id, ifname, capability_args, .. } = &left.parameters;
            if let Ok(Some(file)) = get::<String>(capability_args, "CNIDeviceInfoFile", "a path")
                && file.strip_prefix(DEVICE_INFO).is_some_and(|name| !name.contains('/'))
            {
                remove_file(Path::new(&file))?;
            }
            self.cache.remove(&left.network.name, container_id, ifname)?;
        }
        if self.unreadable.is_empty() { remove_file(&self.file) } else { Ok(()) }
    }

    /// Renames a file that cannot be used. Returns its new path.
    ///
    /// # Errors
    /// When it cannot be moved.
    pub fn set_aside(&self) -> io::Result<PathBuf> {
        let mut name = self.file.clone().into_os_string();
        name.push(".corrupt");
        fs::rename(&self.file, &name)?;
        Ok(name.into())
    }
}

impl Left {
    fn chain<'a>(&'a self, tools: Tools<'a>) -> Chain<'a> {
        let Tools { finder, exec, limits, .. } = tools;
        Chain { network: &self.network, finder, exec, limits, after: None }
    }

    fn new(network: NetworkConfig, asking: Asking<'_>, ifname: &str, cached: Option<&Cached>) -> Self {
        let plain = || Attachment { args: asking.args.into(), ..Attachment::default() };
        let mut parameters = cached.map_or_else(plain, Cached::attachment);
        parameters.container_id = asking.container_id.into();
        parameters.netns = asking.netns.into();
        parameters.ifname = ifname.into();
        Self { network, parameters, result: cached.and_then(|cached| cached.result.clone()) }
    }
}

fn read_delegate(
    delegate: &Delegate,
    index: usize,
    asking: Asking<'_>,
    cached: &mut Vec<Cached>,
) -> Result<Left, String> {
    let bytes =
        STANDARD.decode(&delegate.bytes).map_err(|error| format!("its configuration is not base64: {error}"))?;
    let network = read_network(&bytes)?;
    let ifname = match (delegate.ifname_request.as_str(), index) {
        ("", 0) => asking.ifname.to_owned(),
        ("", _) => format!("net{index}"),
        (requested, _) => requested.to_owned(),
    };
    validate::interface_name(&ifname).map_err(|error| error.to_string())?;
    let is_own = |cached: &Cached| cached.network_name == network.name && cached.if_name == ifname;
    let own = cached.iter().position(is_own).map(|at| cached.swap_remove(at));
    Ok(Left::new(network, asking, &ifname, own.as_ref()))
}

fn read_network(bytes: &[u8]) -> Result<NetworkConfig, String> {
    parse_object(bytes)
        .and_then(|object| NetworkConfig::complete_from_object(object, Defaults::default()))
        .map_err(|error| error.to_string())
}

fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Concurrency;
    use crate::runtime::exec::{Call, Exec, PluginError, Stdout};
    use crate::runtime::{Finder, chain::Limits};
    use std::sync::Mutex;
    use std::time::Duration;

    /// Records every call and lets it succeed.
    #[derive(Default)]
    struct Witness(Mutex<Vec<(String, String)>>);

    impl Exec for Witness {
        fn run(&self, call: &Call<'_>) -> Result<Stdout, PluginError> {
            let variable = |name| call.environment.iter().find(|(key, _)| *key == name).map_or("", |(_, value)| value);
            let line = format!("{} {} {}", call.verb, variable("CNI_IFNAME"), variable("CNI_ARGS"));
            self.0.lock().unwrap().push((line, String::from_utf8_lossy(call.stdin).into_owned()));
            Ok(Vec::new())
        }
    }

    const ASKING: Asking<'_> = Asking { container_id: "c1", ifname: "eth0", netns: "/n", args: "K=V" };

    fn undone(directory: &Path) -> (MultusState, Vec<(String, String)>) {
        let state = MultusState::read(directory, ASKING).unwrap().unwrap();
        let finder = Finder::new("/usr/bin");
        let witness = Witness::default();
        let tools = Tools {
            finder: &finder,
            exec: &witness,
            limits: Limits::default(),
            rollback: Duration::from_secs(1),
            look_ahead: crate::runtime::LookAhead::default(),
            concurrency: Concurrency::AtMost(1),
            after: None,
        };
        assert!(state.undo(tools).is_empty());
        (state, witness.0.into_inner().unwrap())
    }

    fn cache(directory: &Path, network: &str, ifname: &str, config: &str) {
        let attachment = Attachment {
            container_id: "c1".into(),
            ifname: ifname.into(),
            args: "A=B".into(),
            ..Attachment::default()
        };
        let result =
            RawValue::from_string(format!(r#"{{"cniVersion":"0.4.0","dns":{{"domain":"{ifname}"}}}}"#)).unwrap();
        Cache::new(directory).store(network, config.as_bytes(), &attachment, &result).unwrap();
    }

    #[test]
    fn everything_is_undone_in_reverse_and_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let first = r#"{"cniVersion":"0.4.0","name":"first","plugins":[{"type":"true"},{"type":"cat"}]}"#;
        let second = r#"{"cniVersion":"0.4.0","name":"second","type":"true"}"#;
        let delegates = serde_json::json!([
            {"Conf": {}, "Name": "first", "Bytes": STANDARD.encode(first)},
            {"Conf": {}, "Name": "ns/second", "ifnameRequest": "data", "Bytes": STANDARD.encode(second)},
            {"Conf": {}, "Name": "ns/second", "Bytes": STANDARD.encode(second)},
        ]);
        fs::write(dir.path().join("c1"), delegates.to_string()).unwrap();
        fs::write(dir.path().join("c2"), "[]").unwrap();
        cache(dir.path(), "first", "eth0", first);
        cache(dir.path(), "second", "data", second);
        cache(dir.path(), "second", "forgotten", second);
        let (state, calls) = undone(dir.path());
        let order: Vec<_> = calls.iter().map(|(line, _)| line.as_str()).collect();
        assert_eq!(order, ["DEL forgotten A=B", "DEL net2 K=V", "DEL data A=B", "DEL eth0 A=B", "DEL eth0 A=B"]);
        assert!(calls[2].1.contains(r#""domain":"data""#) && !calls[1].1.contains("prevResult"), "{calls:?}");
        assert!(calls[3].1.contains(r#""type":"cat""#), "{calls:?}");
        state.remove().unwrap();
        assert!(MultusState::read(dir.path(), ASKING).unwrap().is_none());
        assert_eq!(MultusState::container_ids(dir.path()).unwrap(), ["c2"]);
        assert_eq!(fs::read_dir(dir.path().join("results")).unwrap().count(), 0);
    }

    #[test]
    fn a_file_that_a_crash_left_empty_does_not_hide_what_the_cache_knows() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("c1"), "").unwrap();
        cache(dir.path(), "only", "eth0", r#"{"cniVersion":"0.4.0","name":"only","type":"true"}"#);
        let (state, calls) = undone(dir.path());
        assert_eq!(calls.len(), 1);
        assert_eq!(state.unreadable.len(), 1);
        state.remove().unwrap();
        assert!(state.set_aside().unwrap().ends_with("c1.corrupt"));
        assert!(MultusState::container_ids(dir.path()).unwrap().is_empty());
    }
}
