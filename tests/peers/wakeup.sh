#!/bin/bash
# A service that has systemd wake it (examples/wakeup.rs), under a real systemd and in the sandbox of the project's own units.
# Usage: tests/peers/wakeup.sh        (takes 40 seconds; see lib.bash for the environment; WAKEUP names the example)
#
# The clock on the wall is the machine's and cannot be set in here, nor can the machine be suspended: of the two ways in
# which a wake is asked for, the trial waits for the one that counts seconds and looks at what the other one says.
set -euo pipefail
source "$(dirname "$(readlink -f "$0")")/lib.bash"
need_daemon
for WAKEUP in "${WAKEUP:-}" {"$(dirname "$DAEMON")","$(dirname "$DAEMON")/../debug"}/examples/wakeup; do
    [ ! -x "$WAKEUP" ] || break
done
[ -x "$WAKEUP" ] || lacks "there is no $WAKEUP (cargo build --example wakeup)"
# It takes the program's place in the units, also when this script is started again.
export WAKEUP
DAEMON=$WAKEUP
need systemctl journalctl systemd-socket-activate jq perl nsenter setpriv unshare
begin_with_systemd "$@"
source $lab/systemd-rig.bash

service=smol-dhcp-proxy.service socket=smol-dhcp-proxy.socket timer=smol-dhcp-proxy.timer
etc=$root/etc/systemd/system sock=/run/podman/nv-proxy.sock said=$root/var/log/wakeup
rig_prepare
cp $lab/bin/smol-dhcp-proxy $root/usr/bin/
cp $lab/units/smol-dhcp-proxy* $etc/
systemctl --root=$root --quiet enable $socket

# arguments TEXT [LINE...]: sets the arguments of the service, and more lines for its [Service] section.
arguments() {
    mkdir -p $etc/$service.d
    printf '[Service]\nExecStart=\nExecStart=/usr/bin/smol-dhcp-proxy %%t/podman/nv-proxy.sock %s\n' "$1" > $etc/$service.d/wakeup.conf
    shift
    printf '%s\n' 'StandardError=append:/var/log/wakeup' "$@" >> $etc/$service.d/wakeup.conf
    [ -z "${rig_pid:-}" ] || in_rig systemctl daemon-reload
}
property() { in_rig systemctl show --value -p "$1" "${2:-$service}"; }
is() { [ "$(property "$1" "${3:-$service}")" = "$2" ]; }
is_running() { in_rig systemctl -q is-active "${1:-$service}"; }
is_gone() { is ActiveState inactive "${1:-$service}"; }
is_armed() { is ActiveState active "${1:-$timer}"; }
is_disarmed() { is LoadState not-found "${1:-$timer}"; }
says() { grep -q -F "wakeup: $1" $said; }
says_not() { ! says "$1"; }
mute() { : > $said; }
talk() {
    in_rig perl -MIO::Socket::UNIX -e '
        my $socket = IO::Socket::UNIX->new(Peer => $ARGV[0]) or die "$ARGV[0]: $!";
        $socket->syswrite("hello"); $socket->sysread(my $answer, 5); exit($answer ne "hello")' "${1:-$sock}"
}
# When the service started last, and when it was gone, in microseconds since the boot.
started() { property ExecMainStartTimestampMonotonic; }
gone() { property InactiveEnterTimestampMonotonic; }
started_after() { [ "$(started)" -gt "$1" ] && is_gone; }

# --- A wake, from a first caller on.

arguments "0.2 3 5"
rig_boot
trap 'code=$?; [ $code = 0 ] || rig_logs $said; rig_stop || true; exit $code' EXIT
check "a first caller is answered" talk
check "the service knows its unit" says "runs as $service"
wait_for 5 "it leaves" is_gone
check "it is woken for nothing but work" says prepared
check "in good order" is Result success
check "systemctl list-timers shows when it is back: $(in_rig systemctl list-timers --no-legend $timer)" \
    grep -q "$timer *$service" <(in_rig systemctl list-timers --no-legend $timer)
check "it counts seconds and knows the date, each twice" \
    [ "$(property TimersMonotonic $timer | grep -c OnActiveUSec) $(property TimersCalendar $timer | grep -c OnCalendar)" = "2 2" ]
