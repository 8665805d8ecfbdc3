#!/bin/bash
# What goes wrong around a service, under a real systemd with the project's own units: a thread that stands still, a wrong
# command line, and a systemd-run that fails for a while.
# Usage: tests/peers/mishaps.sh        (takes two minutes; see lib.bash for the environment)
set -euo pipefail
source "$(dirname "$(readlink -f "$0")")/lib.bash"
begin_with_systemd "$@"

t1=8
server_options=(--dhcp-option-force=58,$t1 --dhcp-option-force=59,60)
source $lab/systemd-host.bash
containers one

sleeps_in_time() { wait_for "${1:-10}" "the service sleeps, and its timer is armed" sleeps; }
restarts() { property NRestarts; }
has_restarted() { [ "$(restarts)" -gt "$1" ] && is_running; }

# --- A process that stands still is killed by the watchdog, and the next one goes on with its lease.

settings WatchdogSec=1 ExecStart= "ExecStart=/usr/bin/smol-dhcp-proxy -a 60"
check "Setup of one" call setup one
before=$(restarts)
sleep 3
check "a daemon that works is left alone" [ "$(restarts)" = "$before" ]
in_rig kill -STOP "$(property MainPID)"
wait_for 10 "one that stands still is killed and started again" has_restarted "$before"
check "systemd says why" [ "$(said 'Watchdog timeout')" -ge 1 ]
renews one $((t1 + 8))

# --- A wrong command line is told to those who call, and not tried again and again.

# Its timer too, which would start it for the next renewal.
in_rig systemctl stop $service
in_rig systemctl stop ${service%.service}.timer
options --colour
refusal() {
    ! call setup one 2> $lab/refusal || return 1
    grep -qF -e "smol-dhcp-proxy: $1" $lab/refusal $lab/answer || { cat $lab/refusal $lab/answer && return 1; }
}
check "the caller hears what is wrong" refusal "invalid option '--colour'"
wait_for 10 "the service has failed" is ActiveState failed
check "with status 2" is ExecMainStatus 2
sleep 3
check "it is not started again" [ "$(restarts)" = 0 -a "$(property ActiveState)" = failed ]
check "the socket is there for the next caller" in_rig systemctl -q is-active $socket
check "and that one is told the same" refusal "invalid option '--colour'"
wait_for 10 "the service has failed" is ActiveState failed

# --- A systemd-run that fails keeps the service from sleeping for a minute, and no longer.

# A program, not a script: no shell is allowed by the sandbox.
in_rig cp /bin/false /run/systemd-run
settings ExecStart= "ExecStart=/usr/bin/smol-dhcp-proxy -a 0.5" Environment=PATH=/run:/usr/sbin:/usr/bin:/sbin:/bin
check "Setup of one, once more" call setup one
told() { [ "$(said 'systemd-run: exit status: 1')" = 1 ]; }
wait_for 15 "the service says why it cannot sleep" told
check "it stays" is_running
in_rig rm /run/systemd-run
sleeps_in_time 90
renews one $((t1 + 8))
sleeps_in_time
check "it was said once" told
