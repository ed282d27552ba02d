//! Pods as the kubelet makes them: through containerd's CRI plugin.
//!
//! The messages are the parts of `k8s.io/cri-api/pkg/apis/runtime/v1/api.proto` that the tests use.

use http::uri::PathAndQuery;
use prost::Message;
use serde_json::Value;
use tonic::client::Grpc;
use tonic::transport::Endpoint;
use tonic::{Request, Status};
use tonic_prost::ProstCodec;

use super::containerd::{IMAGE, start};
use super::networks::{failing, three_networks};
use crate::support::Machine;

/// `RunPodSandboxRequest`
#[derive(Clone, PartialEq, Message)]
struct Run {
    #[prost(message, optional, tag = "1")]
    config: Option<Config>,
}

/// `PodSandboxConfig`
#[derive(Clone, PartialEq, Message)]
struct Config {
    #[prost(message, optional, tag = "1")]
    metadata: Option<Metadata>,
    #[prost(string, tag = "3")]
    log_directory: String,
    #[prost(message, repeated, tag = "5")]
    port_mappings: Vec<PortMapping>,
    #[prost(message, optional, tag = "8")]
    linux: Option<Linux>,
}

/// `PodSandboxMetadata`
#[derive(Clone, PartialEq, Message)]
struct Metadata {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    uid: String,
    #[prost(string, tag = "3")]
    namespace: String,
}

#[derive(Clone, PartialEq, Message)]
struct PortMapping {
    #[prost(int32, tag = "2")]
    container_port: i32,
    #[prost(int32, tag = "3")]
    host_port: i32,
}

/// `LinuxPodSandboxConfig`
#[derive(Clone, PartialEq, Message)]
struct Linux {
    #[prost(string, tag = "1")]
    cgroup_parent: String,
}

/// Other requests, and the answer to the first one: they have only `pod_sandbox_id`.
#[derive(Clone, PartialEq, Message)]
struct Sandbox {
    #[prost(string, tag = "1")]
    id: String,
}

/// The answer to the other requests.
#[derive(Clone, PartialEq, Message)]
struct Nothing {}

/// A machine on which containerd serves the kubelet's API. `None` if it cannot work here.
fn serving(network: Value) -> Option<Machine> {
    let conf = format!(
        "[plugins.\"io.containerd.grpc.v1.cri\"]\nsandbox_image = \"{IMAGE}\"\nrestrict_oom_score_adj = true\n\
         [plugins.\"io.containerd.grpc.v1.cri\".containerd]\nsnapshotter = \"native\"\n"
    );
    start(&conf, "k8s.io", network)
}

/// The same with three networks.
fn machine() -> Option<Machine> {
    let machine = serving(three_networks("braid"))?;
    // A first pod makes what the networks keep when a pod is removed.
    let first = run(&machine, "first").expect("a first pod");
    remove(&machine, &first);
    machine.note();
    Some(machine)
}

fn call<Q, A>(machine: &Machine, method: &str, request: Q) -> Result<A, Status>
where
    Q: Message + Send + Sync + 'static,
    A: Message + Default + Send + Sync + 'static,
{
    let socket = machine.dir().join("run/containerd/containerd.sock");
    let method: PathAndQuery = format!("/runtime.v1.RuntimeService/{method}").parse().expect("a path");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let endpoint = Endpoint::from_shared(format!("unix:{}", socket.display())).expect("an address");
        let mut client = Grpc::new(endpoint.connect().await.expect("containerd's socket"));
        client.ready().await.expect("containerd");
        let codec: ProstCodec<Q, A> = ProstCodec::default();
        client.unary(Request::new(request), method, codec).await.map(tonic::Response::into_inner)
    })
}

/// Makes a pod's sandbox, whose network has port 8080 of the host. Returns the sandbox's ID.
fn run(machine: &Machine, name: &str) -> Result<String, String> {
    let metadata = Metadata { name: name.into(), uid: format!("uid-{name}"), namespace: "web".into() };
    let config = Config {
        metadata: Some(metadata),
        log_directory: "/tmp".into(),
        port_mappings: vec![PortMapping { container_port: 80, host_port: 8080 }],
        linux: Some(Linux { cgroup_parent: machine.cgroup() }),
    };
    let made: Result<Sandbox, _> = call(machine, "RunPodSandbox", Run { config: Some(config) });
    made.map(|sandbox| sandbox.id).map_err(|status| status.message().to_owned())
}

/// Stops a pod's sandbox and removes it.
fn remove(machine: &Machine, id: &str) {
    for method in ["StopPodSandbox", "RemovePodSandbox"] {
        let _: Nothing = call(machine, method, Sandbox { id: id.into() }).expect(method);
    }
}

#[test]
fn a_pod_is_on_every_network_and_leaves_nothing() {
    let Some(machine) = machine() else { return };
    let id = run(&machine, "shop").expect("a pod");
    machine.run("braid list").succeeds().prints(&id).prints("10.10.1.3/24").prints("10.10.3.3/24").prints("attached");
    machine.run(&format!("braid show {id}")).succeeds().prints("net2");
    machine.run("iptables-save -t nat").succeeds().prints("--to-destination 10.10.1.3:80");
    remove(&machine, &id);
    machine.is_as_noted();
}

#[test]
fn a_pod_whose_network_fails_is_refused_and_leaves_nothing() {
    let Some(machine) = serving(failing("bad")) else { return };
    run(&machine, "first").expect_err("no address is left");
    machine.note();
    let refusal = run(&machine, "shop").expect_err("no address is left");
    assert!(refusal.contains("delegate \"full\" on net2"), "{refusal}");
    machine.is_as_noted();
}

#[test]
fn a_pod_outlives_containerd_and_is_removed_by_the_next() {
    let Some(machine) = machine() else { return };
    let id = run(&machine, "shop").expect("a pod");
    machine.run("pkill -KILL -x containerd").succeeds();
    let conf = machine.dir().join("containerd.toml");
    machine.run(&format!("containerd --config {} </dev/null >/run/containerd.log 2>&1 &", conf.display())).succeeds();
    machine.until("ctr -n k8s.io tasks list -q | grep .");
    remove(&machine, &id);
    machine.run("braid list").succeeds().says("nothing is attached");
    machine.run("find /var/lib/cni/networks -name '10.*'").succeeds().prints_nothing();
    machine.run("iptables-save | grep 8080").fails();
}
