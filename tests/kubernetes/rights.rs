//! The rights of the service account of `conf/kubernetes` and `conf/kubernetes-dra`. Other scenarios show that they are enough;
//! these show that there are no more.

use std::fs;

use rstest::rstest;
use serde_json::{Value, json};

use super::cluster::{ApiServer, Cluster};
use super::{Fault, KubeApiserver, Server, in_cluster};
use crate::support::{Case, Json as _, recorder, wait_for};

const RULES: &str = "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews";

/// What the account may do in a namespace.
fn rules(api: &KubeApiserver, namespace: &str) -> Vec<String> {
    let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectRulesReview",
        "spec": {"namespace": namespace}});
    let (status, answer) = api.request(&api.token(), "POST", RULES, &review);
    assert_eq!(status, 201, "{answer:#}");
    let words = |list: &Value| {
        let words = list.as_array().into_iter().flatten().filter_map(Value::as_str);
        words.collect::<Vec<_>>().join(",")
    };
    let rule = |rule: &Value| {
        let [verbs, groups, resources, names] =
            ["verbs", "apiGroups", "resources", "resourceNames"].map(|key| words(&rule[key]));
        format!("{verbs} {groups}/{resources} {names}").trim_end().to_owned()
    };
    let rules = answer["status"]["resourceRules"].as_array().expect("rules");
    // Every authenticated user may ask for their rights and, in newer versions, for their identity.
    let mut rules: Vec<_> = rules.iter().map(rule).filter(|rule| !rule.contains("selfsubject")).collect();
    rules.sort();
    rules
}

#[test]
fn the_account_may_do_what_braid_does_and_nothing_else() {
    let case = Case::new();
    let Some(api) = KubeApiserver::start(&case) else { return };
    // The first and the last are of conf/kubernetes-dra/rbac-claim-status.yaml, which is applied by those who want it.
    let everywhere = [
        "arbitrary-node:patch resource.k8s.io/resourceclaims/driver nic.example",
        "create /events",
        "get /pods",
        "get k8s.cni.cncf.io/network-attachment-definitions",
        "get resource.k8s.io/resourceclaims",
        "list resource.k8s.io/resourceslices",
        "patch /pods/status",
        "patch resource.k8s.io/resourceclaims/status",
    ];
    assert_eq!(rules(&api, "web"), everywhere);
    let mut own = [&["create /serviceaccounts/token braid"], &everywhere[..]].concat();
    own.sort_unstable();
    assert_eq!(rules(&api, "kube-system"), own);
}

/// Runs `braid install` once, as a pod of the DaemonSet with this token does, and returns its output.
fn install<S: ApiServer + ?Sized>(case: &Case, api: &Cluster<S>, token: &str) -> String {
    let account = case.dir().join("account");
    fs::create_dir_all(&account).unwrap();
    fs::write(account.join("token"), token).unwrap();
    fs::write(account.join("ca.crt"), api.server.authority()).unwrap();
    let words = ["install", "--once", "--conf-dir", "@DIR@/net.d", "--bin-dir", "@DIR@/bin"];
    let words = [&words[..], &["--state-dir", "@DIR@/state", "--service-account", "@DIR@/account"]].concat();
    let address = api.server.address();
    let (host, port) = address.split_once(':').unwrap();
    let install = case.braid(&words).env("KUBERNETES_SERVICE_HOST", host).env("KUBERNETES_SERVICE_PORT", port);
    let output = install.output();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{said}");
    said
}

fn node() -> Case {
    Case::new()
        .delegate(recorder("alpha"))
        .configuration("10-pods.conf", recorder("alpha").key("name", "pods").into_json().as_str())
}

#[rstest]
fn pods_are_attached_when_the_pod_that_installed_braid_is_gone(
    #[values(Server::Double, Server::KubeApiserver)] server: Server,
) {
    let Some((case, api)) = server.with(node()) else { return };
    let token = api.agent();
    install(&case, &api, &token);
    api.remove_pod("kube-system", "agent");
    // An API server accepts a token for some seconds after it has checked it.
    api.kubeconfig(&token);
    wait_for("the end of the pod's token", || {
        let output = case.call("ADD").run_unrecorded();
        case.del().succeeds();
        String::from_utf8(output.stdout).unwrap().contains("401").then_some(())
    });
    let case = case.key("kubeconfig", "@DIR@/net.d/braid.d/kubeconfig");
    case.add().succeeds();
    assert!(api.status("web", "shop").is_some());
}

#[test]
fn where_there_is_no_other_token_the_pods_own_is_used() {
    let (case, api) = in_cluster(node());
    let token = api.agent();
    api.server.misbehave("POST", "/token", Fault::Status(403, None), 1);
    let said = install(&case, &api, &token);
    assert!(said.contains("WARNING") && said.contains("ends with this pod") && said.contains("403"), "{said}");
    let case = case.key("kubeconfig", "@DIR@/net.d/braid.d/kubeconfig");
    case.add().succeeds();
}
