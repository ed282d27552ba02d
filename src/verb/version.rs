//! VERSION: which versions of the protocol are spoken here?

use serde::{Deserialize, Serialize};

use super::error::Error;
use crate::answer;
use crate::cni::Version;
use crate::request::Request;

/// Answers with the versions, in the version that was asked in.
pub(super) fn version(request: &Request) -> Result<(), Error> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Asked {
        cni_version: String,
    }
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Answer {
        cni_version: String,
        supported_versions: [Version; 7],
    }
    let asked = serde_json::from_slice::<Asked>(&request.stdin).ok().map(|asked| asked.cni_version);
    let cni_version = asked.filter(|version| !version.is_empty()).unwrap_or_else(|| Version::LATEST.to_string());
    answer::write(&Answer { cni_version, supported_versions: Version::ALL }).map_err(Error::Answer)
}
