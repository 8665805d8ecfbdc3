#!/bin/bash
# Both packages installed, ours and netavark's, the units of both enabled, under a real systemd: whatever is done to
# netavark's units, one socket listens, it is ours, and our leases go on.
# Usage: tests/peers/twice.sh        (takes a minute and a half; see lib.bash for the environment)
set -euo pipefail
source "$(dirname "$(readlink -f "$0")")/lib.bash"
begin_with_systemd "$@"

t1=6
server_options=(--dhcp-option-force=58,$t1 --dhcp-option-force=59,20)
both=${both:-before}
source $lab/systemd-host.bash
containers one two
# Debian's own tool, where it is installed, is what maintainer scripts call; policy-rc.d would keep it from everything.
rm -f $root/usr/sbin/policy-rc.d
invoke() {
    if in_rig test -e /usr/bin/deb-systemd-invoke; then in_rig deb-systemd-invoke "$@"; else in_rig systemctl "$@"; fi
}

# by_both_names PROPERTY: of our socket, as each of the two names has it.
by_both_names() { echo "$(property "$1" $socket) $(property "$1" $theirs.socket)"; }
is_ours_alone() {
    [ "$(by_both_names Id)" = "$socket $socket" ] && [ "$(property ActiveState $socket)" = active ] &&
        [ "$(in_rig systemctl list-units --no-legend --plain '*dhcp-proxy.socket' | wc -l)" = 1 ]
}
shows_ours() { in_rig systemctl status --no-pager $theirs.socket | grep -q "$socket - DHCP leases for containers"; }
main() { in_rig readlink "/proc/$(property MainPID)/exe"; }
sleeps_in_time() { wait_for 10 "the service sleeps, and its timer is armed" sleeps; }
# undisturbed WHAT COMMAND...: our socket is the only one after it, and the lease of one is renewed.
undisturbed() {
    say "$1"
    shift
    "$@" > $lab/said 2>&1 || fail "$* ($(cat $lab/said))"
    check "one socket listens, and it is ours" is_ours_alone
    check "systemctl status of netavark's shows it" shows_ours
    check "the address is there" [ "$(address one)" = "$one" ]
    renews one $((t1 + 8))
}

# --- Started at boot, both being enabled.

check "at boot one socket listens, and it is ours" is_ours_alone
check "netavark's service, as default.target wants it" in_rig systemctl start $theirs.service
check "is ours" [ "$(property Id $theirs.service) $(main)" = "$service /usr/bin/smol-dhcp-proxy" ]
options -a 0.5
in_rig systemctl restart $service
check "Setup of one" call setup one
one=$(address one)
check "it has an address: $one" [ -n "$one" ]

# --- netavark's package is upgraded.

sleeps_in_time
undisturbed "asleep, an upgrade of netavark restarts its units" invoke restart $theirs.socket $theirs.service
options -a 60
in_rig systemctl restart $service
check "the service is awake" is_running
undisturbed "awake, an upgrade of netavark restarts its units" invoke restart $theirs.socket $theirs.service
undisturbed "awake, systemctl restart of both" in_rig systemctl restart $theirs.socket $theirs.service
undisturbed "awake, systemctl try-restart of the service" in_rig systemctl try-restart $theirs.service
options -a 0.5
in_rig systemctl restart $service
sleeps_in_time
undisturbed "asleep, systemctl restart of the socket" in_rig systemctl restart $theirs.socket
undisturbed "asleep, systemctl start of both" in_rig systemctl start $theirs.socket $theirs.service
check "Setup of two" call setup two
two=$(address two)

# --- netavark's package is removed, and comes back.

sleeps_in_time
remove() { invoke stop $theirs.service $theirs.socket && rm $vendor/$theirs.* && in_rig systemctl daemon-reload; }
check "netavark's package is removed" remove
renews one $((t1 + 8))
check "for that our socket listens again" is_ours_alone
check "Teardown of two" call teardown two
wait_for 2 "its server heard DHCPRELEASE" released "$two"
install_their_units
options -a 60
in_rig systemctl restart $service
check "the service is awake" is_running
check "netavark's package is removed" remove
check "nothing listens" [ "$(property ActiveState $socket)" = inactive ]
check "ours is started again" in_rig systemctl start $service
check "one socket listens, and it is ours" [ "$(property ActiveState $socket)" = active ]
renews one $((t1 + 8))
options -a 0.5
in_rig systemctl restart $service
install_and_start() {
    install_their_units
    in_rig systemctl daemon-reload
    # Which refuses: the name is ours.
    in_rig systemctl enable $theirs.socket || true
    invoke start $theirs.socket $theirs.service
}
undisturbed "netavark's package is installed after ours" install_and_start

# --- Ours is upgraded, and removed.

undisturbed "systemctl reenable, as after an upgrade of ours" in_rig systemctl reenable $socket
sleeps_in_time
check "ours is disabled" in_rig systemctl -q disable --now $socket
check "and stopped" in_rig systemctl stop ${service%.service}.timer $service
rm $etc/$socket $etc/$service
in_rig systemctl daemon-reload
check "netavark's socket starts" in_rig systemctl start $theirs.socket
check "it is netavark's own" [ "$(property Id $theirs.socket)" = $theirs.socket ]
check "and answers" unknown
service=$theirs.service
check "as netavark" [ "$(main)" = /usr/bin/netavark ]
check "Setup of two" call setup two

# --- Ours is installed while netavark's serves, by other steps than the README's.

service=smol-dhcp-proxy.service
two=$(address two)
cp $lab/units/$socket $lab/units/$service $etc/
options -a 0.5
check "ours is enabled" in_rig systemctl enable --now $socket
check "one socket listens, and it is ours" is_ours_alone
check "netavark goes on for as long as it runs" [ "$(main)" = /usr/bin/netavark ]
check "it is replaced" in_rig systemctl restart $service
renews one $((t1 + 8))
renews two $((t1 + 8))
check "Teardown of one" call teardown one
check "Teardown of two" call teardown two
for lost in "$one" "$two"; do wait_for 2 "the server heard DHCPRELEASE of $lost" released "$lost"; done
check "the lease file is an empty object" lease_file_is_empty
