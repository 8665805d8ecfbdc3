#!/bin/bash
# The unit files as systemd reads them: no complaint, a tight sandbox, and the same sandbox in the drop-in.
# Usage: tests/peers/units.sh        (no root needed; see lib.bash for the environment)
set -euo pipefail
source "$(dirname "$(readlink -f "$0")")/lib.bash"
need systemd-analyze

units=$repo/units
drop_in=$units/netavark-dhcp-proxy.service.d/smol-dhcp-proxy.conf
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# The program need not be installed for this, so name one that is here. `verify` returns 0 on unknown keys.
sed 's|/usr/bin/smol-dhcp-proxy|/bin/true|' "$units/smol-dhcp-proxy.service" > "$scratch/smol-dhcp-proxy.service"
cp "$units/smol-dhcp-proxy.socket" "$scratch/"
complaints=$(systemd-analyze verify "$scratch/smol-dhcp-proxy.service" "$scratch/smol-dhcp-proxy.socket" 2>&1 |
    grep smol-dhcp-proxy || true)
check "systemd-analyze verify has nothing to say $complaints" [ -z "$complaints" ]

if ! systemd-analyze security --offline=true --threshold=33 --no-pager "$scratch/smol-dhcp-proxy.service" \
    > "$scratch/score"; then
    grep ✗ "$scratch/score"
    fail "exposure is above 3.3: $(tail -n 1 "$scratch/score")"
fi
say "$(grep -o 'Overall exposure.*: [0-9.]*' "$scratch/score")"

# Settings of [Service] without comments.
settings() { sed '1,/^\[Service\]/d' "$1" | grep -v -e '^#' -e '^$' -e '^ExecStart=$'; }
check "the drop-in has the same [Service] settings" \
    diff <(settings "$units/smol-dhcp-proxy.service") <(settings "$drop_in")

for file in "$units/smol-dhcp-proxy.service" "$drop_in"; do
    for setting in WatchdogSec=120 RestartPreventExitStatus=2; do
        check "$setting in $(basename "$file")" grep -qx "$setting" "$file"
    done
    if grep -v '^#' "$file" | grep -q -e RuntimeDirectory -e MountFlags -e PrivateMounts=no; then
        fail "$(basename "$file"): /run/podman is not ours, and mounts stay slaves of the host's"
    fi
    capabilities=$(sed -n 's/^CapabilityBoundingSet=//p' "$file")
    check "five capabilities in $(basename "$file")" \
        [ "$capabilities" = "CAP_SYS_ADMIN CAP_NET_ADMIN CAP_NET_RAW CAP_NET_BIND_SERVICE CAP_SYS_PTRACE" ]
done
