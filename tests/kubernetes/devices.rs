//! Devices that the kubelet has given to a pod.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use rstest::rstest;
use serde_json::{Value, json};

use super::Server;
use super::cluster::Cluster;
use super::kubelet::Kubelet;
use crate::support::{Case, Json as _, recorder};

const RESOURCE: &str = "vendor.com/vf";

/// A pod with these devices and these networks, each of which is a definition that takes a device.
fn node(server: Server, has_get: bool, networks: &Value, devices: &[&str]) -> Option<(Case, Cluster)> {
    let places = json!({"podResources": "@DIR@/kubelet.sock", "deviceInfoDir": "@DIR@/devinfo"});
    let (case, api) = server.with(Case::new().delegate(recorder("alpha").link()).key("kubernetes", places))?;
    Kubelet::start(&case, has_get, &[("cpu", &["0", "1"]), (RESOURCE, devices)]);
    let capabilities = json!({"deviceID": true, "CNIDeviceInfoFile": true});
    for kind in ["beta", "gamma"] {
        let config = recorder(kind).key("capabilities", capabilities.clone()).link().into_json();
        let annotations = json!({"k8s.v1.cni.cncf.io/resourceName": RESOURCE});
        api.definition_with("web", kind, &annotations, &json!({"config": config}));
    }
    let text = networks.as_str().map_or_else(|| networks.to_string(), str::to_owned);
    api.pod("web", "shop", &json!({"k8s.v1.cni.cncf.io/networks": text}));
    Some((case, api))
}

#[rstest]
#[case::get(Server::Double, true)]
#[case::list(Server::Double, false)]
#[case::kube_apiserver(Server::KubeApiserver, true)]
fn each_device_goes_to_one_network(#[case] server: Server, #[case] has_get: bool) {
    let devices = ["0000:01:00.1", "0000:01:00.2"];
    let Some((case, api)) = node(server, has_get, &json!("beta,gamma"), &devices) else { return };
    fs::create_dir_all(case.dir().join("devinfo/dp")).unwrap();
    let info = json!({"type": "pci", "version": "1.0.0", "pci": {"pci-address": "0000:01:00.1"}});
    fs::write(case.dir().join("devinfo/dp/vendor.com-vf-0000:01:00.1-device.json"), info.to_string()).unwrap();
    let outcome = case.add().succeeds().called(&["ADD alpha eth0", "ADD beta net1", "ADD gamma net2"]);
    let file = case.dir().join("devinfo/cni/web-beta-container-1_net1");
    for (kind, device) in [("beta", "0000:01:00.1"), ("gamma", "0000:01:00.2")] {
        let config = outcome.call_of("ADD", kind).config();
        let given = [&config["deviceID"], &config["pciBusID"], &config["runtimeConfig"]["deviceID"]];
        assert_eq!(given, [device; 3], "{config:#}");
    }
    let config = outcome.call_of("ADD", "beta").config();
    assert_eq!(config["runtimeConfig"]["CNIDeviceInfoFile"], file.to_str().unwrap());
    assert_eq!(fs::read_to_string(&file).unwrap(), info.to_string());
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o444);
    let status = api.status("web", "shop").unwrap();
    assert_eq!((&status[1]["device-info"], status[2].get("device-info")), (&info, None));
    drop(api);
    fs::remove_file(case.dir().join("kubelet.sock")).unwrap();
    case.del().succeeds().leaves_nothing();
    assert!(!file.exists());
}

#[rstest]
#[case::too_few(&json!("beta,gamma"), &["0000:01:00.1"])]
#[case::none(&json!("beta"), &[])]
fn a_missing_device_is_an_error_that_names_the_resource(
    #[values(Server::Double, Server::KubeApiserver)] server: Server,
    #[case] networks: &Value,
    #[case] devices: &[&str],
) {
    let Some((case, _api)) = node(server, true, networks, devices) else { return };
    case.add().fails(7).says(RESOURCE).called_nothing().leaves_nothing();
    fs::remove_file(case.dir().join("kubelet.sock")).unwrap();
    case.add().fails(11).says("kubelet").called_nothing().leaves_nothing();
}

#[rstest]
fn a_pod_gets_the_device_it_asks_for_if_it_is_its_own(#[values(Server::Double, Server::KubeApiserver)] server: Server) {
    let devices = ["0000:01:00.1", "0000:01:00.2"];
    let asks = |device: &str| json!([{"name": "gamma"}, {"name": "beta", "deviceID": device}]);
    let Some((case, api)) = node(server, true, &asks(devices[0]), &devices) else { return };
    let outcome = case.add().succeeds();
    assert_eq!(outcome.call_of("ADD", "gamma").config()["deviceID"], devices[1]);
    assert_eq!(outcome.call_of("ADD", "beta").config()["deviceID"], devices[0]);
    case.del().succeeds();
    api.pod("web", "shop", &json!({"k8s.v1.cni.cncf.io/networks": asks("0000:00:00.0").to_string()}));
    case.add().fails(7).says(RESOURCE).says("0000:00:00.0").called_nothing().leaves_nothing();
}
