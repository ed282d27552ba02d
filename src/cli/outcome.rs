//! What every command ends with.

use std::process::ExitCode;

use serde_json::value::RawValue;

use crate::answer;
use crate::cni::{CniError, Version};

/// Why a command failed.
#[derive(Debug)]
pub(super) enum CliError {
    /// A plugin's error, or one like it: printed as JSON too, in the network's version.
    Cni(CniError, Version),
    /// The same with what is printed in place of the error alone.
    Reported(CniError, Box<RawValue>),
    /// Anything else, as a message.
    Plain(String),
    /// What is wrong has been printed.
    Printed,
}

impl CliError {
    /// The same as text, for what goes on after it.
    pub(super) fn message(&self) -> String {
        match self {
            Self::Cni(error, _) | Self::Reported(error, _) => error.to_string(),
            Self::Plain(message) => message.clone(),
            Self::Printed => "see above".into(),
        }
    }
}

impl<E: std::error::Error> From<E> for CliError {
    fn from(error: E) -> Self {
        Self::Plain(error.to_string())
    }
}

/// What a command ends with: its exit status, or why it failed.
pub(super) type Outcome = Result<ExitCode, CliError>;

/// Prints text. A reader that closes its end early, as `head` does, is no failure.
pub(super) fn print(text: &str) -> Outcome {
    match answer::write_text(text) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(ExitCode::SUCCESS),
    }
}
