//! What the service account of `conf/kubernetes` may do: enough, as the scenarios show, and no more.

use serde_json::{Value, json};

use super::KubeApiserver;
use super::cluster::ApiServer as _;
use crate::support::Case;

const RULES: &str = "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews";

#[test]
fn the_account_may_do_four_things() {
    let case = Case::new();
    let Some(api) = KubeApiserver::start(&case) else { return };
    let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectRulesReview",
        "spec": {"namespace": "web"}});
    let (status, answer) = api.request(&api.token(), "POST", RULES, &review);
    assert_eq!(status, 201, "{answer:#}");
    let words = |list: &Value| {
        let words = list.as_array().into_iter().flatten().filter_map(Value::as_str);
        words.collect::<Vec<_>>().join(",")
    };
    let rules = answer["status"]["resourceRules"].as_array().expect("rules");
    let mut rules: Vec<_> = rules
        .iter()
        .map(|rule| format!("{} {}/{}", words(&rule["verbs"]), words(&rule["apiGroups"]), words(&rule["resources"])))
        // What everybody may who is known: ask about rights, and of later versions about oneself.
        .filter(|rule| !rule.contains("selfsubject"))
        .collect();
    rules.sort();
    assert_eq!(
        rules,
        ["create /events", "get /pods", "get k8s.cni.cncf.io/network-attachment-definitions", "patch /pods/status",]
    );
}
