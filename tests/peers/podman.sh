#!/bin/bash
# A real container: Podman with netavark gets its address, route and name server through this program.
# Usage: tests/peers/podman.sh        (takes a few seconds; see lib.bash for the environment)
#
# Podman, netavark, the container and the daemon are the real ones, in private namespaces: "eth0" is the host's port, and
# a DHCP server (dnsmasq) sits in a namespace of its own at the other end of that wire. The image is one busybox.
set -euo pipefail
source "$(dirname "$(readlink -f "$0")")/lib.bash"
source "$here/podman.bash"
need_real_root "running Podman as root"
need_daemon
need_netavark
need podman crun conmon dnsmasq busybox ip nsenter unshare systemd-socket-activate
enter_private_namespaces "$@"

make_podman

server_log=$lab/dnsmasq.log leases=$lab/dnsmasq.leases daemon_log=$lab/daemon.log
show_on_failure $server_log $leases $daemon_log $lab/podman.log

ip netns add server
ip link add eth0 type veth peer name s0 netns server
ip link set eth0 up
nsenter --net=/run/netns/server bash -c "source $lab/lib.bash; dhcp_server s0 $server_log $leases --dhcp-option=15,lab.example \
    --dhcp-option=119,lab.example,search.example; wait" &

# The daemon is started by the first call, as systemd would do it.
systemd-socket-activate -E RUST_LOG=debug -E SMOL_DHCP_PROXY_SANDBOX=strict -l /run/podman/nv-proxy.sock $lab/bin/smol-dhcp-proxy -a 2 \
    > $daemon_log 2>&1 &
daemon=$!
wait_for 5 "the socket is there" [ -S /run/podman/nv-proxy.sock ]

macvlan_network lan eth0
run() { start lan "$1" >> $lab/podman.log 2>&1; }

check "podman starts a container on the DHCP network" run box
address=$(inside box ip -4 addr show dev eth0 | sed -n 's/.*inet \([0-9.]*\)\/16.*/\1/p')
check "it has an address from the server: $address" grep -q "DHCPACK(s0) $address " $server_log
check "its default route goes over the server's router" \
    bash -c 'grep -q "default via 10.88.0.1 dev eth0" <<< "$0"' "$(inside box ip route)"
check "its name server is the server's" \
    bash -c 'grep -q "^nameserver 10.88.0.53" <<< "$0"' "$(inside box cat /etc/resolv.conf)"
check "it searches the server's domains, each once" \
    bash -c 'grep -qx "search lab.example search.example" <<< "$0"' "$(inside box cat /etc/resolv.conf)"
check "the server's lease is there" grep -q "$address" $leases

check "a second container starts while the first one runs" run other
second=$(inside other ip -4 addr show dev eth0 | sed -n 's/.*inet \([0-9.]*\)\/16.*/\1/p')
check "it has another address: $second" [ -n "$second" -a "$second" != "$address" ]

check "podman stops the first" quietly stop -t 0 box
check "podman removes the second" quietly rm -f -t 0 other
for lost in "$address" "$second"; do
    wait_for 5 "the server heard DHCPRELEASE of $lost" grep -q "DHCPRELEASE(s0) $lost" $server_log
    wait_for 5 "and has forgotten the lease" bash -c "! grep -q '$lost ' $leases"
done

# With the last lease gone nothing holds the daemon.
wait_for 10 "the daemon left by itself" bash -c "! kill -0 $daemon"
check "it ended well" wait $daemon
check "the socket is still systemd's" [ -S /run/podman/nv-proxy.sock ]
