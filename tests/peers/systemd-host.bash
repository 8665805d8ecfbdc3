# A booted systemd (systemd-rig.bash) as a host with the project's units, installed as a package would: its eth0 leads to
# a DHCP server in the script's own namespace, and each container is a network namespace with a macvlan on eth0, called for
# by netavark's real client.
#
# Source it after lib.bash and enter_private_namespaces; `server_options` may hold more options for dnsmasq,
# `unit=netavark-dhcp-proxy` installs netavark's units in the place of the project's, and `both=before` or `both=after`
# installs and enables them as well, before the project's or after.

need systemctl journalctl dnsmasq jq ip nsenter unshare
source $lab/systemd-rig.bash

unit=${unit:-smol-dhcp-proxy} theirs=netavark-dhcp-proxy
service=$unit.service socket=$unit.socket
server_log=$lab/dnsmasq.log leases=$lab/dnsmasq.leases
etc=$root/etc/systemd/system sock=/run/podman/nv-proxy.sock

# Where a distribution has them.
vendor=$root/usr/lib/systemd/system
install_their_units() {
    cp "$lab/netavark-units/$theirs.socket" $vendor/
    sed 's|@@NETAVARK@@|/usr/bin/netavark|' "$lab/netavark-units/$theirs.service.in" > $vendor/$theirs.service
}

# Both side by side, as no host has them: netavark's own names are others of ours.
peer=peer
install_peer_units() {
    sed "s|$theirs|$peer|g" "$lab/netavark-units/$theirs.socket" > $etc/$peer.socket
    sed -e 's|@@NETAVARK@@|/usr/bin/netavark|' -e "s|$theirs|$peer|g" "$lab/netavark-units/$theirs.service.in" \
        > $etc/$peer.service
}

rig_prepare
cp $lab/bin/* $root/usr/bin/
if [ $unit = $theirs ]; then install_their_units; else cp $lab/units/smol-dhcp-proxy* $etc/; fi
enable() { systemctl --root=$root --quiet enable "$@"; }
# As Debian's deb-systemd-helper does it: `systemctl enable` refuses where the names are ours already.
enable_theirs() {
    install_their_units
    mkdir -p $etc/sockets.target.wants $etc/default.target.wants
    ln -s /lib/systemd/system/$theirs.socket $etc/sockets.target.wants/
    ln -s /lib/systemd/system/$theirs.service $etc/default.target.wants/
}
[ "${both:-}" != before ] || enable_theirs
enable $socket
[ "${both:-}" != after ] || enable_theirs
rig_boot
trap 'code=$?; [ $code = 0 ] || rig_logs $server_log; rig_stop || true; exit $code' EXIT
ip link add s0 type veth peer name eth0 netns "$rig_pid"
in_rig ip link set eth0 up
server_starts() {
    dhcp_server s0 $server_log $leases "${server_options[@]}"
    server_pid=$!
}
# What it has not read dies with it.
server_dies() {
    kill -KILL $server_pid
    wait $server_pid 2> /dev/null || true
}
server_starts
wait_for 5 "the DHCP server runs" grep -q 'sockets bound' $server_log

property() { in_rig systemctl show --value -p "$1" "${2:-$service}"; }
is() { [ "$(property "$1")" = "$2" ]; }
is_running() { in_rig systemctl -q is-active $service; }
is_gone() { is ActiveState inactive; }

# settings LINE...: more lines for the service's [Service] section, in place of those of the last call.
settings() {
    mkdir -p $etc/$service.d
    printf '%s\n' '[Service]' "$@" > $etc/$service.d/test.conf
    in_rig systemctl daemon-reload
}
# options ARGUMENT...: the daemon's arguments from the next start on.
options() { settings ExecStart= "ExecStart=/usr/bin/smol-dhcp-proxy $*"; }

# The timer that will start the service, if there is one, and when that is, in microseconds since the epoch; 0 if never.
# The fallback is there all the time, and none of these.
timers() {
    in_rig systemctl list-timers --all --output=json | jq -r --arg it $service --arg fallback ${service%.service}-fallback.timer \
        '.[] | select(.activates == $it and .unit != $fallback)'
}
timer() { timers | jq -r .unit; }
next_wake() { timers | jq -r '.next // 0'; }
# sleeps: the service is gone, and a timer will start it.
sleeps() { is_gone && [ -n "$(timer)" ]; }
# wakes_within SECONDS: it sleeps, and systemctl shows when that ends.
wakes_within() {
    local next
    next=$(next_wake) next=$((${next:-0} / 1000 - $(date +%s%3N)))
    is_gone && [ $next -gt 0 ] && [ $next -le $(($1 * 1000)) ]
}

# containers NAME...: for each a network namespace with a macvlan "eth0" of its own.
containers() {
    for name; do
        echo "netns add $name"
        echo "link add link eth0 name m$name type macvlan mode bridge"
        echo "link set m$name netns $name name eth0"
    done | in_rig ip -batch -
    for name; do in_rig ip -n "$name" link set eth0 up; done
}
# request MAC NS_PATH ID: what netavark sends.
request() {
    jq -n --arg mac "$1" --arg path "$2" --arg id "$3" '{ host_iface: "eth0", container_iface: "eth0",
        container_mac_addr: $mac, host_name: $id, domain_name: "", version: 0, ns_path: $path, container_id: $id }'
}
# mac NS_PATH: of the interface in there.
mac() { in_rig nsenter --net="$1" ip -j link show dev eth0 | jq -r '.[0].address'; }
# ask setup|teardown MAC NS_PATH ID: one call of netavark's client; the answer is left in $lab/answer.
ask() {
    request "$2" "$3" "$4" | in_rig tee /run/call.json > /dev/null
    in_rig netavark-dhcp-proxy-client --uds $sock -f /run/call.json "$1" > $lab/answer
}
# call setup|teardown NAME [NS_PATH]: for the container of that name.
call() {
    local path=${3:-/run/netns/$2}
    ask "$1" "$(mac "$path")" "$path" "$2"
}
unknown() { ask teardown 02:00:00:00:00:99 /run/netns/none ""; }
address() { in_rig ip -j -n "$1" -4 addr show dev eth0 | jq -r '.[0].addr_info[0].local // empty'; }
lease_file_is_empty() { [ "$(in_rig jq -c . /run/podman/nv-proxy.lease)" = '{}' ]; }
released() { grep -q "DHCPRELEASE(s0) $1 " $server_log; }
acks() { grep -c "DHCPACK(s0) $1 " $server_log || true; }
has_more_acks() { [ "$(acks "$1")" -gt "$2" ]; }
# renews NAME SECONDS: its address is confirmed once more, and stays.
renews() {
    local before now
    before=$(address "$1")
    wait_for "$2" "$1 is renewed" has_more_acks "$before" "$(acks "$before")"
    now=$(address "$1")
    check "its address is the same: $now" [ -n "$before" -a "$now" = "$before" ]
}
# said TEXT: how often the service's journal has it.
said() { in_rig journalctl -q -o cat -u $service | grep -c -F -e "$1" || true; }
