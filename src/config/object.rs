//! Reads the keys of Braid's own objects, with errors that say where and what.

use std::fmt;
use std::ops::RangeInclusive;
use std::path::PathBuf;

use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use super::selector::Globs;
use crate::cni::config::{BOOLEAN, ConfigError, RawObject, describe, get_bool, kind, misfit};

/// A key of Braid's own that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// It is none that Braid knows.
    #[error("{place}: the key {key:?} is not known{}", nearest.as_ref().map(|name| format!(", did you mean {name:?}?")).unwrap_or_default())]
    Unknown {
        /// Where it stands.
        place: String,
        /// The key.
        key: String,
        /// The known one most like it.
        nearest: Option<String>,
    },
    /// It holds the wrong thing.
    #[error("{path} is {found}, expected {expected}")]
    Wrong {
        /// Where it stands.
        path: String,
        /// What it holds, shortened.
        found: String,
        /// What it should hold.
        expected: String,
    },
    /// It has to be there.
    #[error("{place}: {expected} is missing")]
    Missing {
        /// Where it should stand.
        place: String,
        /// What should stand there.
        expected: String,
    },
    /// Two keys that do not go together.
    #[error("{place}: {reason}")]
    Conflict {
        /// Where they stand.
        place: String,
        /// Why.
        reason: String,
    },
}

/// The known key most like `key`.
pub fn nearest(key: &str, known: &[&str]) -> Option<String> {
    known
        .iter()
        .map(|name| (strsim::jaro_winkler(&key.to_ascii_lowercase(), &name.to_ascii_lowercase()), *name))
        .filter(|(likeness, _)| *likeness > 0.85)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, name)| name.to_owned())
}

/// An object of Braid's own, and its place.
#[derive(Debug, Clone, Copy)]
pub struct Keys<'a> {
    object: &'a RawObject,
    place: &'a str,
}

impl<'a> Keys<'a> {
    /// The keys of `object`, whose place is `place`.
    pub fn new(object: &'a RawObject, place: &'a str) -> Self {
        Self { object, place }
    }

