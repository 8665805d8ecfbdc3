#!/bin/bash
# A real container: Podman with netavark gets its address, route and name server through this program.
# Usage: tests/peers/podman.sh        (takes a few seconds; see lib.bash for the environment)
#
# Podman, netavark, the container and the daemon are the real ones, in private namespaces: "eth0" is the host's port, and
# a DHCP server (dnsmasq) sits in a namespace of its own at the other end of that wire. The image is one busybox.
set -euo pipefail
source "$(dirname "$(readlink -f "$0")")/lib.bash"
need_real_root "running Podman as root"
need_daemon
need_netavark
need podman crun conmon dnsmasq busybox ip nsenter unshare systemd-socket-activate
enter_private_namespaces "$@"

# crun wants the unified cgroup hierarchy where it usually is, whatever this machine has there.
mount -t sysfs sysfs /sys
mount -t cgroup2 cgroup2 /sys/fs/cgroup || skip "there is no cgroup v2 here"

server_log=$lab/dnsmasq.log leases=$lab/dnsmasq.leases daemon_log=$lab/daemon.log
show_on_failure $server_log $leases $daemon_log $lab/podman.log

ip netns add server
ip link add eth0 type veth peer name s0 netns server
ip link set eth0 up
nsenter --net=/run/netns/server bash -c "source $lab/lib.bash; dhcp_server s0 $server_log $leases --dhcp-option=15,lab.example \
    --dhcp-option=119,lab.example,search.example; wait" &

# The daemon is started by the first call, as systemd would do it.
mkdir -p /run/podman
systemd-socket-activate -E RUST_LOG=debug -E SMOL_DHCP_PROXY_SANDBOX=strict -l /run/podman/nv-proxy.sock $lab/bin/smol-dhcp-proxy -a 2 \
    > $daemon_log 2>&1 &
daemon=$!
wait_for 5 "the socket is there" [ -S /run/podman/nv-proxy.sock ]

# An image without a registry: a folder with busybox in it.
mkdir -p $lab/image/{bin,etc,proc,sys,dev,tmp,run}
cp "$(command -v busybox)" $lab/image/bin/busybox
for applet in sh sleep ip cat; do ln -s busybox $lab/image/bin/$applet; done

# Podman 4.3.1 refuses to *create* a network with the dhcp driver, and uses one that it finds.
mkdir -p $lab/networks
cat > $lab/networks/lan.json << JSON
{ "name": "lan", "id": "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef", "driver": "macvlan",
  "network_interface": "eth0", "created": "2024-01-01T00:00:00Z", "ipv6_enabled": false, "internal": false,
  "dns_enabled": false, "ipam_options": { "driver": "dhcp" } }
JSON
cat > $lab/containers.conf << CONF
[engine]
helper_binaries_dir = ["$lab/bin"]
cgroup_manager = "cgroupfs"
events_logger = "none"
[network]
network_backend = "netavark"
network_config_dir = "$lab/networks"
CONF
export CONTAINERS_CONF=$lab/containers.conf

podman_() { podman --root $lab/storage --runroot $lab/runroot --storage-driver vfs --runtime crun --log-level error "$@"; }
start() {
    quietly run --detach --name "$1" --hostname "$1" --network lan --cgroups=disabled --security-opt seccomp=unconfined \
        --ulimit nofile=1024:1024 --ulimit nproc=1024:1024 --log-driver none \
        --rootfs $lab/image sleep 600
}
quietly() { podman_ "$@" >> $lab/podman.log 2>&1; }
inside() { podman_ exec "$@" 2>> $lab/podman.log; }

check "podman starts a container on the DHCP network" start box
address=$(inside box ip -4 addr show dev eth0 | sed -n 's/.*inet \([0-9.]*\)\/16.*/\1/p')
check "it has an address from the server: $address" grep -q "DHCPACK(s0) $address " $server_log
check "its default route goes over the server's router" \
    bash -c 'grep -q "default via 10.88.0.1 dev eth0" <<< "$0"' "$(inside box ip route)"
check "its name server is the server's" \
    bash -c 'grep -q "^nameserver 10.88.0.53" <<< "$0"' "$(inside box cat /etc/resolv.conf)"
check "it searches the server's domains, each once" \
    bash -c 'grep -qx "search lab.example search.example" <<< "$0"' "$(inside box cat /etc/resolv.conf)"
check "the server's lease is there" grep -q "$address" $leases

check "a second container starts while the first one runs" start other
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
