//! Success results (SPEC §5): one model, and a file for each JSON format.
//!
//! | versions | format | file |
//! |---|---|---|
//! | 0.1.0, 0.2.0 | `ip4`, `ip6`, `dns` | `v0_2` |
//! | 0.3.0, 0.3.1, 0.4.0 | `interfaces`, `ips` with a `version`, `routes`, `dns` | `v0_3` |
//! | 1.0.0, 1.1.0 | the same without `version`, 1.1.0 with more fields | `v1` |
//!
//! [`AddResult`] has the newest format, and contains everything that the others can. Converting to an older format loses what that
//! format does not have: 0.2.0 keeps the first address of each family.

mod container;
mod v0_2;
mod v0_3;
mod v1;

use std::borrow::Cow;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;

use super::config::{raw, without_values};
use super::version::Version;

pub use container::ContainerInterface;

/// The result of ADD: what was attached.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AddResult {
    /// All interfaces that the attachment made, including those on the host.
    pub interfaces: Vec<Interface>,
    /// Every address that was assigned.
    pub ips: Vec<Ip>,
    /// Every route that was made.
    pub routes: Vec<Route>,
    /// How names are to be resolved.
    pub dns: Dns,
}

/// An interface that an attachment made.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its hardware address. Empty if it has none.
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub mac: String,
    /// Its maximum transmission unit, in bytes.
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "is_zero")]
    pub mtu: u32,
    /// The path of its namespace. Empty on the host.
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub sandbox: String,
    /// The absolute path of its socket, if it is a socket.
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub socket_path: String,
    /// The identifier of its PCI device, if it is one.
    #[serde(default, rename = "pciID", deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub pci_id: String,
}

/// An address that was assigned.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Ip {
    /// The address with its prefix length.
    pub address: IpNet,
    /// The default gateway of its subnet, if there is one.
    pub gateway: Option<IpAddr>,
    /// The index of its interface in [`AddResult::interfaces`].
    pub interface: Option<usize>,
}

/// A route that was made.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Route {
    /// The destination.
    #[serde(with = "cidr")]
    pub dst: IpNet,
    /// The next hop. Without one, the subnet's gateway is used.
    #[serde(default, deserialize_with = "optional_ip", skip_serializing_if = "Option::is_none")]
    pub gw: Option<IpAddr>,
    /// The maximum transmission unit along the path, in bytes.
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "is_zero")]
    pub mtu: u32,
    /// The maximal segment size to advertise, in bytes.
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "is_zero")]
    pub advmss: u32,
    /// Its priority; lower is preferred.
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "is_zero")]
    pub priority: u32,
    /// Its routing table. Without one, the main table is used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<u32>,
    /// The scope of its destination: global 0, link 253, host 254.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<u32>,
}

impl Route {
    /// A route with only a destination and a next hop.
    pub fn new(dst: IpNet, gw: Option<IpAddr>) -> Self {
        Self { dst, gw, mtu: 0, advmss: 0, priority: 0, table: None, scope: None }
    }

    /// Whether this is a default route of the main table.
    pub fn is_default(&self) -> bool {
        self.dst.prefix_len() == 0 && self.table.is_none_or(|table| table == 254 || table == 0)
    }
}

/// The DNS settings for the container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dns {
    /// The servers, by priority.
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "Vec::is_empty")]
    pub nameservers: Vec<String>,
    /// The local domain.
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub domain: String,
    /// The search domains, by priority.
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "Vec::is_empty")]
    pub search: Vec<String>,
    /// Options for the resolver.
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
}

impl Dns {
    /// Whether it says nothing.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// A result that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ResultError {
    /// It is not one JSON object in the format of its version.
    #[error("it is not a CNI {version} result: {}", without_values(source))]
    Shape {
        /// The version it was read as.
        version: Version,
        /// What the parser says.
        source: serde_json::Error,
    },
    /// Its version is not known.
    #[error("its \"cniVersion\" is wrong: {0}")]
    Version(String),
    /// An address refers to an interface that is not listed.
    #[error("ips[{ip}].interface is {index}, expected the index of one of {interfaces} interfaces")]
    Index {
        /// The index of the address.
        ip: usize,
        /// The index it gives.
        index: i64,
        /// How many interfaces there are.
        interfaces: usize,
    },
    /// The family of an address differs from its `version`.
    #[error("ips[{ip}].version is {version:?}, but {address} is not of that family")]
    Family {
        /// The index of the address.
        ip: usize,
        /// The family as given.
        version: String,
        /// The address.
        address: IpNet,
    },
    /// `ip4` or `ip6` contains an address of the other family.
    #[error("\"{key}\" holds {address}, an address of the other family")]
    Section {
        /// The key.
        key: &'static str,
        /// The address.
        address: IpNet,
    },
}

