//! How the node is set up: the configurations, and the plugins, programs and kernel features that they require.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::attached::Attached;
use super::records::ipam;
use super::unexamined::Unexamined;
use crate::cni::config::{get, get_bool};
use crate::cni::{NetworkConfig, PluginConfig};
use crate::config::meta::is_braid;
use crate::config::{Config, DEFAULT_STATE_DIR, Problems};
use crate::netns::Netns;
use crate::runtime::{Finder, load};
use crate::source;

/// A configuration in the runtime's directory.
#[derive(Debug, Clone)]
pub struct Configuration {
    /// Its file.
    pub file: PathBuf,
    /// The network.
    pub network: NetworkConfig,
    /// The configurations of the Braid plugins in it. Those that cannot be used are left out.
    pub braids: Vec<Config>,
    /// The networks to which these delegate, as far as they can be found without an API server.
    pub delegates: Vec<NetworkConfig>,
}

impl Configuration {
    /// Whether one of its plugins is Braid.
    pub fn is_braids(&self) -> bool {
        !self.braids.is_empty() || self.network.plugins.iter().any(|plugin| plugin.plugin_type() == "braid")
    }

    /// The name of its file.
    pub fn file_name(&self) -> String {
        self.file.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// The networks whose plugins run: its own, and its delegates.
    fn networks(&self) -> impl Iterator<Item = &NetworkConfig> {
        std::iter::once(&self.network).chain(&self.delegates)
    }
}

/// Reads the configurations of a directory, sorted by file name, which is the order in which runtimes use them. Also returns the
/// files that cannot be used.
pub(super) fn configurations(conf_dir: &Path) -> (Vec<Configuration>, BTreeMap<PathBuf, Unexamined>) {
    let mut unread = BTreeMap::new();
    let mut files = load::files(conf_dir).unwrap_or_else(|error| {
        unread.insert(conf_dir.to_owned(), Unexamined::other(&error));
        Vec::new()
    });
    files.sort();
    let mut loaded = Vec::new();
    for file in files {
        match load::from_file(&file) {
            Ok(one) => loaded.push((one.network, file)),
            Err(error) => {
                unread.insert(file, Unexamined::configuration(&error));
            }
        }
    }
    let read = loaded.into_iter().map(|(network, file)| {
        let plugins = network.plugins.iter().enumerate().filter(|(_, plugin)| is_braid(plugin));
        let braids = plugins.filter_map(|(index, _)| Config::in_network(&network, index, &mut Problems::new()));
        let braids: Vec<Config> = braids.collect();
        let delegates = braids.iter().flat_map(|config| source::every_network(config).networks);
        let delegates = delegates.map(|(network, _)| network).collect();
        Configuration { file, network, braids, delegates }
    });
    (read.collect(), unread)
}

/// The state directories: `own`, the default one, and those that configurations name.
pub(super) fn state_dirs(own: &Path, configurations: &[Configuration]) -> Vec<PathBuf> {
    let mut all = vec![own.to_owned(), PathBuf::from(DEFAULT_STATE_DIR)];
    let braids = configurations.iter().flat_map(|configuration| &configuration.braids);
    all.extend(braids.map(|config| config.state_dir.clone()));
    all.sort();
    all.dedup();
    all
}

/// Something that a plugin requires and that the node lacks.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Requirement {
    /// Its name: a plugin's type, a program, or a kind of link.
    pub name: String,
    /// The plugin that requires it. Empty if it is a plugin itself.
    pub plugin: String,
    /// The directories that were searched.
    pub searched: String,
}

/// The missing requirements, each with the configurations and containers that have it.
pub type Missing = BTreeMap<Requirement, Vec<String>>;

/// The plugins that the node uses.
pub(super) struct UsedPlugins<'a> {
    all: Vec<UsedPlugin<'a>>,
}

/// A plugin that is used.
struct UsedPlugin<'a> {
    plugin: &'a PluginConfig,
    /// The configuration or container that uses it.
    user: String,
    /// The directories in which it is looked up.
    path: String,
}

