//! Everything that a call could leave on a host, to be compared before and after.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use serde_json::Value;

use super::Namespace;

/// The state of a host, one readable line for each thing: links, addresses, routes, rules, qdiscs, packet filters,
/// processes in its namespaces, and files.
///
/// It does not contain what the kernel makes at any time: link-local addresses and their routes, and the entries of the local table
/// for every address, which is compared itself. Nor does it contain what the reference plugins leave by design: bridges with
/// everything that belongs to them, the packet filters' fixed chains, and the book-keeping of host-local. Named namespaces
/// are not compared either, because other tests make and remove theirs meanwhile.
#[derive(Debug, Default, Clone)]
pub(crate) struct Snapshot {
    lines: BTreeSet<Line>,
    bridges: BTreeSet<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Line {
    text: String,
    /// The host's link to which this line belongs.
    device: Option<String>,
}

/// What `iptables-save` still shows after the reference plugins' own ADD and DEL, with no container in it.
const FIXED_CHAINS: [&str; 5] =
    ["CNI-ADMIN", "CNI-FORWARD", "CNI-HOSTPORT-DNAT", "CNI-HOSTPORT-MASQ", "CNI-HOSTPORT-SETMARK"];

impl Snapshot {
    /// Takes a snapshot of a host, its container's namespace and a folder with all files that a call may write.
    pub(crate) fn take(host: &Namespace, pod: &Namespace, folders: &[&Path]) -> Self {
        let mut snapshot = Self::default();
        snapshot.namespace("host", host);
        snapshot.namespace("pod", pod);
        snapshot.processes(&[host, pod]);
        for folder in folders {
            let name = folder.file_name().expect("a folder with a name").to_string_lossy();
            snapshot.files(&name, folder, 0);
        }
        snapshot
    }

    /// What has appeared (`+`) and disappeared (`-`) since an earlier snapshot, one line each. Empty if nothing has changed.
    pub(crate) fn since(&self, earlier: &Self) -> String {
        let by_design = |line: &&Line| {
            let new_bridge = |device| self.bridges.contains(device) && !earlier.bridges.contains(device);
            line.device.as_ref().is_some_and(new_bridge)
        };
        let mut changes = String::new();
        for line in self.lines.difference(&earlier.lines).filter(|line| !by_design(line)) {
            writeln!(changes, "+ {}", line.text).expect("write to a string");
        }
        for line in earlier.lines.difference(&self.lines) {
            writeln!(changes, "- {}", line.text).expect("write to a string");
        }
        changes
    }

    fn push(&mut self, text: String) {
        self.lines.insert(Line { text, device: None });
    }

    fn push_on(&mut self, place: &str, device: &str, text: &str) {
        let device = (place == "host").then(|| device.to_owned());
        self.lines.insert(Line { text: format!("{place}: {text}"), device });
    }

    fn namespace(&mut self, place: &str, namespace: &Namespace) {
        for link in namespace.ip_json("-d link") {
            self.link(place, &link);
        }
        for link in namespace.ip_json("addr") {
            let device = word(&link, "ifname");
            for address in link["addr_info"].as_array().into_iter().flatten() {
                let local = word(address, "local");
                if !local.starts_with("fe80:") {
                    let text = format!("address {device} {local}/{}", word(address, "prefixlen"));
                    self.push_on(place, &device, &text);
                }
            }
        }
        for family in ["-4", "-6"] {
            for route in namespace.ip_json(&format!("{family} route show table all")) {
                self.route(place, &route);
            }
            for rule in namespace.ip_json(&format!("{family} rule")) {
                self.push(format!("{place}: rule {family} {}", compact_members(&rule, &[])));
            }
        }
        let qdiscs: Vec<Value> = serde_json::from_str(&namespace.run("tc -j qdisc")).expect("tc -j prints a list");
        for qdisc in qdiscs {
            let device = word(&qdisc, "dev");
            let text = format!("qdisc {device} {} {}", word(&qdisc, "kind"), word(&qdisc, "handle"));
            self.push_on(place, &device, &text);
        }
        self.packet_filters(place, namespace);
    }

    fn link(&mut self, place: &str, link: &Value) {
        let (name, kind) = (word(link, "ifname"), word(&link["linkinfo"], "info_kind"));
        let mut text = format!("link {name}");
        for (label, value) in [("kind", kind.clone()), ("master", word(link, "master")), ("mtu", word(link, "mtu"))] {
            if !value.is_empty() {
                write!(text, " {label} {value}").expect("write to a string");
            }
        }
        if kind == "bridge" && place == "host" {
            // A bridge has the lowest hardware address of its ports, which changes with them.
            self.bridges.insert(name.clone());
        } else {
            write!(text, " mac {}", word(link, "address")).expect("write to a string");
        }
        let up = link["flags"].as_array().is_some_and(|flags| flags.contains(&"UP".into()));
        text.push_str(if up { " up" } else { " down" });
        self.push_on(place, &name, &text);
    }

    fn route(&mut self, place: &str, route: &Value) {
        let destination = word(route, "dst");
        let is_from_an_address = word(route, "table") == "local";
        if destination.starts_with("fe80:") || destination.starts_with("ff00:") || is_from_an_address {
            return;
        }
        let mut text = String::from("route");
        for key in ["type", "dst", "gateway", "dev", "table", "metric", "scope", "prefsrc", "nexthops"] {
            let value = word(route, key);
            if !value.is_empty() {
                write!(text, " {key} {value}").expect("write to a string");
            }
        }
        self.push_on(place, &word(route, "dev"), &text);
    }

