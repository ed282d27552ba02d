#!/usr/bin/env bash
#
# Shows what Braid does, step by step: builds it, attaches containers to several networks, sends traffic over each, lets
# an attachment fail, and removes everything again.
#
#   examples/quickstart.sh [NETWORKS]      NETWORKS is 1, 2 or 3 (the default)
#
# The machine is not changed: bridges, rules, addresses and state are in namespaces of this script, which the kernel removes
# when the script exits for any reason. It needs root, or a kernel that lets users make namespaces.
#
# BRAID=/path/to/braid uses an existing executable.

set -euo pipefail

PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin:$HOME/.cargo/bin
REPO=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
PLUGINS=(bridge host-local portmap macvlan bandwidth firewall)

bold=''; dim=''; green=''; red=''; plain=''
if [[ -t 1 ]]; then
  bold=$'\e[1m'; dim=$'\e[2m'; green=$'\e[32m'; red=$'\e[31m'; plain=$'\e[0m'
fi

step() { printf '\n%s== %s%s\n' "$bold" "$*" "$plain"; }
say() { printf '%s\n' "$*"; }
good() { printf '%s%s%s\n' "$green" "$*" "$plain"; }
die() { printf '%squickstart: %s%s\n' "$red" "$*" "$plain" >&2; exit 1; }

# ---------------------------------------------------------------------------------------------------------------------
# Outside: what is needed, the build, and the namespaces
# ---------------------------------------------------------------------------------------------------------------------

# The directory that holds the plugins.
plugin_directory() {
  local directory plugin search=${CNI_PATH:-}
  for directory in ${search//:/ } /opt/cni/bin /usr/lib/cni /usr/libexec/cni; do
    for plugin in "${PLUGINS[@]}"; do
      [[ -x $directory/$plugin ]] || continue 2
    done
    printf '%s\n' "$directory"
    return
  done
  return 1
}

# The Debian packages of the missing programs.
missing_packages() {
  local -A package=([ip]=iproute2 [tc]=iproute2 [iptables]=iptables [nft]=nftables [jq]=jq [ping]=iputils-ping
    [busybox]=busybox [unshare]=util-linux [setpriv]=util-linux)
  [[ -n ${BRAID:-} ]] || package[cc]='gcc libc6-dev'
  local tool
  for tool in "${!package[@]}"; do
    command -v "$tool" >/dev/null || printf '%s\n' ${package[$tool]}
  done
  plugin_directory >/dev/null || printf '%s\n' containernetworking-plugins
}

install_missing() {
  local packages
  mapfile -t packages <<<"$(missing_packages | sort -u)"
  [[ -n ${packages[0]} ]] || return 0
  if ((EUID == 0)) && command -v apt-get >/dev/null; then
    step "Installing ${packages[*]}"
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null
  fi
  mapfile -t packages <<<"$(missing_packages | sort -u)"
  [[ -z ${packages[0]} ]] || die "these packages are missing: ${packages[*]}
  sudo apt-get install ${packages[*]}"
}

build() {
  if [[ -n ${BRAID:-} ]]; then
    [[ -x $BRAID ]] || die "BRAID is $BRAID, which cannot be run"
    return
  fi
  command -v cargo >/dev/null || die "there is no cargo: install Rust 1.89 or newer (https://rustup.rs), or set BRAID"
  step "Building braid"
  (cd "$REPO" && cargo build --release --locked)
  BRAID=$(cd "$REPO" && cargo metadata --format-version 1 --no-deps --locked | jq -r .target_directory)/release/braid
}

# The command that starts this script in namespaces of its own, if that works.
choose_namespaces() {
  local works='mount -t tmpfs none /run && ip link set lo up && ip link add type bridge'
  ISOLATE=(unshare --net --mount --pid --mount-proc --fork --kill-child)
  ((EUID == 0)) || ISOLATE+=(--user --map-root-user)
  "${ISOLATE[@]}" -- sh -c "$works" 2>/dev/null && return
  # Some containers do not allow mounting /proc. Without it, only the kill -9 is different.
  local with_proc=("${ISOLATE[@]}")
  ISOLATE=(unshare --net --mount --fork --kill-child)
  ((EUID == 0)) || ISOLATE+=(--user --map-root-user)
  "${ISOLATE[@]}" -- sh -c "$works" 2>/dev/null && return
  if ((EUID == 0)); then
    die "root may not make network and mount namespaces here; in a container, that takes CAP_SYS_ADMIN and CAP_NET_ADMIN:
$("${with_proc[@]}" -- sh -c "$works" 2>&1 || true)"
  fi
  die "this kernel does not let you make namespaces as an ordinary user:
$("${with_proc[@]}" -- sh -c "$works" 2>&1 || true)
  Run the script as root, or have root allow it with what applies here:
    sysctl kernel.unprivileged_userns_clone=1                    (Debian before 11)
    sysctl user.max_user_namespaces=10000                        (where it is 0)
    sysctl kernel.apparmor_restrict_unprivileged_userns=0        (Ubuntu from 23.10)"
}

outside() {
  case $# in
    0) set -- 3 ;;
    1) [[ $1 == [123] ]] || { sed -n '3,13s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 2; } ;;
    *) die "one argument at most: how many networks, 1 to 3" ;;
  esac
  install_missing
  build
  choose_namespaces
  export BRAID REPO PLUGIN_DIR
  PLUGIN_DIR=$(plugin_directory)
  # When this script ends for any reason, the process that keeps the namespaces ends too, and the namespaces are removed.
  local child
  setpriv --pdeathsig KILL "${ISOLATE[@]}" -- "$BASH" "${BASH_SOURCE[0]}" --inside "$1" &
  child=$!
  trap 'kill -KILL "$child" 2>/dev/null || true' EXIT
  trap 'exit 130' INT TERM HUP
  local status=0
  wait "$child" || status=$?
  trap - EXIT
  exit "$status"
}

