//! The log: one line an event, to standard error, and to a file if the configuration names one.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use nix::libc::{O_CLOEXEC, O_NOFOLLOW, O_NONBLOCK};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, fmt};

use crate::config::LogConfig;

/// Starts logging as the configuration says: warnings and errors to standard error if it says nothing.
///
/// A log file that cannot be written is reported on standard error and is no reason to fail.
pub(crate) fn start(config: &LogConfig) {
    let level = level(config.level.as_deref());
    if level == LevelFilter::OFF {
        return;
    }
    let stderr = config
        .to_stderr
        .unwrap_or(true)
        .then(|| fmt::layer().with_writer(io::stderr).with_ansi(false).with_target(false).with_filter(level));
    let mut complaint = None;
    let file = config.file.as_deref().and_then(|path| match open(path, config) {
        Ok(file) => {
            let layer = fmt::layer().json().flatten_event(true).with_current_span(false).with_target(false);
            Some(layer.with_writer(file).with_filter(level))
        }
        Err(error) => {
            complaint = Some(error);
            None
        }
    });
    // Only the first call of a process starts a log; the command line may have started one of its own.
    drop(tracing_subscriber::registry().with(stderr).with(file).try_init());
    if let Some(error) = complaint {
        let path = config.file.as_deref().unwrap_or(Path::new(""));
        tracing::warn!("the log file {} cannot be used: {error}", path.display());
    }
}

/// Multus's names of levels, and the usual ones.
fn level(name: Option<&str>) -> LevelFilter {
    match name.map(str::to_ascii_lowercase).as_deref() {
        Some("panic") => LevelFilter::OFF,
        Some("error") => LevelFilter::ERROR,
        Some("verbose" | "info") => LevelFilter::INFO,
        Some("debug") => LevelFilter::DEBUG,
        _ => LevelFilter::WARN,
    }
}

fn open(path: &Path, config: &LogConfig) -> io::Result<File> {
    rotate(path, config)?;
    // Non-blocking, lest a path that turns out to be a named pipe keeps us waiting for its reader.
    let flags = O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK;
    OpenOptions::new().append(true).create(true).mode(0o600).custom_flags(flags).open(path)
}

/// Sets a file aside that has grown too large, and forgets those set aside that are too many or too old. Several calls
/// may do this at once: each step is fine when another has already made it.
fn rotate(path: &Path, config: &LogConfig) -> io::Result<()> {
    let size = match path.metadata() {
        Ok(metadata) => metadata.len(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if size < config.max_size.saturating_mul(1_000_000) {
        return Ok(());
    }
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

    #[test]
    fn levels_of_multus() {
        assert_eq!(level(None), LevelFilter::WARN);
        assert_eq!(level(Some("panic")), LevelFilter::OFF);
        assert_eq!(level(Some("Verbose")), LevelFilter::INFO);
    }
}
