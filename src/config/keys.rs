//! The table of the top-level keys of Braid's configuration: each with the operations that need it, its documentation and its
//! reader.
//!
//! A new key needs a row here, a field of [`Config`], and a row in `docs/configuration.md`. A test compares that page with this
//! table.

use std::sync::LazyLock;

use super::delegates::{self, Outer};
use super::kubernetes::KubernetesConfig;
use super::logging;
use super::multus::global_namespaces;
use super::object::Keys;
use super::policy::Policy;
use super::problems::Problems;
use super::selection::{Parsed, Selection};
use super::timeouts::{Debts, Timeouts};
use super::validated::{Concurrency, Config, InvalidConfig, PodChecks, ResultMode, missing};
use crate::cni::config::{ConfigError, RawObject, get_list, spoken_version};
use crate::cni::{AddResult, ValidAttachment, Verb, validate};

/// Which operations need a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Group {
    /// All operations. None works if the key is wrong.
    Essential,
    /// All operations, but DEL and GC use the default if the key is wrong.
    Means,
    /// GC, beside those that attach.
    Gc,
    /// Operations that attach or inspect attachments. DEL and GC use the journals instead.
    Attach,
    /// None: it is accepted, and has no effect.
    Ignored,
}

impl Group {
    /// Whether `verb` reads keys of this group from a configuration that is invalid as a whole.
    pub(super) fn is_essential_for(self, verb: Verb) -> bool {
        match self {
            Self::Essential | Self::Means => true,
            Self::Gc => verb == Verb::Gc,
            Self::Attach | Self::Ignored => false,
        }
    }
}

/// A configuration that is being read.
#[derive(Debug)]
pub(super) struct Draft {
    pub(super) config: Config,
    pub(super) problems: Problems<InvalidConfig>,
}

