#!/usr/bin/env bash
# Process 1 of a node: makes its root file system, starts a cluster, and runs the scenarios. Started by run.sh, in namespaces of
# its own for everything.
#
# Usage: node.sh RUNTIME REPOSITORY LOGS FOLDER-ON-PATH FOLDER-OF-PROGRAMS...
set -euo pipefail
runtime=$1 repository=$2 logs=$3
shift 3
here=$(cd "$(dirname "$0")" && pwd)

# What the node writes stays in memory, and is gone with its mount namespace.
make_root() {
    local root folder hierarchy controller
    mount --make-rprivate /
    # They are bound now, before other mounts hide them.
    mapfile -t hierarchies < <(awk '/ - cgroup cgroup / { print $5 "=" $NF }' /proc/self/mountinfo)
    mount -t tmpfs -o size=6g node /mnt
    mkdir /mnt/upper /mnt/work /mnt/root
    mount -t overlay -o lowerdir=/,upperdir=/mnt/upper,workdir=/mnt/work node /mnt/root
    root=/mnt/root
    # The node must not see the state of the machine's own runtimes. Images and containers need overlays, which cannot be on an
    # overlay.
    for folder in /run /tmp /etc/cni /opt/cni /var/lib/cni /var/lib/kubelet /var/lib/containerd /var/lib/containers /var/log \
        /var/tmp /cluster; do
        mkdir -p "$root$folder"
        mount -t tmpfs node "$root$folder"
    done
    # These may be on other file systems, or below one of these.
    for folder in "$repository" "$logs" "$here" "$BRAID_CLUSTER_PLUGINS" "$(dirname "$BRAID_TEST_BINARY")" \
        "$(dirname "${BRAID_CLUSTER_OLD:-$BRAID_TEST_BINARY}")" "$@"; do
        mkdir -p "$root$folder"
        mount --bind "$folder" "$root$folder"
    done
    ln -sfn /run "$root/var/run"
    mount --rbind /dev "$root/dev"
    mount -t proc proc "$root/proc"
    mount -t sysfs sysfs "$root/sys"
    mount -t tmpfs node "$root/sys/fs/cgroup"
    for hierarchy in "${hierarchies[@]}"; do
        controller=${hierarchy#*=}
        mkdir "$root/sys/fs/cgroup/$(basename "${hierarchy%%=*}")"
        mount -t cgroup -o "${controller#rw,}" node "$root/sys/fs/cgroup/$(basename "${hierarchy%%=*}")"
    done
    hide_settings "$root"
    cd "$root"
    mkdir -p oldroot
    pivot_root . oldroot
    umount -l /oldroot
    mount --make-rshared /
    hostname node
}

# The kubelet changes settings of the whole machine. It gets files in their place. The boot ID is a file too.
hide_settings() {
    local root=$1 setting
    for setting in vm/overcommit_memory=1 vm/panic_on_oom=0 kernel/panic=10 kernel/panic_on_oops=1 \
        kernel/keys/root_maxkeys=1000000 kernel/keys/root_maxbytes=25000000 "kernel/random/boot_id=$(uuidgen)"; do
        mkdir -p "$root/cluster/settings"
        echo "${setting#*=}" >"$root/cluster/settings/$(basename "${setting%=*}")"
        mount --bind "$root/cluster/settings/$(basename "${setting%=*}")" "$root/proc/sys/${setting%=*}"
    done
}

export PATH=$1:$PATH:/usr/local/sbin:/usr/sbin:/sbin
make_root "$@"
export LC_ALL=C HOME=/root runtime repository logs
# shellcheck source=tests/cluster/cluster.sh
. "$here/cluster.sh"
# shellcheck source=tests/cluster/checks.sh
. "$here/checks.sh"
for scenarios in "$here"/scenarios/*.sh; do
    # shellcheck source=/dev/null
    . "$scenarios"
done
# shellcheck source=tests/cluster/scenarios.sh
. "$here/scenarios.sh"
run_scenarios
