#!/bin/bash
# A service that sleeps between renewals, under a real systemd with the project's own units: calls wake it, what goes wrong
# on the way does not keep it from coming back, and where it may not sleep it stays.
# Usage: tests/peers/asleep.sh        (takes about a minute; see lib.bash for the environment)
set -euo pipefail
source "$(dirname "$(readlink -f "$0")")/lib.bash"
begin_with_systemd "$@"

t1=5
server_options=(--dhcp-option-force=58,$t1 --dhcp-option-force=59,20)
source $lab/systemd-host.bash
containers one two three

sleeps_in_time() { wait_for 10 "the service sleeps, and its timer is armed" sleeps; }
stays_asleep() { sleeps && in_rig systemctl stop "$(timer)" && is_gone && no_timer; }
no_timer() { [ -z "$(timer)" ]; }

# --- Calls wake it by the socket.

options -a 0.5
check "Setup of one" call setup one
one=$(address one)
sleeps_in_time
check "its timer is named after it" [ "$(timer)" = ${service%.service}.timer ]
wait_for $((t1 + 5)) "systemctl list-timers shows when it wakes" wakes_within $t1
check "Setup of two while it sleeps" call setup two
two=$(address two)
check "its address: $two" [ -n "$two" -a "$two" = "$(jq -r .yiaddr $lab/answer)" ]
sleeps_in_time
check "Teardown of two while it sleeps" call teardown two
wait_for 2 "its server heard DHCPRELEASE" released "$two"
check "its address is gone" [ -z "$(address two)" ]
check "the other's is not" [ "$(address one)" = "$one" ]
sleeps_in_time
renews one $((t1 + 8))
sleeps_in_time

# --- What may go wrong meanwhile.

check "systemctl daemon-reload while it sleeps" in_rig systemctl daemon-reload
check "the timer is still armed" sleeps
renews one $((t1 + 8))
# Restart=on-failure would help here, but not everywhere.
settings ExecStart= "ExecStart=/usr/bin/smol-dhcp-proxy -a 0.5" Restart=no \
    "ExecStartPre=/bin/sh -c 'test -e /run/podman/failed || { touch /run/podman/failed; exit 1; }'"
sleeps_in_time
renews one 20
check "after a wake that failed" in_rig test -e /run/podman/failed
check "the server has heard one DISCOVER of it in all" \
    [ "$(grep -c "DHCPDISCOVER(s0) .*$(mac /run/netns/one)" $server_log)" = 1 ]

# --- Where it may not sleep it stays, and says so once.

for never in "-a 0" "-a 0.5 --sleep never"; do
    # Not in the moment in which the timer elapses.
    wait_for 15 "it sleeps, and nothing is to wake it" stays_asleep
    before=$(said staying)
    options "$never"
    in_rig systemctl start $service
    renews one $((t1 + 8))
    # The time in which it would have left.
    sleep 3
    check "with $never it stays" is_running
    check "and arms no timer" no_timer
    check "it says so once" [ "$(said staying)" = $((before + 1)) ]
    options -a 0.5
    in_rig systemctl restart $service
done

# --- Calls at the moment of leaving. Each is a little earlier than the last where that came too late to be served by who
# was there, else a little later. The server's next word is an hour away.

check "Teardown of one" call teardown one
wait_for 2 "its server heard DHCPRELEASE" released "$one"
server_dies
server_options=()
server_starts
options -a 0.05
in_rig systemctl restart $service
check "Setup of three, for an hour" call setup three
three=$(address three)
sleeps_in_time
request 02:00:00:00:00:99 /run/netns/none "" | in_rig tee /run/aimed.json > /dev/null
calls=200
in_rig bash -c 'calls=$1 group=/sys/fs/cgroup/system.slice/$2 sock=$3
    exec {never}<> <(:)
    late=0 wrong=0 pause=50
    for ((i = 0; i < calls; i++)); do
        printf -v seconds 0.%03d $pause
        read -r -t $seconds -u $never || true
        if [ -e $group ]; then pause=$((pause + 3)); else late=$((late + 1)) pause=$((pause > 5 ? pause - 2 : 5)); fi
        netavark-dhcp-proxy-client --uds $sock -f /run/aimed.json teardown > /run/aimed 2>&1 || { wrong=$((wrong + 1)); cat /run/aimed >&2; }
    done
    echo $late $wrong' - $calls $service $sock > $lab/aimed
read -r late wrong < $lab/aimed
check "$calls calls around the moment of leaving: $wrong errors" [ "$wrong" = 0 ]
check "$late of them found nobody there, and woke it" [ "$late" -ge $((calls / 10)) -a "$late" -le $((calls * 9 / 10)) ]
sleeps_in_time
check "the lease has seen nothing of it" [ "$(address three) $(acks "$three")" = "$three 1" ]

# --- The last Teardown leaves nothing.

check "Teardown of three while it sleeps" call teardown three
wait_for 10 "the service leaves" is_gone
check "no timer is left" no_timer
check "the lease file is an empty object" lease_file_is_empty

# --- Under the other name: netavark's units, with the drop-in.

in_rig systemctl -q disable --now $socket
service=$theirs.service socket=$theirs.socket
install_their_units
cp -r $lab/units/$theirs.service.d $etc/
server_dies
server_options=(--dhcp-option-force=58,$t1 --dhcp-option-force=59,20)
server_starts
# In the order of their names, this one comes after the project's own.
settings ExecStart= "ExecStart=/usr/bin/smol-dhcp-proxy -a 0.5"
in_rig systemctl start $socket
check "Setup through $service" call setup one
sleeps_in_time
check "its timer is named after it" [ "$(timer)" = $theirs.timer ]
renews one $((t1 + 8))
sleeps_in_time
check "Teardown" call teardown one
wait_for 10 "the service leaves" is_gone
check "no timer is left" no_timer
