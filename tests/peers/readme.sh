#!/bin/bash
# The commands of README.md, in their order, on a host that runs netavark's proxy: real Podman under a real systemd.
# Usage: tests/peers/readme.sh        (takes a minute; see lib.bash for the environment)
#
# A shell block of README.md has a comment before it, "run by: FILE", with this file and the block's name for those that
# belong here, or "not run: REASON". Each block that names this file is run below, in the order of README.md. The image that
# comes from a registry there is here already.
set -euo pipefail
source "$(dirname "$(readlink -f "$0")")/lib.bash"
need podman crun conmon busybox
# Read here: the tree may be below the /tmp that is hidden soon.
readme=$(cat "$repo/README.md")
begin_with_systemd "$@"
unit=netavark-dhcp-proxy
# And IPv6 by router advertisements.
server_options=(--enable-ra --dhcp-range=2001:db8::,ra-only)
source $lab/systemd-host.bash
source $lab/pages.bash
page=README.md

# --- The blocks of README.md: NAME.sh for each that is run here, their names in order, and the others as KIND.NUMBER.

blocks=$lab/blocks
mkdir $blocks
awk -v folder=$blocks '
    function wrong(what) { print "README.md:" NR ": " what; failed = 1 }
    function open_block() {
        kind = substr($0, 4)
        file = folder "/" kind
        if (kind !~ /^(sh|bash|shell|console)$/) { file = file "." ++count[kind]; return }
        file = ""
        if (mark ~ /^<!-- run by: tests\/peers\/readme\.sh \([a-z-]+\) -->$/) {
            name = mark
            gsub(/.*\(|\).*/, "", name)
            if (name in seen) wrong("a second block of the name " name)
            seen[name] = 1
            print name > (folder "/names")
            file = folder "/" name ".sh"
        } else if (mark !~ /^<!-- (run by: [^ ]+|not run: .+) -->$/) wrong("a shell block that is neither run nor marked")
    }
    /^```/ { inside = !inside; if (inside) open_block(); mark = ""; next }
    inside && file != "" { print > file }
    !inside && NF { mark = $0 }
    END { exit failed }' <<< "$readme" || fail "README.md has blocks that nothing runs"

# --- A host with Podman, netavark's proxy, an image, and the tree of the project.

ip addr add 2001:db8::1/64 dev s0 nodad
server_dies
server_starts
make_podman_host docker.io/library/busybox
mkdir -p $root/srv/tree/target/release
mv $root/usr/bin/smol-dhcp-proxy $root/srv/tree/target/release/

# --- Is this for me?

run network
quadlet=/usr/libexec/podman/quadlet
if in_rig test -x $quadlet; then
    printf '[Container]\nImage=%s\nNetwork=lan.network\n' $image > $root/etc/containers/systemd/web.container
    path=$(sed -n '1s/^# //p' $blocks/ini.1)
    cp $blocks/ini.1 "$root$path"
    in_rig $quadlet -dryrun > $lab/said 2>&1 || fail "the quadlet: $(cat $lab/said)"
    check "the quadlet makes the same network" says '^ExecStart=.*network create .*macvlan.*dhcp.*parent=eth0 lan$'
    check "and its container is on it" says '--network lan '
    rm "$root$path" $root/etc/containers/systemd/web.container
else
    say "no quadlets with this Podman"
fi
for name in web other; do check "$name starts, with netavark's proxy" container $name; done
web=$(address_of web) other=$(address_of other)
check "with an address for ever: $web" [ -n "$web" -a "$(lifetime_of web)" = forever ]

# --- Install.

unit=smol-dhcp-proxy service=$unit.service socket=$unit.socket
run install
wait_for 10 "running containers are taken over" have_leases web other
check "with their addresses" [ "$(address_of web) $(address_of other)" = "$web $other" ]
check "by our daemon" is_ours
check "and the manual is installed" in_rig test -s /usr/local/share/man/man8/smol-dhcp-proxy.8
check "with that of the files" in_rig test -s /usr/local/share/man/man5/smol-dhcp-proxy.lease.5

# --- Check.

run check
check "the server is heard" says "^server 10\.88\.0\.1"
check "the container showed its address" says 'inet 10\.88\.'
check "the leases are shown" says "^web .* $web"
check "and the journal what was done" says "smol-dhcp-proxy.*$web"
wait_for 40 "the daemon leaves" sleeps
in_rig smol-dhcp-proxy status > $lab/said
check "and its timer is shown" says "sleeps until"

# --- Go back, and there again.

run go-back
service=$theirs.service
check "a call is answered" unknown
check "by netavark's proxy" is_theirs
check "the containers have addresses for ever" [ "$(lifetime_of web) $(lifetime_of other)" = "forever forever" ]
say "$web and $other before, $(address_of web) and $(address_of other) now"
in_rig systemctl kill --kill-who=main --signal=KILL $service
check "netavark's proxy was killed, and serves a third container" container third
check "but has forgotten the leases of the others" \
    [ "$(in_rig grep -ac -e "$web" -e "$other" /run/podman/nv-proxy.lease)" = 0 ]
for name in web other; do check "$name is started again" in_rig podman restart -t 0 $name; done
web=$(address_of web) other=$(address_of other)
service=$unit.service
again install
wait_for 10 "running containers are taken over" have_leases web other
check "with their addresses" [ "$(address_of web) $(address_of other)" = "$web $other" ]

# --- Options that matter.

mkdir -p $etc/$service.d
cp $blocks/ini.2 $etc/$service.d/override.conf
in_rig systemctl daemon-reload
discovers() { grep -c DHCPDISCOVER $server_log || true; }
before=$(discovers)
check "the lines for systemctl edit, and a restart" in_rig systemctl restart $service
check "the daemon has the option" has_argument mac
check "leases stay" [ "$(lifetime_of web)" -gt 0 -a "$(address_of web) $(address_of other)" = "$web $other" ]
check "without a DISCOVER" [ "$(discovers)" = "$before" ]
check "a container with a MAC of its own" container made --mac-address 02:00:00:00:00:01
made=$(address_of made)
in_rig podman rm -f -t 0 made > $lab/podman 2>&1
check "and it is made anew" container made --mac-address 02:00:00:00:00:01
check "with the same address: $made" [ -n "$made" -a "$(address_of made)" = "$made" ]

# --- IPv6, by the sysctl that README.md names.

sysctl=$(grep -o 'net\.ipv6\.conf\.eth0\.autoconf=1' <<< "$readme")
has_ipv6() { in_rig podman exec "$1" ip -6 addr show dev eth0 | grep -q 'inet6 2001:db8:'; }
check "a container with $sysctl" container six --sysctl "$sysctl"
wait_for 30 "it has an address of the router's prefix" has_ipv6 six
! has_ipv6 web || fail "a container without it has one, too"

# --- Troubleshooting.

run by-hand
check "the lease is renewed" says "^web .*renewed"
check "the server heard DHCPRELEASE of $web" released "$web"
check "the container has a lease: $(address_of web)" [ "$(lifetime_of web)" -gt 0 ]

# --- Back once more, with the daemon awake, to a host where nothing listens.

check "the daemon runs" is_running
again go-back
check "no timer is left" [ -z "$(timer)" ]
check "where nothing is left to be stopped, that is no failure" in_rig systemctl stop "$unit.*"
service=$theirs.service
check "a call is answered" unknown
check "by netavark's proxy" is_theirs
in_rig systemctl stop $theirs.socket $service
! container none || fail "a container without a daemon"
cp $lab/podman $lab/said
check "Podman says what README.md says" says 'is the netavark-dhcp-proxy.socket unit enabled?'

all_were_run
