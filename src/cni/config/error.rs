//! What can be wrong with a configuration.

use crate::cni::error::{CniError, code};
use crate::cni::validate::InvalidName;
use crate::cni::version::UnknownVersion;

/// What is wrong with a configuration. The caller adds which file or delegate it is.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It is not JSON, or not a JSON object.
    #[error("the configuration is not a JSON object: {}", without_values(.0))]
    Json(serde_json::Error),
    /// A key that must be there is not.
    #[error("{key:?} is missing, expected {expected}")]
    Missing {
        /// The key.
        key: String,
        /// What should stand there.
        expected: &'static str,
    },
    /// A key holds the wrong thing.
    #[error("{key:?} is {found}, expected {expected}")]
    Wrong {
        /// The key.
        key: String,
        /// The kind of the existing value; see [`kind`](super::kind).
        found: String,
        /// What should stand there.
        expected: &'static str,
    },
    /// A name breaks the rules.
    #[error("{key:?}: {source}")]
    Name {
        /// The key that holds the name.
        key: String,
        /// The rule that is broken.
        source: InvalidName,
    },
    /// It supports none of the versions that Braid knows.
    #[error("{key:?}: {source}", key = "cniVersion")]
    Version {
        /// The version.
        source: UnknownVersion,
    },
}

impl From<&ConfigError> for CniError {
    /// The CNI error for a configuration that breaks the protocol's rules.
    fn from(error: &ConfigError) -> Self {
        let code = match error {
            ConfigError::Json(_) => code::DECODE,
            ConfigError::Version { .. } => code::INCOMPATIBLE_VERSION,
            ConfigError::Missing { .. } | ConfigError::Wrong { .. } | ConfigError::Name { .. } => code::INVALID_CONFIG,
        };
        Self::new(code, error.to_string())
    }
}

impl ConfigError {
    pub(super) fn within(self, place: &str) -> Self {
        let prefix = |key: String| format!("{place}.{key}");
        match self {
            Self::Missing { key, expected } => Self::Missing { key: prefix(key), expected },
            Self::Wrong { key, found, expected } => Self::Wrong { key: prefix(key), found, expected },
            Self::Name { key, source } => Self::Name { key: prefix(key), source },
            other => other,
        }
    }
}

/// A parser's error message without the strings that it found in place of something else: they may be secrets.
pub fn without_values(error: &serde_json::Error) -> String {
    let mut message = error.to_string();
    if let (Some(from), Some(to)) = (message.find("string \""), message.rfind("\", expected ")) {
        let from = from + "string".len();
        if from <= to {
            message.replace_range(from..=to, "");
        }
    }
    message
}
