//! `validate`: what is wrong with configurations, and where.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::playing_runtime::finder;
use super::{CliError, Outcome, print};
use crate::cni::config::{Insert, RawObject};
use crate::cni::{Args, NetworkConfig, PluginConfig};
use crate::config::Config;
use crate::plan;
use crate::request::Request;
use crate::runtime::{Finder, Verb, load};
use crate::source;

pub(super) fn validate(paths: &[PathBuf]) -> Outcome {
    let finder = finder()?;
    let mut text = String::new();
    let mut wrong = 0;
    let mut files = Vec::new();
    for path in paths {
        if path.is_dir() {
            let found = load::files(path)?;
            if found.is_empty() {
                let _ = writeln!(text, "{}: no configurations (.conflist, .conf, .json) here", path.display());
                wrong += 1;
            }
            files.extend(found);
        } else {
            files.push(path.clone());
        }
    }
    for file in &files {
        let report = Report::of(file, &finder);
        wrong += report.errors.len();
        text += &report.text(file);
    }
    print(&text)?;
    if wrong > 0 { Err(CliError::Printed) } else { Ok(ExitCode::SUCCESS) }
}

/// What there is to say of one file.
#[derive(Default)]
struct Report {
    errors: Vec<String>,
    warnings: Vec<String>,
    summary: String,
}

impl Report {
    fn of(file: &Path, finder: &Finder) -> Self {
        let mut report = Self::default();
        let network = match load::from_file(file) {
            Ok(loaded) => loaded.network,
            Err(error) => {
                // The file's name stands before everything said of it.
                let message = error.to_string();
                let prefix = format!("{}: ", file.display());
                report.errors.push(message.strip_prefix(&prefix).unwrap_or(&message).to_owned());
                return report;
            }
        };
        let plugins: Vec<&str> = network.plugins.iter().map(PluginConfig::plugin_type).collect();
        report.summary = format!("network {:?}, CNI {}, {}", network.name, network.version, plugins.join(" > "));
        for (index, plugin) in network.plugins.iter().enumerate() {
            if is_braid(plugin) {
                report.braid(&network, index, finder);
            } else {
                report.executable(finder, plugin.plugin_type(), &format!("plugins[{index}]"));
            }
        }
        report
    }

    fn braid(&mut self, network: &NetworkConfig, index: usize, finder: &Finder) {
        let place = format!("plugins[{index}] ({})", network.plugins[index].plugin_type());
        let config = match braid_config(network, index) {
            Ok(config) => config,
            Err(error) => {
                self.errors.push(format!("{place}: {error}"));
                return;
            }
        };
        self.warnings.extend(config.warnings.iter().map(|warning| format!("{place}: {warning}")));
        let (networks, errors) = source::every_network(&config);
        self.errors.extend(errors.into_iter().map(|error| format!("{place}: {error}")));
        for delegate in &networks {
            for plugin in &delegate.plugins {
                self.executable(finder, plugin.plugin_type(), &format!("{place}: network {:?}", delegate.name));
            }
        }
        // What a container without any arguments would get, where that is anything.
        let request = request_for(&config, Args::default());
        if let Ok(gathered) = source::gather(&config, &request)
            && !gathered.candidates.is_empty()
            && let Err(error) = plan::build(&config, &request, gathered.candidates, &gathered.dropped)
        {
            self.errors.push(format!("{place}: {error}"));
        }
    }

    fn executable(&mut self, finder: &Finder, plugin_type: &str, place: &str) {
        if let Err(error) = finder.find(plugin_type) {
            self.warnings.push(format!("{place}: {error}"));
        }
    }

    fn text(&self, file: &Path) -> String {
        let mut text = String::new();
        let verdict = if self.errors.is_empty() { "ok" } else { "wrong" };
        let summary = if self.summary.is_empty() { String::new() } else { format!(" ({})", self.summary) };
        let _ = writeln!(text, "{}: {verdict}{summary}", file.display());
        for error in &self.errors {
            let _ = writeln!(text, "  error: {error}");
        }
        for warning in &self.warnings {
            let _ = writeln!(text, "  warning: {warning}");
        }
        text
    }
}

/// Whether a plugin is Braid, or a Multus whose place it can take.
pub(super) fn is_braid(plugin: &PluginConfig) -> bool {
    ["braid", "multus"].contains(&plugin.plugin_type())
        || ["delegates", "clusterNetwork"].iter().any(|key| plugin.keys().contains_key(*key))
}

/// The configuration that Braid would get, as the plugin at `index` of a network.
pub(super) fn braid_config(network: &NetworkConfig, index: usize) -> Result<Config, crate::config::InvalidConfig> {
    let none = RawObject::new();
    let json = network.plugins[index].request(&Insert {
        name: &network.name,
        version: network.version,
        capability_args: &none,
        args: None,
        prev_result: None,
        valid_attachments: None,
    });
    let mut config = Config::parse(&json)?;
    // Behind another plugin there is a result to add to.
    config.prev_result = (index > 0).then(crate::cni::AddResult::default);
    Ok(config)
}

/// An ADD of no container in particular.
pub(super) fn request_for(_config: &Config, args: Args) -> Request {
    Request {
        verb: Verb::Add,
        container_id: "container".into(),
        netns: String::new(),
        own_netns_allowed: false,
        ifname: "eth0".into(),
        args_text: args.to_string(),
        args,
        cni_path: String::new(),
        in_cluster: false,
        stdin: Vec::new(),
    }
}
