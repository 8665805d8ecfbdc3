#!/bin/bash
# A container that a unit runs stops when the system shuts down, under a real systemd with the project's own units: its
# Teardown is answered and its RELEASE sent, with the daemon asleep or awake, without special ordering in that unit.
# Usage: tests/peers/shutdown.sh        (takes half a minute; see lib.bash for the environment)
set -euo pipefail
source "$(dirname "$(readlink -f "$0")")/lib.bash"
# A system shuts down once: a run for each state.
if [ $# = 0 ]; then
    for state in asleep awake; do
        code=0
        "$0" $state || code=$?
        [ $code = 0 ] || exit $code
    done
    exit 0
fi
begin_with_systemd "$@"
source $lab/systemd-host.bash
state=$1
containers one two

# unit NAME: a unit that runs a container, as far as the network goes.
unit() {
    request "$(mac /run/netns/$1)" /run/netns/$1 $1 | in_rig tee /run/$1.json > /dev/null
    cat > $etc/container-$1.service << UNIT
[Unit]
Description=The container $1
[Service]
ExecStartPre=/bin/sh -c 'netavark-dhcp-proxy-client --uds $sock -f /run/$1.json setup'
ExecStart=sleep infinity
ExecStop=/bin/sh -c 'sleep 1; netavark-dhcp-proxy-client --uds $sock -f /run/$1.json teardown > /var/teardown-$1 2>&1; echo "status \$?" >> /var/teardown-$1'
UNIT
}
if [ $state = asleep ]; then options -a 0.5; else options -a 60; fi
unit one
in_rig systemctl daemon-reload
check "$state: a unit starts a container" in_rig systemctl start container-one.service
one=$(address one)
check "it has an address: $one" [ -n "$one" ]
# Its lease stays: to keep it must not hold the shutdown up.
check "another container has a lease" call setup two
two=$(address two)
if [ $state = asleep ]; then
    wait_for 10 "the service sleeps" sleeps
else
    check "the service runs" is_running
fi

is_down() { ! kill -0 "$rig_pid"; }
say "systemctl poweroff"
began=$(date +%s%3N)
# Without a D-Bus in there the message to all terminals fails, and with it the exit code.
in_rig systemctl poweroff --no-wall > /dev/null 2>&1 || true
wait_for 20 "the system is down" is_down
took=$(($(date +%s%3N) - began))
said=$(cat $root/var/teardown-one)
check "the Teardown was answered with the lease" [ "$(sed '$d' <<< "$said" | jq -r .yiaddr)" = "$one" ]
check "and succeeded" [ "$(tail -n 1 <<< "$said")" = "status 0" ]
check "the server heard DHCPRELEASE of $one" released "$one"
check "and none of $two, which is kept" bash -c "! grep -q 'DHCPRELEASE(s0) $two ' $server_log"
# A second of it is the container's.
check "it took $took ms" [ $took -lt 8000 ]
