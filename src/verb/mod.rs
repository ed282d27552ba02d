//! The operations of the protocol (SPEC §2, "CNI operations"), each a short function that reads like DESIGN's page.

mod add;
mod check;
mod context;
mod del;
mod error;
mod gc;
mod preflight;
mod status;
mod takeover;
mod version;

pub use error::{Error, Finding, NotReady, What};
pub(crate) use preflight::is_own_executable;

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
    match request.refuse_recursion() {
        // Nothing can be attached by such a call, so there is nothing to delete either. An error would keep the outer call
        // from ever being undone.
        Err(error) if request.verb == Verb::Del => {
            tracing::warn!(container = request.container_id, "nothing to delete: {error}");
            return Ok(());
        }
        outcome => outcome?,
    }
    let (config, unusable) = match (Config::parse(&request.stdin), request.verb) {
        (Ok(config), _) => (config, None),
        // What there is to undo stands in the journals.
        (Err(error), Verb::Del | Verb::Gc) => (Config::essentials(&request.stdin)?, Some(error)),
        (Err(error), _) => return Err(error.into()),
    };
    crate::log::start(&config.log);
    for warning in &config.warnings {
        tracing::warn!(network = config.name, "{warning}");
    }
    match request.verb {
        Verb::Add => add::add(request, &config),
        Verb::Del => del::del(request, &config, unusable),
        Verb::Check => check::check(request, &config),
        Verb::Status => status::status(request, &config),
        Verb::Gc => gc::gc(request, &config, unusable),
        Verb::Version => version::version(request),
    }
}
