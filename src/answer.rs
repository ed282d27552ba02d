//! The answer: the only writer of standard output.

use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::cni::text::{escaped_lines, shortened};
use crate::cni::{CniError, Version};
use crate::output::Output;

/// How long standard output may stay full until its reader counts as gone.
const READER_TIMEOUT: Duration = Duration::from_secs(10);

/// Writes one JSON object to standard output.
///
/// # Errors
/// When standard output cannot be written.
pub fn write(value: &(impl Serialize + ?Sized)) -> io::Result<()> {
    let mut bytes = serde_json::to_vec(value)?;
    bytes.push(b'\n');
    write_bytes(&bytes)
}

/// Writes text for a person to standard output.
///
/// # Errors
/// When standard output cannot be written.
#[expect(clippy::disallowed_methods, reason = "this module is the one writer of standard output")]
pub fn write_text(text: &str) -> io::Result<()> {
    use std::io::Write;
    // A person may read it in a pager, and take any time.
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

/// Whether an object was written only in part. Another object must not follow it.
static IS_CUT: AtomicBool = AtomicBool::new(false);

/// Writes one object for a runtime. If the runtime does not read, this waits only once.
#[expect(clippy::disallowed_methods, reason = "this module is the one writer of standard output")]
fn write_bytes(bytes: &[u8]) -> io::Result<()> {
    if IS_CUT.load(Ordering::Relaxed) {
        return Err(io::Error::other("an earlier answer could not be written as a whole"));
    }
    let written = Output::new(io::stdout().as_fd()).write_all(bytes, READER_TIMEOUT);
    IS_CUT.store(written.is_err(), Ordering::Relaxed);
    written
}

/// Answers VERSION with the supported versions, in the version of the request on `stdin`.
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

/// The largest message of an error, in bytes, however many plugins have failed. Runtimes log it, and put it into events.
const MAX_MESSAGE: usize = 64 << 10;
/// The largest details of an error, in bytes.
const MAX_DETAILS: usize = 256 << 10;

/// Writes an error object. Runtimes print its texts unchanged, so text from plugins and pods' authors is
/// [escaped](crate::cni::text::escaped_lines). Long texts are cut.
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
    let text = |text: &str, most| shortened(escaped_lines(text), most);
    let msg = text(&error.msg, MAX_MESSAGE);
    let details = text(&error.details, MAX_DETAILS);
    let error = CniError { code: error.code, msg, details };
    write(&Wire { cni_version: version, error: &error })
}
