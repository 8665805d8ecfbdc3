#!/bin/bash
# What takes a service's timer or socket away does not end its leases, under a real systemd with the project's own units:
# isolate, daemon-reload and daemon-reexec, a timer that is lost, a folder that is removed, quick restarts of the socket.
# Usage: tests/peers/isolate.sh        (takes a minute and a half; see lib.bash for the environment)
set -euo pipefail
source "$(dirname "$(readlink -f "$0")")/lib.bash"
begin_with_systemd "$@"

t1=6
server_options=(--dhcp-option-force=58,$t1 --dhcp-option-force=59,60)
source $lab/systemd-host.bash
# As rescue.target is: nothing of sockets.target or timers.target.
cat > $etc/other.target << 'UNIT'
[Unit]
Wants=systemd-journald.service
AllowIsolate=yes
UNIT
mkdir -p $etc/rig.target.d
printf '[Unit]\nWants=sockets.target timers.target\n' > $etc/rig.target.d/test.conf
containers one two
fallback=${service%.service}-fallback.timer

sleeps_in_time() { wait_for 10 "the service sleeps, and its timer is armed" sleeps; }
is_up() { in_rig systemctl -q is-active "$1"; }
discovers() { grep -c 'DHCPDISCOVER' $server_log || true; }
no_timer() { [ -z "$(timer)" ]; }
to_state() {
    if [ $1 = awake ]; then options -a 60; else options -a 0.5; fi
    in_rig systemctl restart $service
    if [ $1 = awake ]; then check "the service runs" is_running; else sleeps_in_time; fi
}

options -a 0.5
check "Setup of one" call setup one
one=$(address one) before=$(discovers)
sleeps_in_time

# --- A host that goes to another target and back keeps its containers, and their leases.

check "the fallback is there" is_up $fallback
for state in asleep awake; do
    to_state $state
    pid=$(property MainPID)
    for target in other.target rig.target; do
        check "$state: systemctl isolate $target" in_rig systemctl isolate $target
        check "the socket listens" is_up $socket
        check "the fallback is there" is_up $fallback
        if [ $state = awake ]; then
            check "it is the same process" [ "$(property MainPID)" = "$pid" ]
        fi
        renews one $((t1 + 8))
    done
    check "a call is answered" unknown
done

# --- systemd itself is started anew.

for state in asleep awake; do
    to_state $state
    for verb in daemon-reload daemon-reexec; do
        check "$state: systemctl $verb" in_rig systemctl $verb
        wait_for 10 "systemd answers" is_up $socket
        renews one $((t1 + 8))
    done
done
check "nothing of it was seen by the server: no DISCOVER" [ "$(discovers)" = "$before" ]

# --- A timer that is lost: the fallback is there, here within seconds.

mkdir -p $etc/$fallback.d
printf '[Timer]\nOnUnitInactiveSec=\nOnUnitInactiveSec=8s\nAccuracySec=100ms\n' > $etc/$fallback.d/test.conf
to_state asleep
loses() { sleeps && in_rig systemctl -q stop "$(timer)" && is_gone && no_timer; }
wait_for 10 "its timer is stopped" loses
renews one 25
sleeps_in_time
check "without a DISCOVER" [ "$(discovers)" = "$before" ]
check "Teardown of one" call teardown one
wait_for 10 "the service leaves" is_gone
check "no timer is left" no_timer
starts=$(said 'nothing left to do, leaving')
starts_again() { [ "$(said 'nothing left to do, leaving')" -gt "$starts" ] && is_gone; }
wait_for 15 "with no leases the fallback starts it" starts_again
check "and it sets no timer" no_timer
check "the fallback goes with the socket" in_rig systemctl stop $socket
check "and is gone" [ "$(property ActiveState $fallback)" = inactive ]
rm -r $etc/$fallback.d
in_rig systemctl daemon-reload
in_rig systemctl start $socket
check "and comes with it" is_up $fallback

# --- The folder of the socket and of the leases is removed.

has_socket() { in_rig test -S $sock; }
has_lease() { in_rig grep -q "\"$1\"" /run/podman/nv-proxy.lease; }
to_state awake
check "Setup of two" call setup two
two=$(address two) mac_of_two=$(mac /run/netns/two)
in_rig rm -rf /run/podman
say "awake: /run/podman is removed"
wait_for 10 "the socket is there again" has_socket
wait_for 10 "and so is the lease of $two" has_lease "$two"
renews two $((t1 + 8))
check "a call is answered" call setup one
check "Teardown of one" call teardown one
to_state asleep
in_rig rm -rf /run/podman
say "asleep: /run/podman is removed"
wait_for 10 "the socket is there again" has_socket
wait_for 10 "a call is answered" unknown
check "the lease of $two is there again" has_lease "$two"
renews two $((t1 + 8))
check "Setup of one" call setup one
check "Teardown of one" call teardown one
check "Teardown of two" call teardown two
check "it had one DISCOVER in all" [ "$(grep -c "DHCPDISCOVER(s0) $mac_of_two" $server_log)" = 1 ]
wait_for 15 "the service leaves, and does not come back again and again" is_gone
check "it has not failed" is Result success
restarts=$(property NRestarts)
sleep 4
check "it has not been restarted meanwhile" [ "$(property NRestarts)" = "$restarts" ]

# --- Quick restarts of the socket, as of scripts that install packages.

for count in $(seq 12); do in_rig systemctl restart $socket; done
check "after twelve restarts in a row the socket listens" is_up $socket
check "a call is answered" unknown
