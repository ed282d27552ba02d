//! The text that `braid help COMMAND` prints after the options of each command.

pub(super) const AFTER_HELP: &str = "\
Examples:
  braid validate /etc/cni/net.d             are the configurations valid?
  braid plan pods --explain                 which plugins would run for a container, and why?
  braid run pods -- ip addr                 try a network, and leave nothing behind
  braid add pods web                        attach the namespace that `ip netns add web` made
  braid list                                what is attached on this machine?
  braid doctor                              is anything wrong with this machine?

Networks are looked up by name in NETCONFPATH (/etc/cni/net.d), and plugins in CNI_PATH (/opt/cni/bin).
`braid help COMMAND` says more about each command.";

pub(super) const AFTER_ADD: &str = "\
Environment: NETCONFPATH, CNI_PATH, CNI_ARGS, CAP_ARGS (a JSON object) and CNI_IFNAME, as for cnitool.

Examples:
  ip netns add web && braid add pods web
  braid add ./pods.conflist /proc/4711/ns/net --container-id web -i eth1
  CNI_ARGS='IgnoreUnknown=1;K8S_POD_NAMESPACE=prod;K8S_POD_NAME=web-0' braid add pods web
  CAP_ARGS='{\"portMappings\":[{\"hostPort\":8080,\"containerPort\":80,\"protocol\":\"tcp\"}]}' braid add pods web";

pub(super) const AFTER_CHECK: &str = "\
Use the arguments and the environment of `braid add`. Exit status 0: everything is as `braid add` left it.

Examples:
  braid check pods web
  braid check pods /proc/4711/ns/net --container-id web -i eth1";

pub(super) const AFTER_DEL: &str = "\
Use the arguments of `braid add`. It also succeeds if nothing is attached, or if the namespace is gone.

Examples:
  braid del pods web && ip netns del web
  braid del pods /proc/4711/ns/net --container-id web -i eth1";

pub(super) const AFTER_GC: &str = "\
Without --valid, all attachments of the network are detached that have a result in CNI_CACHE_DIR (/var/lib/cni).

Examples:
  braid gc pods --valid web/eth0 --valid db/eth0";

pub(super) const AFTER_STATUS: &str = "\
Exit status 0: the network is ready, or its CNI version has no STATUS. 1: it is not ready; the output says why.

Example:
  braid status pods";

pub(super) const AFTER_RUN: &str = "\
The namespace has only the loopback interface and those of the networks. The exit status is that of the command.

Examples:
  braid run pods -- ip addr
  braid run pods,storage -- ping -c 1 10.0.0.1";

pub(super) const AFTER_VALIDATE: &str = "\
In Kubernetes manifests (.yaml, .yml, .json), it checks NetworkAttachmentDefinitions, pods, and what pods are made from. Files
that are given together are checked together: pods by the given definitions, and by the rules of the given Braid
configurations.
Exit status 0: no errors; there may be warnings and notes. 1: there are errors.

With --webhook, it checks definitions and pods for an API server: `POST /validate` takes an AdmissionReview
(admission.k8s.io/v1), and `GET /healthz` answers 200. Pods are checked by the given configurations, and by the definitions of
the cluster. What cannot be checked, for example because the API server does not answer, is refused; with
`--failure-policy ignore` it is admitted with a warning. It exits on SIGTERM.

Examples:
  braid validate /etc/cni/net.d
  braid validate manifests/ /etc/cni/net.d/00-braid.conflist
  CNI_PATH=/usr/lib/cni braid validate pods.conflist
  braid validate --webhook :9443 --tls-cert-file tls.crt --tls-key-file tls.key 00-braid.conflist";

pub(super) const AFTER_PLAN: &str = "\
If the pod of --pod runs on this node, it also says which of its networks are attached, and which attachments the pod no
longer asks for.
Exit status 0: there is a plan, and all its plugins exist. 1: there are errors.

Examples:
  braid plan pods --explain
  braid plan ./pods.conflist --args 'K8S_POD_NAMESPACE=prod;K8S_POD_NAME=web-0' -o json";

pub(super) const AFTER_LIST: &str = "\
If the configuration has a `stateDir`, give it as --state-dir.

States:
  attached
  unfinished      ADD is running, or has crashed
  clean-up owed   a plugin's DEL has failed, and the next DEL tries again
  left behind     the container is gone, and DEL was not called
  parked          DEL has given up on a clean-up, and GC tries it again; the ID of the debt is shown
  unusable        the journal is damaged and was set aside; the ID of the debt is shown

Examples:
  braid list
  braid list -o json | jq -r '.[] | select(.state != \"attached\") | .containerID'";

pub(super) const AFTER_SHOW: &str = "\
It shows each attachment with its plugins, how long each plugin took, and what is still to be cleaned up.

Examples:
  braid show 4fd8a1
  braid show web -o json";

pub(super) const AFTER_METRICS: &str = "\
It counts the address pools of attached networks, and those of the configurations in NETCONFPATH.

Example:
  braid metrics >braid.prom.new && mv braid.prom.new /var/lib/prometheus/node-exporter/braid.prom";

pub(super) const AFTER_DOCTOR: &str = "\
It examines the state directories, libcni's cached results, the addresses of host-local, the interfaces of the host, the
configurations in NETCONFPATH and the plugins in CNI_PATH. It never touches what belongs to a container that may be alive.
docs/operations.md says what each finding means.
Exit status 0: nothing is wrong, or --fix has mended everything. 1: something is wrong.

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
It needs neither a configuration nor an API server. Only DEL detaches the primary network.

Example:
  braid detach web net1";

pub(super) const AFTER_SYNC: &str = "\
It reads the pod from the API server, and compares the pod's annotation with the container's journal. The primary network, the
operator's own networks and those of `braid attach` stay.
With --network and a complete ID, the container may be one that another plugin has attached, if the runtime's libcni has its
result in CNI_CACHE_DIR (/var/lib/cni). It gets its networks only if the configuration has \"repair\": true.
Exit status 0: the container has what its pod asks for, or is being removed. 1: something failed; the output says what.

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

pub(super) const AFTER_INSTALL: &str = "\
It is what the DaemonSet runs. docs/kubernetes.md says what it writes, and which rights it needs.

Examples:
  braid install --dry-run
  braid install --with '{\"namespaceIsolation\": true}'";

pub(super) const AFTER_UNINSTALL: &str = "\
First remove the DaemonSet, which would install Braid again.

Examples:
  braid uninstall --dry-run
  braid uninstall --drain";

pub(super) const AFTER_COMPLETIONS: &str = "\
Example:
  braid completions bash >/usr/share/bash-completion/completions/braid";

#[cfg(feature = "kubernetes")]
pub(super) const AFTER_AGENT: &str = "\
It runs until it gets SIGTERM. Nothing else of Braid depends on it. docs/agent.md says what it does and which rights it needs.

Examples:
  braid agent --kubeconfig /etc/cni/net.d/braid.d/kubeconfig
  braid agent --node worker-1 --concurrency 8 --listen none";
