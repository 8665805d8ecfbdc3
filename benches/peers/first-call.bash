#!/bin/bash
# The first call to a sleeping daemon under a real systemd, with the project's units and with netavark's.
# benches/first_call.rs runs this with itself as the client ($CLIENT). A line of figures is "FIGURE NAMESPACES SUBJECT MS".
set -euo pipefail
source "$(dirname "$(readlink -f "$0")")/../../tests/peers/lib.bash"
name=first-call
export CLIENT ROUNDS=${ROUNDS:-9} sandbox=auto
# Opened here, because it may be below this machine's /tmp, which is hidden later.
[ -n "${PRIVATE:-}" ] || exec 9< "$CLIENT"
begin_with_systemd "$@"
cat <&9 > $lab/bin/client
chmod +x $lab/bin/client
source $lab/systemd-host.bash

options -a 0.2
# netavark's units beside them, with another socket path.
install_peer_units
sed -i 's|%t/podman|/run/peer|' $etc/$peer.socket
sed -i 's|-a 30|-d /run/peer -a 1|' $etc/$peer.service
in_rig mkdir -p /run/peer
in_rig systemctl daemon-reload
in_rig systemctl restart $socket
in_rig systemctl start $peer.socket
made=0
for namespaces in 0 10 100; do
    while [ $made -lt $namespaces ]; do in_rig ip netns add n$((made += 1)); done
    in_rig env FIRST_CALL_ROUNDS="$ROUNDS" client ours $sock $service netavark /run/peer/nv-proxy.sock $peer.service |
        sed "s/^/FIGURE $namespaces /"
done
say "systemd $(in_rig systemctl --version | awk '{ print $2; exit }')"
