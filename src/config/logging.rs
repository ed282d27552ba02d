//! The keys of the log.

use std::path::PathBuf;

use super::object::{KeyError, Keys};

/// The names of the levels, from the least to the most.
const LEVELS: [&str; 7] = ["panic", "error", "warning", "info", "verbose", "debug", "trace"];
/// The keys of `logOptions`.
pub(super) const LOG_OPTION_KEYS: [&str; 4] = ["maxSize", "maxBackups", "maxAge", "compress"];

/// The log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogConfig {
    /// The least important level that is logged. Warnings and errors by default.
    pub level: Option<String>,
    /// A file to log to.
    pub file: Option<PathBuf>,
    /// Whether to log to standard error: yes by default.
    pub to_stderr: Option<bool>,
    /// The size in megabytes after which the file is rotated.
    pub max_size: u64,
    /// How many files set aside are kept.
    pub max_backups: u32,
    /// How many days files set aside are kept.
    pub max_age: u64,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { level: None, file: None, to_stderr: None, max_size: 100, max_backups: 5, max_age: 5 }
    }
}

/// `logLevel`.
pub(super) fn level(keys: &Keys<'_>) -> Result<Option<String>, KeyError> {
    let level = keys.string("logLevel")?.filter(|level| !level.is_empty());
    let is_known = |level: &str| LEVELS.iter().any(|known| known.eq_ignore_ascii_case(level));
    if level.as_deref().is_some_and(|level| !is_known(level)) {
        let [others @ .., last] = LEVELS;
        return Err(keys.wrong("logLevel", format!("{} or {last}", others.join(", "))));
    }
    Ok(level)
}

impl LogConfig {
    /// Reads `logOptions` into this. Returns the unknown keys.
    pub(super) fn read_options(&mut self, keys: &Keys<'_>) -> Result<Vec<KeyError>, KeyError> {
        let options = keys.object("logOptions")?.unwrap_or_default();
        let options = Keys::new(&options, "logOptions");
        let number = |key, default: u64| options.get::<u64>(key, "a whole number").map(|n| n.unwrap_or(default));
        options.boolean("compress")?;
        self.max_size = number("maxSize", self.max_size)?;
        // Each rotation renames every old file.
        self.max_backups = u32::try_from(number("maxBackups", self.max_backups.into())?.min(1000)).unwrap_or(1000);
        self.max_age = number("maxAge", self.max_age)?;
        Ok(options.unknown(&LOG_OPTION_KEYS))
    }
}
