//! Changes journals, to test how Braid reads them.

use std::fs;
use std::path::Path;

use serde_json::{Map, Value};

/// Writes a journal again without its checksums, as before checksums existed, with changed lines.
pub(crate) fn edit_journal(path: &Path, edit: impl FnOnce(&mut Vec<String>)) {
    let text = fs::read_to_string(path).expect("the journal");
    let mut lines: Vec<String> = text.lines().map(without_checksum).collect();
    edit(&mut lines);
    let text: String = lines.iter().flat_map(|line| [line.as_str(), "\n"]).collect();
    fs::write(path, text).expect("write the journal");
}

/// The same with its first line changed.
pub(crate) fn edit_header(path: &Path, edit: impl FnOnce(&mut Map<String, Value>)) {
    edit_journal(path, |lines| {
        let mut header = serde_json::from_str(&lines[0]).expect("JSON");
        edit(&mut header);
        lines[0] = Value::from(header).to_string();
    });
}

fn without_checksum(line: &str) -> String {
    let (line, checksum) = line.rsplit_once(r#","crc":""#).expect("a checksum");
    assert_eq!(checksum.len(), r#"01234567"}"#.len(), "{checksum}");
    format!("{line}}}")
}
