//! A watch that breaks, and an API server that misbehaves.

use rstest::rstest;

use super::stand_in::{Agent, StandIn, attached_pod, container, pod};
use crate::kubernetes::{Fault, WatchFault, in_cluster};
use crate::support::{Case, wait_for};

#[rstest]
#[case::forgotten(WatchFault::Forgotten)]
#[case::forgotten_before(WatchFault::ForgottenBefore)]
#[case::cut_in_an_event(WatchFault::CutInEvent)]
#[case::twice(WatchFault::Twice)]
#[case::late(WatchFault::Late)]
#[case::nonsense(WatchFault::Nonsense)]
#[case::empty(WatchFault::Empty)]
fn no_edit_is_lost_when_a_watch_misbehaves(#[case] fault: WatchFault) {
    let (case, api) = in_cluster(Case::new());
    let stand_in = StandIn::new(&case);
    for name in ["shop", "till"] {
        attached_pod(&case, &api, name, "one");
    }
    api.server.spoil_watches([fault, fault]);
    let agent = Agent::start(&case, &[]);
    wait_for("a look at both", || (stand_in.calls().len() >= 2).then_some(()));
    for (number, name) in ["shop", "till", "shop", "till", "shop"].into_iter().enumerate() {
        let networks = format!("net-{number}");
        stand_in.write("wanted", &container(name), &networks);
        pod(&api, name, &networks);
        wait_for(&format!("{networks} of {name} with a watch that is spoilt"), || {
            (stand_in.read(&format!("seen/{}", container(name))) == networks).then_some(())
        });
    }
    // Events that arrive twice or late change nothing.
    assert!(stand_in.calls().len() <= 7, "{:?}", stand_in.calls());
    wait_for("health", || agent.get("/healthz").filter(|(status, _)| *status == 200));
}

#[test]
fn a_pod_that_is_deleted_while_the_server_is_away_is_forgotten() {
    let (case, api) = in_cluster(Case::new());
    let stand_in = StandIn::new(&case);
    for name in ["shop", "till"] {
        attached_pod(&case, &api, name, "one");
    }
    let agent = Agent::start(&case, &[]);
    wait_for("both pods", || agent.get("/healthz").filter(|(_, text)| text.contains("2 pods")));
    api.server.misbehave("GET", "/api/v1/pods", Fault::Status(503, None), 2);
    api.server.spoil_watches([WatchFault::Forgotten]);
    api.server.end_watches();
    api.remove_pod("web", "till");
    pod(&api, "shop", "two");
    wait_for("one pod", || agent.get("/healthz").filter(|(_, text)| text.contains("1 pods")));
    wait_for("the edit", || (stand_in.calls_for(&container("shop")) >= 2).then_some(()));
}

#[test]
fn a_server_that_throttles_is_asked_when_it_says() {
    let (case, api) = in_cluster(Case::new());
    let stand_in = StandIn::new(&case);
    attached_pod(&case, &api, "shop", "one");
    api.server.misbehave("GET", "/api/v1/pods", Fault::Status(429, Some(2)), 1);
    let began = std::time::Instant::now();
    let _agent = Agent::start(&case, &[]);
    wait_for("a look", || (stand_in.calls_for(&container("shop")) >= 1).then_some(()));
    assert!(began.elapsed() >= std::time::Duration::from_secs(2), "{:?}", began.elapsed());
}

#[test]
fn a_token_that_is_replaced_is_read_again() {
    let (case, api) = in_cluster(Case::new());
    let stand_in = StandIn::new(&case);
    attached_pod(&case, &api, "shop", "one");
    api.kubeconfig_with_token_file(crate::kubernetes::TOKEN);
    let agent = Agent::start(&case, &[]);
    wait_for("a look", || (stand_in.calls_for(&container("shop")) >= 1).then_some(()));
    api.server.accept_only("token-2");
    api.server.end_watches();
    agent.logs("Unauthorized");
    assert!(!agent.log().contains("token-1"), "{}", agent.log());
    api.kubeconfig_with_token_file("token-2");
    pod(&api, "shop", "two");
    wait_for("the edit", || (stand_in.calls_for(&container("shop")) >= 2).then_some(()));
}
