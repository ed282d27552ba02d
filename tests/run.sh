#!/usr/bin/env bash
# Installs what the tests need, where it can, and runs everything that CI runs.
# Usage: tests/run.sh [--quick | --cluster [RUNTIME]... | CARGO-TEST-ARGUMENT...]
#
# With --quick, formatting, unit tests, and the scenarios that need nothing but the recording plugin run: half a minute once
# everything is compiled. With --cluster, Braid runs on a node of a real Kubernetes, if its programs are there:
# tests/cluster/run.sh says what it needs. With other arguments, only `cargo test` runs, with these. Without any, the script says
# at the end how long each part took, and which ten tests were the slowest.
#
# The tests make network namespaces of their own and leave the machine as it was. As an ordinary user they run in a user
# namespace, which knows no other users and no real root.
#
#   BRAID_TEST_CNI_PATH      the reference plugins, if not in /usr/lib/cni or /opt/cni/bin
#   BRAID_TEST_CNI_PATH_NEW  reference plugins that speak CNI 1.1.0, if not in /opt/cni-1.9/bin; where there are none, they
#                            are fetched from Debian sid if apt-get can, into the user's cache; without them, their tests skip
#   KUBEBUILDER_ASSETS       a folder with etcd, kube-apiserver and kubectl: the scenarios of Kubernetes run with a real API
#                            server as well; without it, they run with a double alone
#   BRAID_TEST_HELM_PYTHON   a Python that has helm-python-sdk, with which Helm's own library renders the chart; if it is not
#                            set, one is made in the user's cache if pip can, and without it those tests skip
#   BRAID_TEST_SRIOV_CNI     the sriov-cni executable, named `sriov`; without it, the test of its refusal skips
#   CNITOOL                  libcni's cnitool, if not on PATH; without it, the tests that compare with it skip
#   BRAID_TEST_BINARY        the braid to test, if not the one that cargo builds
#   BRAID_TEST_NO_INSTALL=1  install nothing
#   RUST_TEST_THREADS        how many tests run at once, if not two for each processor: many wait for most of their time
#   BRAID_TEST_CYCLES        how many times a container is attached and detached in a row, if not 50
#   BRAID_TEST_ROUNDS        how many times the reference plugins run at once, if not twice
#   BRAID_TEST_KILLS=all     kill changes of containers at every system call, not at some; needs strace, and takes hours
#   BRAID_TEST_AGENT_PODS    how many pods the agent has that is killed again and again, if not 6
#   BRAID_TEST_FUZZ          for how many seconds libFuzzer runs each target of tests/fuzz, if at all; needs cargo-fuzz
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf '\n== %s\n' "$*"; }
die() { printf 'tests/run.sh: %s\n' "$*" >&2; exit 1; }

# On some systems, these directories are not in an ordinary user's PATH.
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

# The programs and files that the tests need: the Debian package, and the name of a program or the path of a file.
needs() {
    cat <<'EOF'
iproute2 ip
iproute2 tc
iputils-ping ping
iptables iptables
iptables ip6tables-save
nftables nft
util-linux nsenter
util-linux unshare
util-linux setpriv
busybox-static busybox
podman podman
buildah buildah
containerd containerd
containerd ctr
runc runc
jq jq
prometheus promtool
rpm rpm
rpm rpmbuild
valgrind valgrind
faketime faketime
EOF
}

has_reference_plugins() {
    local folder
    for folder in "${BRAID_TEST_CNI_PATH:-}" /usr/lib/cni /opt/cni/bin; do
        [[ -n $folder && -x $folder/bridge ]] && return
    done
    return 1
}

missing() {
    local package program
    while read -r package program; do
        command -v "$program" >/dev/null || echo "$package"
    done < <(needs)
    has_reference_plugins || echo containernetworking-plugins
}

