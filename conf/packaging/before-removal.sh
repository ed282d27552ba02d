# Runs before the package is removed or another version takes its place. What Braid has attached stays attached, and its journals
# stay: only a Braid that is installed again can detach it.

# dpkg says "remove", or "upgrade" and the other version; rpm says how many versions of the package stay.
case ${1:-} in
upgrade)
    # They read format 1 alone.
    case ${2:-} in 0.[01] | 0.[01][!0-9]*) refuse_if_newer_than 1 ;; esac
    exit 0
    ;;
failed-upgrade)
    # What the version that is there refuses stays refused.
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