# ---------------------------------------------------------------------------------------------------------------------
# Inside: a host of its own
# ---------------------------------------------------------------------------------------------------------------------

# The host: eth0, which leads to a machine called "outside".
make_host() {
  mount -t tmpfs none /run
  HERE=/run/quickstart
  mkdir -p "$HERE/bin" "$HERE/net.d" "$HERE/all.d" "$HERE/broken.d"
  cp "$BRAID" "$HERE/bin/braid"
  cp "$REPO/conf/$CONF" "$HERE/all.d/$CONF"
  # Only the first networks, if the argument says so.
  if ((NETWORKS == 3)); then
    cp "$REPO/conf/$CONF" "$HERE/net.d/$CONF"
  else
    jq --argjson n "$NETWORKS" '.plugins[0].delegates |= .[:$n]' "$REPO/conf/$CONF" >"$HERE/net.d/$CONF"
  fi
  # The same with a third delegate, which has no free address.
  jq '.plugins[0].delegates[2].ipam.ranges[0][0] |= . + {rangeStart: "10.104.2.1", rangeEnd: "10.104.2.1"}' \
    "$REPO/conf/$CONF" >"$HERE/broken.d/$CONF"
  cd "$HERE"
  # The plugins' state is kept here, and not on the machine.
  local state=/var/lib
  [[ ! -d /var/lib/cni ]] || state=/var/lib/cni
  mount -t tmpfs none "$state"
  mkdir -p /var/lib/cni
  ip link set lo up
  ip netns add outside
  ip link add eth0 type veth peer name eth0 netns outside
  ip addr add 192.0.2.1/24 dev eth0
  ip link set eth0 up
  in_namespace outside ip addr add 192.0.2.2/24 dev eth0
  in_namespace outside ip link set eth0 up
  export PATH=$HERE/bin:$PATH CNI_PATH=$PLUGIN_DIR NETCONFPATH=$HERE/net.d
}

in_namespace() {
  nsenter --net="/run/netns/$1" -- "${@:2}"
}

# Prints a command as it would be typed, even if its output is redirected, and runs it.
run() {
  printf '%s$ %s%s\n' "$dim" "$*" "$plain" >&3
  env "$@"
}

