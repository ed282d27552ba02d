//! Network configurations (SPEC §1) and the request configuration derived from them (SPEC §3).
//!
//! A configuration is kept as the text it came in: every value stays the JSON it was written as, in its order, so that
//! what a plugin gets is what its author wrote, down to the spelling of a number. Only the keys that the protocol
//! defines are read.

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
