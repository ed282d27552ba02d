#!/usr/bin/env bash
# Counts the instructions of one ADD with four delegates that do nothing, in Braid's own process alone, and fails when
# they are over a quarter more than instructions.txt says. The count hardly depends on what else the machine does: on the
# code, the compiler, the processor's kind and the libc. It is of a build without Kubernetes, none of which such a call
# touches: for musl where rustc has that target, otherwise for what rustc itself was built for. instructions.txt has a count
# for each. Valgrind's callgrind counts. The build is optimised as a release is, but not at link time: that would take most of
# the time, and changes the count by a few percent.
#
# Usage: tests/bench/instructions.sh [--write | --build]
#
#   --write    make today's count the one to compare with
#   --build    only build what is counted
set -euo pipefail
cd "$(dirname "$0")/../.."
expected_file=tests/bench/instructions.txt

say() { printf 'tests/bench/instructions.sh: %s\n' "$*"; }

target=$(uname -m)-unknown-linux-musl
[[ -d $(rustc --print target-libdir --target "$target") ]] || target=$(rustc -vV | sed -n 's/^host: //p')
if [[ ${1:-} != --build ]] && ! grep -q "^$target " "$expected_file"; then
    say "skipped: $expected_file has no count for $target"
    exit 0
fi
# In a folder of its own: with other features on, cargo would build everything anew each time.
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-target}/instructions
cargo build --release --quiet --no-default-features --bin braid --target "$target" \
    --config 'profile.release.lto="off"' --config profile.release.codegen-units=16
[[ ${1:-} != --build ]] || exit 0
built=$(realpath "$CARGO_TARGET_DIR")/$target/release
rustc --edition 2024 -O -o "$built/bench-noop-plugin" tests/bench/plugin.rs
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

delegates=
for number in 0 1 2 3; do
    delegates+=${delegates:+,}'{"cniVersion":"1.0.0","name":"net-'$number'","plugins":[{"type":"bench-noop-plugin",'
    delegates+='"bridge":"br'$number'","isGateway":true,"ipam":{"type":"host-local","subnet":"10.1.'$number'.0/24"}}]}'
done
printf '{"cniVersion":"1.0.0","name":"bench","type":"braid","stateDir":"%s/state","delegates":[%s]}' \
    "$work" "$delegates" >"$work/configuration"

as_root=(unshare)
((EUID == 0)) || as_root+=(--user --map-root-user)
# One ADD, and how many instructions it took. A process of its own holds the plugins together; Braid has done more than it.
count() {
    rm -rf "$work/state" "$work"/counted.* "$work"/log.*
    # The environment is part of what Braid reads and hands on, so it is a fixed one. $! is a process in another namespace.
    "${as_root[@]}" --net -- bash -euc '
        unshare --net sleep 100 &
        trap "kill $!" EXIT
        until [[ $(readlink "/proc/$!/ns/net") != $(readlink /proc/self/ns/net) ]]; do sleep 0.01; done
        env -i CNI_COMMAND=ADD CNI_CONTAINERID=bench CNI_NETNS="/proc/$!/ns/net" CNI_IFNAME=eth0 CNI_PATH="$2" \
            "$(command -v valgrind)" --tool=callgrind --callgrind-out-file="$1/counted.%p" --log-file="$1/log.%p" \
            "$2/braid" <"$1/configuration" >"$1/answer"
    ' count "$work" "$built" || { cat "$work"/answer "$work"/log.* >&2; return 1; }
    sed -n 's/^summary: //p' "$work"/counted.* | sort -n | tail -n 1
}
# The lowest of three: on a busy machine Braid looks more often whether a plugin has ended, as Valgrind 3.19 knows no pidfd.
counted=$(for _ in 1 2 3; do count || exit; done | sort -n | head -n 1)

if [[ ${1:-} == --write ]]; then
    sed -i "s/^$target .*/$target $counted/" "$expected_file"
    say "$counted instructions for $target, written to $expected_file"
    exit 0
fi
expected=$(sed -n "s/^$target //p" "$expected_file")
say "$target: $counted instructions for ADD with 4 delegates, expected $expected ($(((counted - expected) * 100 / expected)) %)"
if ((counted * 4 > expected * 5)); then
    say "over a quarter more than $expected_file says: make it cheaper, or say why in the commit that runs this with --write"
    exit 1
fi