    fn packet_filters(&mut self, place: &str, namespace: &Namespace) {
        let ruleset: Value =
            serde_json::from_str(&namespace.run("nft -j list ruleset")).expect("nft -j prints an object");
        for object in ruleset["nftables"].as_array().expect("a list of objects") {
            let (kind, body) = object.as_object().and_then(|object| object.iter().next()).expect("an object");
            let table = word(body, if kind == "table" { "name" } else { "table" });
            // The rules of iptables in nftables are compared below, as iptables prints them. Tables and chains without a rule or an
            // element do nothing, and those of the plugins stay by design, with the jumps between them.
            let iptables = ["filter", "nat", "mangle", "raw", "security"].contains(&table.as_str());
            let empty = ["metainfo", "table", "chain"].contains(&kind.as_str());
            let last = body["expr"].as_array().and_then(|expressions| expressions.last()).unwrap_or(&Value::Null);
            let leads_on = ["jump", "goto", "return"].iter().any(|verdict| last.get(verdict).is_some());
            let by_design = leads_on && table.starts_with("cni_");
            if !(iptables || empty || by_design) {
                self.push(format!("{place}: nft {kind} {}", compact_members(body, &["handle", "packets", "bytes"])));
            }
        }
        for program in ["iptables-save", "ip6tables-save"] {
            for line in namespace.run(program).lines() {
                if line.starts_with("-A ") && !is_fixed_rule(line) {
                    self.push(format!("{place}: {program} {line}"));
                } else if let Some((chain, "- [0:0]")) = line.strip_prefix(':').and_then(|line| line.split_once(' '))
                    && !FIXED_CHAINS.contains(&chain)
                {
                    self.push(format!("{place}: {program} chain {chain}"));
                }
            }
        }
    }

    fn processes(&mut self, namespaces: &[&Namespace]) {
        let inodes: Vec<_> = namespaces.iter().map(|namespace| namespace.inode()).collect();
        for entry in fs::read_dir("/proc").expect("/proc").flatten() {
            let process = entry.path();
            // A process may exit meanwhile, and a zombie holds nothing.
            let inside = fs::metadata(process.join("ns/net")).is_ok_and(|ns| inodes.contains(&ns.ino()));
            let status = fs::read_to_string(process.join("status")).unwrap_or_default();
            if inside && !status.contains("State:\tZ") {
                let command = fs::read(process.join("cmdline")).unwrap_or_default();
                let command = String::from_utf8_lossy(&command).replace('\0', " ");
                self.push(format!("process {} {}", entry.file_name().to_string_lossy(), command.trim()));
            }
        }
    }

    fn files(&mut self, name: &str, folder: &Path, depth: u32) {
        let Ok(entries) = fs::read_dir(folder) else {
            return;
        };
        for entry in entries.flatten() {
            let path = format!("{name}/{}", entry.file_name().to_string_lossy());
            if entry.path().is_dir() {
                // The first level is the layout of a state folder, or host-local's folder of a network.
                if depth > 0 {
                    self.push(format!("folder {path}"));
                }
                self.files(&path, &entry.path(), depth + 1);
            } else if !is_book_keeping(&path) {
                self.push(format!("file {path}"));
            }
        }
    }
}

/// Locks of a whole folder, and the last address of host-local. A container's own lock is not one of them.
fn is_book_keeping(path: &str) -> bool {
    let (name, depth) = (path.rsplit('/').next().expect("a name"), path.split('/').count());
    let is_lock = name == "lock" || name.rsplit_once('.').is_some_and(|(_, extension)| extension == "lock");
    name.starts_with("last_reserved_ip.") || is_lock && depth == 2 || name == "lock" && depth == 3
}

/// The rules of the reference plugins' fixed chains and the jumps to them: they are kept once made, and no container is in them.
fn is_fixed_rule(rule: &str) -> bool {
    let mut words = rule.split_whitespace();
    let chain = words.nth(1).expect("the chain of a rule");
    let target = words.skip_while(|word| *word != "-j").nth(1).unwrap_or_default();
    let holds_jumps = ["FORWARD", "PREROUTING", "OUTPUT", "POSTROUTING", "CNI-FORWARD"].contains(&chain);
    holds_jumps && FIXED_CHAINS.contains(&target)
        || chain == "CNI-HOSTPORT-MASQ" && target == "MASQUERADE"
        || chain == "CNI-HOSTPORT-SETMARK" && target == "MARK"
}

/// A member as a word: a string without quotes, nothing if it is missing, anything else as JSON.
fn word(object: &Value, key: &str) -> String {
    match &object[key] {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// An object as text, without some members at any depth.
fn compact_members(object: &Value, without: &[&str]) -> String {
    fn strip(value: &mut Value, without: &[&str]) {
        match value {
            Value::Object(members) => {
                members.retain(|key, _| !without.contains(&key.as_str()));
                members.values_mut().for_each(|member| strip(member, without));
            }
            Value::Array(items) => items.iter_mut().for_each(|item| strip(item, without)),
            _ => {}
        }
    }
    let mut object = object.clone();
    strip(&mut object, without);
    object.to_string()
}
