//! The arguments of an attachment's plugins: `CNI_ARGS`, capability arguments, and `args` of their configuration.

use crate::cni::Args;
use crate::cni::config::{RawObject, overlay_objects, raw};
use crate::config::{Config, Selection};
use crate::request::Request;

/// The capability arguments of an attachment. Those of the runtime are for the interface that it asked for (NPWG specification,
/// §7.5).
pub(super) fn capability_args(config: &Config, selection: &Selection, is_primary: bool) -> RawObject {
    let mut args = if is_primary { config.runtime_config.clone() } else { RawObject::new() };
    args.shift_remove("networks");
    args.extend(selection.capability_args());
    args
}

/// Merged into the `args` of each plugin of an attachment.
pub(super) fn plugin_args(config: &Config, selection: &Selection, is_primary: bool) -> RawObject {
    let mut args = config.args.clone();
    if !is_primary {
        forget_addresses(&mut args);
    }
    if selection.cni_args.is_empty() {
        return args;
    }
    let mut cni = RawObject::new();
    cni.insert("cni".into(), raw(&selection.cni_args));
    overlay_objects(args, &cni)
}

/// The keys of `CNI_ARGS` that by convention concern the one interface that the runtime asked for.
const OF_ONE_INTERFACE: [&str; 3] = ["IP", "GATEWAY", "MAC"];

/// `CNI_ARGS` for an attachment: those of the call, with the selection's address and hardware address added. Only the primary
/// attachment gets the addresses that the runtime asks for, because no two attachments can have the same address.
pub(super) fn cni_args(request: &Request, selection: &Selection, is_primary: bool) -> String {
    let is_for_another = |key: &str| !is_primary && OF_ONE_INTERFACE.contains(&key);
    let is_plain = selection.ips.is_empty() && selection.mac.is_none();
    if is_plain && !request.args.iter().any(|(key, _)| is_for_another(key)) {
        return request.args_text.clone();
    }
    let mut args: Args = request.args.clone();
    args.retain(|key| !is_for_another(key));
    if is_plain {
        return args.to_string();
    }
    args.set("IgnoreUnknown", "true");
    if !selection.ips.is_empty() {
        args.set("IP", &selection.ips.join(","));
    }
    if let Some(mac) = &selection.mac {
        args.set("MAC", mac);
    }
    args.to_string()
}

/// Removes from `args.cni` what the runtime asks for on its own interface (CONVENTIONS, "`args` in network config").
fn forget_addresses(args: &mut RawObject) {
    let Some(mut cni) = args.get("cni").and_then(|cni| serde_json::from_str::<RawObject>(cni.get()).ok()) else {
        return;
    };
    let before = cni.len();
    cni.retain(|key, _| !["ips", "mac"].contains(&key.as_str()));
    if cni.len() != before {
        args.insert("cni".into(), raw(&cni));
    }
}
