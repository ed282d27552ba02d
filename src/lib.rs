//! Braid: a CNI meta-plugin.

pub mod answer;
mod cli;
pub mod cni;
pub mod config;
mod log;
pub mod merge;
pub mod netns;
pub mod plan;
pub mod request;
pub mod runtime;
pub mod source;
pub mod transaction;
pub mod verb;

use std::process::ExitCode;

use cni::Version;
use request::Request;

/// Runs the program: as a CNI plugin where `CNI_COMMAND` is set, as a command line otherwise.
pub fn run() -> ExitCode {
    let request = match Request::read() {
        Ok(Some(request)) => request,
        Ok(None) => return cli::run(),
        Err(error) => return answer::write_error(&error.into(), None, Version::LATEST),
    };
    match verb::run(&request) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => answer::write_error(&error, Some(request.verb), request.version()),
    }
}
