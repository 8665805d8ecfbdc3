#!/bin/bash
# The program of --on-change, under a real systemd with the project's own units: it is told what happens to a lease, runs
# outside of the sandbox, and keeps nothing waiting; and `status` of a daemon that sleeps wakes nothing.
# Usage: tests/peers/onchange.sh        (takes two minutes; see lib.bash for the environment)
set -euo pipefail
source "$(dirname "$(readlink -f "$0")")/lib.bash"
begin_with_systemd "$@"

t1=5
# A domain that a shell, or systemd, would make something of is none; this one is a name, and systemd's specifiers and
# variables may be in the path of a namespace.
server_options=(--dhcp-option-force=58,$t1 --dhcp-option-force=59,20 --dhcp-option=15,lab.example)
source $lab/systemd-host.bash
odd='%n $HOME $(touch x) "q"'
containers one

told=$root/var/log/told
: > $told
cat > $root/usr/bin/notify << 'PROGRAM'
#!/bin/sh
{
    echo "event=$SMOL_DHCP_PROXY_EVENT reason=$SMOL_DHCP_PROXY_REASON address=$SMOL_DHCP_PROXY_ADDRESS"
    env | grep ^SMOL_DHCP_PROXY_ | sort
    # What the sandbox forbids to the daemon and all that it starts itself.
    head -c 1 /dev/zero > /srv/told && echo outside
    cut -d : -f 3 /proc/self/cgroup
} >> /var/log/told
PROGRAM
chmod 755 $root/usr/bin/notify
is_told() { grep -q -F -e "$1" $told; }
count_told() { grep -c -F -e "$1" $told || true; }
sleeps_in_time() { wait_for 10 "the service sleeps, and its timer is armed" sleeps; }
status() { in_rig smol-dhcp-proxy status --json > $lab/status || true; }
counter() { status && jq -r ".counters.$1" $lab/status; }

counts() { [ "$(counter "$1")" -ge "$2" ]; }
logged() { [ "$(said "$1")" -gt 0 ]; }
# The units of the program that run.
units() { in_rig systemctl list-units --no-legend 'smol-dhcp-proxy-change-*' | wc -l; }

# --- No program and no systemd cost no lease.

options -a 0.5 --on-change /usr/bin/missing
in_rig systemctl start $socket
check "Setup with a program that is not there" call setup one
wait_for 5 "the log names it" logged "--on-change /usr/bin/missing: No such file"
wait_for 5 "and the event" logged "cannot start /usr/bin/missing for"
wait_for 5 "which has failed" counts events.failed 1
check "Teardown" call teardown one
wait_for 5 "so has the next" counts events.failed 2
in_rig smol-dhcp-proxy -a 0.5 --on-change /usr/bin/notify --uds /run/alone.sock --dir /run/alone > $lab/alone 2>&1
check "without systemd, too: $(grep on-change $lab/alone)" grep -q "has no effect: .* systemd did not start it" $lab/alone

# --- The life of a lease.

options -a 0.5 --on-change /usr/bin/notify
check "Setup" call setup one
one=$(address one)
wait_for 5 "the program is told: bound" is_told "event=bound reason= address=$one"
check "with the lease" [ "$(grep -c -e "^SMOL_DHCP_PROXY_PREFIX_LENGTH=16$" -e "^SMOL_DHCP_PROXY_ROUTERS=10.88.0.1$" \
    -e "^SMOL_DHCP_PROXY_DNS=10.88.0.53$" -e "^SMOL_DHCP_PROXY_DOMAIN=lab.example$" -e "^SMOL_DHCP_PROXY_SERVER=10.88.0.1$" \
    -e "^SMOL_DHCP_PROXY_INTERFACE=eth0$" -e "^SMOL_DHCP_PROXY_NAMESPACE=/run/netns/one$" $told)" = 7 ]
