//! The agent with the node's real Braid, real plugins, and a real API server if there is one.

use rstest::rstest;
use serde_json::{Value, json};

use super::stand_in::{Agent, NETWORKS, pod};
use crate::kubernetes::Server;
use crate::kubernetes::cluster::Cluster;
use crate::support::{Case, Json as _, Namespace, bridge, reference_plugins, wait_for};

const POD_PATH: &str = "/api/v1/namespaces/web/pods/shop";

/// A node whose configuration the command line finds, with a bridge as the primary network.
fn node() -> Case {
    let primary = bridge("br-pods", "10.10.0.0/24");
    let braid = json!({"type": "braid", "stateDir": "@DIR@/state", "kubeconfig": "@DIR@/kubeconfig", "multusNamespace": "web",
        "delegates": [primary.clone().value()]});
    let list = json!({"cniVersion": "1.0.0", "name": "outer", "plugins": [braid]});
    Case::with_reference_plugins().delegate(primary).key("multusNamespace", "web").configuration("outer.conflist", list)
}

/// Sets the networks that the pod asks for. Everything else about it stays.
pub(super) fn ask(api: &Cluster, networks: &str) {
    // Others may write at the same time.
    let mut pod = api.server.get(POD_PATH).expect("the pod is there");
    pod["metadata"]["annotations"][NETWORKS] = networks.into();
    api.server.put(POD_PATH, pod);
}

pub(super) fn interfaces(case: &Case) -> Vec<String> {
    interfaces_of(case.pod())
}

pub(super) fn interfaces_of(netns: &Namespace) -> Vec<String> {
    let links = netns.ip_json("link show");
    let mut names: Vec<String> = links
        .iter()
        .filter_map(|link| link["ifname"].as_str())
        .map(|name| name.split('@').next().unwrap_or(name).to_owned())
        .collect();
    names.sort();
    names
}

pub(super) fn in_status(api: &Cluster) -> Vec<Value> {
    let status = api.status("web", "shop").unwrap_or_default();
    status.as_array().into_iter().flatten().map(|entry| entry["interface"].clone()).collect()
}

#[rstest]
fn an_edit_of_the_annotation_attaches_and_detaches_while_the_pod_runs(
    #[values(Server::Double, Server::KubeApiserver)] server: Server,
) {
    let Some((case, api)) = server.with(node()) else { return };
    for (name, bridge_name, subnet) in [("one", "br-one", "10.11.0.0/24"), ("two", "br-two", "10.12.0.0/24")] {
        api.definition("web", name, &case.expand(&bridge(bridge_name, subnet).without("name").into_json()));
    }
    api.remove_pod("web", "shop");
    pod(&api, "shop", "one");
    let case = case.args(&api.args("web", "shop"));
    case.add().succeeds();
    api.kubeconfig_of_agent();
    let plugins = reference_plugins();
    let agent = Agent::start_real(&case, &plugins);
    wait_for("the pod", || agent.get("/healthz").filter(|(_, text)| text.contains("1 pods, 0 of")));
    ask(&api, "one,two@more");
    wait_for("the second network", || interfaces(&case).contains(&"more".to_owned()).then_some(()));
    wait_for("its entry", || (in_status(&api) == ["eth0", "net1", "more"]).then_some(()));
    ask(&api, "two@more");
    wait_for("the end of the first", || (interfaces(&case) == ["eth0", "lo", "more"]).then_some(()));
    wait_for("the end of its entry", || (in_status(&api) == ["eth0", "more"]).then_some(()));
    ask(&api, "two@more,three");
    agent.logs("the pod lacks what it asks for");
    api.definition("web", "three", &case.expand(&bridge("br-three", "10.13.0.0/24").without("name").into_json()));
    wait_for("the third network", || (interfaces(&case).len() == 4).then_some(()));
    drop(agent);
    case.del().succeeds();
    assert!(!case.owes());
}
