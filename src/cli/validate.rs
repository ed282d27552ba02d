//! `validate`: reports what is wrong with configurations, and where.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

#[cfg(feature = "kubernetes")]
use super::manifests;
use super::paths::finder;
use super::table::cell;
use super::{CliError, Outcome, print};
use crate::cni::config::RawObject;
use crate::cni::{Args, NetworkConfig, PluginConfig, Version};
use crate::config::Config;
use crate::config::Problems;
use crate::config::meta::is_braid;
use crate::config::object::nearest;
use crate::plan::traps::{self, Trap};
use crate::plan::{self, Asked, concurrency};
use crate::request::Request;
use crate::runtime::{Finder, load};
use crate::source::pod::{DefinitionKey, Definitions, PodView};
use crate::source::{self, SourceError};

/// The endings of files that hold Kubernetes objects. A `.json` file may hold them too.
const MANIFESTS: [&str; 2] = ["yaml", "yml"];

/// The arguments of `validate`.
#[derive(Debug, clap::Args)]
pub(super) struct ValidateArgs {
    /// Configurations, Kubernetes manifests, or directories of them
    #[arg(value_name = "FILE|DIR")]
    #[cfg_attr(feature = "kubernetes", arg(required_unless_present = "webhook"))]
    #[cfg_attr(not(feature = "kubernetes"), arg(required = true))]
    paths: Vec<PathBuf>,
    /// The namespace of Kubernetes objects without one
    #[arg(short, long, default_value = "default")]
    namespace: String,
}

/// The possible inputs in a build without Kubernetes.
#[cfg(not(feature = "kubernetes"))]
pub(super) type Validate = ValidateArgs;

pub(super) fn validate(args: &ValidateArgs) -> Outcome {
    validate_files(args, Some(finder()?)).map(|_| ExitCode::SUCCESS)
}

/// Checks the given files together, and prints the report. Returns the files' contents.
///
/// # Errors
/// When something is wrong with one.
pub(super) fn validate_files(args: &ValidateArgs, finder: Option<Finder>) -> Result<Given, CliError> {
    let mut text = String::new();
    let mut files = Vec::new();
    let mut is_wrong = false;
    for path in &args.paths {
        if !path.is_dir() {
            files.push(File::read(path));
            continue;
        }
        let found = files_of(path)?;
        if found.is_empty() {
            let _ = writeln!(text, "{}: no configurations (.conflist, .conf, .json{YAML}) here", path.display());
            is_wrong = true;
        }
        let first = files.len();
        files.extend(found.iter().map(|file| File::read(file)));
        warn_of_hidden(&mut files[first..]);
    }
    let given = Given { finder, ..Given::of(&mut files, &args.namespace) };
    for file in &mut files {
        file.check(&given);
        is_wrong |= !file.report.errors.is_empty();
        text += &file.text();
    }
    print(&text)?;
    if is_wrong { Err(CliError::Printed) } else { Ok(given) }
}

/// The endings that are read only with Kubernetes, for the message.
const YAML: &str = if cfg!(feature = "kubernetes") { ", .yaml, .yml" } else { "" };

/// The files of a directory that are read: configurations in the order of the search, then manifests.
fn files_of(directory: &Path) -> Result<Vec<PathBuf>, CliError> {
    let mut files = load::files(directory)?;
    if cfg!(feature = "kubernetes") {
        files.extend(load::with_extensions(directory, &MANIFESTS)?);
    }
    Ok(files)
}

/// If configurations of a directory have the same name, the first is used.
fn warn_of_hidden(files: &mut [File]) {
    for index in 1..files.len() {
        let (before, after) = files.split_at_mut(index);
        let Content::Network(network) = &after[0].content else { continue };
        let has_name = |file: &&File| matches!(&file.content, Content::Network(other) if other.name == network.name);
        if let Some(first) = before.iter().find(has_name) {
            let first = first.path.file_name().unwrap_or_default().display();
            let warning =
                format!("{first} comes first and has the same name, {:?}; this file is not used", network.name);
            after[0].report.warnings.push(warning);
        }
    }
}

/// A file, and what there is to say of it.
#[derive(Debug)]
struct File {
    path: PathBuf,
    content: Content,
    report: Report,
}

/// What a file holds.
#[derive(Debug)]
enum Content {
    /// A network.
    Network(NetworkConfig),
    /// Kubernetes objects.
    #[cfg(feature = "kubernetes")]
    Objects(Vec<source::kubernetes::manifest::Manifest>),
    /// Nothing that can be used.
    Unusable,
}

