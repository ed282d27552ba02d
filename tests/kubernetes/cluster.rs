//! A Kubernetes cluster for the scenarios: the objects that Braid reads, and what it writes.

use std::fs;
use std::path::PathBuf;

use serde_json::{Map, Value, json};

use crate::support::Case;

/// The path of definitions.
pub(super) const DEFINITIONS: &str = "/apis/k8s.cni.cncf.io/v1";
/// The path of slices of devices.
pub(super) const SLICES: &str = "/apis/resource.k8s.io/v1/resourceslices";
/// The pod of most tests.
pub(super) const POD: (&str, &str) = ("web", "shop");

const STATUS: &str = "k8s.v1.cni.cncf.io/network-status";

/// An API server on the host of a case. Objects are named by their paths.
pub(super) trait ApiServer {
    /// Its address and port.
    fn address(&self) -> String;
    /// The certificate of the authority that has signed its own, in PEM.
    fn authority(&self) -> String;
    /// A token with Braid's rights.
    fn token(&self) -> String;
    /// A token with the rights of the agent of a node.
    fn token_of_agent(&self) -> String;
    /// A token that Kubernetes gives to the pod of the DaemonSet at this path. It is valid as long as the pod exists.
    fn token_of_pod(&self, path: &str) -> String;
    fn get(&self, path: &str) -> Option<Value>;
    /// Makes an object, or changes the existing one, whose UID stays the same.
    fn put(&self, path: &str, object: Value);
    /// Writes the status of an existing object.
    fn put_status(&self, path: &str, status: Value);
    /// Removes an object immediately, if it exists.
    fn remove(&self, path: &str);
    /// All events so far.
    fn events(&self) -> Vec<Value>;
}

/// A cluster, with an API server of this kind.
pub(super) struct Cluster<S: ApiServer + ?Sized = dyn ApiServer + Sync> {
    pub(super) server: Box<S>,
    dir: PathBuf,
}

impl<S: ApiServer + ?Sized> Cluster<S> {
    /// A cluster with a pod `web/shop` that asks for nothing. The case calls for that pod, with credentials.
    pub(super) fn new(case: Case, server: Box<S>) -> (Case, Self) {
        let cluster = Self { server, dir: case.dir().to_owned() };
        cluster.kubeconfig(&cluster.server.token());
        cluster.pod(POD.0, POD.1, &json!({}));
        let case = case.args(&cluster.args(POD.0, POD.1)).key("kubeconfig", "@DIR@/kubeconfig");
        (case, cluster)
    }

    /// `CNI_ARGS` of an existing pod, as a runtime writes them.
    pub(super) fn args(&self, namespace: &str, name: &str) -> String {
        let uid = self.uid(namespace, name);
        format!(
            "IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={name};\
             K8S_POD_INFRA_CONTAINER_ID={};K8S_POD_UID={uid}",
            Case::CONTAINER
        )
    }

    /// The UID of an existing pod.
    pub(super) fn uid(&self, namespace: &str, name: &str) -> String {
        let pod = self.server.get(&pod_path(namespace, name)).expect("the pod is there");
        pod["metadata"]["uid"].as_str().expect("a UID").to_owned()
    }

    /// Writes a kubeconfig with the token in it.
    pub(super) fn kubeconfig(&self, token: &str) {
        self.write_kubeconfig(&format!("token: {token}"));
    }

    /// Writes a kubeconfig for the agent of a node, `kubeconfig-of-agent`.
    pub(super) fn kubeconfig_of_agent(&self) {
        let text = fs::read_to_string(self.dir.join("kubeconfig")).expect("a kubeconfig");
        let text = text.replace(&self.server.token(), &self.server.token_of_agent());
        fs::write(self.dir.join("kubeconfig-of-agent"), text).expect("write the kubeconfig");
    }

    /// Writes a kubeconfig that names a file with the token in it.
    pub(super) fn kubeconfig_with_token_file(&self, token: &str) {
        fs::write(self.dir.join("token"), token).expect("write the token");
        self.write_kubeconfig(&format!("tokenFile: {}/token", self.dir.display()));
    }

    /// Writes a kubeconfig with this user.
    pub(super) fn write_kubeconfig(&self, user: &str) {
        self.write_kubeconfig_of(&self.server.address(), "", user);
    }

    /// Writes a kubeconfig for a server at this address, with another key of its cluster and with this user.
    pub(super) fn write_kubeconfig_of(&self, address: &str, cluster: &str, user: &str) {
        fs::write(self.dir.join("ca.crt"), self.server.authority()).expect("write the certificate");
        let text = format!(
            "apiVersion: v1\nkind: Config\nclusters:\n- name: c\n  cluster:\n    server: https://{address}\n    \
             certificate-authority: {}/ca.crt\n    {cluster}\nusers:\n- name: u\n  user:\n    {user}\ncontexts:\n- name: x\n  \
             context:\n    cluster: c\n    user: u\ncurrent-context: x\n",
            self.dir.display(),
        );
        fs::write(self.dir.join("kubeconfig"), text).expect("write the kubeconfig");
    }

