#!/bin/bash
# The commands of smol-dhcp-proxy(8) and smol-dhcp-proxy.lease(5), each page's in their order, on a host with real Podman
# under a real systemd.
# Usage: tests/peers/manual.sh        (takes half a minute; see lib.bash for the environment)
#
# A literal block in EXAMPLES or COMPATIBILITY has a comment before it, `.\" run by: tests/peers/manual.sh (NAME)` or
# `.\" not run: REASON`. Each block of the first kind is run below, or written to the file that the text before it names.
# The images that come from a registry there are here already.
set -euo pipefail
source "$(dirname "$(readlink -f "$0")")/lib.bash"
need podman crun conmon busybox script
# Read here: the tree may be below the /tmp that is hidden soon.
manual=$(cat "$repo/units/smol-dhcp-proxy.8") manual_of_files=$(cat "$repo/units/smol-dhcp-proxy.lease.5")
begin_with_systemd "$@"
reserved=10.88.7.50
server_options=(--dhcp-host=02:00:00:00:00:50,$reserved)
source $lab/systemd-host.bash
source $lab/pages.bash

# --- The blocks of a page: NAME.sh for each, their names in order, and NAME.text with the commands in the text before it.

# read_blocks PAGE FOLDER: the blocks of the page on standard input.
read_blocks() {
    mkdir "$2"
    awk -v page="$1" -v folder="$2" '
    function wrong(what) { print page ":" NR ": " what; failed = 1 }
    function open_block() {
        file = ""
        if (mark ~ /^\.\\" not run: ./) return
        if (mark !~ /^\.\\" run by: tests\/peers\/manual\.sh \([a-z-]+\)$/) {
            wrong("a block that is neither run nor marked")
            return
        }
        name = mark
        gsub(/.*\(|\).*/, "", name)
        if (name in seen) wrong("a second block of the name " name)
        seen[name] = 1
        print name > (folder "/names")
        file = folder "/" name ".sh"
        printf "%s", text > (folder "/" name ".text")
    }
    # plain(LINE): without the escapes of roff(7).
    function plain(line) {
        if (line ~ /^[.\047]/) wrong("a macro in a block")
        gsub(/\\e/, "\001", line)
        gsub(/\\&/, "", line)
        gsub(/\\-/, "-", line)
        if (line ~ /\\/) wrong("an unknown escape in a block")
        gsub(/\001/, "\\", line)
        return line
    }
    /^\.Sh / { is_read = /^\.Sh (EXAMPLES|COMPATIBILITY)$/ }
    !is_read { next }
    /^\.D[1l] / { wrong("a command outside of a block") }
    /^\.Bd / { inside = 1; open_block(); next }
    /^\.Ed$/ { inside = 0 }
    inside && file != "" { print plain($0) > file }
    !inside { mark = $0 }
    /^\.(Ed|Pp|S[hs] .*)$/ { text = "" }
    /^\.Ql systemctl / { sub(/^\.Ql /, ""); sub(/ [.,:]$/, ""); text = text $0 "\n" }
    END { exit failed }' || fail "$1 has blocks that nothing runs"
}
read_blocks smol-dhcp-proxy.lease.5 $lab/blocks-of-files <<< "$manual_of_files"
page=smol-dhcp-proxy.8 blocks=$lab/blocks
read_blocks $page $blocks <<< "$manual"

# edit NAME: `systemctl edit`, as in the text before the block of that name, with the block put where the editor says.
edit() {
    take "$1"
    cp $blocks/$1.sh $root/srv/drop-in
    cat > $root/srv/editor << 'EDITOR'
#!/bin/sh
# An option may come first: the number of a line.
for file; do :; done
exec sed -i '/^### Anything/r /srv/drop-in' "$file"
EDITOR
    chmod +x $root/srv/editor
    # systemctl asks for a terminal.
    in_rig env HOME=/srv XDG_RUNTIME_DIR=/run/user/0 SYSTEMD_EDITOR=/srv/editor \
        script -qec "$(grep ' edit ' $blocks/$1.text)" /dev/null < /dev/null > $lab/said 2>&1 ||
        fail "$(cat $blocks/$1.text $lab/said)"
    say "$page, $1: $(grep ' edit ' $blocks/$1.text)"
}
# remove_network CONTAINER: and that container, for an example that makes the network anew.
remove_network() {
    in_rig podman rm -f -t 0 "$1" > $lab/podman 2>&1 && in_rig podman network rm lan > $lab/podman 2>&1 ||
        fail "the network stays: $(cat $lab/podman)"
}
mac_of() { in_rig podman exec "$1" cat /sys/class/net/eth0/address; }
path_of() { in_rig podman inspect --format '{{.NetworkSettings.SandboxKey}}' "$1"; }

# --- EXAMPLES: networks.

make_podman_host docker.io/library/nginx:alpine image
install_their_units
run network
check "web has a lease" have_leases web
check "its address was shown" says "inet $(address_of web)/16 .* dynamic"
check "by our daemon" is_ours

# --- Commands in running text: each is run, or said to be none for a script.

# done_well COMMAND: as root, in the tree. systemctl status says by 3 that a unit is inactive, and journalctl by 1 that there is
# no entry; tcpdump ends with its time.
done_well() {
    local status=0
    in_rig timeout -k 1 5 sh -c "cd $folder && $1" < /dev/null > $lab/said 2>&1 || status=$?
    case $1:$status in
        *:0 | "systemctl status "*:3 | "tcpdump "*:124) ;;
        "journalctl "*:1) grep -q -e 'No entries' -e 'No data available' $lab/said ;;
        *) return 1 ;;
    esac
}
while IFS= read -r command; do
    case $command in
        # An editor, options for a block of EXAMPLES, words for a verb or a manager, and the end of this network.
        "systemctl edit "* | "systemctl --user"* | "systemctl enable" | "podman run "* | "podman inspect") ;;
        *) check "$command" done_well "$command" ;;
    esac
