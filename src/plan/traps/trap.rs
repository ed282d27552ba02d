//! What the tables lead to.

use crate::cni::config::{RawObject, get};

/// Something that will go wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trap {
    /// Whether ADD is certain to fail.
    pub is_fatal: bool,
    /// A problem, its reason, and a remedy.
    pub message: String,
}

/// The text at a key of an object, if there is one.
pub(super) fn text(object: &RawObject, key: &str) -> Option<String> {
    get(object, key, "a string").ok().flatten().filter(|text: &String| !text.is_empty())
}
