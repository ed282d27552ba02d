//! Braid's own configuration: raw → validated.
//!
//! Every key is described in `docs/configuration.md`. The keys of Multus mean what they mean there.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::value::RawValue;

use super::key::{KeyError, Keys};
use super::policy::Policy;
use super::selection::{OperatorSelection, Selection};
use crate::cni::config::{ConfigError, Defaults, NetworkConfig, RawObject, parse_object, spoken_version};
use crate::cni::validate;
use crate::cni::{AddResult, ValidAttachment, Verb, Version};

/// Where journals are kept if the configuration does not say.
pub const DEFAULT_STATE_DIR: &str = "/var/lib/cni/braid";
/// Where network configurations are looked up by name if the configuration does not say.
pub const DEFAULT_CONF_DIR: &str = "/etc/cni/multus/net.d";
/// Where plugins are looked up if neither the configuration nor the runtime says.
pub const DEFAULT_BIN_DIR: &str = "/opt/cni/bin";
/// Where Multus keeps its state if the configuration does not say.
pub const DEFAULT_MULTUS_DIR: &str = "/var/lib/cni/multus";

/// Every key that stands at the top level of a Braid configuration.
pub const KNOWN_KEYS: [&str; 46] = [
    "cniVersion",
    "cniVersions",
    "name",
    "type",
    "capabilities",
    "prevResult",
    "runtimeConfig",
    "args",
    "disableCheck",
    "disableGC",
    "ipam",
    "dns",
    "delegates",
    "stateDir",
    "cniDir",
    "result",
    "concurrency",
    "timeouts",
    "policy",
    "podChecks",
    "confDir",
    "binDir",
    "kubeconfig",
    "kubernetes",
    "clusterNetwork",
    "defaultNetworks",
    "multusNamespace",
    "systemNamespaces",
    "namespaceIsolation",
    "globalNamespaces",
    "auxiliaryCNIChainName",
    "readinessindicatorfile",
    "retryDeleteOnError",
    "logLevel",
    "logFile",
    "logToStderr",
    "logOptions",
    "cni.dev/valid-attachments",
    "cni.dev/attachments",
    // Accepted because Multus's own installer writes them; they have no effect here.
    "CNIVersion",
    "multusConfigFile",
    "multusAutoconfigDir",
    "socketDir",
    "daemonSocketDir",
    "chrootDir",
    "perNodeCertificate",
];

/// The keys that DEL and GC cannot do without.
const ESSENTIAL_KEYS: [&str; 15] = [
    "cniVersion",
    "cniVersions",
    "name",
    "type",
    "stateDir",
    "cniDir",
    "binDir",
    "timeouts",
    "disableGC",
    "logLevel",
    "logFile",
    "logToStderr",
    "logOptions",
    "cni.dev/valid-attachments",
    "cni.dev/attachments",
];

/// Those of them that only say how, and have a default that does.
const HOW_KEYS: [&str; 6] = ["binDir", "timeouts", "logLevel", "logFile", "logToStderr", "logOptions"];
/// Those of them that are about GC alone.
const GC_KEYS: [&str; 3] = ["disableGC", "cni.dev/valid-attachments", "cni.dev/attachments"];

/// What the runtime gets for an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResultMode {
    /// The results of every attachment, merged.
    Merged,
    /// The primary attachment's alone.
    Primary,
}

/// What CHECK makes of a plugin that refuses an attachment which a pod asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum PodChecks {
    /// It is said in the log.
    #[default]
    Warn,
    /// It fails CHECK, as with any other attachment.
    Fail,
    /// The plugin is not asked.
    Off,
}

/// How long things may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// One plugin.
    pub plugin: Duration,
    /// The whole call, rollback aside.
    pub total: Duration,
    /// The rollback of a failed ADD.
    pub rollback: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { plugin: Duration::from_secs(60), total: Duration::from_secs(110), rollback: Duration::from_secs(30) }
    }
}

/// How the Kubernetes API server and the kubelet are talked to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KubernetesConfig {
    /// How long one request may take, all its retries included.
    pub timeout: Duration,
    /// How often a request that failed in passing is sent again.
    pub retries: u32,
    /// Whether events are posted about what was attached.
    pub events: bool,
    /// The socket of the kubelet's pod-resources service.
    pub pod_resources: PathBuf,
    /// Where device plugins and network plugins tell each other about devices.
    pub device_info_dir: PathBuf,
}

