//! The log: one line for each event, as text to standard error, and as JSON to a file if the configuration names one.
//!
//! Each event has fields about the call, and its own. Values may come from plugins and pods' authors, so no value can begin a new
//! line or change how a terminal shows the rest.

use std::fmt::{self, Write as _};
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use nix::libc::{O_CLOEXEC, O_NOFOLLOW, O_NONBLOCK};
use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime as Now};

use crate::cni::CniError;
use crate::cni::text::escaped;
use crate::config::LogConfig;
use crate::output;

/// Starts logging with the given settings: by default, warnings and errors to standard error. `call` has the fields of every event;
/// empty ones are left out.
///
/// If a log file cannot be written, that is reported on standard error, and the call continues.
pub(crate) fn start(config: &LogConfig, call: &[(&'static str, &str)]) {
    let level = level(config.level.as_deref());
    if level == LevelFilter::OFF {
        return;
    }
    let mut complaint = None;
    let file = config.file.as_deref().and_then(|path| match open(path, config) {
        Ok(file) => Some(file),
        Err(error) => {
            complaint = Some(error);
            None
        }
    });
    let call =
        call.iter().filter(|(_, value)| !value.is_empty()).map(|&(key, value)| (key, value.to_owned())).collect();
    let lines = Lines { level, call, to_stderr: config.to_stderr, file, lost: AtomicU64::new(0) };
    // Only the first call in a process starts a log; the command line may have started its own.
    drop(tracing::subscriber::set_global_default(lines));
    if let Some(error) = complaint {
        let path = config.file.as_deref().unwrap_or(Path::new(""));
        tracing::warn!("the log file {} cannot be used: {error}", path.display());
    }
}

/// Logs the outcome of a call, and how much of standard error was dropped because nobody read it.
pub(crate) fn call_finished(error: Option<&CniError>, took: Duration) {
    let dropped = output::abandon_stderr();
    if dropped > 0 {
        tracing::warn!(bytes = dropped, "standard error was not read, and the end of it was dropped");
    }
    let duration = milliseconds(took);
    match error {
        None => tracing::info!({ DURATION } = duration, "done"),
        Some(error) if error.details.is_empty() => {
            tracing::error!({ CODE } = error.code, { DURATION } = duration, "{}", error.msg);
        }
        Some(error) => {
            tracing::error!({ CODE } = error.code, { DURATION } = duration, details = error.details, "{}", error.msg);
        }
    }
}

/// The key for a duration in milliseconds.
const DURATION: &str = "durationMs";
/// The key for the number of previous lines that could not be written to the log file.
const LOST: &str = "linesLost";
/// The key of an error's code.
const CODE: &str = "code";

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// Writes each event as a line. It has no support for spans: Braid has none, and it would cost memory in every call.
struct Lines {
    level: LevelFilter,
    /// What every event is about.
    call: Vec<(&'static str, String)>,
    to_stderr: Option<bool>,
    file: Option<File>,
    /// The number of lines that could not be written to the file since the last one that could.
    lost: AtomicU64,
}

impl Subscriber for Lines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        // `debug` is for Braid's own events. The HTTP client's events about each frame need `trace`.
        *metadata.level() <= self.level && (self.level == LevelFilter::TRACE || is_own(metadata.target()))
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.level)
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut time = String::new();
        let _ = Now.format_time(&mut Writer::new(&mut time));
        let level = event.metadata().level();
        let mut fields = Fields::default();
        event.record(&mut fields);
        let Fields { message, mut members } = fields;
        for (key, value) in &self.call {
            members.entry(*key).or_insert_with(|| value.clone().into());
        }
        // The runtime gets it in the answer, so it is logged only if the configuration asks for logs.
        let is_answered = members.contains_key(CODE);
        if self.to_stderr.unwrap_or(!is_answered) {
            let mut line = format!("{time} {level:>5} {}", escaped(&message));
            for (key, value) in &members {
                let _ = write!(line, " {key}={}", escaped(&value.to_string()));
            }
            output::write_stderr((line + "\n").as_bytes());
            output::flush_stderr();
        }
        if let Some(mut file) = self.file.as_ref() {
            let mut line = Map::new();
            let lost = self.lost.swap(0, Ordering::Relaxed);
            if lost > 0 {
                members.insert(LOST.to_owned(), lost.into());
            }
            line.extend(
                [("timestamp", time), ("level", level.to_string()), ("message", message)]
                    .map(|(key, value)| (key.to_owned(), Value::from(value))),
            );
            line.append(&mut members);
            // Written at once, so that the lines of concurrent calls do not mix. Does not block if the file is a pipe.
            let line = escaped(&Value::from(line).to_string()) + "\n";
            if file.write_all(line.as_bytes()).is_err() {
                self.lost.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

/// Whether a module is Braid's own, rather than a library's.
fn is_own(target: &str) -> bool {
    target.split("::").next() == Some(env!("CARGO_CRATE_NAME"))
}

/// What an event says.
#[derive(Default)]
struct Fields {
    message: String,
    members: Map<String, Value>,
}

impl Fields {
    fn set(&mut self, field: &Field, value: impl Into<Value>) {
        self.members.insert(field.name().to_owned(), value.into());
    }
}

impl Visit for Fields {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.set(field, (value * 1e3).round() / 1e3);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.set(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.set(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.set(field, value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.set(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let text = format!("{value:?}");
        if field.name() == "message" {
            self.message = text;
        } else {
            self.set(field, text);
        }
    }
}

/// Multus's names for levels, and the usual ones.
fn level(name: Option<&str>) -> LevelFilter {
    match name.map(str::to_ascii_lowercase).as_deref() {
        Some("panic") => LevelFilter::OFF,
        Some("error") => LevelFilter::ERROR,
        Some("verbose" | "info") => LevelFilter::INFO,
        Some("debug") => LevelFilter::DEBUG,
        Some("trace") => LevelFilter::TRACE,
        _ => LevelFilter::WARN,
    }
}

fn open(path: &Path, config: &LogConfig) -> io::Result<File> {
    // Does not block, in case the path is a named pipe without a reader.
    let flags = O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK;
    let open = || OpenOptions::new().append(true).create(true).mode(0o600).custom_flags(flags).open(path);
    let file = open()?;
    if rotate(&file, path, config)? { open() } else { Ok(file) }
}

/// Rotates a file that is too large, and removes old files that are too many or too old. Returns whether the path leads to another
/// file now.
///
/// If several calls find the file too large, the one that locks it rotates it. Another finds the file locked, or no longer at its
/// path.
fn rotate(file: &File, path: &Path, config: &LogConfig) -> io::Result<bool> {
    let metadata = file.metadata()?;
    if !metadata.is_file() || metadata.len() < config.max_size.saturating_mul(1_000_000) {
        return Ok(false);
    }
    if file.try_lock().is_err() {
        return Ok(false);
    }
    if !is_at(&metadata, path) {
        return Ok(true);
    }
    let rotated = set_aside(path, config);
    // Otherwise the lock would last as long as a process has the file open.
    drop(file.unlock());
    rotated.map(|()| true)
}

/// Whether a path leads to the file with this metadata.
fn is_at(metadata: &std::fs::Metadata, path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|now| (now.dev(), now.ino()) == (metadata.dev(), metadata.ino()))
}

/// Renames a file to the first of the old files, and each old file to the next name.
fn set_aside(path: &Path, config: &LogConfig) -> io::Result<()> {
    let backup = |number: u32| PathBuf::from(format!("{}.{number}", path.display()));
    let max_age = Duration::from_secs(config.max_age.saturating_mul(24 * 60 * 60));
    let is_old = |path: &Path| {
        let age =
            path.metadata().and_then(|metadata| metadata.modified()).map(|at| SystemTime::now().duration_since(at));
        matches!(age, Ok(Ok(age)) if config.max_age > 0 && age > max_age)
    };
    for number in (1..=config.max_backups).rev() {
        let from = if number == 1 { path.to_owned() } else { backup(number - 1) };
        match std::fs::rename(&from, backup(number)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        if is_old(&backup(number)) {
            drop(std::fs::remove_file(backup(number)));
        }
    }
    if config.max_backups == 0 {
        std::fs::remove_file(path)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_file_is_set_aside_and_only_so_many_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let config = LogConfig { max_size: 0, max_backups: 2, max_age: 5, ..LogConfig::default() };
        for round in 0..5 {
            drop(open(&path, &config).unwrap());
            std::fs::write(&path, round.to_string()).unwrap();
        }
        let read = |name: &str| std::fs::read_to_string(dir.path().join(name)).ok();
        assert_eq!(read("log").as_deref(), Some("4"));
        assert_eq!(read("log.1").as_deref(), Some("3"));
        assert_eq!(read("log.2").as_deref(), Some("2"));
        assert_eq!(read("log.3"), None);
    }

    /// All of these calls find the file too large. A line that was written is in the file or in an old one.
    #[test]
    fn calls_that_rotate_at_once_lose_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let config = LogConfig { max_size: 0, max_backups: 1000, max_age: 0, ..LogConfig::default() };
        let threads = 8;
        let rounds = 25;
        std::thread::scope(|scope| {
            for thread in 0..threads {
                let (path, config) = (&path, &config);
                scope.spawn(move || {
                    for round in 0..rounds {
                        let mut file = open(path, config).unwrap();
                        writeln!(file, "{thread} {round}").unwrap();
                    }
                });
            }
        });
        let files = dir.path().read_dir().unwrap().map(|entry| std::fs::read_to_string(entry.unwrap().path()).unwrap());
        assert_eq!(files.map(|text| text.lines().count()).sum::<usize>(), threads * rounds);
    }

    #[test]
    fn levels_of_multus() {
        assert_eq!(level(None), LevelFilter::WARN);
        assert_eq!(level(Some("panic")), LevelFilter::OFF);
        assert_eq!(level(Some("Verbose")), LevelFilter::INFO);
    }
}
