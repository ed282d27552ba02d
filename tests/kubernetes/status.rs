//! STATUS: what a node lacks to serve pods.

use std::fs;

use serde_json::json;

use super::{ApiServer, Fault, in_cluster};
use crate::support::{Case, Json as _, recorder};

fn node() -> (Case, ApiServer) {
    let case = Case::new().cni_version("1.1.0").key("clusterNetwork", "cluster").key("confDir", "@DIR@/net.d");
    let (case, api) = in_cluster(case.key("kubernetes", json!({"timeout": 1})));
    api.definition("kube-system", "cluster", &recorder("alpha").into_json());
    (case, api)
}

#[test]
fn a_node_with_everything_is_ready() {
    let (case, _api) = node();
    case.status().succeeds();
}

#[test]
fn what_is_missing_is_said() {
    let (case, api) = node();
    api.accept_only("another");
    case.status().fails(50).says("401");
    api.kubeconfig(&case, "another");
    case.status().succeeds();
    api.misbehave("GET", "/apis/k8s.cni.cncf.io/v1", Fault::Status(404, None), 1);
    case.status().fails(50).says("404").says("k8s.cni.cncf.io/v1");
    api.definition("kube-system", "cluster", &recorder("nowhere").into_json());
    case.status().fails(50).says("nowhere");
    drop(api);
    case.status().fails(50).says("API server");
    fs::remove_file(case.dir().join("kubeconfig")).unwrap();
    case.status().fails(50).says("kubeconfig");
}

#[test]
fn a_primary_network_that_is_not_there_is_said() {
    let (case, _api) = node();
    case.key("clusterNetwork", "missing").status().fails(50).says("clusterNetwork").says("missing");
}
