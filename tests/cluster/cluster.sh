# The cluster of one node: its images, control plane, runtime and kubelet. Sourced by node.sh.
# The variables of node.sh are set here. The subshell of make_images shares its variables with the functions that it calls.
# shellcheck shell=bash disable=SC2030,SC2031,SC2154

address=198.51.100.2
service=10.96.0.1
braid_image=$(sed -n 's/^ *newName: *//p' "$repository/conf/kubernetes/kustomization.yaml"):$(sed -n 's/^ *newTag: *//p' \
    "$repository/conf/kubernetes/kustomization.yaml")
busybox_image=registry.example/busybox:1
pause_image=registry.example/pause:1
patience=${BRAID_CLUSTER_PATIENCE:-1}

say() { printf '  %s\n' "$*"; }
fail() { printf '  FAILED: %s\n' "$*" >&2; return 1; }
k() { kubectl --kubeconfig /cluster/admin "$@"; }

# Waits until a command succeeds.
await() {
    local seconds=$1 what=$2 deadline
    shift 2
    deadline=$((SECONDS + seconds * patience))
    until "$@" >/cluster/await 2>&1; do
        ((SECONDS < deadline)) || { tail -n 5 /cluster/await >&2; fail "$what: not within $seconds s"; return 1; }
        sleep 0.2
    done
}

# Starts a program in the background. Its output goes to NAME.log.
start() {
    local name=$1
    shift
    "$@" </dev/null >>"$logs/$name.log" 2>&1 &
    echo $! >"/cluster/$name.pid"
}

# Starts a program again as long as it fails, as an init system does. The kubelet does not start without a runtime.
supervise() { until "$@"; do sleep 1; done; }

# Sends a signal to a program that `start` has started, and waits until it has exited. It may not be a child of this shell.
stop() {
    local name=$1 signal=${2:-TERM} pid supervisor
    [[ -e /cluster/$name.pid ]] || return 0
    pid=$(<"/cluster/$name.pid")
    if [[ $name == kubelet ]]; then
        supervisor=$pid
        pid=$(pgrep -P "$supervisor" kubelet || true)
        kill -KILL "$supervisor"
    fi
    kill "-$signal" "$pid" 2>/dev/null || true
    await 60 "the end of $name" has_exited "$pid"
    rm "/cluster/$name.pid"
}

has_exited() { ! grep -q "^State:[[:space:]]*[^Z]" "/proc/${1:-none}/status" 2>/dev/null; }

# --- the network of the node ---

# There is no kube-proxy. One rule leads to the only service that is needed, also for pods with the node's network.
make_network() {
    ip link set lo up
    ip link add node0 type bridge
    ip address add "$address/24" dev node0
    ip link set node0 up
    ip route add default via 198.51.100.1
    sysctl -qw net.ipv4.ip_forward=1
    local chain
    for chain in OUTPUT PREROUTING; do
        iptables -t nat -A "$chain" -d "$service" -p tcp --dport 443 -j DNAT --to-destination "$address:6443"
    done
}

# --- credentials ---

make_credentials() (
    cd /cluster || exit
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout ca.key -out ca.crt -days 2 \
        -subj /CN=cluster -addext keyUsage=critical,keyCertSign
    openssl req -x509 -CA ca.crt -CAkey ca.key -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout server.key \
        -out server.crt -days 2 -subj /CN=kube-apiserver \
        -addext "subjectAltName=IP:$address,IP:127.0.0.1,IP:$service,DNS:kubernetes.default.svc" -addext basicConstraints=CA:FALSE
    openssl genrsa -out accounts.key 2048
    local user group
    while read -r user group; do
        echo "token-of-$user,$user,$user,$group" >>tokens.csv
        make_kubeconfig "$user" "token-of-$user"
    done <<'END'
admin system:masters
system:kube-controller-manager system:masters
system:kube-scheduler system:kube-scheduler
system:node:node system:nodes
END
) >"$logs/credentials.log" 2>&1

make_kubeconfig() {
    local file=$1 token=$2
    cat >"/cluster/$file" <<END
apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: "https://$address:6443", certificate-authority: /cluster/ca.crt}}]
users: [{name: u, user: {token: "$token"}}]
contexts: [{name: x, context: {cluster: c, user: u}}]
current-context: x
END
}

# --- the control plane ---

start_apiserver() {
    start kube-apiserver kube-apiserver --etcd-servers=http://127.0.0.1:2379 --advertise-address="$address" --secure-port=6443 \
        --tls-cert-file=/cluster/server.crt --tls-private-key-file=/cluster/server.key --token-auth-file=/cluster/tokens.csv \
        --authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction --allow-privileged=true \
        --kubelet-preferred-address-types=InternalIP --service-cluster-ip-range=10.96.0.0/16 \
        --service-account-issuer=https://kubernetes.default.svc \
        --service-account-key-file=/cluster/accounts.key --service-account-signing-key-file=/cluster/accounts.key
}

