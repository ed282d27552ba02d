//! The operations of the protocol (SPEC §2, "CNI operations"), each a short function that reads like DESIGN's page.

mod add;
mod check;
mod context;
mod del;
mod error;
mod gc;
mod later;
pub mod live;
mod preflight;
mod status;
mod takeover;
mod version;

pub use error::{Error, Finding, NotReady, What};
pub(crate) use preflight::is_own_executable;

use std::time::Instant;

use crate::cni::CniError;
use crate::cni::Verb;
use crate::config::Config;
use crate::request::Request;

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
        (Err(error), verb @ (Verb::Del | Verb::Gc)) => (Config::essentials(&request.stdin, verb)?, Some(error)),
        (Err(error), _) => return Err(error.into()),
    };
    let began = Instant::now();
    crate::log::start(&config.log, &about(request, &config));
    for warning in &config.call_warnings {
        tracing::warn!("{warning}");
    }
    // The same in every call: `validate` and `plan` are who warns of them.
    for warning in &config.operator_warnings {
        tracing::debug!("{warning}");
    }
    let outcome = match request.verb {
        Verb::Add => add::add(request, &config),
        Verb::Del => del::del(request, &config, unusable),
        Verb::Check => check::check(request, &config),
        Verb::Status => status::status(request, &config),
        Verb::Gc => gc::gc(request, &config, unusable),
        Verb::Version => version::version(request),
    };
    crate::log::ended(outcome.as_ref().err().map(CniError::from).as_ref(), began.elapsed());
    outcome
}

/// What every line of the log is about.
fn about<'a>(request: &'a Request, config: &'a Config) -> [(&'static str, &'a str); 7] {
    let arg = |key| request.arg(key).unwrap_or_default();
    [
        ("verb", request.verb.as_str()),
        ("podNamespace", arg("K8S_POD_NAMESPACE")),
        ("podName", arg("K8S_POD_NAME")),
        ("podUID", arg("K8S_POD_UID")),
        ("container", &request.container_id),
        ("network", &config.name),
        ("interface", &request.ifname),
    ]
}
