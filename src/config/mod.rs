//! Braid's own configuration, from JSON to a validated [`Config`], and the words it is written in: keys, selections,
//! selectors and the policy.

mod braid;
pub mod key;
pub mod policy;
pub mod problems;
pub mod selection;
pub mod selector;

pub use braid::*;
pub use selection::{OperatorSelection, Selection};
