//! Network configurations (SPEC §1) and the request configuration derived from them (SPEC §3).
//!
//! A configuration is kept as its original text: every value keeps its exact JSON and its place, so that a plugin gets what the
//! author wrote, including the spelling of numbers. Only the keys that the protocol defines are parsed.

mod error;
mod network;
mod object;
mod plugin;

pub use error::{ConfigError, without_values};
pub use network::{Defaults, NetworkConfig, select_version, spoken_version};
pub use object::{
    BOOLEAN, RawObject, describe, find_folded, fold, folds_to, get, get_bool, get_list, kind, misfit, overlay_objects,
    parse_object, raw, wrong,
};
pub use plugin::{Insert, PluginConfig};
