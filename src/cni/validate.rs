//! The rules for names (SPEC §1 and §2).

use super::text::is_deceptive;

/// The longest container ID accepted, in bytes: it names a directory, and `.jsonl.corrupt` must fit beside it.
pub const MAX_ID: usize = 200;

/// A name that breaks the protocol's rules.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {value:?} is not valid, expected {expected}")]
pub struct InvalidName {
    /// Which kind of name.
    pub what: &'static str,
    /// The name as given, cut to 64 characters.
    pub value: String,
    /// The rule.
    pub expected: &'static str,
}

fn check(what: &'static str, value: &str, expected: &'static str, ok: bool) -> Result<(), InvalidName> {
    if ok { Ok(()) } else { Err(InvalidName { what, value: value.chars().take(64).collect(), expected }) }
}

fn is_plain(value: &str) -> bool {
    let mut bytes = value.bytes();
    bytes.next().is_some_and(|b| b.is_ascii_alphanumeric())
        && bytes.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

/// A container ID: a letter or digit, then letters, digits, `_`, `.` or `-`.
///
/// # Errors
/// When it is anything else, or longer than [`MAX_ID`].
pub fn container_id(value: &str) -> Result<(), InvalidName> {
    let expected = "a letter or digit, then letters, digits, '_', '.' or '-', at most 200 bytes";
    check("container ID", value, expected, is_plain(value) && value.len() <= MAX_ID)
}

/// A network name, by the same rule as a container ID.
///
/// # Errors
/// When it is anything else.
pub fn network_name(value: &str) -> Result<(), InvalidName> {
    let expected = "a letter or digit, then letters, digits, '_', '.' or '-', at most 200 bytes";
    check("network name", value, expected, is_plain(value) && value.len() <= MAX_ID)
}

/// An interface name that Linux accepts: 1 to 15 bytes, no `/`, `:` or white space, not `.` or `..`. In addition, it must not have
/// characters that mislead its reader.
///
/// # Errors
/// When it is anything else.
pub fn interface_name(value: &str) -> Result<(), InvalidName> {
    let expected = "1 to 15 bytes without '/', ':', white space, control or invisible characters, and not '.' or '..'";
    let ok = (1..=15).contains(&value.len())
        && value != "."
        && value != ".."
        && !value.chars().any(|c| c == '/' || c == ':' || c.is_whitespace() || is_deceptive(c));
    check("interface name", value, expected, ok)
}

/// A plugin type: the file name of an executable, never a path.
///
/// # Errors
/// When it is empty, `.` or `..`, or holds a path separator or a control character.
pub fn plugin_type(value: &str) -> Result<(), InvalidName> {
    let expected = "the file name of a plugin, without '/' or '\\'";
    let ok = !value.is_empty()
        && value.len() <= 255
        && value != "."
        && value != ".."
        && !value.chars().any(|c| c == '/' || c == '\\' || c.is_control());
    check("plugin type", value, expected, ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn container_ids() {
        for good in ["a", "A9_.-", "0123", &"x".repeat(200)] {
            assert_eq!(container_id(good), Ok(()), "{good}");
        }
        for bad in ["", "-a", ".a", "a/b", "a b", "a\n", "ü", "..", &"x".repeat(201)] {
            assert!(container_id(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn interface_names() {
        for good in ["eth0", "net-1.5", "äöü", "123456789012345"] {
            assert_eq!(interface_name(good), Ok(()), "{good}");
        }
        for bad in ["", ".", "..", "a/b", "a:1", "a b", "a\0", "1234567890123456", "a\u{a0}b"] {
            assert!(interface_name(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn plugin_types() {
        assert_eq!(plugin_type("host-local"), Ok(()));
        for bad in ["", ".", "..", "../x", "/bin/sh", "a\\b", "a\0b"] {
            assert!(plugin_type(bad).is_err(), "{bad:?}");
        }
    }
}