expiry=$(sed -n 's/^SMOL_DHCP_PROXY_EXPIRY=//p' $told | head -n 1)
check "until a time ahead" [ "$expiry" -gt "$(date +%s)" ]
wait_for 5 "it runs outside of the sandbox" is_told outside
check "in a unit of its own: $(grep -m 1 change- $told)" grep -q "/smol-dhcp-proxy-change-[0-9]*.service" $told
sleeps_in_time
wait_for 20 "renewed" is_told "event=renewed reason= address=$one"
sleeps_in_time
check "status counts them: $(counter events.started)" counts events.started 2
failed=$(counter events.failed)
mv $root/usr/bin/notify $root/usr/bin/gone
renews one $((t1 + 8))
sleeps_in_time
check "it goes on without the program" counts events.failed $((failed + 1))
mv $root/usr/bin/gone $root/usr/bin/notify

# --- status wakes nothing.

sleeps_in_time
before=$(property ExecMainStartTimestampMonotonic)
check "asleep, status is healthy" in_rig smol-dhcp-proxy status
check "and still asleep" [ "$before" = "$(property ExecMainStartTimestampMonotonic)" ]
status
check "it knows the timer: $(jq -c .daemon.timer $lab/status)" [ "$(jq .daemon.timer.in_seconds $lab/status)" -gt -2 ]
check "and the unit, and that it may sleep" [ "$(jq -r '"\(.daemon.unit) \(.daemon.may_sleep)"' $lab/status)" = "$service true" ]
check "calls and timers have woken it" [ "$(counter wakes.call)" -ge 1 -a "$(counter wakes.timer)" -ge 1 ]

# --- A program that fails or hangs delays nothing.

printf '#!/bin/sh\nexec sleep 1000\n' > $root/usr/bin/notify
renews one $((t1 + 8))
sleeps_in_time
renews one $((t1 + 8))
sleeps_in_time
check "units of the program run on" [ "$(units)" -ge 2 ]
containers many
for ((round = 1; round <= 40; round++)); do
    call setup many
    call teardown many
done
wait_for 15 "of 80 events more some are dropped" counts events.dropped 10
check "64 programs run at most: $(units)" [ "$(units)" -le 64 -a "$(units)" -ge 60 ]
check "the log says so" logged "64 runs of /usr/bin/notify have not ended"
cat > $root/usr/bin/notify << 'PROGRAM'
#!/bin/sh
env | grep -e ^SMOL_DHCP_PROXY_EVENT= -e ^SMOL_DHCP_PROXY_REASON= -e ^SMOL_DHCP_PROXY_NAMESPACE= >> /var/log/told
PROGRAM
in_rig systemctl stop 'smol-dhcp-proxy-change-*'
check "Teardown" call teardown one
wait_for 5 "released" is_told SMOL_DHCP_PROXY_EVENT=released
check "Setup" call setup one
in_rig ip -n one link set eth0 down
in_rig smol-dhcp-proxy release --all --yes > $lab/left || true
check "where the server cannot be told: $(tail -n 1 $lab/left)" grep -q "left to expire: the interface is down" $lab/left
wait_for 5 "the program hears of it" is_told SMOL_DHCP_PROXY_REASON=unreleased
in_rig ip -n one link set eth0 up

# --- Values are no orders: neither to systemd nor to a shell.

in_rig mkdir -p /run/odd
in_rig touch "/run/odd/$odd"
in_rig ip netns add two
in_rig ip link add link eth0 name mtwo type macvlan mode bridge
in_rig ip link set mtwo netns two name eth0
in_rig ip -n two link set eth0 up
in_rig mount --bind /run/netns/two "/run/odd/$odd"
check "Setup by an odd path" call setup two "/run/odd/$odd"
wait_for 5 "it comes as it is" is_told "SMOL_DHCP_PROXY_NAMESPACE=/run/odd/$odd"
check "and Teardown" call teardown two "/run/odd/$odd"

# --- The program of the manual, whatever the order.

