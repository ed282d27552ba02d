//! STATUS: whether the API server can be asked.

use std::time::{Duration, Instant};

use super::api::Api;
use super::executor::Executor;
use super::objects;
use super::scope::is_configured;
use crate::config::{Config, KubernetesConfig};
use crate::request::Request;
use crate::runtime::deadline;
use crate::source::pod::Definitions;
use crate::source::{ClusterError, operators_definitions};

/// How long the API server may take in all.
const API_TIMEOUT: Duration = Duration::from_secs(1);

/// Checks whether the API server accepts the credentials and knows the type of definitions, and fetches the definitions that the
/// operator's own networks may need.
///
/// If the server is down, that is a warning in the log and not an error: nothing is scheduled meanwhile, and a node that is not
/// ready takes long to recover. There is no retry. Definitions that are not known then are [withheld](Definitions::withheld).
///
/// # Errors
/// When it refuses, or the credentials cannot be used.
pub fn probe(config: &Config, request: &Request, until: Instant) -> Result<Option<Definitions>, ClusterError> {
    if !is_configured(config, request) {
        return Ok(None);
    }
    let once = KubernetesConfig { timeout: API_TIMEOUT, retries: 0, ..config.kubernetes.clone() };
    let api = Api::new(config.kubeconfig.clone(), &once, until.min(deadline::after(API_TIMEOUT)));
    let keys = operators_definitions(config);
    let found = Executor::start()?.block_on(async {
        objects::find_definitions_type(&api).await?;
        objects::definitions(&api, keys.clone(), |_| false).await
    });
    match found {
        Err(error @ ClusterError::Unavailable { .. }) => {
            tracing::warn!("{error}; pods of this node get no networks until it answers");
            let mut definitions = Definitions::default();
            for key in keys {
                definitions.withhold(key, error.to_string());
            }
            Ok(Some(definitions))
        }
        found => found.map(Some),
    }
}
