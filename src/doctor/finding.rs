//! What is wrong with a node, and how it is mended.

use serde::Serialize;

/// What can be wrong with a node. The names in the output are stable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A journal of a container that is gone.
    ContainerGone,
    /// A container whose DEL has failed, and whose namespace is still there.
    CleanupOwed,
    /// A journal that DEL has given up on.
    Debt,
    /// A journal that cannot be used.
    JournalUnusable,
    /// A result that libcni keeps for a container that is gone.
    ResultStale,
    /// An address of host-local for which there is no record and no namespace.
    AddressLeaked,
    /// Rules of iptables for a container of which there is no record.
    RuleLeaked,
    /// An interface on the host that a plugin has made and no container uses.
    InterfaceOrphaned,
    /// An entry in the status of a resource claim for a pod that is gone.
    ClaimStatusLeft,
    /// A configuration that the runtime uses instead of Braid's.
    ConfigurationHidden,
    /// A plugin that is missing.
    PluginMissing,
    /// A missing program that a plugin needs.
    ProgramMissing,
    /// A kind of link that a plugin needs and that the kernel does not know.
    KernelFeatureMissing,
    /// Two networks that both set the default route, or Braid and Multus side by side.
    TwoDefaults,
    /// A token that expires soon, has expired, or cannot be used.
    TokenEnding,
    /// Something that could not be read.
    NotExamined,
}

impl Kind {
    /// All kinds, in the order of the documentation.
    pub const ALL: [Self; 16] = [
        Self::ContainerGone,
        Self::CleanupOwed,
        Self::Debt,
        Self::JournalUnusable,
        Self::ResultStale,
        Self::AddressLeaked,
        Self::RuleLeaked,
        Self::InterfaceOrphaned,
        Self::ClaimStatusLeft,
        Self::ConfigurationHidden,
        Self::PluginMissing,
        Self::ProgramMissing,
        Self::KernelFeatureMissing,
        Self::TwoDefaults,
        Self::TokenEnding,
        Self::NotExamined,
    ];

    /// The name in the output.
    pub fn name(self) -> &'static str {
        match self {
            Self::ContainerGone => "container-gone",
            Self::CleanupOwed => "cleanup-owed",
            Self::Debt => "debt",
            Self::JournalUnusable => "journal-unusable",
            Self::ResultStale => "result-stale",
            Self::AddressLeaked => "address-leaked",
            Self::RuleLeaked => "rule-leaked",
            Self::InterfaceOrphaned => "interface-orphaned",
            Self::ClaimStatusLeft => "claim-status-left",
            Self::ConfigurationHidden => "configuration-hidden",
            Self::PluginMissing => "plugin-missing",
            Self::ProgramMissing => "program-missing",
            Self::KernelFeatureMissing => "kernel-feature-missing",
            Self::TwoDefaults => "two-defaults",
            Self::TokenEnding => "token-ending",
            Self::NotExamined => "not-examined",
        }
    }

    /// Whether an ADD or DEL that is under way can look like this for a moment.
    pub fn can_be_transient(self) -> bool {
        matches!(
            self,
            Self::ContainerGone
                | Self::CleanupOwed
                | Self::Debt
                | Self::JournalUnusable
                | Self::ResultStale
                | Self::AddressLeaked
                | Self::RuleLeaked
                | Self::InterfaceOrphaned
                | Self::ClaimStatusLeft
        )
    }
}

/// Whether `--fix` mends a finding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mending {
    /// It does. This cannot affect a container that still exists.
    Safe,
    /// It does not, for this reason.
    Not(String),
    /// It does not: only a person can mend this.
    ByHand,
}

/// A fault of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The kind.
    pub kind: Kind,
    /// What it is about: an ID, an address, a name or a file.
    pub subject: String,
    /// What it means, as a sentence.
    pub meaning: String,
    /// What mends it.
    pub remedy: String,
    /// Whether `--fix` mends it.
    pub mending: Mending,
}

impl Finding {
    /// A finding that a person mends.
    pub fn by_hand(
        kind: Kind,
        subject: impl Into<String>,
        meaning: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        let (subject, meaning, remedy) = (subject.into(), meaning.into(), remedy.into());
        Self { kind, subject, meaning, remedy, mending: Mending::ByHand }
    }

    /// A finding that `--fix` mends.
    pub fn safe(kind: Kind, subject: impl Into<String>, meaning: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { mending: Mending::Safe, ..Self::by_hand(kind, subject, meaning, remedy) }
    }

    /// Whether both are about the same thing.
    pub fn is_same(&self, other: &Self) -> bool {
        (self.kind, &self.subject) == (other.kind, &other.subject)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_listed_once_under_its_name() {
        for kind in Kind::ALL {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.name());
            assert_eq!(Kind::ALL.iter().filter(|other| other.name() == kind.name()).count(), 1);
        }
    }

    #[test]
    fn the_documentation_has_a_section_for_every_kind() {
        let page = std::fs::read_to_string(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/operations.md"))
            .unwrap();
        for kind in Kind::ALL {
            assert!(page.contains(&format!("\n### `{}`\n", kind.name())), "docs/operations.md lacks {}", kind.name());
        }
    }
}