start_control_plane() {
    start etcd etcd --data-dir /cluster/etcd --unsafe-no-fsync --listen-client-urls http://127.0.0.1:2379 \
        --advertise-client-urls http://127.0.0.1:2379 --listen-peer-urls http://127.0.0.1:2380
    start_apiserver
    await 120 "the API server" k get --raw /readyz
    start kube-controller-manager kube-controller-manager --kubeconfig=/cluster/system:kube-controller-manager \
        --leader-elect=false --root-ca-file=/cluster/ca.crt --service-account-private-key-file=/cluster/accounts.key
    start kube-scheduler kube-scheduler --kubeconfig=/cluster/system:kube-scheduler --leader-elect=false
}

# --- images ---

# Images are imported without a registry, as docs/kubernetes.md describes.
make_images() (
    local context=/cluster/context buildah=(buildah --root /var/tmp/images --runroot /run/images --storage-driver vfs)
    mkdir -p "$context/bin"
    cp "$(command -v busybox)" "$context/bin/busybox"
    "$context/bin/busybox" --install -s "$context/bin"
    # The links lead to the busybox of the image.
    find "$context/bin" -type l -exec ln -sfn busybox {} \;
    printf 'FROM scratch\nCOPY bin /bin\nCMD ["sh"]\n' >"$context/busybox"
    printf 'FROM scratch\nCOPY bin /bin\nENTRYPOINT ["/bin/busybox", "sleep", "2147483647"]\n' >"$context/pause"
    install -m 755 "$BRAID_TEST_BINARY" "$context/braid"
    archive busybox "$busybox_image" "$context/busybox"
    archive pause "$pause_image" "$context/pause"
    archive braid "$braid_image" "$repository/conf/kubernetes/Containerfile"
) >"$logs/images.log" 2>&1

archive() {
    local file=$1 image=$2 recipe=$3
    "${buildah[@]}" build --isolation chroot --file "$recipe" --tag "$image" "$context"
    "${buildah[@]}" push "$image" "docker-archive:/cluster/$file.tar:$image"
}

import_images() {
    local image
    for image in busybox pause braid; do
        case $runtime in
            containerd) ctr -n k8s.io images import "/cluster/$image.tar" ;;
            crio) podman --root /var/lib/containers/storage --runroot /run/containers/storage load -i "/cluster/$image.tar" ;;
        esac
    done >>"$logs/images.log" 2>&1
}

# --- the runtime and the kubelet ---

start_runtime() {
    case $runtime in
        containerd) start_containerd ;;
        crio) start_crio ;;
    esac
}

