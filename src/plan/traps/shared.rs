//! Plugins that keep state under a name that is the same for two attachments of one container.

use std::collections::BTreeMap;
use std::path::Path;

use super::trap::{Trap, text};
use crate::cni::config::{PluginConfig, RawObject, get};
use crate::plan::{Attachment, Plan};

/// A plugin that keeps state under a name that is the same for two attachments of one container.
struct Shared {
    plugin: &'static str,
    /// What the name of the state consists of, besides the container. `None` if the plugin keeps no such state.
    named_by: fn(&Attachment, &PluginConfig) -> Option<String>,
    reason: &'static str,
    remedy: &'static str,
}

const SHARED: &[Shared] = &[
    Shared {
        plugin: "bandwidth",
        named_by: |attachment, plugin| limits_egress(attachment, plugin).then(|| attachment.network.name.clone()),
        reason: "its ifb device for the egress limit is named by network and container alone, so that the second ADD fails with \"adding link: file exists\"",
        remedy: "limit the egress of one of them only, or use a network of another name",
    },
    Shared {
        plugin: "flannel",
        named_by: |_, plugin| {
            let directory = text(plugin.keys(), "dataDir").unwrap_or_else(|| "/var/lib/cni/flannel".into());
            // However it is written.
            Some(Path::new(&directory).components().as_path().display().to_string())
        },
        reason: "it keeps one file for each container in its dataDir, so that DEL undoes one of them and says success for the other, whose veth and address stay",
        remedy: "give each a \"dataDir\" of its own",
    },
    Shared {
        plugin: "portmap",
        named_by: |_, plugin| text(plugin.keys(), "backend").filter(|backend| backend == "nftables"),
        reason: "its nftables backend marks rules with the container alone, so that the DEL of one of them removes the port forwards of all",
        remedy: "use \"backend\": \"iptables\", or forward ports on one of them only",
    },
];

/// Problems that occur because a container has several attachments.
pub fn of_plan(plan: &Plan) -> Vec<Trap> {
    let mut traps = Vec::new();
    for row in SHARED {
        let mut users: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for attachment in &plan.attachments {
            let mut plugins = attachment.network.plugins.iter().filter(|plugin| plugin.plugin_type() == row.plugin);
            if let Some(name) = plugins.find_map(|plugin| (row.named_by)(attachment, plugin)) {
                users.entry(name).or_default().push(attachment.label());
            }
        }
        for labels in users.into_values().filter(|labels| labels.len() > 1) {
            let message =
                format!("{} use plugin {:?}: {}; {}", labels.join(" and "), row.plugin, row.reason, row.remedy);
            traps.push(Trap { is_fatal: false, message });
        }
    }
    traps
}

/// Whether the bandwidth plugin of an attachment limits what the container sends.
fn limits_egress(attachment: &Attachment, plugin: &PluginConfig) -> bool {
    let rate = |object: &RawObject| get::<u64>(object, "egressRate", "a number").ok().flatten().unwrap_or(0);
    let asked: Option<RawObject> = get(&attachment.capability_args, "bandwidth", "an object").ok().flatten();
    rate(plugin.keys()) > 0 || plugin.declares("bandwidth") && asked.is_some_and(|asked| rate(&asked) > 0)
}
