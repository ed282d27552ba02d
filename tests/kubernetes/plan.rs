//! `braid plan --pod`: what a pod would get on this node, and all errors, before it starts.

use std::fs;
use std::process::Output;

use rstest::rstest;
use serde_json::{Value, json};

use super::cluster::{ApiServer as _, SLICES};
use super::kubelet::Kubelet;
use super::{Cluster, Double, Fault, in_cluster};
use crate::support::{Case, Json as _, Network, recorder};

const NETWORKS: &str = "k8s.v1.cni.cncf.io/networks";
const DEFAULT_NETWORK: &str = "v1.multus-cni.io/default-network";
const RESOURCE: &str = "vendor.com/vf";

/// A node whose configuration has these keys beside a delegate of type `alpha`, with an API server.
fn node(keys: &Value) -> (Case, Cluster<Double>) {
    let mut braid = json!({
        "type": "braid", "stateDir": "@DIR@/state", "confDir": "@DIR@/multus.d", "kubeconfig": "@DIR@/kubeconfig",
        "kubernetes": {"timeout": 1, "podResources": "@DIR@/kubelet.sock"}, "delegates": [recorder("alpha").value()],
    });
    braid.as_object_mut().expect("an object").extend(keys.as_object().expect("an object").clone());
    let list = json!({"cniVersion": "1.0.0", "name": "pods", "plugins": [braid]});
    let case = Case::new().configuration("pods.conflist", list);
    fs::create_dir(case.dir().join("multus.d")).unwrap();
    let (case, api) = in_cluster(case);
    // No call was made.
    (case.env_remove("CNI_ARGS"), api)
}

fn plan(case: &Case, words: &[&str]) -> Output {
    let output = case.braid(&[&["plan", "pods", "--pod", "web/shop"], words].concat()).output();
    assert_eq!(case.order(), Vec::<String>::new(), "no plugin runs");
    output
}

