#!/bin/bash
# A Setup in flight when the service is restarted or stopped, under a real systemd with the project's own units: a restart
# waits for it, for as long as an acquisition may take; a stop does not. An operator's call holds up neither.
# Usage: tests/peers/restart.sh        (takes half a minute; see lib.bash for the environment)
set -euo pipefail
source "$(dirname "$(readlink -f "$0")")/lib.bash"
need tcpdump
begin_with_systemd "$@"
source $lab/systemd-host.bash
containers one two three

wire=$lab/wire
tcpdump -lnn -i s0 udp dst port 67 > $wire 2> $lab/tcpdump.log &
wait_for 5 "a witness listens on the wire" grep -q listening $lab/tcpdump.log
requests() { grep -c 'BOOTP/DHCP, Request' $wire || true; }
has_more_requests() { [ "$(requests)" -gt "$1" ]; }

ended() { [ -e $lab/$1.status ]; }
# begins NAME: a Setup in the background. When it ends, its exit status is in $lab/NAME.status, its answer in $lab/NAME.answer.
begins() {
    request "$(mac /run/netns/$1)" /run/netns/$1 $1 | in_rig tee /run/$1.json > /dev/null
    {
        code=0
        in_rig netavark-dhcp-proxy-client --uds $sock -f /run/$1.json setup > $lab/$1.answer 2>&1 || code=$?
        echo $code > $lab/$1.new
        mv $lab/$1.new $lab/$1.status
    } &
}
# waits NAME: a Setup that has asked a server, which is not there.
waits() {
    local before
    before=$(requests)
    begins $1
    wait_for 5 "a Setup of $1 asks a server that is not there" has_more_requests "$before"
}
is_stopping() { is ActiveState deactivating; }
is_next() { is_running && ! is InvocationID "$1"; }

# The server comes later than the usual time for an acquisition.
options -a 60 -t 45
server_dies
for verb in stop restart; do
    [ $verb = stop ] && name=one || name=two
    waits $name
    process=$(property InvocationID) began=$(date +%s%3N)
    check "systemctl $verb" in_rig systemctl --no-block $verb $service
    wait_for 5 "the service is being stopped" is_stopping
    if [ $verb = stop ]; then
        wait_for 10 "the service is gone" is_gone
        took=$(($(date +%s%3N) - began))
        check "within a drain: $took ms" [ $took -lt 7000 ]
        wait_for 5 "the caller is told" ended one
        check "to call again" grep -q 'call again' $lab/one.answer
        continue
    fi
    begins three
    # Longer than a drain, and shorter than the unit's TimeoutStopSec=.
    sleep 8
    check "the Setup goes on" bash -c "! [ -e $lab/two.status ]"
    check "in the same process" is InvocationID "$process"
    check "and a later one waits" bash -c "! [ -e $lab/three.status ]"
done
server_starts
wait_for 30 "with the server there, the Setup ends" ended two
check "well" [ "$(cat $lab/two.status)" = 0 ]
two=$(address two)
check "the container has the leased address: $two" [ -n "$two" -a "$two" = "$(jq -r .yiaddr $lab/two.answer)" ]
wait_for 10 "the next instance runs" is_next "$process"
wait_for 30 "and serves the later Setup" ended three
check "well" [ "$(cat $lab/three.status)" = 0 ]
check "the container has the leased address" [ "$(address three)" = "$(jq -r .yiaddr $lab/three.answer)" ]

# An operator's renewals, which no server answers for ten seconds.
server_dies
before=$(requests) process=$(property InvocationID)
in_rig smol-dhcp-proxy renew --all > $lab/renewed 2>&1 &
wait_for 5 "a renewal on demand asks a server that is not there" has_more_requests "$before"
began=$(date +%s%3N)
check "systemctl restart" in_rig systemctl restart $service
took=$(($(date +%s%3N) - began))
check "is not held up by that: $took ms" [ $took -lt 5000 ]
is_told_to_call_again() { grep -q 'the daemon is being stopped; call again' $lab/renewed; }
wait_for 5 "the operator is told to call again" is_told_to_call_again
check "the next instance runs" is_next "$process"
