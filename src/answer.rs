//! The answer: the only writer of standard output.

use std::io::{self, Write};

use serde::{Deserialize, Serialize};

use crate::cni::{CniError, Version};

/// Writes one JSON object to standard output.
///
/// # Errors
/// When standard output cannot be written.
#[expect(clippy::disallowed_methods, reason = "this module is the one writer of standard output")]
pub fn write(value: &(impl Serialize + ?Sized)) -> io::Result<()> {
    let mut bytes = serde_json::to_vec(value)?;
    bytes.push(b'\n');
    let mut stdout = io::stdout().lock();
    stdout.write_all(&bytes)?;
    stdout.flush()
}

/// Writes text for a person to standard output.
///
/// # Errors
/// When standard output cannot be written.
#[expect(clippy::disallowed_methods, reason = "this module is the one writer of standard output")]
pub fn write_text(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

/// Answers VERSION with the versions spoken, in the version that `stdin` was asked in.
///
/// # Errors
/// When standard output cannot be written.
pub fn write_versions(stdin: &[u8], spoken: &[Version]) -> io::Result<()> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Asked {
        cni_version: String,
    }
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Versions<'a> {
        cni_version: String,
        supported_versions: &'a [Version],
    }
    let asked = serde_json::from_slice::<Asked>(stdin).ok().map(|asked| asked.cni_version);
    let cni_version = asked.filter(|version| !version.is_empty()).unwrap_or_else(|| Version::LATEST.to_string());
    write(&Versions { cni_version, supported_versions: spoken })
}

/// Writes an error object.
///
/// # Errors
/// When standard output cannot be written.
pub fn write_cni_error(error: &CniError, version: Version) -> io::Result<()> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Wire<'a> {
        cni_version: Version,
        #[serde(flatten)]
        error: &'a CniError,
    }
    write(&Wire { cni_version: version, error })
}
