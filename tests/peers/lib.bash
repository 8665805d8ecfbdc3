# What every script with real peers shares: finding the parts, private namespaces, waiting for something to be so.
#
# A script sources this file. Its verdict is its exit code: 0 passed, 77 skipped (the reason on stdout), else failed.
# Environment, all optional:
#   DAEMON                     the program under test              (the release build of this package)
#   NETAVARK_BIN               the folder of netavark 2.1.0        (~/.cache/smol-dhcp-proxy/netavark-2.1.0/bin)
#   NETAVARK_SOURCE            its source, with test-dhcp/         (beside that folder, else cargo's registry)
#   SMOL_DHCP_PROXY_REQUIRE=1  a missing program is a failure, not a reason to skip

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
repo=$(cd "$here/../.." && pwd)
name=$(basename "$0" .sh)
netavark_home=${XDG_CACHE_HOME:-$HOME/.cache}/smol-dhcp-proxy/netavark-2.1.0
# Debian keeps dnsmasq, ip and the like where an ordinary user does not look.
export PATH=$PATH:/usr/sbin:/sbin

# This machine cannot do it, whatever is installed.
skip() {
    echo "skipped: $*"
    exit 77
}

# A program is not here, and could be.
lacks() {
    [ "${SMOL_DHCP_PROXY_REQUIRE:-}" = 1 ] || skip "$*"
    echo "missing: $*"
    exit 1
}

need() {
    local program
    for program; do command -v "$program" > /dev/null || lacks "$program is not installed"; done
}

need_daemon() {
    DAEMON=${DAEMON:-${CARGO_TARGET_DIR:-$repo/target}/release/smol-dhcp-proxy}
    [ -x "$DAEMON" ] || lacks "there is no $DAEMON (cargo build --release)"
}

need_netavark() {
    NETAVARK_BIN=${NETAVARK_BIN:-$netavark_home/bin}
    [ -x "$NETAVARK_BIN/netavark-dhcp-proxy-client" ] && [ -x "$NETAVARK_BIN/netavark" ] ||
        lacks "there is no netavark 2.1.0 in $NETAVARK_BIN (tests/run builds it)"
}

need_netavark_source() {
    local folder
    for folder in "${NETAVARK_SOURCE:-}" "$netavark_home/source" \
        "${CARGO_HOME:-$HOME/.cargo}"/registry/src/*/netavark-2.1.0; do
        [ -d "$folder/test-dhcp" ] && NETAVARK_SOURCE=$folder && return
    done
    lacks "there is no source of netavark 2.1.0 (tests/run fetches it)"
}

# Root of the machine itself, not of a user namespace.
need_real_root() {
    [ "$(id -u)" = 0 ] && [ "$(tr -s ' ' < /proc/self/uid_map)" = " 0 0 4294967295" ] ||
        skip "$1 needs the machine's own root"
}

# Starts the script again as process 1 of its own mount, network and process namespaces, with empty /run and /tmp.
# Nothing of the machine can be touched from there, and all that was started or mounted is gone when the script ends.
# $lab is a scratch folder that only these namespaces see, $lab/bin has the programs.
enter_private_namespaces() {
    if [ "${PRIVATE:-}" != "$name" ]; then
        export PRIVATE=$name DAEMON NETAVARK_BIN NETAVARK_SOURCE
        local user=()
        [ "$(id -u)" = 0 ] || user=(--user --map-root-user)
        unshare "${user[@]}" --mount --net true 2> /dev/null || skip "namespaces are not allowed here"
        exec unshare "${user[@]}" --mount --propagation private --net --ipc --pid --fork --kill-child --mount-proc \
            bash "$(readlink -f "$0")" "$@" < /dev/null
    fi
    # -n: mount(8) would first leave a note of it in the /run that is about to be hidden.
    mount -n -t tmpfs -o mode=755 tmpfs /run
    lab=/run/lab
    mkdir -p $lab/bin
    [ -z "${DAEMON:-}" ] || cp "$DAEMON" $lab/bin/smol-dhcp-proxy
    [ -z "${NETAVARK_BIN:-}" ] || cp "$NETAVARK_BIN"/netavark* $lab/bin/
    [ -z "${NETAVARK_SOURCE:-}" ] || {
        cp -r "$NETAVARK_SOURCE/test-dhcp" $lab/
        cp -r "$NETAVARK_SOURCE/contrib/systemd/system" $lab/netavark-units
    }
    cp -r "$repo/units" "$here"/*.bash $lab/
    mount -t tmpfs -o mode=1777 tmpfs /tmp
    cd $lab
    ip link set lo up
}

# begin_with_systemd "$@": the same for a script that boots a systemd of its own and calls with netavark's client, with all
# that takes.
begin_with_systemd() {
    need_real_root "a systemd that is process 1"
    need_daemon
    need_netavark
    need_netavark_source
    enter_private_namespaces "$@"
}

say() { echo "- $*"; }

# Fails the script; the trap set by `show_on_failure` then prints the logs.
fail() {
    echo "FAILED: $*"
    exit 1
}

# check WHAT COMMAND...: the command must succeed.
check() {
    local what=$1
    shift
    if "$@"; then say "$what"; else fail "$what ($*)"; fi
}

# wait_for SECONDS WHAT COMMAND...: the command must succeed within that time.
wait_for() {
    local end=$((SECONDS + $1)) what=$2
    shift 2
    until "$@" 2> /dev/null; do
        [ $SECONDS -lt $end ] || fail "$what: not so in time ($*)"
        sleep 0.1
    done
    say "$what"
}

# show_on_failure FILE...: prints these files, where they exist, when the script does not end well.
show_on_failure() {
    logs=("$@")
    trap 'code=$?; [ $code = 0 ] || [ $code = 77 ] || for log in "${logs[@]}"; do
        [ ! -s "$log" ] || { echo "--- $log"; tail -n 60 "$log"; }
    done; exit $code' EXIT
}

# dhcp_server INTERFACE LOG LEASES [OPTION...]: dnsmasq at 10.88.0.1/16, in the namespace of the caller, with leases of
# $lease_time, an hour where that is not set.
dhcp_server() {
    local interface=$1 log=$2 leases=$3
    shift 3
    ip addr replace 10.88.0.1/16 dev "$interface"
    ip link set "$interface" up
    dnsmasq --keep-in-foreground --conf-file=/dev/null --port=0 --interface="$interface" --bind-interfaces \
        --dhcp-range=10.88.1.0,10.88.200.0,255.255.0.0,${lease_time:-1h} --dhcp-option=3,10.88.0.1 --dhcp-option=6,10.88.0.53 \
        --dhcp-authoritative --no-ping --log-dhcp --dhcp-leasefile="$leases" --log-facility="$log" --pid-file= \
        --user=root --group=root "$@" &
}
