//! What is written about a pod once it is attached: the `network-status` annotation and events.

use serde::Serialize;
use serde_json::value::RawValue;

use crate::cni::AddResult;
use crate::cni::result::{ContainerInterface, Dns, Route};
use crate::plan::{Attachment, Plan};

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

/// The status of a pod's networks as the annotation holds it: an entry for each interface in the pod, at least one for each
/// attachment, and exactly one, the primary network's, is the default. `incoming` is the result of the plugin before Braid,
/// and `device_info` looks up what is known of an attachment's device.
///
/// # Panics
/// Never: what is written is plain data.
pub fn network_status(
    plan: &Plan,
    incoming: Option<&AddResult>,
    results: &[Option<AddResult>],
    device_info: impl Fn(&Attachment) -> Option<Box<RawValue>>,
) -> String {
    let mut entries = Vec::new();
    if let Some(result) = incoming {
        entries.extend(entries_of(&plan.network, &plan.netns, &plan.ifname, result));
    }
    for (attachment, result) in plan.attachments.iter().zip(results) {
        let Some(result) = result else { continue };
        let own = entries_of(&attachment.reference, &plan.netns, &attachment.ifname, result);
        let info = device_info(attachment);
        entries.extend(own.into_iter().map(|entry| Entry { device_info: info.clone(), ..entry }));
    }
    // The primary network's entries come first, and the first may be of another interface than the one that was asked for.
    let primary = entries.first().map(|entry| entry.name);
    let is_primary = |entry: &Entry<'_>| Some(entry.name) == primary && entry.interface == plan.ifname;
    let default = entries.iter().position(is_primary).unwrap_or(0);
    if let Some(entry) = entries.get_mut(default) {
        entry.default = true;
    }
    serde_json::to_string_pretty(&entries).expect("plain data serialises")
}

/// The entries of one attachment; the first of them that has the name that was asked for, or else the first, has the gateways.
fn entries_of<'a>(network: &'a str, netns: &str, ifname: &'a str, result: &'a AddResult) -> Vec<Entry<'a>> {
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
        device_info: None,
    };
    interfaces.into_iter().enumerate().map(entry).collect()
}

/// The gateways of the default routes. A route without one goes through its subnet's.
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

/// Something to tell about a pod in an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// What happened, as one word for programs.
    pub reason: &'static str,
    /// The same in a line for people.
    pub message: String,
    /// Whether it is about something that went wrong.
    pub is_warning: bool,
}

/// The events of a pod that is attached: one for each attachment.
pub fn notices(plan: &Plan, results: &[Option<AddResult>]) -> Vec<Notice> {
    let attached = plan.attachments.iter().zip(results).filter_map(|(a, result)| Some((a, result.as_ref()?)));
    attached
        .map(|(attachment, result)| {
            let ips: Vec<String> = result.ips.iter().map(|ip| ip.address.to_string()).collect();
            let message = format!("Add {} [{}] from {}", attachment.ifname, ips.join(" "), attachment.reference);
            Notice { reason: "AddedInterface", message, is_warning: false }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cni::Version;

    fn plan(position: &str) -> Plan {
        let attachment = |ifname: &str, reference: &str| {
            serde_json::json!({"ifname": ifname, "reference": reference, "origin": "test",
                "network": {"name": reference, "cniVersion": "1.0.0", "plugins": [{"type": "x"}]}})
        };
        let attachments = [attachment("eth0", "first"), attachment("net1", "ns/second")];
        let plan = serde_json::json!({"network": "outer", "cniVersion": "1.0.0", "containerID": "c", "netns": "/n",
            "ifname": "eth0", "path": "", "position": position, "attachments": attachments});
        serde_json::from_value(plan).unwrap()
    }

    fn result(json: &str) -> AddResult {
        AddResult::parse(json.as_bytes(), Version::V1_0_0).unwrap()
    }

    fn status(plan: &Plan, incoming: Option<&AddResult>, results: &[Option<AddResult>]) -> serde_json::Value {
        serde_json::from_str(&network_status(plan, incoming, results, |_| None)).unwrap()
    }

    #[test]
    fn an_entry_for_each_interface_in_the_pod_and_one_default() {
        let first = r#"{"interfaces": [{"name": "veth1"}, {"name": "extra", "sandbox": "/n"},
            {"name": "eth0", "sandbox": "/n", "mac": "02:00:00:00:00:01", "mtu": 1450}],
            "ips": [{"address": "10.0.0.5/24", "gateway": "10.0.0.1", "interface": 2}, {"address": "fd00::5/64"}],
            "routes": [{"dst": "0.0.0.0/0"}, {"dst": "10.9.0.0/16", "gw": "10.0.0.2"}], "dns": {"nameservers": ["10.0.0.9"]}}"#;
        let second = r#"{"interfaces": [{"name": "host-only"}], "ips": []}"#;
        let status = status(&plan("primary"), None, &[Some(result(first)), Some(result(second))]);
        let dns = serde_json::json!({"nameservers": ["10.0.0.9"]});
        let expected = serde_json::json!([
            {"name": "first", "interface": "extra", "default": false, "dns": dns},
            {"name": "first", "interface": "eth0", "ips": ["10.0.0.5", "fd00::5"], "mac": "02:00:00:00:00:01",
                "mtu": 1450, "default": true, "dns": dns, "gateway": ["10.0.0.1"]},
            {"name": "ns/second", "interface": "net1", "default": false, "dns": {}},
        ]);
        assert_eq!(status, expected);
    }

    /// As Calico, older AWS VPC plugins and others answer.
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
            let status = status(&plan("primary"), None, &[Some(host_only.clone()), Some(host_only)]);
            let expected = serde_json::json!([
                {"name": "first", "interface": "eth0", "ips": ["10.0.0.5"], "default": true, "dns": {}},
                {"name": "ns/second", "interface": "net1", "ips": ["10.0.0.5"], "default": false, "dns": {}},
            ]);
            assert_eq!(status, expected, "{interfaces} {index}");
        }
        let incoming = result(r#"{"interfaces": [{"name": "cali1"}], "ips": [{"address": "10.0.0.5/32"}]}"#);
        let status = status(&plan("chained"), Some(&incoming), &[Some(result("{}")), None]);
        let shown: Vec<_> = status.as_array().unwrap().iter().map(|e| (&e["interface"], &e["default"])).collect();
        assert_eq!(shown.len(), 2);
        assert_eq!(status[0]["default"], true);
        assert_eq!(status[1]["default"], false);
    }

    #[test]
    fn after_another_plugin_its_network_is_the_default() {
        let incoming = result(r#"{"interfaces": [{"name": "eth0", "sandbox": "/n"}]}"#);
        let own = result(r#"{"interfaces": [{"name": "net1", "sandbox": "/n"}]}"#);
        let status = status(&plan("chained"), Some(&incoming), &[None, Some(own)]);
        let shown: Vec<_> =
            status.as_array().unwrap().iter().map(|e| (e["name"].as_str(), e["default"].as_bool())).collect();
        assert_eq!(shown, [(Some("outer"), Some(true)), (Some("ns/second"), Some(false))]);
    }
}
