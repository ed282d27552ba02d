//! Multus's keys, except those that are also Braid's own.

use super::object::{KeyError, Keys};

/// What `clusterNetwork` and the like need.
#[derive(Debug, Clone)]
pub struct MultusKeys {
    /// The primary network of every pod.
    pub cluster_network: Option<String>,
    /// More networks for every pod outside `system_namespaces`.
    pub default_networks: Vec<String>,
    /// The namespace of the definitions of `cluster_network` and `default_networks`.
    pub multus_namespace: String,
    /// Namespaces whose pods do not get `default_networks`.
    pub system_namespaces: Vec<String>,
    /// Whether pods may use only definitions of their own namespace and of `global_namespaces`.
    pub namespace_isolation: bool,
    /// Namespaces whose NADs every pod may use.
    pub global_namespaces: Vec<String>,
    /// A chain that is run as the last delegate if it exists.
    pub auxiliary_chain: Option<String>,
}

impl Default for MultusKeys {
    fn default() -> Self {
        Self {
            cluster_network: None,
            default_networks: Vec::new(),
            multus_namespace: "kube-system".into(),
            system_namespaces: vec!["kube-system".into()],
            namespace_isolation: false,
            global_namespaces: vec!["default".into()],
            auxiliary_chain: None,
        }
    }
}

/// `globalNamespaces`: names, separated by commas.
pub(super) fn global_namespaces(keys: &Keys<'_>) -> Result<Option<Vec<String>>, KeyError> {
    let text = keys.string("globalNamespaces")?.filter(|text| !text.trim().is_empty());
    Ok(text.map(|text| text.split(',').map(|name| name.trim().to_owned()).collect()))
}