start_containerd() {
    cat >/cluster/containerd.toml <<END
version = 3
[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = "$pause_image"
[plugins."io.containerd.cri.v1.runtime"]
restrict_oom_score_adj = true
[plugins."io.containerd.cri.v1.runtime".cni]
bin_dirs = ["/opt/cni/bin"]
conf_dir = "/etc/cni/net.d"
END
    start containerd containerd --config /cluster/containerd.toml
    await 60 "containerd" ctr version
}

start_crio() {
    mkdir -p /etc/containers /cluster/crio.conf.d
    # Removes settings that some kernels lack or refuse: a lower oom_score_adj, and limits of huge pages. CRI-O has no option for
    # that.
    cat >/cluster/runc <<END
#!/bin/bash
for argument; do
    if [[ \${bundle:-} == next ]]; then bundle=\$argument; break; fi
    if [[ \$argument == --bundle || \$argument == -b ]]; then bundle=next; fi
done
if [[ -e \${bundle:-}/config.json ]]; then
    jq 'del(.process.oomScoreAdj, .linux.resources.hugepageLimits)' "\$bundle/config.json" >"\$bundle/config.new" && mv "\$bundle/config.new" "\$bundle/config.json"
fi
exec "$(command -v runc)" "\$@"
END
    chmod +x /cluster/runc
    echo '{"default": [{"type": "insecureAcceptAnything"}]}' >/etc/containers/policy.json
    cat >/cluster/crio.conf <<END
[crio]
root = "/var/lib/containers/storage"
runroot = "/run/containers/storage"
storage_driver = "overlay"
[crio.image]
pause_image = "$pause_image"
pause_command = ""
[crio.runtime]
default_runtime = "runc"
cgroup_manager = "cgroupfs"
conmon_cgroup = "pod"
default_sysctls = []
[crio.runtime.runtimes.runc]
runtime_path = "/cluster/runc"
monitor_path = "$(command -v conmon)"
monitor_cgroup = "pod"
[crio.network]
network_dir = "/etc/cni/net.d"
plugin_dirs = ["/opt/cni/bin"]
# Without this, CRI-O calls STATUS only until it succeeds for the first time.
cni_status_grace_period = "5s"
END
    start crio crio --config /cluster/crio.conf --config-dir /cluster/crio.conf.d
    await 60 "CRI-O" test -S /run/crio/crio.sock
}

start_kubelet() {
    cat >/cluster/kubelet.yaml <<END
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
containerRuntimeEndpoint: unix:///run/$runtime/$runtime.sock
cgroupDriver: cgroupfs
failCgroupV1: false
failSwapOn: false
authentication: {anonymous: {enabled: true}, webhook: {enabled: false}}
authorization: {mode: AlwaysAllow}
resolvConf: ""
registerWithTaints: []
evictionHard: {nodefs.available: "0%", imagefs.available: "0%", memory.available: 1Mi}
imageGCHighThresholdPercent: 100
enforceNodeAllocatable: []
kubeAPIQPS: 200
kubeAPIBurst: 200
maxPods: 200
END
    start kubelet supervise kubelet --kubeconfig=/cluster/system:node:node --config=/cluster/kubelet.yaml --hostname-override=node \
        --node-ip="$address"
}

# Most programs get SIGTERM. The API server would then wait for its watchers for more than a minute.
restart() {
    local name=$1 signal=TERM
    [[ $name != kube-apiserver ]] || signal=KILL
    stop "$name" "$signal"
    case $name in
        kube-apiserver) start_apiserver ;;
        containerd | crio) start_runtime ;;
        kubelet) start_kubelet ;;
    esac
}

# Stops the node like a power failure: no process gets a chance to clean up. The contents of /run, all interfaces and all rules are
# gone, and the next boot has another ID. The control plane stands for another machine.
reboot_node() {
    local pid name survivors=" 1 $$ $BASHPID "
    for name in etcd kube-apiserver kube-controller-manager kube-scheduler; do survivors+="$(<"/cluster/$name.pid") "; done
    stop kubelet KILL
    stop "$runtime" KILL
    # The processes that could react to the end of containers are killed first.
    for _ in 1 2 3; do
        for pid in /proc/[0-9]*; do
            pid=${pid#/proc/}
            [[ $survivors == *" $pid "* ]] || kill -KILL "$pid" 2>/dev/null || true
        done
        sleep 0.5
    done
    awk '{ print $5 }' /proc/self/mountinfo |
        grep -E '^/(run|var/lib/(kubelet|containerd|containers))/.' | sort -r | while read -r name; do umount -l "$name" 2>/dev/null || true; done
    umount -l /run
    mount -t tmpfs node /run
    mount --make-rshared /run
    find /sys/fs/cgroup/*/ -mindepth 1 -depth -type d -exec rmdir {} + 2>/dev/null || true
    ip -o link | awk -F': ' '{ sub(/@.*/, "", $2); if ($2 != "lo" && $2 != "node0") print $2 }' |
        while read -r name; do ip link delete "$name" 2>/dev/null || true; done
    nft flush ruleset
    ip link delete node0
    make_network
    uuidgen >/cluster/settings/boot_id
}

is_node_ready() { [[ $(k get node node -o jsonpath='{.status.conditions[?(@.type=="Ready")].status}') == True ]]; }
is_node_not_ready() { [[ $(k get node node -o jsonpath='{.status.conditions[?(@.type=="Ready")].status}') == False ]]; }

install_plugins() {
    mkdir -p /opt/cni/bin
    cp "$BRAID_CLUSTER_PLUGINS"/* /opt/cni/bin
}

# The primary network, as its own installer would write it.
write_primary() {
    mkdir -p /etc/cni/net.d
    cat >/etc/cni/net.d/10-pods.conflist <<'END'
{"cniVersion": "1.1.0", "name": "pods", "plugins": [
  {"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true, "hairpinMode": true,
   "ipam": {"type": "host-local", "subnet": "10.244.0.0/16", "routes": [{"dst": "0.0.0.0/0"}]}},
  {"type": "portmap", "capabilities": {"portMappings": true}}]}
END
}

start_cluster() {
    make_network
    make_credentials
    make_images
    install_plugins
    write_primary
    start_control_plane
    start_runtime
    import_images
    start_kubelet
    await 120 "the node" is_node_ready
    await 60 "the default service account" k get serviceaccount default
}
