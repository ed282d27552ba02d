# The scenarios, in their order. Each one leaves the node as it was before. Sourced by node.sh.
# The variables of node.sh and cluster.sh are set here.
# shellcheck shell=bash disable=SC2154

run_scenarios() {
    failures=()
    run start_cluster "a cluster of one node starts"
    run apply_networks "networks are defined"
    run manifests "the API server takes all manifests"
    ((${#failures[@]} == 0)) || exit 1
    if [[ -n ${BRAID_CLUSTER_MULTUS:-} ]]; then
        run multus "30 pods with three networks come and go with Multus"
        run from_multus "a node goes from Multus to Braid under running pods"
    else
        run install_braid "Braid is installed by conf/kubernetes"
    fi
    # Without Braid, the following scenarios would be meaningless.
    ((${#failures[@]} == 0)) || exit 1
    run warm_up "a pod has every network once"
    run selections "pods ask for networks as text and as JSON"
    run refused "a pod whose network does not exist is not attached to any"
    run shared_bridges "12 pods share bridges that have no gateway"
    run many "30 pods with three networks come and go, twice"
    run upgrade "Braid is replaced every second while 30 pods come and go"
    run restarts "kubelet, runtime and API server restart while 30 pods come and go"
    run status_of_node "the node is not ready while a plugin is missing, and stays ready while the API server restarts"
    run older_primary "a primary network of version 1.0.0 turns STATUS off"
    run reboot "the node reboots"
    run without_uninstall "Braid's configuration disappears under running pods"
    run install_agent "the agent is installed by conf/kubernetes/live"
    run hot_plug "a running pod is attached to a network, and detached from it"
    run metrics "metrics are scraped"
    run at_rest "the agent waits while 50 pods run"
    run repair "a pod that was there before Braid is given what it asks for"
    run uninstall "Braid is taken off the node"
    if ((${#failures[@]})); then
        printf 'FAILED: %s\n' "${failures[@]}"
        exit 1
    fi
}

# Runs a scenario in a process of its own, in which `set -e` works, and prints how long it took or why it failed.
run() {
    local function=$1 what=$2 began=$SECONDS
    printf -- '- %s\n' "$what"
    (
        set -eE
        trap 'say "$BASH_COMMAND (${FUNCNAME[0]}, line $LINENO)" >&2' ERR
        "$function"
    ) &
    if wait $!; then
        say "passed in $((SECONDS - began)) s"
    else
        failures+=("$what")
        say "FAILED after $((SECONDS - began)) s"
        diagnose >"$logs/failed-$function.log" 2>&1 || true
        clean_up >>"$logs/failed-$function.log" 2>&1 || true
    fi
}

# Everything that helps to understand a failure.
diagnose() {
    k get pods -A -o wide
    k get events -A --sort-by=.lastTimestamp | tail -n 60
    k get node node -o yaml
    ls -lR /etc/cni /opt/cni /var/lib/cni
    /opt/cni/bin/braid list
    ip -brief address
    k logs -n kube-system daemonset/braid --all-containers --tail=200
}

# This keeps one failure from causing the next.
clean_up() {
    k scale deployment many --replicas=0
    k delete pods --all --wait --timeout=60s
}

apply_networks() {
    await 60 "the type of definitions" k apply -f "$repository/conf/kubernetes/base/network-attachment-definitions.yaml"
    await 60 "the definitions" k apply -f "$here/objects.yaml"
}
