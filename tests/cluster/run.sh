#!/usr/bin/env bash
# Runs Braid on a real Kubernetes node, from `kubectl apply -k conf/kubernetes` to `braid uninstall --drain`, once under
# containerd and once under CRI-O, and prints how long things took. `tests/run.sh --cluster` runs it; CI does not.
#
# Usage: tests/cluster/run.sh [containerd | crio]...
#
# The node has namespaces of its own for network, mounts, processes, cgroups and host name, and a root file system that keeps
# what it writes in memory. So nothing is left on the machine, also when the test is killed. It needs root and 3 GB of memory.
# The programs of the cluster come from folders that these variables name:
#
#   BRAID_CLUSTER_KUBERNETES  kube-apiserver, kube-controller-manager, kube-scheduler, kubelet
#   BRAID_CLUSTER_ETCD        etcd, if not on PATH
#   BRAID_CLUSTER_KUBECTL     kubectl, if not on PATH
#   BRAID_CLUSTER_CONTAINERD  containerd, containerd-shim-runc-v2, ctr of version 2, if not on PATH
#   BRAID_CLUSTER_CRIO        crio and pinns; without it, the node under CRI-O is skipped
#   BRAID_CLUSTER_RUNC        runc, if not on PATH
#   BRAID_CLUSTER_MULTUS      multus; without it, the migration from Multus is skipped, and its times are not measured
#   BRAID_TEST_CNI_PATH_NEW   reference plugins that speak CNI 1.1.0, as for tests/run.sh
#   BRAID_CLUSTER_OLD         an older static braid, to upgrade from while pods run; without it, there is no older one
#   BRAID_CLUSTER_PATIENCE    a factor for all time limits, for a busy machine
#   BRAID_TEST_BINARY         a static braid, if not the one that .ci/release builds
#   BRAID_CLUSTER_LOGS        a folder for the logs of the cluster, if not a temporary one that is removed after a success
set -euo pipefail
cluster=$(cd "$(dirname "$0")" && pwd)
repository=$(cd "$cluster/../.." && pwd)
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

say() { printf '\n== %s\n' "$*"; }
die() { printf 'tests/cluster: %s\n' "$*" >&2; exit 1; }
skip() { printf 'tests/cluster: skipped: %s\n' "$*"; exit 0; }

# The folder of a program: that of the variable, or else the one on PATH.
folder_of() {
    local variable=$1 program=$2 folder path
    folder=${!variable:-}
    if [[ -z $folder ]]; then
        path=$(command -v "$program") || return
        folder=$(dirname "$(realpath "$path")")
    fi
    [[ -x $folder/$program ]] || return
    realpath "$folder"
}

# Makes programs visible on the node, first on its PATH. Reports missing ones.
folders=()
require() {
    local variable=$1 program folder
    shift
    for program; do
        folder=$(folder_of "$variable" "$program") || skip "there is no $program: set $variable to the folder that has it"
        ln -sfn "$folder/$program" "$work/bin/$program"
        folders+=("$folder")
    done
}

check_machine() {
    local program
    ((EUID == 0)) || skip "this test needs root"
    for program in openssl jq buildah busybox iptables nft; do
        command -v "$program" >/dev/null || skip "there is no $program"
    done
    grep -q ' - cgroup cgroup ' /proc/self/mountinfo ||
        skip "the node gets cgroups of version 1, pure or hybrid, and this machine has none"
}

check_programs() {
    local program
    for program in kube-apiserver kube-controller-manager kube-scheduler kubelet; do
        require BRAID_CLUSTER_KUBERNETES "$program"
    done
    require BRAID_CLUSTER_ETCD etcd
    require BRAID_CLUSTER_KUBECTL kubectl
    require BRAID_CLUSTER_RUNC runc
    [[ -x ${BRAID_TEST_CNI_PATH_NEW:-}/bridge ]] ||
        skip "there are no reference plugins that speak CNI 1.1.0: set BRAID_TEST_CNI_PATH_NEW"
    export BRAID_CLUSTER_PLUGINS=$BRAID_TEST_CNI_PATH_NEW
    if [[ -n ${BRAID_CLUSTER_MULTUS:-} ]]; then
        require BRAID_CLUSTER_MULTUS multus
    else
        say "BRAID_CLUSTER_MULTUS is not set: the migration from Multus will skip"
    fi
}