impl<'a> UsedPlugins<'a> {
    pub(super) fn of(configurations: &'a [Configuration], attached: &'a Attached, cni_path: &str) -> Self {
        let mut all = Vec::new();
        for configuration in configurations {
            for (index, network) in configuration.networks().enumerate() {
                let of_delegate = configuration.braids.first().filter(|_| index > 0);
                let path = of_delegate.map_or_else(|| cni_path.to_owned(), |config| config.plugin_path(cni_path));
                let user = configuration.file_name();
                let plugins = network.plugins.iter();
                all.extend(plugins.map(|plugin| UsedPlugin { plugin, user: user.clone(), path: path.clone() }));
            }
        }
        for state in attached.states() {
            let plan = &state.header.plan;
            for (_, attachment) in state.attachments() {
                let user = format!("container {}", plan.container_id);
                let plugins = attachment.network.plugins.iter();
                all.extend(plugins.map(|plugin| UsedPlugin { plugin, user: user.clone(), path: plan.path.clone() }));
            }
        }
        Self { all }
    }

    /// The plugins that are missing. `finder` searches `CNI_PATH`.
    pub(super) fn missing_plugins(&self, finder: &Finder) -> Missing {
        let mut missing = Missing::new();
        let mut finders: BTreeMap<&str, Finder> = BTreeMap::new();
        for one in &self.all {
            let is_default = one.path.is_empty() || one.path == finder.path();
            let own = finders
                .entry(&one.path)
                .or_insert_with(|| if is_default { finder.clone() } else { Finder::new(&one.path) }.remembering());
            let ipam = ipam(one.plugin).and_then(|ipam| get::<String>(&ipam, "type", "a plugin").ok().flatten());
            for name in std::iter::once(one.plugin.plugin_type().to_owned()).chain(ipam.filter(|name| !name.is_empty()))
            {
                let is_there = own.find(&name).is_ok() || name == "braid" && finder.find(&name).is_ok();
                if !is_there {
                    let searched = if one.path.is_empty() { finder.path() } else { &one.path };
                    add(&mut missing, &name, "", searched, &one.user);
                }
            }
        }
        missing
    }

    /// The programs that plugins call and that are missing.
    pub(super) fn missing_programs(&self, is_there: &dyn Fn(&str) -> bool) -> Missing {
        let mut missing = Missing::new();
        for one in &self.all {
            let programs = programs_of(one.plugin);
            if !programs.is_empty() && !programs.iter().any(|program| is_there(program)) {
                let plugin = one.plugin.plugin_type();
                add(&mut missing, &programs.join(" or "), plugin, &PROGRAM_DIRECTORIES.join(":"), &one.user);
            }
        }
        missing
    }

    /// The kinds of links that plugins make and that the kernel does not know.
    pub(super) fn missing_kinds(&self, knows: &mut dyn FnMut(&'static str) -> bool) -> Missing {
        let mut missing = Missing::new();
        for one in &self.all {
            for kind in kinds_of(one.plugin).iter().filter(|kind| !knows(kind)) {
                add(&mut missing, kind, one.plugin.plugin_type(), "", &one.user);
            }
        }
        missing
    }
}

/// Adds a missing requirement, or another user of one.
fn add(missing: &mut Missing, name: &str, plugin: &str, searched: &str, user: &str) {
    let users =
        missing.entry(Requirement { name: name.into(), plugin: plugin.into(), searched: searched.into() }).or_default();
    if !users.iter().any(|known| known == user) {
        users.push(user.to_owned());
    }
}

/// The directories in which programs are looked up that plugins call by name.
const PROGRAM_DIRECTORIES: [&str; 6] = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];

/// The path of a program. `None` if it is missing.
pub(super) fn program(name: &str) -> Option<PathBuf> {
    Finder::new(&PROGRAM_DIRECTORIES.join(":")).find(name).ok()
}

