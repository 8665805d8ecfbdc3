# Podman with netavark and containers of one busybox, for scripts that have sourced lib.bash and are in namespaces of their own.

# make_podman: the cgroups, the configuration and the image.
make_podman() {
    # crun wants the unified cgroup hierarchy where it usually is, whatever this machine has there.
    mount -t sysfs sysfs /sys
    mount -t cgroup2 cgroup2 /sys/fs/cgroup || skip "there is no cgroup v2 here"
    # An image without a registry: a folder with busybox in it.
    mkdir -p $lab/image/{bin,etc,proc,sys,dev,tmp,run} $lab/networks /run/podman
    cp "$(command -v busybox)" $lab/image/bin/busybox
    local applet
    for applet in sh sleep ip cat; do ln -s busybox $lab/image/bin/$applet; done
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
}

# macvlan_network NAME PARENT: one with DHCP. Podman 4.3.1 refuses to *create* it, and uses one that it finds.
macvlan_network() {
    cat > $lab/networks/$1.json << JSON
{ "name": "$1", "id": "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef", "driver": "macvlan",
  "network_interface": "$2", "created": "2024-01-01T00:00:00Z", "ipv6_enabled": false, "internal": false,
  "dns_enabled": false, "ipam_options": { "driver": "dhcp" } }
JSON
}

# bridge_network NAME PREFIX: one of Podman's own, with addresses of PREFIX.0/24.
bridge_network() {
    cat > $lab/networks/$1.json << JSON
{ "name": "$1", "id": "1123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef", "driver": "bridge",
  "network_interface": "br-$1", "created": "2024-01-01T00:00:00Z", "ipv6_enabled": false, "internal": false,
  "dns_enabled": false, "subnets": [{ "subnet": "$2.0/24", "gateway": "$2.1" }],
  "ipam_options": { "driver": "host-local" } }
JSON
}

podman_() { podman --root $lab/storage --runroot $lab/runroot --storage-driver vfs --runtime crun --log-level error "$@"; }

# start NETWORK NAME [OPTION...]: a container that does nothing.
start() {
    local network=$1 name=$2
    shift 2
    podman_ run --detach --name "$name" --hostname "$name" --network "$network" --cgroups=disabled \
        --security-opt seccomp=unconfined --ulimit nofile=1024:1024 --ulimit nproc=1024:1024 --log-driver none "$@" \
        --rootfs $lab/image sleep 600
}
quietly() { podman_ "$@" >> $lab/podman.log 2>&1; }
inside() { podman_ exec "$@" 2>> $lab/podman.log; }