impl Default for KubernetesConfig {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(10),
            retries: 5,
            events: true,
            pod_resources: "/var/lib/kubelet/pod-resources/kubelet.sock".into(),
            device_info_dir: "/var/run/k8s.cni.cncf.io/devinfo".into(),
        }
    }
}

/// An entry of `delegates`.
#[derive(Debug, Clone)]
pub enum Delegate {
    /// A plugin configuration or a configuration list, in place.
    Network(NetworkConfig),
    /// A selection.
    Selection(Box<OperatorSelection>),
}

/// What `clusterNetwork` and the like need.
#[derive(Debug, Clone, Default)]
pub struct MultusKeys {
    /// The primary network of every pod.
    pub cluster_network: Option<String>,
    /// More networks of every pod outside `system_namespaces`.
    pub default_networks: Vec<String>,
    /// Where the NADs of `cluster_network` and `default_networks` are.
    pub multus_namespace: String,
    /// Namespaces whose pods do not get `default_networks`.
    pub system_namespaces: Vec<String>,
    /// Pods may only use NADs of their own namespace and of `global_namespaces`.
    pub namespace_isolation: bool,
    /// Namespaces whose NADs every pod may use.
    pub global_namespaces: Vec<String>,
    /// A chain that is run as the last delegate if it exists.
    pub auxiliary_chain: Option<String>,
}

/// The log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogConfig {
    /// How much is logged; warnings and errors if nothing is said.
    pub level: Option<String>,
    /// A file to log to.
    pub file: Option<PathBuf>,
    /// Whether to log to standard error: yes, if nothing is said.
    pub to_stderr: Option<bool>,
    /// The file is set aside when it is larger than this, in megabytes.
    pub max_size: u64,
    /// How many files set aside are kept.
    pub max_backups: u32,
    /// How many days files set aside are kept.
    pub max_age: u64,
}

