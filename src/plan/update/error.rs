//! Why an attachment cannot be given new values.

use crate::cni::CniError;
use crate::cni::config::ConfigError;
use crate::cni::error::code;

/// An update that cannot be.
#[derive(Debug, thiserror::Error)]
pub enum UpdateError {
    /// The chain has no such plugin.
    #[error(
        "{label}: its chain has no plugin of type {plugin_type:?}, only {}; a plugin that stands beside braid in the runtime's \
         list is the runtime's: move it into the delegate's chain",
        chain.join(" > ")
    )]
    NoStep {
        /// Which attachment.
        label: String,
        /// The type asked for.
        plugin_type: String,
        /// The types that are there.
        chain: Vec<String>,
    },
    /// The chain has several plugins of this type, and none was chosen.
    #[error("{label}: its chain has {count} plugins of type {plugin_type:?}; say which one, such as {plugin_type}#1")]
    WhichStep {
        /// Which attachment.
        label: String,
        /// The type asked for.
        plugin_type: String,
        /// How many there are.
        count: usize,
    },
    /// The chain has fewer.
    #[error("{label}: its chain has no {plugin_type}#{number}, only {count} of type {plugin_type:?}")]
    NoSuchStep {
        /// Which attachment.
        label: String,
        /// The type asked for.
        plugin_type: String,
        /// Which one was asked for, counted from 1.
        number: usize,
        /// How many there are.
        count: usize,
    },
    /// The type of this plugin does not support being redone.
    #[error(
        "{label}: a plugin of type {plugin_type:?} cannot be changed while the container lives, only bandwidth, portmap, firewall \
         and tuning; use braid detach and braid attach instead or, for the primary network, create the container again"
    )]
    Kind {
        /// Which attachment.
        label: String,
        /// The type.
        plugin_type: String,
    },
    /// The step does not declare the capability.
    #[error(
        "{label}: {plugin_type}: {capability}: this step does not declare that capability, and so it would not get the values"
    )]
    Undeclared {
        /// Which attachment.
        label: String,
        /// The plugin's type.
        plugin_type: &'static str,
        /// The capability.
        capability: &'static str,
    },
    /// A value that the plugin cannot use, or cannot undo.
    #[error("{label}: {plugin_type}: {key}: {why}")]
    Value {
        /// Which attachment.
        label: String,
        /// The plugin's type.
        plugin_type: String,
        /// The key.
        key: String,
        /// Why not.
        why: String,
    },
    /// The new configuration is none.
    #[error("{label}: {plugin_type}: {source}")]
    Config {
        /// Which attachment.
        label: String,
        /// The plugin's type.
        plugin_type: String,
        /// What is wrong.
        source: ConfigError,
    },
    /// A later step cannot be redone with the new result that it would get.
    #[error(
        "{label}: the new values change the result that the plugin {later:?} after {plugin_type:?} was given, and that one cannot \
         be redone; use braid detach and braid attach instead or, for the primary network, create the container again"
    )]
    Later {
        /// Which attachment.
        label: String,
        /// The changed plugin's type.
        plugin_type: String,
        /// The later plugin's type.
        later: String,
    },
}

impl From<&UpdateError> for CniError {
    fn from(error: &UpdateError) -> Self {
        Self::new(code::INVALID_CONFIG, error.to_string())
    }
}
