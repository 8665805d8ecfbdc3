# Boots a real systemd as process 1 of a throw-away machine: a copy-on-write view of this machine's own root file system.
#
# Source it after lib.bash, within enter_private_namespaces. Then:
#   rig_prepare                 makes the file system; add files below $root, enable units with `systemctl --root=$root`
#   rig_boot                    starts systemd and waits until sockets.target is up
#   in_rig COMMAND...           runs a command inside, in all of its namespaces
#   $rig_pid                    its process 1 as seen from here, for nsenter and for `ip link ... netns $rig_pid`
#   rig_stop                    powers off; also done when the script ends, however it ends
# Only the units that the script asks for run in there, and its network is empty but for lo.

root=$lab/machine/root
cgroup=

rig_prepare() {
    local machine=$lab/machine
    mkdir -p $machine
    mount -t tmpfs tmpfs $machine
    mkdir -p $machine/{upper,work,root,cgroup}

    # A cgroup of its own, from which a cgroup namespace can start.
    mount -t cgroup2 cgroup2 $machine/cgroup || skip "there is no cgroup v2 here"
    # Empty ones of runs that were killed are swept: rmdir leaves alone whatever has a process.
    find $machine/cgroup -depth -type d -path '*/smol-dhcp-proxy-test-*' -mmin +10 -exec rmdir {} + 2> /dev/null || true
    cgroup=$machine/cgroup/smol-dhcp-proxy-test-$RANDOM$RANDOM
    mkdir $cgroup || skip "cgroups cannot be made here"

    mount -t overlay overlay -o lowerdir=/,upperdir=$machine/upper,workdir=$machine/work $root ||
        skip "overlay mounts are not allowed here"
    # Nothing of what this machine would start, neither its own choice nor its distribution's.
    rm -rf $root/etc/systemd/system $root/{usr/,}lib/systemd/system/*.wants $root/etc/systemd/journald.conf.d
    mkdir -p $root/etc/systemd/system $root/etc/systemd/journald.conf.d
    : > $root/etc/fstab
    printf '[Journal]\nStorage=volatile\nRateLimitBurst=0\n' > $root/etc/systemd/journald.conf.d/rig.conf
    # A system call that the daemon's filter lacks ends it, unless figures are wanted.
    mkdir -p $root/etc/systemd/system.conf.d
    echo "[Manager]
DefaultEnvironment=SMOL_DHCP_PROXY_SANDBOX=${sandbox:-strict}" > $root/etc/systemd/system.conf.d/rig.conf
    cat > $root/etc/systemd/system/rig.target << UNIT
[Unit]
Requires=basic.target
After=basic.target
Wants=systemd-journald.service
AllowIsolate=yes
UNIT

    cat > $machine/init << INIT
set -e
root=$root
mount -t proc proc \$root/proc
mount -t sysfs sysfs \$root/sys
mount -t cgroup2 cgroup2 \$root/sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs \$root/dev
for node in null zero full random urandom tty; do
    : > \$root/dev/\$node
    mount --bind /dev/\$node \$root/dev/\$node
done
mkdir \$root/dev/pts \$root/dev/shm
mount -t devpts -o newinstance,ptmxmode=0666 devpts \$root/dev/pts
ln -s pts/ptmx \$root/dev/ptmx
ln -s /proc/self/fd \$root/dev/fd
mount -t tmpfs -o mode=755 tmpfs \$root/run
mount -t tmpfs -o mode=1777 tmpfs \$root/tmp
ip link set lo up
mkdir \$root/.old
cd \$root
pivot_root . .old
umount -l /.old
# As on every host that systemd boots: without it a sandboxed service could not see what is mounted after its start.
mount --make-rshared /
exec env -i container=rig PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --system --unit=rig.target \
    --log-target=journal --log-level=info --show-status=no
INIT
}

rig_boot() {
    # The subshell moves into the cgroup first, so that systemd finds itself at the root of its own hierarchy.
    (
        sh -c 'echo $PPID' > $lab/machine/booting
        echo "$(cat $lab/machine/booting)" > $cgroup/cgroup.procs
        exec unshare --pid --fork --kill-child --mount --uts --ipc --net --cgroup bash $lab/machine/init < /dev/null
    ) > $lab/machine/console 2>&1 &
    rig_unshare=$!
    trap 'code=$?; [ $code = 0 ] || rig_logs; rig_stop || true; exit $code' EXIT
    wait_for 10 "systemd runs as process 1" rig_is_systemd
    wait_for 20 "systemd $(in_rig systemctl --version | awk '{print $2; exit}') has booted" \
        in_rig systemctl -q is-active rig.target
}

rig_is_systemd() {
    rig_pid=$(cat "/proc/$rig_unshare/task/$rig_unshare/children")
    rig_pid=${rig_pid// /}
    [ -n "$rig_pid" ] && [ "$(cat "/proc/$rig_pid/comm")" = systemd ]
}

in_rig() {
    nsenter --target "$rig_pid" --all --root --wd env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
        TERM=dumb SYSTEMD_PAGER= SYSTEMD_COLORS=0 "$@"
}

rig_logs() {
    for log in $lab/machine/console "$@"; do [ ! -s "$log" ] || { echo "--- $log"; tail -n 40 "$log"; }; done
    echo "--- journal"
    in_rig journalctl --no-pager -o short-precise -n 80 || true
}

rig_stop() {
    if [ -n "${rig_pid:-}" ] && kill -0 "$rig_pid" 2> /dev/null; then
        # The end of process 1 is the end of all in its namespace.
        kill -KILL "$rig_pid"
        wait "$rig_unshare" 2> /dev/null || true
    fi
    rig_pid=
    [ -z "$cgroup" ] || find $cgroup -depth -type d -exec rmdir {} + 2> /dev/null || true
    cgroup=
}
