//! The report of `braid sync`.

use serde::Deserialize;
use serde_json::Value;

/// The report of one `braid sync`, without the parts that the agent does not use.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Report {
    /// What was detached, updated and attached.
    pub(super) detached: Vec<Value>,
    pub(super) updated: Vec<Value>,
    pub(super) attached: Vec<Value>,
    /// What failed.
    pub(super) failed: Vec<Failed>,
    /// The NetworkAttachmentDefinitions that the pod asks for, as `NAMESPACE/NAME`.
    pub(super) definitions: Vec<String>,
    /// Whether the pod lacks networks that only `"repair": true` would attach.
    pub(super) needs_repair: bool,
}

/// Something that failed.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Failed {
    pub(super) network: Option<String>,
    pub(super) interface: Option<String>,
    pub(super) error: Reason,
}

/// Why it failed.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Reason {
    pub(super) msg: String,
    pub(super) details: String,
}

impl Report {
    /// Parses the output of `braid sync`. `None` if it is no report.
    pub(super) fn parse(text: &[u8]) -> Option<Self> {
        serde_json::from_slice::<Self>(text).ok()
    }

    /// Whether anything was changed.
    pub(super) fn has_changes(&self) -> bool {
        !(self.detached.is_empty() && self.updated.is_empty() && self.attached.is_empty())
    }

    /// What failed, as a text.
    pub(super) fn failures(&self) -> String {
        let failures: Vec<String> = self.failed.iter().map(Failed::describe).collect();
        failures.join("; ")
    }
}

impl Failed {
    fn describe(&self) -> String {
        let network = self.network.as_deref().filter(|name| !name.is_empty());
        let place = match (network, self.interface.as_deref()) {
            (None, None) => String::new(),
            (network, None) => format!("{}: ", network.unwrap_or_default()),
            (network, Some(interface)) => format!("{} on {interface}: ", network.unwrap_or("a network")),
        };
        let details = if self.error.details.is_empty() { String::new() } else { format!(" ({})", self.error.details) };
        format!("{place}{}{details}", self.error.msg)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_described_and_unknown_keys_are_ignored() {
        let text = br#"{"container":"c","new":1,"attached":[{"interface":"net1"}],
            "failed":[{"selection":{"name":"x"},"network":"web/x","interface":"net2","error":{"code":7,"msg":"no","details":"why"}}],
            "definitions":["web/x"]}"#;
        let report = Report::parse(text).unwrap();
        assert!(report.has_changes());
        assert_eq!(report.failures(), "web/x on net2: no (why)");
        assert_eq!(report.definitions, ["web/x"]);
        // A problem of the whole annotation is about no network.
        let whole = br#"{"failed":[{"network":"","interface":null,"error":{"code":7,"msg":"not readable"}}]}"#;
        assert_eq!(Report::parse(whole).unwrap().failures(), "not readable");
        assert!(!Report::parse(b"{}").unwrap().has_changes());
        assert!(Report::parse(b"Usage: braid").is_none());
    }
}
