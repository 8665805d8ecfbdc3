#!/bin/bash
# How little of the time a process exists while leases are renewed, under a real systemd with the project's own units.
# Usage: tests/peers/sleep.sh                       (2 containers whose T1 is 10 s; takes a minute)
#        FULL=1 tests/peers/sleep.sh                (100 containers whose T1 is 60 s; takes seven minutes)
#        SUBJECT=netavark [FULL=1] tests/peers/sleep.sh
#                                                   (the same with netavark's proxy and units, as a record: where it does
#                                                   otherwise, that is said, and is no failure; see also lib.bash)
#
# Counted as existing is any process in the unit's control group: the daemon, what it starts, and systemd's own child
# before it becomes the daemon. The processor time is that of the control group, from the first fork to the last exit.
set -euo pipefail
source "$(dirname "$(readlink -f "$0")")/lib.bash"
export FULL=${FULL:-} SUBJECT=${SUBJECT:-smol-dhcp-proxy}
begin_with_systemd "$@"

# Times in seconds; shares in percent. The daemon waits for what is due within two seconds, so that few containers fit into
# a short T1, and listens ten seconds for an answer, so that there is no sleep to be had in it while the server is silent.
if [ -n "$FULL" ]; then
    count=100 t1=60 t2=210 awake_limit=10 silence_limit=25
else
    count=2 t1=10 t2=20 awake_limit=40 silence_limit=100
fi
lease_time=240
[ "$SUBJECT" != netavark ] || unit=netavark-dhcp-proxy
server_options=(--dhcp-option-force=58,$t1 --dhcp-option-force=59,$t2)
source $lab/systemd-host.bash

# claim WHAT COMMAND...: must be so for smol-dhcp-proxy, and is noted for netavark.
claim() {
    if [ $unit != $theirs ]; then
        check "$@"
    elif "${@:2}"; then
        say "$1"
    else
        say "NOT SO: $1"
    fi
}
at_most() { awk -v value="$1" -v limit="$2" 'BEGIN { exit !(value <= limit) }'; }
lines() { wc -l < $server_log; }
# heard WHAT FROM [TO]: how often the server's log has that, between these lines.
heard() { sed -n "$(($2 + 1)),${3:-\$}p" $server_log | grep -c "$1(s0)" || true; }
address_list() {
    in_rig sh -c 'for name; do ip -br -4 -n $name addr show dev eth0; done' - "${names[@]}" | awk '{ print $3 }'
}

# --- A control group with nothing but this unit in it, and a witness that looks ten times a second.

group=$cgroup/proxy.slice
if [ $unit = $theirs ]; then
    settings Slice=proxy.slice
else
    settings Slice=proxy.slice ExecStart= "ExecStart=/usr/bin/smol-dhcp-proxy -a 1"
fi
in_rig systemctl start proxy.slice

# Each look: when it was, whether there was a process, and whether one of them was the daemon itself.
watch() {
    local key value pid name populated daemon never
    exec {never}<> <(:)
    while :; do
        populated=0 daemon=0
        while read -r key value; do [ "$key" != populated ] || populated=$value; done < $group/cgroup.events
        [ $populated = 0 ] || while read -r pid; do
            # systemd's child has its name in brackets until it becomes the daemon.
            read -r name < "/proc/$pid/comm" && [[ $name = smol-dhcp-proxy || $name = netavark ]] && daemon=1
        done < $group/$service/cgroup.procs || true
        echo "$EPOCHREALTIME $populated $daemon"
        read -r -t 0.1 -u $never || true
    done 2> /dev/null
}
watch > $lab/samples &
usage() { awk '$1 == "usage_usec" { print $2 }' "$1/cpu.stat"; }
# share FROM TO [COLUMN]: for how many percent of the time between these two there was a process, or with a 3 the daemon
# itself. A look holds until the next one.
share() {
    awk -v from="$1" -v to="$2" -v column="${3:-2}" '
        $1 >= from && last { all += $1 - last; there += ($1 - last) * was; looks++ }
        $1 >= from { last = $1; was = $column }
        $1 >= to { exit }
        END { if (looks < 7 * (to - from)) exit 1; printf "%.1f", 100 * there / all }' $lab/samples
}
starts() {
    in_rig journalctl -q -o cat UNIT=$service JOB_TYPE=start JOB_RESULT=done --since="@$1" --until="@$2" | wc -l
}

# --- Leases, evenly over one T1.

mapfile -t names < <(seq -f 'c%g' $count)
containers "${names[@]}"
for name in "${names[@]}"; do
    request "$(mac /run/netns/$name)" /run/netns/$name $name > $root/usr/$name.json
done
# calls setup|teardown PAUSE: one for each container, that many seconds apart.
calls() {
    in_rig bash -c 'what=$1 pause=$2 sock=$3; shift 3
        for name; do
            netavark-dhcp-proxy-client --uds $sock -f /usr/$name.json $what > /run/$name.$what & calls+=($!)
            sleep $pause
        done
        for call in "${calls[@]}"; do wait $call || exit 1; done' - "$1" "$2" $sock "${names[@]}"
}
check "$count Setups within $t1 s" calls setup "$(awk "BEGIN { print $t1 / $count }")"
address_list > $lab/addresses
check "$count different addresses" [ "$(sort -u $lab/addresses | grep -c '^10\.88\.')" = $count ]