# The requested runtimes whose programs exist.
choose_runtimes() {
    local wanted=("$@") runtime version
    ((${#wanted[@]})) || wanted=(containerd crio)
    runtimes=()
    for runtime in "${wanted[@]}"; do
        case $runtime in
            containerd)
                folder_of BRAID_CLUSTER_CONTAINERD containerd >/dev/null || { say "there is no containerd: skipped"; continue; }
                version=$("$(folder_of BRAID_CLUSTER_CONTAINERD containerd)/containerd" --version)
                [[ $version =~ [[:space:]]v?2\. ]] || { say "skipped: the test needs containerd 2, and this is $version"; continue; }
                require BRAID_CLUSTER_CONTAINERD containerd containerd-shim-runc-v2 ctr
                ;;
            crio)
                folder_of BRAID_CLUSTER_CRIO crio >/dev/null || { say "there is no CRI-O (BRAID_CLUSTER_CRIO): skipped"; continue; }
                require BRAID_CLUSTER_CRIO crio pinns
                command -v conmon podman >/dev/null || { say "CRI-O needs conmon, and the test podman: skipped"; continue; }
                ;;
            *) die "there is no runtime \"$runtime\": expected containerd or crio" ;;
        esac
        runtimes+=("$runtime")
    done
    ((${#runtimes[@]})) || skip "no runtime is left"
}

find_braid() {
    local target
    target=$(uname -m)-unknown-linux-musl
    if [[ -z ${BRAID_TEST_BINARY:-} ]]; then
        BRAID_RELEASE_DIR=$work/dist BRAID_RELEASE_TARGETS=$target BRAID_RELEASE_VARIANTS=kubernetes \
            "$repository/.ci/release" executables
        BRAID_TEST_BINARY=$(find "$work/dist" -type f -name 'braid-*' -perm /111)
    fi
    # The image contains nothing else.
    ! grep -qa /lib64/ld-linux "$BRAID_TEST_BINARY" || die "$BRAID_TEST_BINARY is not static"
    BRAID_TEST_BINARY=$(realpath "$BRAID_TEST_BINARY")
    export BRAID_TEST_BINARY
    [[ -z ${BRAID_CLUSTER_OLD:-} ]] || BRAID_CLUSTER_OLD=$(realpath "$BRAID_CLUSTER_OLD")
}

# The controllers of version 1, by where they are mounted.
cgroups() { awk '$0 ~ / - cgroup cgroup / { print $5 }' /proc/self/mountinfo; }

# The node's cgroup in the hierarchy that is mounted at a folder: below the one of this process.
cgroup_in() {
    local hierarchy=$1 options path
    options=$(awk -v at="$hierarchy" '$5 == at && / - cgroup cgroup / { print $NF; exit }' /proc/self/mountinfo)
    path=$(awk -F: -v options=",$options," 'options ~ "," $2 "," { print $3; exit }' /proc/self/cgroup)
    printf '%s%s/%s\n' "$hierarchy" "${path%/}" "$name"
}

make_cgroups() {
    local hierarchy cgroup file
    for hierarchy in $(cgroups); do
        cgroup=$(cgroup_in "$hierarchy")
        mkdir "$cgroup"
        for file in cpuset.cpus cpuset.mems; do
            [[ ! -e $cgroup/$file ]] || cat "$(dirname "$cgroup")/$file" >"$cgroup/$file"
        done
        echo "$cgroup"
    done
}

# Kills a node and removes its cgroups when the other end of the pipe on standard input is closed, that is, when the test has
# exited for any reason. The first line is the process to kill.
keep() {
    local node='' line
    while read -r line; do node=$line; done
    [[ -z $node ]] || kill -KILL "$node" 2>/dev/null || true
    for _ in $(seq 100); do
        # shellcheck disable=SC2086
        find $1 -depth -type d -exec rmdir {} + 2>/dev/null || true
        # shellcheck disable=SC2086
        ls -d $1 >/dev/null 2>&1 || break
        sleep 0.1
    done
}

# Everything on the machine that a node could have changed. The processes, interfaces and mounts of others come and go.
machine() {
    echo "# addresses"; ip -brief address | awk '{ $2 = ""; print }'
    echo "# routes"; ip route show table all; ip -6 route show table all
    echo "# rules"; nft list ruleset
    echo "# namespaces"; find /run/netns /run/ipcns /run/utsns -mindepth 1 2>/dev/null | grep -v /braid-test- || true
    echo "# files"
    find /etc/cni /opt/cni /var/lib/cni /var/lib/kubelet /var/lib/containerd /var/lib/containers /var/lib/crio /run/containerd \
        /run/crio /var/log/pods /etc/crio /etc/containers /etc/resolv.conf /etc/hosts -printf '%p %s %T@\n' 2>/dev/null || true
    echo "# mounts"; awk '{ print $5, $6 }' /proc/self/mountinfo | grep -v /braid-test- | sort
    echo "# cgroups"; find /sys/fs/cgroup -type d \( -name 'kubepods*' -o -name 'braid-cluster*' -o -name 'crio*' \) 2>/dev/null || true
    echo "# kernel"
    sysctl vm.overcommit_memory vm.panic_on_oom kernel.panic kernel.panic_on_oops kernel.keys.root_maxkeys \
        kernel.keys.root_maxbytes kernel.hostname net.ipv4.ip_forward
}

run_node() {
    local runtime=$1 name=braid-cluster-$$-$1 made pipe keeper status=0
    say "a node under $runtime"
    made=$(make_cgroups)
    exec {pipe}> >(trap '' HUP INT TERM; keep "$made")
    keeper=$!
    (
        exec {pipe}>&-
        for cgroup in $made; do echo "$BASHPID" >"$cgroup/cgroup.procs"; done
        exec unshare --mount --net --pid --ipc --uts --cgroup --fork --kill-child -- \
            "$cluster/node.sh" "$runtime" "$repository" "$work/$runtime" "$work/bin" "${folders[@]}"
    ) </dev/null &
    echo $! >&"$pipe"
    wait $! || status=$?
    exec {pipe}>&-
    wait "$keeper" || true
    return "$status"
}

# Prints the times of all nodes side by side. Each line of the input has an action, a node and seconds.
print_times() {
    say "what was measured: times in seconds"
    { cat "$work"/*/times 2>/dev/null || true; } | awk -F'\t' '
        !($1 in row) { row[$1] = ++rows; what[rows] = $1 }
        !($2 in column) { column[$2] = ++columns; who[columns] = $2 }
        { time[$1, $2] = time[$1, $2] (time[$1, $2] == "" ? "" : ", ") $3 }
        END {
            printf "%-58s", ""; for (c = 1; c <= columns; c++) printf "%22s", who[c]; print ""
            for (r = 1; r <= rows; r++) {
                printf "%-58s", what[r]
                for (c = 1; c <= columns; c++) printf "%22s", ((what[r], who[c]) in time) ? time[what[r], who[c]] : "-"
                print ""
            }
        }'
}

check_machine
work=${BRAID_CLUSTER_LOGS:-$(mktemp -d)}
failed=()
# After a failure, the logs are kept.
trap '[[ -n ${BRAID_CLUSTER_LOGS:-} ]] || ((${#failed[@]})) || rm -rf "$work"' EXIT
mkdir -p "$work/bin"
check_programs
choose_runtimes "$@"
find_braid
machine >"$work/before"
for runtime in "${runtimes[@]}"; do
    mkdir -p "$work/$runtime"
    run_node "$runtime" || failed+=("$runtime")
done
print_times
say "what is left on the machine"
machine >"$work/after"
diff "$work/before" "$work/after" && echo "nothing" || failed+=("the machine is not as it was")
((${#failed[@]} == 0)) || die "failed: $(IFS=,; echo "${failed[*]}"); the logs are in $work"