impl AddResult {
    /// Reads a result. `spoken` is its version if it has no `cniVersion`.
    ///
    /// # Errors
    /// When it is not one JSON object of its version's shape, or its indexes point nowhere.
    pub fn parse(json: &[u8], spoken: Version) -> Result<Self, ResultError> {
        Self::parse_versioned(json, spoken).map(|(result, _)| result)
    }

    /// Reads a result, and the version that its keys show. `None` if it is read as one of version `spoken`.
    ///
    /// # Errors
    /// As [`Self::parse`].
    pub fn parse_versioned(json: &[u8], spoken: Version) -> Result<(Self, Option<Version>), ResultError> {
        let shown = shown_version(json, spoken)?;
        let version = shown.unwrap_or(spoken);
        let shape = |source| ResultError::Shape { version, source };
        let result = match version {
            Version::V0_1_0 | Version::V0_2_0 => v0_2::read(json).map_err(shape)?.into_model()?,
            Version::V0_3_0 | Version::V0_3_1 | Version::V0_4_0 => v0_3::read(json).map_err(shape)?.into_model()?,
            Version::V1_0_0 | Version::V1_1_0 => v1::read(json).map_err(shape)?.into_model()?,
        };
        Ok((result, shown))
    }

    /// Writes the result in a version's shape.
    pub fn to_raw(&self, version: Version) -> Box<RawValue> {
        match version {
            Version::V0_1_0 | Version::V0_2_0 => raw(&v0_2::Wire::from_model(self, version)),
            Version::V0_3_0 | Version::V0_3_1 | Version::V0_4_0 => raw(&v0_3::Wire::from_model(self, version)),
            Version::V1_0_0 | Version::V1_1_0 => raw(&v1::Written::from_model(self, version)),
        }
    }

    /// The interfaces in the namespace at `sandbox`, with their indexes.
    pub fn interfaces_in<'a>(&'a self, sandbox: &'a str) -> impl Iterator<Item = (usize, &'a Interface)> {
        self.interfaces.iter().enumerate().filter(move |(_, interface)| interface.sandbox == sandbox)
    }
}

/// The version of a result: the one that it shows, or else `spoken`.
///
/// # Errors
/// When it is not JSON, or names a version that is not known.
pub fn version_of(json: &[u8], spoken: Version) -> Result<Version, ResultError> {
    Ok(shown_version(json, spoken)?.unwrap_or(spoken))
}

/// The version in a result's `cniVersion` or shown by its keys: `ip4` and `ip6` were keys up to 0.2.0, and later formats do not
/// have them.
fn shown_version(json: &[u8], spoken: Version) -> Result<Option<Version>, ResultError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Head<'a> {
        #[serde(borrow, default)]
        cni_version: Option<Cow<'a, str>>,
        #[serde(default)]
        ip4: Option<IgnoredAny>,
        #[serde(default)]
        ip6: Option<IgnoredAny>,
    }
    let shape = |source| ResultError::Shape { version: spoken, source };
    if json.trim_ascii_start().first() != Some(&b'{') {
        // A derived implementation would also accept a list.
        let found = if json.trim_ascii().is_empty() { "nothing at all" } else { "something else" };
        return Err(shape(serde::de::Error::custom(format_args!("expected a JSON object, found {found}"))));
    }
    let head: Head<'_> = serde_json::from_slice(json).map_err(shape)?;
    match head.cni_version.as_deref() {
        None | Some("") if head.ip4.is_some() || head.ip6.is_some() => Ok(Some(Version::V0_2_0)),
        None | Some("") => Ok(None),
        Some(text) => text
            .parse()
            .map(Some)
            .map_err(|error: super::version::UnknownVersion| ResultError::Version(error.to_string())),
    }
}

fn null_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// An address that may be missing, `null` or empty. All of these mean none for Go's `net.IP`.
fn optional_ip<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<IpAddr>, D::Error> {
    match Option::<String>::deserialize(deserializer)?.as_deref() {
        None | Some("") => Ok(None),
        Some(text) => {
            text.parse().map(Some).map_err(|_| serde::de::Error::custom(format_args!("{text:?} is not an IP address")))
        }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature serde asks for")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// Addresses with a prefix length. The error says what was found.
mod cidr {
    use super::{Deserialize, Deserializer, IpNet, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(net: &IpNet, serializer: S) -> Result<S::Ok, S::Error> {
        net.serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<IpNet, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse()
            .map_err(|_| serde::de::Error::custom(format_args!("{text:?} is not an IP address with a prefix length")))
    }
}

/// Checks that an index in `ips` refers to an interface.
fn checked_index(ip: usize, index: Option<i64>, interfaces: usize) -> Result<Option<usize>, ResultError> {
    index
        .map(|index| {
            usize::try_from(index).ok().filter(|index| *index < interfaces).ok_or(ResultError::Index {
                ip,
                index,
                interfaces,
            })
        })
        .transpose()
}

#[cfg(test)]
pub(crate) mod tests;
