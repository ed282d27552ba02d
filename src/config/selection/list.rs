//! A list of selections, in its text form or as JSON.

use serde_json::value::RawValue;

use super::super::object::{KeyError, Keys};
use super::super::problems::Problems;
use super::element::{KEYS, Selection};
use super::operator::Author;
use crate::cni::config::{RawObject, kind, without_values};

/// The most attachments of one container.
pub const MAX_ATTACHMENTS: usize = 256;

/// What a list of selections held.
#[derive(Debug, Default)]
pub struct Parsed {
    /// The selections, in order.
    pub selections: Vec<Selection>,
    /// Keys that were skipped.
    pub warnings: Vec<KeyError>,
}

impl Selection {
    /// Reads selections in either form: `[namespace/]name[@interface]`, separated by commas, or JSON. Text that contains any of
    /// `[{"` is JSON. Blank text is no selection. Continues after a wrong selection.
    pub fn parse_all(text: &str, place: &str, problems: &mut Problems<KeyError>) -> Parsed {
        let text = text.trim();
        if text.is_empty() {
            return Parsed::default();
        }
        if text.contains(['[', '{', '"']) {
            Self::parse_json(text, place, problems)
        } else {
            Self::parse_text(text, place, problems)
        }
    }

    fn parse_text(text: &str, place: &str, problems: &mut Problems<KeyError>) -> Parsed {
        if problems.record(refuse_many(text.split(',').count(), place)).is_none() {
            return Parsed::default();
        }
        let is_list = text.contains(',');
        let of_list = |number: usize| if is_list { Some((number + 1, text)) } else { None };
        let selections = text.split(',').enumerate().map(|(index, item)| Self::read_text(item, place, of_list(index)));
        Parsed { selections: selections.filter_map(|read| problems.record(read)).collect(), warnings: Vec::new() }
    }

    fn parse_json(text: &str, place: &str, problems: &mut Problems<KeyError>) -> Parsed {
        let mut parsed = Parsed::default();
        for (index, element) in problems.record(elements(text, place)).unwrap_or_default().into_iter().enumerate() {
            let place = format!("{place}[{index}]");
            let object = serde_json::from_str::<RawObject>(element.get()).map_err(|_| KeyError::Wrong {
                path: place.clone(),
                found: kind(element),
                expected: "a network selection element, an object".into(),
            });
            let Some(object) = problems.record(object) else { continue };
            let keys = Keys::new(&object, &place);
            parsed.warnings.extend(keys.unknown(&KEYS));
            parsed.selections.extend(problems.record(Self::read(&keys, &place, Author::Pod, false)));
        }
        parsed
    }
}

/// The number is limited because each selection is looked up.
fn refuse_many(number: usize, place: &str) -> Result<(), KeyError> {
    if number <= MAX_ATTACHMENTS {
        return Ok(());
    }
    let found = format!("a list of {number}");
    Err(KeyError::Wrong { path: place.into(), found, expected: format!("at most {MAX_ATTACHMENTS} selections") })
}

/// The elements of a JSON list of selections, not parsed yet.
fn elements<'a>(text: &'a str, place: &str) -> Result<Vec<&'a RawValue>, KeyError> {
    let wrong = |found: String| KeyError::Wrong {
        path: place.into(),
        found,
        expected: "a JSON list of network selection elements".into(),
    };
    let value: &RawValue =
        serde_json::from_str(text).map_err(|error| wrong(format!("not readable ({})", without_values(&error))))?;
    let elements: Vec<&RawValue> = serde_json::from_str(value.get()).map_err(|_| wrong(kind(value)))?;
    refuse_many(elements.len(), place)?;
    Ok(elements)
}
