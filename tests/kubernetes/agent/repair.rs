//! Pods that another plugin has attached, and that therefore lack the networks that they ask for.

use std::fs;

use rstest::rstest;
use serde_json::{Value, json};

use super::real::{ask, in_status, interfaces};
use super::stand_in::{Agent, StandIn, pod};
use crate::kubernetes::cluster::{ApiServer, Cluster};
use crate::kubernetes::sync::attached_by_another;
use crate::kubernetes::{Server, in_cluster};
use crate::support::{Case, Json as _, bridge, reference_plugins, wait_for};

const CONFIGURATION: &str = "outer.conflist";

/// A configuration whose primary network is a bridge, with or without `repair`.
fn configuration(repair: bool) -> Value {
    let braid = json!({"type": "braid", "stateDir": "@DIR@/state", "kubeconfig": "@DIR@/kubeconfig", "multusNamespace": "web",
        "multusDir": "@DIR@/multus", "kubernetes": {"repair": repair}, "delegates": [primary().value()]});
    json!({"cniVersion": "1.0.0", "name": "outer", "plugins": [braid]})
}

fn primary() -> crate::support::Plugin {
    bridge("br-pods", "10.10.0.0/24")
}

fn node(repair: bool) -> Case {
    let case = Case::with_reference_plugins().delegate(primary()).key("multusNamespace", "web");
    case.configuration(CONFIGURATION, configuration(repair))
}

/// The pod `shop` asks for this network, and another plugin has attached it.
fn attached_without<S: ApiServer + ?Sized>(case: &Case, api: &Cluster<S>, networks: &str) {
    for (name, bridge_name, subnet) in [("one", "br-one", "10.11.0.0/24"), ("two", "br-two", "10.12.0.0/24")] {
        api.definition("web", name, &case.expand(&bridge(bridge_name, subnet).without("name").into_json()));
    }
    api.remove_pod("web", "shop");
    pod(api, "shop", networks);
    attached_by_another(case, api);
}

fn metrics_say(agent: &Agent, line: &str) {
    wait_for(line, || agent.get("/metrics").filter(|(_, text)| text.lines().any(|one| one == line)));
}

#[rstest]
fn with_repair_it_gets_what_it_asks_for_and_is_then_like_any_other(
    #[values(Server::Double, Server::KubeApiserver)] server: Server,
) {
    let Some((case, api)) = server.with(node(true)) else { return };
    attached_without(&case, &api, "one");
    let case = case.args(&api.args("web", "shop"));
    api.kubeconfig_of_agent();
    let agent = Agent::start_real(&case, &reference_plugins());
    wait_for("the network", || (interfaces(&case) == ["lo", "net1"]).then_some(()));
    wait_for("its entry", || (in_status(&api) == ["eth0", "net1"]).then_some(()));
    metrics_say(&agent, "braid_pods_unfulfilled 0");
    ask(&api, "two@data");
    wait_for("the other network", || (interfaces(&case) == ["data", "lo"]).then_some(()));
    wait_for("its entry", || (in_status(&api) == ["eth0", "data"]).then_some(()));
    drop(agent);
    case.del().succeeds();
    assert!(!case.owes());
}

#[test]
fn without_repair_it_is_reported_once_and_repaired_when_the_configuration_says_so() {
    let (case, api) = in_cluster(node(false));
    attached_without(&case, &api, "one");
    api.kubeconfig_of_agent();
    let agent = Agent::start_real(&case, &reference_plugins());
    metrics_say(&agent, "braid_pods_unfulfilled 1");
    agent.logs("once its annotation or Braid's configuration changes");
    // Other changes of the pod, and of its definitions, are no reason to report it again.
    for number in 0..3 {
        let mut object = api.server.get("/api/v1/namespaces/web/pods/shop").expect("the pod is there");
        object["metadata"]["labels"]["number"] = number.to_string().into();
        api.server.put("/api/v1/namespaces/web/pods/shop", object);
    }
    assert_eq!(interfaces(&case), ["lo"]);
    let file = case.dir().join("net.d").join(CONFIGURATION);
    fs::write(file, case.expand(&configuration(true).to_string())).expect("write the configuration");
    wait_for("the network", || (interfaces(&case) == ["lo", "net1"]).then_some(()));
    metrics_say(&agent, "braid_pods_unfulfilled 0");
    let failures = || api.events("web", "shop").into_iter().filter(|event| event.starts_with("FailedAddingInterface"));
    assert_eq!(failures().count(), 1, "{:?}", api.events("web", "shop"));
    let event = failures().next().expect("an event");
    assert!(event.contains("Failed to add net1 from web/one: ") && event.contains("\"repair\": true"), "{event}");
    case.del().succeeds();
}

#[rstest]
fn a_new_agent_reports_it_again_only_if_something_else_is_missing(
    #[values(Server::Double, Server::KubeApiserver)] server: Server,
) {
    let Some((case, api)) = server.with(node(false)) else { return };
    attached_without(&case, &api, "one,late");
    let case = case.args(&api.args("web", "shop"));
    api.kubeconfig_of_agent();
    let failures = || -> Vec<String> {
        let events = api.events("web", "shop").into_iter();
        events.filter(|event| event.starts_with("FailedAddingInterface")).collect()
    };
    for _ in 0..3 {
        let agent = Agent::start_real(&case, &reference_plugins());
        agent.logs("once its annotation or Braid's configuration changes");
    }
    assert_eq!(failures().len(), 2, "{:?}", failures());
    let of_late =
        |text: &str| failures().iter().filter(|event| event.contains("web/late") && event.contains(text)).count();
    assert_eq!((of_late("\"repair\": true"), of_late("")), (0, 1), "{:?}", failures());
    // A running agent requests the definition once a minute.
    api.definition("web", "late", &case.expand(&bridge("br-late", "10.13.0.0/24").without("name").into_json()));
    let _agent = Agent::start_real(&case, &reference_plugins());
    wait_for("another event", || (of_late("\"repair\": true") == 1).then_some(()));
    assert_eq!(failures().len(), 3, "{:?}", failures());
    assert_eq!(interfaces(&case), ["lo"]);
}

#[test]
fn what_braid_itself_has_attached_needs_no_repair_while_it_is_taken_down() {
    let (case, api) = in_cluster(node(true));
    let stand_in = StandIn::new(&case);
    attached_without(&case, &api, "one");
    // DEL has removed the journal, and libcni is about to remove its result.
    for entry in fs::read_dir(case.dir().join("cache/results")).expect("there are results") {
        let file = entry.expect("a result").path();
        let text = fs::read_to_string(&file).expect("read it");
        let config = base64(&case.expand(&configuration(true).to_string()));
        fs::write(&file, text.replace("\"e30=\"", &format!("{config:?}"))).expect("write it");
    }
    let agent = Agent::start(&case, &[]);
    wait_for("the pod", || agent.get("/healthz").filter(|(_, text)| text.contains("1 pods, 0 of")));
    attached_by_another(&case, &api);
    wait_for("a call", || stand_in.calls().pop());
    let line = format!(
        "sync {} --by agent --network @DIR@/net.d/outer.conflist --state-dir @DIR@/state -o json",
        Case::CONTAINER
    );
    assert_eq!(stand_in.calls(), [case.expand(&line)]);
}

fn base64(text: &str) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(text)
}
