//! Fetches only definitions, to check pods that do not exist yet.

use std::path::Path;
use std::time::{Duration, Instant};

use super::api::Api;
use super::executor::Executor;
use super::objects;
use crate::config::KubernetesConfig;
use crate::source::pod::{DefinitionKey, Definitions};

/// Fetches definitions until a deadline, from the API server of a kubeconfig, or of the cluster in which this process runs.
/// Definitions that are not known by then are [withheld](Definitions::withheld).
pub fn definitions(kubeconfig: Option<&Path>, keys: Vec<DefinitionKey>, until: Instant) -> Definitions {
    let timeout = until.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
    let config = KubernetesConfig { timeout, ..KubernetesConfig::default() };
    let api = Api::new(kubeconfig.map(Path::to_owned), &config, until);
    let fetched =
        Executor::start().and_then(|executor| executor.block_on(objects::definitions(&api, keys.clone(), |_| true)));
    fetched.unwrap_or_else(|error| {
        let mut definitions = Definitions::default();
        for key in keys {
            definitions.withhold(key, error.to_string());
        }
        definitions
    })
}
