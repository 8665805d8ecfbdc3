#!/bin/bash
# The last net: with the service killed and nothing to start in its place, the kernel takes address and route away when the lease ends.
# Usage: tests/peers/masked.sh        (takes two minutes and a half; see lib.bash for the environment)
set -euo pipefail
source "$(dirname "$(readlink -f "$0")")/lib.bash"
begin_with_systemd "$@"
# dnsmasq's shortest.
lease_time=2m
source $lab/systemd-host.bash

default_route() { in_rig ip -n "$1" route show default; }
is_bare() { [ -z "$(address "$1")" ] && [ -z "$(default_route "$1")" ]; }

containers one
check "Setup" call setup one
check "a lease of two minutes" [ "$(jq .lease_time $lab/answer)" = 120 ]
began=$SECONDS
check "the container has the leased address" [ "$(address one)" = "$(jq -r .yiaddr $lab/answer)" ]
check "and a default route" [ -n "$(default_route one)" ]
# Masked, it would still be what is in /etc; and it goes on with its leases whenever it is started again.
settings ExecStart= ExecStart=/bin/false Restart=no
say "the service cannot be started again"
check "and killed" in_rig systemctl kill --kill-who=main --signal=KILL $service
wait_for 5 "it does not come back" bash -c "! pgrep --ns $rig_pid --nslist pid -x smol-dhcp-proxy"
sleep $((100 - (SECONDS - began)))
check "after 100 s the container still has its address" [ -n "$(address one)" ]
wait_for 25 "at the end of the lease neither address nor default route is there" is_bare one
check "not before its time" [ $((SECONDS - began)) -ge 115 ]
