//! A service account's token that stays valid after the requesting pod is gone.

use std::path::Path;
use std::time::Duration;

use http::header::CONTENT_TYPE;
use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::jiff::Timestamp;
use serde_json::json;

use super::api::{Api, not_a_request};
use super::executor::Executor;
use crate::config::KubernetesConfig;
use crate::runtime::deadline;
use crate::source::ClusterError;

/// How long the API server may take.
const API_TIMEOUT: Duration = Duration::from_secs(5);

/// Requests a token of a service account with this lifetime, which the API server may shorten, with the credentials of a
/// kubeconfig. Returns the token and its lifetime.
///
/// # Errors
/// When the API server grants none.
pub fn lasting_token(
    kubeconfig: &Path,
    (namespace, account): (&str, &str),
    lifetime: Duration,
) -> Result<(String, Duration), ClusterError> {
    let config = KubernetesConfig { timeout: API_TIMEOUT, ..KubernetesConfig::default() };
    let api = Api::new(Some(kubeconfig.to_owned()), &config, deadline::after(API_TIMEOUT));
    let action = format!("make a token of service account {namespace}/{account}");
    let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token");
    let wish = json!({
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "spec": { "audiences": [], "expirationSeconds": lifetime.as_secs() },
    });
    let request = http::Request::post(path).header(CONTENT_TYPE, "application/json");
    let request = request.body(serde_json::to_vec(&wish).unwrap_or_default()).map_err(not_a_request)?;
    let answer: TokenRequest = Executor::start()?.block_on(api.ask(&action, request))?;
    let reason = "with no token in its answer".into();
    let status = answer.status.ok_or(ClusterError::Refused { action, status: 200, reason })?;
    let granted = status.expiration_timestamp.0.duration_since(Timestamp::now());
    Ok((status.token, granted.try_into().unwrap_or_default()))
}
