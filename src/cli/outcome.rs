//! What every command ends with.

use std::process::ExitCode;

use serde_json::value::RawValue;

use crate::answer;
use crate::cni::{CniError, Version};

/// Why a command failed.
#[derive(Debug)]
pub(super) enum CliError {
    /// An error of a plugin or of a network. It is also printed as JSON, in the network's version.
    Cni(CniError, Version),
    /// The same, with the JSON that is printed instead of only the error.
    Reported(CniError, Box<RawValue>),
    /// Anything else, as a message.
    Plain(String),
    /// What is wrong has been printed.
    Printed,
}

impl CliError {
    /// The same as text, for commands that continue after it.
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

/// The outcome of a command: its exit status, or why it failed.
pub(super) type Outcome = Result<ExitCode, CliError>;

/// Prints text. If the reader closes its end early, as `head` does, that is not a failure.
pub(super) fn print(text: &str) -> Outcome {
    match answer::write_text(text) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(ExitCode::SUCCESS),
    }
}
