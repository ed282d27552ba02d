//! What a pod would get, for `braid plan --pod`.

use std::time::Instant;

use super::Session;
use crate::config::Config;
use crate::request::Request;
use crate::source::{ClusterError, Surveyed};

/// What a pod would get. Reads from the API server and changes nothing. Returns the call as the plugins would see it, and the
/// attachments with all problems.
///
/// # Errors
/// When the pod is not there, or the API server cannot be asked.
pub fn explain(
    config: &Config,
    request: &Request,
    (namespace, name): (&str, &str),
    deadline: Instant,
) -> Result<(Request, Surveyed), ClusterError> {
    let mut args = request.args.clone();
    args.set("K8S_POD_NAMESPACE", namespace);
    args.set("K8S_POD_NAME", name);
    let request = request.with_args(args);
    let Some(session) = Session::open(config, &request, deadline)? else {
        return Err(ClusterError::NotConfigured);
    };
    session.survey(config, &request)
}
