//! Networks that a pod may not choose, in any form.

use rstest::rstest;
use serde_json::{Value, json};

use super::cluster::{ApiServer, Cluster};
use super::{Server, in_cluster};
use crate::support::{Case, Json as _, recorder};

const NETWORKS: &str = "k8s.v1.cni.cncf.io/networks";
const DEFAULT_NETWORK: &str = "v1.multus-cni.io/default-network";

fn node(key: &str, value: impl Into<Value>) -> Case {
    let case = Case::new().delegate(recorder("alpha")).key("confDir", "@DIR@/net.d").key(key, value);
    case.configuration("on-disk.conf", recorder("epsilon").key("name", "on-disk"))
        .configuration("stub.conf", recorder("epsilon").key("name", "stub"))
}

/// A network in each of several places.
fn with_networks<S: ApiServer + ?Sized>((case, api): (Case, Cluster<S>)) -> (Case, Cluster<S>) {
    for namespace in ["web", "default", "other", "kube-system"] {
        api.definition(namespace, "net", &recorder("beta").into_json());
    }
    api.definition_with("web", "stub", &json!({}), &json!({}));
    api.definition_with("default", "stub", &json!({}), &json!({}));
    api.definition_with("other", "stub", &json!({}), &json!({}));
    (case, api)
}

fn asks<S: ApiServer + ?Sized>(api: &Cluster<S>, annotation: &str, network: &str) {
    api.pod("web", "shop", &json!({ annotation: network }));
}

#[rstest]
fn isolation_holds_on_every_way_to_choose(#[values(Server::Double, Server::KubeApiserver)] server: Server) {
    let Some((case, api)) = server.with(node("namespaceIsolation", true)).map(with_networks) else { return };
    for (annotation, network) in [
        (NETWORKS, "other/net"),
        (NETWORKS, "net,other/net"),
        (NETWORKS, r#"[{"name": "net", "namespace": "other"}]"#),
        (NETWORKS, "other/stub"),
        (NETWORKS, "on-disk"),
        (NETWORKS, "stub"),
        (NETWORKS, "default/stub"),
        (DEFAULT_NETWORK, "other/net"),
        (DEFAULT_NETWORK, "net"),
        (DEFAULT_NETWORK, "on-disk"),
        (DEFAULT_NETWORK, "web/stub"),
    ] {
        asks(&api, annotation, network);
        case.add().fails(7).called_nothing().leaves_nothing();
    }
    for (annotation, network, calls) in [
        (NETWORKS, "net", ["ADD alpha eth0", "ADD beta net1"]),
        (NETWORKS, "default/net", ["ADD alpha eth0", "ADD beta net1"]),
    ] {
        asks(&api, annotation, network);
        case.add().succeeds().called(&calls);
        case.del().succeeds().leaves_nothing();
    }
    asks(&api, DEFAULT_NETWORK, "web/net");
    case.add().succeeds().called(&["ADD beta eth0"]);
}

#[test]
fn nothing_is_looked_up_that_a_pod_may_not_use() {
    let (case, api) = with_networks(in_cluster(node("namespaceIsolation", true)));
    for (annotation, network) in
        [(NETWORKS, "net,other/net"), (NETWORKS, "other/missing"), (DEFAULT_NETWORK, "other/net")]
    {
        asks(&api, annotation, network);
        case.add().fails(7).called_nothing();
    }
    // So the pod does not learn which networks exist.
    assert!(!api.server.requests().iter().any(|line| line.contains(" other/")), "{:?}", api.server.requests());
}

#[rstest]
fn global_namespaces_are_those_that_are_listed(#[values(Server::Double, Server::KubeApiserver)] server: Server) {
    let Some((case, api)) = server.with(node("namespaceIsolation", true)).map(with_networks) else { return };
    let case = case.key("globalNamespaces", "other, kube-system");
    asks(&api, NETWORKS, "default/net");
    case.add().fails(7).says("default/net").says("other, kube-system").called_nothing();
    asks(&api, NETWORKS, "other/net");
    case.add().succeeds();
    case.del().succeeds();
    asks(&api, DEFAULT_NETWORK, "net");
    case.add().succeeds().called(&["ADD beta eth0"]);
}

#[rstest]
fn policy_holds_on_every_way_to_choose(#[values(Server::Double, Server::KubeApiserver)] server: Server) {
    let Some((case, api)) = server
        .with(node("policy", json!([{"namespaces": "web", "networks": "web/*", "plugins": "beta"}])))
        .map(with_networks)
    else {
        return;
    };
    for (annotation, network) in [
        (NETWORKS, "default/net"),
        (NETWORKS, "stub"),
        (NETWORKS, "on-disk"),
        (DEFAULT_NETWORK, "net"),
        (DEFAULT_NETWORK, "web/stub"),
    ] {
        asks(&api, annotation, network);
        case.add().fails(7).says("policy").called_nothing().leaves_nothing();
    }
    asks(&api, NETWORKS, "net");
    // The policy does not apply to alpha, which the operator has chosen.
    case.add().succeeds().called(&["ADD alpha eth0", "ADD beta net1"]);
}

#[rstest]
fn without_isolation_a_name_leads_to_a_definition_and_then_to_the_disk(
    #[values(Server::Double, Server::KubeApiserver)] server: Server,
) {
    let Some((case, api)) = server.with(node("namespaceIsolation", false)).map(with_networks) else { return };
    asks(&api, NETWORKS, "other/net,on-disk");
    case.add().succeeds().called(&["ADD alpha eth0", "ADD beta net1", "ADD epsilon net2"]);
    case.del().succeeds().leaves_nothing();
    asks(&api, NETWORKS, "other/on-disk");
    case.add().fails(7).says("other/on-disk").called_nothing().leaves_nothing();
}

/// A definition without a configuration stands for the configuration of its name on disk. Its author chooses that name.
#[rstest]
#[case::only_the_definitions(json!(["web/*", "default/*", "kube-system/*"]), false)]
#[case::only_the_disks(json!(["stub"]), false)]
#[case::both(json!(["web/*", "default/*", "kube-system/*", "stub"]), true)]
fn a_definition_and_what_it_stands_for_are_both_checked(
    #[case] networks: Value,
    #[case] is_allowed: bool,
    #[values(false, true)] is_isolated: bool,
    #[values((NETWORKS, "stub"), (NETWORKS, "default/stub"), (DEFAULT_NETWORK, "web/stub"))] asked: (&str, &str),
) {
    let node = node("policy", json!([{"networks": networks, "plugins": ["epsilon"]}]));
    let (case, api) = with_networks(in_cluster(node.key("namespaceIsolation", is_isolated)));
    asks(&api, asked.0, asked.1);
    let outcome = case.add();
    if is_allowed {
        outcome.succeeds();
    } else {
        outcome.fails(7).says("policy").called_nothing().leaves_nothing();
    }
}

/// Isolation does not apply to the operator's own choice.
#[test]
fn the_operators_definition_may_stand_for_what_is_on_disk() {
    let case = node("namespaceIsolation", true).clear().key("clusterNetwork", "web/stub");
    let (case, _api) = with_networks(in_cluster(case));
    case.add().succeeds().called(&["ADD epsilon eth0"]);
}
