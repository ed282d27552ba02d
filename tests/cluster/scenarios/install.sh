# Braid is installed, replaced and uninstalled, with Multus before and after. Sourced by node.sh.
# The variables of node.sh and cluster.sh are set here.
# shellcheck shell=bash disable=SC2154

install_braid() {
    await 60 "the manifests" k apply -k "$repository/conf/kubernetes"
    await 120 "the DaemonSet" is_rolled_out
    await 30 "Braid's configuration" test -s /etc/cni/net.d/00-braid.conflist
    await 30 "the node" is_node_ready
}

is_rolled_out() { k rollout status daemonset/braid -n kube-system --timeout=1s; }

# The API server validates everything that docs/kubernetes.md tells users to apply.
manifests() {
    local directory
    for directory in kubernetes kubernetes/live kubernetes/webhook kubernetes-dra; do
        k apply --dry-run=server --validate=strict -k "$repository/conf/$directory" >/dev/null
    done
    k apply --dry-run=server --validate=strict -f "$repository/conf/kubernetes/uninstall.yaml" \
        -f "$repository/conf/kubernetes-dra/rbac-claim-status.yaml" >/dev/null
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
    # Without a port mapping: Multus's DEL leaves its rules.
    pod multus-warm-up "$(networks 'storage, limited, plain, masked')"
    await 60 "a pod" are_ready multus-warm-up
    remove_pods multus-warm-up
    keep_state
    come_and_go "multus, $runtime" 2
}

from_multus() {
    pod old-a "$(networks 'storage, masked, limited')"
    pod old-b "$(networks 'storage, masked, limited')"
    await 60 "pods of Multus" are_ready old-a old-b
    install_braid
    rm /etc/cni/net.d/00-multus.conf
    are_ready old-a old-b
    remove_pods old-a old-b
    # Multus may leave empty folders. Braid's own folders are new.
    await 60 "what Multus has attached is detached" is_without_attachments
}

is_without_attachments() {
    local left
    left=$(find /var/lib/cni -type f ! -name 'last_reserved_ip.*' ! -name lock ! -name agent.lock
        ip -o link | grep -E 'veth|ifb'; nft list ruleset 2>/dev/null | grep -E 'id: |CNI-DN' ) || true
    [[ -z $left ]] || { echo "$left"; return 1; }
}

# While pods are created and deleted, Braid's executable is replaced several times: with an older one, if there is one, and then
# with two others in turn. Newer ones detach the pods that the older one has attached.
upgrade() {
    local failures
    k delete daemonset braid -n kube-system --cascade=foreground >/dev/null
    make_versions
    [[ -z ${BRAID_CLUSTER_OLD:-} ]] || replace_executable "$BRAID_CLUSTER_OLD"
    failures=$(failed_sandboxes)
    many_up 30
    expect_networks_of_many 30
    start replace replace_again_and_again
    for _ in 1 2 3; do
        many_down
        many_up 30
        expect_networks_of_many 30
    done
    many_down
    stop replace
    (($(wc -l </cluster/replaced) > 10)) || fail "it was replaced $(wc -l </cluster/replaced) times"
    [[ $(failed_sandboxes) == "$failures" ]] || fail "sandboxes failed: $(failed_sandboxes)"
    leaves_nothing
    install_braid
}

# Two executables that differ only in appended bytes.
make_versions() {
    local name
    mkdir -p /cluster/account
    k create token braid -n kube-system >/cluster/account/token
    cp /cluster/ca.crt /cluster/account/ca.crt
    for name in one two; do
        cp "$BRAID_TEST_BINARY" "/cluster/$name"
        echo "$name" >>"/cluster/$name"
    done
}

replace_executable() { cp "$1" /opt/cni/bin/.next && mv /opt/cni/bin/.next /opt/cni/bin/braid; }

replace_again_and_again() {
    local name
    : >/cluster/replaced
    while :; do
        for name in one two; do
            KUBERNETES_SERVICE_HOST=$service KUBERNETES_SERVICE_PORT=443 \
                "/cluster/$name" install --once --service-account /cluster/account || true
            if cmp "/cluster/$name" /opt/cni/bin/braid; then echo "$name" >>/cluster/replaced; fi
            sleep 1
        done
    done
}

# The pods whose sandbox could not be made or removed, and how often. Failures because of a busy API server are not counted.
failed_sandboxes() {
    k get events -A -o json | jq -c '[.items[] | select(.reason == "FailedCreatePodSandBox" or .reason == "FailedKillPod")
        | select(.message | contains("no answer within") | not) | [.involvedObject.name, .reason, .count]] | sort'
}

# Braid's configuration disappears, and its pods are deleted by the next plugin. `braid doctor` finds and undoes what that plugin
# does not know.
without_uninstall() {
    pod lost-a "$(networks 'storage, masked, limited')"
    pod lost-b "$(networks 'storage, masked, limited')"
    await 60 "the pods" are_ready lost-a lost-b
    k delete daemonset braid -n kube-system --cascade=foreground >/dev/null
    rm -r /etc/cni/net.d/00-braid.conflist /etc/cni/net.d/braid.d
    [[ -z ${BRAID_CLUSTER_MULTUS:-} ]] || write_multus
    # The runtime reads its configurations again.
    pod next '{}'
    await 60 "a pod of the plugin that comes next" are_ready next
    remove_pods lost-a lost-b next
    # CRI-O calls the plugin that has attached a pod. containerd calls the one that is first now.
    if [[ $runtime == containerd ]]; then
        [[ $(/opt/cni/bin/braid list | grep -c '^[0-9a-f]\{64\} .*left behind') == 2 ]] || fail "braid list does not show what was left behind"
        ! is_without_attachments >/dev/null || fail "nothing was left behind"
    fi
    await 60 "everything is mended" /opt/cni/bin/braid doctor --fix
    await 30 "nothing is attached" is_without_attachments
    rm -f /etc/cni/net.d/00-multus.conf
    install_braid
}

# As docs/kubernetes.md describes, with Multus as the next one if it is installed.
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
    await 60 "the end of uninstall" has_exited "$pid"
    test ! -e /opt/cni/bin/braid
    await 30 "nothing is attached" is_without_attachments
}
