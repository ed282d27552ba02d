//! The operations of the protocol (SPEC §2, "CNI operations").

use std::fmt;

/// An operation (SPEC §2, "CNI operations").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// Attach.
    Add,
    /// Detach.
    Del,
    /// Is it as it should be?
    Check,
    /// Could it attach?
    Status,
    /// Clean up what is stale.
    Gc,
    /// Which versions does it speak?
    Version,
}

impl Verb {
    /// Whether it concerns one attachment of one container, and so needs `CNI_CONTAINERID` and related variables.
    pub fn is_of_attachment(self) -> bool {
        matches!(self, Self::Add | Self::Del | Self::Check)
    }

    /// The word in `CNI_COMMAND`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
            Self::Check => "CHECK",
            Self::Status => "STATUS",
            Self::Gc => "GC",
            Self::Version => "VERSION",
        }
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