    /// The object itself.
    pub fn as_object(&self) -> &'a RawObject {
        self.object
    }

    /// Where a key stands.
    pub fn path(&self, key: &str) -> String {
        if self.place.is_empty() { format!("{key:?}") } else { format!("{}.{key}", self.place) }
    }

    /// The first key that is not `known`.
    pub fn only(&self, known: &[&str]) -> Result<(), KeyError> {
        self.unknown(known).into_iter().next().map_or(Ok(()), Err)
    }

    /// The keys that are not `known`.
    pub fn unknown(&self, known: &[&str]) -> Vec<KeyError> {
        self.object
            .keys()
            .filter(|key| !known.contains(&key.as_str()))
            .map(|key| KeyError::Unknown {
                place: if self.place.is_empty() { "configuration".into() } else { self.place.into() },
                key: key.chars().take(64).collect(),
                nearest: nearest(key, known),
            })
            .collect()
    }

    /// The error for a wrong value of `key`.
    pub fn wrong(&self, key: &str, expected: impl Into<String>) -> KeyError {
        self.wrong_as(key, describe, expected.into())
    }

    /// The error for a value of the wrong type of `key`. A string is not shown.
    pub fn wrong_kind(&self, key: &str, expected: &str) -> KeyError {
        self.wrong_as(key, kind, expected.into())
    }

    fn wrong_as(&self, key: &str, say: fn(&RawValue) -> String, expected: String) -> KeyError {
        let found = self.object.get(key).map_or_else(|| "missing".into(), |raw| say(raw));
        KeyError::Wrong { path: self.path(key), found, expected }
    }

    /// A key as text.
    pub fn raw(&self, key: &str) -> Option<&'a RawValue> {
        self.object.get(key).map(|raw| &**raw).filter(|raw| raw.get() != "null")
    }

    /// A key as a `T`. `None` for `null` and for a missing key.
    pub fn get<T: DeserializeOwned>(&self, key: &str, expected: &str) -> Result<Option<T>, KeyError> {
        let Some(raw) = self.raw(key) else { return Ok(None) };
        serde_json::from_str(raw.get()).map(Some).map_err(|error| KeyError::Wrong {
            path: self.path(key),
            found: misfit(raw, &error),
            expected: expected.into(),
        })
    }

    /// A key as text.
    pub fn string(&self, key: &str) -> Result<Option<String>, KeyError> {
        self.get(key, "a string")
    }

    /// A key as an object.
    pub fn object(&self, key: &str) -> Result<Option<RawObject>, KeyError> {
        self.get(key, "an object")
    }

    /// A key as a list, whose elements are not parsed yet.
    pub fn list(&self, key: &str, expected: &str) -> Result<Option<Vec<&'a RawValue>>, KeyError> {
        let Some(raw) = self.raw(key) else { return Ok(None) };
        serde_json::from_str(raw.get()).map(Some).map_err(|_| self.wrong_kind(key, expected))
    }

    /// A key as a `T`, which has named fields. A list of only the values is rejected, although the parser would accept it.
    pub fn fields<T: DeserializeOwned>(&self, key: &str, expected: &str) -> Result<Option<T>, KeyError> {
        if self.raw(key).is_some_and(|raw| raw.get().starts_with('[')) {
            return Err(self.wrong_kind(key, expected));
        }
        self.get(key, expected)
    }

    /// A key as a list of `T`. The error names the wrong element and what was expected (`item`).
    pub fn list_of<T: DeserializeOwned>(
        &self,
        key: &str,
        expected: &str,
        item: &str,
    ) -> Result<Option<Vec<T>>, KeyError> {
        let Some(list) = self.list(key, expected)? else { return Ok(None) };
        let element = |(index, raw): (usize, &RawValue)| {
            serde_json::from_str(raw.get()).map_err(|error| KeyError::Wrong {
                path: self.element(key, index),
                found: misfit(raw, &error),
                expected: item.into(),
            })
        };
        list.into_iter().enumerate().map(element).collect::<Result<_, _>>().map(Some)
    }

    /// The place of an element of the list under a key.
    fn element(&self, key: &str, index: usize) -> String {
        if self.place.is_empty() { format!("{key}[{index}]") } else { format!("{}.{key}[{index}]", self.place) }
    }

    /// A key as a whole number within a range.
    pub fn number<T>(&self, key: &str, range: RangeInclusive<T>) -> Result<Option<T>, KeyError>
    where
        T: DeserializeOwned + PartialOrd + fmt::Display,
    {
        let expected = format!("a whole number from {} to {}", range.start(), range.end());
        match self.get(key, &expected)? {
            Some(number) if !range.contains(&number) => Err(self.wrong(key, expected)),
            number => Ok(number),
        }
    }

    /// A key as an absolute path. An empty one counts as missing.
    pub fn absolute(&self, key: &str) -> Result<Option<PathBuf>, KeyError> {
        match self.string(key)?.filter(|path| !path.is_empty()).map(PathBuf::from) {
            Some(path) if !path.is_absolute() => Err(self.wrong(key, "an absolute path")),
            path => Ok(path),
        }
    }

    /// A key as one of a few words.
    pub fn one_of<T: Copy>(&self, key: &str, words: &[(&str, T)]) -> Result<Option<T>, KeyError> {
        let Some(word) = self.string(key)? else { return Ok(None) };
        let value = words.iter().find(|(name, _)| *name == word).map(|(_, value)| *value);
        value.map(Some).ok_or_else(|| {
            let names: Vec<String> = words.iter().map(|(name, _)| format!("{name:?}")).collect();
            let [others @ .., last] = names.as_slice() else { return self.wrong(key, "nothing") };
            self.wrong(key, format!("{} or {last}", others.join(", ")))
        })
    }

    /// A key as a boolean, in the spellings that libcni accepts. False if it is missing.
    pub fn boolean(&self, key: &str) -> Result<bool, KeyError> {
        get_bool(self.object, key).map_err(|error| match error {
            ConfigError::Wrong { found, .. } => {
                KeyError::Wrong { path: self.path(key), found, expected: BOOLEAN.into() }
            }
            _ => self.wrong_kind(key, BOOLEAN),
        })
    }

    /// A key as a glob or a list of globs.
    pub fn globs(&self, key: &str) -> Result<Option<Globs>, KeyError> {
        const EXPECTED: &str = "a glob or a list of globs";
        let Some(raw) = self.raw(key) else { return Ok(None) };
        let globs = match serde_json::from_str::<String>(raw.get()) {
            Ok(one) => vec![one],
            Err(_) => self.list_of(key, EXPECTED, "a glob, a string")?.unwrap_or_default(),
        };
        Globs::new(globs).map(Some).map_err(|reason| KeyError::Wrong {
            path: self.path(key),
            found: reason,
            expected: EXPECTED.into(),
        })
    }
}
