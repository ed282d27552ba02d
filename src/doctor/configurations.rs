//! Checks of the runtime's configurations: which one the runtime uses, and how many default networks and routes there are.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

use super::records::ipam;
use super::setup::Configuration;
use super::{Finding, Kind, Node};
use crate::cni::config::{get, get_bool};
use crate::cni::{Args, NetworkConfig};
use crate::config::Config;
use crate::netns::{DefaultRoute, Family};
use crate::request::Request;
use crate::source::{self, Candidate};

/// All findings of this family.
pub(super) fn check(node: &Node) -> Vec<Finding> {
    let mut findings = hidden(&node.configurations);
    findings.extend(two_meta_plugins(&node.configurations));
    for configuration in &node.configurations {
        findings.extend(configuration.braids.iter().flat_map(|config| two_default_routes(configuration, config)));
    }
    findings.extend(node.attached.journals.iter().filter_map(|journal| {
        let (family, routes) = competing_routes(&journal.default_routes)?;
        let meaning = format!("the container has two default routes of IPv{family} with one metric: {routes}");
        let remedy = "choose one attachment with `default-route` in its selection, and create the container again";
        Some(Finding::by_hand(Kind::TwoDefaults, journal.id(), meaning, remedy))
    }));
    findings
}

/// Which file to rename, and how, so that Braid's comes first.
fn rename(braids: &Configuration, first: &Configuration) -> String {
    const FIRST: &str = "00-braid.conflist";
    if *FIRST < *first.file_name() {
        return format!("rename {} so that it comes first, as {FIRST}", braids.file_name());
    }
    let name = first.file_name();
    let rest = name.trim_start_matches(|letter: char| letter.is_ascii_digit() || letter == '-');
    format!("rename {name} so that it comes later, as 99-{rest}")
}

/// Configurations that come before Braid's, or have the same name. A runtime that uses the first file by name uses these.
fn hidden(configurations: &[Configuration]) -> Vec<Finding> {
    let Some(at) = configurations.iter().position(Configuration::is_braids) else { return Vec::new() };
    let braids = &configurations[at];
    let mut findings = Vec::new();
    if let Some(first) = configurations.first().filter(|_| at > 0) {
        let meaning = format!(
            "{} comes before it: containerd and CRI-O take the first file, and do not call Braid",
            first.file_name()
        );
        let remedy =
            format!("{}; podman and nerdctl choose networks by name and are not affected", rename(braids, first));
        findings.push(Finding::by_hand(Kind::ConfigurationHidden, braids.file.display().to_string(), meaning, remedy));
    }
    for (index, later) in configurations.iter().enumerate().filter(|(_, one)| one.is_braids()) {
        let mut before = configurations[..index].iter();
        if let Some(other) = before.find(|one| one.network.name == later.network.name) {
            let meaning = format!(
                "{} comes before it and has the same name, {:?}: runtimes that choose networks by name do not call Braid",
                other.file_name(),
                later.network.name
            );
            let remedy = "give one of them another name";
            findings.push(Finding::by_hand(
                Kind::ConfigurationHidden,
                format!("{} ({:?})", later.file.display(), later.network.name),
                meaning,
                remedy,
            ));
        }
    }
    findings
}

/// Braid and Multus at the same time, each configured as the node's network.
fn two_meta_plugins(configurations: &[Configuration]) -> Option<Finding> {
    let multus = configurations.iter().find(|configuration| {
        let mut plugins = configuration.network.plugins.iter();
        plugins.any(|plugin| ["multus", "multus-shim"].contains(&plugin.plugin_type()))
    })?;
    let braid = configurations.iter().find(|one| one.is_braids() && one.file != multus.file)?;
    let meaning = format!(
        "{} and {} both configure the node's default network; the runtime uses the one that comes first",
        braid.file_name(),
        multus.file_name()
    );
    let remedy = "remove the one that the runtime should not use, and whatever installs it";
    Some(Finding::by_hand(Kind::TwoDefaults, multus.file.display().to_string(), meaning, remedy))
}

/// Networks that every container is attached to, several of which set a default route of the same family while none is chosen with
/// `default-route`.
fn two_default_routes(configuration: &Configuration, config: &Config) -> Vec<Finding> {
    let request = Request::of_no_container(Args::default());
    let candidates: Vec<Candidate> = source::survey(config, &request, None).candidates.into_iter().flatten().collect();
    let mut setting: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for candidate in &candidates {
        for family in default_families(&candidate.network) {
            setting.entry(family).or_default().push(&candidate.network.name);
        }
    }
    let is_chosen = |family: &str| {
        let gateways = candidates.iter().filter_map(|candidate| candidate.selection.default_route.as_ref()).flatten();
        gateways.into_iter().any(|gateway| gateway.is_ipv4() == (family == "4"))
    };
    let competing = setting.into_iter().filter(|(family, networks)| networks.len() > 1 && !is_chosen(family));
    competing
        .map(|(family, networks)| {
            let meaning = format!("networks {} all set a default route of IPv{family}", networks.join(" and "));
            let remedy =
                "give one of them a selection with `default-route`, or remove the default routes of the others";
            let subject = format!("{} (IPv{family})", configuration.file.display());
            Finding::by_hand(Kind::TwoDefaults, subject, meaning, remedy)
        })
        .collect()
}

/// The families of the default routes that a network sets.
fn default_families(network: &NetworkConfig) -> Vec<&'static str> {
    let mut families = Vec::new();
    for plugin in &network.plugins {
        let Some(ipam) = ipam(plugin) else { continue };
        let text = serde_json::to_string(&ipam).unwrap_or_default();
        let is_gateway = get_bool(plugin.keys(), "isDefaultGateway").unwrap_or(false);
        let routes: Vec<Box<RawValue>> = get(&ipam, "routes", "a list").ok().flatten().unwrap_or_default();
        let mut has = |family: &'static str, destination: &str, digits: &str| {
            let by_route = routes.iter().any(|route| {
                serde_json::from_str::<serde_json::Value>(route.get()).is_ok_and(|route| route["dst"] == destination)
            });
            if (by_route || is_gateway && text.contains(digits)) && !families.contains(&family) {
                families.push(family);
            }
        };
        // A family's addresses are in the ranges that contain its gateway.
        has("4", "0.0.0.0/0", ".");
        has("6", "::/0", "::");
    }
    families
}

/// Default routes of the same family and metric over different interfaces: the family, and the routes as text.
fn competing_routes(routes: &[DefaultRoute]) -> Option<(&'static str, String)> {
    for (family, name) in [(Family::V4, "4"), (Family::V6, "6")] {
        let own: Vec<_> = routes.iter().filter(|route| route.family == family && route.from.is_none()).collect();
        let lowest = own.iter().map(|route| route.metric).min()?;
        let best: Vec<_> = own.iter().filter(|route| route.metric == lowest && route.tos == own[0].tos).collect();
        let is_on_another = |route: &&&&DefaultRoute| route.interface != best[0].interface;
        if best.iter().any(|route| is_on_another(&route)) {
            let words: Vec<String> = best.iter().map(ToString::to_string).collect();
            return Some((name, words.join(", ")));
        }
    }
    None
}
