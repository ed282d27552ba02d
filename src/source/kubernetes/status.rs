//! What is written about a pod after it was attached: the `network-status` annotation and events.

use std::borrow::Cow;
use std::collections::BTreeSet;

use indexmap::IndexMap;
use serde::Serialize;
use serde_json::value::RawValue;

use crate::cni::AddResult;
use crate::cni::result::{ContainerInterface, Dns, Route};
use crate::source::device::AllocatedDevice;

/// One entry of the annotation: an interface in the pod (NPWG specification, §5.2).
#[derive(Debug, Serialize)]
struct Entry<'a> {
    name: &'a str,
    interface: &'a str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ips: Vec<String>,
    #[serde(skip_serializing_if = "str::is_empty")]
    mac: &'a str,
    #[serde(skip_serializing_if = "is_zero")]
    mtu: u32,
    default: bool,
    dns: &'a Dns,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    gateway: Vec<String>,
    #[serde(rename = "device-info", skip_serializing_if = "Option::is_none")]
    device_info: Option<Box<RawValue>>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature serde asks for")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// An attachment of a pod: one network on one interface.
#[derive(Debug)]
pub struct Attached<'a> {
    /// The network, as `namespace/name` or by its plain name.
    pub network: &'a str,
    /// The interface that was asked for.
    pub ifname: &'a str,
    /// What the network's plugins answered.
    pub result: &'a AddResult,
    /// The description of its device (NPWG device information specification).
    pub device_info: Option<Box<RawValue>>,
}

/// A device of a resource claim, and the result of its attachment.
#[derive(Debug)]
pub struct Claimed {
    /// The device.
    pub device: AllocatedDevice,
    /// The interface that was asked for.
    pub ifname: String,
    /// The result of the network's plugins. `None` if it is not attached, or no longer attached.
    pub result: Option<AddResult>,
}

/// The entries of a pod's attachments, each with its network and its interface, in order: the part of the annotation that belongs
/// to one container.
#[derive(Debug, Clone, Default)]
pub struct NetworkEntries(IndexMap<(String, String), Box<RawValue>>);

impl NetworkEntries {
    /// The entries of attachments, in a pod whose namespace is at `netns`. `has_default` says whether the first attachment is the
    /// pod's default network.
    pub fn new(netns: &str, attached: &[Attached<'_>], has_default: bool) -> Self {
        let entries = entries(netns, attached, has_default);
        let entries = entries.iter().map(|entry| {
            let key = (entry.name.to_owned(), entry.interface.to_owned());
            (key, indented(&serde_json::to_string_pretty(entry).unwrap_or_default()))
        });
        Self(entries.collect())
    }

    /// Whether these say the same.
    pub fn is_same(&self, other: &Self) -> bool {
        self.0.len() == other.0.len()
            && self.0.iter().all(|(key, entry)| other.0.get(key).is_some_and(|other| other.get() == entry.get()))
    }
}

impl NetworkEntries {
    /// Whether the annotation has all of them, and none of those that are `gone`.
    pub fn are_in(&self, annotation: &str, gone: impl Fn(&str, &str) -> bool) -> bool {
        let entries: Vec<&RawValue> = serde_json::from_str(annotation).unwrap_or_default();
        let keys: BTreeSet<(String, String)> = entries.iter().filter_map(|entry| key_of(entry)).collect();
        self.0.keys().all(|key| keys.contains(key))
            && keys.iter().all(|key| self.0.contains_key(key) || !gone(&key.0, &key.1))
    }
}

/// The interfaces in the annotation.
pub fn interfaces_in(annotation: &str) -> Vec<String> {
    let entries: Vec<&RawValue> = serde_json::from_str(annotation).unwrap_or_default();
    entries.into_iter().filter_map(key_of).map(|(_, interface)| interface).collect()
}

/// The network and the interface of an entry.
fn key_of(entry: &RawValue) -> Option<(String, String)> {
    #[derive(serde::Deserialize)]
    struct Key<'a> {
        #[serde(borrow, default)]
        name: Cow<'a, str>,
        #[serde(borrow, default)]
        interface: Cow<'a, str>,
    }
    let Key { name, interface } = serde_json::from_str(entry.get()).ok()?;
    Some((name.into_owned(), interface.into_owned()))
}