for wake in 1 2 3; do
    before=$(started) left=$(gone)
    latest=1000
    # systemd counts its seconds anew then (its issue 31914), and the date, in whole seconds, holds.
    [ $wake != 2 ] || { check "(after a daemon-reload)" in_rig systemctl daemon-reload && latest=2000; }
    wait_for 6 "wake $wake" started_after "$before"
    late=$((($(started) - left) / 1000 - 3000))
    # It armed before it left, and systemd notices its end some milliseconds later.
    check "on time, $late ms after leaving and 3 s" [ $late -ge -1000 -a $late -lt $latest ]
    check "by the timer" says "woken by $timer"
    check "and it leaves at once, after $((($(gone) - $(started)) / 1000)) ms" [ $(($(gone) - $(started))) -lt 1000000 ]
done

# --- Asked for again, and taken back.

arguments "0.2 600"
mute
check "with a wake that is far away, a call" talk
wait_for 5 "replaces the one that was near" says prepared
wait_for 5 "it leaves" is_gone
sleep 4
check "and nobody woke it at the old time" says_not woken
check "the new one is armed" is_armed
arguments "0.2 0"
mute
check "with no wake wanted, a call" talk
wait_for 5 "takes it back" says prepared
wait_for 5 "it leaves" is_gone
check "nothing is armed" is_disarmed
mute
check "once more, with nothing to take back" talk
wait_for 5 "that is fine too" says prepared
wait_for 5 "it leaves" is_gone
check "in good order" is Result success

# --- A wake that fails is made good by the second one.

arguments "0.2 2 5" 'Restart=no' "ExecStartPre=/bin/sh -c 'test ! -e /run/podman/fails'"
mute
check "a call" talk
wait_for 5 "it leaves" is_gone
in_rig touch /run/podman/fails
left=$(gone)
mute
wait_for 5 "the first wake fails" is ActiveState failed
# It comes in two ways, and the second is up to a second later.
sleep 1.3
check "in both ways" [ "$(property ActiveState) $(cat $said)" = "failed " ]
in_rig rm /run/podman/fails
wait_for 5 "the second makes it good" says "woken by $timer"
wait_for 5 "it leaves" is_gone
late=$((($(started) - left) / 1000 - 5000))
check "on time, $late ms after leaving and 5 s" [ $late -ge -1000 -a $late -lt 1000 ]

# --- What is being stopped?

# asked WHAT EXPECTED UNIT...: while the service runs, these units are stopped.
asked() {
    local what=$1 expected=$2
    shift 2
    in_rig systemctl start $socket
    talk
    mute
    check "systemctl stop $*" in_rig systemctl -q stop "$@"
    check "is $what: $(cat $said)" says "shut down, all units being stopped: $expected"
    check "in good order" is Result success
}
arguments "60 2 4"
asked "the service alone" false $service
check "it is to be woken" is_armed
wait_for 5 "and is" says "woken by $timer"
wait_for 5 "and leaves" is_gone
arguments "60 600"
for units in $socket "$timer $socket $service" "$service $socket" "$socket $service"; do
    in_rig systemctl start $socket
    talk
    check "the wake is armed" in_rig systemctl -q stop $service
    # Unquoted: several.
    asked "all that starts it" true $units
    in_rig systemctl -q stop $timer || true
done
arguments "60 2 4"
in_rig systemctl start $socket
check "a call" talk
mute
check "systemctl restart of both" in_rig systemctl restart $socket $service
check "is no end: $(cat $said)" says "shut down, all units being stopped: false"
check "systemctl stop of a service that sleeps" in_rig systemctl -q stop $service
wait_for 5 "leaves the wake armed" is_armed
wait_for 5 "and is woken" says "woken by $timer"
wait_for 5 "and leaves" is_gone
in_rig systemctl -q stop $timer
# --- Under other names.

arguments "0.2 2 4"
printf '[Socket]\nFileDescriptorName=calls\n' > $root/run.conf
mkdir -p $etc/$socket.d && mv $root/run.conf $etc/$socket.d/name.conf
in_rig systemctl daemon-reload
in_rig systemctl restart $socket
mute
check "the socket's descriptor has a name of its own, and a call" talk
wait_for 5 "leads to a wake nevertheless" says "woken by $timer"
wait_for 5 "it leaves" is_gone
rm -r $etc/$socket.d
in_rig systemctl daemon-reload
in_rig systemctl -q stop $timer

