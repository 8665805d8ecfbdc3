#!/bin/bash
# netavark's own test suite for its dhcp-proxy, run against this program with netavark's real client.
# Usage: tests/peers/netavark-suite.sh        (takes 130 s: one of its tests waits for a lease of two minutes to end)
#
# The suite is read from the source of the netavark 2.1.0 crate; nothing of it is copied into this repository. Its files
# run side by side in private namespaces. See lib.bash for the environment.
set -euo pipefail
source "$(dirname "$(readlink -f "$0")")/lib.bash"
need_daemon
need_netavark
need_netavark_source
need bats dnsmasq jq openssl ip unshare
enter_private_namespaces "$@"

suite=$lab/test-dhcp
# One number is the peer's habit and not the protocol's: with dnsmasq's three seconds of ping before an OFFER, its
# client sends a second DISCOVER in time, so that the host name is logged exactly 3 times. Any two or more are right.
sed -i '/grep -c "client provides name: foobar"/s/== 3/-ge 2/' $suite/002-setup.bats
check "the count of host names is relaxed" grep -q 'foobar.* -ge 2' $suite/002-setup.bats
# A test looks into the log of dnsmasq, which the background makes: on a busy machine that is too late.
sed -i 's|^  ip netns exec .* dnsmasq --log-debug|  touch "$TMP_TESTDIR/dnsmasq.log"\n&|' $suite/helpers.bash
check "the log of dnsmasq is there before it is read" grep -q 'touch "$TMP_TESTDIR/dnsmasq.log"' $suite/helpers.bash

# The suite starts "$NETAVARK dhcp-proxy ..."; our program has no sub-command.
printf '#!/bin/sh\nshift\nexec %s/bin/smol-dhcp-proxy "$@"\n' $lab > $lab/bin/as-netavark
chmod +x $lab/bin/as-netavark
export NETAVARK=$lab/bin/as-netavark NETAVARK_DHCP_PROXY_CLIENT=$lab/bin/netavark-dhcp-proxy-client

# Every test makes a network namespace with a random name and works in there alone. What the files would share are
# the places where its dnsmasq writes, so each file gets these, and its mounts, for itself.
in_own_mounts=(unshare --mount sh -c 'mount -t tmpfs tmpfs /var/log && mount -t tmpfs tmpfs /var/lib/misc && exec "$@"' sh)
files=("$suite"/*.bats)
pids=()
for file in "${files[@]}"; do
    TERM=dumb "${in_own_mounts[@]}" bats --tap "$file" > "$file.log" 2>&1 &
    pids+=($!)
done
failed=0
for i in "${!files[@]}"; do
    if wait "${pids[$i]}"; then grep '^ok' "${files[$i]}.log"; else failed=1; cat "${files[$i]}.log"; fi
done
check "netavark's own suite passes" [ $failed = 0 ]
