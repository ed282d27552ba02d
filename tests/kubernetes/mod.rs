//! What Braid does where there is a Kubernetes API server.

mod api_server;
mod attach;
mod devices;
mod isolation;
mod kubelet;
mod plan;
mod selections;
mod status;

use api_server::{ApiServer, Fault, TOKEN};

use crate::support::Case;

/// `CNI_ARGS` as a runtime writes them for the pod of most tests.
const ARGS: &str = "IgnoreUnknown=1;K8S_POD_NAMESPACE=web;K8S_POD_NAME=shop;\
                    K8S_POD_INFRA_CONTAINER_ID=container-1;K8S_POD_UID=uid-1";

/// The case with an API server beside it, and a call for pod `web/shop`.
fn in_cluster(case: Case) -> (Case, ApiServer) {
    let case = case.args(ARGS).key("kubeconfig", "@DIR@/kubeconfig");
    let api = ApiServer::start(&case);
    api.kubeconfig(&case, TOKEN);
    (case, api)
}
