# Runs before the package is removed or replaced by another version. Existing attachments and their journals stay: they can be
# detached only after Braid is installed again.

# dpkg says "remove", or "upgrade" and the other version; rpm says how many versions of the package stay.
case ${1:-} in
upgrade)
    # They read only format 1.
    case ${2:-} in 0.[01] | 0.[01][!0-9]*) refuse_if_newer_than 1 ;; esac
    exit 0
    ;;
failed-upgrade)
    # The installed version has refused the upgrade, and this one must not override that.
    exit 1
    ;;
[1-9]*) exit 0 ;;
esac

if [ -d /run/systemd/system ]; then
    systemctl disable --now braid-agent.service || true
fi
count=0
for journal in "$state"/attachments/*/*.jsonl "$state"/debts/*; do
    [ ! -e "$journal" ] || count=$((count + 1))
done
if [ "$count" -gt 0 ]; then
    echo "braid: journals of attachments stay in $state: $count. To detach these containers, install braid again." >&2
fi
for configuration in /etc/cni/net.d/*; do
    [ -f "$configuration" ] || continue
    while IFS= read -r line || [ -n "$line" ]; do
        case $line in
        *'"braid"'*)
            echo "braid: $configuration still names braid; new containers cannot be attached by it." >&2
            break
            ;;
        esac
    done <"$configuration"
done
exit 0