# --- Three periods of T1.

watched=$EPOCHREALTIME watched_line=$(lines) cpu=$(usage $group) manager_cpu=$(usage $cgroup/init.scope)
sleep $((3 * t1))
watched_until=$EPOCHREALTIME watched_until_line=$(lines) cpu=$(($(usage $group) - cpu))
manager_cpu=$(($(usage $cgroup/init.scope) - manager_cpu))

# By the server's log, which is in whole seconds: how much later than its own T1 a renewal came at worst, or is at the end of
# this time, and how early one came, in percent of its own T1. dnsmasq makes each T1 some seconds shorter than it was told.
read -r latest earliest <<< "$(head -n "$watched_until_line" $server_log | awk -v now="$(date -d "@$watched_until" +%T)" '
    function seconds(time, part) { split(time, part, ":"); return part[1] * 3600 + part[2] * 60 + part[3] }
    function gap(address, time) { return (seconds(time) - seconds(last[address]) + 86400) % 86400 }
    function period(text, sum) {
        for (sum = 0; match(text, /^[0-9]+[ms]/); text = substr(text, RLENGTH + 1))
            sum += substr(text, 1, RLENGTH - 1) * (substr(text, RLENGTH, 1) == "m" ? 60 : 1)
        return sum
    }
    function late(address, time) { if (gap(address, time) - t1[address] > latest) latest = gap(address, time) - t1[address] }
    BEGIN { latest = -86400; earliest = 86400 }
    $6 == "DHCPACK(s0)" {
        if ($7 in last) {
            late($7, $3)
            # The second in which both fell may have been a whole one.
            part = 100 * (gap($7, $3) + 1) / t1[$7]
            if (part < earliest) earliest = part
        }
        last[$7] = $3
        subject[$5] = $7
    }
    $11 == "T1" { t1[subject[$5]] = period($12) }
    END {
        for (address in last) late(address, now)
        printf "%d %d", latest, earliest
    }')"
awake=$(share $watched $watched_until) || fail "the witness did not look often enough"
renewals=$(heard DHCPACK "$watched_line" "$watched_until_line")
discovers=$(heard DHCPDISCOVER "$watched_line" "$watched_until_line")
claim "each renewal at or before its own T1 + 2 s: the latest at T1 + $latest s" [ "$latest" -le 2 ]
claim "none before nine tenths of its T1: the earliest at $earliest %" [ "$earliest" -ge 90 ]
claim "at least three of each lease: $renewals" [ "$renewals" -ge $((3 * count)) ]
claim "no DISCOVER: $discovers" [ "$discovers" = 0 ]
claim "the addresses are the same" diff $lab/addresses <(address_list)
claim "a process exists $awake % of the time, at most $awake_limit %" at_most $awake $awake_limit

# --- It sleeps, and systemd can say until when.

[ $unit = $theirs ] ||
    wait_for $((t1 + 5)) "the service sleeps, and systemctl list-timers shows when it wakes" wakes_within $t1

# --- The server falls silent for one T1: stopped, so that not even the kernel answers for it.

silenced=$EPOCHREALTIME silenced_line=$(lines)
kill -STOP $server_pid
sleep $t1
server_dies
returned=$EPOCHREALTIME
silent=$(share $silenced $returned) || fail "the witness did not look often enough"
claim "with a silent server a process exists $silent % of the time, at most $silence_limit %" \
    at_most $silent $silence_limit
server_starts
answered_all() {
    [ "$(sed "1,${silenced_line}d" $server_log | awk '/DHCPACK\(s0\)/ { print $7 }' | sort -u | wc -l)" -ge $count ]
}
if [ $unit != $theirs ]; then
    wait_for $t2 "after its return each lease is renewed" answered_all
else
    sleep $t2
fi
recovered=$EPOCHREALTIME lost=$(heard DHCPDISCOVER "$silenced_line")
claim "without a DISCOVER: $lost" [ "$lost" = 0 ]
claim "the addresses are still the same" diff $lab/addresses <(address_list)

# --- The last Teardown leaves nothing.

check "$count Teardowns" calls teardown 0.01
claim "the lease file is an empty object" lease_file_is_empty
claim "no address is left" [ -z "$(address_list)" ]
[ $unit = $theirs ] || wait_for 10 "the service leaves" is_gone
claim "no timer is left" [ -z "$(timer)" ]

cat << FIGURES
FIGURES of $unit, $count leases, T1 $t1 s:
  a process exists                  $awake % of $((3 * t1)) s, $silent % of $t1 s without a server
  the daemon itself exists          $(share $watched $watched_until 3) % of $((3 * t1)) s, $(share $silenced $returned 3) % of $t1 s without a server
  starts                            $(starts $watched $watched_until) in $((3 * t1)) s, $(starts $silenced $returned) in $t1 s without a server
  renewals                          $renewals, the earliest at $earliest % of its T1, the latest at T1 + $latest s
  DISCOVERs                         $discovers, and $lost since the server was silent
  processor time of the service     $((cpu / (renewals + !renewals))) us for each renewal, all starts included
  that of systemd's process 1       $((manager_cpu / (renewals + !renewals))) us for each renewal
  after the silence all renewed     $(awk "BEGIN { printf \"%.1f\", $recovered - $returned }") s after the server's return
FIGURES
