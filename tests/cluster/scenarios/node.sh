# What happens to the node and the control plane while pods run. Sourced by node.sh.
# The variables of node.sh and cluster.sh are set here.
# shellcheck shell=bash disable=SC2154

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

# The time at which the node last became ready.
ready_since() { k get node node -o jsonpath='{.status.conditions[?(@.type=="Ready")].lastTransitionTime}'; }

status_of_node() {
    local since
    mv /opt/cni/bin/portmap /opt/cni/portmap
    # The rest needs the plugin, even if this fails.
    trap 'mv /opt/cni/portmap /opt/cni/bin/portmap 2>/dev/null || true' EXIT
    await 60 "the node is not ready" is_node_not_ready
    mv /opt/cni/portmap /opt/cni/bin/portmap
    await 60 "the node" is_node_ready
    since=$(ready_since)
    stop kube-apiserver KILL
    sleep 5
    status_takes "the API server refuses connections"
    iptables -I OUTPUT -d "$address" -p tcp --dport 6443 -j DROP
    status_takes "the API server does not answer"
    iptables -D OUTPUT -d "$address" -p tcp --dport 6443 -j DROP
    sleep 5
    start_apiserver
    await 60 "the API server" k get --raw /readyz
    # This is longer than the kubelet takes to report its status.
    sleep 15
    [[ $(ready_since) == "$since" ]] || fail "the node was not ready while the API server restarted"
}

# STATUS, called as the runtime calls it, succeeds, and waits at most a second for a server that does not answer.
status_takes() {
    local began
    began=$(now)
    jq -c '{cniVersion, name} + .plugins[0]' /etc/cni/net.d/00-braid.conflist |
        CNI_COMMAND=STATUS CNI_PATH=/opt/cni/bin /opt/cni/bin/braid >>"$logs/status.log" 2>&1
    took "STATUS while $1" "braid, $runtime" "$(since "$began")"
    awk -v took="$(since "$began")" -v most=$((2 * patience)) 'BEGIN { exit took > most }' || fail "STATUS took $(since "$began") s"
}

# With a primary network of an older version, there is no STATUS, and the node is ready whatever is missing.
older_primary() {
    sed -i 's/"cniVersion": "1.1.0"/"cniVersion": "1.0.0"/' /etc/cni/net.d/10-pods.conflist
    await 30 "Braid's version is the primary network's" grep '"cniVersion": *"1.0.0"' /etc/cni/net.d/00-braid.conflist
    mv /opt/cni/bin/portmap /opt/cni/portmap
    trap 'mv /opt/cni/portmap /opt/cni/bin/portmap 2>/dev/null || true; write_primary' EXIT
    # This is longer than the kubelet takes to notice.
    sleep 20
    is_node_ready || fail "the node is not ready"
    mv /opt/cni/portmap /opt/cni/bin/portmap
    write_primary
    await 30 "Braid's version is the primary network's" grep '"cniVersion": *"1.1.0"' /etc/cni/net.d/00-braid.conflist
}

reboot() {
    local began
    pod stays-a "$(networks 'storage, masked, limited')"
    pod stays-b "$(networks 'storage, masked, limited')"
    await 60 "the pods" are_ready stays-a stays-b
    journals >/cluster/before-reboot
    reboot_node
    start_runtime
    # When it starts, CRI-O calls GC without valid attachments. containerd calls no GC.
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
