#!/bin/bash
# `doctor` under a real systemd: each finding's verdict, its advice, and that the advice mends what it is about.
# Usage: tests/peers/doctor.sh        (takes about a minute; see lib.bash for the environment)
set -euo pipefail
source "$(dirname "$(readlink -f "$0")")/lib.bash"
need perl setpriv
# Read here: the tree may be below the /tmp that is hidden soon.
manual=$(cat "$repo/units/smol-dhcp-proxy.8")
begin_with_systemd "$@"
unit=netavark-dhcp-proxy
source $lab/systemd-host.bash
mkdir $root/srv/tree
cp -r $lab/units $root/srv/tree/
# As on a host that has not turned it off for a test.
ours=smol-dhcp-proxy
containers one

screen=$lab/screen
# doctor STATUS [ARGUMENT...]: leaves the screen in $screen, and wants that exit status.
doctor() {
    local expected=$1 code=0
    shift
    in_rig "${as[@]}" "${program:-smol-dhcp-proxy}" doctor "$@" > $screen 2>&1 || code=$?
    [ $code = "$expected" ] || fail "doctor $*: status $code, not $expected: $(cat $screen)"
    say "doctor $*: status $code"
}
as=()
# finds VERDICT SUBJECT [TEXT]: the screen has a line of it.
finds() {
    awk -F '  +' -v verdict="$1" -v subject="$2" -v text="${3:-}" \
        '$1 == verdict && $2 == subject && index($3, text) { found = 1 } END { exit !found }' $screen ||
        fail "no line: $1 $2 ${3:-}: $(cat $screen)"
    say "$1: $2: ${3:-}"
}
# advice SUBJECT: of its first finding that has one.
advice() {
    awk -F '  +' -v subject="$1" '$1 != "" { is_it = $2 == subject } is_it && $2 ~ /^-> / { print substr($2, 4); exit }' $screen
}
# mends SUBJECT COMMAND: that is the advice; it is run in the project's tree.
mends() {
    local advice
    advice=$(advice "$1")
    [ "$advice" = "$2" ] || fail "the advice of $1 is: $advice"
    in_rig sh -e -c "cd /srv/tree; $advice" < /dev/null > $lab/said 2>&1 || fail "$advice: $(cat $lab/said)"
    say "$advice"
}
all_is_well() {
    doctor 0
    ! grep -q -e PROBLEM -e unknown $screen || fail "$(cat $screen)"
}
leases_of_status() { in_rig smol-dhcp-proxy status --json | jq "$1"; }

# --- Netavark's units only, and a lease of its proxy.