program=$root/usr/bin/addresses
sed -n '/^A program that keeps a file/,/^\.Ed/p' $lab/units/smol-dhcp-proxy.8 | sed '1,/^\.Bd/d;/^\.Ed/d' > $program
chmod 755 $program
# addresses EVENT SEQUENCE: a run of it by hand.
addresses() {
    in_rig SMOL_DHCP_PROXY_EVENT="$1" SMOL_DHCP_PROXY_SEQUENCE="$2" SMOL_DHCP_PROXY_MAC=02:00:00:00:00:77 \
        SMOL_DHCP_PROXY_ADDRESS=10.88.7.7 SMOL_DHCP_PROXY_HOST_NAME=by-hand addresses
}
of_hand() { in_rig cat /run/addresses/02:00:00:00:00:77; }
check "the program of the manual" addresses bound 1000000000007
check "an event of before" addresses lost 1000000000006
check "changes nothing" [ "$(of_hand)" = "10.88.7.7 by-hand" ]
check "a later one" addresses released 1000000000008
check "does" [ -z "$(of_hand)" ]
options -a 0.5 --on-change /usr/bin/addresses
in_rig systemctl restart $service
has_address() { [ "$(in_rig cat "/run/addresses/$(mac /run/netns/one)")" = "$one one" ]; }
has_none() { [ -z "$(in_rig cat "/run/addresses/$(mac /run/netns/one)")" ]; }
check "Setup" call setup one
one=$(address one)
wait_for 5 "it has the address" has_address
for round in 1 2 3; do check "Setup anew" call setup one; done
sleeps_in_time
wait_for 5 "it has the address still" has_address
check "Teardown" call teardown one
wait_for 5 "it has none" has_none

# --- A stop tells what it releases.

sleeps_in_time() { :; }
options -a 30 --on-stop release --on-change /usr/bin/notify
in_rig systemctl restart $service
containers three four
for name in three four; do check "Setup of $name" call setup $name; done
before=$(count_told SMOL_DHCP_PROXY_EVENT=released)
check "the service is stopped" in_rig systemctl stop $service
all_released() { [ "$(count_told SMOL_DHCP_PROXY_EVENT=released)" = $((before + 2)) ]; }
wait_for 5 "both are told of" all_released
none_is_left() { [ -z "$(in_rig systemctl list-units --all --no-legend 'smol-dhcp-proxy-change-*')" ]; }
wait_for 5 "no unit is left" none_is_left

# --- A stop that waits for events arms its timer after that: one that elapses meanwhile would cancel the stop, or be lost.

mkdir -p $root/usr/local/bin
cat > $root/usr/local/bin/systemd-run << 'PROGRAM'
#!/bin/sh
case "$*" in *-change-*) sleep 8 ;; esac
exec /usr/bin/systemd-run "$@"
PROGRAM
chmod 755 $root/usr/local/bin/systemd-run
options -a 30 --on-change /usr/bin/notify --sandbox off
in_rig systemctl restart $service
check "Setup" call setup one
one=$(address one)
check "the service is stopped while an event waits" in_rig systemctl stop $service
check "its timer is armed" sleeps
renews one 10
rm $root/usr/local/bin/systemd-run

# --- A container that a shutdown stops: systemd starts no unit any more that the shutdown would have to stop.

options -a 30 --on-change /usr/bin/notify
in_rig systemctl restart $service
request "$(mac /run/netns/three)" /run/netns/three three | in_rig tee /run/three.json > /dev/null
cat > $etc/container-three.service << UNIT
[Service]
ExecStartPre=netavark-dhcp-proxy-client --uds $sock -f /run/three.json setup
ExecStart=sleep infinity
ExecStop=netavark-dhcp-proxy-client --uds $sock -f /run/three.json teardown
ExecStop=sh -c 'sleep 1; systemd-run --no-block true 2> /var/log/destructive'
UNIT
in_rig systemctl daemon-reload
check "a unit starts a container" in_rig systemctl start container-three.service
before=$(count_told SMOL_DHCP_PROXY_EVENT=released)
is_down() { ! kill -0 "$rig_pid" 2> /dev/null; }
in_rig systemctl poweroff --no-wall > /dev/null 2>&1 || true
wait_for 30 "the system is down" is_down
check "a usual unit was refused" grep -q "Transaction .* is destructive" $root/var/log/destructive
check "the program is told" [ "$(count_told SMOL_DHCP_PROXY_EVENT=released)" = $((before + 1)) ]
