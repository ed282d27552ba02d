//! The text form of one selection: `[namespace/]name[@interface]`.

use super::super::object::KeyError;
use super::element::Selection;
use crate::cni::validate;

impl Selection {
    /// Reads one `[namespace/]name[@interface]`.
    ///
    /// # Errors
    /// When a part is empty or not a name.
    pub fn from_text(text: &str, place: &str) -> Result<Self, KeyError> {
        Self::read_text(text, place, None)
    }

    /// Reads one `[namespace/]name[@interface]`. If it is an element of a list, `of_list` has its number and the whole text.
    pub(super) fn read_text(text: &str, place: &str, of_list: Option<(usize, &str)>) -> Result<Self, KeyError> {
        let wrong = |expected: &str| {
            let list = of_list.map(|(number, list)| format!(" (element {number} of {:?})", shortened(list)));
            KeyError::Wrong {
                path: place.into(),
                found: format!("{:?}{}", shortened(text.trim()), list.unwrap_or_default()),
                expected: expected.into(),
            }
        };
        let (reference, interface) = match text.trim().split_once('@') {
            Some((reference, interface)) => (reference, Some(interface.to_owned())),
            None => (text.trim(), None),
        };
        let (namespace, name) = match reference.split_once('/') {
            Some((namespace, name)) => (Some(namespace.to_owned()), name),
            None => (None, reference),
        };
        let is_name = |name: &str| validate::network_name(name).is_ok();
        if !is_name(name) || !namespace.as_deref().is_none_or(is_name) || interface.as_deref() == Some("") {
            return Err(wrong("[namespace/]name[@interface]"));
        }
        if let Some(Err(error)) = interface.as_deref().map(validate::interface_name) {
            return Err(wrong(&format!("an interface name after '@': {}", error.expected)));
        }
        Ok(Self { name: name.to_owned(), namespace, interface, ..Self::default() })
    }
}

/// Text as messages show it.
fn shortened(text: &str) -> String {
    const MOST: usize = 64;
    let mut short: String = text.chars().take(MOST).collect();
    if text.chars().nth(MOST).is_some() {
        short.push('…');
    }
    short
}
