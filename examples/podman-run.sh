#!/usr/bin/env bash
# Runs a command in a container on Braid's networks, whatever network back end podman has.
# Usage: podman-run.sh NETWORK[,NETWORK]... [PODMAN-OPTION]... IMAGE COMMAND...
#
#   podman-run.sh mynet,storage busybox ip address
#
# A first container without a network keeps the namespace, which Braid attaches to the networks. The command runs in a second
# container that shares it. IMAGE must have a `sleep`. The environment is that of `braid add`: NETCONFPATH, CNI_PATH,
# CNI_ARGS, CAP_ARGS. PODMAN names another podman, with options of its own.
set -euo pipefail

(($# >= 3)) || { sed -n '2,5s/^# \?//p' "$0" >&2; exit 2; }
IFS=, read -ra networks <<<"$1"
shift
read -ra podman <<<"${PODMAN:-podman}"

# The words before the command: options, some of them with a value, and the image.
before=()
while (($#)); do
    before+=("$1")
    if [[ $1 != -* ]]; then
        shift
        break
    elif [[ $1 == --rootfs || $1 == *=* ]]; then
        shift
    else
        before+=("${2:?$1 needs a value: write options as --name=value}")
        shift 2
    fi
done

joined=()
clean_up() {
    local index
    for ((index = ${#joined[@]} - 1; index >= 0; index--)); do
        braid del --container-id "$id" --ifname "eth$index" "${joined[index]}" "$netns" || true
    done
    "${podman[@]}" rm --force --time 0 "$id" >/dev/null
}

id=$("${podman[@]}" run --detach --network none "${before[@]}" sleep infinity)
pid=$("${podman[@]}" inspect --format '{{.State.Pid}}' "$id")
netns=/proc/$pid/ns/net
trap clean_up EXIT
for network in "${networks[@]}"; do
    # From here on, DEL is needed, because an ADD that fails may leave something behind.
    joined+=("$network")
    braid add --container-id "$id" --ifname "eth$((${#joined[@]} - 1))" "$network" "$netns" >/dev/null
done
"${podman[@]}" run --rm --network "container:$id" "${before[@]}" "$@"
