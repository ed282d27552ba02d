# What happens on the node, in this order. Each scenario leaves the node as it was before. Sourced by node.sh.
# What node.sh and cluster.sh set is here too.
# shellcheck shell=bash disable=SC2154

run_scenarios() {
    failures=()
    run start_cluster "a cluster of one node starts"
    run apply_networks "networks are defined"
    ((${#failures[@]} == 0)) || exit 1
    if [[ -n ${BRAID_CLUSTER_MULTUS:-} ]]; then
        run multus "30 pods with three networks come and go with Multus"
        run from_multus "a node goes from Multus to Braid under running pods"
    else
        run install_braid "Braid is installed by conf/kubernetes"
    fi
    # Without Braid, nothing that follows says anything.
    ((${#failures[@]} == 0)) || exit 1
    run warm_up "a pod has every network once"
    run selections "pods ask for networks as text and as JSON"
    run refused "a pod whose network does not exist is not attached to any"
    run many "30 pods with three networks come and go, twice"
    run restarts "kubelet, runtime and API server restart while 30 pods come and go"
    run status_of_node "the node is not ready while a plugin is missing, and stays ready while the API server restarts"
    run reboot "the node reboots"
    run hot_plug "a running pod is attached to a network, and detached from it"
    run metrics "metrics are scraped"
    run uninstall "Braid is taken off the node"
    if ((${#failures[@]})); then
        printf 'FAILED: %s\n' "${failures[@]}"
        exit 1
    fi
}

# Runs a scenario in a process of its own, where `set -e` holds, and says how long it took. Of a failure it says why.
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
    k logs -n kube-system daemonset/braid --tail=100
}

# So that one failure does not lead to the next.
clean_up() {
    k scale deployment many --replicas=0
    k delete pods --all --wait --timeout=60s
}

# Notes how long something took, for the table.
took() { printf '%s\t%s\t%s\n' "$1" "$2" "$3" >>"$logs/times"; }
now() { date +%s.%N; }
since() { awk -v from="$1" -v to="$(now)" 'BEGIN { printf "%.1f", to - from }'; }

# --- what is on the node ---

# What pods' networks leave on a node. Bridges, base chains and locks stay, by design of the plugins that make them.
node_state() {
    ip -o link | awk -F': ' '{ print "link", $2 }'
    ip -4 -o address | awk '{ print "address", $2, $4 }'
    ip route show table all | sed 's/ linkdown//'
    nft --stateless list ruleset 2>/dev/null
    tc qdisc show | grep -v 'noqueue' || true
    find /var/lib/cni ! -name 'last_reserved_ip.*' ! -name lock | sort
    find /run/netns -mindepth 1 | sort
}

keep_state() { node_state >/cluster/state; }
is_as_kept() { diff /cluster/state <(node_state); }
leaves_nothing() { await 60 "the node is as it was" is_as_kept; }

# --- pods ---

# A pod that waits. The second argument is its annotations, as JSON.
pod() {
    local name=$1 annotations=$2
    jq -n --arg name "$name" --argjson annotations "$annotations" --arg image "$busybox_image" '{
        apiVersion: "v1", kind: "Pod", metadata: {name: $name, annotations: $annotations},
        spec: {terminationGracePeriodSeconds: 1, automountServiceAccountToken: false, containers: [{name: "wait", image: $image,
            command: ["sh", "-c", "trap exit TERM; sleep 2147483647 & wait"]}]}}' | k apply -f - >/dev/null
}

networks() { jq -nc --arg networks "$1" '{"k8s.v1.cni.cncf.io/networks": $networks}'; }

are_ready() {
    local name
    for name; do [[ $(k get pod "$name" -o jsonpath='{.status.conditions[?(@.type=="Ready")].status}') == True ]] || return; done
}

remove_pods() { k delete pod --wait --timeout=120s "$@" >/dev/null; }

# The interfaces in a pod, with their addresses.
inside() { k exec "$1" -- ip -o address show; }

# The pod's network status, as one line of JSON.
network_status() { k get pod "$1" -o json | jq -c '.metadata.annotations["k8s.v1.cni.cncf.io/network-status"] // "[]" | fromjson'; }

# Fails unless jq finds that the input is so.
expect() {
    local what=$1 input=$2 filter=$3
    jq -e "$filter" <<<"$input" >/dev/null || fail "$what: $filter is not true of $input"
}

# --- many pods ---

are_ready_of_many() { [[ $(k get deployment many -o jsonpath='{.status.readyReplicas}') == "$1" ]]; }
are_gone_of_many() { [[ -z $(k get pods -l app=many -o name) ]]; }

many_up() { k scale deployment many --replicas="$1" >/dev/null; await 300 "$1 pods" are_ready_of_many "$1"; }
many_down() { k scale deployment many --replicas=0 >/dev/null; await 300 "the end of the pods" are_gone_of_many; }

# Each pod has its three networks, and each address is given once.
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

# --- scenarios ---

apply_networks() {
    await 60 "the type of definitions" k apply -f "$repository/conf/kubernetes/network-attachment-definitions.yaml"
    await 60 "the definitions" k apply -f "$here/objects.yaml"
}

install_braid() {
    await 60 "the manifests" k apply -k "$repository/conf/kubernetes"
    await 120 "the DaemonSet" k rollout status daemonset/braid -n kube-system --timeout=1s
    await 30 "Braid's configuration" test -s /etc/cni/net.d/00-braid.conflist
    await 30 "the node" is_node_ready
}

# Multus as its documentation installs it by hand.
install_multus() {
    local token
    k create serviceaccount multus -n kube-system >/dev/null
    k create clusterrolebinding multus --clusterrole=cluster-admin --serviceaccount=kube-system:multus >/dev/null
    token=$(k create token multus -n kube-system)
    make_kubeconfig multus "$token"
    cp "$BRAID_CLUSTER_MULTUS/multus" /opt/cni/bin/multus
    write_multus
}

write_multus() {
    cat >/etc/cni/net.d/00-multus.conf <<'END'
{"cniVersion": "1.1.0", "name": "multus-cni-network", "type": "multus", "kubeconfig": "/cluster/multus",
 "capabilities": {"portMappings": true}, "clusterNetwork": "/etc/cni/net.d/10-pods.conflist"}
END
}

multus() {
    install_multus
    every_network multus-warm-up
    keep_state
    come_and_go "multus, $runtime" 2
}

# A port mapping too: the chains of the first one stay.
every_network() {
    pod "$1" "$(networks '[{"name": "storage"}, {"name": "limited"}, {"name": "plain"},
        {"name": "masked", "portMappings": [{"hostPort": 8888, "containerPort": 80, "protocol": "tcp"}]}]')"
    await 60 "a pod" are_ready "$1"
    remove_pods "$1"
}

from_multus() {
    pod old-a "$(networks 'storage, masked, limited')"
    pod old-b "$(networks 'storage, masked, limited')"
    await 60 "pods of Multus" are_ready old-a old-b
    install_braid
    rm /etc/cni/net.d/00-multus.conf
    are_ready old-a old-b
    remove_pods old-a old-b
    # Of Multus, what is empty may stay; of Braid, its own folders are new.
    await 60 "what Multus has attached is detached" is_without_attachments
}

is_without_attachments() {
    local left
    left=$(find /var/lib/cni -type f ! -name 'last_reserved_ip.*' ! -name lock
        ip -o link | grep -E 'veth|ifb'; nft list ruleset 2>/dev/null | grep -E 'id: |CNI-DN' ) || true
    [[ -z $left ]] || { echo "$left"; return 1; }
}

warm_up() {
    every_network warm-up
    await 30 "nothing is attached" is_without_attachments
    keep_state
}

selections() {
    local status
    pod text "$(networks 'storage, default/limited@lim0')"
    pod json "$(networks '[{"name": "storage", "interface": "sto0", "ips": ["10.10.77.7/16"], "mac": "02:00:00:00:77:07"},
        {"name": "plain"}, {"name": "masked", "portMappings": [{"hostPort": 7777, "containerPort": 80, "protocol": "tcp"}]}]')"
    await 60 "the pods" are_ready text json
    status=$(network_status text)
    expect "text" "$status" '[.[].interface] == ["eth0", "net1", "lim0"] and ([.[] | select(.default).interface] == ["eth0"])'
    expect "text" "$status" "first.ips[0] == \"$(k get pod text -o jsonpath='{.status.podIP}')\""
    inside text | grep >/dev/null 'lim0 .*10\.12\.'
    status=$(network_status json)
    expect "json" "$status" '[.[].interface] == ["eth0", "sto0", "net2", "net3"]'
    expect "json" "$status" '.[1].ips == ["10.10.77.7"] and .[1].mac == "02:00:00:00:77:07" and .[2].ips == null'
    inside json | grep >/dev/null 'sto0 .*10\.10\.77\.7/16'
    nft list ruleset 2>/dev/null | grep >/dev/null 'dport 7777'
    remove_pods text json
    leaves_nothing
}

refused() {
    pod wrong "$(networks 'storage, nowhere')"
    await 60 "an event" has_event wrong nowhere
    ! are_ready wrong || fail "the pod is ready"
    remove_pods wrong
    leaves_nothing
}

has_event() { k get events --field-selector "involvedObject.name=$1" -o json | jq -e --arg text "$2" 'any(.items[]; .message | contains($text))'; }

many() { come_and_go "braid, $runtime" 2; }

restarts() {
    local name
    k scale deployment many --replicas=30 >/dev/null
    for name in kubelet "$runtime" kube-apiserver; do
        sleep 2
        restart "$name"
    done
    await 300 "30 pods" are_ready_of_many 30
    expect_networks_of_many 30
    k scale deployment many --replicas=0 >/dev/null
    for name in kube-apiserver "$runtime" kubelet; do
        sleep 1
        restart "$name"
    done
    await 300 "the end of the pods" are_gone_of_many
    leaves_nothing
}

# When the node became ready last.
ready_since() { k get node node -o jsonpath='{.status.conditions[?(@.type=="Ready")].lastTransitionTime}'; }

status_of_node() {
    local since
    mv /opt/cni/bin/portmap /opt/cni/portmap
    # What follows needs the plugin, whatever becomes of this.
    trap 'mv /opt/cni/portmap /opt/cni/bin/portmap 2>/dev/null || true' EXIT
    await 60 "the node is not ready" is_node_not_ready
    mv /opt/cni/portmap /opt/cni/bin/portmap
    await 60 "the node" is_node_ready
    since=$(ready_since)
    stop kube-apiserver KILL
    sleep 15
    start_apiserver
    await 60 "the API server" k get --raw /readyz
    # Longer than the kubelet takes to say what it has seen meanwhile.
    sleep 15
    [[ $(ready_since) == "$since" ]] || fail "the node was not ready while the API server restarted"
}

reboot() {
    local began
    pod stays-a "$(networks 'storage, masked, limited')"
    pod stays-b "$(networks 'storage, masked, limited')"
    await 60 "the pods" are_ready stays-a stays-b
    journals >/cluster/before-reboot
    reboot_node
    start_runtime
    # CRI-O tells at its start that no attachment is valid; containerd tells nothing.
    [[ $runtime != crio ]] || await 30 "GC of what the reboot has ended" has_no_journal_of_before
    began=$(now)
    start_kubelet
    await 120 "the pods have sandboxes of this boot" have_new_journals stays-a stays-b
    await 120 "the pods" are_ready stays-a stays-b
    took "2 pods are ready after a reboot" "braid, $runtime" "$(since "$began")"
    await 60 "the attachments of before are undone" has_no_journal_of_before
    inside stays-a | grep >/dev/null 'net3 .*10\.12\.'
    remove_pods stays-a stays-b
    await 60 "nothing is attached" is_without_attachments
    # The bridges are new, and so are the rules.
    every_network after-reboot
    await 30 "nothing is attached" is_without_attachments
    keep_state
}

journals() { find /var/lib/cni/braid/attachments -name '*.jsonl'; }
has_no_journal_of_before() { ! journals | grep -Fxf /cluster/before-reboot; }
have_new_journals() { [[ $(journals | { grep -vFxf /cluster/before-reboot || true; } | wc -l) -ge $# ]]; }

has_command() { /opt/cni/bin/braid "$1" --help >/dev/null 2>&1; }

annotate() { k annotate --overwrite pod "$1" "k8s.v1.cni.cncf.io/networks=$2" >/dev/null; }

# The agent's own account may do what docs/agent.md says, and no more.
start_agent() {
    if ! k get serviceaccount braid-agent -n kube-system >/dev/null 2>&1; then
        k create serviceaccount braid-agent -n kube-system >/dev/null
        k create clusterrole braid-agent-pods --verb=get,list,watch --resource=pods >/dev/null
        k create clusterrole braid-agent-networks --verb=get --resource=network-attachment-definitions.k8s.cni.cncf.io >/dev/null
        k create clusterrolebinding braid-agent-pods --clusterrole=braid-agent-pods --serviceaccount=kube-system:braid-agent >/dev/null
        k create clusterrolebinding braid-agent-networks --clusterrole=braid-agent-networks \
            --serviceaccount=kube-system:braid-agent >/dev/null
    fi
    make_kubeconfig agent "$(k create token braid-agent -n kube-system)"
    start agent /opt/cni/bin/braid agent --node node --kubeconfig /cluster/agent
}

hot_plug() {
    local began
    has_command agent || { say "skipped: this braid has no agent"; return; }
    start_agent
    pod hot "$(networks storage)"
    await 60 "the pod" are_ready hot
    began=$(now)
    annotate hot 'storage,limited@hot0'
    await 60 "the interface" has_interface hot hot0
    took "a network is attached to a running pod" "braid, $runtime" "$(since "$began")"
    await 30 "network-status" has_entry hot hot0
    expect "network-status" "$(network_status hot)" '[.[] | select(.default).interface] == ["eth0"]'
    began=$(now)
    annotate hot storage
    await 60 "the interface is gone" has_no_interface hot hot0
    took "a network is detached from a running pod" "braid, $runtime" "$(since "$began")"
    await 30 "network-status" has_no_entry hot hot0
    stop agent
    remove_pods hot
    leaves_nothing
}

has_interface() { inside "$1" | grep -F " $2 "; }
has_no_interface() { inside "$1" >/cluster/inside && ! grep -F " $2 " /cluster/inside; }
has_entry() { network_status "$1" | jq -e --arg name "$2" 'any(.interface == $name)'; }
has_no_entry() { network_status "$1" | jq -e --arg name "$2" 'all(.interface != $name)'; }

metrics() {
    has_command metrics || { say "skipped: this braid has no metrics"; return; }
    pod counted "$(networks storage)"
    await 60 "the pod" are_ready counted
    /opt/cni/bin/braid metrics >/cluster/metrics
    grep >/dev/null '^braid_attachments{network="[^"]*storage"} 1$' /cluster/metrics
    if has_command agent; then
        start_agent
        await 30 "the agent's metrics" scrape
        stop agent
    else
        say "this braid has no agent to scrape"
    fi
    remove_pods counted
    leaves_nothing
}

scrape() {
    exec 3<>/dev/tcp/127.0.0.1/9797
    printf 'GET /metrics HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n' >&3
    grep '^braid_attachments{network="[^"]*storage"} 1' <&3
}

# As docs/kubernetes.md has it, with Multus next where it is there.
uninstall() {
    local pid
    pod last-a "$(networks 'storage, masked, limited')"
    pod last-b "$(networks 'storage, masked, limited')"
    await 60 "the pods" are_ready last-a last-b
    k delete daemonset braid -n kube-system --cascade=foreground >/dev/null
    start uninstall /opt/cni/bin/braid uninstall --drain
    await 30 "Braid's configuration is gone" test ! -e /etc/cni/net.d/00-braid.conflist
    if [[ -n ${BRAID_CLUSTER_MULTUS:-} ]]; then
        write_multus
        pod next "$(networks 'storage, masked, limited')"
        await 60 "a pod of Multus" are_ready next
        remove_pods next
    fi
    test -x /opt/cni/bin/braid
    remove_pods last-a last-b
    pid=$(<"/cluster/uninstall.pid")
    await 60 "the end of uninstall" has_ended "$pid"
    test ! -e /opt/cni/bin/braid
    await 30 "nothing is attached" is_without_attachments
}
