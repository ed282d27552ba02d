//! Reads a journal's bytes into its state.

use serde::Deserialize;

use super::format::{Checksum, Event, Header, NEWEST_FORMAT, Verdict, decode};
use super::state::State;
use crate::cni::validate;
use crate::plan::{Plan, Position};

/// A journal that was read.
#[derive(Debug)]
pub struct Reading {
    /// What it says.
    pub state: State,
    /// How many of its bytes are whole lines.
    pub length: usize,
    pub(super) checksum: Checksum,
}

/// The first line of a journal.
struct FirstLine {
    header: Header,
    /// How long it is, without its end.
    length: usize,
    checksum: Checksum,
    verdict: Verdict,
}

/// Reads the plan at the beginning of a journal. `None` if a crash left the journal before any plugin had got its input.
///
/// # Errors
/// When it makes no sense, in words.
pub(super) fn read_plan(bytes: &[u8]) -> Result<Option<Plan>, String> {
    Ok(read_first_line(bytes)?.map(|first| first.header.plan))
}

fn read_first_line(bytes: &[u8]) -> Result<Option<FirstLine>, String> {
    let Some(length) = bytes.iter().position(|byte| *byte == b'\n') else {
        // The header's line is synced before the first plugin gets its input. If the line is incomplete, no plugin has run.
        if bytes.first().is_some_and(|byte| *byte != b'{') {
            return Err("its first line is not a plan".into());
        }
        return Ok(None);
    };
    let mut checksum = Checksum::default();
    let (header, verdict) = decode(&bytes[..length], &mut checksum);
    if verdict == Verdict::Damaged {
        return Err("its first line is damaged: the checksum is another".into());
    }
    let header = read_header(&header)?;
    refuse_inconsistent(&header.plan)?;
    Ok(Some(FirstLine { header, length, checksum, verdict }))
}

/// Reads a journal. `None` if a crash left the journal before any plugin had got its input.
///
/// # Errors
/// When it makes no sense, in words.
pub fn read(bytes: &[u8]) -> Result<Option<Reading>, String> {
    let Some(FirstLine { header, length, mut checksum, verdict }) = read_first_line(bytes)? else { return Ok(None) };
    let mut state = State::new(header);
    let mut length = length + 1;
    while let Some(end) = bytes[length..].iter().position(|byte| *byte == b'\n') {
        let (event, of_line) = decode(&bytes[length..length + end], &mut checksum);
        length += end + 1;
        let is_as_written = match of_line {
            Verdict::Good => true,
            Verdict::Damaged => false,
            // Lines without checksums can only be at the beginning.
            Verdict::Unknown => verdict == Verdict::Unknown,
        };
        match serde_json::from_slice::<Event>(&event) {
            Ok(event) if is_as_written => state.apply(event).map_err(|error| error.to_string())?,
            _ => state.unreadable += 1,
        }
    }
    Ok(Some(Reading { state, length, checksum }))
}

/// The format in the first line of a journal, even if this Braid cannot read it. `None` if it is not a journal.
pub fn format_of(line: &[u8]) -> Option<u32> {
    #[derive(Deserialize)]
    struct Head {
        format: u32,
    }
    serde_json::from_slice::<Head>(line).ok().map(|head| head.format)
}

fn read_header(line: &[u8]) -> Result<Header, String> {
    let format = format_of(line).ok_or("its first line is not a plan")?;
    if format > NEWEST_FORMAT {
        return Err(format!("its format is {format}, and this braid reads up to {NEWEST_FORMAT}"));
    }
    serde_json::from_slice(line).map_err(|_| "its first line is not a plan of its format".to_owned())
}

/// A plan that no ADD can have made would not undo what ADD did.
fn refuse_inconsistent(plan: &Plan) -> Result<(), String> {
    validate::container_id(&plan.container_id).map_err(|error| format!("its plan is damaged: {error}"))?;
    validate::interface_name(&plan.ifname).map_err(|error| format!("its plan is damaged: {error}"))?;
    if let Some(attachment) = plan.attachments.iter().find(|attachment| attachment.network.plugins.is_empty()) {
        return Err(format!("its plan is damaged: the attachment on {:?} has no plugins", attachment.ifname));
    }
    if plan.position == Position::Primary {
        let primary = plan.attachments.first().map(|attachment| attachment.ifname.as_str());
        match primary {
            None => return Err("its plan is damaged: it has no attachments".into()),
            Some(ifname) if ifname != plan.ifname => {
                return Err(format!(
                    "its plan is damaged: the primary attachment is on {ifname:?}, and the plan is for {:?}",
                    plan.ifname
                ));
            }
            Some(_) => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::format::Step;
    use super::*;

    /// Written before there were checksums.
    const WHOLE: &[u8] = include_bytes!("../../../tests/fuzz/seeds/journal/whole.jsonl");

    /// A crash can leave any beginning of a journal. Its complete lines are read, and a step is owed if one of them says that it
    /// was started and none says that it was undone.
    #[test]
    fn a_journal_torn_at_any_byte_is_read_as_far_as_it_goes() {
        let header = WHOLE.iter().position(|byte| *byte == b'\n').unwrap() + 1;
        for cut in 0..=WHOLE.len() {
            let torn = &WHOLE[..cut];
            let read = read(torn).unwrap_or_else(|error| panic!("{cut}: {error}"));
            let Some(Reading { state, length, .. }) = read else {
                assert!(cut < header, "{cut}");
                continue;
            };
            let whole = torn.iter().rposition(|byte| *byte == b'\n').unwrap() + 1;
            assert_eq!(length, whole, "{cut}");
            let lines = String::from_utf8_lossy(&torn[..whole]).into_owned();
            let is_owed = |step: Step| state.owed().contains(&step);
            assert!(!lines.contains("start") || is_owed(Step(0, 0)), "{cut}");
            assert_eq!(is_owed(Step(0, 1)), !lines.contains("undone"), "{cut}: not of this boot, so every step counts");
        }
    }

    #[test]
    fn a_plan_that_no_add_made_is_refused() {
        let text = str::from_utf8(WHOLE).unwrap();
        let (first, rest) = text.split_once('\n').unwrap();
        let header: serde_json::Value = serde_json::from_str(first).unwrap();
        let refused = |change: &dyn Fn(&mut serde_json::Value)| {
            let mut header = header.clone();
            change(&mut header["plan"]);
            read(format!("{header}\n{rest}").as_bytes()).unwrap_err()
        };
        assert!(refused(&|plan| plan["attachments"] = serde_json::json!([])).contains("no attachments"));
        assert!(refused(&|plan| plan["attachments"][0]["ifname"] = "other0".into()).contains("other0"));
        assert!(refused(&|plan| plan["containerID"] = "../c".into()).contains("container ID"));
        let plugins = |plan: &mut serde_json::Value| {
            plan["attachments"][0]["network"]["plugins"].as_array_mut().unwrap().truncate(1);
        };
        assert!(refused(&plugins).contains("step 1 of attachment 0"));
    }
}
