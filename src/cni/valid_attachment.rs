//! The attachments that GC must not remove (SPEC §2, "GC").

use indexmap::IndexSet;
use serde::{Deserialize, Serialize};

use super::config::{ConfigError, RawObject, get_list};

/// The keys of the list in a request configuration: the specification's key, and its older name.
const KEYS: [&str; 2] = ["cni.dev/valid-attachments", "cni.dev/attachments"];

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
    /// The list in a plugin's request configuration: under the specification's key, and under the one that libcni's first release
    /// of GC used. Attachments under either key are valid.
    ///
    /// An empty list and `null`, which is Go's empty list, mean that no attachment is valid any more. `None` means that the runtime
    /// gave no list: both keys are missing.
    ///
    /// # Errors
    /// When it is not such a list.
    pub fn in_config(object: &RawObject) -> Result<Option<Vec<Self>>, ConfigError> {
        let mut valid: Option<Vec<Self>> = None;
        for key in KEYS.into_iter().filter(|key| object.contains_key(*key)) {
            let listed: Option<Vec<Self>> =
                get_list(object, key, "a list of {containerID, ifname}", "{containerID, ifname}, both strings")?;
            valid.get_or_insert_default().extend(listed.unwrap_or_default());
        }
        Ok(valid.map(|valid| IndexSet::<Self>::from_iter(valid).into_iter().collect()))
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::cni::config::parse_object;

    #[rstest]
    #[case::absent("{}", None)]
    #[case::null(r#"{"cni.dev/valid-attachments": null}"#, Some("[]"))]
    #[case::older_null(r#"{"cni.dev/attachments": null}"#, Some("[]"))]
    #[case::both_null(r#"{"cni.dev/valid-attachments": null, "cni.dev/attachments": null}"#, Some("[]"))]
    #[case::empty(r#"{"cni.dev/valid-attachments": []}"#, Some("[]"))]
    #[case::listed(
        r#"{"cni.dev/valid-attachments": [{"containerID": "a", "ifname": "i"}]}"#,
        Some(r#"[{"containerID":"a","ifname":"i"}]"#)
    )]
    #[case::under_the_other_key(
        r#"{"cni.dev/valid-attachments": null, "cni.dev/attachments": [{"containerID": "a", "ifname": "i"}]}"#,
        Some(r#"[{"containerID":"a","ifname":"i"}]"#)
    )]
    #[case::under_both(
        r#"{"cni.dev/valid-attachments": [{"containerID": "a", "ifname": "i"}],
            "cni.dev/attachments": [{"containerID": "a", "ifname": "i"}, {"containerID": "b", "ifname": "i"}]}"#,
        Some(r#"[{"containerID":"a","ifname":"i"},{"containerID":"b","ifname":"i"}]"#)
    )]
    fn null_is_an_empty_list_and_only_absent_keys_say_nothing(#[case] config: &str, #[case] valid: Option<&str>) {
        let object = parse_object(config.as_bytes()).unwrap();
        let found = ValidAttachment::in_config(&object).unwrap();
        let found = found.map(|list| serde_json::to_string(&list).unwrap());
        assert_eq!(found.as_deref(), valid);
    }
}
