# Pods are created and deleted. Sourced by node.sh.
# The variables of node.sh and cluster.sh are set here.
# shellcheck shell=bash disable=SC2154

# This includes a port mapping, because the first one makes chains that stay.
every_network() {
    pod "$1" "$(networks '[{"name": "storage"}, {"name": "limited"}, {"name": "plain"},
        {"name": "masked", "portMappings": [{"hostPort": 8888, "containerPort": 80, "protocol": "tcp"}]}]')"
    await 60 "a pod" are_ready "$1"
    remove_pods "$1"
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

# CRI-O calls CHECK. That of the bridge plugin fails without addresses, and sometimes if the bridge has no gateway.
shared_bridges() {
    local failures names
    failures=$(failed_sandboxes)
    mapfile -t names < <(seq -f 'crew-%g' 12)
    pods "$(networks 'plain, storage')" "${names[@]}"
    await 120 "12 pods" are_ready "${names[@]}"
    [[ $(failed_sandboxes) == "$failures" ]] || fail "sandboxes failed: $(failed_sandboxes)"
    remove_pods "${names[@]}"
    leaves_nothing
}

many() { come_and_go "braid, $runtime" 2; }