/// The plan as JSON, and whether it has no errors.
fn plan_json(case: &Case) -> (bool, Value) {
    let output = plan(case, &["-o", "json"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let report = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}{output:?}"));
    (output.status.success(), report)
}

/// The steps as `interface reference plugin`.
fn steps(report: &Value) -> Vec<String> {
    let word = |step: &Value, key: &str| step[key].as_str().expect("a string").to_owned();
    let steps = report["steps"].as_array().expect("steps").iter();
    steps.map(|step| ["interface", "reference", "plugin"].map(|key| word(step, key)).join(" ")).collect()
}

/// The plan has these steps, and nothing is wrong.
#[track_caller]
fn is_sound(case: &Case, expected: &[&str]) -> Value {
    let (success, report) = plan_json(case);
    assert!(success && report["errors"] == json!([]), "{report:#}");
    assert_eq!(steps(&report), expected);
    report
}

/// The plan has these steps, and each error contains its text.
#[track_caller]
fn is_wrong(case: &Case, expected: &[&str], errors: &[&str]) {
    let (success, report) = plan_json(case);
    assert_eq!(steps(&report), expected, "{report:#}");
    let reported = report["errors"].as_array().expect("errors");
    let is_as_expected = reported.len() == errors.len()
        && reported.iter().zip(errors).all(|(one, error)| one.as_str().is_some_and(|one| one.contains(error)));
    assert!(!success && is_as_expected, "{report:#}");
}

#[test]
fn the_networks_of_a_pod_with_who_asked_for_them() {
    let (case, api) = node(&json!({}));
    api.definition("web", "one", &recorder("beta").without("name").into_json());
    let chain = Network::new("chain").plugin(recorder("gamma")).plugin(recorder("delta"));
    api.definition("infra", "two", &chain.into_json());
    api.pod("web", "shop", &json!({NETWORKS: "one, infra/two@data"}));
    let report =
        is_sound(&case, &["eth0 net-alpha alpha", "net1 web/one beta", "data infra/two gamma", "data infra/two delta"]);
    assert_eq!(report["steps"][2]["network"], "chain");
    let output = plan(&case, &["--explain"]);
    let expected = "\
STEP  INTERFACE  NETWORK    PLUGIN  FROM                            BECAUSE
1     eth0       net-alpha  alpha   delegates[0]                    always
2     net1       web/one    beta    k8s.v1.cni.cncf.io/networks[0]  the pod asks for it
3     data       infra/two  gamma   k8s.v1.cni.cncf.io/networks[1]  the pod asks for it
4     data       infra/two  delta   k8s.v1.cni.cncf.io/networks[1]  the pod asks for it
";
    assert_eq!(String::from_utf8_lossy(&output.stdout), expected);
    assert!(output.status.success());
    // Nothing is written, and no event posted.
    assert!(api.server.requests().iter().all(|line| line.starts_with("GET ")), "{:?}", api.server.requests());
}

#[test]
fn what_is_attached_to_a_running_pod_is_shown() {
    let (case, api) = node(&json!({}));
    api.definition("web", "one", &recorder("beta").without("name").into_json());
    api.definition("web", "two", &recorder("gamma").without("name").into_json());
    api.pod("web", "shop", &json!({NETWORKS: "one"}));
    let braid = json!({
        "cniVersion": "1.0.0", "name": "pods", "type": "braid", "stateDir": case.dir().join("state"),
        "confDir": case.dir().join("multus.d"), "kubeconfig": case.dir().join("kubeconfig"),
        "kubernetes": {"timeout": 1, "podResources": case.dir().join("kubelet.sock")},
        "delegates": [recorder("alpha").value()],
    });
    let args = "IgnoreUnknown=1;K8S_POD_NAMESPACE=web;K8S_POD_NAME=shop";
    case.call("ADD").env("CNI_ARGS", args).stdin(braid.to_string()).run().succeeds();
    api.pod("web", "shop", &json!({NETWORKS: "two@data"}));
    let planned = |words: &[&str]| {
        let output = case.braid(&[&["plan", "pods", "--pod", "web/shop"], words].concat()).output();
        String::from_utf8(output.stdout).expect("text")
    };
    let expected = "\
STEP  INTERFACE  NETWORK    PLUGIN  FROM                            STATE
1     eth0       net-alpha  alpha   delegates[0]                    attached
2     data       web/two    gamma   k8s.v1.cni.cncf.io/networks[0]  not attached
attached, and not asked for: web/one on net1
";
    assert_eq!(planned(&[]), expected);
    let report: Value = serde_json::from_str(&planned(&["-o", "json"])).expect("JSON");
    assert_eq!(report["steps"][1]["attached"], false);
    assert_eq!(report["besides"], json!(["web/one on net1"]));
}

#[test]
fn a_default_network_takes_the_primarys_place() {
    let (case, api) = node(&json!({}));
    api.definition("kube-system", "special", &recorder("beta").into_json());
    api.pod("web", "shop", &json!({DEFAULT_NETWORK: "special"}));
    let report = is_sound(&case, &["eth0 kube-system/special beta"]);
    assert_eq!(report["dropped"], json!(["delegates[0]: v1.multus-cni.io/default-network takes its place"]));
}

#[test]
fn a_definition_without_a_configuration_leads_to_the_disk() {
    let (case, api) = node(&json!({}));
    api.definition_with("web", "one", &json!({}), &json!({}));
    api.pod("web", "shop", &json!({NETWORKS: "one"}));
    is_wrong(&case, &["eth0 net-alpha alpha"], &["networks[0]: no network is called \"one\" in"]);
    fs::write(case.dir().join("multus.d/one.conf"), recorder("beta").key("name", "one").into_json()).unwrap();
    is_sound(&case, &["eth0 net-alpha alpha", "net1 web/one beta"]);
}

#[test]
fn pods_of_system_namespaces_do_without_default_networks() {
    let keys = json!({"clusterNetwork": "main", "defaultNetworks": ["extra"], "systemNamespaces": ["web"]});
    let (case, api) = node(&keys);
    api.definition("kube-system", "main", &recorder("beta").into_json());
    api.definition("kube-system", "extra", &recorder("gamma").into_json());
    api.pod("web", "shop", &json!({}));
    let report = is_sound(&case, &["eth0 kube-system/main beta"]);
    assert_eq!(report["dropped"], json!(["defaultNetworks[0]: web is one of systemNamespaces"]));
    api.pod("dev", "shop", &json!({}));
    let output = case.braid(&["plan", "pods", "--pod", "dev/shop", "-o", "json"]).output();
    let report = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(steps(&report), ["eth0 kube-system/main beta", "net1 kube-system/extra gamma"]);
}

/// The interfaces have the same names as if all networks were found.
#[test]
fn all_problems_are_reported_at_once() {
    let keys = json!({
        "namespaceIsolation": true, "globalNamespaces": "infra", "readinessindicatorfile": "@DIR@/ready",
        "policy": [{"namespaces": ["web"], "networks": ["web/*"]}],
    });
    let (case, api) = node(&keys);
    api.definition("web", "good", &recorder("beta").into_json());
    api.definition("web", "broken", "{\"type\": 1}");
    api.definition("web", "lacking", &recorder("absent").into_json());
    api.definition("web", "itself", &recorder("multus").into_json());
    api.definition("infra", "forbidden", &recorder("gamma").into_json());
    let networks = "good, other/one, missing, broken, lacking, infra/forbidden, itself, good@net1";
    api.pod("web", "shop", &json!({NETWORKS: networks}));
    let expected = [
        "eth0 net-alpha alpha",
        "net1 web/good beta",
        "net5 web/lacking absent",
        "net6 infra/forbidden gamma",
        "net7 web/itself multus",
        "net1 web/good beta",
    ];
    let errors = [
        "networks[1]: namespaceIsolation is on, and a pod of namespace \"web\" may not use other/one",
        "networks[2]: there is no network-attachment-definition web/missing",
        "networks[3]: network-attachment-definition web/broken: \"type\" is 1, expected",
        "networks[5]: the policy of this node does not let namespace \"web\" use network \"infra/forbidden\"",
        "networks[6] (network \"net-multus\") has a plugin of type \"multus\", which would lead back to braid",
        "networks[0] and k8s.v1.cni.cncf.io/networks[7] would both get the interface \"net1\"",
        "/ready is not there yet; ADD waits for it",
    ];
    is_wrong(&case, &expected, &errors);
    // Networks that the pod may not use are not looked up.
    assert!(!api.server.requests().iter().any(|line| line.contains("other/")), "{:?}", api.server.requests());
    assert!(api.server.requests().iter().all(|line| line.starts_with("GET ")), "{:?}", api.server.requests());
    let text = String::from_utf8(plan(&case, &[]).stdout).unwrap();
    assert_eq!(text.matches("error: ").count(), errors.len() + 2, "{text}");
    assert!(text.contains("error: no executable called \"absent\" is in "), "{text}");
}

#[test]
fn a_definition_that_is_refused_hides_no_other() {
    let (case, api) = node(&json!({}));
    api.definition("web", "one", &recorder("beta").into_json());
    api.definition("web", "two", &recorder("gamma").into_json());
    api.pod("web", "shop", &json!({NETWORKS: "one, secret, two, missing"}));
    api.server.misbehave("GET", "/secret", Fault::Status(403, None), 100);
    is_wrong(
        &case,
        &["eth0 net-alpha alpha", "net1 web/one beta", "net3 web/two gamma"],
        &[
            "networks[1]: the Kubernetes API server refused to get network-attachment-definition web/secret: 403",
            "networks[3]: there is no network-attachment-definition web/missing",
        ],
    );
}

#[test]
fn an_annotation_that_cannot_be_read_is_reported_with_each_of_its_problems() {
    let (case, api) = node(&json!({}));
    let networks = r#"[{"name": "one", "mac": "zz"}, {"interface": "x"}]"#;
    api.pod("web", "shop", &json!({NETWORKS: networks, DEFAULT_NETWORK: "a,b"}));
    api.definition("kube-system", "b", &recorder("beta").into_json());
    is_wrong(
        &case,
        &["eth0 kube-system/b beta"],
        &["networks[0].mac is the string \"zz\"", "networks[1]: \"name\"", "names more than one network"],
    );
}

#[test]
fn devices_are_the_kubelets() {
    let (case, api) = node(&json!({}));
    let annotations = json!({"k8s.v1.cni.cncf.io/resourceName": RESOURCE});
    api.definition_with("web", "one", &annotations, &json!({"config": recorder("beta").into_json()}));
    api.pod("web", "shop", &json!({NETWORKS: "one,one"}));
    is_wrong(
        &case,
        &["eth0 net-alpha alpha", "net1 web/one beta", "net2 web/one beta"],
        &["the kubelet could not be asked"],
    );
    Kubelet::start(&case, true, &[(RESOURCE, &["0000:01:00.1"])]);
    is_wrong(
        &case,
        &["eth0 net-alpha alpha", "net1 web/one beta"],
        &["networks[1]: the pod has 1 devices of resource \"vendor.com/vf\", and all of them are taken"],
    );
    api.pod("web", "shop", &json!({NETWORKS: "one"}));
    is_sound(&case, &["eth0 net-alpha alpha", "net1 web/one beta"]);
}

#[test]
fn devices_of_claims_are_those_that_the_attachments_name() {
    let (case, api) = node(&json!({}));
    Kubelet::start(&case, true, &[]);
    let device = |request: &str| json!({"name": "vf", "resourceClaim": {"claim": "nics", "request": request}});
    api.definition("web", "vf", &recorder("beta").into_json());
    let claims = json!([{"name": "nics", "resourceClaimName": "shared"}]);
    let path = "/apis/resource.k8s.io/v1/namespaces/web/resourceclaims/shared";
    api.server.put(path, json!({"metadata": {"namespace": "web", "name": "shared"}}));
    let result = json!({"request": "one", "driver": "nic.example", "pool": "p", "device": "a"});
    api.server.put_status(path, json!({"allocation": {"devices": {"results": [result]}}}));
    let attributes = json!({"k8s.cni.cncf.io/deviceID": {"string": "0000:01:00.1"}});
    let pool = json!({"name": "p", "generation": 1, "resourceSliceCount": 1});
    let spec = json!({"driver": "nic.example", "nodeName": "node-1", "pool": pool,
        "devices": [{"name": "a", "attributes": attributes}]});
    api.server.put(&format!("{SLICES}/one"), json!({"metadata": {"name": "one"}, "spec": spec}));
    let case = api.pod_with_claims(case, &json!([device("one")]), &claims, &json!({}));
    is_sound(&case, &["eth0 net-alpha alpha", "net1 web/vf beta"]);
    let case = api.pod_with_claims(case, &json!([device("two"), device("one")]), &claims, &json!({}));
    is_wrong(
        &case,
        &["eth0 net-alpha alpha", "net2 web/vf beta"],
        &["networks[0]: claim \"nics\", request \"two\" (ResourceClaim \"shared\"): it has no device for that request"],
    );
}

#[test]
fn a_delegate_that_is_braid_under_another_name_is_reported() {
    let (case, api) = node(&json!({}));
    std::os::unix::fs::symlink(crate::support::braid(), case.dir().join("bin/disguise")).unwrap();
    api.definition("web", "one", &recorder("disguise").into_json());
    api.pod("web", "shop", &json!({NETWORKS: "one"}));
    let output = plan(&case, &[]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(!output.status.success() && text.contains("error: plugin \"disguise\" is braid itself"), "{text}");
}

/// Errors that make a plan impossible.
#[rstest]
#[case::no_pod(None, "pod web/shop is gone: the API server does not know it")]
#[case::refused(Some(Fault::Status(403, None)), "refused to get pod web/shop: 403")]
#[case::unavailable(Some(Fault::Status(500, None)), "could not get pod web/shop: it answered 500")]
fn what_keeps_a_plan_from_being_made_is_reported(#[case] fault: Option<Fault>, #[case] message: &str) {
    let (case, api) = node(&json!({"kubernetes": {"timeout": 1, "retries": 1}}));
    match fault {
        Some(fault) => api.server.misbehave("GET", "/pods/", fault, 100),
        None => api.remove_pod("web", "shop"),
    }
    let output = plan(&case, &[]);
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && text.contains(message) && output.stdout.is_empty(), "{output:?}");
}

#[test]
fn an_api_server_that_is_not_there_is_reported() {
    let (case, api) = node(&json!({}));
    drop(api);
    let output = plan(&case, &[]);
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && text.contains("API server could not get pod web/shop"), "{text}");
    fs::remove_file(case.dir().join("kubeconfig")).unwrap();
    let text = String::from_utf8_lossy(&plan(&case, &[]).stderr).into_owned();
    assert!(text.contains("credentials of") && text.contains("kubeconfig"), "{text}");
}

#[test]
fn without_a_kubeconfig_there_is_nobody_to_ask() {
    let case = Case::new().configuration(
        "pods.conflist",
        Network::new("pods").plugin(recorder("braid").key("delegates", json!([recorder("alpha").value()]))),
    );
    let output = plan(&case, &[]);
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && text.contains("there is no \"kubeconfig\" in the configuration"), "{text}");
    for bad in ["shop", "/shop", "web/"] {
        let output = case.braid(&["plan", "pods", "--pod", bad]).output();
        assert_eq!(output.status.code(), Some(2), "{bad}");
    }
}
