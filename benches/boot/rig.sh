#!/bin/bash
# Starts containers one after the other with real Podman, under a real systemd with the installed units. Prints a line for
# each turn: the subject, the milliseconds for all starts, the milliseconds for all removals.
# Usage: benches/boot/rig.sh CONTAINERS ROUNDS        (for benches/boot.rs; see tests/peers/lib.bash for the environment)
#
# Subjects take turns: our proxy and netavark's on a macvlan network with a DHCP server, and a bridge network without DHCP.
# Before each turn of a proxy its service is stopped, as at a boot.
set -euo pipefail
source "$(dirname "$(readlink -f "$0")")/../../tests/peers/lib.bash"
need podman crun conmon busybox
begin_with_systemd "$@"
containers=$1 rounds=$2
source $lab/systemd-host.bash

# An image without a registry: a folder with busybox.
image=$root/usr/image
mkdir -p $image/{bin,etc,proc,sys,dev,tmp,run} $root/etc/containers/networks $root/usr/helpers
cp "$(command -v busybox)" $image/bin/busybox
ln -s busybox $image/bin/sleep
cp $lab/bin/netavark $root/usr/helpers/
# Podman 4.3.1 does not create a network with the dhcp driver, but uses an existing one.
network() {
    cat > $root/etc/containers/networks/$1.json << JSON
{ "name": "$1", "id": "$2", "driver": "$3", "network_interface": "$4", "created": "2024-01-01T00:00:00Z",
  "ipv6_enabled": false, "internal": false, "dns_enabled": false, $5 }
JSON
}
network lan "$(printf '%064d' 1)" macvlan eth0 '"ipam_options": { "driver": "dhcp" }'
network br "$(printf '%064d' 2)" bridge podman9 \
    '"subnets": [ { "subnet": "10.99.0.0/16", "gateway": "10.99.0.1" } ], "ipam_options": { "driver": "host-local" }'
cat > $root/etc/containers/containers.conf << CONF
[engine]
helper_binaries_dir = ["/usr/helpers"]
cgroup_manager = "cgroupfs"
events_logger = "none"
[network]
network_backend = "netavark"
network_config_dir = "/etc/containers/networks"
CONF
cat > $root/usr/turn << 'TURN'
#!/bin/bash
# turn NETWORK CONTAINERS: milliseconds for all starts, milliseconds for all removals.
set -euo pipefail
export NETAVARK_FW=none
podman_() { podman --storage-driver vfs --runtime crun --log-level error "$@" > /run/podman.log 2>&1 || { cat /run/podman.log >&2; exit 1; }; }
now() { date +%s%N; }
began=$(now)
for ((i = 0; i < $2; i++)); do
    podman_ run --detach --name c$i --network $1 --cgroups=disabled --security-opt seccomp=unconfined \
        --ulimit nofile=1024:1024 --ulimit nproc=1024:1024 --log-driver none --rootfs /usr/image sleep 600
done
started=$(now)
for ((i = 0; i < $2; i++)); do podman_ rm -f -t 0 c$i; done
echo $(((started - began) / 1000000)) $((($(now) - started) / 1000000))
TURN
chmod +x $root/usr/turn
install_peer_units
in_rig systemctl daemon-reload

# turn SUBJECT CONTAINERS: starts the socket of the subject, runs the turn, and stops all.
turn() {
    case $1 in
        ours) in_rig systemctl start $socket ;;
        netavark) in_rig systemctl start $peer.socket ;;
        bridge) ;;
    esac
    local network=lan
    [ $1 != bridge ] || network=br
    echo "turn $1 $(in_rig /usr/turn $network "$2")"
    in_rig systemctl --quiet stop $socket $service $peer.socket $peer.service
}
for subject in bridge ours netavark; do turn $subject 1 > /dev/null; done
for ((round = 0; round < rounds; round++)); do
    for subject in bridge ours netavark; do turn $subject $containers; done
done
