//! Braid's own configuration, from raw to validated.
//!
//! Every key is described in `docs/configuration.md`. Multus's keys have the same meaning as in Multus.

use std::path::PathBuf;

use super::delegates::Delegate;
use super::keys::{Draft, Group, KEYS, KNOWN_KEYS, Key};
use super::kubernetes::KubernetesConfig;
use super::logging::LogConfig;
use super::multus::MultusKeys;
use super::object::{KeyError, Keys};
use super::policy::Policy;
use super::problems::Problems;
use super::selection::Selection;
use super::timeouts::{Debts, Timeouts};
use crate::cni::config::{ConfigError, Insert, RawObject, parse_object};
use crate::cni::{AddResult, NetworkConfig, ValidAttachment, Verb, Version};

/// The default directory for journals.
pub const DEFAULT_STATE_DIR: &str = "/var/lib/cni/braid";
/// The default directory in which network configurations are looked up by name.
pub const DEFAULT_CONF_DIR: &str = "/etc/cni/multus/net.d";
/// The directory for plugins if neither the configuration nor the runtime names one.
pub const DEFAULT_BIN_DIR: &str = "/opt/cni/bin";
/// The default directory of Multus's state.
pub const DEFAULT_MULTUS_DIR: &str = "/var/lib/cni/multus";

/// What the runtime gets for an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResultMode {
    /// The results of every attachment, merged.
    Merged,
    /// The primary attachment's alone.
    Primary,
}

/// How many attachments may run at once after the primary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Concurrency {
    /// At most so many.
    AtMost(usize),
    /// As many as the attachments' plugins are known to support.
    Auto,
}

impl Concurrency {
    pub(super) fn read(keys: &Keys<'_>) -> Result<Option<Self>, KeyError> {
        const EXPECTED: &str = "a whole number from 1 to 64, or \"auto\"";
        let Some(raw) = keys.raw("concurrency") else { return Ok(None) };
        match (raw.get(), serde_json::from_str(raw.get())) {
            ("\"auto\"", _) => Ok(Some(Self::Auto)),
            (_, Ok(number)) if (1..=64).contains(&number) => Ok(Some(Self::AtMost(number))),
            _ => Err(keys.wrong_kind("concurrency", EXPECTED)),
        }
    }
}

