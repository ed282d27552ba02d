//! The CNI error object (SPEC §5, "Error") and its codes.

use std::fmt;

use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::text::shortened;

/// The error codes. 1 to 51 are the specification's; those from 100 on are Braid's own.
pub mod code {
    /// Incompatible CNI version.
    pub const INCOMPATIBLE_VERSION: u32 = 1;
    /// Unsupported field in the network configuration.
    pub const UNSUPPORTED_FIELD: u32 = 2;
    /// The container is unknown, and the runtime need not clean up.
    pub const UNKNOWN_CONTAINER: u32 = 3;
    /// A necessary environment variable is missing or wrong.
    pub const INVALID_ENVIRONMENT: u32 = 4;
    /// An input or output failed.
    pub const IO: u32 = 5;
    /// Content did not decode.
    pub const DECODE: u32 = 6;
    /// The network configuration is invalid.
    pub const INVALID_CONFIG: u32 = 7;
    /// A temporary condition. The runtime should try again later.
    pub const TRY_AGAIN: u32 = 11;
    /// STATUS: the plugin cannot serve ADD.
    pub const UNAVAILABLE: u32 = 50;
    /// STATUS: the plugin cannot serve ADD, and existing containers may have limited connectivity.
    pub const LIMITED: u32 = 51;

    /// A plugin failed without a CNI error of its own.
    pub const PLUGIN_FAILED: u32 = 100;
    /// A plugin, or the whole call, exceeded its time limit.
    pub const TIMED_OUT: u32 = 101;
    /// Something could not be undone. It stays in the journal for the next DEL or GC.
    pub const CLEANUP_INCOMPLETE: u32 = 102;
    /// CHECK found that the container's networking differs from what ADD left.
    pub const CHECK_FAILED: u32 = 103;
    /// ADD for an attachment that exists.
    pub const ALREADY_ATTACHED: u32 = 104;
    /// A change inside the container's network namespace failed.
    pub const NAMESPACE: u32 = 105;
    /// The Kubernetes API server refused, or its credentials cannot be used.
    pub const KUBERNETES: u32 = 106;
    /// A bug in the plugin itself: it panicked.
    pub const PANICKED: u32 = 107;
}

/// How many bytes of the message of a plugin's error are kept.
pub const MAX_MESSAGE: usize = 4 << 10;
/// How many bytes of its details are kept.
pub const MAX_DETAILS: usize = 16 << 10;

/// The standard output of a plugin that fails.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{msg}{}{details}", if details.is_empty() { "" } else { ": " })]
pub struct CniError {
    /// One of [`code`], or a plugin's own from 100 on.
    #[serde(default)]
    pub code: u32,
    /// What went wrong, in a line.
    #[serde(default)]
    pub msg: String,
    /// More, for who has to mend it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub details: String,
}

/// Parts of messages from Go, curl and the kernel about a service that does not answer.
const NO_ANSWER: [&str; 10] = [
    "connection refused",
    "connection reset",
    "deadline exceeded",
    "name resolution",
    "no route to host",
    "no such host",
    "timed out",
    "timeout",
    "unavailable",
    "unreachable",
];

impl CniError {
    /// Whether the error says, by its code or its text, that a service that the plugin needs does not answer now.
    pub fn is_of_service(&self) -> bool {
        let text = format!("{} {}", self.msg, self.details).to_ascii_lowercase();
        self.code == code::TRY_AGAIN || NO_ANSWER.iter().any(|words| text.contains(words))
    }

    /// An error without details.
    pub fn new(code: u32, msg: impl Into<String>) -> Self {
        Self { code, msg: msg.into(), details: String::new() }
    }

    /// The same error with `details`.
    #[must_use]
    pub fn with_details(mut self, details: impl Into<String>) -> Self {
        self.details = details.into();
        self
    }

    /// Reads the error object from a plugin's output, if there is one: an object with a `code` or a `msg`. It counts as an error
    /// even if it differs from the specification. Only the beginning of long texts is kept, because they go into the journal, the
    /// log and the answer.
    pub fn parse(stdout: &[u8]) -> Option<Self> {
        let Members { code, msg, details } = serde_json::from_slice(stdout).ok()?;
        let code = code.map_or("null", RawValue::get);
        let code = serde_json::from_str::<Option<u32>>(code).map_or(code::PLUGIN_FAILED, Option::unwrap_or_default);
        let text = |raw: Option<&RawValue>| {
            let raw = raw.map_or("null", RawValue::get);
            serde_json::from_str::<Option<String>>(raw).map_or_else(|_| raw.to_owned(), Option::unwrap_or_default)
        };
        let msg = text(msg);
        if code == 0 && msg.is_empty() {
            return None;
        }
        Some(Self {
            code: if code == 0 { code::PLUGIN_FAILED } else { code },
            msg: shortened(msg, MAX_MESSAGE),
            details: shortened(text(details), MAX_DETAILS),
        })
    }
}

/// The members of an error object. If one is repeated, the last counts.
#[derive(Default)]
struct Members<'a> {
    code: Option<&'a RawValue>,
    msg: Option<&'a RawValue>,
    details: Option<&'a RawValue>,
}

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;
        impl<'de> Visitor<'de> for Read {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                #[derive(Deserialize)]
                #[serde(field_identifier, rename_all = "camelCase")]
                enum Key {
                    Code,
                    Msg,
                    Details,
                    #[serde(other)]
                    Other,
                }
                let mut members = Members::default();
                while let Some(key) = map.next_key()? {
                    match key {
                        Key::Code => members.code = Some(map.next_value()?),
                        Key::Msg => members.msg = Some(map.next_value()?),
                        Key::Details => members.details = Some(map.next_value()?),
                        Key::Other => drop(map.next_value::<IgnoredAny>()?),
                    }
                }
                Ok(members)
            }
        }
        deserializer.deserialize_map(Read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_odd_error_is_an_error() {
        for (json, code, msg, details) in [
            (r#"{"code":7,"msg":"a"}"#, 7, "a", ""),
            (r#"{"code":-1,"msg":"a"}"#, code::PLUGIN_FAILED, "a", ""),
            (r#"{"code":4294967296,"msg":"a"}"#, code::PLUGIN_FAILED, "a", ""),
            (r#"{"code":"E7","msg":null,"details":{"b":1}}"#, code::PLUGIN_FAILED, "", r#"{"b":1}"#),
            (r#"{"code":7,"code":8,"msg":5}"#, 8, "5", ""),
            (r#"{"msg":"a"}"#, code::PLUGIN_FAILED, "a", ""),
        ] {
            let expected = CniError { code, msg: msg.into(), details: details.into() };
            assert_eq!(CniError::parse(json.as_bytes()), Some(expected), "{json}");
        }
        for json in ["", "[]", "[7,\"a\"]", "{}", r#"{"code":0}"#, r#"{"ips":[],"code":null}"#] {
            assert_eq!(CniError::parse(json.as_bytes()), None, "{json}");
        }
    }
}
