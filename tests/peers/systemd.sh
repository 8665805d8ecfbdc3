#!/bin/bash
# The project's own unit files under a real systemd: start by the socket, lease and renewal within the sandbox, leaving.
# Usage: tests/peers/systemd.sh        (takes about a minute; see lib.bash for the environment)
set -euo pipefail
source "$(dirname "$(readlink -f "$0")")/lib.bash"
need systemd-analyze tcpdump
begin_with_systemd "$@"

# Leases of an hour whose T1 is 10 s and T2 is 20 s.
server_options=(--dhcp-option-force=58,10 --dhcp-option-force=59,20)
source $lab/systemd-host.bash

wire=$lab/wire
tcpdump -lnn -i s0 udp dst port 67 > $wire 2> $lab/tcpdump.log &
wait_for 5 "a witness listens on the wire" grep -q listening $lab/tcpdump.log

main() { in_rig cat "/proc/$(property MainPID)/$1"; }
is_quiet() { [ -z "$(in_rig journalctl -q -p notice -u $service -u $socket)" ]; }
program() { in_rig readlink "/proc/$(property MainPID "$1")/exe"; }
# What systemd takes from a service. (The score of `systemd-analyze security` leaves out some of it where
# DefaultDependencies=no.)
sandbox() {
    in_rig systemctl show "$1" |
        grep -E '^(Capability|AmbientCap|NoNewPriv|Restrict[A-Z]|SystemCall|Protect|Private|MemoryDeny|LockPers|Keyring|UMask|ReadWrite)'
}
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
check "strictly confined, for this trial" grep -qz SMOL_DHCP_PROXY_SANDBOX=strict <(main environ)
check "no new privileges, and a system call filter" \
    bash -c 'grep -q "NoNewPrivs:.1" <<< "$0" && grep -q "Seccomp:.2" <<< "$0"' "$(main status)"

# --- A lease within the sandbox, in the first namespace of the host, made after the service started.

containers one
check "Setup" call setup one
first=$(address one)
check "the container has the leased address: $first" [ "$first" = "$(jq -r .yiaddr $lab/answer)" -a -n "$first" ]
check "and a default route" grep -q 'default via 10.88.0.1 dev eth0' <(in_rig ip -n one route)
in_rig tee /run/systemd/system/box.service > /dev/null <<< $'[Service]\nPrivateNetwork=yes\nExecStart=sleep 600'
check "a second container, known by its process alone" in_rig systemctl start box.service
box=/proc/$(property MainPID box.service)/ns/net
in_rig ip link add link eth0 name mbox type macvlan mode bridge
in_rig ip link set mbox netns "$(property MainPID box.service)" name eth0
in_rig nsenter --net="$box" ip link set eth0 up
check "Setup in a namespace named $box" call setup box "$box"
check "Teardown there" call teardown box "$box"
wait_for 2 "its server heard DHCPRELEASE" grep -q 'DHCPRELEASE' $server_log

discovers=$(count DHCPDISCOVER $server_log)
wait_for 40 "two renewals at T1" bash -c "[ \$(grep -c 'DHCPACK(s0) $first ' $server_log) -ge 3 ]"
check "without a single new DISCOVER" [ "$(count DHCPDISCOVER $server_log)" = "$discovers" ]
# The witness writes a moment after the server's log.
wait_for 5 "each by unicast from the leased address" \
    bash -c "[ \$(grep -c '$first.68 > 10.88.0.1.67: BOOTP/DHCP, Request' $wire) -ge 2 ]"
check "the address never changed" [ "$(address one)" = "$first" ]

check "the service has no mount namespace of its own" \
    [ "$(in_rig readlink "/proc/$(property MainPID)/ns/mnt")" = "$(in_rig readlink /proc/1/ns/mnt)" ]
check "Teardown" call teardown one
wait_for 2 "the server heard DHCPRELEASE" grep -q "DHCPRELEASE(s0) $first" $server_log
wait_for 2 "and has forgotten the lease" bash -c "! grep -q '$first ' $leases"
check "the address is gone" [ -z "$(address one)" ]
check "nothing holds its namespace" in_rig ip netns del one

# --- It leaves, and comes back.

mkdir -p $etc/$service.d
printf '[Service]\nExecStart=\nExecStart=/usr/bin/smol-dhcp-proxy -a 1.5\n' > $etc/$service.d/idle.conf
in_rig systemctl daemon-reload
containers two
check "Setup" call setup two
check "systemctl stop with a lease at hand" in_rig systemctl -q stop $service
check "it ended well" is Result success
check "with exit code 0" is ExecMainStatus 0
check "Podman's own socket in that folder is still there" in_rig test -e /run/podman/podman.sock
check "the next call starts it again" unknown
wait_for 10 "and it leaves after -a" is_gone
check "it ended well" is Result success
check "without a restart" is NRestarts 0
check "the socket goes on" in_rig systemctl -q is-active $socket
containers three
check "Setup is answered by the next instance" call setup three
third=$(address three)
wait_for 10 "it leaves although there are leases, and a timer starts it for them" sleeps
check "Teardown of two" call teardown two
check "Teardown of three" call teardown three
wait_for 2 "the server heard DHCPRELEASE" grep -q "DHCPRELEASE(s0) $third" $server_log
wait_for 10 "with the last lease gone it leaves" is_gone
check "and no timer is left" [ -z "$(timer)" ]
check "nothing in the journal is above info" is_quiet

# --- The drop-in takes netavark's own service over and gives it back.

check "our socket is disabled" in_rig systemctl -q disable --now $socket
install_their_units
in_rig systemctl daemon-reload
check "netavark's own socket starts" in_rig systemctl start $theirs.socket
check "and ours has stopped" [ "$(property ActiveState $socket)" = inactive ]
check "netavark's own service answers" unknown
check "it is netavark" [ "$(program $theirs.service)" = /usr/bin/netavark ]
cp -r $lab/units/$theirs.service.d $etc/
check "the drop-in is installed" in_rig sh -c "systemctl daemon-reload && systemctl try-restart $theirs.service"
check "its service answers" unknown
check "it is smol-dhcp-proxy" [ "$(program $theirs.service)" = /usr/bin/smol-dhcp-proxy ]
check "its sandbox is that of our own unit" diff <(sandbox $theirs.service) <(sandbox $service)
check "which is one" grep -q '^NoNewPrivileges=yes' <(sandbox $service)
containers four
check "Setup" call setup four
check "the container has an address" [ -n "$(address four)" ]
check "Teardown" call teardown four
rm $etc/$theirs.service.d/smol-dhcp-proxy.conf
check "the drop-in is removed" in_rig sh -c "systemctl daemon-reload && systemctl try-restart $theirs.service"
check "its service answers" unknown
check "it is netavark again" [ "$(program $theirs.service)" = /usr/bin/netavark ]
check "netavark's socket is disabled" in_rig systemctl -q disable --now $theirs.socket $theirs.service
check "our socket is enabled" in_rig systemctl -q enable --now $socket
check "our service answers" unknown
check "it is smol-dhcp-proxy" [ "$(program $service)" = /usr/bin/smol-dhcp-proxy ]

# --- A crash is mended.

containers five
check "Setup" call setup five
in_rig systemctl kill --kill-who=main --signal=KILL $service
wait_for 5 "after kill -9 it is started again" is NRestarts 1
is_back() { is_running || sleeps; }
wait_for 5 "and runs, or sleeps until the next renewal" is_back
check "the next call is answered" unknown