/// The programs of which a plugin needs any one. Empty if it needs none.
fn programs_of(plugin: &PluginConfig) -> &'static [&'static str] {
    const IPTABLES: &[&str] = &["iptables"];
    const NFT: &[&str] = &["nft"];
    const EITHER: &[&str] = &["iptables", "nft"];
    let text = |key| get::<String>(plugin.keys(), key, "a string").ok().flatten().unwrap_or_default();
    let of_backend = |backend: &str| match backend {
        "iptables" => IPTABLES,
        "nftables" => NFT,
        _ => EITHER,
    };
    match plugin.plugin_type() {
        "portmap" => of_backend(&text("backend")),
        // This backend asks a daemon, over D-Bus.
        "firewall" if text("backend") == "firewalld" => &[],
        "firewall" => IPTABLES,
        "bridge" | "ptp" if get_bool(plugin.keys(), "ipMasq").unwrap_or(false) => of_backend(&text("ipMasqBackend")),
        _ => &[],
    }
}

/// The kinds of links that a plugin makes.
fn kinds_of(plugin: &PluginConfig) -> &'static [&'static str] {
    match plugin.plugin_type() {
        "bridge" => &["bridge", "veth"],
        "ptp" => &["veth"],
        "bandwidth" => &["ifb"],
        "macvlan" => &["macvlan"],
        "ipvlan" => &["ipvlan"],
        "vlan" => &["vlan"],
        "dummy" => &["dummy"],
        "vrf" => &["vrf"],
        "bond" => &["bond"],
        "tap" => &[TUN],
        _ => &[],
    }
}

/// Finds out which kinds of links the kernel knows, and leaves no trace on the node.
///
/// It asks the kernel for a link of the kind in a network namespace of its own. For this the kernel may load the kind's module, as a plugin's use of
/// the kind would. But the modules in [`MAKES_LINKS`] make links in the host's namespace when they are loaded. So these kinds are tried
/// only if the kernel cannot load modules, or has loaded this one already. If there is no answer, the kernel counts as knowing a kind.
pub(super) struct Kernel {
    netns: Option<Netns>,
    known: BTreeMap<&'static str, bool>,
}

/// The kinds whose modules make links when they are loaded, each with its module.
const MAKES_LINKS: [(&str, &str); 3] = [("ifb", "ifb"), ("dummy", "dummy"), ("bond", "bonding")];

/// The kind of tun and tap interfaces, and also the name of its module.
const TUN: &str = "tun";

impl Kernel {
    pub(super) fn new() -> Self {
        Self { netns: Netns::fresh().ok(), known: BTreeMap::new() }
    }

    pub(super) fn knows(&mut self, kind: &'static str) -> bool {
        if let Some(known) = self.known.get(kind) {
            return *known;
        }
        if kind == TUN {
            return has_tun();
        }
        let is_harmless = MAKES_LINKS.iter().all(|(name, module)| *name != kind || needs_no_loading(module));
        let known = match &mut self.netns {
            Some(netns) if is_harmless => netns.knows_kind(kind).unwrap_or(true),
            _ if !is_harmless => is_module_there(kind),
            _ => true,
        };
        self.known.insert(kind, known);
        known
    }
}

/// Whether the kernel can make tun and tap interfaces. It makes them when a process opens a device, and not over netlink.
fn has_tun() -> bool {
    Path::new("/sys/class/misc/tun").exists() || Path::new("/proc/modules").exists() && is_module_there(TUN)
}

/// Whether trying a module's kind loads nothing: the kernel cannot load modules, or has loaded this one already.
fn needs_no_loading(module: &str) -> bool {
    !Path::new("/proc/modules").exists() || Path::new("/sys/module").join(module).exists()
}

/// Whether there is a module for a kind among those of the running kernel. True if the modules are not visible here.
fn is_module_there(kind: &str) -> bool {
    let module = MAKES_LINKS.iter().find(|(name, _)| *name == kind).map_or(kind, |(_, module)| module);
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let directory = Path::new("/lib/modules").join(release.trim());
    let lists = ["modules.dep", "modules.builtin"].map(|name| std::fs::read_to_string(directory.join(name)));
    let [Ok(loadable), Ok(built_in)] = lists else { return true };
    has_module(&loadable, module) || has_module(&built_in, module)
}

