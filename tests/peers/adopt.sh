#!/bin/bash
# The switch from netavark's own proxy with containers that run, under a real systemd: their leases are adopted, renewed
# with the same addresses, and given back; what cannot be adopted is named.
# Usage: tests/peers/adopt.sh        (takes half a minute; see lib.bash for the environment)
set -euo pipefail
source "$(dirname "$(readlink -f "$0")")/lib.bash"
begin_with_systemd "$@"

t1=8
server_options=(--dhcp-option-force=58,$t1 --dhcp-option-force=59,60)
unit=netavark-dhcp-proxy
source $lab/systemd-host.bash
containers one two gone foreign double

main() { in_rig readlink "/proc/$(property MainPID)/exe"; }
lifetime() { in_rig ip -j -n "$1" -4 addr show dev eth0 | jq -r '.[0].addr_info[0].valid_life_time'; }
is_for_ever() { [ "$(lifetime "$1")" = 4294967295 ]; }
default_route() { in_rig ip -n "$1" -4 route show default | sed 's/ *$//'; }
id() { printf '%064x' "$1"; }

# --- netavark serves five containers, and leaves its file.

check "Setup of one" ask setup "$(mac /run/netns/one)" /run/netns/one "$(id 1)"
for name in two gone foreign double; do check "Setup of $name" ask setup "$(mac /run/netns/$name)" /run/netns/$name "$(id 9)$name"; done
check "the proxy is netavark" [ "$(main)" = /usr/bin/netavark ]
one=$(address one) two=$(address two) gone=$(address gone) foreign=$(address foreign) double=$(address double)
for name in one two; do check "$name has an address for ever: $(address $name)" is_for_ever $name; done
# Podman's file, as far as it says whose namespace it is. There is none of the second container.
config=$root/var/lib/containers/storage/overlay-containers/$(id 1)/userdata/config.json
mkdir -p "$(dirname "$config")"
jq -n '{ ociVersion: "1.0.2-dev", hostname: "one",
    linux: { namespaces: [{ type: "pid" }, { type: "network", path: "/run/netns/one" }] } }' > "$config"
check "netavark's file does not begin with its leases" [ "$(in_rig head -c 1 /run/podman/nv-proxy.lease | od -An -tx1)" = " 00" ]
check "netavark is disabled and stopped" in_rig systemctl -q disable --now $socket $service
in_rig ip netns del gone
# An interface that has the address, and not the MAC.
in_rig ip -n foreign link set eth0 address 02:77:77:77:77:77
# One that has both, as another container does: which is meant cannot be told.
in_rig ip netns add twin
in_rig ip -n twin link add eth0 address "$(mac /run/netns/double)" type veth peer name other
in_rig ip -n twin addr add "$double/16" dev eth0

# --- Ours takes over.

unit=smol-dhcp-proxy service=$unit.service socket=$unit.socket
cp $lab/units/$socket $lab/units/$service $etc/
options -a 0.5
acks_of_one=$(acks "$one") acks_of_two=$(acks "$two") discovers=$(grep -c DHCPDISCOVER $server_log)
check "ours is enabled" in_rig systemctl -q enable --now $socket
check "ours is started" in_rig systemctl start $service
wait_for 5 "the lease of one is renewed at once" has_more_acks "$one" "$acks_of_one"
wait_for 5 "and that of two" has_more_acks "$two" "$acks_of_two"
check "$one is adopted" [ "$(said "($one/16): adopting the lease of netavark's proxy; renewing")" = 1 ]
check "$two is adopted, without its id" \
    [ "$(said "($two/16): adopting the lease of netavark's proxy without a client identifier")" = 1 ]
for lost in "$gone" "$foreign" "$double"; do
    check "$lost cannot be adopted" [ "$(said "cannot adopt the lease of $lost")" = 1 ]
done
for name in one two; do
    check "the address of $name ends with its lease: $(lifetime $name) s" [ "$(lifetime $name)" -le 3600 ]
    check "$name has one default route, which ends with it, too" \
        [ "$(default_route $name)" = "default via 10.88.0.1 dev eth0 proto dhcp src $(address $name) metric 99" ]
done
for name in foreign double twin; do check "nothing was changed in $name" is_for_ever $name; done
wait_for 10 "the service sleeps, and its timer is armed" sleeps
renews one $((t1 + 8))
renews two $((t1 + 8))
check "without a DISCOVER" [ "$(grep -c DHCPDISCOVER $server_log)" = "$discovers" ]
check "the state file knows the parent" \
    [ "$(in_rig jq -r ".leases.\"$(mac /run/netns/one)\"[0].host_iface" /run/podman/nv-proxy.state)" = eth0 ]
check "Teardown of one" call teardown one
check "Teardown of two" call teardown two
for lost in "$one" "$two"; do wait_for 2 "the server heard DHCPRELEASE of $lost" released "$lost"; done
wait_for 2 "the server has forgotten both" bash -c "! grep -q -e '$one ' -e '$two ' $leases"
check "the lease file is an empty object" lease_file_is_empty
