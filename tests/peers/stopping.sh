#!/bin/bash
# What ends the process does not end the leases, under a real systemd with the project's own units: restart, stop, upgrade,
# awake and asleep; and what is to end them does.
# Usage: tests/peers/stopping.sh        (takes a minute and a half; see lib.bash for the environment)
set -euo pipefail
source "$(dirname "$(readlink -f "$0")")/lib.bash"
need tcpdump
begin_with_systemd "$@"

t1=6
server_options=(--dhcp-option-force=58,$t1 --dhcp-option-force=59,60)
source $lab/systemd-host.bash
containers one two three four

# All of DHCP, and of ARP the probes and announcements: what the daemon sends. The kernel's own ARP is not meant.
wire=$lab/wire
tcpdump -ttlnn -i s0 'udp port 67 or (arp and (arp[14:4] = 0 or arp[14:4] = arp[24:4]))' > $wire 2> $lab/tcpdump.log &
wait_for 5 "a witness listens on the wire" grep -q listening $lab/tcpdump.log

sleeps_in_time() { wait_for 10 "the service sleeps, and its timer is armed" sleeps; }
no_timer() { [ -z "$(timer)" ]; }
is_stopped() { is_gone && no_timer; }
discovers() { grep -c 'DHCPDISCOVER' $server_log || true; }

# An older timer, which was armed for what was done just now, may elapse in the very moment: then systemd starts the service
# again and tells who asked for the stop that it was canceled.
no_timer_elapses() {
    local next
    next=$(next_wake)
    [ "${next:-0}" = 0 ] || [ $((next / 1000 - $(date +%s%3N))) -gt 1000 ]
}

heard_more() { [ "$(wc -l < $wire)" -gt "$1" ]; }
# How long nothing was heard after that many lines, in milliseconds.
quiet() { awk -v from="$1" 'NR == from { last = $1 } NR == from + 1 { printf "%d", ($1 - last) * 1000; exit }' $wire; }

# undisturbed WHAT COMMAND...: right after a renewal the command changes nothing for the lease of one: the next packet on
# the wire comes when it is time for one, and is the renewal of the same address. That is where the next one may begin.
undisturbed() {
    local before discovers
    [ "$1" != asleep ] || sleeps_in_time
    wait_for 5 "no timer is about to elapse" no_timer_elapses
    before=$(wc -l < $wire) discovers=$(discovers)
    check "$1: ${*:2}" in_rig "${@:2}"
    check "its address is there" [ "$(address one)" = "$one" ]
    wait_for 15 "the next packet on the wire is the renewal" heard_more "$before"
    check "$(quiet "$before") ms after the last one" [ "$(quiet "$before")" -ge $((t1 * 900 - 1500)) ]
    check "from its address" grep -q "$one.68 > 10.88.0.1.67" <(sed -n "$((before + 1))p" $wire)
    wait_for 5 "and is answered" acknowledged
    check "its address is the same" [ "$(address one)" = "$one" ]
    check "without a DISCOVER" [ "$(discovers)" = "$discovers" ]
}
# The server has answered all renewals on the wire; the first of its answers was to the Setup.
acknowledged() { [ "$(acks "$one")" -gt "$(grep -c "$one.68 > 10.88.0.1.67: BOOTP/DHCP, Request" $wire)" ]; }

# --- Awake: it stays for as long as a caller is there to be waited for.

options -a 60
check "Setup of one" call setup one
one=$(address one)
check "it has an address: $one" [ -n "$one" ]
renews one $((t1 + 8))
undisturbed awake systemctl restart $service
undisturbed awake sh -c "systemctl stop $service && systemctl start $service"
wait_for 5 "no timer is about to elapse" no_timer_elapses
check "systemctl stop while it is awake" in_rig systemctl stop $service
check "it is gone, and its timer is armed" sleeps
renews one $((t1 + 8))
check "it is back by itself" is_running

# --- Asleep.

options -a 0.5
in_rig systemctl restart $service
renews one $((t1 + 8))
undisturbed asleep systemctl restart $service
undisturbed asleep sh -c "systemctl stop $service && systemctl start $service"
sleeps_in_time
check "systemctl stop while it sleeps" in_rig systemctl stop $service
check "its timer is still armed" sleeps
renews one $((t1 + 8))

# --- The log names what stops everything, and it does.

for state in awake asleep; do
    if [ $state = awake ]; then options -a 60; else options -a 0.5; fi
    in_rig systemctl restart $service
    [ $state = awake ] || sleeps_in_time
    advice=$(in_rig journalctl -q -o cat -u $service | grep -o 'systemctl [-a-z ]*stop [-a-z. ]*[a-z]' | tail -n 1)
    check "the log names what stops everything: $advice" [ -n "$advice" ]
    check "$state: that is done" in_rig $advice
    check "the socket is closed" [ "$(property ActiveState $socket)" = inactive ]
    check "the service is gone, and no timer is armed" is_stopped
    before=$(wc -l < $wire)
    sleep $((t1 + 2))
    check "nothing brings it back" is_stopped
    check "nobody renews" [ "$(wc -l < $wire)" = "$before" ]
    check "the address is not taken away before its time" [ "$(address one)" = "$one" ]
    in_rig systemctl start $socket
    check "after a start of the socket a call brings it back" unknown
    renews one $((t1 + 8))
done

# --- An upgrade: the program is replaced while a Setup waits.

options -a 60
in_rig systemctl restart $service
old=$(in_rig stat -L -c %i "/proc/$(property MainPID)/exe")
in_rig sh -c 'cp /usr/bin/smol-dhcp-proxy /usr/bin/new && mv /usr/bin/new /usr/bin/smol-dhcp-proxy'
# So that there is a time in which nobody serves.
settings ExecStart= "ExecStart=/usr/bin/smol-dhcp-proxy -a 60" "ExecStartPre=sleep 1"
in_rig systemctl restart --no-block $service
wait_for 5 "the service is being started" is ActiveState activating
check "a Setup waits and is served" call setup two
check "it has an address" [ -n "$(address two)" ]
new=$(in_rig stat -L -c %i "/proc/$(property MainPID)/exe")
check "by the new program" [ "$new" != "$old" -a "$new" = "$(in_rig stat -c %i /usr/bin/smol-dhcp-proxy)" ]
renews one $((t1 + 8))

# --- With --on-stop release the leases end with the service.

for state in awake asleep; do
    if [ $state = awake ]; then options -a 60 --on-stop release; else options -a 0.5 --on-stop release; fi
    in_rig systemctl restart $service
    : > $server_log
    for name in one two three; do call setup $name; done
    addresses=$(for name in one two three; do address $name; done)
    check "three leases" [ "$(sort -u <<< "$addresses" | grep -c .)" = 3 ]
    if [ $state = asleep ]; then
        sleeps_in_time
        check "asleep: systemctl start" in_rig systemctl start $service
    fi
    check "systemctl stop" in_rig systemctl stop $service
    for address in $addresses; do wait_for 2 "the server heard DHCPRELEASE of $address" released "$address"; done
    check "the addresses are gone" [ -z "$(address one)$(address two)$(address three)" ]
    check "the service is gone, and no timer is armed" is_stopped
    check "the lease file is an empty object" lease_file_is_empty
done
