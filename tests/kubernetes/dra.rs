//! Devices from resource claims (`resource.k8s.io`).

use std::fs;
use std::path::Path;

use rstest::rstest;
use serde_json::{Value, json};

use super::agent::stand_in::{Agent, StandIn};
use super::cluster::{ApiServer, Cluster, SLICES};
use super::double::Double;
use super::kubelet::Kubelet;
use super::{Fault, Server, in_cluster};
use crate::support::{Case, Json as _, recorder, wait_for};

const DRIVER: &str = "nic.example";
const RESOURCE: &str = "vendor.com/vf";
const GROUP: &str = "/apis/resource.k8s.io/v1";
const CLAIM: &str = "/apis/resource.k8s.io/v1/namespaces/web/resourceclaims/shop-nics";

/// What the kubelet has prepared of a pod's claims.
type Prepared<'a> = &'a [(&'a str, &'a [[&'a str; 3]])];

fn node() -> Case {
    let places = json!({"podResources": "@DIR@/kubelet.sock", "kubeletDir": "@DIR@/kubelet",
        "deviceInfoDir": "@DIR@/devinfo"});
    Case::new().delegate(recorder("alpha").link()).key("kubernetes", places)
}

/// A node with the networks beta and gamma, whose devices the pod's annotation chooses, and vf and vf2, which take a device of
/// [`RESOURCE`].
fn networks<S: ApiServer + ?Sized>(api: &Cluster<S>) {
    let capabilities = json!({"deviceID": true, "CNIDeviceInfoFile": true});
    let resource = json!({"k8s.v1.cni.cncf.io/resourceName": RESOURCE});
    for (name, kind, annotations) in [
        ("beta", "beta", &json!({})),
        ("gamma", "gamma", &json!({})),
        ("vf", "delta", &resource),
        ("vf2", "gamma", &resource),
    ] {
        let config = recorder(kind).key("capabilities", capabilities.clone()).link().into_json();
        api.definition_with("web", name, annotations, &json!({"config": config}));
    }
}

/// The pod asks for these networks. Its one claim, `nics`, is `ResourceClaim` `shop-nics`, made from a template.
fn pod<S: ApiServer + ?Sized>(api: &Cluster<S>, case: Case, networks: &Value) -> Case {
    let claims = json!([{"name": "nics", "resourceClaimTemplateName": "nics"}]);
    let status = json!({"resourceClaimStatuses": [{"name": "nics", "resourceClaimName": "shop-nics"}]});
    api.pod_with_claims(case, networks, &claims, &status)
}

/// Attachments of these networks, each with a request of claim `nics`.
fn by_request(requests: &[(&str, &str)]) -> Value {
    let claim = |request: &str| json!({"claim": "nics", "request": request});
    requests.iter().map(|(name, request)| json!({"name": name, "resourceClaim": claim(request)})).collect()
}

/// Makes `ResourceClaim` `shop-nics`, to which these devices have been allocated: request and name.
fn claim<S: ApiServer + ?Sized>(api: &Cluster<S>, devices: &[(&str, &str)]) {
    let requests: Vec<&str> = devices.iter().map(|(name, _)| *name).collect();
    let result = |(request, device): &(&str, &str)| json!({"request": request, "driver": DRIVER, "pool": "node-1", "device": device});
    claim_of(api, &requests, &devices.iter().map(result).collect());
}

/// The same with these requests, and with this allocation.
fn claim_of<S: ApiServer + ?Sized>(api: &Cluster<S>, requests: &[&str], results: &Value) {
    let request = |name: &&str| json!({"name": name, "exactly": {"deviceClassName": "nics"}});
    let requests: Vec<Value> = requests.iter().map(request).collect();
    let metadata = json!({"namespace": "web", "name": "shop-nics"});
    let claim = json!({"apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim", "metadata": metadata,
        "spec": {"devices": {"requests": requests}}});
    api.server.put(CLAIM, claim);
    api.server.put_status(CLAIM, json!({"allocation": {"devices": {"results": results}}}));
}

/// Attributes with a device's ID, and of a resource if there is one.
fn attributes(id: &str, resource: &str) -> Value {
    let mut attributes = json!({"k8s.cni.cncf.io/deviceID": {"string": id}, "numa": {"int": 0}});
    if !resource.is_empty() {
        attributes["k8s.cni.cncf.io/resourceName"] = json!({"string": resource});
    }
    attributes
}

/// Publishes a slice of the driver's pool.
fn slice<S: ApiServer + ?Sized>(
    api: &Cluster<S>,
    name: &str,
    generation: u32,
    place: &Value,
    devices: &[(&str, Value)],
) {
    let device = |(name, attributes): &(&str, Value)| json!({"name": name, "attributes": attributes});
    let devices: Vec<Value> = devices.iter().map(device).collect();
    let pool = json!({"name": "node-1", "generation": generation, "resourceSliceCount": 1});
    let mut spec = json!({"driver": DRIVER, "pool": pool, "devices": devices});
    spec.as_object_mut().unwrap().extend(place.as_object().unwrap().clone());
    let slice =
        json!({"apiVersion": "resource.k8s.io/v1", "kind": "ResourceSlice", "metadata": {"name": name}, "spec": spec});
    api.server.put(&format!("{SLICES}/{name}"), slice);
}

/// Publishes the slice of the node.
fn slice_of_node<S: ApiServer + ?Sized>(api: &Cluster<S>, devices: &[(&str, Value)]) {
    slice(api, "node-1-nics", 1, &json!({"nodeName": "node-1"}), devices);
}

/// The pod asks for networks. Its claim has been allocated these devices of the node: request, name and attributes.
fn prepared<S: ApiServer + ?Sized>(
    api: &Cluster<S>,
    case: Case,
    asked: &Value,
    devices: &[(&str, &str, Value)],
) -> Case {
    networks(api);
    let case = pod(api, case, asked);
    kubelet(&case, &[]);
    let allocated: Vec<(&str, &str)> = devices.iter().map(|(request, name, _)| (*request, *name)).collect();
    claim(api, &allocated);
    let published: Vec<(&str, Value)> =
        devices.iter().map(|(_, name, attributes)| (*name, attributes.clone())).collect();
    slice_of_node(api, &published);
    case
}

/// Writes the driver's metadata about a request of `ResourceClaim` `shop-nics`.
fn metadata(case: &Case, request: &str, device: &str, attributes: &Value) {
    let dir = case.dir().join("kubelet/plugins/nic.example/dra-device-metadata/web_shop-nics").join(request);
    fs::create_dir_all(&dir).unwrap();
    let object = |version: &str| {
        let device = json!({"driver": DRIVER, "pool": "node-1", "name": device, "attributes": attributes});
        json!({"apiVersion": format!("metadata.resource.k8s.io/{version}"), "kind": "DeviceMetadata",
            "metadata": {"name": "shop-nics", "namespace": "web", "uid": "u", "generation": 1},
            "podClaimName": "nics", "requests": [{"name": request, "devices": [device]}]})
    };
    fs::write(dir.join("metadata.json"), format!("{}\n{}\n", object("v1beta1"), object("v1alpha1"))).unwrap();
}

/// The case with this server. `None` if the server has no resource claims: a real one has them since Kubernetes 1.34.
fn with_claims(server: Server, case: Case) -> Option<(Case, Cluster)> {
    let (case, api) = server.with(case)?;
    let has_claims = matches!(server, Server::Double) || api.server.get(GROUP).is_some();
    has_claims.then_some((case, api))
}

fn kubelet(case: &Case, prepared: Prepared<'_>) {
    Kubelet::start_with_claims(case, true, &[("cpu", &["0"])], prepared);
}

/// The requests to the API server, without those for definitions, events and the network status.
fn questions(api: &Cluster<Double>) -> Vec<String> {
    let is_other = |request: &String| !request.contains("network-attachment") && request.starts_with("GET");
    api.server.requests().into_iter().filter(is_other).collect()
}

#[test]
fn what_the_kubelet_and_the_driver_know_the_api_server_is_not_asked() {
    let (case, api) = in_cluster(node());
    networks(&api);
    let case = pod(&api, case, &by_request(&[("beta", "two"), ("gamma", "one")]));
    kubelet(&case, &[("shop-nics", &[[DRIVER, "node-1", "b"], [DRIVER, "node-1", "a"]])]);
    metadata(&case, "one", "a", &attributes("0000:01:00.1", ""));
    metadata(&case, "two", "b", &json!({"resource.kubernetes.io/pciBusID": {"string": "0000:01:00.2"}}));
    let outcome = case.add().succeeds().called(&["ADD alpha eth0", "ADD beta net1", "ADD gamma net2"]);
    for (kind, device) in [("gamma", "0000:01:00.1"), ("beta", "0000:01:00.2")] {
        let config = outcome.call_of("ADD", kind).config();
        let given = [&config["deviceID"], &config["pciBusID"], &config["runtimeConfig"]["deviceID"]];
        assert_eq!(given, [device; 3], "{config:#}");
    }
    assert_eq!(questions(&api), ["GET web/pods/shop"; 2]);
    drop(api);
    fs::remove_file(case.dir().join("kubelet.sock")).unwrap();
    case.check().succeeds();
    case.del().succeeds().leaves_nothing();
}

#[rstest]
fn requests_of_one_claim_go_to_the_attachments_that_name_them(
    #[values(Server::Double, Server::KubeApiserver)] server: Server,
    #[values(&[], &[("shop-nics", &[[DRIVER, "node-1", "a"], [DRIVER, "node-1", "b"]][..])])] prepared: Prepared<'_>,
) {
    let Some((case, api)) = with_claims(server, node()) else { return };
    networks(&api);
    let case = pod(&api, case, &by_request(&[("beta", "two"), ("gamma", "one")]));
    kubelet(&case, prepared);
    claim(&api, &[("one", "a"), ("two", "b")]);
    let devices = [("a", attributes("0000:01:00.1", "")), ("b", attributes("0000:01:00.2", ""))];
    slice_of_node(&api, &devices);
    let outcome = case.add().succeeds();
    assert_eq!(outcome.call_of("ADD", "beta").config()["deviceID"], "0000:01:00.2");
    assert_eq!(outcome.call_of("ADD", "gamma").config()["deviceID"], "0000:01:00.1");
    case.del().succeeds().leaves_nothing();
}

#[test]
fn a_plugin_for_virtual_functions_finds_its_device_and_gets_it_again_on_check_and_del() {
    // Like sriov-cni, it reads the device from its configuration, and stores nothing.
    let sriov = "config=$(cat); [ $CNI_COMMAND = VERSION ] || echo \"$CNI_COMMAND $config\" >>\"$RECORDER_DIR/sriov\"\n\
        case $config in *'\"deviceID\":\"0000:01:00.1\"'*) ;; *) echo '{\"code\":100,\"msg\":\"no VF\"}'; exit 1;; esac\n\
        [ $CNI_COMMAND != ADD ] || echo '{\"cniVersion\":\"1.0.0\"}'";
    let (case, api) = in_cluster(node().script("sriov", sriov));
    api.definition("web", "vf", r#"{"cniVersion": "1.0.0", "name": "vf", "type": "sriov"}"#);
    let case = pod(&api, case, &by_request(&[("vf", "one")]));
    kubelet(&case, &[]);
    claim(&api, &[("one", "a"), ("two", "b")]);
    let devices = [("a", attributes("0000:01:00.1", "")), ("b", attributes("0000:01:00.2", ""))];
    slice_of_node(&api, &devices);
    case.add().succeeds();
    case.check().succeeds();
    case.del().succeeds();
    // It gets the function of the named request, and refuses any other.
    let case = pod(&api, case, &by_request(&[("vf", "two")]));
    case.add().fails(100).says("no VF");
}

/// The real sriov-cni gets the right function. The machine has no such function, so the user reads sriov-cni's error.
#[test]
fn the_plugin_for_virtual_functions_refuses_a_function_that_the_machine_lacks() {
    let Some(sriov) = std::env::var_os("BRAID_TEST_SRIOV_CNI") else {
        return eprintln!("skipped: BRAID_TEST_SRIOV_CNI names no sriov-cni");
    };
    let folder = Path::new(&sriov).parent().unwrap().to_owned();
    let (case, api) = in_cluster(node().plugins_in(folder));
    api.definition("web", "vf", r#"{"cniVersion": "1.0.0", "name": "vf", "type": "sriov"}"#);
    let case = pod(&api, case, &by_request(&[("vf", "one")]));
    kubelet(&case, &[]);
    claim(&api, &[("one", "a")]);
    slice_of_node(&api, &[("a", attributes("0000:ff:1f.7", ""))]);
    case.add().fails(999).says("on net1: plugin \"sriov\"").says("0000:ff:1f.7").leaves_nothing();
    case.del().succeeds().leaves_nothing();
}

#[test]
fn the_api_server_is_asked_for_the_claim_and_for_the_slices_of_this_node_and_driver() {
    let (case, api) = in_cluster(node());
    networks(&api);
    let case = pod(&api, case, &by_request(&[("beta", "one"), ("gamma", "two")]));
    kubelet(&case, &[]);
    claim(&api, &[("one", "a"), ("two", "b")]);
    let own = json!({"nodeName": "node-1"});
    slice(&api, "node-1-1", 1, &own, &[("a", attributes("A", ""))]);
    slice(&api, "node-1-2", 1, &own, &[("b", attributes("B", ""))]);
    slice(&api, "node-2", 1, &json!({"nodeName": "node-2"}), &[("a", attributes("wrong", ""))]);
    case.add().succeeds();
    let pages = format!("GET {SLICES}");
    // Two pages of slices of the node, and the slices that name no node, which may be newer.
    let asked = ["GET web/pods/shop", "GET web/pods/shop", "GET web/resourceclaims/shop-nics", &pages, &pages, &pages];
    assert_eq!(questions(&api), asked);
}

#[rstest]
fn a_slice_that_names_no_node_counts_and_an_older_generation_does_not(
    #[values(Server::Double, Server::KubeApiserver)] server: Server,
) {
    let Some((case, api)) = with_claims(server, node()) else { return };
    networks(&api);
    let case = pod(&api, case, &by_request(&[("beta", "one")]));
    kubelet(&case, &[]);
    claim(&api, &[("one", "a")]);
    slice(&api, "old", 1, &json!({"allNodes": true}), &[("a", attributes("old", ""))]);
    slice(&api, "bound", 1, &json!({"nodeName": "node-1"}), &[("a", attributes("bound", ""))]);
    slice(&api, "now", 2, &json!({"allNodes": true}), &[("a", attributes("0000:01:00.1", ""))]);
    assert_eq!(case.add().succeeds().call_of("ADD", "beta").config()["deviceID"], "0000:01:00.1");
    case.del().succeeds();
    slice(&api, "now", 2, &json!({"allNodes": true}), &[("b", attributes("0000:01:00.2", ""))]);
    let refused =
        case.add().fails(7).says("claim \"nics\", request \"one\"").says("shop-nics").says("nic.example/node-1/a");
    refused.says("in no current ResourceSlice").called_nothing().leaves_nothing();
}

#[rstest]
fn a_definition_may_name_the_claim(#[values(Server::Double, Server::KubeApiserver)] server: Server) {
    let Some((case, api)) = with_claims(server, node()) else { return };
    networks(&api);
    let config = json!({"config": recorder("delta").link().into_json()});
    let annotation = |text: &str| json!({"k8s.v1.cni.cncf.io/resourceClaim": text});
    api.definition_with("web", "delta", &annotation(r#"{"claim": "nics", "request": "one"}"#), &config);
    api.definition_with("web", "wrong", &annotation(r#"{"claims": "nics"}"#), &config);
    let case = pod(&api, case, &json!([{"name": "delta"}]));
    kubelet(&case, &[]);
    claim(&api, &[("one", "a"), ("two", "b")]);
    let devices = [("a", attributes("A", "")), ("b", attributes("B", ""))];
    slice_of_node(&api, &devices);
    assert_eq!(case.add().succeeds().call_of("ADD", "delta").config()["deviceID"], "A");
    case.del().succeeds();
    // The selection says otherwise.
    let case = pod(&api, case, &by_request(&[("delta", "two")]));
    assert_eq!(case.add().succeeds().call_of("ADD", "delta").config()["deviceID"], "B");
    case.del().succeeds();
    let case = pod(&api, case, &json!([{"name": "wrong"}]));
    case.add()
        .fails(7)
        .says("web/wrong")
        .says("k8s.v1.cni.cncf.io/resourceClaim")
        .says("did you mean \"claim\"")
        .called_nothing();
}

#[rstest]
fn a_resource_is_looked_for_among_claims_then_extended_resources_then_device_plugins(
    #[values(Server::Double, Server::KubeApiserver)] server: Server,
) {
    let Some((case, api)) = with_claims(server, node()) else { return };
    networks(&api);
    let extended = "/apis/resource.k8s.io/v1/namespaces/web/resourceclaims/shop-extended";
    let claims = json!([{"name": "nics", "resourceClaimName": "shop-nics"}]);
    let mapping = json!({"containerName": "main", "resourceName": RESOURCE, "requestName": "container-0-request-0"});
    let status = json!({"extendedResourceClaimStatus": {
        "resourceClaimName": "shop-extended", "requestMappings": [mapping]}});
    let names = json!([{"name": "vf"}, {"name": "vf2"}, {"name": "vf", "interface": "net7"}]);
    let case = api.pod_with_claims(case, &names, &claims, &status);
    Kubelet::start_with_claims(&case, true, &[(RESOURCE, &["0000:01:00.1", "0000:01:00.9"])], &[]);
    claim(&api, &[("gpu", "g"), ("nic", "a")]);
    let own = json!({"apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim",
        "metadata": {"namespace": "web", "name": "shop-extended"},
        "spec": {"devices": {"requests": [{"name": "container-0-request-0", "exactly": {"deviceClassName": "nics"}}]}}});
    api.server.put(extended, own);
    let result = json!({"request": "container-0-request-0", "driver": DRIVER, "pool": "node-1", "device": "e"});
    api.server.put_status(extended, json!({"allocation": {"devices": {"results": [result]}}}));
    let devices = [
        ("a", attributes("0000:01:00.1", RESOURCE)),
        ("e", attributes("0000:01:00.2", "")),
        ("g", json!({"model": {"string": "fast"}})),
    ];
    slice_of_node(&api, &devices);
    fs::create_dir_all(case.dir().join("devinfo/dp")).unwrap();
    let info = json!({"type": "pci", "version": "1.1.0", "pci": {"pci-address": "0000:01:00.1"}});
    fs::write(case.dir().join("devinfo/dp/vendor.com-vf-0000:01:00.1-device.json"), info.to_string()).unwrap();
    let outcome = case.add().succeeds();
    let given: Vec<Value> = outcome
        .calls()
        .iter()
        .filter(|call| call.command == "ADD")
        .map(|call| call.config()["deviceID"].clone())
        .collect();
    // The first device of the device plugin is also the claim's, and is not given twice.
    assert_eq!(given[1..], ["0000:01:00.1", "0000:01:00.2", "0000:01:00.9"]);
    assert_eq!(api.status("web", "shop").unwrap()[1]["device-info"], info);
    case.del().succeeds().leaves_nothing();
    assert_eq!(fs::read_dir(case.dir().join("devinfo/cni")).unwrap().count(), 0);
}

#[rstest]
#[case::claim(&json!([{"name": "beta", "resourceClaim": {"claim": "nix"}}]), 7, &["\"nix\"", "it has nics"])]
#[case::request(&by_request(&[("beta", "three")]), 7, &["\"three\"", "shop-nics", "request \"one\": nic.example/node-1/a"])]
#[case::twice(&by_request(&[("beta", "one"), ("gamma", "one")]), 7, &["\"one\"", "taken by other networks", "(A of resource"])]
#[case::no_id(&by_request(&[("beta", "two")]), 7, &["\"two\"", "nic.example/node-1/b", "resource.kubernetes.io/pciBusID"])]
#[case::resource(&by_request(&[("vf", "one")]), 7, &["\"vendor.com/vf\"", "\"vendor.com/other\""])]
#[case::device(
    &json!([{"name": "beta", "deviceID": "X", "resourceClaim": {"claim": "nics"}}]), 7, &["\"X\"", "not one of its devices"])]
#[case::none(&json!([{"name": "vf"}]), 7, &["\"vendor.com/vf\"", "nic.example/node-1/a", "vendor.com/other"])]
#[case::key(&json!([{"name": "beta", "resourceClaim": {"claim": "nics", "requests": "one"}}]), 7, &["resourceClaim", "\"request\""])]
fn what_is_missing_is_reported_with_all_that_was_found(
    #[case] names: &Value,
    #[case] code: u64,
    #[case] says: &[&str],
) {
    let (case, api) = in_cluster(node());
    let case =
        prepared(&api, case, names, &[("one", "a", attributes("A", "vendor.com/other")), ("two", "b", json!({}))]);
    let outcome = case.add().fails(code).called_nothing().leaves_nothing();
    says.iter().fold(outcome, |outcome, text| outcome.says(text));
}

#[rstest]
fn what_is_not_allocated_yet_is_tried_again(#[values(Server::Double, Server::KubeApiserver)] server: Server) {
    let Some((case, api)) = with_claims(server, node()) else { return };
    networks(&api);
    let case = pod(&api, case, &by_request(&[("beta", "one")]));
    kubelet(&case, &[]);
    case.add().fails(11).says("shop-nics").called_nothing();
    claim(&api, &[("one", "a")]);
    api.server.put_status(CLAIM, json!({}));
    let refused = case.add().fails(11).says("claim \"nics\", request \"one\"").says("shop-nics");
    refused.says("no device allocated").called_nothing();
    let claims = json!([{"name": "nics", "resourceClaimTemplateName": "nics"}]);
    let case = api.pod_with_claims(case, &by_request(&[("beta", "one")]), &claims, &json!({}));
    case.add().fails(11).says("\"nics\"").says("template").called_nothing();
    // It may also contain a device that is found by its resource.
    let case = api.pod_with_claims(case, &json!([{"name": "vf"}]), &claims, &json!({}));
    case.add().fails(11).says("\"nics\"").says("template").called_nothing().leaves_nothing();
}

#[test]
fn a_network_that_any_device_will_do_for_leaves_the_one_that_another_needs() {
    let (case, api) = in_cluster(node());
    let any = json!({"name": "beta", "resourceClaim": {"claim": "nics"}});
    let case = prepared(
        &api,
        case,
        &json!([any, {"name": "vf"}]),
        &[("one", "a", attributes("A", RESOURCE)), ("two", "b", attributes("B", ""))],
    );
    let outcome = case.add().succeeds();
    assert_eq!(outcome.call_of("ADD", "beta").config()["deviceID"], "B");
    assert_eq!(outcome.call_of("ADD", "delta").config()["deviceID"], "A");
    case.del().succeeds();
    // Asking for one device too many is an error, in any order.
    let case = pod(&api, case, &json!([any, {"name": "vf"}, {"name": "vf2"}]));
    let refused = case.add().fails(7).says("1 devices of resource \"vendor.com/vf\"").says("all of them are taken");
    refused.says("nic.example/node-1/a (A of resource").called_nothing().leaves_nothing();
}

#[test]
fn a_file_about_a_claim_of_before_gives_no_device() {
    let (case, api) = in_cluster(node());
    networks(&api);
    let case = pod(&api, case, &by_request(&[("beta", "one")]));
    kubelet(&case, &[("shop-nics", &[[DRIVER, "node-1", "a"]])]);
    metadata(&case, "one", "z", &attributes("0000:01:00.9", ""));
    claim(&api, &[("one", "a")]);
    slice_of_node(&api, &[("a", attributes("0000:01:00.1", ""))]);
    assert_eq!(case.add().succeeds().call_of("ADD", "beta").config()["deviceID"], "0000:01:00.1");
    case.del().succeeds().leaves_nothing();
}

#[test]
fn an_api_server_that_refuses_claims_or_does_not_know_them_is_named() {
    let (case, api) = in_cluster(node());
    networks(&api);
    let case = pod(&api, case, &by_request(&[("beta", "one")]));
    kubelet(&case, &[]);
    api.server.misbehave("GET", "/resourceclaims/", Fault::Status(403, None), 1);
    case.add().fails(106).says("resource claim web/shop-nics").says("403").called_nothing();
    api.server.misbehave("GET", "/resourceclaims/", Fault::Status(404, None), 1);
    case.add().fails(106).says("resource claim web/shop-nics").says("404").called_nothing().leaves_nothing();
}

#[test]
fn without_the_kubelet_a_claim_that_is_named_is_asked_of_the_api_server() {
    let (case, api) = in_cluster(node());
    networks(&api);
    let case = pod(&api, case, &by_request(&[("beta", "one")]));
    claim(&api, &[("one", "a")]);
    slice_of_node(&api, &[("a", attributes("A", ""))]);
    assert_eq!(case.add().succeeds().call_of("ADD", "beta").config()["deviceID"], "A");
    case.del().succeeds();
    let case = pod(&api, case, &json!([{"name": "vf"}]));
    case.add().fails(11).says("kubelet").called_nothing().leaves_nothing();
}

#[test]
fn a_claim_needs_a_pod() {
    let selection = json!({"config": recorder("beta").value(), "resourceClaim": {"claim": "nics"}});
    let case = Case::new().delegate(recorder("alpha")).delegate(selection);
    case.add().fails(7).says("claim \"nics\"").says("no pod").called_nothing().leaves_nothing();
}

/// A node whose configuration the command line finds, and which writes the addresses of devices to claims.
fn node_for_changes() -> Case {
    let kubernetes = json!({"podResources": "@DIR@/kubelet.sock", "kubeletDir": "@DIR@/kubelet", "claimStatus": true});
    let braid = json!({"type": "braid", "stateDir": "@DIR@/state", "kubeconfig": "@DIR@/kubeconfig", "multusNamespace": "web",
        "kubernetes": kubernetes, "delegates": [recorder("alpha").value()]});
    node().configuration("outer.conflist", json!({"cniVersion": "1.0.0", "name": "outer", "plugins": [braid]}))
}

/// One field of each device in the claim's status.
fn in_claim_status(api: &Cluster<Double>, field: &str) -> Vec<String> {
    let devices = api.server.get(CLAIM).expect("the claim")["status"]["devices"].clone();
    let field = |device: &Value| device.pointer(field).and_then(Value::as_str).expect("a name").to_owned();
    devices.as_array().into_iter().flatten().map(field).collect()
}

#[test]
fn a_device_is_attached_to_a_pod_that_lives_and_one_that_it_has_is_not() {
    let (case, api) = in_cluster(node_for_changes());
    let case = prepared(
        &api,
        case,
        &json!([{"name": "vf"}]),
        &[("one", "a", attributes("A", RESOURCE)), ("two", "b", attributes("B", RESOURCE))],
    );
    assert_eq!(case.add().succeeds().call_of("ADD", "delta").config()["deviceID"], "A");
    let attach = |network: &str| case.braid(&["attach", Case::CONTAINER, network, "--state-dir", "@DIR@/state"]).run();
    assert_eq!(attach("vf2").succeeds().call_of("ADD", "gamma").config()["deviceID"], "B");
    attach("vf").fails(7).says(RESOURCE).says("taken").called_nothing();
    // The claim's status has the addresses of its devices.
    let interfaces = || in_claim_status(&api, "/networkData/interfaceName");
    assert_eq!(interfaces(), ["net1", "net2"]);
    case.braid(&["detach", Case::CONTAINER, "net1", "--state-dir", "@DIR@/state"]).run().succeeds();
    assert_eq!(interfaces(), ["net2"]);
    case.del().succeeds().leaves_nothing();
}

#[test]
fn an_edit_of_the_annotation_brings_a_device_of_the_claims_and_gives_it_back() {
    const POD: &str = "/api/v1/namespaces/web/pods/shop";
    let (case, api) = in_cluster(node_for_changes());
    let case = prepared(
        &api,
        case,
        &by_request(&[("beta", "one")]),
        &[("one", "a", attributes("A", "")), ("two", "b", attributes("B", ""))],
    );
    case.add().succeeds();
    let sync = |networks: &[(&str, &str)]| {
        let mut pod = api.server.get(POD).expect("the pod");
        pod["metadata"]["annotations"]["k8s.v1.cni.cncf.io/networks"] = by_request(networks).to_string().into();
        api.server.put(POD, pod);
        case.braid(&["sync", Case::CONTAINER, "-o", "json", "--state-dir", "@DIR@/state"]).run().succeeds()
    };
    let outcome = sync(&[("beta", "one"), ("gamma", "two")]);
    assert_eq!(outcome.call_of("ADD", "gamma").config()["deviceID"], "B");
    assert_eq!(in_claim_status(&api, "/device"), ["a", "b"]);
    // The device that the pod gives back goes to the network that asks for it.
    let outcome = sync(&[("gamma", "two"), ("vf", "one")]);
    assert_eq!(outcome.call_of("DEL", "beta").config()["deviceID"], "A");
    assert_eq!(outcome.call_of("ADD", "delta").config()["deviceID"], "A");
    case.del().succeeds().leaves_nothing();
}

#[rstest]
fn shares_of_a_device_go_to_networks_one_after_the_other(
    #[values(Server::Double, Server::KubeApiserver)] server: Server,
) {
    let Some((case, api)) = with_claims(server, node_for_changes()) else { return };
    networks(&api);
    let case = pod(&api, case, &by_request(&[("beta", "one")]));
    kubelet(&case, &[]);
    let share = |share: u32| {
        json!({"request": "one", "driver": DRIVER, "pool": "node-1", "device": "a",
        "shareID": format!("00000000-0000-4000-8000-00000000000{share}")})
    };
    claim_of(&api, &["one"], &json!([share(1), share(2)]));
    slice_of_node(&api, &[("a", attributes("A", ""))]);
    case.add().succeeds();
    let attach = |network: &str| {
        let selection = by_request(&[(network, "one")])[0].to_string();
        case.braid(&["attach", Case::CONTAINER, &selection, "--state-dir", "@DIR@/state"]).run()
    };
    assert_eq!(attach("gamma").succeeds().call_of("ADD", "gamma").config()["deviceID"], "A");
    attach("vf").fails(7).says("all of its devices are taken").called_nothing();
    // Each share has an entry of its own in the status.
    let devices = &api.server.get(CLAIM).expect("the claim")["status"]["devices"];
    let entry = |index: usize| (&devices[index]["shareID"], &devices[index]["networkData"]["interfaceName"]);
    assert_eq!(entry(0), (&share(1)["shareID"], &json!("net1")), "{devices:#}");
    assert_eq!(entry(1), (&share(2)["shareID"], &json!("net2")), "{devices:#}");
    case.del().succeeds().leaves_nothing();
}

/// The number of devices in the claim's status.
fn entries_in_claim_status<S: ApiServer + ?Sized>(api: &Cluster<S>) -> usize {
    api.server.get(CLAIM).expect("the claim")["status"]["devices"].as_array().map_or(0, Vec::len)
}

/// A node that writes the addresses of devices to claims.
fn node_with_claim_status() -> Case {
    let places = json!({"podResources": "@DIR@/kubelet.sock", "kubeletDir": "@DIR@/kubelet", "claimStatus": true});
    Case::new().delegate(recorder("alpha").link()).key("kubernetes", places)
}

#[rstest]
fn a_claims_status_says_what_its_devices_have_got(#[values(Server::Double, Server::KubeApiserver)] server: Server) {
    let Some((case, api)) = with_claims(server, node_with_claim_status()) else { return };
    let config = recorder("delta").key("capabilities", json!({"deviceID": true})).link().ip("10.7.0.5/24").into_json();
    api.definition_with("web", "delta", &json!({}), &json!({"config": config}));
    let case = prepared(
        &api,
        case,
        &by_request(&[("delta", "one")]),
        &[("one", "a", attributes("A", "")), ("two", "b", attributes("B", ""))],
    );
    case.add().succeeds();
    let devices = &api.server.get(CLAIM).unwrap()["status"]["devices"];
    let data = &devices[0]["networkData"];
    assert_eq!((&devices[0]["device"], devices.as_array().unwrap().len()), (&json!("a"), 1), "{devices:#}");
    assert_eq!((&data["interfaceName"], &data["ips"]), (&json!("net1"), &json!(["10.7.0.5/24"])), "{data:#}");
    case.del().succeeds().leaves_nothing();
}

#[test]
fn a_claims_status_that_cannot_be_written_fails_no_pod() {
    let (case, api) = in_cluster(node_with_claim_status());
    let case = prepared(&api, case, &by_request(&[("gamma", "one")]), &[("one", "a", attributes("A", ""))]);
    for fault in [Fault::Status(403, None), Fault::Status(409, None), Fault::Reset] {
        api.server.misbehave("PATCH", "/resourceclaims/", fault, 100);
        case.add().succeeds().stderr_contains("the status of a resource claim could not be written");
        case.del().succeeds().leaves_nothing();
    }
}

#[rstest]
fn a_claims_status_is_taken_back_by_the_agent_once_the_pod_is_gone(
    #[values(Server::Double, Server::KubeApiserver)] server: Server,
) {
    let Some((case, api)) = with_claims(server, node_with_claim_status()) else { return };
    let case = prepared(&api, case, &by_request(&[("gamma", "one")]), &[("one", "a", attributes("A", ""))]);
    let written = || entries_in_claim_status(&api);
    StandIn::new(&case);
    api.kubeconfig_of_agent();
    // The agent has rights of its own.
    let kubeconfig = |name: &str| fs::read_to_string(case.dir().join(name)).expect("a kubeconfig");
    let (of_calls, of_agent) = (kubeconfig("kubeconfig"), kubeconfig("kubeconfig-of-agent"));
    let start_agent = || {
        fs::write(case.dir().join("kubeconfig"), &of_agent).expect("write the kubeconfig");
        let agent = Agent::start(&case, &[]);
        wait_for("the agent", || agent.get("/healthz"));
        fs::write(case.dir().join("kubeconfig"), &of_calls).expect("write the kubeconfig");
        agent
    };
    let agent = start_agent();
    case.add().succeeds();
    assert_eq!(written(), 1);
    // DEL sends no request, and the agent may not be running.
    drop(agent);
    case.del().succeeds();
    assert_eq!(written(), 1);
    api.remove_pod("web", "shop");
    let agent = start_agent();
    wait_for("the status of the claim", || (written() == 0).then_some(()));
    agent.logs("the entries of a pod that is gone are removed from the status of its claims");
    assert_eq!(fs::read_dir(case.dir().join("state/claims")).expect("a directory").count(), 0);
}

/// The agent was uninstalled, and DEL's notes for it stay.
#[test]
fn a_claims_status_is_taken_back_by_doctor_where_no_agent_runs() {
    let list = json!({"cniVersion": "1.0.0", "name": "outer", "plugins": [{"type": "braid", "stateDir": "@DIR@/state",
        "kubeconfig": "@DIR@/kubeconfig", "delegates": [recorder("alpha").value()]}]});
    let case = node_with_claim_status().configuration("outer.conflist", list);
    let Some((case, api)) = with_claims(Server::Double, case) else { return };
    let case = prepared(&api, case, &by_request(&[("gamma", "one")]), &[("one", "a", attributes("A", ""))]);
    let written = || entries_in_claim_status(&api);
    let uid = api.uid("web", "shop");
    let doctor = |words: &[&str]| -> Vec<String> {
        let own = ["doctor", "-o", "json", "--only", &uid, "--state-dir", "@DIR@/state"];
        let output = case.braid(&[&own, words].concat()).output();
        let lines: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let text = |line: &Value| {
            format!("{} {}", line["kind"].as_str().expect("text"), line["state"].as_str().expect("text"))
        };
        lines.as_array().expect("a list").iter().map(text).collect()
    };
    StandIn::new(&case);
    let agent = Agent::start(&case, &[]);
    wait_for("the agent", || agent.get("/healthz"));
    case.add().succeeds();
    case.del().succeeds();
    assert_eq!((written(), doctor(&[])), (1, Vec::new()), "the agent takes it back once the pod is gone");
    drop(agent);
    assert_eq!(doctor(&[]), ["claim-status-left found"]);
    assert_eq!(doctor(&["--fix"]), ["claim-status-left mended"]);
    assert_eq!((written(), doctor(&[])), (0, Vec::new()));
    assert_eq!(fs::read_dir(case.dir().join("state/claims")).expect("a directory").count(), 0);
}