/// Everything that is validated together.
#[derive(Debug, Clone, Default)]
pub(super) struct Given {
    /// The NetworkAttachmentDefinitions.
    pub(super) definitions: Definitions,
    /// Their names.
    pub(super) keys: Vec<DefinitionKey>,
    /// Braid's valid configurations, each with its place.
    pub(super) configs: Vec<(String, Config)>,
    /// The resource claims, and the templates for them.
    #[cfg(feature = "kubernetes")]
    pub(super) claims: super::manifest_devices::GivenClaims,
    /// Whether the definitions that the objects name have been looked up in a cluster, so that a missing one does not exist.
    pub(super) is_looked_up: bool,
    /// The directories of plugins. `None` if this machine is not the node, so its disk does not show what pods can have.
    pub(super) finder: Option<Finder>,
    /// The namespace of objects without one.
    #[cfg_attr(not(feature = "kubernetes"), expect(dead_code, reason = "without Kubernetes there are no objects"))]
    pub(super) namespace: String,
}

impl Given {
    fn of(files: &mut [File], namespace: &str) -> Self {
        let mut given = Self { namespace: namespace.to_owned(), ..Self::default() };
        for file in files.iter() {
            let Content::Network(network) = &file.content else { continue };
            for (index, plugin) in network.plugins.iter().enumerate().filter(|(_, plugin)| is_braid(plugin)) {
                let place = format!("{} plugins[{index}] ({})", file.path.display(), plugin.plugin_type());
                let config = Config::in_network(network, index, &mut Problems::new());
                given.configs.extend(config.map(|config| (place, config)));
            }
        }
        #[cfg(feature = "kubernetes")]
        {
            let objects = files.iter_mut().filter_map(|file| match &file.content {
                Content::Objects(objects) => Some((objects, &mut file.report)),
                _ => None,
            });
            manifests::collect(objects, &mut given);
        }
        given
    }

    /// Reports that a definition is not among the given ones. This is an error only if any definitions were given.
    pub(super) fn missing(&self, origin: &str, key: &DefinitionKey) -> Result<String, String> {
        if self.keys.is_empty() && !self.is_looked_up {
            return Err(format!("{origin}: network-attachment-definition {key} is looked up in the cluster at ADD"));
        }
        let elsewhere: Vec<String> =
            self.keys.iter().filter(|known| known.name == key.name).map(ToString::to_string).collect();
        let beside = self.keys.iter().filter(|known| known.namespace == key.namespace);
        let names: Vec<&str> = beside.map(|known| known.name.as_str()).collect();
        let hint = match (elsewhere.as_slice(), nearest(&key.name, &names)) {
            ([], None) => String::new(),
            ([], Some(nearest)) => format!(", did you mean {nearest:?}?"),
            (others, _) => format!("; of that name there is {}", others.join(", ")),
        };
        let among = if self.is_looked_up { "" } else { " among those given" };
        Ok(format!("{origin}: there is no network-attachment-definition {key}{among}{hint}"))
    }
}

/// What there is to say of one file.
#[derive(Debug, Default)]
pub(super) struct Report {
    pub(super) errors: Vec<String>,
    pub(super) warnings: Vec<String>,
    pub(super) notes: Vec<String>,
    /// This may be wrong, because the cluster could not be asked.
    #[cfg(feature = "kubernetes")]
    pub(super) unknown: Vec<String>,
    pub(super) summary: String,
}

impl File {
    fn read(path: &Path) -> Self {
        let mut file = Self { path: path.to_owned(), content: Content::Unusable, report: Report::default() };
        if is_manifest(path) {
            file.content = file.objects();
            return file;
        }
        match load::from_file(path) {
            Ok(loaded) => {
                file.report.version_key(&loaded.object);
                file.content = Content::Network(loaded.network);
            }
            Err(error) => file.fails(&error),
        }
        file
    }

    #[cfg(feature = "kubernetes")]
    fn objects(&mut self) -> Content {
        let read = load::read(&self.path).map_err(|error| self.fails(&error)).ok();
        let objects = read.map(|bytes| source::kubernetes::manifest::read(&bytes));
        match objects {
            Some(Ok(objects)) => return Content::Objects(objects),
            Some(Err(error)) => self.report.errors.push(error.to_string()),
            None => {}
        }
        Content::Unusable
    }

    #[cfg(not(feature = "kubernetes"))]
    fn objects(&mut self) -> Content {
        self.report.errors.push("this braid is built without Kubernetes, and reads no manifests".into());
        Content::Unusable
    }

    /// The file's name is printed before all messages about it.
    fn fails(&mut self, error: &load::LoadError) {
        let message = error.to_string();
        let prefix = format!("{}: ", self.path.display());
        self.report.errors.push(message.strip_prefix(&prefix).unwrap_or(&message).to_owned());
    }

    fn check(&mut self, given: &Given) {
        match &self.content {
            Content::Network(network) => self.report.network(network, given),
            #[cfg(feature = "kubernetes")]
            Content::Objects(objects) => manifests::check(&mut self.report, objects, given),
            Content::Unusable => {}
        }
    }

