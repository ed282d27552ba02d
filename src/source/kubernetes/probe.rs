//! STATUS: whether the API server could be asked.

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
const PATIENCE: Duration = Duration::from_secs(1);

/// Looks, for STATUS, whether the API server takes the credentials and knows the definitions' type, and fetches the
/// definitions that the operator's own networks may be.
///
/// A server that is away is a warning in the log and no error: nothing is scheduled without it, and each node that is not
/// ready meanwhile takes its time to come back. It is asked once. What is not known then is
/// [withheld](Definitions::withheld).
///
/// # Errors
/// When it refuses, or the credentials cannot be used.
pub fn probe(config: &Config, request: &Request, until: Instant) -> Result<Option<Definitions>, ClusterError> {
    if !is_configured(config, request) {
        return Ok(None);
    }
    let once = KubernetesConfig { timeout: PATIENCE, retries: 0, ..config.kubernetes.clone() };
    let api = Api::new(config.kubeconfig.clone(), &once, until.min(deadline::after(PATIENCE)));
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
