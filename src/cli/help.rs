//! What `braid help COMMAND` prints after the options of each command.

pub(super) const AFTER_HELP: &str = "\
Examples:
  braid validate /etc/cni/net.d             is anything wrong with the configurations?
  braid plan pods --explain                 which plugins would run for a container, and why?
  braid run pods -- ip addr                 try a network, leaving nothing behind
  braid add pods web                        attach the namespace that `ip netns add web` made
  braid list                                what is attached on this machine?
  braid doctor                              is anything wrong with this machine?

Networks are looked up by name in NETCONFPATH (/etc/cni/net.d), plugins in CNI_PATH (/opt/cni/bin).
`braid help COMMAND` says more about each command.";

pub(super) const AFTER_ADD: &str = "\
Environment: NETCONFPATH, CNI_PATH, CNI_ARGS, CAP_ARGS (a JSON object) and CNI_IFNAME, as for cnitool.

Examples:
  ip netns add web && braid add pods web
  braid add ./pods.conflist /proc/4711/ns/net --container-id web -i eth1
  CNI_ARGS='IgnoreUnknown=1;K8S_POD_NAMESPACE=prod;K8S_POD_NAME=web-0' braid add pods web
  CAP_ARGS='{\"portMappings\":[{\"hostPort\":8080,\"containerPort\":80,\"protocol\":\"tcp\"}]}' braid add pods web";

pub(super) const AFTER_CHECK: &str = "\
Give what `braid add` was given, the environment included. Exit status 0: all is as it was left.

Examples:
  braid check pods web
  braid check pods /proc/4711/ns/net --container-id web -i eth1";

pub(super) const AFTER_DEL: &str = "\
Give what `braid add` was given. It succeeds where nothing is attached, and where the namespace has gone.

Examples:
  braid del pods web && ip netns del web
  braid del pods /proc/4711/ns/net --container-id web -i eth1";

pub(super) const AFTER_GC: &str = "\
Without --valid, everything that was attached to the network with this cache of results is detached.

Examples:
  braid gc pods --valid web/eth0 --valid db/eth0";

pub(super) const AFTER_VALIDATE: &str = "\
Of Kubernetes manifests (.yaml, .yml, .json) it reads NetworkAttachmentDefinitions, pods, and what pods are made from. What is
given together is checked together: pods by the definitions and by the rules of Braid's configuration, if any are given.
Exit status 0: nothing is wrong; warnings and notes do not count. 1: something is.
With --webhook, an API server asks the same about definitions and pods: `POST /validate` takes an AdmissionReview
(admission.k8s.io/v1), `GET /healthz` says that it serves. Pods are checked by the configurations that are given, and by the
definitions of the cluster. What cannot be checked, as when the API server does not answer, is refused, or admitted with a
warning where --failure-policy is `ignore`. It ends on SIGTERM.

Examples:
  braid validate /etc/cni/net.d
  braid validate manifests/ /etc/cni/net.d/00-braid.conflist
  CNI_PATH=/usr/lib/cni braid validate pods.conflist
  braid validate --webhook :9443 --tls-cert-file tls.crt --tls-key-file tls.key 00-braid.conflist";

pub(super) const AFTER_PLAN: &str = "\
With --pod, and if that pod runs on this node, it also says which of its networks are attached, and which attachments the pod
no longer asks for.
Exit status 0: ADD would find all its plugins. 1: it would not, or could not make a plan.

Examples:
  braid plan pods --explain
  braid plan ./pods.conflist --args 'K8S_POD_NAMESPACE=prod;K8S_POD_NAME=web-0' -o json";

pub(super) const AFTER_LIST: &str = "\
A configuration with a `stateDir` of its own needs --state-dir.

States: attached; unfinished, where ADD is running or has crashed; clean-up owed, where a plugin failed to undo its part and
the next DEL tries again; left behind, where the container is gone and nobody has called DEL; parked, where DEL has given up on
what is owed, and GC tries again; unusable, where a journal is damaged and was set aside. The last two have the ID of a debt.

Examples:
  braid list
  braid list -o json | jq -r '.[] | select(.state != \"attached\") | .containerID'";

pub(super) const AFTER_METRICS: &str = "\
NETCONFPATH is where the configurations are whose address pools are counted, beside those of what is attached.

Example:
  braid metrics >braid.prom.new && mv braid.prom.new /var/lib/prometheus/node-exporter/braid.prom";

pub(super) const AFTER_DOCTOR: &str = "\
It looks at the state directories, libcni's cached results, the addresses of host-local, the interfaces of the host, the
configurations in NETCONFPATH and the plugins in CNI_PATH. What a container has whose network namespace is held by anything is
never touched, and what is not known counts as alive. docs/operations.md says what each finding means.
Exit status 0: nothing is wrong, or --fix has mended it all. 1: something is.

Examples:
  braid doctor
  braid doctor --fix
  braid doctor --forget 3f9a61/eth0
  braid doctor -o json | jq -r '.[] | .kind + \" \" + .subject'";

pub(super) const AFTER_ATTACH: &str = "\
Several networks are one transaction: all of them, or none. NETCONFPATH and CNI_PATH are as for `braid add`.

Examples:
  braid attach web storage
  braid attach web lan@lan0 kube-system/storage
  braid attach web '{\"interface\":\"lan0\",\"config\":{\"cniVersion\":\"1.0.0\",\"name\":\"lan\",\"type\":\"macvlan\",\"master\":\"eth0\"}}'";

pub(super) const AFTER_DETACH: &str = "\
It needs neither a configuration nor an API server. The primary network goes with DEL.

Example:
  braid detach web net1";

pub(super) const AFTER_SYNC: &str = "\
It asks the API server for the pod, and holds the pod's annotation against the container's journal. The primary network, the
operator's own networks and what `braid attach` has attached stay.
With --network, the whole ID may be that of a container which another plugin has attached, as long as the runtime's
libcni keeps its result in CNI_CACHE_DIR (/var/lib/cni). Its networks are attached if the configuration says \"repair\": true.
Exit status 0: the container has what its pod asks for, or goes away. 1: something failed, and the output says what.

Examples:
  braid sync web --dry-run
  braid sync 4fd8a1 -o json | jq .failed";

pub(super) const AFTER_UPDATE: &str = "\
Limits are changed without losing a packet. If a plugin refuses its new values, the old ones stay in force.

Examples:
  braid update web eth0 --bandwidth ingress=50M,egress=20M
  braid update web eth0 --bandwidth egress=none
  braid update web eth0 --port-mappings 8080:80/tcp,5353:53/udp
  braid update web eth0 --plugin tuning --set mtu=1400 --dry-run";

#[cfg(feature = "kubernetes")]
pub(super) const AFTER_AGENT: &str = "\
It runs until it gets SIGTERM. Nothing else needs it. docs/agent.md says what it does and which rights it has.

Examples:
  braid agent --kubeconfig /etc/cni/net.d/braid.d/kubeconfig
  braid agent --node worker-1 --concurrency 8 --listen none";
