//! The lines of a journal.
//!
//! A line is a JSON object whose last key is its checksum: `{"start":[0,0],"crc":"8d3f6a01"}`. The checksum is the CRC-32 of the
//! previous line's checksum, as four bytes with the lowest first, followed by the object without the key `crc`. So both a changed
//! line and a missing line are noticed.

use std::io;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crc::{CRC_32_ISO_HDLC, Crc, Table};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::cni::CniError;
use crate::netns::{self, DefaultRouteChange, Sysctls};
use crate::plan::{Attachment, Plan};
use crate::transaction::claim::Claim;

/// The format of a journal that ADD writes.
pub const FORMAT: u32 = 1;
/// The format of a journal with changes. A Braid that does not know changes would lose them, so it must refuse this format.
pub(super) const CHANGED_FORMAT: u32 = 2;
/// The newest format that this Braid reads.
pub const NEWEST_FORMAT: u32 = CHANGED_FORMAT;

/// The CRC-32 of Ethernet and zip. It is computed from tables: on a virtual machine, finding out whether the processor has an
/// instruction for it takes longer than all checksums of a call.
const CRC_32: Crc<u32, Table<16>> = Crc::<u32, Table<16>>::new(&CRC_32_ISO_HDLC);
/// What a checksum is written in.
const KEY: &[u8] = br#","crc":""#;
/// The length of a checksum with its key and the end of the object.
const TAIL: usize = KEY.len() + 8 + br#""}"#.len();

/// The first line of a journal.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Header {
    /// The format of the journal.
    pub format: u32,
    /// When ADD began, in milliseconds since 1970.
    pub time: u64,
    /// The kernel's boot ID.
    pub boot: String,
    /// Which namespace the plan's path led to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netns_id: Option<netns::Identity>,
    /// The plan.
    pub plan: Plan,
}

/// A plugin of an attachment: their indexes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Step(pub usize, pub usize);

/// What happened.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Event {
    /// A plugin is about to run ADD.
    Start(Step),
    /// It has, and this is its result.
    Done {
        /// Which.
        step: Step,
        /// How long it took, in microseconds.
        micros: u64,
        /// The result, word for word.
        result: Box<RawValue>,
    },
    /// It failed.
    Failed {
        /// Which.
        step: Step,
        /// With what.
        error: CniError,
        /// Whether the plugin's process still existed when Braid stopped waiting for it. This matters only during the call, and is
        /// not written to the file.
        #[serde(skip)]
        lingers: bool,
    },
    /// ADD has failed and is rolled back: no further step starts.
    Rollback,
    /// It has been undone.
    Undone(Step),
    /// It could not be undone.
    Owed {
        /// Which.
        step: Step,
        /// Why.
        error: CniError,
    },
    /// Undoing has failed for the first time.
    Failing {
        /// When, in milliseconds since 1970.
        time: u64,
    },
    /// Default routes are about to be changed.
    Routes(DefaultRouteChange),
    /// They have been put back.
    RoutesUndone,
    /// ADD has succeeded. The result is what the runtime got.
    Complete {
        /// How long ADD took, in microseconds.
        micros: u64,
        /// The answer.
        result: Box<RawValue>,
        /// What the results list and the namespace did not have. `None` if that is not known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        absent: Option<Vec<Claim>>,
    },
    /// A change begins to make one more attachment, which has this index in the plan.
    Attach {
        /// Its place, which is the end.
        index: usize,
        /// The attachment.
        attachment: Box<Attachment>,
    },
    /// A change is to undo an attachment.
    Detach(usize),
    /// A change begins to give an attachment new values.
    Redo {
        /// Which.
        index: usize,
        /// The attachment as it is to be.
        attachment: Box<Attachment>,
        /// The steps that may be redone.
        steps: Vec<usize>,
    },
    /// The values of kernel parameters before a step of a change set them for the first time.
    Sysctls {
        /// Which.
        step: Step,
        /// The values.
        values: Sysctls,
    },
    /// The default routes that an attachment had taken were given back.
    RoutesReturned {
        /// Its interface.
        interface: String,
    },
    /// A change has succeeded.
    Changed(Change),
    /// A change has failed, and everything is as before.
    Reverted {
        /// When, in milliseconds since 1970.
        time: u64,
        /// Attachments that it made and that could not be undone. They are being detached from now on.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        owing: Vec<usize>,
    },
}