# The state of the host's networking, in a form that can be compared: links and addresses (without the MAC that the
# kernel gives a bridge), routes, firewall rules without their counters, queueing disciplines, and state files.
snapshot() {
  settle
  echo "# links";     ip -j link | jq -r '.[] | [.ifname, .mtu, (.flags - ["LOWER_UP","NO-CARRIER"] | join(","))] | join(" ")' | sort
  echo "# addresses"; ip -j addr | jq -r '.[] | .ifname as $i | .addr_info[] | select(.scope == "global") | "\($i) \(.local)/\(.prefixlen)"' | sort
  echo "# routes";    { ip -4 route; ip -6 route; } | grep -v '^fe80' | sed 's/ linkdown//; s/ *$//' | sort
  echo "# rules";     nft list ruleset 2>/dev/null | sed 's/counter packets [0-9]* bytes [0-9]*/counter/'
  echo "# qdiscs";    tc qdisc show | sed 's/\(qdisc [a-z_]*\) [0-9a-f]*:/\1/; s/ \(refcnt\|parent\) [^ ]*//g; s/ *$//' | grep -v noqueue | sort || true
  # host-local keeps the last address that it gave out, and a lock file. Neither reserves an address.
  echo "# state";     find /var/lib/cni -type f ! -name 'last_reserved_ip.*' ! -name lock | sort
}

# Waits until the kernel has removed the host's ends of the veths of a removed namespace.
settle() {
  local count before=-1
  for _ in {1..50}; do
    count=$(ip -o link | wc -l)
    ((count != before)) || return 0
    before=$count
    sleep 0.1
  done
}

same_host() {
  if diff "$1" "$2" >"$HERE/difference"; then
    good "the host is as before: $(grep -vc '^#' "$2") lines of links, addresses, routes, rules, qdiscs and state are the same"
  else
    cat "$HERE/difference"
    die "the host is not as before"
  fi
}

# A CNI result, one line for each entry.
short_result() {
  jq -r '
    def list($key; $after): "  \"\($key)\": [", (.[$key] | (.[:-1][] | "    \(tojson),"), (.[-1:][] | "    \(tojson)")), "  ]" + $after;
    "{", "  \"cniVersion\": \(.cniVersion | tojson),", list("interfaces"; ","), list("ips"; ","), list("routes"; ""), "}"'
}

row() { printf '  %-9s %-10s %-18s %-36s %-15s %s\n' "$@"; }

