//! Who wrote a selection, and what only the operator can write.

use serde::{Deserialize, Serialize};

use super::super::object::{KeyError, Keys};
use super::super::selector::Selector;
use super::element::{KEYS, Selection};
use crate::cni::config::{RawObject, parse_object};

/// The keys that only an operator's selection can have.
pub(in crate::config) const OPERATOR_KEYS: [&str; 3] = ["config", "when", "optional"];

/// Who asks for an attachment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Author {
    /// The node's operator, in the configuration.
    #[default]
    Operator,
    /// The container's author, through the runtime or the Kubernetes API: anyone who may create a pod.
    Pod,
}

impl Author {
    /// Whether it is the operator.
    pub fn is_operator(&self) -> bool {
        *self == Self::Operator
    }
}

/// A selection as an operator can write it.
#[derive(Debug, Clone, Default)]
pub struct OperatorSelection {
    /// Its place, such as `delegates[1]`, for messages.
    pub place: String,
    /// The part that a pod could write too.
    pub selection: Selection,
    /// The network's configuration, instead of a reference to it.
    pub config: Option<RawObject>,
    /// When it applies.
    pub when: Selector,
    /// Whether the container may do without it.
    pub optional: bool,
}

impl OperatorSelection {
    /// Reads an operator's selection. Unknown keys are errors.
    ///
    /// # Errors
    /// The first key that is wrong, and where.
    pub fn from_object(object: &RawObject, place: &str) -> Result<Self, KeyError> {
        let keys = Keys::new(object, place);
        let known: Vec<&str> = KEYS.iter().chain(&OPERATOR_KEYS).copied().collect();
        keys.only(&known)?;
        let config = match keys.string("config") {
            Ok(Some(text)) => Some(parse_object(text.as_bytes()).map_err(|_| config_is_wrong(&keys))?),
            Ok(None) => None,
            Err(_) => Some(keys.object("config").ok().flatten().ok_or_else(|| config_is_wrong(&keys))?),
        };
        let when = match keys.object("when")? {
            Some(when) => Selector::from_object(&when, &keys.path("when"))?,
            None => Selector::default(),
        };
        let selection = Selection::read(&keys, place, Author::Operator, config.is_some())?;
        Ok(Self { place: place.to_owned(), selection, config, when, optional: keys.boolean("optional")? })
    }

    /// The network that it asks for, as it was written.
    pub fn shown(&self) -> String {
        if self.selection.name.is_empty() { "inline".into() } else { self.selection.reference() }
    }
}

fn config_is_wrong(keys: &Keys<'_>) -> KeyError {
    keys.wrong_kind("config", "a network configuration, an object")
}