/// What a failed CHECK of a plugin means for CHECK, if a pod asked for the attachment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum PodChecks {
    /// It is logged.
    #[default]
    Warn,
    /// It fails CHECK, as for any other attachment.
    Fail,
    /// The plugin is not asked.
    Off,
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
    /// What the runtime gets, if the configuration says it.
    pub result: Option<ResultMode>,
    /// How many attachments may run at once after the primary.
    pub concurrency: Concurrency,
    /// How long things may take.
    pub timeouts: Timeouts,
    /// How long DEL fails for steps that cannot be undone.
    pub debts: Debts,
    /// What a failed CHECK of a plugin means, if a pod asked for the attachment.
    pub pod_checks: PodChecks,
    /// How many of the next plugins are started ahead of their turn.
    pub look_ahead: usize,
    /// Plugin types that are never started ahead of their turn.
    pub no_look_ahead: Vec<String>,
    /// Who may use what.
    pub policy: Option<Policy>,
    /// Where networks are looked up by name.
    pub conf_dir: PathBuf,
    /// Directories for plugins that are searched before `CNI_PATH`.
    pub bin_dir: Option<String>,
    /// The capability arguments from the runtime.
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
    /// A file that exists when the primary network is ready.
    pub readiness_file: Option<PathBuf>,
    /// The log.
    pub log: LogConfig,
    /// Warnings about the operator's configuration. `validate` and `plan` show them, because they are the same in every call.
    pub operator_warnings: Vec<String>,
    /// Warnings about the runtime's input, for the log.
    pub call_warnings: Vec<String>,
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
        let Draft { config, problems } = Self::draft(object);
        problems.or_first(config)
    }

    /// Reads a configuration, and continues after a problem. `None` if there is a problem.
    pub fn check(json: &[u8], problems: &mut Problems<InvalidConfig>) -> Option<Self> {
        let draft = Self::draft(&problems.record(parse_object(json))?);
        let is_good = draft.problems.is_empty();
        problems.extend(draft.problems);
        is_good.then_some(draft.config)
    }

    /// The configuration that Braid gets as the plugin at `index` of a network. `None` if there is a problem.
    pub fn in_network(network: &NetworkConfig, index: usize, problems: &mut Problems<InvalidConfig>) -> Option<Self> {
        let none = RawObject::new();
        let json = network.plugins[index].request(&Insert {
            name: &network.name,
            version: network.version,
            capability_args: &none,
            args: None,
            prev_result: None,
            valid_attachments: None,
        });
        let mut config = Self::check(&json, problems)?;
        // If Braid is chained after another plugin, it has a result to add to.
        config.prev_result = (index > 0).then(AddResult::default);
        Some(config)
    }

    fn draft(object: &RawObject) -> Draft {
        let mut draft = Self::read(object, |_| true);
        let keys = Keys::new(object, "");
        draft.config.operator_warnings.extend(keys.unknown(&KNOWN_KEYS).iter().map(ToString::to_string));
        if draft.problems.is_empty()
            && draft.config.delegates.is_empty()
            && draft.config.multus.cluster_network.is_none()
        {
            let expected = "a list of at least one delegate";
            draft.problems.push(match keys.raw("delegates") {
                Some(_) => keys.wrong("delegates", expected),
                None => missing("\"delegates\", a list of at least one delegate,"),
            });
        }
        draft
    }

    /// Reads only the part of a configuration that is needed to undo what journals record: for DEL, or for GC.
    ///
    /// # Errors
    /// When even that is wrong.
    pub fn essentials(json: &[u8], verb: Verb) -> Result<Self, InvalidConfig> {
        let object = parse_object(json)?;
        let draft = Self::read(&object, |key| key.group.is_essential_for(verb));
        if draft.problems.is_empty() {
            return Ok(draft.config);
        }
        let essential = Self::read(&object, |key| key.group.is_essential_for(verb) && key.group != Group::Means);
        // Of the means, those that are good count.
        essential.problems.or_first(draft.config)
    }

    /// Reads the keys of a configuration for which `is_read` is true.
    fn read(object: &RawObject, is_read: impl Fn(&Key) -> bool) -> Draft {
        let mut draft = Draft { config: Self::unread(), problems: Problems::new() };
        let keys = Keys::new(object, "");
        for key in KEYS.iter().filter(|key| is_read(key)) {
            let outcome = (key.read)(&keys, &mut draft);
            draft.problems.record(outcome);
            // Reading delegates and results requires the name and the version.
            if key.name == "cniVersion" && !draft.problems.is_empty() {
                break;
            }
        }
        draft
    }

    /// A configuration that says nothing.
    fn unread() -> Self {
        Self {
            name: String::new(),
            version: Version::DEFAULT,
            plugin_type: String::new(),
            delegates: Vec::new(),
            state_dir: DEFAULT_STATE_DIR.into(),
            result: None,
            concurrency: Concurrency::AtMost(1),
            timeouts: Timeouts::default(),
            debts: Debts::default(),
            pod_checks: PodChecks::default(),
            look_ahead: 1,
            no_look_ahead: Vec::new(),
            policy: None,
            conf_dir: DEFAULT_CONF_DIR.into(),
            bin_dir: None,
            runtime_config: RawObject::new(),
            runtime_selections: Vec::new(),
            args: RawObject::new(),
            prev_result: None,
            valid_attachments: None,
            disable_check: false,
            disable_gc: false,
            kubeconfig: None,
            kubernetes: KubernetesConfig::default(),
            multus_dir: DEFAULT_MULTUS_DIR.into(),
            multus: MultusKeys::default(),
            readiness_file: None,
            log: LogConfig::default(),
            operator_warnings: Vec::new(),
            call_warnings: Vec::new(),
        }
    }

    /// The directories with plugins, as in `CNI_PATH`.
    pub fn plugin_path(&self, cni_path: &str) -> String {
        match (&self.bin_dir, cni_path) {
            (Some(bin_dir), "") => bin_dir.clone(),
            (Some(bin_dir), path) => format!("{bin_dir}:{path}"),
            (None, "") => DEFAULT_BIN_DIR.into(),
            (None, path) => path.into(),
        }
    }
}

