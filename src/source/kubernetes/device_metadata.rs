//! The files in which DRA drivers describe the devices of a claim (KEP-5304):
//! `plugins/<driver>/dra-device-metadata/<namespace>_<claim>/<request>/metadata.json` in the kubelet's directory.
//!
//! A file that cannot be used is skipped with a line in the log, because the API server has the same information.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::runtime::load;
use crate::source::device::{DeviceKey, Identity};

/// The largest file that is read, in bytes.
const MAX_SIZE: u64 = 1 << 20;
/// The most requests that a claim has.
const MAX_REQUESTS: usize = 32;
/// The kinds that describe devices, in versions that do not differ in the fields read here.
const VERSIONS: [&str; 2] = ["metadata.resource.k8s.io/v1beta1", "metadata.resource.k8s.io/v1alpha1"];
const KIND: &str = "DeviceMetadata";

/// The attribute with a device's ID for network plugins.
const DEVICE_ID: &str = "k8s.cni.cncf.io/deviceID";
/// The attribute with a device's PCI address.
const PCI_BUS_ID: &str = "resource.kubernetes.io/pciBusID";
/// The attribute with a device's resource.
const RESOURCE: &str = "k8s.cni.cncf.io/resourceName";

/// A device's attribute. Only strings are read.
#[derive(Debug, Deserialize)]
pub(super) struct Attribute {
    #[serde(default)]
    string: Option<String>,
}

/// What attributes say a device is.
pub(super) fn identity(attributes: &BTreeMap<String, Attribute>) -> Identity {
    let text = |name: &str| attributes.get(name)?.string.clone().filter(|text| is_sound(text));
    Identity { id: text(DEVICE_ID).or_else(|| text(PCI_BUS_ID)), resource: text(RESOURCE) }
}

/// Whether this can be an ID or a resource: both become part of a file's name.
fn is_sound(text: &str) -> bool {
    !text.is_empty() && !text.contains(char::is_control) && !text.contains("..")
}

/// The beginning of an object of a file.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Header {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    kind: String,
}

#[derive(Deserialize)]
struct DeviceMetadata {
    #[serde(default)]
    metadata: ObjectMeta,
    #[serde(default)]
    requests: Vec<Request>,
}

#[derive(Deserialize)]
struct Request {
    name: String,
    #[serde(default)]
    devices: Vec<Device>,
}

#[derive(Deserialize)]
struct Device {
    name: String,
    driver: String,
    pool: String,
    #[serde(default)]
    attributes: BTreeMap<String, Attribute>,
}

/// The directory in which a driver describes the devices of a claim.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'a> {
    /// The kubelet's directory.
    pub(super) kubelet_dir: &'a Path,
    /// The driver.
    pub(super) driver: &'a str,
    /// The claim's namespace.
    pub(super) namespace: &'a str,
    /// The name of the `ResourceClaim`.
    pub(super) claim: &'a str,
}

