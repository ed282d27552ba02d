//! The attachments that GC leaves alone (SPEC §2, "GC").

use serde::{Deserialize, Serialize};

use super::config::{ConfigError, RawObject, get};

/// An attachment that GC must leave alone.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ValidAttachment {
    /// The container's ID.
    #[serde(rename = "containerID")]
    pub container_id: String,
    /// The interface's name.
    pub ifname: String,
}

impl ValidAttachment {
    /// The list in a plugin's request configuration: under the specification's key, or the one that libcni's first
    /// release of GC used. `None` if neither is there.
    ///
    /// # Errors
    /// When it is not such a list.
    pub fn in_config(object: &RawObject) -> Result<Option<Vec<Self>>, ConfigError> {
        let by_key = |key| get(object, key, "a list of {containerID, ifname}");
        Ok(by_key("cni.dev/valid-attachments")?.or(by_key("cni.dev/attachments")?))
    }
}