/// A change that was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Change {
    /// When, in milliseconds since 1970.
    pub time: u64,
    /// How long it took, in microseconds.
    pub micros: u64,
    /// By whom.
    pub author: String,
    /// What, in words.
    pub what: String,
    /// Attachments that are still being undone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub owing: Vec<usize>,
    /// What the results list and the namespace did not have when it finished. `None` if this is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub absent: Option<Vec<Claim>>,
}

/// The checksum of the last line, which the next line's checksum includes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Checksum(u32);

impl Checksum {
    /// The checksum of a line, given its object without the closing brace and the previous line's checksum.
    fn next(self, unclosed: &[u8]) -> Self {
        let mut crc = CRC_32.digest();
        crc.update(&self.0.to_le_bytes());
        crc.update(unclosed);
        crc.update(b"}");
        Self(crc.finalize())
    }
}

/// What a line's checksum says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The line is unchanged, and follows the same line as when it was written.
    Good,
    /// It is not.
    Damaged,
    /// It has no checksum.
    Unknown,
}

/// One line with its checksum and line break. JSON that came in as text may have line breaks between its tokens, but nowhere else.
pub(super) fn encode(value: &impl Serialize, checksum: &mut Checksum) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(value)?;
    for byte in &mut line {
        if matches!(byte, b'\n' | b'\r') {
            *byte = b' ';
        }
    }
    if line.pop() != Some(b'}') {
        // An event without a value is written as a string.
        line.insert(0, b'{');
        line.extend_from_slice(br#"":null"#);
    }
    *checksum = checksum.next(&line);
    line.extend_from_slice(KEY);
    line.extend_from_slice(format!("{:08x}\"}}\n", checksum.0).as_bytes());
    Ok(line)
}

/// The object of a line, without its checksum, and the event in it.
pub(super) fn decode(line: &[u8], checksum: &mut Checksum) -> (Vec<u8>, Verdict) {
    let Some((unclosed, written)) = split(line) else { return (line.to_vec(), Verdict::Unknown) };
    let verdict = if checksum.next(unclosed) == written { Verdict::Good } else { Verdict::Damaged };
    *checksum = written;
    ([unclosed, b"}"].concat(), verdict)
}

fn split(line: &[u8]) -> Option<(&[u8], Checksum)> {
    let (unclosed, tail) = line.split_at(line.len().checked_sub(TAIL)?);
    let digits = tail.strip_prefix(KEY)?.strip_suffix(br#""}"#)?;
    let is_written_so = |byte: &u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(byte);
    let digits = str::from_utf8(digits).ok().filter(|digits| digits.bytes().all(|byte| is_written_so(&byte)))?;
    Some((unclosed, Checksum(u32::from_str_radix(digits, 16).ok()?)))
}

/// The time, in milliseconds since 1970.
pub fn now_millis() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// The kernel's boot ID. Empty if it cannot be read.
pub fn boot_id() -> &'static str {
    static BOOT: OnceLock<String> = OnceLock::new();
    BOOT.get_or_init(|| {
        let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        text.trim().to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_was_changed_or_is_missing_is_found() {
        let mut checksum = Checksum::default();
        let events = [Event::Start(Step(0, 0)), Event::RoutesUndone, Event::Undone(Step(0, 0))];
        let lines: Vec<Vec<u8>> = events.iter().map(|event| encode(event, &mut checksum).unwrap()).collect();
        let verdicts = |lines: &[Vec<u8>]| {
            let mut checksum = Checksum::default();
            let read = lines.iter().map(|line| decode(line.trim_ascii_end(), &mut checksum));
            read.map(|(object, verdict)| (serde_json::from_slice::<Event>(&object).is_ok(), verdict))
                .collect::<Vec<_>>()
        };
        assert_eq!(verdicts(&lines), [(true, Verdict::Good); 3]);
        assert_eq!(verdicts(&[lines[0].clone(), lines[2].clone()])[1].1, Verdict::Damaged);
        for bit in 0..(lines[0].len() - 1) * 8 {
            let mut damaged = lines.clone();
            damaged[0][bit / 8] ^= 1 << (bit % 8);
            let first = verdicts(&damaged)[0];
            // If the checksum cannot be read, the line counts as damaged.
            assert!(first.1 == Verdict::Damaged || first == (false, Verdict::Unknown), "bit {bit}: {first:?}");
        }
    }
}