/// An entry as it stands in the annotation.
fn indented(entry: &str) -> Box<RawValue> {
    RawValue::from_string(entry.replace('\n', "\n  ")).unwrap_or_else(|_| RawValue::NULL.to_owned())
}

/// The `network-status` annotation: an entry for each interface in the pod, and at least one for each attachment. Exactly one
/// entry, of the first attachment, is the default. The pod's namespace is at `netns`.
///
/// # Panics
/// Never: what is written is plain data.
pub fn network_status(netns: &str, attached: &[Attached<'_>]) -> String {
    serde_json::to_string_pretty(&entries(netns, attached, true)).expect("plain data serialises")
}

fn entries<'a>(netns: &str, attached: &[Attached<'a>], has_default: bool) -> Vec<Entry<'a>> {
    let mut entries: Vec<Entry<'_>> = attached.iter().flat_map(|one| entries_of(one, netns)).collect();
    // A plugin may list other interfaces in the pod before the requested one.
    let primary = attached.first().map(|one| (one.network, one.ifname));
    let default = entries.iter().position(|entry| Some((entry.name, entry.interface)) == primary).unwrap_or(0);
    if let Some(entry) = entries.get_mut(default).filter(|_| has_default) {
        entry.default = true;
    }
    entries
}

/// The annotation after a change. `now` is its current value, `before` and `after` are the attachments of the changed container,
/// and `gone` says for a network and an interface whether they belong to an attachment that no longer exists. Entries that the
/// change does not concern, including those of others, keep their exact text and order.
///
/// # Panics
/// Never: what is written is plain data.
pub fn changed_network_status(
    now: &str,
    before: &NetworkEntries,
    after: &NetworkEntries,
    gone: impl Fn(&str, &str) -> bool,
) -> String {
    let now: Vec<&RawValue> = serde_json::from_str(now).unwrap_or_default();
    let mut written = BTreeSet::new();
    let mut entries: Vec<&RawValue> = Vec::new();
    for entry in now {
        let Some(key) = key_of(entry) else {
            entries.push(entry);
            continue;
        };
        match (before.0.get(&key), after.0.get(&key)) {
            (Some(old), Some(new)) if old.get() == new.get() => entries.push(entry),
            (_, Some(new)) => entries.push(new),
            (Some(_), None) => {}
            (None, None) if gone(&key.0, &key.1) => {}
            (None, None) => entries.push(entry),
        }
        written.insert(key);
    }
    entries.extend(after.0.iter().filter(|(key, _)| !written.contains(*key)).map(|(_, entry)| &**entry));
    serde_json::to_string_pretty(&entries).expect("plain data serialises")
}

/// The entries of one attachment. The gateways are in the first entry with the requested name, or else in the first entry.
fn entries_of<'a>(attached: &Attached<'a>, netns: &str) -> Vec<Entry<'a>> {
    let Attached { network, ifname, result, ref device_info } = *attached;
    let interfaces = result.in_container(netns, ifname);
    let main = interfaces.iter().position(|interface| interface.name == ifname).unwrap_or(0);
    let entry = |(index, interface): (usize, ContainerInterface<'a>)| Entry {
        name: network,
        interface: interface.name,
        ips: interface.ips.iter().map(|ip| ip.address.addr().to_string()).collect(),
        mac: interface.listed.map_or("", |listed| &listed.mac),
        mtu: interface.listed.map_or(0, |listed| listed.mtu),
        default: false,
        dns: &result.dns,
        gateway: if index == main { gateways(result) } else { Vec::new() },
        device_info: device_info.clone(),
    };
    interfaces.into_iter().enumerate().map(entry).collect()
}