/// The devices in a driver's files, each with its request.
pub(super) fn read(place: Place<'_>) -> Vec<(String, DeviceKey, Identity)> {
    let is_name = |name: &str| !name.is_empty() && name != ".." && !name.contains(['/', '\0']);
    if ![place.driver, place.namespace, place.claim].into_iter().all(is_name) {
        return Vec::new();
    }
    let claim = format!("{}_{}", place.namespace, place.claim);
    let directory = place.kubelet_dir.join("plugins").join(place.driver).join("dra-device-metadata").join(claim);
    let mut files = match directory.read_dir() {
        Ok(entries) => entries.filter_map(|entry| Some(entry.ok()?.path().join("metadata.json"))).collect::<Vec<_>>(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Vec::new(),
        Err(error) => {
            pass_over(&directory, &error);
            return Vec::new();
        }
    };
    files.sort();
    files.truncate(MAX_REQUESTS);
    files.iter().flat_map(|file| read_file(file, place)).collect()
}

fn read_file(file: &Path, place: Place<'_>) -> Vec<(String, DeviceKey, Identity)> {
    let found = match contents(file) {
        // A driver that learns about its devices later also writes the file later.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Vec::new(),
        Err(error) => Err(error.to_string()),
        Ok(bytes) => parse(&bytes, place),
    };
    found.unwrap_or_else(|reason| {
        pass_over(file, &reason);
        Vec::new()
    })
}

fn pass_over(path: &Path, reason: &dyn std::fmt::Display) {
    tracing::warn!("skipped {}, which describes devices of a resource claim: {reason}", path.display());
}

fn contents(file: &Path) -> io::Result<Vec<u8>> {
    let unfit = || io::Error::other(format!("it is no regular file of at most {MAX_SIZE} bytes"));
    load::read_regular_file(file, MAX_SIZE)?.ok_or_else(unfit)
}

/// The devices in a stream of objects. Each has the same content in another version; the first known version is used.
fn parse(bytes: &[u8], place: Place<'_>) -> Result<Vec<(String, DeviceKey, Identity)>, String> {
    let unreadable = |error: serde_json::Error| format!("it cannot be read: {error}");
    for object in serde_json::Deserializer::from_slice(bytes).into_iter::<Box<RawValue>>() {
        let object = object.map_err(unreadable)?;
        let header: Header = serde_json::from_str(object.get()).map_err(unreadable)?;
        if header.kind == KIND && VERSIONS.contains(&header.api_version.as_str()) {
            let metadata = serde_json::from_str(object.get()).map_err(unreadable)?;
            return devices(metadata, place);
        }
    }
    Err(format!("it holds no {KIND} of {}", VERSIONS.join(" or ")))
}

fn devices(found: DeviceMetadata, place: Place<'_>) -> Result<Vec<(String, DeviceKey, Identity)>, String> {
    let of = (found.metadata.namespace.unwrap_or_default(), found.metadata.name.unwrap_or_default());
    if (of.0.as_str(), of.1.as_str()) != (place.namespace, place.claim) {
        return Err(format!("it is about resource claim {}/{}", of.0, of.1));
    }
    let of_driver = |device: &Device| device.driver == place.driver;
    let described = found.requests.into_iter().flat_map(|request| {
        let name = request.name;
        request.devices.into_iter().filter(of_driver).map(move |device| {
            let identity = identity(&device.attributes);
            (name.clone(), DeviceKey { driver: device.driver, pool: device.pool, name: device.name }, identity)
        })
    });
    Ok(described.collect())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::{Value, json};

    use super::*;

    const DRIVER: &str = "nic.example";

    fn place(kubelet_dir: &Path) -> Place<'_> {
        Place { kubelet_dir, driver: DRIVER, namespace: "web", claim: "nics" }
    }

    fn object(version: &str, attributes: &Value) -> Value {
        let device = json!({"name": "a", "driver": DRIVER, "pool": "node-1", "attributes": attributes});
        let other = json!({"name": "g", "driver": "gpu.example", "pool": "node-1"});
        json!({"apiVersion": format!("metadata.resource.k8s.io/{version}"), "kind": KIND,
            "metadata": {"name": "nics", "namespace": "web", "uid": "u", "generation": 1},
            "requests": [{"name": "fast", "devices": [device, other]}]})
    }

    /// The devices that are read if a request's file has this text.
    fn found(text: &str) -> Vec<(String, DeviceKey, Identity)> {
        let dir = tempfile::tempdir().unwrap();
        let request = dir.path().join("plugins/nic.example/dra-device-metadata/web_nics/fast");
        fs::create_dir_all(&request).unwrap();
        fs::write(request.join("metadata.json"), text).unwrap();
        read(place(dir.path()))
    }

    #[test]
    fn the_first_version_that_is_known_holds() {
        let attributes = |id: &str| {
            json!({"k8s.cni.cncf.io/deviceID": {"string": id}, "numaNode": {"int": 1},
            "resource.kubernetes.io/pciBusID": {"string": "bus"}, "k8s.cni.cncf.io/resourceName": {"string": "r"}})
        };
        let text = [object("v9", &json!(7)), object("v1beta1", &attributes("A")), object("v1alpha1", &attributes("B"))];
        let key = DeviceKey { driver: DRIVER.into(), pool: "node-1".into(), name: "a".into() };
        let identity = Identity { id: Some("A".into()), resource: Some("r".into()) };
        assert_eq!(found(&text.map(|object| object.to_string()).join("\n")), [("fast".to_owned(), key, identity)]);
    }

    #[test]
    fn the_pci_address_stands_in_for_an_id() {
        let attributes = json!({"resource.kubernetes.io/pciBusID": {"string": "0000:01:00.1"},
            "k8s.cni.cncf.io/deviceID": {"string": "../../etc"}, "k8s.cni.cncf.io/resourceName": {"version": "1.0.0"}});
        let found = found(&object("v1alpha1", &attributes).to_string());
        assert_eq!(found[0].2, Identity { id: Some("0000:01:00.1".into()), resource: None });
    }

    #[test]
    fn what_cannot_be_used_is_passed_over() {
        let mut other = object("v1beta1", &json!({}));
        other["metadata"]["name"] = json!("other");
        for text in ["", "{", "[]", "{\"kind\": 1}", &object("v2", &json!({})).to_string(), &other.to_string()] {
            assert_eq!(found(text), [], "{text}");
        }
        assert_eq!(found(&object("v1beta1", &json!([])).to_string()), []);
        assert_eq!(found(&" ".repeat(usize::try_from(MAX_SIZE).unwrap() + 1)), []);
    }

    #[test]
    fn nothing_outside_of_the_directory_is_read_and_a_fifo_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read(Place { claim: "../x", ..place(dir.path()) }), []);
        assert_eq!(read(Place { driver: "..", ..place(dir.path()) }), []);
        let request = dir.path().join("plugins/nic.example/dra-device-metadata/web_nics/fast");
        fs::create_dir_all(&request).unwrap();
        nix::unistd::mkfifo(&request.join("metadata.json"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert_eq!(read(place(dir.path())), []);
    }
}
