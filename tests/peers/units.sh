#!/bin/bash
# The unit files as systemd reads them: no complaint, no sandbox that costs time, and the same settings in the drop-in.
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
cp "$units"/smol-dhcp-proxy{.socket,-*} "$scratch/"
complaints=$(systemd-analyze verify --man=no "$scratch"/smol-dhcp-proxy* 2>&1 | grep smol-dhcp-proxy || true)
check "systemd-analyze verify has nothing to say $complaints" [ -z "$complaints" ]

# A record and no verdict: it counts directives, and the service confines itself.
systemd-analyze security --offline=true --no-pager "$scratch/smol-dhcp-proxy.service" > "$scratch/score" || true
say "$(grep -o 'Overall exposure.*: [0-9.]*' "$scratch/score")"

# A start of the service during a shutdown must not wait for, or contradict, what is being stopped.
for unit in smol-dhcp-proxy.socket smol-dhcp-proxy.service smol-dhcp-proxy-fallback.timer smol-dhcp-proxy-lost.path; do
    for setting in DefaultDependencies=no IgnoreOnIsolate=yes; do
        check "$setting in $unit" grep -qx "$setting" "$units/$unit"
    done
done
check "no private /tmp, which requires tmp.mount" bash -c "! grep -q '^PrivateTmp=' '$units/smol-dhcp-proxy.service'"

# Settings of [Service] without comments.
settings() { sed '1,/^\[Service\]/d' "$1" | grep -v -e '^#' -e '^$' -e '^ExecStart=$'; }
check "the drop-in has the same [Service] settings" \
    diff <(settings "$units/smol-dhcp-proxy.service") <(settings "$drop_in")

for file in "$units/smol-dhcp-proxy.service" "$drop_in"; do
    for setting in WatchdogSec=120 RestartPreventExitStatus=2; do
        check "$setting in $(basename "$file")" grep -qx "$setting" "$file"
    done
    # /run/podman is Podman's.
    check "a directory of its own in $(basename "$file")" \
        [ "$(sed -n 's/^RuntimeDirectory=//p' "$file")" = smol-dhcp-proxy ]
    # Each of these needs a mount namespace, or has systemd build a filter at each start.
    costly='^(Private|Protect|Restrict|SystemCall|MemoryDeny|LockPersonality|MountFlags|[A-Za-z]+Paths=|(State|Cache|Logs|Configuration)Directory=|Root|Bind)'
    if grep -E "$costly" "$file"; then
        fail "$(basename "$file"): that is the part of the daemon's own sandbox"
    fi
    capabilities=$(sed -n 's/^CapabilityBoundingSet=//p' "$file")
    check "five capabilities in $(basename "$file")" \
        [ "$capabilities" = "CAP_SYS_ADMIN CAP_NET_ADMIN CAP_NET_RAW CAP_NET_BIND_SERVICE CAP_SYS_PTRACE" ]
done
