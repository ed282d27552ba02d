# The agent, from conf/kubernetes/live. Sourced by node.sh.
# The variables of node.sh and cluster.sh are set here.
# shellcheck shell=bash disable=SC2154

install_agent() {
    await 60 "the manifests" k apply -k "$repository/conf/kubernetes/live"
    await 120 "the DaemonSet with the agent" is_rolled_out
    await 30 "the agent" agent_pid
}

agent_pid() { pgrep -f '^/braid agent'; }

# --- running pods ---

hot_plug() {
    pod hot "$(networks storage)"
    await 60 "the pod" are_ready hot
    watch_pod hot
    annotate hot 'storage,limited@hot0'
    await 60 "network-status" has_entry hot hot0
    has_interface hot hot0
    expect "network-status" "$(network_status hot)" '[.[] | select(.default).interface] == ["eth0"]'
    annotate hot storage
    await 60 "network-status" has_no_entry hot hot0
    has_no_interface hot hot0
    stop watch
    took "a network is attached to a running pod: from edit to status" "braid, $runtime" "$(between '[true, false]' '[true, true]')"
    took "a network is detached from a running pod: from edit to status" "braid, $runtime" "$(between '[false, true]' '[false, false]')"
    remove_pods hot
    leaves_nothing
}

annotate() { k annotate --overwrite pod "$1" "k8s.v1.cni.cncf.io/networks=$2" >/dev/null; }
has_interface() { inside "$1" | grep -F " $2 " >/dev/null; }
has_no_interface() { inside "$1" >/cluster/inside && ! grep -F " $2 " /cluster/inside; }
has_entry() { network_status "$1" | jq -e --arg name "$2" 'any(.interface == $name)'; }
has_no_entry() { network_status "$1" | jq -e --arg name "$2" 'all(.interface != $name)'; }

# Records each time the watch reports a pod, whether the pod asks for hot0, and whether its status has it.
watch_pod() {
    rm -f /cluster/watch
    mkfifo /cluster/watch
    # It exits when the watch ends.
    jq -c --unbuffered '.metadata.annotations | [now, (.["k8s.v1.cni.cncf.io/networks"] | contains("hot0")),
        (.["k8s.v1.cni.cncf.io/network-status"] // "" | contains("hot0"))]' </cluster/watch >/cluster/watched &
    start watch exec_to /cluster/watch kubectl --kubeconfig /cluster/admin get pod "$1" --watch -o json
    await 30 "the watch" test -s /cluster/watched
}

exec_to() { local output=$1; shift; exec "$@" >"$output"; }

# The seconds from the first occurrence of one state of the watched pod to the next occurrence of another.
between() {
    jq -rs --argjson from "$1" --argjson to "$2" 'def first_of($state): first(.[] | select(.[1:] == $state))[0];
        first_of($from) as $began | map(select(.[0] >= $began)) | first_of($to) - $began | . * 1000 | round / 1000' /cluster/watched
}

# --- metrics, memory and processor time ---

metrics() {
    pod counted "$(networks storage)"
    await 60 "the pod" are_ready counted
    /opt/cni/bin/braid metrics >/cluster/metrics
    grep >/dev/null '^braid_attachments{network="[^"]*storage"} 1$' /cluster/metrics
    await 30 "the agent's metrics" scrape '^braid_attachments{network="[^"]*storage"} 1$'
    await 30 "the agent's metrics" scrape '^braid_operations_total{verb="ADD",code="0"} [1-9]'
    await 30 "the agent's health" curl -sf --noproxy '*' http://127.0.0.1:9797/healthz
    remove_pods counted
    leaves_nothing
}

scrape() { curl -sf --noproxy '*' http://127.0.0.1:9797/metrics | grep "$1"; }

# Measured with one pod, with many pods, and while nothing happens.
at_rest() {
    many_up 1
    sleep 10
    took "the agent with 1 pod: memory, MB" "braid, $runtime" "$(memory "$(agent_pid)")"
    many_up 50
    sleep 10
    took "the agent with 50 pods: memory, MB" "braid, $runtime" "$(memory "$(agent_pid)")"
    took "the agent with 50 pods: processor time of a minute" "braid, $runtime" "$(time_of_a_minute "$(agent_pid)")"
    many_down
    leaves_nothing
}

memory() { awk '/^VmRSS:/ { printf "%.1f", $2 / 1000 }' "/proc/$1/status"; }

time_of_a_minute() {
    local before
    before=$(processor_time "$1")
    sleep 60
    awk -v before="$before" -v after="$(processor_time "$1")" -v ticks="$(getconf CLK_TCK)" 'BEGIN { printf "%.2f", (after - before) / ticks }'
}

# The unit is ticks. The name, in parentheses, may contain spaces.
processor_time() { sed 's/.*) //' "/proc/$1/stat" | awk '{ print $12 + $13 }'; }

# --- pods from before Braid ---

# A pod that was started before Braid was configured asks for a network that it does not have.
repair() {
    k delete daemonset braid -n kube-system --cascade=foreground >/dev/null
    rm -r /etc/cni/net.d/00-braid.conflist /etc/cni/net.d/braid.d
    pod early "$(networks storage@first0)"
    await 60 "the pod" are_ready early
    has_no_interface early first0
    install_agent
    await 60 "an event" has_event early storage
    has_no_interface early first0
    with_braid '{"kubernetes": {"repair": true}}'
    await 60 "network-status" has_entry early first0
    has_interface early first0
    expect "network-status" "$(network_status early)" '[.[] | select(.default).interface] == ["eth0"]'
    remove_pods early
    # CRI-O calls DEL only of the plugin that attached the pod first. Two minutes after the pod is gone, the agent undoes the rest.
    await 180 "the end of the journal" has_no_journal
    leaves_nothing
    with_braid '{}'
}

has_no_journal() { [[ -z $(ls /var/lib/cni/braid/attachments) ]]; }

# Gives the configuration on the node other keys.
with_braid() {
    jq -n --arg with "$1" '{spec: {template: {spec: {containers: [{name: "install", args: ["install", "--with", $with]}]}}}}' >/cluster/patch
    k patch daemonset braid -n kube-system --patch-file /cluster/patch >/dev/null
    await 120 "the DaemonSet" is_rolled_out
}
