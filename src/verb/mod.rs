//! The operations of the protocol (SPEC §2, "CNI operations"), each a short function that reads like DESIGN's page.

mod add;
mod check;
mod context;
mod del;
mod error;
mod gc;
mod preflight;
mod status;
mod version;

pub use error::{Error, Finding, NotReady, What};

use crate::config::Config;
use crate::request::Request;
use crate::runtime::Verb;

/// Carries out a call.
///
/// # Errors
/// Whatever keeps it from being carried out.
pub fn run(request: &Request) -> Result<(), Error> {
    if request.verb == Verb::Version {
        return version::version(request);
    }
    if request.is_own_delegate {
        return Ok(());
    }
    let config = Config::parse(&request.stdin)?;
    crate::log::start(&config.log);
    for warning in &config.warnings {
        tracing::warn!(network = config.name, "{warning}");
    }
    match request.verb {
        Verb::Add => add::add(request, &config),
        Verb::Del => del::del(request, &config),
        Verb::Check => check::check(request, &config),
        Verb::Status => status::status(request, &config),
        Verb::Gc => gc::gc(request, &config),
        Verb::Version => version::version(request),
    }
}
