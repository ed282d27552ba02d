//! Braid's own configuration, from JSON to a validated [`Config`].
//!
//! | module | what |
//! |---|---|
//! | [`keys`] | the table of the keys at the top level: each with its reader and its documentation |
//! | [`delegates`], [`selection`], [`selector`] | what is to be attached, and to which containers |
//! | [`claim`] | which device of a pod's resource claims an attachment takes |
//! | [`policy`] | who may use what |
//! | [`multus`], [`kubernetes`], [`timeouts`], [`logging`] | groups of keys |
//! | [`meta`] | which plugins are meta-plugins |
//! | [`object`] | reading the keys of an object, with errors that say where and what |
//! | [`problems`] | a collector of what is wrong |
//! | [`validated`] | the configuration as a whole |

pub mod claim;
pub mod delegates;
pub mod keys;
pub mod kubernetes;
pub mod logging;
pub mod meta;
pub mod multus;
pub mod object;
pub mod policy;
pub mod problems;
pub mod selection;
pub mod selector;
pub mod timeouts;
pub mod validated;

pub use delegates::Delegate;
pub use kubernetes::KubernetesConfig;
pub use logging::LogConfig;
pub use multus::MultusKeys;
pub use object::KeyError;
pub use problems::Problems;
pub use selection::{Author, OperatorSelection, Selection};
pub use timeouts::{Debts, Timeouts};
pub use validated::{
    Concurrency, Config, DEFAULT_BIN_DIR, DEFAULT_CONF_DIR, DEFAULT_MULTUS_DIR, DEFAULT_STATE_DIR, InvalidConfig,
    PodChecks, ResultMode,
};
