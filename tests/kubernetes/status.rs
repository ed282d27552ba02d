//! STATUS: what a node lacks to serve pods.

use std::fs;
use std::time::Duration;

use rstest::rstest;
use serde_json::json;

use super::cluster::{ApiServer, Cluster};
use super::{Fault, Server, in_cluster};
use crate::support::{Case, Json as _, recorder};

fn node() -> Case {
    let case = Case::new().cni_version("1.1.0").key("clusterNetwork", "cluster").key("confDir", "@DIR@/net.d");
    case.key("kubernetes", json!({"timeout": 1}))
}

fn with_cluster_network<S: ApiServer + ?Sized>((case, api): (Case, Cluster<S>)) -> (Case, Cluster<S>) {
    api.definition("kube-system", "cluster", &recorder("alpha").into_json());
    (case, api)
}

#[rstest]
fn a_node_with_everything_is_ready(#[values(Server::Double, Server::KubeApiserver)] server: Server) {
    let Some((case, _api)) = server.with(node()).map(with_cluster_network) else { return };
    case.status().succeeds();
}

#[rstest]
fn what_is_missing_is_said(#[values(Server::Double, Server::KubeApiserver)] server: Server) {
    let Some((case, api)) = server.with(node()).map(with_cluster_network) else { return };
    api.kubeconfig("another");
    case.status().fails(50).says("401");
    api.kubeconfig(&api.server.token());
    case.status().succeeds();
    api.definition("kube-system", "cluster", &recorder("nowhere").into_json());
    case.status().fails(50).says("nowhere");
    drop(api);
    fs::remove_file(case.dir().join("kubeconfig")).unwrap();
    case.status().fails(50).says("kubeconfig");
}

#[test]
fn a_cluster_without_the_type_of_definitions_is_reported() {
    let (case, api) = with_cluster_network(in_cluster(node()));
    api.server.misbehave("GET", "/apis/k8s.cni.cncf.io/v1", Fault::Status(404, None), 1);
    case.status().fails(50).says("404").says("k8s.cni.cncf.io/v1");
}

#[rstest]
fn a_missing_primary_network_is_reported(#[values(Server::Double, Server::KubeApiserver)] server: Server) {
    let Some((case, _api)) = server.with(node()).map(with_cluster_network) else { return };
    case.key("clusterNetwork", "missing").status().fails(50).says("clusterNetwork").says("missing");
}

/// Without an API server, nothing is scheduled. Nodes that are not ready when it returns would delay everything.
#[test]
fn an_api_server_that_is_away_is_a_warning_within_a_second() {
    let (case, api) = with_cluster_network(in_cluster(node()));
    for fault in [Fault::Status(503, None), Fault::Status(429, Some(1 << 63)), Fault::Reset] {
        api.server.misbehave("GET", "/apis/k8s.cni.cncf.io/v1", fault, 1);
        case.status().succeeds().stderr_contains("API server");
    }
    assert_eq!(api.server.requests().len(), 3, "asked once each");
    api.server.misbehave("GET", "/network-attachment-definitions/cluster", Fault::Status(500, None), 1);
    case.status().succeeds().stderr_contains("API server");
    api.server.misbehave("GET", "/apis/k8s.cni.cncf.io/v1", Fault::Slow(Duration::from_secs(10)), 1);
    let slow = case.key("kubernetes", json!({"timeout": 60, "retries": 5}));
    let outcome = slow.status().succeeds().stderr_contains("API server");
    assert!(outcome.took() < Duration::from_secs(6), "{:?}", outcome.took());
    drop(api);
    slow.status().succeeds().stderr_contains("API server");
}

/// Everything else that a node lacks is still reported, including its primary network on disk.
#[test]
fn what_is_missing_is_reported_while_the_api_server_is_away() {
    let (case, api) = in_cluster(node());
    let stuck = recorder("alpha").version("1.1.0").failing("STATUS", 50).key("name", "cluster");
    let case = case.configuration("10-cluster.conf", stuck);
    drop(api);
    case.status().fails(50).says("alpha");
}