/// The gateways of the default routes. A route without a gateway uses the one of its subnet.
fn gateways(result: &AddResult) -> Vec<String> {
    let mut gateways = Vec::new();
    let through = |route: &Route| {
        let of_family = |gateway: &std::net::IpAddr| gateway.is_ipv4() == route.dst.addr().is_ipv4();
        route.gw.or_else(|| result.ips.iter().filter_map(|ip| ip.gateway).find(of_family))
    };
    for gateway in result.routes.iter().filter(|route| route.is_default()).filter_map(through) {
        let gateway = gateway.to_string();
        if !gateways.contains(&gateway) {
            gateways.push(gateway);
        }
    }
    gateways
}

/// An event about a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// What happened, as one word for programs.
    pub reason: &'static str,
    /// The same in a line for people.
    pub message: String,
    /// Whether it reports a problem.
    pub is_warning: bool,
    /// Whether it is said once, however often it is found: an event that says the same is there for as long as the API server
    /// keeps events.
    pub is_said_once: bool,
}

impl Notice {
    /// The event of an attachment.
    pub fn attached(network: &str, ifname: &str, result: &AddResult) -> Self {
        let ips: Vec<String> = result.ips.iter().map(|ip| ip.address.to_string()).collect();
        Self::attached_with(network, ifname, &ips)
    }

    /// The event for an attachment with these addresses.
    pub fn attached_with(network: &str, ifname: &str, ips: &[String]) -> Self {
        let message = format!("Add {ifname} [{}] from {network}", ips.join(" "));
        Self { reason: "AddedInterface", message, is_warning: false, is_said_once: false }
    }

    /// The event for an attachment that was removed.
    pub fn detached(network: &str, ifname: &str) -> Self {
        let message = format!("Remove {ifname} from {network}");
        Self { reason: "RemovedInterface", message, is_warning: false, is_said_once: false }
    }

    /// The event for an attachment that could not be made.
    pub fn not_attached(network: &str, ifname: &str, reason: &str) -> Self {
        let message = format!("Failed to add {}: {reason}", interface_of(network, ifname));
        Self { reason: "FailedAddingInterface", message: bounded(message), is_warning: true, is_said_once: false }
    }

    /// The event for an attachment that could not be undone.
    pub fn not_detached(network: &str, ifname: &str, reason: &str) -> Self {
        let message = format!("Failed to remove {}: {reason}", interface_of(network, ifname));
        Self { reason: "FailedRemovingInterface", message: bounded(message), is_warning: true, is_said_once: false }
    }
}

fn interface_of(network: &str, ifname: &str) -> String {
    match (network, ifname) {
        ("", "") => "networks".to_owned(),
        (network, "") => format!("an interface from {network}"),
        (network, ifname) => format!("{ifname} from {network}"),
    }
}

