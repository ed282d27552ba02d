//! Attachments of containers that are gone, and debts, with the node's real Braid.

use serde_json::json;

use super::stand_in::Agent;
use crate::kubernetes::cluster::Cluster;
use crate::kubernetes::double::Double;
use crate::kubernetes::in_cluster;
use crate::support::{Case, Namespace, recorder, wait_for};

/// A node that attaches two recorders to pod `web/shop`, whose namespace is this one.
fn node(netns: &Namespace) -> (Case, Cluster<Double>) {
    let case = Case::new().delegate(recorder("alpha").link()).delegate(recorder("beta"));
    in_cluster(case.key("debts", json!({"giveUpAfter": 0.001})).netns(netns.path().to_str().expect("UTF-8")))
}

/// An agent whose pauses are a second instead of minutes. Its children tell the recorders where to record.
fn impatient(case: &Case) -> Agent {
    Agent::start_recording(case, &["--gone-after", "1", "--retry-after", "1"])
}

fn is_owed_to(api: &Cluster<Double>, case: &Case, agent: &Agent) {
    wait_for("a list of pods", || {
        let requests = api.server.requests();
        requests.iter().any(|request| request.contains("GET /api/v1/pods")).then_some(())
    });
    assert!(case.owes(), "{}", agent.log());
}

#[test]
fn what_a_container_that_is_gone_had_is_undone_once_its_pod_is_not_known_any_more() {
    let netns = Namespace::new("gone");
    let (case, api) = node(&netns);
    case.add().succeeds();
    drop(netns);
    let agent = impatient(&case);
    is_owed_to(&api, &case, &agent);
    api.remove_pod("web", "shop");
    wait_for("the end of the journal", || (!case.owes()).then_some(()));
    assert_eq!(case.order(), ["ADD alpha eth0", "ADD beta net1", "DEL beta net1", "DEL alpha eth0"]);
    agent.logs("the attachments of a container that is gone are undone");
}

#[test]
fn a_container_that_lives_is_left_alone_though_its_pod_is_not_known() {
    let netns = Namespace::new("alive");
    let (case, api) = node(&netns);
    case.add().succeeds();
    api.replace_pod("web", "shop", &json!({}));
    let agent = impatient(&case);
    agent.logs("its container may live; trying again later");
    assert!(case.owes());
    assert_eq!(case.order(), ["ADD alpha eth0", "ADD beta net1"]);
    drop(netns);
    wait_for("the end of the journal", || (!case.owes()).then_some(()));
}

#[test]
fn an_agent_with_the_name_of_another_node_says_so() {
    let netns = Namespace::new("named");
    let (case, _api) = node(&netns);
    case.add().succeeds();
    let agent = Agent::start_recording(&case, &["--gone-after", "1", "--node", "elsewhere"]);
    agent.logs("pod web/shop has a container here, and is not among the running pods of this node");
    assert!(case.owes());
}

#[test]
fn debts_are_tried_again_until_they_are_settled() {
    let netns = Namespace::new("debt");
    let (case, _api) = node(&netns);
    case.add().succeeds();
    drop(netns);
    case.behave("beta", json!({"fail": {"DEL": {"code": 142, "msg": "beta is stuck"}}}));
    let del = || case.call("DEL").env("CNI_NETNS", "").run();
    del().fails_with_any_code();
    del().succeeds();
    let debt = case.dir().join("state/debts/container-1/eth0.jsonl");
    assert!(debt.is_file());
    let agent = impatient(&case);
    agent.logs("beta is stuck; trying again later");
    case.behave("beta", json!({}));
    wait_for("the end of the debt", || (!debt.exists()).then_some(()));
    agent.logs("the attachments of a container that is gone are undone");
}
