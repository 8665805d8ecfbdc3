#!/bin/bash
# `status` of a daemon that sleeps, that nothing starts again, and that is started anew, on a host with real Podman under a
# real systemd; and the screens of smol-dhcp-proxy(8), compared with those of the program but for digits and blanks.
# Usage: tests/peers/status.sh        (takes half a minute; see lib.bash for the environment)
set -euo pipefail
source "$(dirname "$(readlink -f "$0")")/lib.bash"
need podman crun conmon busybox
# Read here: the tree may be below the /tmp that is hidden soon.
manual=$(cat "$repo/units/smol-dhcp-proxy.8")
begin_with_systemd "$@"
server_options=()
source $lab/systemd-host.bash
page=status blocks=$lab/blocks
mkdir $blocks
: > $blocks/names
source $lab/pages.bash

# What differs from one host to another: ids, MACs, numbers, lengths of time, and the blanks behind them.
mask() {
    sed -E -e 's/[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}/ID/g' -e 's/\b[0-9a-f]{64}\b/ID/g' \
        -e 's/([0-9a-f]{2}:){5}[0-9a-f]{2}/MAC/g' -e 's/[0-9]+/N/g' -e 's/\bN (d|h|min|s)( N (h|min|s))?\b/TIME/g' -e 's/ +/ /g'
}
# screen COMMAND: the lines below it in the manual.
screen() { sed -n "/^# $1\$/,/^\.Ed\$/{//!p}" <<< "$manual"; }
# compare COMMAND: what it prints, with the manual.
compare() {
    in_rig sh -c "$1" > $lab/screen 2>&1 || fail "$1: $(cat $lab/screen)"
    diff <(screen "$1" | mask) <(mask < $lab/screen) > $lab/difference ||
        fail "the manual has another screen of $1; the program's: $(cat $lab/screen; cat $lab/difference)"
    say "the manual has the screen of $1:"
    sed 's/^/    /' $lab/screen
}
status() { in_rig smol-dhcp-proxy status "$@" > $lab/status 2>&1; }
is_healthy() { status && head -n 1 $lab/status | grep -q ' healthy; the daemon sleeps until '; }
has() { grep -q -e "$1" $lab/status; }

make_podman_host localhost/it
options -a 1
in_rig podman network create -d macvlan -o parent=eth0 --ipam-driver=dhcp lan > $lab/podman 2>&1 || fail "$(cat $lab/podman)"
# Leases are shown in the order of their MACs.
check "a container" container web --mac-address 02:00:00:00:00:01
check "one that is removed when it ends" container job --mac-address 02:00:00:00:00:02 --rm
wait_for 20 "the daemon sleeps" sleeps

# --- Asleep.

before=$(property ExecMainStartTimestampMonotonic)
check "it is healthy" is_healthy
compare "smol-dhcp-proxy status"
compare "smol-dhcp-proxy status web"
check "nothing was started" [ "$before" = "$(property ExecMainStartTimestampMonotonic)" ]

# --- As the manual stops everything.

in_rig systemctl stop smol-dhcp-proxy.timer smol-dhcp-proxy.socket smol-dhcp-proxy.service
code=0
status || code=$?
check "not healthy: $(sed -n 2p $lab/status)" [ $code = 1 ]
check "with the reason" has "^  no daemon runs, and nothing starts it again: systemd no longer has its timer$"
code=0
status --openmetrics || code=$?
check "in OpenMetrics, too" [ $code = 1 ]
check "as a gauge" has "^smol_dhcp_proxy_healthy 0$"

# --- Started again: nothing but the timer has changed.

in_rig systemctl start $socket $service
wait_for 20 "the daemon sleeps" sleeps
check "it is healthy again" is_healthy

# --- The same while it is awake.

in_rig systemctl start $service
in_rig systemctl stop smol-dhcp-proxy.timer smol-dhcp-proxy.socket smol-dhcp-proxy.service
code=0
status || code=$?
check "not healthy: $(sed -n 2p $lab/status)" [ $code = 1 ]
check "with the reason" has "^  no daemon runs, and nothing starts it again: no timer is set$"
in_rig systemctl start $socket $service
wait_for 20 "the daemon sleeps" sleeps
check "it is healthy again" is_healthy

# --- A timer that systemd refuses is none.

in_rig mv /usr/bin/systemd-run /usr/bin/systemd-run.away
printf '#!/bin/sh\necho refused >&2\nexit 1\n' > $root/usr/bin/systemd-run
chmod +x $root/usr/bin/systemd-run
in_rig systemctl start $service
check "a stop without a timer" in_rig systemctl stop $service
check "is logged" [ "$(said 'cannot arm')" -ge 1 ]
code=0
status || code=$?
check "and is not healthy: $(sed -n 2p $lab/status)" [ $code = 1 ]
check "with the reason" has "^  no daemon runs, and nothing starts it again: no timer is set$"
in_rig mv /usr/bin/systemd-run.away /usr/bin/systemd-run
in_rig systemctl start $service
wait_for 20 "the daemon sleeps" sleeps
check "it is healthy again" is_healthy
in_rig podman rm -f -t 0 web job > $lab/podman 2>&1
has_no_timer() { [ -z "$(timer)" ]; }
wait_for 20 "no timer is left" has_no_timer
