//! The CNI protocol as data: versions, configurations, arguments, results and errors.
//!
//! Nothing here has side effects, and nothing here depends on the rest of the crate. So it can be used alone, to read and write the
//! messages of runtimes and plugins. The names are the specification's ([CNI SPEC 1.1.0](https://www.cni.dev/docs/spec/)).

pub mod args;
pub mod capability;
pub mod config;
pub mod error;
mod family;
pub mod result;
pub mod text;
mod valid_attachment;
pub mod validate;
mod verb;
pub mod version;

pub use args::Args;
pub use config::{NetworkConfig, PluginConfig, RawObject};
pub use error::CniError;
pub use family::Family;
pub use result::AddResult;
pub use valid_attachment::ValidAttachment;
pub use verb::Verb;
pub use version::Version;