    /// Makes a pod of the DaemonSet, and returns its token.
    pub(super) fn agent(&self) -> String {
        let metadata = json!({"namespace": "kube-system", "name": "agent", "annotations": {}});
        let containers = json!([{"name": "install", "image": "example.test/none"}]);
        let spec = json!({"serviceAccountName": "braid", "containers": containers});
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec});
        let path = pod_path("kube-system", "agent");
        self.server.put(&path, pod);
        self.server.token_of_pod(&path)
    }

    /// Gives a pod these annotations and no others. If it is not there, it is made.
    pub(super) fn pod(&self, namespace: &str, name: &str, annotations: &Value) {
        let metadata = json!({"namespace": namespace, "name": name, "annotations": annotations});
        let spec = json!({"containers": [{"name": "main", "image": "example.test/none"}]});
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec});
        self.server.put(&pod_path(namespace, name), pod);
    }

    /// Another pod `web/shop` in the place of the first, on node `node-1` and with these claims in its spec and status. It requests
    /// the extended resources that its status has claims for, as an API server demands. Returns the case with calls for this one.
    pub(super) fn pod_with_claims(&self, case: Case, networks: &Value, claims: &Value, status: &Value) -> Case {
        self.remove_pod(POD.0, POD.1);
        let annotations = json!({"k8s.v1.cni.cncf.io/networks": networks.to_string()});
        let metadata = json!({"namespace": POD.0, "name": POD.1, "annotations": annotations});
        let mappings = status["extendedResourceClaimStatus"]["requestMappings"].as_array().into_iter().flatten();
        let resources: Map<_, _> =
            mappings.filter_map(|mapping| Some((mapping["resourceName"].as_str()?.to_owned(), json!("1")))).collect();
        let resources = json!({"limits": &resources, "requests": &resources});
        let containers = json!([{"name": "main", "image": "example.test/none", "resources": resources}]);
        let spec = json!({"nodeName": "node-1", "containers": containers, "resourceClaims": claims});
        let path = pod_path(POD.0, POD.1);
        self.server.put(&path, json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}));
        self.server.put_status(&path, status.clone());
        case.args(&self.args(POD.0, POD.1))
    }

    pub(super) fn remove_pod(&self, namespace: &str, name: &str) {
        self.server.remove(&pod_path(namespace, name));
    }

    /// Replaces a pod with another of the same name, with another UID.
    pub(super) fn replace_pod(&self, namespace: &str, name: &str, annotations: &Value) {
        self.remove_pod(namespace, name);
        self.pod(namespace, name, annotations);
    }

    /// Makes a network-attachment-definition. Its `config` is what `config` says, as text.
    pub(super) fn definition(&self, namespace: &str, name: &str, config: &str) {
        self.definition_with(namespace, name, &json!({}), &json!({"config": config}));
    }

    pub(super) fn definition_with(&self, namespace: &str, name: &str, annotations: &Value, spec: &Value) {
        let metadata = json!({"namespace": namespace, "name": name, "annotations": annotations});
        let kind = "NetworkAttachmentDefinition";
        let object = json!({"apiVersion": "k8s.cni.cncf.io/v1", "kind": kind, "metadata": metadata, "spec": spec});
        let path = format!("{DEFINITIONS}/namespaces/{namespace}/network-attachment-definitions/{name}");
        self.server.put(&path, object);
    }

    /// The status of a pod's networks, as written.
    pub(super) fn status(&self, namespace: &str, name: &str) -> Option<Value> {
        let pod = self.server.get(&pod_path(namespace, name))?;
        let text = pod["metadata"]["annotations"][STATUS].as_str()?;
        Some(serde_json::from_str(text).expect("the status is JSON"))
    }

    /// The events about a pod, each as `AddedInterface: Add eth0 …`, sorted.
    pub(super) fn events(&self, namespace: &str, name: &str) -> Vec<String> {
        let uid = self.uid(namespace, name);
        let is_about = |event: &Value| event["involvedObject"]["uid"] == *uid;
        let text = |event: &Value| {
            format!("{}: {}", event["reason"].as_str().expect("text"), event["message"].as_str().expect("text"))
        };
        let mut events: Vec<_> = self.server.events().iter().filter(|event| is_about(event)).map(text).collect();
        events.sort();
        events
    }
}

fn pod_path(namespace: &str, name: &str) -> String {
    format!("/api/v1/namespaces/{namespace}/pods/{name}")
}