install_missing() {
    local packages
    mapfile -t packages < <(missing | sort -u)
    ((${#packages[@]})) || return 0
    if ((EUID == 0)) && [[ ${BRAID_TEST_NO_INSTALL:-} != 1 ]] && command -v apt-get >/dev/null; then
        say "installing ${packages[*]}"
        # Keeps the installation from starting services, which would keep running after the tests.
        export DEBIAN_FRONTEND=noninteractive RUNLEVEL=1
        apt-get install -y --no-install-recommends "${packages[@]}" >/dev/null ||
            { apt-get update -qq && apt-get install -y --no-install-recommends "${packages[@]}" >/dev/null; } ||
            die "cannot install ${packages[*]}"
        mapfile -t packages < <(missing | sort -u)
        ((${#packages[@]})) || return 0
    fi
    die "the tests need these Debian packages (elsewhere, the programs in them): ${packages[*]}"
}

# Adds the musl target to rustc. Without it, the musl build is not tested, and its instructions are not counted.
add_musl() {
    musl=$(uname -m)-unknown-linux-musl
    ! builds_for_musl && [[ ${BRAID_TEST_NO_INSTALL:-} != 1 ]] && command -v rustup >/dev/null || return 0
    say "adding $musl to rustc"
    timeout 120 rustup --quiet target add "$musl" || true
}

builds_for_musl() {
    [[ -d $(rustc --print target-libdir --target "$musl") ]]
}

# Fetches the reference plugins of Debian sid, which speak CNI 1.1.0, into the user's cache. apt-get gets lists, a cache and
# a source of its own, so that the machine's stay as they are; any failure only means that some tests skip.
fetch_new_plugins() {
    local cache=${XDG_CACHE_HOME:-${HOME:-/tmp}/.cache}/braid-tests apt work mirror
    local keyring=/usr/share/keyrings/debian-archive-keyring.gpg
    [[ -z ${BRAID_TEST_CNI_PATH_NEW:-} && ! -x /opt/cni-1.9/bin/bridge ]] || return 0
    export BRAID_TEST_CNI_PATH_NEW=$cache/plugins/usr/lib/cni
    [[ ! -x $BRAID_TEST_CNI_PATH_NEW/bridge ]] || return 0
    if [[ ${BRAID_TEST_NO_INSTALL:-} != 1 && -e $keyring ]] && command -v apt-get dpkg >/dev/null; then
        say "fetching reference plugins that speak CNI 1.1.0"
        work=$cache/apt
        # The mirror that the machine itself uses.
        # shellcheck disable=SC2016
        mirror=$(apt-get indextargets --format '$(LABEL) $(REPO_URI)' 'Created-By: Packages' | awk '$1 == "Debian" { print $2; exit }')
        mkdir -p "$work/lists/partial" "$work/cache/archives/partial"
        echo "deb [signed-by=$keyring] $mirror sid main" >"$work/sources.list"
        apt=(-qq -o "Dir::Etc::SourceList=$work/sources.list" -o Dir::Etc::SourceParts=/dev/null
            -o Dir::Etc::Preferences=/dev/null -o Dir::Etc::PreferencesParts=/dev/null
            -o "Dir::State::Lists=$work/lists" -o "Dir::Cache=$work/cache" -o APT::Sandbox::User=root
            -o Acquire::Languages=none -o Acquire::Retries=0 -o Acquire::http::Timeout=20)
        (
            cd "$work"
            # The plugins are moved into place last, so that an interrupted run leaves no incomplete folder.
            apt-get "${apt[@]}" update && apt-get "${apt[@]}" download containernetworking-plugins &&
                dpkg -x containernetworking-plugins_*.deb plugins && mv -T plugins ../plugins
        ) >"$cache/log" 2>&1 || printf 'they could not be had: %s\n' "$(tail -n 1 "$cache/log")"
        rm -rf "$work"
    fi
    [[ -x $BRAID_TEST_CNI_PATH_NEW/bridge ]] || { unset BRAID_TEST_CNI_PATH_NEW; say "tests of CNI 1.1.0 plugins will skip"; }
}

# Makes a Python with Helm's library in the user's cache. Any failure only means that some tests skip.
fetch_helm() {
    local cache=${XDG_CACHE_HOME:-${HOME:-/tmp}/.cache}/braid-tests
    [[ -z ${BRAID_TEST_HELM_PYTHON:-} ]] || return 0
    if [[ ! -x $cache/helm/bin/python ]] && [[ ${BRAID_TEST_NO_INSTALL:-} != 1 ]] && command -v python3 >/dev/null; then
        say "fetching Helm's library"
        rm -rf "$cache/helm.part"
        mkdir -p "$cache"
        # It is moved into place last, so that an interrupted run leaves no incomplete folder.
        python3 -m venv "$cache/helm.part" >"$cache/helm.log" 2>&1 &&
            "$cache/helm.part/bin/python" -m pip install --quiet --timeout 20 --retries 0 helm-python-sdk==0.2.2 >>"$cache/helm.log" 2>&1 &&
            mv -T "$cache/helm.part" "$cache/helm" || printf 'it could not be had: %s\n' "$(tail -n 1 "$cache/helm.log")"
    fi
    if [[ -x $cache/helm/bin/python ]]; then
        export BRAID_TEST_HELM_PYTHON=$cache/helm/bin/python
    else
        say "tests of the Helm chart will skip"
    fi
}

# Reports early what an ordinary user's machine lacks.
check_rights() {
    ((EUID != 0)) || return 0
    unshare --user --map-root-user --net --mount true 2>/dev/null || die "the tests make network namespaces, and this \
user may not: run them as root, or allow user namespaces (sysctl kernel.unprivileged_userns_clone=1, \
kernel.apparmor_restrict_unprivileged_userns=0, user.max_user_namespaces above 0)"
    say "not root: the tests run in a user namespace, and those of podman and containerd skip"
}

# Reports early what would otherwise make the build fail later.
check_disk() {
    local free
    free=$(df --output=avail --block-size=1M . | tail -n 1)
    ((free >= 5000)) || say "only $free MB are free here: to build and test everything on a new machine takes about 4 GB"
}

# Runs a command as root, or as root of a user namespace, with a /run of its own.
with_root() {
    if ((EUID == 0)); then
        "$@"
        return
    fi
    # /sys must be the new network namespace's, and iptables locks a file under /run.
    unshare --user --map-root-user --net --mount -- bash -euc '
        mount -t tmpfs braid-test /run
        mount -t sysfs sysfs /sys 2>/dev/null || true
        exec "$@"' with_root "$@"
}

# The tests are built as the user who runs this, then run with the rights they need.
run_tests() {
    local threads=${RUST_TEST_THREADS:-$((2 * $(nproc)))}
    cargo test --no-run --quiet "$@" || return
    # Everything is built already, and cargo must not look for a network, because the namespace has none. The tests send signals
    # that a job in the background, and everything that it starts, would ignore.
    CARGO_NET_OFFLINE=true with_root env --default-signal=HUP,INT,QUIT,TERM "RUST_TEST_THREADS=$threads" \
        cargo test --no-fail-fast "$@" 2>&1 | totals
}

# Prints the output of tests, and adds up their results.
totals() {
    awk '
        { print }
        /^test result:/ { passed += $4; failed += $6; ignored += $8 }
        END { printf "\n%d passed, %d failed, %d ignored in all\n", passed, failed, ignored }'
}

# Runs all tests, measures each, and shows the slowest. Documentation's tests are not measured.
run_all_tests() {
    local host log status=0
    # The recording plugin is an example, which is not built if other targets are named.
    cargo build --examples --quiet || return
    cargo test --doc 2>&1 | totals || status=$?
    # Measuring times is an unstable feature of the test harness. Only the harness gets the variable that allows it: given to
    # cargo, the variable would make it build everything again.
    host=$(rustc -vV | sed -n 's/^host: //p' | tr 'a-z-' 'A-Z_')
    log=$(mktemp)
    (
        export "CARGO_TARGET_${host}_RUNNER=env RUSTC_BOOTSTRAP=1"
        run_tests --lib --tests -- -Z unstable-options --report-time
    ) | tee "$log" || status=$?
    say "the slowest tests"
    awk '/^test .* <[0-9.]+s>$/ { gsub(/[<>]/, "", $NF); print $NF, $2 }' "$log" | sort -rn | head -n 10
    rm -f "$log"
    return "$status"
}

# Runs the tests that need only the recording plugin: no real plugin, no runtime, no API server.
quick() {
    cargo fmt --check || return
    cargo build --examples --quiet || return
    run_tests --lib || return
    run_tests --test suite -- plan:: protocol:: takeover:: transaction::order \
        --skip reference --skip check_reports_everything_that_is_wrong_at_once \
        --skip networks_4 --skip networks_5
}

# Builds for musl, without Kubernetes, where tests/bench/instructions.sh counts the instructions of the same build.
build_for_musl() {
    builds_for_musl || return 0
    tests/bench/instructions.sh --build
}

count_instructions() {
    wait "$musl_build" || true
    tests/bench/instructions.sh
}

# Builds for musl, and runs the tests that depend on the C library, and those with real plugins.
test_musl() {
    local folder
    builds_for_musl || { echo "rustc does not build for musl here: rustup target add $musl"; return; }
    build_for_musl || return
    folder=$(realpath "${CARGO_TARGET_DIR:-target}")/instructions
    # The recording plugin is an example, and `--test` alone does not build it.
    cargo build --examples --quiet || return
    BRAID_TEST_BINARY=$folder/$musl/release/braid run_tests --test suite -- \
        cli::run faults::killed::a_plugin faults::limits networks:: runtimes::podman transaction::crash
}

# Runs every fuzz target for a limited time. Inputs that fail are put into tests/fuzz/artifacts.
fuzz() {
    local target host fuzz=(--fuzz-dir tests/fuzz)
    cargo fuzz --version >/dev/null 2>&1 || { echo "cargo-fuzz is not installed: cargo install cargo-fuzz"; return 1; }
    # By default, cargo-fuzz builds for the target that it was itself built for, which may differ from this machine's.
    host=$(rustc -vV | sed -n 's/^host: //p')
    for target in $(cargo fuzz list "${fuzz[@]}"); do
        say "fuzzing $target"
        mkdir -p "tests/fuzz/corpus/$target"
        RUSTC_BOOTSTRAP=1 cargo fuzz run "${fuzz[@]}" --sanitizer none --target "$host" "$target" \
            "tests/fuzz/corpus/$target" "tests/fuzz/seeds/$target" -- \
            "-max_total_time=$BRAID_TEST_FUZZ" -timeout=10 -rss_limit_mb=1024 -print_final_stats=1 || return
    done
}

# Checks the crates' licences, sources and bans with cargo-deny, if that is installed.
check_crates() {
    command -v cargo-deny >/dev/null || { echo "cargo-deny is not installed: cargo install --locked cargo-deny"; return; }
    cargo deny --config .cargo/deny.toml --log-level error check --hide-inclusion-graph bans licenses sources
}

# Checks the workflows, if actionlint is installed.
check_workflows() {
    command -v actionlint >/dev/null || { echo "actionlint is not installed: https://github.com/rhysd/actionlint"; return; }
    actionlint
}

check_rights
if [[ ${1:-} == --quick ]]; then
    quick
    printf '\nin %d s\n' $SECONDS
    exit
fi
install_missing
fetch_new_plugins
if [[ ${1:-} == --cluster ]]; then
    exec tests/cluster/run.sh "${@:2}"
fi
fetch_helm
if (($#)); then
    run_tests "$@"
    exit
fi
check_disk
add_musl

# One failure does not hide another: everything runs, and the failures are listed at the end.
failed=()
took=()
step() {
    local began=$SECONDS name=$1
    say "$name"
    shift
    "$@" || failed+=("$*")
    took+=("$(printf '%4d s  %s' $((SECONDS - began)) "$name")")
}
# If everything has to be built, incremental compilation only takes time and disk space.
[[ -e ${CARGO_TARGET_DIR:-target}/debug ]] || export CARGO_INCREMENTAL=0
# It runs in the background during the next steps, which do not always use all processors.
build_for_musl &
musl_build=$!
step "formatting" cargo fmt --check
step "lints" cargo clippy --all-targets --quiet -- -D warnings
step "documentation" env RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --quiet
step "licences, sources and bans of crates" check_crates
step "workflows" check_workflows
step "instructions of an ADD" count_instructions
step "tests of a build for musl" test_musl
step "tests" run_all_tests
[[ -z ${BRAID_TEST_FUZZ:-} ]] || step "fuzzing" fuzz
printf '\nIt took %d min %d s:\n' $((SECONDS / 60)) $((SECONDS % 60))
printf '%s\n' "${took[@]}"
((${#failed[@]} == 0)) || die "failed: $(IFS=,; echo "${failed[*]}")"