done <<< "$(sed -n -E 's/^\.Ql ((systemctl|journalctl|podman|jq|ip|tcpdump|smol-dhcp-proxy) .*)/\1/p' \
    <<< "$manual"$'\n'"$manual_of_files" | sed -E 's/ [.,:;]$//' | sort -u)"
check "the socket listens again" in_rig systemctl restart $socket
check "a call is answered" unknown
check "by our daemon" is_ours
remove_network web

in_rig sh -c 'ip link add br0 type bridge; ip link set br0 up; ip link set eth0 master br0'
run bridge
check "a container on the bridge" container bridged
check "it has a lease: $(address_of bridged)" have_leases bridged
check "its link is a port of br0" [ "$(in_rig ip -j link show master br0 | jq length)" = 2 ]
remove_network bridged
check "br0 stays" in_rig ip link del br0

# commands_of_quadlets: the commands that a Podman with quadlets makes of lan.network and web.container.
commands_of_quadlets() {
    local section= name= image= key value create=(podman network create) start=(podman run -d --name systemd-web)
    while IFS='=' read -r key value; do
        [ -n "$key" ] || continue
        case $section$key in
            *']') section=$key ;;
            '[Network]NetworkName') name=$value ;;
            '[Network]Driver') create+=(-d "$value") ;;
            '[Network]Options') create+=(-o "$value") ;;
            '[Network]IPAMDriver') create+=("--ipam-driver=$value") ;;
            '[Container]Image') image=$value ;;
            '[Container]Network') [ "$value" = lan.network ] && start+=(--network "$name") || return 1 ;;
            *) return 1 ;;
        esac
    done
    echo "${create[*]} $name && ${start[*]} $image"
}
quadlets=$root/etc/containers/systemd
# install_quadlets NAME: the two files of a block.
install_quadlets() {
    take "$1"
    sed '/^\[Container\]$/,$d' $blocks/$1.sh > $quadlets/lan.network
    sed -n '/^\[Container\]$/,$p' $blocks/$1.sh > $quadlets/web.container
}
install_quadlets quadlet
if in_rig test -x /usr/libexec/podman/quadlet; then
    in_rig systemctl daemon-reload
    in_rig systemctl start web.service > $lab/said 2>&1 || fail "$(cat $lab/said; in_rig journalctl -n 30 -u web -u lan-network)"
else
    commands=$(cat $quadlets/lan.network $quadlets/web.container | commands_of_quadlets) || fail "the quadlets have unknown lines"
    say "no quadlets with this Podman; in their place: $commands"
    in_rig sh -c "$commands" > $lab/said 2>&1 || fail "$(cat $lab/said)"
fi
check "the container of the quadlet has a lease" have_leases systemd-web
in_rig systemctl stop web.service lan-network.service 2> /dev/null || true
rm $quadlets/{lan.network,web.container}
in_rig systemctl daemon-reload
in_rig podman network rm -f lan > $lab/podman 2>&1
again network

# --- EXAMPLES: options, and an address that stays.

address=$(address_of web)
# A process that is started in a lease's first two seconds exits as soon as they are over.
listens_no_more() { [ "$(in_rig podman exec web cat /proc/net/packet | wc -l)" = 1 ]; }
wait_for 5 "the lease is established" listens_no_more
edit options
check "and $(sed -n 2p $blocks/options.text)" in_rig $(sed -n 2p $blocks/options.text)
check "the daemon has the option" has_argument mac
check "and the variable" grep -qz -x RUST_LOG=debug <(in_rig cat "/proc/$(property MainPID)/environ")
check "leases stay" have_leases web
check "with their addresses" [ "$(address_of web)" = "$address" ]
run fixed-address
fixed=$(cat $lab/output)
check "the server has reserved its address" [ "$(address_of "$fixed")" = $reserved ]
in_rig podman rm -f -t 0 "$fixed" > $lab/podman 2>&1
again fixed-address
fixed=$(cat $lab/output)
check "it is made anew, with the same address" [ "$(address_of "$fixed")" = $reserved ]
run reconnect
check "the server heard DHCPRELEASE of $address" released "$address"
check "the container has a lease: $(address_of web)" have_leases web

