//! The limits of a `bandwidth` step.

use crate::cni::capability::RateLimit;
use crate::cni::config::{PluginConfig, RawObject, find_folded, folds_to, raw};

/// The capability with which `bandwidth` gets its limits, unless its configuration has them.
pub(super) const BANDWIDTH: &str = "bandwidth";
/// The keys of a limit, both in the capability and in the plugin's configuration: rate and burst, for both directions.
pub(super) const LIMIT_KEYS: [[&str; 2]; 2] = [["ingressRate", "ingressBurst"], ["egressRate", "egressBurst"]];

/// The limits of both directions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// Into the container: applied to the host's end of the veth.
    pub ingress: Option<RateLimit>,
    /// Out of the container: applied to an `ifb` device.
    pub egress: Option<RateLimit>,
}

impl Limits {
    /// The limits of a `bandwidth` step: those of its configuration, or else those of the capability.
    pub fn of(plugin: &PluginConfig, capability_args: &RawObject) -> Self {
        let in_config = LIMIT_KEYS.iter().flatten().any(|key| find_folded(plugin.keys(), key).is_some());
        if in_config {
            return Self::read(plugin.keys());
        }
        let given = capability_args.get(BANDWIDTH).filter(|_| plugin.declares(BANDWIDTH));
        given.and_then(|raw| serde_json::from_str(raw.get()).ok()).map(|object| Self::read(&object)).unwrap_or_default()
    }

    pub(super) fn read(object: &RawObject) -> Self {
        let [ingress, egress] = LIMIT_KEYS.map(|[rate, burst]| {
            let number =
                |key| find_folded(object, key).and_then(|raw| serde_json::from_str::<u64>(raw.get()).ok()).unwrap_or(0);
            let limit = RateLimit { rate: number(rate), burst: number(burst) };
            (limit.rate > 0 && limit.burst > 0).then_some(limit)
        });
        Self { ingress, egress }
    }

    /// As `bandwidth` reads them.
    pub(super) fn to_object(self) -> RawObject {
        let mut object = RawObject::new();
        for ([rate, burst], limit) in LIMIT_KEYS.iter().zip([self.ingress, self.egress]) {
            // Zero means no limit. The CHECK of older plugins crashes if all keys are missing.
            let limit = limit.unwrap_or(RateLimit { rate: 0, burst: 0 });
            object.insert((*rate).into(), raw(&limit.rate));
            object.insert((*burst).into(), raw(&limit.burst));
        }
        object
    }

    /// The configuration of a `bandwidth` step with exactly these limits.
    ///
    /// # Panics
    /// Never: a plugin's configuration stays one with other limits.
    pub fn in_config(self, plugin: &PluginConfig) -> PluginConfig {
        let mut keys = plugin.keys().clone();
        keys.retain(|key, _| !LIMIT_KEYS.iter().flatten().any(|name| folds_to(key, name)));
        keys.extend(self.to_object());
        PluginConfig::from_object(keys).expect("a plugin's configuration stays one with other limits")
    }
}