/// A validated configuration of Braid.
#[derive(Debug, Clone)]
pub struct Config {
    /// The network's name.
    pub name: String,
    /// The version to answer in.
    pub version: Version,
    /// The type that Braid was called by.
    pub plugin_type: String,
    /// What to attach.
    pub delegates: Vec<Delegate>,
    /// Where journals are kept.
    pub state_dir: PathBuf,
    /// What the runtime gets, if the configuration says.
    pub result: Option<ResultMode>,
    /// How many attachments may run at once after the primary.
    pub concurrency: usize,
    /// How long things may take.
    pub timeouts: Timeouts,
    /// Who may use what.
    pub policy: Option<Policy>,
    /// What a plugin's own CHECK of an attachment that a pod asked for comes to.
    pub pod_checks: PodChecks,
    /// Where networks are looked up by name.
    pub conf_dir: PathBuf,
    /// Where plugins are looked up before `CNI_PATH`.
    pub bin_dir: Option<String>,
    /// The capability arguments that the runtime gave.
    pub runtime_config: RawObject,
    /// The selections among them.
    pub runtime_selections: Vec<Selection>,
    /// The arguments that the runtime gave.
    pub args: RawObject,
    /// The result of the plugin before Braid, if there is one.
    pub prev_result: Option<AddResult>,
    /// What is still attached, for GC.
    pub valid_attachments: Option<Vec<ValidAttachment>>,
    /// CHECK must not be called.
    pub disable_check: bool,
    /// GC must not be called.
    pub disable_gc: bool,
    /// The kubeconfig; empty to use none.
    pub kubeconfig: Option<PathBuf>,
    /// How Kubernetes is talked to.
    pub kubernetes: KubernetesConfig,
    /// Where Multus kept its state, for attachments that it made.
    pub multus_dir: PathBuf,
    /// Multus's keys.
    pub multus: MultusKeys,
    /// A file that is there when the primary network is ready.
    pub readiness_file: Option<PathBuf>,
    /// The log.
    pub log: LogConfig,
    /// Keys that are not known, and other things worth a word.
    pub warnings: Vec<String>,
}

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum InvalidConfig {
    /// A key of the protocol is wrong.
    #[error(transparent)]
    Cni(#[from] ConfigError),
    /// A key of Braid's is wrong.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A delegate is wrong.
    #[error("{place}: {source}")]
    Delegate {
        /// Which.
        place: String,
        /// What.
        source: ConfigError,
    },
    /// The `prevResult` is wrong.
    #[error("\"prevResult\": {0}")]
    PrevResult(crate::cni::result::ResultError),
}

impl Config {
    /// Reads a configuration.
    ///
    /// # Errors
    /// The first thing that is wrong, with the key it stands under.
    pub fn parse(json: &[u8]) -> Result<Self, InvalidConfig> {
        Self::from_object(&parse_object(json)?)
    }

    /// Reads a configuration from an object.
    ///
    /// # Errors
    /// As [`Self::parse`].
    pub fn from_object(object: &RawObject) -> Result<Self, InvalidConfig> {
        let config = Self::read(object)?;
        if config.delegates.is_empty() && config.multus.cluster_network.is_none() {
            let expected = "a list of at least one delegate";
            let keys = Keys::new(object, "");
            return Err(match keys.raw("delegates") {
                Some(_) => keys.wrong("delegates", expected).into(),
                None => missing("\"delegates\", a list of at least one delegate,").into(),
            });
        }
        Ok(config)
    }

    /// Reads no more of a configuration than it takes to undo what journals tell of: for DEL, or for GC.
    ///
    /// # Errors
    /// When even that is wrong.
    pub fn essentials(json: &[u8], verb: Verb) -> Result<Self, InvalidConfig> {
        let mut object = parse_object(json)?;
        let is_about_another = |key: &str| verb == Verb::Del && GC_KEYS.contains(&key);
        object.retain(|key, _| ESSENTIAL_KEYS.contains(&key.as_str()) && !is_about_another(key));
        Self::read(&object).or_else(|_| {
            object.retain(|key, _| !HOW_KEYS.contains(&key.as_str()));
            Self::read(&object)
        })
    }

    fn read(object: &RawObject) -> Result<Self, InvalidConfig> {
        let version = spoken_version(object)?;
        let keys = Keys::new(object, "");
        let name = keys.string("name")?.ok_or_else(|| missing("\"name\", the network's name,"))?;
        validate::network_name(&name).map_err(|source| ConfigError::Name { key: "name".into(), source })?;
        let plugin_type = keys.string("type")?.ok_or_else(|| missing("\"type\""))?;
        validate::plugin_type(&plugin_type).map_err(|source| ConfigError::Name { key: "type".into(), source })?;
        let multus = multus_keys(&keys)?;
        let runtime_config = keys.object("runtimeConfig")?.unwrap_or_default();
        let networks = runtime_selections(&runtime_config)?;
        let warnings = keys.unknown(&KNOWN_KEYS).iter().chain(&networks.warnings).map(ToString::to_string).collect();
        let prev_result = keys.raw("prevResult").map(|raw| read_prev_result(raw, version)).transpose()?;
        let delegates = delegates(&keys, &name, version)?;
        Ok(Self {
            name,
            version,
            plugin_type,
            delegates,
            state_dir: absolute(&keys, "stateDir")?
                .or(absolute(&keys, "cniDir")?)
                .unwrap_or_else(|| DEFAULT_STATE_DIR.into()),
            result: match keys.string("result")?.as_deref() {
                None => None,
                Some("merged") => Some(ResultMode::Merged),
                Some("primary") => Some(ResultMode::Primary),
                Some(_) => return Err(keys.wrong("result", "\"merged\" or \"primary\"").into()),
            },
            concurrency: match keys.get::<usize>("concurrency", "a whole number from 1 to 64")? {
                None => 1,
                Some(number) if (1..=64).contains(&number) => number,
                Some(_) => return Err(keys.wrong("concurrency", "a whole number from 1 to 64").into()),
            },
            timeouts: timeouts(&keys)?,
            policy: keys
                .get::<Vec<RawObject>>("policy", "a list of rules")?
                .map(|rules| Policy::from_list(&rules))
                .transpose()?,
            pod_checks: match keys.string("podChecks")?.as_deref() {
                None | Some("warn") => PodChecks::Warn,
                Some("fail") => PodChecks::Fail,
                Some("off") => PodChecks::Off,
                Some(_) => return Err(keys.wrong("podChecks", "\"warn\", \"fail\" or \"off\"").into()),
            },
            conf_dir: absolute(&keys, "confDir")?.unwrap_or_else(|| DEFAULT_CONF_DIR.into()),
            bin_dir: absolute(&keys, "binDir")?.map(|dir| dir.to_string_lossy().into_owned()),
            runtime_config,
            runtime_selections: networks.selections,
            args: keys.object("args")?.unwrap_or_default(),
            prev_result,
            valid_attachments: ValidAttachment::in_config(object)?,
            disable_check: keys.boolean("disableCheck")?,
            disable_gc: keys.boolean("disableGC")?,
            kubeconfig: absolute(&keys, "kubeconfig")?,
            kubernetes: kubernetes(&keys)?,
            multus_dir: absolute(&keys, "cniDir")?.unwrap_or_else(|| DEFAULT_MULTUS_DIR.into()),
            multus,
            readiness_file: absolute(&keys, "readinessindicatorfile")?,
            log: log(&keys)?,
            warnings,
        })
    }

    /// The directories to look plugins up in, as in `CNI_PATH`.
    pub fn plugin_path(&self, cni_path: &str) -> String {
        match (&self.bin_dir, cni_path) {
            (Some(bin_dir), "") => bin_dir.clone(),
            (Some(bin_dir), path) => format!("{bin_dir}:{path}"),
            (None, "") => DEFAULT_BIN_DIR.into(),
            (None, path) => path.into(),
        }
    }
}

fn missing(expected: &str) -> KeyError {
    KeyError::Missing { place: "configuration".into(), expected: expected.into() }
}

fn absolute(keys: &Keys<'_>, key: &str) -> Result<Option<PathBuf>, KeyError> {
    match keys.string(key)?.filter(|path| !path.is_empty()).map(PathBuf::from) {
        Some(path) if !path.is_absolute() => Err(keys.wrong(key, "an absolute path")),
        path => Ok(path),
    }
}

fn read_prev_result(raw: &RawValue, version: Version) -> Result<AddResult, InvalidConfig> {
    AddResult::parse(raw.get().as_bytes(), version).map_err(InvalidConfig::PrevResult)
}

/// The name of the delegate at `index` of the list, if it has none itself. It must differ from the others': plugins
/// keep state by network name and container.
fn default_name(outer: &str, index: usize) -> String {
    if index == 0 { outer.to_owned() } else { format!("{outer}-{index}") }
}

fn delegates(keys: &Keys<'_>, name: &str, version: Version) -> Result<Vec<Delegate>, InvalidConfig> {
    let list: Vec<Box<RawValue>> = keys.get("delegates", "a list of delegates")?.unwrap_or_default();
    list.iter()
        .enumerate()
        .map(|(index, raw)| {
            let place = format!("delegates[{index}]");
            let wrong = |_| KeyError::Wrong {
                path: place.clone(),
                found: crate::cni::config::kind(raw),
                expected: "a plugin configuration, a configuration list or a selection".into(),
            };
            if raw.get().starts_with('"') {
                let text: String = serde_json::from_str(raw.get()).map_err(wrong)?;
                let selection = Selection::from_text(&text, &place)?;
                return Ok(Delegate::Selection(Box::new(OperatorSelection {
                    selection,
                    ..OperatorSelection::default()
                })));
            }
            let object: RawObject = serde_json::from_str(raw.get()).map_err(wrong)?;
            let default_name = default_name(name, index);
            let defaults = Defaults { name: Some(&default_name), version: Some(version) };
            let network = |object| {
                NetworkConfig::complete_from_object(object, defaults)
                    .map_err(|source| InvalidConfig::Delegate { place: place.clone(), source })
            };
            if object.contains_key("type") || object.contains_key("plugins") {
                return network(object).map(Delegate::Network);
            }
            let mut selection = OperatorSelection::from_object(&object, &place).map_err(|error| match error {
                KeyError::Unknown { place, key, nearest } => {
                    let place = format!("{place} (a selection, as it has neither \"type\" nor \"plugins\")");
                    KeyError::Unknown { place, key, nearest }
                }
                other => other,
            })?;
            if let Some(config) = &mut selection.config
                && !config.contains_key("name")
            {
                let own = Some(&selection.selection.name).filter(|name| !name.is_empty()).unwrap_or(&default_name);
                config.insert("name".into(), crate::cni::config::raw(own));
            }
            if let Some(config) = &selection.config {
                // Wrong configurations are found now, whether or not the selection applies.
                NetworkConfig::complete_from_object(config.clone(), defaults)
                    .map_err(|source| InvalidConfig::Delegate { place: format!("{place}.config"), source })?;
            }
            Ok(Delegate::Selection(Box::new(selection)))
        })
        .collect()
}

fn runtime_selections(runtime_config: &RawObject) -> Result<crate::config::selection::Parsed, KeyError> {
    let place = "runtimeConfig.networks";
    match runtime_config.get("networks") {
        None => Ok(crate::config::selection::Parsed::default()),
        Some(raw) => match serde_json::from_str::<Option<String>>(raw.get()) {
            Ok(text) => Selection::parse(&text.unwrap_or_default(), place),
            Err(_) => Selection::parse(raw.get(), place),
        },
    }
}

fn timeouts(keys: &Keys<'_>) -> Result<Timeouts, KeyError> {
    let mut timeouts = Timeouts::default();
    let Some(object) = keys.object("timeouts")? else { return Ok(timeouts) };
    let keys = Keys::new(&object, "timeouts");
    keys.only(&["plugin", "total", "rollback"])?;
    for (key, value) in
        [("plugin", &mut timeouts.plugin), ("total", &mut timeouts.total), ("rollback", &mut timeouts.rollback)]
    {
        const EXPECTED: &str = "a number of seconds, more than 0 and at most 3600";
        if let Some(seconds) = keys.get::<f64>(key, EXPECTED)? {
            if !(seconds > 0.0 && seconds <= 3600.0) {
                return Err(keys.wrong(key, EXPECTED));
            }
            *value = Duration::from_secs_f64(seconds);
        }
    }
    Ok(timeouts)
}

fn kubernetes(keys: &Keys<'_>) -> Result<KubernetesConfig, KeyError> {
    const SECONDS: &str = "a number of seconds, more than 0 and at most 600";
    const TIMES: &str = "a whole number from 0 to 100";
    let mut config = KubernetesConfig::default();
    let Some(object) = keys.object("kubernetes")? else { return Ok(config) };
    let keys = Keys::new(&object, "kubernetes");
    keys.only(&["timeout", "retries", "events", "podResources", "deviceInfoDir"])?;
    if let Some(seconds) = keys.get::<f64>("timeout", SECONDS)? {
        if !(seconds > 0.0 && seconds <= 600.0) {
            return Err(keys.wrong("timeout", SECONDS));
        }
        config.timeout = Duration::from_secs_f64(seconds);
    }
    if let Some(retries) = keys.get::<u32>("retries", TIMES)? {
        if retries > 100 {
            return Err(keys.wrong("retries", TIMES));
        }
        config.retries = retries;
    }
    if keys.raw("events").is_some() {
        config.events = keys.boolean("events")?;
    }
    config.pod_resources = absolute(&keys, "podResources")?.unwrap_or(config.pod_resources);
    config.device_info_dir = absolute(&keys, "deviceInfoDir")?.unwrap_or(config.device_info_dir);
    Ok(config)
}

fn multus_keys(keys: &Keys<'_>) -> Result<MultusKeys, KeyError> {
    let names = |key| keys.get::<Vec<String>>(key, "a list of names");
    let global = match keys.string("globalNamespaces")? {
        Some(csv) if !csv.trim().is_empty() => csv.split(',').map(|name| name.trim().to_owned()).collect(),
        _ => vec!["default".to_owned()],
    };
    Ok(MultusKeys {
        cluster_network: keys.string("clusterNetwork")?.filter(|name| !name.is_empty()),
        default_networks: names("defaultNetworks")?.unwrap_or_default(),
        multus_namespace: keys
            .string("multusNamespace")?
            .filter(|name| !name.is_empty())
            .unwrap_or_else(|| "kube-system".into()),
        system_namespaces: names("systemNamespaces")?.unwrap_or_else(|| vec!["kube-system".into()]),
        namespace_isolation: keys.boolean("namespaceIsolation")?,
        global_namespaces: global,
        auxiliary_chain: keys.string("auxiliaryCNIChainName")?.filter(|name| !name.is_empty()),
    })
}

fn log(keys: &Keys<'_>) -> Result<LogConfig, KeyError> {
    const LEVELS: &str = "panic, error, warning, info, verbose, debug or trace";
    let level = keys.string("logLevel")?.filter(|level| !level.is_empty());
    if level.as_deref().is_some_and(|level| !LEVELS.split([',', ' ']).any(|known| known == level.to_lowercase())) {
        return Err(keys.wrong("logLevel", LEVELS));
    }
    let options = keys.object("logOptions")?.unwrap_or_default();
    let options = Keys::new(&options, "logOptions");
    let number = |key, default: u64| options.get::<u64>(key, "a whole number").map(|n| n.unwrap_or(default));
    options.boolean("compress")?;
    Ok(LogConfig {
        level,
        file: absolute(keys, "logFile")?,
        to_stderr: keys.raw("logToStderr").map(|_| keys.boolean("logToStderr")).transpose()?,
        max_size: number("maxSize", 100)?,
        // Each of them is moved when a file is set aside.
        max_backups: u32::try_from(number("maxBackups", 5)?.min(1000)).unwrap_or(1000),
        max_age: number("maxAge", 5)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(json: &str) -> String {
        Config::parse(json.as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn every_kind_of_delegate() {
        let config = Config::parse(
            br#"{"cniVersion":"1.0.0","name":"n","type":"braid","delegates":[
                {"type":"a"}, {"name":"l","cniVersion":"0.4.0","plugins":[{"type":"b"},{"type":"c"}]},
                {"name":"by-name"}, {"config":{"type":"d"},"when":{"namespace":"x"},"optional":true}, "ns/text@if0"]}"#,
        )
        .unwrap();
        assert_eq!(config.delegates.len(), 5);
        let Delegate::Network(first) = &config.delegates[0] else { panic!() };
        assert_eq!((first.name.as_str(), first.version), ("n", Version::V1_0_0));
        let Delegate::Network(second) = &config.delegates[1] else { panic!() };
        assert_eq!((second.name.as_str(), second.version), ("l", Version::V0_4_0));
        let Delegate::Selection(fourth) = &config.delegates[3] else { panic!() };
        assert_eq!(fourth.config.as_ref().unwrap()["name"].get(), "\"n-3\"");
        assert!(fourth.optional);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (json, message) in [
            ("[]", "not a JSON object"),
            (r#"{"name":"n","type":"braid"}"#, "\"delegates\""),
            (r#"{"name":"n","type":"braid","delegates":[]}"#, "\"delegates\" is an empty list"),
            (r#"{"name":"n","type":"braid","delegates":{}}"#, "\"delegates\" is an object"),
            (r#"{"type":"braid","delegates":[{"type":"a"}]}"#, "\"name\""),
            (r#"{"name":"n","type":"braid","delegates":[{"type":"a/b"}]}"#, "delegates[0]: \"type\""),
            (r#"{"name":"n","type":"braid","delegates":[{"plugins":[]}]}"#, "delegates[0]: \"plugins\""),
            (r#"{"name":"n","type":"braid","delegates":[1]}"#, "delegates[0] is 1"),
            (r#"{"name":"n","type":"braid","delegates":[{"nam":"a"}]}"#, "did you mean \"name\""),
            (r#"{"name":"n","type":"braid","delegates":["a"],"concurrency":0}"#, "\"concurrency\" is 0"),
            (r#"{"name":"n","type":"braid","delegates":["a"],"timeouts":{"plugn":1}}"#, "did you mean \"plugin\""),
            (r#"{"name":"n","type":"braid","delegates":["a"],"timeouts":{"total":-1}}"#, "timeouts.total is -1"),
            (r#"{"name":"n","type":"braid","delegates":["a"],"stateDir":"x"}"#, "an absolute path"),
            (r#"{"name":"n","type":"braid","delegates":["a"],"result":"all"}"#, "\"merged\" or \"primary\""),
            (r#"{"name":"n","type":"braid","delegates":["a"],"cniVersion":"9.9.9"}"#, "9.9.9"),
            (r#"{"name":"n","type":"braid","delegates":["a"],"logLevel":"loud"}"#, "loud"),
        ] {
            assert!(error(json).contains(message), "{json}: {}", error(json));
        }
    }

    #[test]
    fn an_unknown_key_at_the_top_is_a_warning() {
        let config = Config::parse(br#"{"name":"n","type":"braid","delegates":["a"],"delegate":1}"#).unwrap();
        assert!(config.warnings[0].contains("did you mean \"delegates\""), "{:?}", config.warnings);
    }
}
