#!/bin/bash
# A DHCP server that does not answer, and the rest of Podman beside it: netavark has one lock for the host, and holds it while
# a Setup waits.
# Usage: tests/peers/deaf.sh        (takes some three minutes; see lib.bash for the environment)
#
# Podman, netavark, the containers and the daemon are the real ones, in private namespaces: "eth0" is the host's port, with
# nothing but silence at the other end of the wire. One container is on a bridge network without DHCP.
set -euo pipefail
source "$(dirname "$(readlink -f "$0")")/lib.bash"
source "$here/podman.bash"
need_real_root "running Podman as root"
need_daemon
need_netavark
need podman crun conmon busybox ip nsenter pgrep unshare
enter_private_namespaces "$@"
make_podman
# No firewall: nothing is to leave these namespaces.
export NETAVARK_FW=none

daemon_log=$lab/daemon.log
show_on_failure $daemon_log $lab/podman.log

ip netns add server
ip link add eth0 type veth peer name s0 netns server
ip link set eth0 up
nsenter --net=/run/netns/server ip link set s0 up
macvlan_network lan eth0
bridge_network nat 10.89.7

# The daemon, by hand. It is not there between its jobs where systemd starts it, so the second one is another process.
serve() {
    $lab/bin/smol-dhcp-proxy -a 0 >> $daemon_log 2>&1 &
    daemon=$!
    wait_for 5 "the daemon serves" [ -S /run/podman/nv-proxy.sock ]
}
serve

# A boot of the last three minutes is a reason to be patient.
up=$(cut -d . -f 1 /proc/uptime)
[ "$up" -ge 181 ] || sleep $((181 - up))

# In tenths of a second, on a clock that does not step.
now() { local up _; read -r up _ < /proc/uptime; up=${up/./}; echo ${up%?}; }
timed() {
    local begin
    begin=$(now)
    "$@" > /dev/null 2>> $lab/podman.log || return 1
    took=$(($(now) - begin))
}
# netavark waits for a lease, and Podman holds the lock meanwhile.
holds_lock() { pgrep -x netavark > /dev/null; }

# stands_still MOST WORDS: `podman network ls`, begun while a container on the deaf network waits, takes up to MOST tenths.
stands_still() {
    local most=$1 words=$2 start
    start lan "deaf-$most" > /dev/null 2> $lab/refused &
    start=$!
    wait_for 5 "a Setup waits" holds_lock
    check "podman network ls" timed podman_ network ls
    check "it stood still for $((took / 10)).$((took % 10)) s" [ "$took" -le "$most" ]
    ! wait $start || fail "a container without an address was started"
    check "its user reads how long it waited, and why" grep -q -F "$words" $lab/refused
    quietly rm -f -t 0 "deaf-$most"
}

stands_still 110 "waited 10 s, because no DHCP server was heard on this network of late"
kill $daemon
check "the daemon ends" wait $daemon
serve
stands_still 60 "waited 5 s, because another acquisition on this network was not answered in the last minute"

# Ten containers that are to run whatever happens, and that are started over and over, as by systemd's Restart=always.
touch $lab/go
for number in 1 2 3 4 5 6 7 8 9 10; do
    while [ -e $lab/go ]; do
        start lan "never-$number" --restart=always >> $lab/refusals 2>&1 || quietly rm -f -t 0 "never-$number"
    done &
    loops="${loops:-} $!"
done
wait_for 10 "they hold the lock" holds_lock
check "an innocent container is started beside them" timed start nat innocent
# Each of the ten may have the lock before, for five seconds and some, and it is not handed over in order: some twice.
check "after $((took / 10)) s" [ "$took" -le 1200 ]
check "it has its address" bash -c 'grep -q "inet 10.89.7" <<< "$0"' "$(inside innocent ip -4 addr show)"
rm $lab/go
wait_for 120 "the loops have ended" bash -c 'for loop; do ! kill -0 $loop || exit 1; done' loops $loops
check "none of them waited for more than 5 s" bash -c '! grep -o "waited [0-9.]* s" "$0" | grep -v "waited 5 s"' $lab/refusals
check "podman removes the innocent container" quietly rm -f -t 0 innocent