# The interfaces in a container's namespace, each with its network.
show_inside() {
  local container=$1 networks name mac addresses routes network
  networks=$(braid show "$container" -o json | jq -c '[.[].attachments[] | {(.ifname): .network}] | add')
  while IFS=$'\t' read -r name mac addresses; do
    network=$(jq -r --arg i "$name" '.[$i] // "-"' <<<"$networks")
    routes=$({ in_namespace "$container" ip -j -4 route; in_namespace "$container" ip -j -6 route; } |
      jq -rs --arg i "$name" 'add | sort_by(.dst != "default") | [.[] | select(.dev == $i and (.dst | startswith("fe80") | not))
        | if .gateway then "\(.dst) via \(.gateway)" else .dst end] | join(", ")')
    row "$container" "$name" "$mac" "$addresses" "$network" "$routes"
  done < <(in_namespace "$container" ip -j addr | jq -r '.[] | select(.ifname != "lo")
    | [.ifname, .address, ([.addr_info[] | select(.scope == "global") | "\(.local)/\(.prefixlen)"] | join(" "))] | @tsv')
}

# The first IPv4 address of a container's interface.
address() {
  in_namespace "$1" ip -j -4 addr show dev "$2" | jq -r '.[0].addr_info[0].local'
}

# Waits until something listens on a TCP port of a container.
wait_for_port() {
  for _ in {1..50}; do
    [[ -z $(in_namespace "$1" ss -Hltn "sport = :$2") ]] || return 0
    sleep 0.1
  done
  die "nothing listens on port $2 of $1"
}

# Sends 5 MB from web to db over an interface, and says how fast that was.
measure() {
  local interface=$1 limit=$2 began took received bytes=5000000
  in_namespace db busybox nc -l -p 5001 -e wc -c &
  wait_for_port db 5001
  began=${EPOCHREALTIME/[.,]/}
  received=$(head -c "$bytes" /dev/zero | in_namespace web busybox nc "$(address db "$interface")" 5001)
  took=$((${EPOCHREALTIME/[.,]/} - began))
  wait "$!"
  ((received == bytes)) || die "db got $received bytes of $bytes over $interface"
  printf '  %-5s web -> db: 5 MB in %d.%02d s, %d Mbit/s (%s)\n' "$interface" \
    $((took / 1000000)) $((took % 1000000 / 10000)) $((bytes * 8 / took)) "$limit"
}

# The rate at which db receives over net1, measured for a second.
rate_of_db() {
  local from to began took
  from=$(in_namespace db ip -j -s link show dev net1 | jq '.[0].stats64.rx.bytes')
  began=${EPOCHREALTIME/[.,]/}
  sleep 1
  to=$(in_namespace db ip -j -s link show dev net1 | jq '.[0].stats64.rx.bytes')
  took=$((${EPOCHREALTIME/[.,]/} - began))
  echo $(((to - from) * 8 / took))
}

# Doubles the limits of net1 while web sends to db, and attaches and detaches a network meanwhile.
change_while_it_flows() {
  local before after sender receiver
  in_namespace db busybox nc -l -p 5002 -e sh -c 'cat >/dev/null' &
  receiver=$!
  wait_for_port db 5002
  in_namespace web busybox nc "$(address db net1)" 5002 </dev/zero >/dev/null 2>&1 &
  sender=$!
  # The burst goes first.
  sleep 1
  before=$(rate_of_db)
  run braid update web net1 --bandwidth egress=40M >/dev/null
  run braid update db net1 --bandwidth ingress=40M >/dev/null
  sleep 1
  after=$(rate_of_db)
  printf '  net1  web -> db: %d Mbit/s before, %d Mbit/s after, in one connection\n' "$before" "$after"
  ((after > before)) || die "the new limit is not in force"
  run braid attach web '{"interface": "extra0", "config": {"name": "extra-limited", "type": "bridge", "bridge": "limited1",
      "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.104.3.0/24"}]]}}}' >/dev/null
  printf '  %-5s of web: %s\n' extra0 "$(address web extra0)"
  run braid detach web extra0 >/dev/null
  kill "$sender" "$receiver" 2>/dev/null || true
  wait "$sender" "$receiver" 2>/dev/null || true
  run braid update web net1 --bandwidth egress=20M >/dev/null
  run braid update db net1 --bandwidth ingress=20M >/dev/null
  good "the limits are as before, and extra0 is gone"
}

