//! Journals of a newer Braid. This Braid must not replace it, because it could not detach what they record.

use std::fmt;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};

use super::files::{self, Links};
use crate::transaction::journal::{NEWEST_FORMAT, format_of};

/// The longest first line that is read, in bytes. It contains the plan.
const MAX_LINE: u64 = 16 << 20;

/// Journals that this Braid does not read.
#[derive(Debug)]
pub(super) struct Newer {
    /// One of them, and its format.
    path: PathBuf,
    format: u32,
    /// How many others there are.
    others: usize,
}

impl fmt::Display for Newer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let version = env!("CARGO_PKG_VERSION");
        let others = match self.others {
            0 => String::new(),
            1 => ", and so has 1 other journal".to_owned(),
            many => format!(", and so have {many} other journals"),
        };
        write!(
            f,
            "{} has format {}{others}: a newer braid wrote it, and braid {version}, which reads formats up to {NEWEST_FORMAT}, \
             could not detach that container. Use the newer version. To go back to this one, first run \
             `braid uninstall --drain` with the newer version",
            self.path.display(),
            self.format
        )
    }
}

/// Searches the attachments and the debts for journals that this Braid cannot read.
pub(super) fn newer_journals(state_dir: &Path) -> Option<Newer> {
    let mut newer = journals(state_dir).into_iter().filter_map(|path| {
        let format = format_at(&path)?;
        (format > NEWEST_FORMAT).then_some((path, format))
    });
    let (path, format) = newer.next()?;
    Some(Newer { path, format, others: newer.count() })
}

/// The files of journals, in order.
fn journals(state_dir: &Path) -> Vec<PathBuf> {
    let entries = |path: &Path| fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path());
    let containers = ["attachments", "debts"].map(|name| state_dir.join(name));
    let containers = containers.iter().flat_map(|path| entries(path).collect::<Vec<_>>());
    let mut journals: Vec<_> = containers.flat_map(|path| entries(&path).collect::<Vec<_>>()).collect();
    journals.retain(|path| path.extension().is_some_and(|ending| ending == "jsonl"));
    journals.sort();
    journals
}

/// The format of a journal, if it names one.
fn format_at(path: &Path) -> Option<u32> {
    let (file, _) = files::open(path, Links::Refused).ok()?;
    let mut line = Vec::new();
    BufReader::new(file.take(MAX_LINE)).read_until(b'\n', &mut line).ok()?;
    format_of(&line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn journals_of_a_newer_format_are_found_among_attachments_and_debts() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("attachments/c1/eth0.jsonl", "{\"format\":1,\"plan\":{}}\n");
        write("attachments/c2/eth0.jsonl", "{\"format\":2}\n{\"format\":9}\n");
        write("attachments/c3/eth0.jsonl", "no journal\n");
        write("attachments/c4/eth0.jsonl.corrupt", "{\"format\":9}\n");
        assert!(newer_journals(dir.path()).is_none());
        assert!(newer_journals(&dir.path().join("none")).is_none());
        write("debts/c5/eth0.jsonl", "{\"format\":3}\n");
        let text = newer_journals(dir.path()).unwrap().to_string();
        assert!(text.contains("debts/c5/eth0.jsonl has format 3: "), "{text}");
        assert!(text.contains("up to 2") && text.contains("braid uninstall --drain"), "{text}");
        write("attachments/c6/eth0.jsonl", "{\"format\":4}");
        let text = newer_journals(dir.path()).unwrap().to_string();
        assert!(text.contains("c6/eth0.jsonl has format 4, and so has 1 other journal: "), "{text}");
    }
}
