//! Configurations of networks: for the recording plugin, and for the reference plugins.

use std::env;
use std::path::{Path, PathBuf};

use indexmap::IndexMap;
use serde_json::{Map, Value, json};

/// A JSON object that can be written by hand, if a `Value` would not keep the spelling.
pub(crate) trait Json {
    fn into_json(self) -> String;
}

impl Json for Value {
    fn into_json(self) -> String {
        self.to_string()
    }
}

impl Json for &str {
    fn into_json(self) -> String {
        self.to_owned()
    }
}

/// Writes members, each with the text of its value, as a JSON object.
pub(crate) fn object(members: &IndexMap<String, String>) -> String {
    let members: Vec<_> = members.iter().map(|(key, value)| format!("{}:{value}", json!(key))).collect();
    format!("{{{}}}", members.join(","))
}

/// A plugin configuration.
#[derive(Clone)]
pub(crate) struct Plugin {
    members: IndexMap<String, String>,
    instructions: Map<String, Value>,
}

impl Plugin {
    /// A configuration at CNI 1.0.0 of this name and type.
    pub(crate) fn new(name: &str, kind: &str) -> Self {
        let plugin = Self { members: IndexMap::new(), instructions: Map::new() };
        plugin.version("1.0.0").key("name", name).key("type", kind)
    }

    pub(crate) fn version(self, version: &str) -> Self {
        self.key("cniVersion", version)
    }

    pub(crate) fn key(self, key: &str, value: impl Into<Value>) -> Self {
        self.raw(key, &value.into().to_string())
    }

    /// A member with the exact text of its value.
    pub(crate) fn raw(mut self, key: &str, text: &str) -> Self {
        self.members.insert(key.to_owned(), text.to_owned());
        self
    }

    pub(crate) fn without(mut self, key: &str) -> Self {
        self.members.shift_remove(key);
        self
    }

    /// An instruction for the recording plugin (see `recorder.rs`).
    pub(crate) fn instructed(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.instructions.insert(key.to_owned(), value.into());
        self
    }

    /// The recording plugin fails this command with a code of its own and the message `<type> refuses <command>`.
    pub(crate) fn failing(mut self, command: &str, code: u32) -> Self {
        let kind = self.members["type"].trim_matches('"').to_owned();
        let fail = self.instructions.entry("fail").or_insert_with(|| json!({}));
        fail[command] = json!({"code": code, "msg": format!("{kind} refuses {command}")});
        self
    }

    /// The recording plugin answers ADD with this address.
    pub(crate) fn ip(self, address: &str) -> Self {
        self.instructed("ip", address)
    }

    /// The recording plugin also makes its interface.
    pub(crate) fn link(self) -> Self {
        self.instructed("link", true)
    }

    pub(crate) fn value(self) -> Value {
        serde_json::from_str(&self.into_json()).expect("a JSON object")
    }
}

impl Json for Plugin {
    fn into_json(mut self) -> String {
        if !self.instructions.is_empty() {
            self.members.insert("recorder".to_owned(), Value::from(self.instructions).to_string());
        }
        object(&self.members)
    }
}

/// A network configuration list.
#[derive(Clone)]
pub(crate) struct Network {
    members: IndexMap<String, String>,
    plugins: Vec<String>,
}

impl Network {
    /// A list at CNI 1.0.0 of this name.
    pub(crate) fn new(name: &str) -> Self {
        let network = Self { members: IndexMap::new(), plugins: Vec::new() };
        network.version("1.0.0").key("name", name)
    }

    pub(crate) fn version(self, version: &str) -> Self {
        self.key("cniVersion", version)
    }

    pub(crate) fn key(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.members.insert(key.to_owned(), value.into().to_string());
        self
    }

    /// Adds a plugin to the chain. Its name and version are the list's.
    pub(crate) fn plugin(mut self, plugin: Plugin) -> Self {
        self.plugins.push(plugin.without("cniVersion").without("name").into_json());
        self
    }
}

impl Json for Network {
    fn into_json(mut self) -> String {
        self.members.insert("plugins".to_owned(), format!("[{}]", self.plugins.join(",")));
        object(&self.members)
    }
}

/// The recording plugin under one of its names, `alpha` to `theta`; the network is `net-<name>`.
pub(crate) fn recorder(kind: &str) -> Plugin {
    Plugin::new(&format!("net-{kind}"), kind)
}

/// host-local with an address from each subnet. Its reservations are in the test's own folder (`@DIR@`, see `Case`).
pub(crate) fn host_local(subnets: &[&str]) -> Value {
    let ranges: Vec<_> = subnets.iter().map(|subnet| json!([{"subnet": subnet}])).collect();
    json!({"type": "host-local", "dataDir": "@DIR@/ipam", "ranges": ranges})
}

/// A bridge that is the network's gateway; the network is `net-<bridge>`.
pub(crate) fn bridge(bridge: &str, subnet: &str) -> Plugin {
    Plugin::new(&format!("net-{bridge}"), "bridge")
        .key("bridge", bridge)
        .key("isGateway", true)
        .key("ipMasq", true)
        .key("ipam", host_local(&[subnet]))
}

/// A macvlan on a link of the host; the network is `net-<parent>`.
pub(crate) fn macvlan(parent: &str, subnet: &str) -> Plugin {
    Plugin::new(&format!("net-{parent}"), "macvlan")
        .key("master", parent)
        .key("mode", "bridge")
        .key("ipam", host_local(&[subnet]))
}

/// A point-to-point link to the host; the network is `net-ptp`.
pub(crate) fn ptp(subnet: &str) -> Plugin {
    Plugin::new("net-ptp", "ptp").key("ipam", host_local(&[subnet]))
}

pub(crate) fn bandwidth() -> Plugin {
    let plugin = Plugin::new("net-bandwidth", "bandwidth");
    ["ingressRate", "ingressBurst", "egressRate", "egressBurst"]
        .iter()
        .fold(plugin, |plugin, key| plugin.key(key, 8_000_000))
}

pub(crate) fn firewall() -> Plugin {
    Plugin::new("net-firewall", "firewall").key("backend", "iptables")
}

pub(crate) fn portmap() -> Plugin {
    Plugin::new("net-portmap", "portmap").key("capabilities", json!({"portMappings": true})).key("snat", true)
}

pub(crate) fn tuning() -> Plugin {
    Plugin::new("net-tuning", "tuning").key("dataDir", "@DIR@/tuning").key("mtu", 1400)
}

/// The folder of the reference plugins.
pub(crate) fn reference_plugins() -> PathBuf {
    let places = ["/usr/lib/cni", "/opt/cni/bin"];
    first_with_bridge("BRAID_TEST_CNI_PATH", &places)
        .expect("the reference plugins: install containernetworking-plugins, or say where in BRAID_TEST_CNI_PATH")
}

/// The folder of reference plugins that support CNI 1.1.0, if the machine has it.
pub(crate) fn new_plugins() -> Option<PathBuf> {
    first_with_bridge("BRAID_TEST_CNI_PATH_NEW", &["/opt/cni-1.9/bin"])
}

fn first_with_bridge(variable: &str, places: &[&str]) -> Option<PathBuf> {
    let mut places: Vec<_> = places.iter().map(PathBuf::from).collect();
    if let Some(place) = env::var_os(variable) {
        places.insert(0, place.into());
    }
    places.into_iter().find(|place| Path::join(place, "bridge").is_file())
}
