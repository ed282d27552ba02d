#!/usr/bin/env bash
# Counts the instructions of one ADD with four delegates that do nothing, in Braid's own process alone, and fails when
# they are over a tenth more than instructions.txt says. The count does not depend on what else the machine does, only on
# the code, the compiler and the libc.
#
# Usage: tests/bench/instructions.sh [--write]    (--write: make today's count the one to compare with)
set -euo pipefail
cd "$(dirname "$0")/../.."
expected_file=tests/bench/instructions.txt

say() { printf 'tests/bench/instructions.sh: %s\n' "$*"; }

if [[ $(uname -sm) != "Linux x86_64" ]]; then
    say "skipped: the expected count is for Linux on x86_64, and this is $(uname -sm)"
    exit 0
fi

# One after the other: the examples bring the tests' dependencies, which would turn on more of Braid's own.
cargo build --release --quiet --example bench-noop-plugin --example bench-instructions
cargo build --release --quiet --bin braid
target=$(realpath "${CARGO_TARGET_DIR:-target}/release")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

delegates=
for number in 0 1 2 3; do
    delegates+=${delegates:+,}'{"cniVersion":"1.0.0","name":"net-'$number'","plugins":[{"type":"bench-noop-plugin",'
    delegates+='"bridge":"br'$number'","isGateway":true,"ipam":{"type":"host-local","subnet":"10.1.'$number'.0/24"}}]}'
done
printf '{"cniVersion":"1.0.0","name":"bench","type":"braid","stateDir":"%s/state","delegates":[%s]}' \
    "$work" "$delegates" >"$work/configuration"

# The environment is part of what Braid reads and hands on, so it is a fixed one.
counted=$(env -i CNI_COMMAND=ADD CNI_CONTAINERID=bench CNI_NETNS=/proc/self/ns/net CNI_IFNAME=eth0 \
    CNI_PATH="$target/examples" \
    "$target/examples/bench-instructions" "$work/configuration" "$work/answer" "$target/braid") ||
    { cat "$work/answer"; exit 1; }

if [[ ${1:-} == --write ]]; then
    echo "$counted" >"$expected_file"
    say "$counted instructions, written to $expected_file"
    exit 0
fi
expected=$(<"$expected_file")
say "$counted instructions for ADD with 4 delegates, expected $expected ($(((counted - expected) * 100 / expected)) %)"
if ((counted * 10 > expected * 11)); then
    say "over a tenth more than $expected_file says: make it cheaper, or say why in the commit that runs this with --write"
    exit 1
fi