    fn text(&self) -> String {
        let Report { errors, warnings, notes, summary, .. } = &self.report;
        let mut text = String::new();
        let verdict = if errors.is_empty() { "ok" } else { "wrong" };
        let summary = if summary.is_empty() { String::new() } else { format!(" ({summary})") };
        let _ = writeln!(text, "{}: {verdict}{}", self.path.display(), cell(&summary));
        for (kind, lines) in [("error", errors), ("warning", warnings), ("note", notes)] {
            for line in lines {
                let _ = writeln!(text, "  {kind}: {}", cell(line));
            }
        }
        text
    }
}

/// Whether a file should contain Kubernetes objects: decided by its name or, for `.json`, by its content.
fn is_manifest(path: &Path) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    if extension != "json" {
        return MANIFESTS.contains(&extension);
    }
    let object = load::read(path).ok().and_then(|bytes| serde_json::from_slice::<RawObject>(&bytes).ok());
    object.is_some_and(|object| object.contains_key("kind") && object.contains_key("apiVersion"))
}

impl Report {
    /// A network without `cniVersion` speaks 0.1.0, which hardly anybody means who has written `version`.
    fn version_key(&mut self, object: &RawObject) {
        let is_missing = !object.contains_key("cniVersion") && !object.contains_key("cniVersions");
        if is_missing && object.contains_key("version") {
            let spoken = Version::DEFAULT;
            self.warnings.push(format!(
                "\"version\" is a key that nothing reads; expected \"cniVersion\", without which the network speaks CNI {spoken}"
            ));
        }
    }

    fn network(&mut self, network: &NetworkConfig, given: &Given) {
        let plugins: Vec<&str> = network.plugins.iter().map(PluginConfig::plugin_type).collect();
        self.summary = format!("network {:?}, CNI {}, {}", network.name, network.version, plugins.join(" > "));
        for (index, plugin) in network.plugins.iter().enumerate() {
            if is_braid(plugin) {
                self.braid(network, index, given);
            } else {
                self.executable(given, plugin.plugin_type(), &format!("plugins[{index}]"));
            }
        }
        self.traps("", traps::of_network(network));
    }

    fn braid(&mut self, network: &NetworkConfig, index: usize, given: &Given) {
        let place = format!("plugins[{index}] ({})", network.plugins[index].plugin_type());
        let mut problems = Problems::new();
        let config = Config::in_network(network, index, &mut problems);
        self.errors.extend(problems.iter().map(|error| format!("{place}: {error}")));
        let Some(config) = config else { return };
        let warnings = config.operator_warnings.iter().chain(&config.call_warnings);
        self.warnings.extend(warnings.map(|warning| format!("{place}: {warning}")));
        let definitions = config.kubeconfig.is_some().then_some(&given.definitions);
        let known = source::every_network_with(&config, definitions);
        let networks: Vec<NetworkConfig> = known.networks.into_iter().map(|(network, _)| network).collect();
        let errors = known.errors;
        for error in errors {
            match error {
                SourceError::NoDefinition { origin, key, .. } => match given.missing(&origin, &key) {
                    Ok(error) => self.errors.push(format!("{place}: {error}")),
                    Err(note) => self.notes.push(format!("{place}: {note}")),
                },
                error => self.errors.push(format!("{place}: {error}")),
            }
        }
        for delegate in &networks {
            self.traps(&format!("{place}: network {:?}: ", delegate.name), traps::of_network(delegate));
            for plugin in &delegate.plugins {
                self.executable(given, plugin.plugin_type(), &format!("{place}: network {:?}", delegate.name));
            }
        }
        // What a container without any arguments would get, if that is anything.
        let request = Request::of_no_container(Args::default());
        let view = definitions.map(|definitions| PodView { definitions: definitions.clone(), ..PodView::default() });
        let surveyed = source::survey(&config, &request, view.as_ref());
        if !surveyed.candidates.is_empty() {
            let mut problems = Problems::new();
            let planned = plan::build(
                &config,
                &request,
                Asked { candidates: surveyed.candidates, dropped: &surveyed.dropped, taken: &[] },
                &mut problems,
            );
            self.errors.extend(problems.iter().map(|error| format!("{place}: {error}")));
            self.traps(&format!("{place}: "), traps::of_plan(&planned.plan));
            let lines = concurrency::explain(config.concurrency, &planned.plan);
            self.notes.extend(lines.iter().map(|line| format!("{place}: concurrency: {line}")));
        }
    }

    /// Reports traps, each with its place.
    pub(super) fn traps(&mut self, place: &str, traps: Vec<Trap>) {
        for Trap { is_fatal, message } in traps {
            let lines = if is_fatal { &mut self.errors } else { &mut self.warnings };
            lines.push(format!("{place}{message}"));
        }
    }

    pub(super) fn executable(&mut self, given: &Given, plugin_type: &str, place: &str) {
        let Some(finder) = &given.finder else { return };
        if let Err(error) = finder.find(plugin_type) {
            self.warnings.push(format!("{place}: {error}"));
        }
    }
}