type Reader = fn(&Keys<'_>, &mut Draft) -> Result<(), InvalidConfig>;

/// A key at the top level.
#[derive(Debug)]
pub struct Key {
    /// The key.
    pub name: &'static str,
    /// Which operations need it.
    pub group: Group,
    /// The type and the allowed values, as in the documentation.
    pub form: &'static str,
    /// The default, as in the documentation.
    pub default: &'static str,
    /// The meaning, as in the documentation.
    pub meaning: &'static str,
    /// Reads it into the configuration.
    pub(super) read: Reader,
}

impl Key {
    /// Its row in the documentation.
    pub fn row(&self) -> String {
        let cell = |text: &str| if text.is_empty() { " |".to_owned() } else { format!(" {text} |") };
        format!("| `{}` |{}{}{}", self.name, cell(self.form), cell(self.default), cell(self.meaning))
    }
}

/// The names of all keys.
pub static KNOWN_KEYS: LazyLock<Vec<&'static str>> = LazyLock::new(|| KEYS.iter().map(|key| key.name).collect());

/// A key that is read together with another one, or that has no effect.
const NOTHING: Reader = |_, _| Ok(());

/// A reader of one field: `field = expression`, with the keys at hand.
macro_rules! set {
    (|$keys:ident| $($field:ident).+ = $value:expr) => {
        |$keys, draft| {
            draft.config.$($field).+ = $value;
            Ok(())
        }
    };
}

/// A reader of one field that keeps its default if the key is missing.
macro_rules! set_if_there {
    (|$keys:ident| $($field:ident).+ = $value:expr) => {
        |$keys, draft| {
            if let Some(value) = $value {
                draft.config.$($field).+ = value;
            }
            Ok(())
        }
    };
}

/// The keys, in the order in which they are read. Keys come first if other readers need them.
pub const KEYS: &[Key] = &[
    Key {
        name: "type",
        group: Group::Essential,
        form: "string",
        default: "required",
        meaning: "`braid`, or the name of the executable",
        read: |keys, draft| {
            let plugin_type = keys.string("type")?.ok_or_else(|| missing("\"type\""))?;
            validate::plugin_type(&plugin_type).map_err(|source| ConfigError::Name { key: "type".into(), source })?;
            draft.config.plugin_type = plugin_type;
            Ok(())
        },
    },
    Key {
        name: "name",
        group: Group::Essential,
        form: "string",
        default: "required; libcni inserts the list's",
        meaning: "the network's name. Letters, digits, `_`, `.`, `-`, the first one a letter or digit, at most 200 bytes",
        read: |keys, draft| {
            let name = keys.string("name")?.ok_or_else(|| missing("\"name\", the network's name,"))?;
            validate::network_name(&name).map_err(|source| ConfigError::Name { key: "name".into(), source })?;
            draft.config.name = name;
            Ok(())
        },
    },
    Key {
        name: "cniVersion",
        group: Group::Essential,
        form: "string",
        default: "`0.1.0`; libcni inserts the list's",
        meaning: "the version of Braid's answers: 0.1.0, 0.2.0, 0.3.0, 0.3.1, 0.4.0, 1.0.0 or 1.1.0",
        read: set!(|keys| version = spoken_version(keys.as_object())?),
    },
    Key {
        name: "cniVersions",
        group: Group::Essential,
        form: "list of strings",
        default: "",
        meaning: "more versions; Braid uses the highest one that it knows",
        read: NOTHING,
    },
    Key {
        name: "capabilities",
        group: Group::Attach,
        form: "object of booleans",
        default: "",
        meaning: "which capability arguments the runtime passes to Braid. List those of the primary's plugins",
        read: NOTHING,
    },
    Key {
        name: "delegates",
        group: Group::Attach,
        form: "list",
        default: "required unless `clusterNetwork` is set",
        meaning: "what to attach: [delegates](#delegates)",
        read: |keys, draft| {
            let Config { name, version, .. } = &draft.config;
            let outer = Outer { name: &name.clone(), version: *version };
            let warnings = &mut draft.config.operator_warnings;
            draft.config.delegates = delegates::read(keys, outer, warnings, &mut draft.problems);
            Ok(())
        },
    },
    Key {
        name: "result",
        group: Group::Attach,
        form: "`\"merged\"` or `\"primary\"`",
        default: "`\"merged\"`; `\"primary\"` with Kubernetes",
        meaning: "what the runtime gets: every attachment's result merged, or the primary's alone. See [what the runtime gets](how-braid-decides.md#what-the-runtime-gets)",
        read: set!(|keys| result =
            keys.one_of("result", &[("merged", ResultMode::Merged), ("primary", ResultMode::Primary)])?),
    },
    Key {
        name: "concurrency",
        group: Group::Attach,
        form: "1 to 64, or `\"auto\"`",
        default: "`1`",
        meaning: "how many attachments beside the primary may be made, checked and undone at once, and how many networks GC calls at once. `\"auto\"`: attachments whose plugins are known to allow it run at once, and all others one by one: see [at once](how-braid-decides.md#at-once)",
        read: set_if_there!(|keys| concurrency = Concurrency::read(keys)?),
    },
    Key {
        name: "timeouts",
        group: Group::Means,
        form: "object",
        default: "",
        meaning: "see [`timeouts`](#timeouts)",
        read: set!(|keys| timeouts = Timeouts::read(keys)?),
    },
    Key {
        name: "debts",
        group: Group::Means,
        form: "object",
        default: "`{\"giveUpAfter\": 600}`",
        meaning: "`giveUpAfter`: for how many seconds DEL keeps failing because of a step that cannot be undone, before the debt is [parked](how-braid-decides.md#del); 0 means for ever",
        read: set!(|keys| debts = Debts::read(keys)?),
    },
    Key {
        name: "podChecks",
        group: Group::Attach,
        form: "`\"warn\"`, `\"fail\"` or `\"off\"`",
        default: "`\"warn\"`",
        meaning: "what CHECK does when a plugin reports a problem with an attachment that a pod asked for: log it, fail, or not call the plugin at all. See [CHECK](how-braid-decides.md#check)",
        read: set_if_there!(|keys| pod_checks = keys
            .one_of("podChecks", &[("warn", PodChecks::Warn), ("fail", PodChecks::Fail), ("off", PodChecks::Off)])?),
    },
    Key {
        name: "lookAhead",
        group: Group::Means,
        form: "0 to 16",
        default: "`1`",
        meaning: "how many of the next plugins are started, and wait for their input, while one runs: see [looking ahead](how-braid-decides.md#looking-ahead). 0 starts each when its turn comes",
        read: set_if_there!(|keys| look_ahead = keys.number("lookAhead", 0..=16)?),
    },
    Key {
        name: "noLookAhead",
        group: Group::Means,
        form: "list of plugin types",
        default: "`[]`",
        meaning: "plugins that do something before they have their input, and so are started when their turn comes. `azure-vnet` and `azure-vnet-ipam` always are",
        read: |keys, draft| {
            let types = keys.list_of::<String>("noLookAhead", "a list of plugin types", "a plugin type, a string")?;
            for (index, plugin) in types.iter().flatten().enumerate() {
                validate::plugin_type(plugin)
                    .map_err(|source| ConfigError::Name { key: format!("noLookAhead[{index}]"), source })?;
            }
            draft.config.no_look_ahead = types.unwrap_or_default();
            Ok(())
        },
    },
    Key {
        name: "policy",
        group: Group::Attach,
        form: "list",
        default: "none: everything is allowed",
        meaning: "see [`policy`](#policy)",
        read: set!(|keys| policy = {
            let rules = keys.list_of::<RawObject>("policy", "a list of rules", "a rule, an object")?;
            rules.map(|rules| Policy::from_list(&rules)).transpose()?
        }),
    },
    Key {
        name: "stateDir",
        group: Group::Essential,
        form: "path",
        default: "`/var/lib/cni/braid`",
        meaning: "where journals are kept. `cniDir` is another name; `stateDir` wins",
        read: set_if_there!(|keys| state_dir = keys.absolute("stateDir")?.or(keys.absolute("cniDir")?)),
    },
    Key {
        name: "cniDir",
        group: Group::Essential,
        form: "path",
        default: "`/var/lib/cni/multus`",
        meaning: "another name for `stateDir`, and the directory where Multus kept its state, for pods that Multus attached",
        read: set_if_there!(|keys| multus_dir = keys.absolute("cniDir")?),
    },
    Key {
        name: "confDir",
        group: Group::Attach,
        form: "path",
        default: "`/etc/cni/multus/net.d`",
        meaning: "where networks are looked up by name",
        read: set_if_there!(|keys| conf_dir = keys.absolute("confDir")?),
    },
    Key {
        name: "binDir",
        group: Group::Means,
        form: "path",
        default: "",
        meaning: "a directory that is searched for plugins before `CNI_PATH`. If both are missing, `/opt/cni/bin`",
        read: set!(|keys| bin_dir = keys.absolute("binDir")?.map(|directory| directory.to_string_lossy().into_owned())),
    },
    Key {
        name: "disableCheck",
        group: Group::Attach,
        form: "boolean",
        default: "`false`",
        meaning: "CHECK succeeds without checking anything",
        read: set!(|keys| disable_check = keys.boolean("disableCheck")?),
    },
    Key {
        name: "disableGC",
        group: Group::Gc,
        form: "boolean",
        default: "`false`",
        meaning: "GC succeeds without doing anything",
        read: set!(|keys| disable_gc = keys.boolean("disableGC")?),
    },
    Key {
        name: "readinessindicatorfile",
        group: Group::Attach,
        form: "path",
        default: "",
        meaning: "ADD waits for this file, up to 45 s; STATUS fails until it is there",
        read: set!(|keys| readiness_file = keys.absolute("readinessindicatorfile")?),
    },
    Key {
        name: "logLevel",
        group: Group::Means,
        form: "`panic`, `error`, `warning`, `info`, `verbose`, `debug`, `trace`",
        default: "`warning`",
        meaning: "how much is logged. `panic` logs nothing, `verbose` is the same as `info`, and `trace` is `debug` with the HTTP client's messages about each frame",
        read: set!(|keys| log.level = logging::level(keys)?),
    },
    Key {
        name: "logFile",
        group: Group::Means,
        form: "path",
        default: "",
        meaning: "a log file in addition, with one JSON object in each line; see [the log](#the-log)",
        read: set!(|keys| log.file = keys.absolute("logFile")?),
    },
    Key {
        name: "logToStderr",
        group: Group::Means,
        form: "boolean",
        default: "`true`",
        meaning: "whether to log to standard error",
        read: set!(|keys| log.to_stderr = keys.raw("logToStderr").map(|_| keys.boolean("logToStderr")).transpose()?),
    },
    Key {
        name: "logOptions",
        group: Group::Means,
        form: "object",
        default: "",
        meaning: "when the log file is rotated: `maxSize` 100 (MB), `maxBackups` 5, `maxAge` 5 (days). `compress` has no effect",
        read: |keys, draft| {
            let unknown = draft.config.log.read_options(keys)?;
            draft.config.operator_warnings.extend(unknown.iter().map(ToString::to_string));
            Ok(())
        },
    },
    Key {
        name: "runtimeConfig",
        group: Group::Attach,
        form: "object",
        default: "",
        meaning: "the capability arguments from the runtime. `networks` in it holds [selections](#selections) of the container's author",
        read: |keys, draft| {
            let runtime_config = keys.object("runtimeConfig")?.unwrap_or_default();
            let Parsed { selections, warnings } = runtime_selections(&runtime_config, &mut draft.problems);
            draft.config.call_warnings.extend(warnings.iter().map(ToString::to_string));
            draft.config.runtime_config = runtime_config;
            draft.config.runtime_selections = selections;
            Ok(())
        },
    },
    Key {
        name: "args",
        group: Group::Attach,
        form: "object",
        default: "",
        meaning: "merged into the `args` of every delegate's plugins; these values win",
        read: set!(|keys| args = keys.object("args")?.unwrap_or_default()),
    },
    Key {
        name: "prevResult",
        group: Group::Attach,
        form: "object",
        default: "",
        meaning: "present when Braid is chained after another plugin",
        read: |keys, draft| {
            let Some(raw) = keys.raw("prevResult") else { return Ok(()) };
            let result = AddResult::parse(raw.get().as_bytes(), draft.config.version);
            draft.config.prev_result = Some(result.map_err(InvalidConfig::PrevResult)?);
            Ok(())
        },
    },
    Key {
        name: "ipam",
        group: Group::Ignored,
        form: "object",
        default: "",
        meaning: "a key of the specification for plugins that assign addresses; no effect",
        read: NOTHING,
    },
    Key {
        name: "dns",
        group: Group::Ignored,
        form: "object",
        default: "",
        meaning: "the same; no effect",
        read: NOTHING,
    },
    Key {
        name: "cni.dev/valid-attachments",
        group: Group::Gc,
        form: "list",
        default: "",
        meaning: "GC: the attachments that are still valid; `null` is an empty list. `cni.dev/attachments` is its older name; an attachment in either list is valid",
        read: set!(|keys| valid_attachments = ValidAttachment::in_config(keys.as_object())?),
    },
    Key {
        name: "cni.dev/attachments",
        group: Group::Gc,
        form: "list",
        default: "",
        meaning: "the older name of `cni.dev/valid-attachments`",
        read: NOTHING,
    },
    Key {
        name: "clusterNetwork",
        group: Group::Attach,
        form: "string",
        default: "",
        meaning: "the primary network; `delegates` is then not used. A name in `confDir`, a file, or a directory, of which the first configuration is used",
        read: set!(|keys| multus.cluster_network = keys.string("clusterNetwork")?.filter(|name| !name.is_empty())),
    },
    Key {
        name: "defaultNetworks",
        group: Group::Attach,
        form: "list of strings",
        default: "`[]`",
        meaning: "more networks for every container, with `clusterNetwork`",
        read: set_if_there!(|keys| multus.default_networks = names(keys, "defaultNetworks")?),
    },
    Key {
        name: "systemNamespaces",
        group: Group::Attach,
        form: "list of strings",
        default: "`[\"kube-system\"]`",
        meaning: "pods of these namespaces do not get `defaultNetworks`",
        read: set_if_there!(|keys| multus.system_namespaces = names(keys, "systemNamespaces")?),
    },
    Key {
        name: "auxiliaryCNIChainName",
        group: Group::Attach,
        form: "string",
        default: "",
        meaning: "the chain in `<directory of clusterNetwork>/<this name>/*.conf` becomes the last attachment, if there is any file",
        read: set!(
            |keys| multus.auxiliary_chain = keys.string("auxiliaryCNIChainName")?.filter(|name| !name.is_empty())
        ),
    },
    Key {
        name: "kubeconfig",
        group: Group::Attach,
        form: "path",
        default: "",
        meaning: "the credentials for the Kubernetes API server; see [kubernetes.md](kubernetes.md)",
        read: set!(|keys| kubeconfig = keys.absolute("kubeconfig")?),
    },
    Key {
        name: "kubernetes",
        group: Group::Attach,
        form: "object",
        default: "",
        meaning: "settings for the API server and the kubelet; see [kubernetes.md](kubernetes.md#when-kubernetes-is-asked)",
        read: set!(|keys| kubernetes = KubernetesConfig::read(keys)?),
    },
    Key {
        name: "multusNamespace",
        group: Group::Attach,
        form: "string",
        default: "`\"kube-system\"`",
        meaning: "the namespace of definitions that `clusterNetwork`, `defaultNetworks` and `delegates` name without a namespace",
        read: set_if_there!(
            |keys| multus.multus_namespace = keys.string("multusNamespace")?.filter(|name| !name.is_empty())
        ),
    },
    Key {
        name: "namespaceIsolation",
        group: Group::Attach,
        form: "boolean",
        default: "`false`",
        meaning: "a pod may use only networks of its own namespace and of `globalNamespaces`; see [kubernetes.md](kubernetes.md)",
        read: set!(|keys| multus.namespace_isolation = keys.boolean("namespaceIsolation")?),
    },
    Key {
        name: "globalNamespaces",
        group: Group::Attach,
        form: "string",
        default: "`\"default\"`",
        meaning: "the namespaces whose networks every pod may use, separated by commas",
        read: set_if_there!(|keys| multus.global_namespaces = global_namespaces(keys)?),
    },
    Key {
        name: "retryDeleteOnError",
        group: Group::Ignored,
        form: "boolean",
        default: "",
        meaning: "no effect: what could not be undone is always kept for the next DEL",
        read: NOTHING,
    },
    ignored("CNIVersion"),
    ignored("multusConfigFile"),
    ignored("multusAutoconfigDir"),
    ignored("socketDir"),
    ignored("daemonSocketDir"),
    ignored("chrootDir"),
    ignored("perNodeCertificate"),
];

/// A key that Multus's own installer writes.
const fn ignored(name: &'static str) -> Key {
    Key {
        name,
        group: Group::Ignored,
        form: "",
        default: "",
        meaning: "accepted without a warning, no effect",
        read: NOTHING,
    }
}

fn names(keys: &Keys<'_>, key: &str) -> Result<Option<Vec<String>>, InvalidConfig> {
    Ok(get_list(keys.as_object(), key, "a list of names", "a name, a string")?)
}

/// The selections from the runtime: as a list, or as text.
fn runtime_selections(runtime_config: &RawObject, problems: &mut Problems<InvalidConfig>) -> Parsed {
    let Some(raw) = runtime_config.get("networks") else { return Parsed::default() };
    let text = match serde_json::from_str::<Option<String>>(raw.get()) {
        Ok(text) => text.unwrap_or_default(),
        Err(_) => raw.get().to_owned(),
    };
    let mut wrong = Problems::new();
    let parsed = Selection::parse_all(&text, "runtimeConfig.networks", &mut wrong);
    problems.extend(wrong.into_iter().map(InvalidConfig::from));
    parsed
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::{kubernetes, logging, policy, selection, selector, timeouts};
    use super::*;

    const REFERENCE: &str = include_str!("../../docs/configuration.md");
    const KUBERNETES: &str = include_str!("../../docs/kubernetes.md");

    /// The names in the first column of the first table below a line that starts with `heading`.
    fn documented<'a>(page: &'a str, heading: &str) -> BTreeSet<&'a str> {
        let from = page.find(&format!("\n{heading}")).unwrap_or_else(|| panic!("no {heading:?}")) + 1;
        let lines = page[from..].lines().skip_while(|line| !line.starts_with('|'));
        let rows = lines.take_while(|line| line.starts_with('|'));
        rows.filter_map(|row| row.split('|').nth(1)?.trim().strip_prefix('`')?.strip_suffix('`')).collect()
    }

    #[test]
    fn every_key_of_the_top_level_is_documented_as_it_is() {
        for key in KEYS {
            assert!(REFERENCE.contains(&format!("{}\n", key.row())), "docs/configuration.md lacks\n{}", key.row());
        }
        let known: BTreeSet<&str> = KNOWN_KEYS.iter().copied().collect();
        assert_eq!(known.len(), KEYS.len(), "a key stands twice");
        let documented = &documented(REFERENCE, "## Top level") | &documented(REFERENCE, "## Multus's keys");
        assert_eq!(documented, known);
    }

    #[test]
    fn every_key_of_an_object_is_documented() {
        let selection: Vec<&str> = selection::KEYS.iter().chain(&selection::OPERATOR_KEYS).copied().collect();
        for (page, heading, keys) in [
            (REFERENCE, "## Selections", selection.as_slice()),
            (REFERENCE, "## `when`", &selector::KEYS),
            (REFERENCE, "## `policy`", &policy::KEYS),
            (REFERENCE, "## `timeouts`", &timeouts::TIMEOUT_KEYS),
            (KUBERNETES, "## When Kubernetes is asked", &kubernetes::KUBERNETES_KEYS),
        ] {
            let known = keys.iter().copied().filter(|key| *key != "interfaceRequest").collect();
            assert_eq!(documented(page, heading), known, "{heading}");
        }
        for (row, keys) in [("debts", &timeouts::DEBT_KEYS[..]), ("logOptions", &logging::LOG_OPTION_KEYS)] {
            let row = KEYS.iter().find(|key| key.name == row).unwrap().row();
            assert!(keys.iter().all(|key| row.contains(key)), "{row}");
        }
    }
}
