#!/bin/bash
# A service that sleeps between renewals, under a user's own manager (systemd --user) with the project's own units.
# Usage: tests/peers/asleep-user.sh        (takes half a minute; see lib.bash for the environment)
#
# The manager of root, who may enter the containers' namespaces; what is the same for every user is that nothing here
# goes to the system's manager, of which there is none.
set -euo pipefail
source "$(dirname "$(readlink -f "$0")")/lib.bash"
need_real_root "a user's manager with a control group of its own"
need_daemon
need_netavark
need systemctl systemd-run dnsmasq jq ip nsenter
enter_private_namespaces "$@"

# --- A manager with the project's units, in a control group of its own.

mount -t cgroup2 cgroup2 /sys/fs/cgroup || skip "there is no cgroup v2 here"
group=/sys/fs/cgroup/smol-dhcp-proxy-test-$RANDOM$RANDOM
mkdir $group || skip "cgroups cannot be made here"
export XDG_RUNTIME_DIR=/run/user/0
user_units=$XDG_RUNTIME_DIR/systemd/user service=smol-dhcp-proxy.service socket=smol-dhcp-proxy.socket
install -d -m 700 $XDG_RUNTIME_DIR
mkdir -p $user_units/$service.d
cp $lab/units/smol-dhcp-proxy* $user_units/
printf '%s\n' '[Service]' Environment=SMOL_DHCP_PROXY_SANDBOX=strict ExecStart= "ExecStart=$lab/bin/smol-dhcp-proxy --dir %t/podman -a 0.5" \
    "StandardError=append:$lab/log" > $user_units/$service.d/test.conf
printf '[Unit]\nWants=%s\n' $socket > $user_units/test.target
# What is there on a machine that systemd has booted.
mkdir -p /run/systemd/system
(
    echo $BASHPID > $group/cgroup.procs
    exec env -i PATH="$PATH" HOME=$lab XDG_RUNTIME_DIR=$XDG_RUNTIME_DIR unshare --cgroup \
        /lib/systemd/systemd --user --unit=test.target
) > $lab/log 2>&1 &
manager=$!
over() {
    local code=$?
    [ $code = 0 ] || tail -n 60 $lab/log
    kill -KILL $manager || true
    wait $manager 2> /dev/null || true
    [ ! -e $group/cgroup.kill ] || echo 1 > $group/cgroup.kill || true
    for try in 1 2 3 4 5; do
        find $group -depth -type d -exec rmdir {} + 2> /dev/null || true
        [ -e $group ] || break
        sleep 0.1
    done
    exit $code
}
trap over EXIT
wait_for 10 "the user's manager has opened the socket" systemctl --user -q is-active $socket

# --- A host whose eth0 leads to a DHCP server, and a container on it.

t1=5 log=$lab/dnsmasq.log
ip netns add server
ip link add eth0 type veth peer name s0 netns server
ip link set eth0 up
export -f dhcp_server
ip netns exec server bash -c "dhcp_server s0 $log $lab/leases --dhcp-option-force=58,$t1 --dhcp-option-force=59,20; wait" &
wait_for 5 "the DHCP server runs" grep -q 'sockets bound' $log
ip netns add one
ip link add link eth0 name mone type macvlan mode bridge
ip link set mone netns one name eth0
ip -n one link set eth0 up
jq -n --arg mac "$(ip -j -n one link show dev eth0 | jq -r '.[0].address')" '{ host_iface: "eth0", container_iface: "eth0",
    container_mac_addr: $mac, host_name: "one", domain_name: "", version: 0, ns_path: "/run/netns/one",
    container_id: "one" }' > $lab/call.json
call() { timeout 10 netavark-dhcp-proxy-client --uds $XDG_RUNTIME_DIR/podman/nv-proxy.sock -f $lab/call.json "$1" > $lab/answer; }
address() { ip -j -n one -4 addr show dev eth0 | jq -r '.[0].addr_info[0].local // empty'; }
timer() {
    systemctl --user list-timers --all --output=json | jq -r --arg it $service '.[] | select(.activates == $it and (.unit | endswith("-fallback.timer") | not)) | .unit'
}
is_gone() { [ "$(systemctl --user show --value -p ActiveState $service)" = inactive ]; }
sleeps() { is_gone && [ -n "$(timer)" ]; }
acks() { [ "$(grep -c "DHCPACK(s0) $one " $log)" -ge "$1" ]; }

# --- A wake by a call, a wake by the timer, and the end.

PATH=$lab/bin:$PATH
check "Setup" call setup
one=$(address)
check "the container has an address: $one" [ -n "$one" -a "$one" = "$(jq -r .yiaddr $lab/answer)" ]
wait_for 10 "the service sleeps" sleeps
check "its timer is named after it, and is the user's" [ "$(timer)" = ${service%.service}.timer ]
for count in 2 3; do wait_for $((t1 + 8)) "its timer starts it, and it renews" acks $count; done
check "without another DISCOVER" [ "$(grep -c 'DHCPDISCOVER' $log)" = 1 ]
check "its address is the same" [ "$(address)" = "$one" ]
wait_for 10 "the service sleeps again" sleeps
check "Teardown" call teardown
wait_for 2 "the server heard DHCPRELEASE" grep -q "DHCPRELEASE(s0) $one " $log
wait_for 10 "the service leaves" is_gone
check "no timer is left" [ -z "$(timer)" ]
