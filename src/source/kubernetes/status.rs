//! What is written about a pod's networks once they are there: the `network-status` annotation and events.

use serde::Serialize;
use serde_json::value::RawValue;

use crate::cni::AddResult;
use crate::cni::result::{Dns, Interface, Route};
use crate::plan::{Attachment, Plan, Position};

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

/// The status of a pod's networks as the annotation holds it: an entry for each interface in the pod, of which exactly
/// one, the primary network's, is the default. `incoming` is the result of the plugin before Braid, and `device_info`
/// looks up what is known of an attachment's device.
pub fn network_status(
    plan: &Plan,
    incoming: Option<&AddResult>,
    results: &[Option<AddResult>],
    device_info: impl Fn(&Attachment) -> Option<Box<RawValue>>,
) -> String {
    let mut entries = Vec::new();
    if let Some(result) = incoming {
        entries.extend(entries_of(plan, &plan.network, &plan.ifname, result));
    }
    for (attachment, result) in plan.attachments.iter().zip(results) {
        let Some(result) = result else { continue };
        let own = entries_of(plan, &attachment.reference, &attachment.ifname, result);
        let info = device_info(attachment);
        entries.extend(own.into_iter().map(|entry| Entry { device_info: info.clone(), ..entry }));
    }
    let primary = match plan.position {
        Position::Primary => plan.attachments.first().map(|attachment| attachment.reference.as_str()),
        Position::Chained => Some(plan.network.as_str()),
    };
    let is_primary = |entry: &Entry<'_>| Some(entry.name) == primary;
    let default = entries
        .iter()
        .position(|entry| is_primary(entry) && entry.interface == plan.ifname)
        .or_else(|| entries.iter().position(is_primary));
    if let Some(default) = default {
        entries[default].default = true;
    }
    serde_json::to_string_pretty(&entries).expect("plain data serialises")
}

fn entries_of<'a>(plan: &'a Plan, name: &'a str, ifname: &'a str, result: &'a AddResult) -> Vec<Entry<'a>> {
    let entry = |interface: &'a str, mac: &'a str, mtu: u32, index: Option<usize>| {
        let is_main = interface == ifname;
        // An address that is on no interface in particular is on the one that was asked for.
        let ips = result
            .ips
            .iter()
            .filter(|ip| ip.interface == index && index.is_some() || ip.interface.is_none() && is_main);
        Entry {
            name,
            interface,
            ips: ips.map(|ip| ip.address.addr().to_string()).collect(),
            mac,
            mtu,
            default: false,
            dns: &result.dns,
            gateway: if is_main { gateways(result) } else { Vec::new() },
            device_info: None,
        }
    };
    if result.interfaces.is_empty() && !result.ips.is_empty() {
        // Results before 0.3.0 list no interfaces.
        return vec![entry(ifname, "", 0, None)];
    }
    let inside = |interface: &Interface| !interface.sandbox.is_empty() && interface.sandbox == plan.netns;
    let interfaces = result.interfaces.iter().enumerate().filter(|(_, interface)| inside(interface));
    interfaces.map(|(index, found)| entry(&found.name, &found.mac, found.mtu, Some(index))).collect()
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
    /// A word for machines.
    pub reason: &'static str,
    /// A line for people.
    pub message: String,
    /// Whether it is about something that went wrong.
    pub is_warning: bool,
}

/// What there is to tell once a pod is attached: each of its new interfaces.
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
