# Functions with which scenarios examine the node, and make pods and wait for them. Sourced by node.sh.
# The variables of node.sh and cluster.sh are set here.
# shellcheck shell=bash disable=SC2154

# Records how long something took, for the table.
took() { printf '%s\t%s\t%s\n' "$1" "$2" "$3" >>"$logs/times"; }
now() { date +%s.%N; }
since() { awk -v from="$1" -v to="$(now)" 'BEGIN { printf "%.1f", to - from }'; }

# --- what is on the node ---

# Lists what pods' networks leave on a node, without bridges, base chains and locks, which the plugins keep by design.
node_state() {
    ip -o link | awk -F': ' '{ print "link", $2 }'
    ip -4 -o address | awk '{ print "address", $2, $4 }'
    ip route show table all | sed 's/ linkdown//'
    nft --stateless list ruleset 2>/dev/null
    tc qdisc show | grep -v 'noqueue' || true
    # The agent's own socket and files do not belong to pods.
    find /var/lib/cni ! -name 'last_reserved_ip.*' ! -name lock ! -name agent.lock ! -name events.sock | sort
    namespaces
}

# The namespaces of pods. CRI-O also makes one for a pod that uses the node's network.
namespaces() {
    local namespace
    for namespace in /run/netns/*; do
        [[ ! -e $namespace || $namespace -ef /proc/self/ns/net ]] || echo "$namespace"
    done
}

keep_state() { node_state >/cluster/state; }
is_as_kept() { diff /cluster/state <(node_state); }
leaves_nothing() { await 60 "the node is as it was" is_as_kept; }

# --- pods ---

# Makes a pod that does nothing. The second argument is its annotations, as JSON.
pod() { pods "$2" "$1"; }

# Makes pods that do nothing, all with the same annotations.
pods() {
    local annotations=$1
    shift
    jq -n --argjson annotations "$annotations" --arg image "$busybox_image" '$ARGS.positional[] | {
        apiVersion: "v1", kind: "Pod", metadata: {name: ., annotations: $annotations},
        spec: {terminationGracePeriodSeconds: 1, automountServiceAccountToken: false, containers: [{name: "wait", image: $image,
            command: ["sh", "-c", "trap exit TERM; sleep 2147483647 & wait"]}]}}' --args "$@" | k apply -f - >/dev/null
}

networks() { jq -nc --arg networks "$1" '{"k8s.v1.cni.cncf.io/networks": $networks}'; }

# This takes one request for any number of pods.
are_ready() {
    [[ $(k get pods "$@" -o json | jq '[.items // [.] | .[].status.conditions[]? | select(.type == "Ready" and .status == "True")] | length') == "$#" ]]
}

remove_pods() { k delete pod --wait --timeout=120s "$@" >/dev/null; }

# The interfaces in a pod, with their addresses.
inside() { k exec "$1" -- ip -o address show; }

# The pod's network status, as one line of JSON.
network_status() { k get pod "$1" -o json | jq -c '.metadata.annotations["k8s.v1.cni.cncf.io/network-status"] // "[]" | fromjson'; }

# Fails unless a jq filter is true of the input.
expect() {
    local what=$1 input=$2 filter=$3
    jq -e "$filter" <<<"$input" >/dev/null || fail "$what: $filter is not true of $input"
}

# --- many pods ---

are_ready_of_many() { [[ $(k get deployment many -o jsonpath='{.status.readyReplicas}') == "$1" ]]; }
are_gone_of_many() { [[ -z $(k get pods -l app=many -o name) ]]; }

many_up() { k scale deployment many --replicas="$1" >/dev/null; await 300 "$1 pods" are_ready_of_many "$1"; }
many_down() { k scale deployment many --replicas=0 >/dev/null; await 300 "the end of the pods" are_gone_of_many; }

# Each pod has its three networks, and no address is assigned twice.
expect_networks_of_many() {
    local statuses
    statuses=$(k get pods -l app=many -o json | jq -c '[.items[].metadata.annotations["k8s.v1.cni.cncf.io/network-status"] | fromjson]')
    expect "network-status" "$statuses" "length == $1 and all(length == 4 and ([.[] | select(.default)] | length == 1))"
    expect "addresses" "$statuses" '[.[][].ips[]] | length == (unique | length)'
}

come_and_go() {
    local who=$1 times=$2 began
    for _ in $(seq "$times"); do
        began=$(now)
        many_up 30
        took "30 pods × 3 networks: all ready" "$who" "$(since "$began")"
        expect_networks_of_many 30
        began=$(now)
        many_down
        took "30 pods × 3 networks: all gone" "$who" "$(since "$began")"
        leaves_nothing
    done
}
