//! Braid: a CNI meta-plugin.

pub mod cni;
pub mod config;
pub mod netns;
pub mod plan;
pub mod request;
pub mod runtime;
pub mod source;

/// Runs the program: as a CNI plugin where `CNI_COMMAND` is set, as a command line otherwise.
pub fn run() -> std::process::ExitCode {
    std::process::ExitCode::SUCCESS
}