pub(super) fn missing(expected: &str) -> KeyError {
    KeyError::Missing { place: "configuration".into(), expected: expected.into() }
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
            (
                r#"{"name":"n","type":"braid","disableCheck":"maybe","delegates":[{"type":"a"}]}"#,
                r#""disableCheck" is a string other than "true" and "false", expected true or false"#,
            ),
            (r#"{"name":"n","type":"braid","delegates":[{"nam":"a"}]}"#, "did you mean \"name\""),
            (r#"{"name":"n","type":"braid","delegates":["a"],"concurrency":0}"#, "\"concurrency\" is 0"),
            (r#"{"name":"n","type":"braid","delegates":["a"],"timeouts":{"plugn":1}}"#, "did you mean \"plugin\""),
            (r#"{"name":"n","type":"braid","delegates":["a"],"timeouts":{"total":-1}}"#, "timeouts.total is -1"),
            (r#"{"name":"n","type":"braid","delegates":["a"],"stateDir":"x"}"#, "an absolute path"),
            (r#"{"name":"n","type":"braid","delegates":["a"],"result":"all"}"#, "\"merged\" or \"primary\""),
            (r#"{"name":"n","type":"braid","delegates":["a"],"cniVersion":"9.9.9"}"#, "9.9.9"),
            (r#"{"name":"n","type":"braid","delegates":["a"],"logLevel":"loud"}"#, "loud"),
            (r#"{"name":"n","type":"braid","delegates":["a"],"logLevel":"or"}"#, "verbose, debug or trace"),
            (r#"{"name":"n","type":"braid","delegates":["a"],"logLevel":"panic,error"}"#, "panic,error"),
            (r#"{"name":"n","type":"braid","delegates":["a"],"disableCheck":"maybe"}"#, "as a boolean or a string"),
            (r#"{"name":"n","type":"braid","delegates":["a"],"policy":[{},5]}"#, "policy[1] is 5, expected a rule"),
            (r#"{"name":"n","type":"braid","delegates":["a"],"noLookAhead":["a/b"]}"#, "noLookAhead[0]"),
            (r#"{"name":"n","type":"braid","delegates":["a"],"noLookAhead":[1]}"#, "noLookAhead[0] is 1"),
            (r#"{"name":"n","type":"braid","delegates":["a"],"lookAhead":17}"#, "a whole number from 0 to 16"),
            (r#"{"name":"n","type":"braid","delegates":["a"],"podChecks":"never"}"#, "\"warn\", \"fail\" or \"off\""),
            (r#"{"name":"n","type":"braid","delegates":["a"],"concurrency":"all"}"#, "or \"auto\""),
            (r#"{"name":"n","type":"braid","delegates":["a"],"debts":{"giveUpAfter":-1}}"#, "debts.giveUpAfter is -1"),
            (r#"{"name":"n","type":"braid","delegates":["a"],"debts":{"giveup":1}}"#, "did you mean \"giveUpAfter\""),
            (
                r#"{"name":"n","type":"braid","delegates":["a"],"cniVersions":["0.4.0",1]}"#,
                "\"cniVersions[1]\" is 1, expected a CNI version",
            ),
            (r#"{"name":"n","type":"braid","delegates":[{"name":"l","plugins":[1]}]}"#, "\"plugins[0]\" is 1"),
        ] {
            assert!(error(json).contains(message), "{json}: {}", error(json));
        }
    }

    #[test]
    fn a_key_that_decides_is_an_error_beside_a_network_configuration() {
        for (entry, message) in [
            (
                r#"{"type":"bridge","when":{"namespace":"a"}}"#,
                r#"delegates[0]: "when" beside "type" would decide nothing, as it belongs to a selection; expected {"config": {"type": "bridge", …}, "when": …}"#,
            ),
            (r#"{"type":"bridge","optional":false}"#, r#""optional": …}"#),
            (r#"{"type":"bridge","When":{}}"#, r#""when" beside "type""#),
            (r#"{"plugins":[{"type":"a"}],"optional":true}"#, r#"{"config": {"plugins": […]}, "optional": …}"#),
            (
                r#"{"plugins":[{"type":"a"},{"type":"b","when":{}}]}"#,
                r#"delegates[0].plugins[1]: "when" beside "type""#,
            ),
            (r#"{"config":{"type":"a","optional":true}}"#, r#"delegates[0].config: "optional" beside "type""#),
        ] {
            let json = format!(r#"{{"name":"n","type":"braid","delegates":[{entry}]}}"#);
            assert!(error(&json).contains(message), "{json}: {}", error(&json));
        }
    }

    #[test]
    fn other_keys_of_a_selection_beside_a_network_configuration_are_warned_of() {
        let json = br#"{"name":"n","type":"braid","delegates":[{"type":"a","interface":"x","mac":"y"}]}"#;
        let warnings = Config::parse(json).unwrap().operator_warnings;
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert!(warnings[0].contains(r#"expected {"config": {"type": "a", …}, "interface": …}"#), "{warnings:?}");
    }

    #[test]
    fn all_problems_are_found() {
        let mut problems = Problems::new();
        let json = br#"{"name":"n","type":"braid","concurrency":0,"delegates":[{"type":"a/b"},1],"result":"x"}"#;
        assert!(Config::check(json, &mut problems).is_none());
        assert_eq!(problems.len(), 4, "{problems:?}");
    }

    #[test]
    fn del_goes_on_where_a_key_that_only_says_how_is_wrong() {
        let json = br#"{"name":"n","type":"braid","timeouts":5,"binDir":"/b","stateDir":"/s","disableGC":"maybe"}"#;
        let config = Config::essentials(json, Verb::Del).unwrap();
        assert_eq!((config.bin_dir.as_deref(), config.timeouts), (Some("/b"), Timeouts::default()));
        assert!(Config::essentials(json, Verb::Gc).is_err());
        assert!(Config::essentials(br#"{"name":"n","type":"braid","stateDir":"s"}"#, Verb::Del).is_err());
    }

    #[test]
    fn an_unknown_key_at_the_top_is_a_warning() {
        let config = Config::parse(br#"{"name":"n","type":"braid","delegates":["a"],"delegate":1}"#).unwrap();
        assert!(config.operator_warnings[0].contains("did you mean \"delegates\""), "{:?}", config.operator_warnings);
    }
}
