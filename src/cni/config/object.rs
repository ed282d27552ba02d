//! JSON objects whose values keep their original text.

use indexmap::IndexMap;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use super::{ConfigError, without_values};

/// A JSON object whose values are kept as text. If a key is repeated, the last value counts, as in libcni.
pub type RawObject = IndexMap<String, Box<RawValue>>;

/// Describes the kind of a JSON value. A string is not shown: if another kind was expected, it may be a secret.
pub fn kind(raw: &RawValue) -> String {
    if raw.get().starts_with('"') { "a string".into() } else { describe(raw) }
}

/// Describes a JSON value in a few words, without the contents of a large or nested one.
pub fn describe(raw: &RawValue) -> String {
    let text = raw.get();
    match text.as_bytes().first() {
        Some(b'{') => "an object".into(),
        Some(b'[') if text[1..text.len() - 1].trim_ascii().is_empty() => "an empty list".into(),
        Some(b'[') => "a list".into(),
        Some(b'"') => {
            let value: String = serde_json::from_str(text).unwrap_or_default();
            let short: String = value.chars().take(64).collect();
            format!("the string {short:?}")
        }
        _ => text.chars().take(64).collect(),
    }
}

/// Describes an unsuitable value as [`kind`] does, with the reason if it has the right kind.
pub fn misfit(raw: &RawValue, error: &serde_json::Error) -> String {
    let is_inside = raw.get().starts_with(['[', '{']) && (error.line() > 1 || error.column() > 1);
    if !is_inside {
        return kind(raw);
    }
    let message = without_values(error);
    // The place is that within the value.
    let reason = message.rsplit_once(" at line ").map_or(message.as_str(), |(reason, _)| reason);
    format!("{} that cannot be read ({reason})", kind(raw))
}

/// Reads `key` of a raw object.
///
/// # Errors
/// [`ConfigError::Wrong`] when it holds something that is not a `T`. A missing key and `null` are `None`.
pub fn get<T: DeserializeOwned>(
    object: &RawObject,
    key: &str,
    expected: &'static str,
) -> Result<Option<T>, ConfigError> {
    match object.get(key) {
        None => Ok(None),
        Some(raw) => serde_json::from_str(raw.get()).map_err(|error| misfitting(key, raw, &error, expected)),
    }
}

/// Reads `key` as a list of `T`. `item` describes an element, for errors.
///
/// # Errors
/// [`ConfigError::Wrong`] when it is no list, or for the first element that is not a `T`. A missing key and `null` are
/// `None`.
pub fn get_list<T: DeserializeOwned>(
    object: &RawObject,
    key: &str,
    expected: &'static str,
    item: &'static str,
) -> Result<Option<Vec<T>>, ConfigError> {
    let Some(list) = get::<Vec<Box<RawValue>>>(object, key, expected)? else { return Ok(None) };
    let element = |(index, raw): (usize, Box<RawValue>)| {
        serde_json::from_str(raw.get()).map_err(|error| misfitting(&format!("{key}[{index}]"), &raw, &error, item))
    };
    list.into_iter().enumerate().map(element).collect::<Result<_, _>>().map(Some)
}

/// What is expected of a boolean.
pub const BOOLEAN: &str = "true or false, as a boolean or a string";

/// Reads `key` as a boolean, which may be written `true` or `"true"`, in any case, as libcni accepts.
///
/// # Errors
/// [`ConfigError::Wrong`] when it is neither.
pub fn get_bool(object: &RawObject, key: &str) -> Result<bool, ConfigError> {
    let Some(raw) = object.get(key) else { return Ok(false) };
    if let Ok(value) = serde_json::from_str::<Option<bool>>(raw.get()) {
        return Ok(value.unwrap_or(false));
    }
    let text: String = serde_json::from_str(raw.get()).unwrap_or_default();
    match text.to_ascii_lowercase().as_str() {
        "true" => Ok(true),
        "false" => Ok(false),
        // The string may be a secret in the wrong place.
        _ if raw.get().starts_with('"') => Err(ConfigError::Wrong {
            key: key.into(),
            found: "a string other than \"true\" and \"false\"".into(),
            expected: BOOLEAN,
        }),
        _ => Err(wrong(key, raw, BOOLEAN)),
    }
}

/// The error for an unsuitable value of `key`.
fn misfitting(key: &str, raw: &RawValue, error: &serde_json::Error, expected: &'static str) -> ConfigError {
    ConfigError::Wrong { key: key.into(), found: misfit(raw, error), expected }
}

/// The error for a wrong value of `key`.
pub fn wrong(key: &str, raw: &RawValue, expected: &'static str) -> ConfigError {
    ConfigError::Wrong { key: key.into(), found: kind(raw), expected }
}

/// Parses a JSON object, keeping its values as text.
///
/// # Errors
/// [`ConfigError::Json`] when it is not one JSON object and nothing else.
pub fn parse_object(bytes: &[u8]) -> Result<RawObject, ConfigError> {
    serde_json::from_slice(bytes).map_err(ConfigError::Json)
}

/// Serialises a value to raw JSON.
///
/// # Panics
/// Never for the types of this crate, which all serialise.
pub fn raw<T: Serialize + ?Sized>(value: &T) -> Box<RawValue> {
    serde_json::value::to_raw_value(value).expect("plain data serialises")
}

/// Merges `over` into `base`: objects under the same key are merged, everything else is replaced.
pub fn overlay_objects(mut base: RawObject, over: &RawObject) -> RawObject {
    for (key, value) in over {
        let object = |raw: &RawValue| serde_json::from_str::<RawObject>(raw.get()).ok();
        let joined = match (base.get(key).and_then(|own| object(own)), object(value)) {
            (Some(mut own), Some(over)) => {
                own.extend(over);
                raw(&own)
            }
            _ => value.clone(),
        };
        base.insert(key.clone(), joined);
    }
    base
}

/// The value that Go's parser uses for `name`: that of the last key that differs only in case.
pub fn find_folded<'a>(object: &'a RawObject, name: &str) -> Option<&'a RawValue> {
    object.iter().rev().find(|(key, _)| folds_to(key, name)).map(|(_, value)| &**value)
}

/// Whether Go's parser reads a key as `name`, which is ASCII.
pub fn folds_to(key: &str, name: &str) -> bool {
    if key.is_ascii() { key.eq_ignore_ascii_case(name) } else { fold(key).eq_ignore_ascii_case(name) }
}

/// A key as Go's parser compares it: without case. Two letters that are not ASCII are equal to ASCII letters.
pub fn fold(key: &str) -> String {
    key.chars()
        .map(|c| match c {
            '\u{17f}' => 's',
            '\u{212a}' => 'k',
            c => c.to_ascii_lowercase(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn booleans_may_be_strings() {
        for (text, expected) in [("true", true), ("\"TRUE\"", true), ("\"false\"", false), ("null", false)] {
            let object = parse_object(format!(r#"{{"disableCheck":{text}}}"#).as_bytes()).unwrap();
            assert_eq!(get_bool(&object, "disableCheck").unwrap(), expected, "{text}");
        }
        let object = parse_object(br#"{"disableCheck":"yes"}"#).unwrap();
        let error = get_bool(&object, "disableCheck").unwrap_err().to_string();
        assert!(error.contains("is a string other than \"true\" and \"false\", expected"), "{error}");
    }
}