inside() {
  NETWORKS=$1
  CONF=bandwidth-firewall-chained.conflist
  local interfaces=(eth0 net1 net2) interface result status
  interfaces=("${interfaces[@]:0:NETWORKS}")
  trap 'status=$?; trap - EXIT; jobs -p | xargs -r kill 2>/dev/null || true; exit "$status"' EXIT
  trap 'exit 130' INT TERM HUP
  exec 3>&1
  make_host

  step "The configuration: conf/$CONF"
  sed 's/^/  /' "$NETCONFPATH/$CONF"
  say
  run braid plan limited --explain

  step "The first container comes and goes"
  ip netns add first
  NETCONFPATH=$HERE/all.d CAP_ARGS='{"portMappings":[{"hostPort":8079,"containerPort":79,"protocol":"tcp"}]}' \
    run braid add limited /run/netns/first --container-id first >/dev/null
  NETCONFPATH=$HERE/all.d run braid del limited /run/netns/first --container-id first
  ip netns del first
  say "The plugins keep the bridges and base chains that they made for it. From here on the host must not change:"
  snapshot >before
  say "  $(grep -vc '^#' before) lines of links, addresses, routes, firewall rules, qdiscs and state files are noted."

  step "Two containers: web, with port 8080 of the host, and db"
  ip netns add web
  ip netns add db
  result=$(CAP_ARGS='{"portMappings":[{"hostPort":8080,"containerPort":80,"protocol":"tcp"}]}' \
    run braid add limited /run/netns/web --container-id web)
  short_result <<<"$result"
  run braid add limited /run/netns/db --container-id db >/dev/null
  say
  row CONTAINER INTERFACE MAC ADDRESSES NETWORK ROUTES
  show_inside web
  show_inside db

  step "Traffic over each network"
  for interface in "${interfaces[@]}"; do
    in_namespace web ping -q -c 3 -i 0.2 -W 2 "$(address db "$interface")" >ping || { cat ping; die "no answer"; }
    printf '  %-5s web -> db: %s, %s\n' "$interface" "$(address db "$interface")" "$(grep -o '[0-9]* received' ping)"
  done
  in_namespace web busybox nc -l -p 80 -e echo "hello from web" >/dev/null &
  wait_for_port web 80
  [[ $(in_namespace outside bash -c 'exec 3<>/dev/tcp/192.0.2.1/8080; cat <&3') == "hello from web" ]] ||
    die "the port mapping does not work"
  wait "$!"
  say "  eth0  outside -> 192.0.2.1:8080 of the host -> web:80, which says \"hello from web\""
  measure eth0 "limit of the outer list: 100 Mbit/s and a burst"
  ((NETWORKS < 2)) || measure net1 "limit of its own chain: 20 Mbit/s and a burst"
  ((NETWORKS < 3)) || measure net2 "no limit"

  if ((NETWORKS >= 2)); then
    step "A limit is doubled while traffic flows, and a network comes and goes"
    change_while_it_flows
  fi

  step "CHECK"
  run braid check limited /run/netns/db --container-id db
  good "db is as ADD left it"
  if run braid check limited /run/netns/web --container-id web >check 2>&1; then
    good "web is as ADD left it"
  elif grep -q 'could not check ipv[46] dnat' check; then
    say "web: this portmap plugin fails CHECK whenever there are port mappings (it looks for IPv4 rules among the IPv6"
    say "     ones; Debian 12 has it). Everything else of web is as ADD left it."
  else
    cat check
    die "CHECK of web failed"
  fi
  interface=${interfaces[-1]}
  local lost
  lost=$(address db "$interface")/24
  say "Now an address of db goes missing:"
  in_namespace db ip addr del "$lost" dev "$interface"
  if run braid check limited /run/netns/db --container-id db 2>/dev/null >check; then
    die "CHECK did not find the missing address"
  fi
  jq -r '"  code \(.code): \(.msg)"' check
  say "and is put back:"
  in_namespace db ip addr add "$lost" dev "$interface"
  [[ $interface != eth0 ]] || in_namespace db ip route add default via 10.104.0.1
  run braid check limited /run/netns/db --container-id db
  good "db is as ADD left it"

  step "What is attached"
  run braid list

  step "A container whose third attachment fails"
  say "The same network, but its third delegate has no address left to give:"
  snapshot >with_two
  ip netns add third
  status=0
  NETCONFPATH=$HERE/broken.d run braid add limited /run/netns/third --container-id third >failed 2>/dev/null || status=$?
  jq . failed
  ((status != 0)) || die "that ADD should have failed"
  [[ $(in_namespace third ip -o link | wc -l) == 1 ]] || die "interfaces are left in the container"
  good "exit status $status; nothing but lo is in the container"
  ip netns del third
  snapshot >after_third
  same_host with_two after_third

  step "DEL"
  run braid del limited /run/netns/web --container-id web
  run braid del limited /run/netns/db --container-id db
  ip netns del web
  ip netns del db
  snapshot >after
  same_host before after

  say
  good "Done. This machine's own network was not touched."
}

if [[ ${1:-} == --inside ]]; then
  inside "$2"
else
  outside "$@"
fi