theirs=netavark-dhcp-proxy
# With its names free, as on a host where only the drop-in was installed.
in_rig systemctl -q disable --now $socket
cp $lab/netavark-units/$theirs.socket $etc/
sed 's|@@NETAVARK@@|/usr/bin/false|' $lab/netavark-units/$theirs.service.in > $etc/$theirs.service
cp -r $lab/units/$theirs.service.d $etc/
cp $etc/$service.d/wakeup.conf $etc/$theirs.service.d/z.conf
in_rig systemctl daemon-reload
in_rig systemctl start $theirs.socket
mute
check "netavark's own unit with our drop-in: a call" talk
check "the service knows its unit" says "runs as $theirs.service"
wait_for 5 "it leaves" is_gone $theirs.service
check "its own timer is armed" is_armed $theirs.timer
check "and no other" is_disarmed
wait_for 5 "it is woken" says "woken by $theirs.timer"
wait_for 5 "it leaves" is_gone $theirs.service
in_rig systemctl -q stop $theirs.timer $theirs.socket

# --- A user's manager, whose units are not the system's.

units=$root/etc/user-units
mkdir -p $units
sed -e '/^Conflicts=/d' -e '/^After=netavark/d' -e '/^Before=netavark/d' $etc/$socket > $units/$socket
printf '[Service]\nType=notify\nExecStart=/usr/bin/smol-dhcp-proxy none 0.2 2 4\nStandardError=append:/var/log/wakeup\n' > $units/$service
cat > $etc/manager.service << 'UNIT'
[Service]
Type=notify
User=nobody
Delegate=yes
RuntimeDirectory=u
Environment=XDG_RUNTIME_DIR=/run/u HOME=/run/u SYSTEMD_UNIT_PATH=/etc/user-units:
ExecStart=/lib/systemd/systemd --user --unit=sockets.target
UNIT
in_user() { in_rig setpriv --reuid nobody --clear-groups env XDG_RUNTIME_DIR=/run/u "$@"; }
chmod 666 $said
in_rig systemctl daemon-reload
check "a user's manager" in_rig systemctl start manager.service
check "has our socket" in_user systemctl --user start $socket
mute
check "a call" talk /run/u/podman/nv-proxy.sock
check "the service knows its unit" says "runs as $service"
wait_for 5 "it leaves" says prepared
wait_for 5 "its timer is the user's" in_user systemctl --user -q is-active $timer
check "and not the system's" is_disarmed
wait_for 5 "it is woken" says "woken by $timer"
check "it stops" in_user systemctl --user -q stop $service
# There may be none: it has just elapsed.
in_user systemctl --user -q stop $timer 2> /dev/null || true
talk /run/u/podman/nv-proxy.sock
mute
check "the manager itself is stopped" in_rig systemctl stop manager.service
check "which the service sees: $(cat $said)" says "shut down, all units being stopped: true"

# --- Where there is no wake.

# alone WHY COMMAND...: started in another way, it says why it cannot be woken, and stays.
alone() {
    local why=$1
    shift
    mute
    in_rig "$@" 2>> $said &
    local job=$!
    wait_for 5 "it cannot be woken: $why" says "cannot be woken: $why"
    wait_for 5 "and stays" says stays
    kill $job
    wait $job || true
}
alone "systemd did not start it" smol-dhcp-proxy /run/alone.sock 0.1 2
# unit WHY COMMAND: as the process of a service.
unit() {
    mute
    printf '[Service]\nExecStart=%s\nStandardError=append:/var/log/wakeup\n' "$2" > $etc/other.service
    in_rig systemctl daemon-reload
    in_rig systemctl start other.service
    [ -z "${3:-}" ] || wait_for 5 "it is called" talk "$3"
    wait_for 5 "it cannot be woken: $1" says "cannot be woken: $1"
    wait_for 5 "and stays" says stays
    in_rig systemctl stop other.service
}
plain="systemd-socket-activate -l /run/other-plain.sock"
unit "systemd did not start it" "$plain smol-dhcp-proxy none 0.1 2" /run/other-plain.sock
unit "systemd did not start it, but one of its ancestors" "/bin/sh -c 'smol-dhcp-proxy /run/other.sock 0.1 2; true'"
unit "its socket is not from a systemd socket unit" "smol-dhcp-proxy /run/other.sock 0.1 2"
activate="systemd-socket-activate -E SYSTEMD_EXEC_PID -E INVOCATION_ID -l /run/other-activated.sock"
unit "its socket is not from a systemd socket unit" "$activate smol-dhcp-proxy none 0.1 2" /run/other-activated.sock
check "and no timer was made" is_disarmed other.timer
