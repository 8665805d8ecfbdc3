#!/bin/bash
# podman, with a `network create` that takes the dhcp driver, as it does from Podman 4.5 on: it leaves the file that those
# leave. pages.bash installs it in front of an older Podman, which uses such a network and refuses to make it.
set -euo pipefail
[ "${1:-} ${2:-}" = "network create" ] || exec /usr/bin/podman "$@"
shift 2
refuse() {
    echo "Error: $*" >&2
    exit 125
}
driver=bridge interface= ipam= options={} disabled=false
while [[ ${1:-} = -* ]]; do
    case $1 in
        -d | -o | --interface-name) [ $# -gt 1 ] || refuse "flag needs an argument: $1" ;;
    esac
    case $1 in
        -d) driver=$2 && shift ;;
        -o)
            case $driver,$2 in
                macvlan,parent=*) interface=${2#*=} ;;
                bridge,mode=unmanaged) options=$(jq -nc --arg value "${2#*=}" '{ mode: $value }') ;;
                *) refuse "unsupported $driver network option $2" ;;
            esac
            shift
            ;;
        --interface-name) interface=$2 && shift ;;
        --disable-dns) disabled=true ;;
        --ipam-driver=*) ipam=${1#*=} ;;
        *) refuse "unknown flag: $1" ;;
    esac
    shift
done
[ $# = 1 ] || refuse "one name"
[ "$driver" = macvlan ] || [ "$driver" = bridge ] || refuse "unsupported driver $driver"
[ "$ipam" = dhcp ] || refuse "unsupported ipam driver $ipam"
file=/etc/containers/networks/$1.json
[ ! -e "$file" ] || refuse "network name $1 already used"
id=$(sha256sum <<< "$1" | head -c 64)
jq -n --arg name "$1" --arg id "$id" --arg driver "$driver" --arg interface "$interface" --argjson options "$options" \
    --argjson disabled $disabled '{ name: $name, id: $id, driver: $driver, network_interface: $interface,
    created: "2024-01-01T00:00:00Z", ipv6_enabled: false, internal: false,
    dns_enabled: ($driver == "bridge" and ($disabled | not)), options: $options, ipam_options: { driver: "dhcp" } }' > "$file"
echo "$1"
