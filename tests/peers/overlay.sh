#!/bin/bash
# Containers whose root file systems are overlays below a private mount, as Podman keeps them, restart while the service
# sleeps: it holds no copy of their mounts. And the folder of its files may be removed while it sleeps.
# Usage: tests/peers/overlay.sh        (takes a minute; see lib.bash for the environment)
set -euo pipefail
source "$(dirname "$(readlink -f "$0")")/lib.bash"
begin_with_systemd "$@"

source $lab/systemd-host.bash
rounds=20 storage=/var/lib/containers/storage/overlay
containers one

# What the kernel says, where it may be read. Nothing in it tells whose overlay it was.
warnings() { dmesg 2> /dev/null | grep -c 'upperdir is in-use' || true; }
# mount_root OPTIONS: the root file system of the container, with an upper folder for each set of options.
mount_root() {
    in_rig mount -t overlay overlay \
        -o "lowerdir=$storage/low,upperdir=$storage/$1/diff,workdir=$storage/$1/work,index=$1" $storage/$1/merged
}
unmount_root() { in_rig umount $storage/$1/merged; }
sleeps_in_time() { wait_for 10 "the service sleeps" sleeps > /dev/null; }
is_host_mount_namespace() {
    [ "$(in_rig readlink /proc/1/ns/mnt)" = "$(in_rig readlink "/proc/$(property MainPID)/ns/mnt")" ]
}
# restart: as Podman does it, with the service asleep at first.
restart() {
    is_gone && call teardown one || return 1
    for index in off on; do unmount_root $index && mount_root $index || return 1; done
    call setup one
}

in_rig sh -c 'mkdir -p $0; mount -t tmpfs storage $0; mount --make-private $0
    for index in off on; do mkdir -p $0/low $0/$index/diff $0/$index/work $0/$index/merged; done' $storage
mount_root off && mount_root on || skip "overlay mounts on tmpfs are not possible here"

options -a 0.2
before=$(warnings)
check "Setup of a container with an overlay" call setup one
for ((round = 1; round <= rounds; round++)); do
    sleeps_in_time
    restart || fail "restart $round"
done
say "$rounds restarts, each with the service asleep"
check "the kernel says nothing of an overlay in use" [ "$(warnings)" = "$before" ]
sleeps_in_time
options -a 60
check "a Teardown of the unknown is answered" unknown
check "the service runs in the mount namespace of the host" is_host_mount_namespace
check "Teardown" call teardown one
in_rig systemctl stop $service

# What all of this is for: with a mount namespace of its own the service does hold them.
settings ExecStart= "ExecStart=/usr/bin/smol-dhcp-proxy -a 60" PrivateMounts=yes
check "a Teardown of the unknown is answered by a service with mounts of its own" unknown
unmount_root on
cannot_mount() { ! mount_root "$1" 2> /dev/null; }
check "then the root file system cannot be mounted again" cannot_mount on
in_rig systemctl stop $service
check "and can as soon as the service has stopped" mount_root on

# --- /run/podman is removed while the service sleeps.

options -a 0.2
check "Setup" call setup one
sleeps_in_time
in_rig rm -rf /run/podman
check "the service is started, as its timer does" in_rig systemctl start $service
wait_for 5 "it leaves again" is_gone
check "it ended well" is Result success
check "the folder is there again" in_rig test -d /run/podman
in_rig rm -rf /run/podman
in_rig systemctl restart $socket
check "with a new socket calls are answered: Setup" call setup one
check "the container has an address" [ -n "$(address one)" ]
sleeps_in_time
check "Teardown" call teardown one
wait_for 10 "the service leaves" is_gone