check "netavark's proxy: Setup of one" call setup one
one=$(address one)
doctor 1
install='install -m 644 units/*.path units/*.service units/*.socket units/*.timer /etc/systemd/system/ && systemctl daemon-reload'
replace="systemctl enable $ours.socket && systemctl restart $ours.socket $ours.service"
finds note "socket unit" "$ours.socket is not installed"
finds PROBLEM "netavark's units" "$theirs.socket is active, and starts /usr/bin/netavark"
finds PROBLEM socket "is held by netavark"
finds note "netavark's leases" "1 lease of its proxy to take over at the next start: $one"
check "the advice for the socket is that for the units" [ "$(advice socket)" = "$(advice "netavark's units")" ]
check "and that for the leases" [ "$(advice "netavark's leases")" = "$install && $replace" ]
mends "netavark's units" "$install && $replace"

# --- The project's units, installed and right.

unit=$ours service=$ours.service socket=$ours.socket
settings "ExecStart=" "ExecStart=/usr/bin/smol-dhcp-proxy -a 30"
has_adopted() { [ "$(leases_of_status '.leases | length')" = 1 ]; }
wait_for 10 "the lease is adopted" has_adopted
all_is_well
finds ok "socket unit" "$socket is active and enabled"
finds ok "service unit" "$service is active, and starts /usr/bin/smol-dhcp-proxy"
finds ok "netavark's units" "$theirs.socket is another name of $socket"
finds ok socket "/run/podman/nv-proxy.sock listens, held by smol-dhcp-proxy ("
finds ok "netavark's leases" "there are none"
finds ok "state file" "1 lease"
check "the address is the same" [ "$(address one)" = "$one" ]

# masked FILE: the lines without what differs from host to host.
masked() {
    sed -E 's/^(ok +systemd +).*/\1VERSION/; s/Linux [^ ,]+,/Linux VERSION,/; s/[0-9]+/N/g; s/ +/ /g' "$1"
}
awk '/^# smol-dhcp-proxy doctor$/ { inside = 1; next } /^\.Ed$/ { inside = 0 } inside' <<< "$manual" > $lab/example
check "the manual's screen is this one" diff <(masked $lab/example) <(masked $screen)
check "the sandbox is the daemon's" grep -q "Landlock $(leases_of_status .daemon.sandbox.landlock) and a system call filter" $screen
doctor 0 --dir /var/run/podman
finds ok socket "/var/run/podman/nv-proxy.sock listens, held by"
before=$(property ExecMainStartTimestampMonotonic)
in_rig systemctl stop $service
check "asleep" is_gone
all_is_well
finds ok socket "/run/podman/nv-proxy.sock listens, held by systemd (1)"
check "doctor starts nothing" [ "$(property ExecMainStartTimestampMonotonic) $(is_gone && echo gone)" = "$before gone" ]

# --- Not root.

as=(setpriv --reuid 65534 --regid 65534 --clear-groups)
doctor 3
as=()
! grep -q PROBLEM $screen || fail "a problem, without permission: $(cat $screen)"
finds unknown "state file" "Permission denied"
check "advice: root" [ "$(advice "state file")" = "run doctor as root" ]
finds unknown socket
check "no other advice" [ "$(grep -e '-> ' $screen | grep -v -c 'run doctor as root')" = 0 ]

# --- The socket is stopped; a user cannot forge one that listens.

in_rig systemctl stop $socket
cat > $root/srv/forge.pl << 'FORGE'
use Socket;
# A line of /proc/net/unix in a name, whose slashes are folders, and a name that is no UTF-8.
my $line = "/tmp/a\nffff888000000000: 00000002 00000000 00010000 0001 01 1 ";
mkdir($_) or die $! for $line, "$line/run", "$line/run/podman";
for my $name ("$line/run/podman/nv-proxy.sock", "/tmp/\xff") {
    socket(my $socket, PF_UNIX, SOCK_STREAM, 0) or die $!;
    bind($socket, pack_sockaddr_un($name)) && listen($socket, 1) or die $!;
    push @all, $socket;
}
open(my $ready, '>', '/tmp/forged');
sleep 600;
FORGE
in_rig setpriv --reuid 65534 --regid 65534 --clear-groups perl /srv/forge.pl &
wait_for 5 "a user forges names of sockets" in_rig test -e /tmp/forged
doctor 1
finds PROBLEM "socket unit" "$socket is inactive"
finds PROBLEM socket "no process listens on /run/podman/nv-proxy.sock"
check "the advice is the same" [ "$(advice socket)" = "$(advice "socket unit")" ]
mends socket "systemctl enable --now $socket"
all_is_well
in_rig systemctl disable $socket 2> $lab/said
doctor 0
finds note "socket unit" "is active, and does not start at boot"
finds note "netavark's units" "$theirs.socket is inactive, but enabled"
# Two units become one, and systemd gives it the state of either.
mends "socket unit" "systemctl enable $socket && systemctl restart $socket"
all_is_well
finds ok "netavark's units" "$theirs.socket is another name of $socket"

# --- A unit is masked.

in_rig systemctl -q disable --now $socket
in_rig systemctl stop $service
mv $etc/$ours* $vendor/
in_rig systemctl daemon-reload
in_rig systemctl -q enable --now $socket
in_rig systemctl restart $service
all_is_well
in_rig systemctl -q mask --now $socket
doctor 1
finds PROBLEM "socket unit" "$socket is masked"
mends "socket unit" "systemctl unmask $socket && systemctl enable --now $socket"
all_is_well
in_rig systemctl -q mask $service
doctor 1
finds PROBLEM "service unit" "$service is masked"
mends "service unit" "systemctl unmask $service"
all_is_well

# --- The service has failed; its program is missing.

options --nonsense
in_rig systemctl restart $service > $lab/said 2>&1 || true
has_failed() { is ActiveState failed; }
wait_for 10 "with a wrong option it fails" has_failed
doctor 1
finds PROBLEM "service unit" "$service has failed: its command line or configuration is wrong"
told="journalctl -u $service -n 20 tells the reason; correct that, then systemctl restart $service"
check "advice: $told" [ "$(advice "service unit")" = "$told" ]
check "which it does" grep -q -e --nonsense <(in_rig journalctl -q -u $service -n 20)
settings "ExecStart=" "ExecStart=/usr/bin/smol-dhcp-proxy -a 30"
check "corrected, it starts" in_rig systemctl restart $service
all_is_well
mv $root/usr/bin/smol-dhcp-proxy $root/srv/
program=/srv/smol-dhcp-proxy
doctor 1
finds PROBLEM "service unit" "$service starts /usr/bin/smol-dhcp-proxy, which is not there"
mends "service unit" "install -m 755 /srv/smol-dhcp-proxy /usr/bin/smol-dhcp-proxy"
program=
all_is_well

# --- The state file is damaged, while the daemon runs and while it sleeps.

damage() { in_rig sh -c 'head -c 900 /run/podman/nv-proxy.state > /run/cut; cat /run/cut > /run/podman/nv-proxy.state'; }
has_lease() { [ "$(leases_of_status '.leases | length')" = 1 ]; }
in_rig systemctl restart $service
damage
doctor 1
finds PROBLEM "state file" "it cannot be read to its end: it is cut off; process"
mends "state file" "systemctl restart $service"
all_is_well
check "no lease is lost" has_lease
in_rig systemctl stop $service
damage
doctor 1
finds PROBLEM "state file" "a start keeps it as nv-proxy.state.unused"
mends "state file" "systemctl restart $service"
all_is_well
check "the file is kept" in_rig test -e /run/podman/nv-proxy.state.unused

# --- Others may write to the directory.

in_rig chown 65534 /run/podman
in_rig chmod 777 /run/podman
doctor 1
finds PROBLEM directory "/run/podman belongs to uid 65534"
mends directory "chown root /run/podman && chmod go-w /run/podman"
check "others read it as before" [ "$(in_rig stat -c '%u %a' /run/podman)" = "0 755" ]
all_is_well

# --- Netavark's socket, with the drop-in.

in_rig systemctl -q disable --now $socket
in_rig systemctl stop $service
in_rig systemctl stop $ours.timer 2> $lab/said || true
rm -r $vendor/$ours* $etc/$service.d
cp -r $lab/units/$theirs.service.d $etc/
in_rig systemctl daemon-reload
in_rig systemctl -q enable --now $theirs.socket
all_is_well
finds ok "socket unit" "$theirs.socket is active and enabled"
finds ok "netavark's units" "$theirs.service runs smol-dhcp-proxy by a drop-in"
in_rig systemctl stop $theirs.socket
doctor 1
finds PROBLEM "socket unit" "$theirs.socket is inactive"
mends "socket unit" "systemctl enable --now $theirs.socket"
all_is_well
service=$theirs.service
check "Teardown of one" call teardown one
wait_for 5 "the server heard DHCPRELEASE of $one" released "$one"