# --- EXAMPLES: the files.

run leases
for one in web "$fixed"; do
    line=$(grep -P "^$(address_of "$one")\teth0\t$(path_of "$one")\tBOUND\t[0-9]+$" $lab/output) ||
        fail "no line for $one at $(path_of "$one")"
    due=${line##*$'\t'}
    check "something is due for $(address_of "$one") in $due s" [ "$due" -gt 0 -a "$due" -lt 3600 ]
done
check "that is all" [ "$(wc -l < $lab/output)" = 2 ]
run addresses
check "the addresses, by MAC" [ "$(jq -cS . $lab/output)" = "$(jq -ncS --arg web "$(mac_of web)" --arg address "$(address_of web)" \
    --arg fixed "$(mac_of "$fixed")" --arg reserved $reserved '{ ($web): [$address], ($fixed): [$reserved] }')" ]

# --- EXAMPLES of smol-dhcp-proxy.lease(5).

page=smol-dhcp-proxy.lease.5 blocks=$lab/blocks-of-files ran_before=$ran names_before=("${names[@]}")
mapfile -t names < $blocks/names
ran=0
run all-addresses
for one in web "$fixed"; do
    check "the address of $one, with MAC and namespace" grep -qx -P "$(address_of "$one")\t$(mac_of "$one")\t$(path_of "$one")" $lab/output
done
check "that is all" [ "$(wc -l < $lab/output)" = 2 ]
run ends
for one in web "$fixed"; do
    left=$(grep -P "^$(address_of "$one")\t[0-9]+$" $lab/output | cut -f 2)
    check "the lease of $(address_of "$one") ends in $left s" [ "${left:-0}" -gt 0 -a "${left:-0}" -le 3600 ]
done
run forget
check "the addresses stay, with a lifetime" have_leases web "$fixed"
check "a call starts the daemon" unknown
check "it knows of no lease" lease_file_is_empty
all_were_run
page=smol-dhcp-proxy.8 blocks=$lab/blocks ran=$ran_before names=("${names_before[@]}")

# --- EXAMPLES: from netavark's proxy, and back.

are_theirs() { [ "$(lifetime_of web) $(lifetime_of "$fixed")" = "forever forever" ]; }
# The process may have exited since.
are_adopted() { [ "$(said "adopting the lease of netavark's proxy")" = 2 ]; }
again go-back
service=$theirs.service
check "netavark's proxy runs" is_theirs
check "the containers have addresses for ever" are_theirs
address=$(address_of web)
service=$unit.service
run switch
wait_for 10 "the leases are adopted" have_leases web "$fixed"
check "with their addresses" [ "$(address_of web) $(address_of "$fixed")" = "$address $reserved" ]
wait_for 2 "by our daemon" are_adopted
is_enabled() { [ "$(in_rig ls /etc/systemd/system/sockets.target.wants)" = "$1" ]; }
check "its socket is enabled, and no other" is_enabled $socket
run go-back
service=$theirs.service
check "netavark's socket is enabled, and no other" is_enabled $theirs.socket
check "netavark's proxy runs" is_theirs
check "the containers have addresses for ever" are_theirs

# --- COMPATIBILITY: the drop-in.

address=$(address_of web)
folder=/srv/tree/units
run drop-in
wait_for 10 "the leases are adopted" have_leases web "$fixed"
check "with their addresses" [ "$(address_of web) $(address_of "$fixed")" = "$address $reserved" ]
wait_for 2 "by our daemon, under the name of netavark's" are_adopted
options -a 1
in_rig systemctl restart $service
wait_for 10 "it sleeps, with an option in another drop-in" sleeps
rm $etc/$service.d/test.conf
run drop-in-back
check "no timer is left" [ -z "$(timer)" ]
check "a call is answered" unknown
check "by netavark's proxy" is_theirs

# --- COMPATIBILITY: a user's manager, root's.

cp $lab/units/smol-dhcp-proxy* $root/etc/systemd/user/
in_rig systemctl stop $theirs.socket $service
in_rig install -d -m 700 /run/user/0
as_user() { in_rig env XDG_RUNTIME_DIR=/run/user/0 systemctl --user "$@"; }
in_rig systemd-run --quiet --unit=manager --property=Type=notify --property=Delegate=yes --setenv=HOME=/srv \
    --setenv=XDG_RUNTIME_DIR=/run/user/0 /lib/systemd/systemd --user --unit=basic.target
edit user
check "the user's manager has the socket" as_user start $unit.socket
sock=/run/user/0/podman/nv-proxy.sock
containers one
check "Setup" call setup one
check "the container has an address" [ -n "$(address one)" ]
check "the state is the user's" in_rig grep -q "$(address one)" /run/user/0/podman/nv-proxy.state
check "the service is the user's manager's" as_user -q is-active $unit.service
check "Teardown" call teardown one

all_were_run