/// Whether a list of modules contains one. Its lines look like `kernel/drivers/net/ifb.ko.xz: …`.
fn has_module(list: &str, module: &str) -> bool {
    let paths = list.lines().filter_map(|line| line.split(':').next());
    let mut names = paths.filter_map(|path| path.rsplit('/').next()?.split(".ko").next());
    names.any(|name| name.replace('-', "_") == module)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(plugins: &str) -> NetworkConfig {
        format!(r#"{{"cniVersion":"1.0.0","name":"n","plugins":[{plugins}]}}"#).parse().unwrap()
    }

    fn configuration(plugins: &str) -> Vec<Configuration> {
        let file = PathBuf::from("/etc/cni/net.d/10-n.conflist");
        vec![Configuration { file, network: network(plugins), braids: Vec::new(), delegates: Vec::new() }]
    }

    fn names(missing: &Missing) -> Vec<(&str, &str)> {
        missing.keys().map(|requirement| (requirement.name.as_str(), requirement.plugin.as_str())).collect()
    }

    #[test]
    fn a_plugin_needs_the_program_of_its_backend() {
        let attached = Attached::default();
        let needed = |plugins: &str, there: &'static [&'static str]| {
            let configurations = configuration(plugins);
            let used = UsedPlugins::of(&configurations, &attached, "/opt/cni/bin");
            let missing = used.missing_programs(&|program| there.contains(&program));
            names(&missing).into_iter().map(|(what, plugin)| format!("{plugin}: {what}")).collect::<Vec<_>>().join("; ")
        };
        assert_eq!(needed(r#"{"type":"portmap"}"#, &[]), "portmap: iptables or nft");
        assert_eq!(needed(r#"{"type":"portmap"}"#, &["nft"]), "");
        assert_eq!(needed(r#"{"type":"portmap","backend":"iptables"}"#, &["nft"]), "portmap: iptables");
        assert_eq!(needed(r#"{"type":"firewall"}"#, &["nft"]), "firewall: iptables");
        assert_eq!(needed(r#"{"type":"firewall","backend":"firewalld"}"#, &[]), "");
        assert_eq!(needed(r#"{"type":"bridge"}"#, &[]), "");
        assert_eq!(needed(r#"{"type":"bridge","ipMasq":true}"#, &["iptables"]), "");
        assert_eq!(needed(r#"{"type":"ptp","ipMasq":true,"ipMasqBackend":"nftables"}"#, &["iptables"]), "ptp: nft");
    }

    #[test]
    fn a_plugin_needs_the_kind_of_links_that_it_makes() {
        let configurations = configuration(r#"{"type":"bridge"},{"type":"bandwidth"},{"type":"ipvlan"}"#);
        let attached = Attached::default();
        let used = UsedPlugins::of(&configurations, &attached, "");
        let missing = used.missing_kinds(&mut |kind| kind != "ifb" && kind != "ipvlan");
        assert_eq!(names(&missing), [("ifb", "bandwidth"), ("ipvlan", "ipvlan")]);
        assert_eq!(missing.values().next().unwrap(), &["10-n.conflist"]);
    }

    #[test]
    fn a_plugin_and_its_ipam_plugin_are_looked_for() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/bin/sh", dir.path().join("bridge")).unwrap();
        let finder = Finder::new(dir.path().to_str().unwrap());
        let configurations = configuration(r#"{"type":"bridge","ipam":{"type":"host-local"}},{"type":"tuning"}"#);
        let attached = Attached::default();
        let missing = UsedPlugins::of(&configurations, &attached, finder.path()).missing_plugins(&finder);
        assert_eq!(names(&missing), [("host-local", ""), ("tuning", "")]);
    }

    #[test]
    fn modules_are_found_in_lists_whatever_their_compression() {
        let list = "kernel/drivers/net/ifb.ko.xz: kernel/x/y.ko\nkernel/drivers/net/bonding/bonding.ko.zst:\n\
            kernel/drivers/net/dummy-x.ko\n";
        assert!(has_module(list, "ifb") && has_module(list, "bonding") && has_module(list, "dummy_x"));
        assert!(!has_module(list, "y") && !has_module(list, "dummy"));
    }
}