/// An API server accepts a message of up to 1024 bytes.
fn bounded(mut message: String) -> String {
    const MOST: usize = 1024;
    if message.len() > MOST {
        let end = (0..=MOST - '…'.len_utf8()).rev().find(|at| message.is_char_boundary(*at)).unwrap_or(0);
        message.truncate(end);
        message.push('…');
    }
    message
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::cni::Version;

    fn result(json: &str) -> AddResult {
        AddResult::parse(json.as_bytes(), Version::V1_0_0).unwrap()
    }

    /// The status of attachments on `eth0` and `net1`.
    fn status(first: &AddResult, second: &AddResult) -> serde_json::Value {
        let attached = |network, ifname, result| Attached { network, ifname, result, device_info: None };
        let both = [attached("first", "eth0", first), attached("ns/second", "net1", second)];
        serde_json::from_str(&network_status("/n", &both)).unwrap()
    }

    #[test]
    fn an_entry_for_each_interface_in_the_pod_and_one_default() {
        let first = r#"{"interfaces": [{"name": "veth1"}, {"name": "extra", "sandbox": "/n"},
            {"name": "eth0", "sandbox": "/n", "mac": "02:00:00:00:00:01", "mtu": 1450}],
            "ips": [{"address": "10.0.0.5/24", "gateway": "10.0.0.1", "interface": 2}, {"address": "fd00::5/64"}],
            "routes": [{"dst": "0.0.0.0/0"}, {"dst": "10.9.0.0/16", "gw": "10.0.0.2"}], "dns": {"nameservers": ["10.0.0.9"]}}"#;
        let second = r#"{"interfaces": [{"name": "host-only"}], "ips": []}"#;
        let status = status(&result(first), &result(second));
        let dns = serde_json::json!({"nameservers": ["10.0.0.9"]});
        let expected = serde_json::json!([
            {"name": "first", "interface": "extra", "default": false, "dns": dns},
            {"name": "first", "interface": "eth0", "ips": ["10.0.0.5", "fd00::5"], "mac": "02:00:00:00:00:01",
                "mtu": 1450, "default": true, "dns": dns, "gateway": ["10.0.0.1"]},
            {"name": "ns/second", "interface": "net1", "default": false, "dns": {}},
        ]);
        assert_eq!(status, expected);
    }

    #[test]
    fn what_a_change_does_not_concern_stays_word_for_word() {
        let result = |ip: &str| {
            result(&format!(
                r#"{{"interfaces": [{{"name": "i", "sandbox": "/n"}}], "ips": [{{"address": "{ip}/24", "interface": 0}}]}}"#
            ))
        };
        let [one, two, other] = ["10.0.0.1", "10.0.0.2", "10.0.0.3"].map(result);
        let attached = |network, ifname, result| Attached { network, ifname, result, device_info: None };
        let entries = |attached: &[Attached<'_>]| NetworkEntries::new("/n", attached, true);
        let before = [attached("a", "i", &one), attached("b", "i", &two), attached("c", "i", &one)];
        let now = network_status("/n", &before).replace("\"a\",", "\"a\",  \"x\": 1, ");
        let after = [attached("a", "i", &one), attached("c", "i", &other), attached("d", "i", &two)];
        let kept = now.split_once("  },").unwrap().0;

        let changed = changed_network_status(&now, &entries(&before), &entries(&after), |_, _| false);
        assert!(changed.starts_with(kept), "{changed}");
        let read: serde_json::Value = serde_json::from_str(&changed).unwrap();
        let names: Vec<_> = read.as_array().unwrap().iter().map(|one| (&one["name"], &one["ips"][0])).collect();
        let expected = [("a", "10.0.0.1"), ("c", "10.0.0.3"), ("d", "10.0.0.2")];
        assert_eq!(format!("{names:?}"), format!("{:?}", expected.map(|(name, ip)| (json!(name), json!(ip)))));
        assert_eq!(changed.replace("  \"x\": 1, ", ""), network_status("/n", &after), "formatted as ADD does");

        let with_others = changed.replace("\"c\"", "\"others\"");
        let changed =
            changed_network_status(&with_others, &entries(&before), &entries(&after[..1]), |name, _| name == "d");
        assert_eq!(changed.matches("\"name\"").count(), 2, "a and others: {changed}");
        let whole = changed_network_status("", &NetworkEntries::default(), &entries(&before), |_, _| false);
        assert_eq!(whole, network_status("/n", &before));
    }

    /// Calico, older AWS VPC plugins and others answer like this.
    #[test]
    fn an_attachment_has_an_entry_whatever_its_plugin_says_of_interfaces() {
        let address = |index: &str| format!(r#""ips": [{{"address": "10.0.0.5/32"{index}}}]"#);
        let at = r#", "interface": 0"#;
        for (interfaces, index) in [
            ("", ""),
            (r#"{"name": "cali1"}"#, ""),
            (r#"{"name": "cali1"}"#, at),
            (r#"{"name": "eni1"}, {"name": "eni2"}"#, at),
            (r#"{"name": "eni1"}, {"name": "dummy1", "sandbox": "0", "mac": "7"}"#, r#", "interface": 1"#),
        ] {
            let host_only = result(&format!(r#"{{"interfaces": [{interfaces}], {}}}"#, address(index)));
            let status = status(&host_only, &host_only);
            let expected = serde_json::json!([
                {"name": "first", "interface": "eth0", "ips": ["10.0.0.5"], "default": true, "dns": {}},
                {"name": "ns/second", "interface": "net1", "ips": ["10.0.0.5"], "default": false, "dns": {}},
            ]);
            assert_eq!(status, expected, "{interfaces} {index}");
        }
    }
}
