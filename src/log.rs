//! The log: one line an event, to standard error or a file.

use crate::config::LogConfig;

/// Starts logging as the configuration says.
pub(crate) fn start(_config: &LogConfig) {}
