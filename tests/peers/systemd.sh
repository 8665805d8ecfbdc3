#!/bin/bash
# The project's own unit files under a real systemd: start by the socket, lease and renewal within the sandbox, leaving.
# Usage: tests/peers/systemd.sh        (takes about a minute; see lib.bash for the environment)
#
# A throw-away systemd (systemd-rig.bash) is the host; its eth0 leads to a DHCP server in the script's own namespace, and
# each container is a network namespace with a macvlan on eth0, called for by netavark's real client.
set -euo pipefail
source "$(dirname "$(readlink -f "$0")")/lib.bash"
need_real_root "a systemd that is process 1"
need_daemon
need_netavark
need systemctl journalctl systemd-analyze dnsmasq tcpdump jq ip nsenter unshare
enter_private_namespaces "$@"
source $lab/systemd-rig.bash

service=smol-dhcp-proxy.service socket=smol-dhcp-proxy.socket
server_log=$lab/dnsmasq.log leases=$lab/dnsmasq.leases wire=$lab/wire
etc=$root/etc/systemd/system sock=/run/podman/nv-proxy.sock

# --- The host, with the units as a package would install them.

rig_prepare
cp $lab/bin/* $root/usr/bin/
cp $lab/units/*.socket $lab/units/*.service $etc/
systemctl --root=$root --quiet enable $socket
rig_boot
trap 'code=$?; [ $code = 0 ] || rig_logs $server_log $wire; rig_stop || true; exit $code' EXIT
ip link add s0 type veth peer name eth0 netns "$rig_pid"
in_rig ip link set eth0 up
# Leases of an hour whose T1 is 10 s and T2 is 20 s.
dhcp_server s0 $server_log $leases --dhcp-option-force=58,10 --dhcp-option-force=59,20
tcpdump -lnn -i s0 udp dst port 67 > $wire 2> $lab/tcpdump.log &
wait_for 5 "the DHCP server runs, and a witness on the wire" \
    bash -c "grep -q 'sockets bound' $server_log && grep -q listening $lab/tcpdump.log"

property() { in_rig systemctl show --value -p "$1" "${2:-$service}"; }
is() { [ "$(property "$1")" = "$2" ]; }
main() { cat "/proc/$rig_pid/root/proc/$(property MainPID)/$1"; }
is_running() { in_rig systemctl -q is-active $service; }
is_gone() { is ActiveState inactive; }
is_quiet() { [ -z "$(in_rig journalctl -q -p notice -u $service -u $socket)" ]; }

# container NAME: a network namespace with a macvlan "eth0" of its own.
container() {
    in_rig ip netns add "$1"
    in_rig ip link add link eth0 name "m$1" type macvlan mode bridge
    in_rig ip link set "m$1" netns "$1" name eth0
    in_rig ip -n "$1" link set eth0 up
}
# call setup|teardown NAME [NS_PATH]: as netavark calls; the answer is left in $lab/answer.
call() {
    local path=${3:-/run/netns/$2} mac
    mac=$(in_rig nsenter --net="$path" cat /sys/class/net/eth0/address 2> /dev/null) || mac=
    mac=$(in_rig nsenter --net="$path" ip -j link show dev eth0 | jq -r '.[0].address')
    jq -n --arg path "$path" --arg mac "$mac" --arg name "$2" '{ host_iface: "eth0", container_iface: "eth0",
        container_mac_addr: $mac, host_name: $name, domain_name: "", version: 0, ns_path: $path,
        container_id: (if "'"$1"'" == "setup" then $name else "" end) }' > "$root/tmp/$2.json"
    in_rig netavark-dhcp-proxy-client --uds $sock -f "/tmp/$2.json" "$1" > $lab/answer
}
unknown() {
    in_rig sh -c 'echo "{\"host_iface\":\"eth0\",\"container_iface\":\"eth0\",\"container_mac_addr\":\"02:00:00:00:00:99\",
        \"domain_name\":\"\",\"host_name\":\"\",\"version\":0,\"ns_path\":\"/run/netns/none\",\"container_id\":\"\"}" > /run/unknown.json'
    in_rig netavark-dhcp-proxy-client --uds $sock -f /run/unknown.json teardown > $lab/answer
}
address() { in_rig ip -j -n "$1" -4 addr show dev eth0 | jq -r '.[0].addr_info[0].local // empty'; }
count() { grep -c "$1" "$2" || true; }

# --- The first call starts it; no network namespace was ever made on this host.

check "the socket listens, the service does not run" is_gone
check "the socket is 0660" [ "$(in_rig stat -c %a $sock)" = 660 ]
check "/run/netns does not exist yet" in_rig test ! -e /run/netns
check "a Teardown of the unknown is answered" unknown
check "the service was started by it" is_running
check "it told systemd that it is ready (Type=notify)" is Type notify
in_rig touch /run/podman/podman.sock
check "five capabilities" grep -q 'CapBnd:.00000000002[08]3400' <(main status)
check "no new privileges, and a system call filter" \
    bash -c 'grep -q "NoNewPrivs:.1" <<< "$0" && grep -q "Seccomp:.2" <<< "$0"' "$(main status)"

# --- A lease within the sandbox, in the first namespace of the host, made after the service started.

container one
check "Setup" call setup one
first=$(address one)
check "the container has the leased address: $first" [ "$first" = "$(jq -r .yiaddr $lab/answer)" -a -n "$first" ]
check "and a default route" grep -q 'default via 10.88.0.1 dev eth0' <(in_rig ip -n one route)
check "a namespace named by a process" in_rig sh -c 'mkdir -p /run/systemd/system; printf "[Service]\nPrivateNetwork=yes\nExecStart=sleep 600\n" > /run/systemd/system/box.service; systemctl daemon-reload; systemctl start box.service'
box=/proc/$(property MainPID box.service)/ns/net
in_rig ip link add link eth0 name mbox type macvlan mode bridge
in_rig ip link set mbox netns "$(property MainPID box.service)" name eth0
in_rig nsenter --net="$box" ip link set eth0 up
check "Setup in $box" call setup box "$box"
check "Teardown in $box" call teardown box "$box"
wait_for 2 "its server heard DHCPRELEASE" grep -q 'DHCPRELEASE' $server_log

discovers=$(count DHCPDISCOVER $server_log)
wait_for 40 "two renewals at T1" bash -c "[ \$(grep -c 'DHCPACK(s0) $first ' $server_log) -ge 3 ]"
check "without a single new DISCOVER" [ "$(count DHCPDISCOVER $server_log)" = "$discovers" ]
check "each by unicast from the leased address" \
    [ "$(count "$first.68 > 10.88.0.1.67: BOOTP/DHCP, Request" $wire)" -ge 2 ]
check "the address never changed" [ "$(address one)" = "$first" ]

check "Teardown" call teardown one
wait_for 2 "the server heard DHCPRELEASE" grep -q "DHCPRELEASE(s0) $first" $server_log
wait_for 2 "and has forgotten the lease" bash -c "! grep -q '$first ' $leases"
check "the address is gone" [ -z "$(address one)" ]
in_rig ip netns del one
check "the service holds no copy of the namespace's mount" [ "$(count nsfs <(main mountinfo))" = 0 ]

# --- It leaves, and comes back.

mkdir -p $etc/$service.d
printf '[Service]\nExecStart=\nExecStart=/usr/bin/smol-dhcp-proxy -a 1.5\n' > $etc/$service.d/idle.conf
in_rig systemctl daemon-reload
check "systemctl stop" in_rig systemctl stop $service
check "it ended well" is Result success
check "Podman's own socket is still there" in_rig test -e /run/podman/podman.sock
check "the next call starts it again" unknown
wait_for 10 "and it leaves after -a" is_gone
check "it ended well" is Result success
check "and by itself" is NRestarts 0
check "the socket goes on" in_rig systemctl -q is-active $socket
container two
check "Setup is answered by the next instance" call setup two
second=$(address two)
sleep 3
check "it stays for the lease" is_running
check "Teardown" call teardown two
wait_for 2 "the server heard DHCPRELEASE" grep -q "DHCPRELEASE(s0) $second" $server_log
wait_for 10 "with the last lease gone it leaves" is_gone
check "nothing in the journal is above info" is_quiet
