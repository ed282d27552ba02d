#!/bin/sh
# The beginning of each script of a package. The scripts use only a shell, because there may be no other program.
set -e

state=/var/lib/cni/braid
# The newest format of journals that this package's Braid reads: .ci/release fills it in.
reads=@FORMAT@

# Prints the first journal whose format is newer than $1, and the format.
newer_than() {
    for journal in "$state"/attachments/*/*.jsonl "$state"/debts/*/*.jsonl; do
        [ -f "$journal" ] || continue
        # The first line is an object that begins with the format: {"format":1,...
        IFS=:, read -r key format _ <"$journal" || [ -n "$key" ] || continue
        [ "$key" = '{"format"' ] || continue
        case $format in '' | *[!0-9]*) continue ;; esac
        if [ "$format" -gt "$1" ]; then
            echo "$journal has format $format"
            return
        fi
    done
}

# Stops the installation of a Braid that reads formats up to $1 if there is a journal of a newer format.
refuse_if_newer_than() {
    newer=$(newer_than "$1")
    [ -n "$newer" ] || return 0
    echo "braid: $newer, and the braid that is to be installed reads formats up to $1: it could not detach that container." >&2
    echo "braid: To go back to it, first run \`braid uninstall --drain\` with the version that wrote the journal." >&2
    exit 1
}

