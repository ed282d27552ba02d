//! Protocol versions (SPEC, "Version considerations").

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A version of the CNI protocol that Braid supports. Newer versions are greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// 0.1.0, the first version, and that of a configuration without `cniVersion`.
    V0_1_0,
    /// 0.2.0: VERSION.
    V0_2_0,
    /// 0.3.0: interfaces in results, and chaining.
    V0_3_0,
    /// 0.3.1.
    V0_3_1,
    /// 0.4.0: CHECK, and `prevResult` on DEL.
    V0_4_0,
    /// 1.0.0: configuration lists only, no IP family in results.
    V1_0_0,
    /// 1.1.0: STATUS and GC.
    V1_1_0,
}

impl Version {
    /// Every version, oldest first.
    pub const ALL: [Self; 7] =
        [Self::V0_1_0, Self::V0_2_0, Self::V0_3_0, Self::V0_3_1, Self::V0_4_0, Self::V1_0_0, Self::V1_1_0];

    /// The newest version.
    pub const LATEST: Self = Self::V1_1_0;

    /// The version of a configuration that names none.
    pub const DEFAULT: Self = Self::V0_1_0;

    /// The version as written in `cniVersion`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::V0_1_0 => "0.1.0",
            Self::V0_2_0 => "0.2.0",
            Self::V0_3_0 => "0.3.0",
            Self::V0_3_1 => "0.3.1",
            Self::V0_4_0 => "0.4.0",
            Self::V1_0_0 => "1.0.0",
            Self::V1_1_0 => "1.1.0",
        }
    }

    /// Whether CHECK exists and DEL carries a `prevResult`: from 0.4.0.
    pub fn has_check(self) -> bool {
        self >= Self::V0_4_0
    }

    /// Whether STATUS and GC exist: from 1.1.0.
    pub fn has_status_and_gc(self) -> bool {
        self >= Self::V1_1_0
    }

    /// Chooses the version to use from a configuration's `cniVersion` and `cniVersions`: the highest one known here (SPEC §1,
    /// "Version considerations"). Unknown versions are ignored if there is another one.
    ///
    /// # Errors
    /// When something is declared and nothing of it is known.
    pub fn select<'a>(declared: impl IntoIterator<Item = &'a str>) -> Result<Option<Self>, UnknownVersion> {
        let mut best = None;
        let mut unknown = None;
        for text in declared.into_iter().filter(|text| !text.is_empty()) {
            match text.parse() {
                Ok(version) => best = best.max(Some(version)),
                Err(error) => unknown = Some(error),
            }
        }
        match (best, unknown) {
            (None, Some(error)) => Err(error),
            (best, _) => Ok(best),
        }
    }
}

/// A version that this library does not support.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("CNI version {version:?} is not one of 0.1.0, 0.2.0, 0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0")]
pub struct UnknownVersion {
    /// The version as it was given.
    pub version: String,
}

impl FromStr for Version {
    type Err = UnknownVersion;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|version| version.as_str() == text)
            .ok_or_else(|| UnknownVersion { version: text.chars().take(64).collect() })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Version {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Version {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn highest_known_version_wins_and_unknown_ones_are_dropped() {
        assert_eq!(Version::select(["0.4.0", "9.0.0", "1.0.0"]), Ok(Some(Version::V1_0_0)));
        assert_eq!(Version::select([""]), Ok(None));
        assert_eq!(Version::select([]), Ok(None));
        assert!(Version::select(["9.0.0"]).is_err());
    }

    #[test]
    fn text_and_order_agree() {
        for pair in Version::ALL.windows(2) {
            assert!(pair[0] < pair[1]);
        }
        for version in Version::ALL {
            assert_eq!(version.as_str().parse(), Ok(version));
        }
    }
}
