//! The CNI error object (SPEC §5, "Error") and its codes.

use std::fmt;

use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::text::shortened;

/// The codes an error can carry. 1 to 51 are the specification's; those from 100 on are Braid's own.
pub mod code {
    /// Incompatible CNI version.
    pub const INCOMPATIBLE_VERSION: u32 = 1;
    /// Unsupported field in the network configuration.
    pub const UNSUPPORTED_FIELD: u32 = 2;
    /// The container is unknown; the runtime owes no clean-up.
    pub const UNKNOWN_CONTAINER: u32 = 3;
    /// A necessary environment variable is missing or wrong.
    pub const INVALID_ENVIRONMENT: u32 = 4;
    /// An input or output failed.
    pub const IO: u32 = 5;
    /// Content did not decode.
    pub const DECODE: u32 = 6;
    /// The network configuration is invalid.
    pub const INVALID_CONFIG: u32 = 7;
    /// A passing condition; the runtime should try again later.
    pub const TRY_AGAIN: u32 = 11;
    /// STATUS: the plugin cannot serve ADD.
    pub const UNAVAILABLE: u32 = 50;
    /// STATUS: the plugin cannot serve ADD, and existing containers may have limited connectivity.
    pub const LIMITED: u32 = 51;

    /// A plugin failed and gave no CNI error of its own.
    pub const PLUGIN_FAILED: u32 = 100;
    /// A plugin, or the whole call, ran out of its time.
    pub const TIMED_OUT: u32 = 101;
    /// Something could not be undone; it stays in the journal for the next DEL or GC.
    pub const CLEANUP_INCOMPLETE: u32 = 102;
    /// CHECK found that the container's networking differs from what ADD left.
    pub const CHECK_FAILED: u32 = 103;
    /// ADD for an attachment that exists.
    pub const ALREADY_ATTACHED: u32 = 104;
    /// A change inside the container's network namespace failed.
    pub const NAMESPACE: u32 = 105;
    /// The Kubernetes API server refused, or its credentials cannot be used.
    pub const KUBERNETES: u32 = 106;
    /// A defect of the plugin itself: it panicked.
    pub const PANICKED: u32 = 107;
}

/// The most that is kept of the message of a plugin's error, in bytes.
pub const MAX_MESSAGE: usize = 4 << 10;
/// The most that is kept of its details, in bytes.
pub const MAX_DETAILS: usize = 16 << 10;

/// What a plugin prints on standard output when it fails.
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

/// What Go's, curl's and the kernel's messages say when a service that was asked does not answer.
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
    /// Whether it is about a service that the plugin needs and that does not answer now, as far as the code or the text tells.
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

    /// Reads the error object out of a plugin's output, if there is one: an object with a `code` or a `msg`. What is not
    /// as the specification says makes it no less of an error. Of long texts only the beginning is kept: they go into
    /// the journal, the log and the answer.
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

/// The members of an object that make it an error, each the last of its name.
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
