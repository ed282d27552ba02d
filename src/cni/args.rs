//! `CNI_ARGS`: `KEY=VALUE` pairs separated by semicolons (SPEC §2, "Parameters").

use std::fmt;
use std::str::FromStr;

/// The pairs of `CNI_ARGS`, in order. If a key is repeated, the last value counts, as in libcni.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Args {
    pairs: Vec<(String, String)>,
}

/// `CNI_ARGS` that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ArgsError {
    /// A pair without `=`, or with an empty key.
    #[error("part {number} of CNI_ARGS is not KEY=VALUE, expected such pairs separated by ';'")]
    Pair {
        /// The number of the pair, counted from 1. The error does not show the pair, because it may be the rest of a secret with a
        /// ';' in it.
        number: usize,
    },
    /// A control character. Plugins could not split the text correctly again.
    #[error("CNI_ARGS holds the control character {found:?}")]
    Control {
        /// The character.
        found: char,
    },
}

impl Args {
    /// The value of `key`, if it is there.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.pairs.iter().rev().find(|(k, _)| k == key).map(|(_, value)| value.as_str())
    }

    /// Sets `key`: replaces its value if it exists, and appends the pair otherwise.
    pub fn set(&mut self, key: &str, value: &str) {
        let value = value.to_owned();
        match self.pairs.iter().rposition(|(k, _)| k == key) {
            Some(at) => self.pairs[at].1 = value,
            None => self.pairs.push((key.to_owned(), value)),
        }
    }

    /// Keeps the pairs whose key `is_wanted`.
    pub fn retain(&mut self, is_wanted: impl Fn(&str) -> bool) {
        self.pairs.retain(|(key, _)| is_wanted(key));
    }

    /// The pairs in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.pairs.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }
}

impl FromStr for Args {
    type Err = ArgsError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(found) = text.chars().find(|c| c.is_control()) {
            return Err(ArgsError::Control { found });
        }
        let mut pairs = Vec::new();
        for (index, pair) in text.split(';').enumerate().filter(|(_, pair)| !pair.is_empty()) {
            match pair.split_once('=') {
                Some((key, value)) if !key.is_empty() => pairs.push((key.to_owned(), value.to_owned())),
                _ => return Err(ArgsError::Pair { number: index + 1 }),
            }
        }
        Ok(Self { pairs })
    }
}

impl fmt::Display for Args {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (key, value)) in self.pairs.iter().enumerate() {
            let separator = if index == 0 { "" } else { ";" };
            write!(f, "{separator}{key}={value}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_writes_and_sets() {
        let mut args: Args = "A=1;;B=x=y;A=2;".parse().unwrap();
        assert_eq!(args.get("A"), Some("2"));
        assert_eq!(args.get("B"), Some("x=y"));
        args.set("A", "3");
        args.set("C", "");
        assert_eq!(args.to_string(), "A=1;B=x=y;A=3;C=");
    }

    #[test]
    fn refuses_what_is_no_pair() {
        assert!("A".parse::<Args>().is_err());
        assert!("=1".parse::<Args>().is_err());
        assert!("A=1\nB=2".parse::<Args>().is_err());
        assert_eq!("".parse::<Args>(), Ok(Args::default()));
    }
}
