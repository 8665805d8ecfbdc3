# A booted systemd (systemd-rig.bash) as a host with the project's units, installed as a package would: its eth0 leads to
# a DHCP server in the script's own namespace, and each container is a network namespace with a macvlan on eth0, called for
# by netavark's real client.
#
# Source it after lib.bash and enter_private_namespaces; `server_options` may hold more options for dnsmasq.

need systemctl journalctl dnsmasq jq ip nsenter unshare
source $lab/systemd-rig.bash

service=smol-dhcp-proxy.service socket=smol-dhcp-proxy.socket
server_log=$lab/dnsmasq.log leases=$lab/dnsmasq.leases
etc=$root/etc/systemd/system sock=/run/podman/nv-proxy.sock

rig_prepare
cp $lab/bin/* $root/usr/bin/
cp $lab/units/*.socket $lab/units/*.service $etc/
systemctl --root=$root --quiet enable $socket
rig_boot
trap 'code=$?; [ $code = 0 ] || rig_logs $server_log; rig_stop || true; exit $code' EXIT
ip link add s0 type veth peer name eth0 netns "$rig_pid"
in_rig ip link set eth0 up
dhcp_server s0 $server_log $leases "${server_options[@]}"
wait_for 5 "the DHCP server runs" grep -q 'sockets bound' $server_log

property() { in_rig systemctl show --value -p "$1" "${2:-$service}"; }
is() { [ "$(property "$1")" = "$2" ]; }
is_running() { in_rig systemctl -q is-active $service; }
is_gone() { is ActiveState inactive; }

# container NAME: a network namespace with a macvlan "eth0" of its own.
container() {
    in_rig ip netns add "$1"
    in_rig ip link add link eth0 name "m$1" type macvlan mode bridge
    in_rig ip link set "m$1" netns "$1" name eth0
    in_rig ip -n "$1" link set eth0 up
}
# ask setup|teardown MAC NS_PATH ID: one call of netavark's client; the answer is left in $lab/answer.
ask() {
    jq -n --arg mac "$2" --arg path "$3" --arg id "$4" '{ host_iface: "eth0", container_iface: "eth0",
        container_mac_addr: $mac, host_name: $id, domain_name: "", version: 0, ns_path: $path, container_id: $id }' |
        in_rig tee /run/call.json > /dev/null
    in_rig netavark-dhcp-proxy-client --uds $sock -f /run/call.json "$1" > $lab/answer
}
# call setup|teardown NAME [NS_PATH]: for the container of that name.
call() {
    local path=${3:-/run/netns/$2}
    ask "$1" "$(in_rig nsenter --net="$path" ip -j link show dev eth0 | jq -r '.[0].address')" "$path" "$2"
}
unknown() { ask teardown 02:00:00:00:00:99 /run/netns/none ""; }
address() { in_rig ip -j -n "$1" -4 addr show dev eth0 | jq -r '.[0].addr_info[0].local // empty'; }
