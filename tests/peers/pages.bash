# Commands of a page, run as root in the tree of the project on a booted systemd (systemd-host.bash) with Podman and netavark.
#
# Source it after systemd-host.bash. Then:
#   page=NAME                   the page, for what is said
#   blocks=FOLDER               its blocks of commands, NAME.sh each, and the file `names` with their names in order
#   folder=PATH                 the folder of the commands (the tree)
#   make_podman_host IMAGE...   Podman with an image of these names, whose containers do nothing
#   run NAME                    the next block; `again NAME` any block; `all_were_run` at the end

# make_podman_host IMAGE...: an image needs no registry: it is busybox, imported.
make_podman_host() {
    local applet helpers=
    mapfile -t names < $blocks/names
    say "blocks to run: ${names[*]}"
    mkdir -p $root/etc/containers/{networks,systemd} $root/usr/helpers $root/srv/tree
    cp -r $lab/units $root/srv/tree/
    # Podman's own netavark, where there is one.
    if [ ! -x $root/usr/lib/podman/netavark ] && [ ! -x $root/usr/libexec/podman/netavark ]; then
        cp $lab/bin/netavark $root/usr/helpers/
        helpers='helper_binaries_dir = ["/usr/helpers"]'
    fi
    cat > $root/etc/containers/containers.conf << CONF
[containers]
cgroups = "disabled"
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
log_driver = "none"
pids_limit = 0
seccomp_profile = "unconfined"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "none"
runtime = "crun"
$helpers
[network]
network_backend = "netavark"
network_config_dir = "/etc/containers/networks"
CONF
    printf '[storage]\ndriver = "vfs"\nrunroot = "/run/containers/storage"\ngraphroot = "/var/lib/containers/storage"\n' \
        > $root/etc/containers/storage.conf
    mkdir -p $lab/image/{bin,etc,proc,sys,dev,tmp,run}
    cp "$(command -v busybox)" $lab/image/bin/busybox
    for applet in sh sleep ip cat; do ln -s busybox $lab/image/bin/$applet; done
    tar -C $lab/image -c . > $root/srv/image.tar
    # `sleep` as process 1 ignores SIGTERM.
    in_rig podman import --quiet --change 'CMD ["sleep", "600"]' --change 'STOPSIGNAL SIGKILL' /srv/image.tar "$1" \
        > $lab/said 2>&1 || fail "no image: $(cat $lab/said)"
    [ $# = 1 ] || in_rig podman tag "$@"
    image=$1
    say "$(in_rig podman --version), $(in_rig systemctl --version | head -n 1)"
    if [[ "$(in_rig podman --version)" =~ \ 4\.[0-4]\. ]]; then
        # As README.md and the manual say. A network that is there is used all the same.
        ! in_rig podman network create -d macvlan -o parent=eth0 --ipam-driver=dhcp lan > $lab/said 2>&1 ||
            fail "this Podman takes the dhcp driver"
        check "this Podman refuses the dhcp driver" says dhcp
        install -m 755 $lab/network-create.bash $root/usr/local/bin/podman
    fi
}

ran=0 folder=${folder:-/srv/tree}
# take NAME: the next block, for a script that does something else with it.
take() {
    [ "${names[ran]:-}" = "$1" ] || fail "the next block of $page is ${names[ran]:-none}, not $1"
    ran=$((ran + 1))
}
run() {
    take "$1"
    again "$1"
}
# again NAME: its trace and its output are left in $lab/said, its output alone in $lab/output.
again() {
    local code=0
    in_rig sh -e -x -c "cd $folder; $(cat $blocks/$1.sh)" < /dev/null > $lab/output 2> $lab/said || code=$?
    cat $lab/output >> $lab/said
    [ $code = 0 ] || fail "the block $1 of $page: $(cat $lab/said)"
    say "$page, $1:"
    sed 's/^/    /' $lab/said
}
says() { grep -q -e "$1" $lab/said; }
all_were_run() { [ $ran = ${#names[@]} ] || fail "not run: ${names[*]:ran}"; }

# container NAME [OPTION...]: one on the network, in the background.
container() {
    local name=$1
    shift
    in_rig podman run -d --name "$name" --network lan "$@" $image sleep 600 > $lab/podman 2>&1
}
shown() { in_rig podman exec "$1" ip -4 addr show dev eth0; }
address_of() { shown "$1" | sed -n 's|.*inet \([0-9.]*\)/.*|\1|p'; }
lifetime_of() { shown "$1" | sed -n 's/.*valid_lft \(forever\|[0-9]*\).*/\1/p'; }
# have_leases NAME...: each has an address with a lifetime, which only our daemon sets.
have_leases() {
    local name
    for name; do [ "$(lifetime_of "$name")" -gt 0 ] 2> /dev/null || return 1; done
}
program() { in_rig readlink "/proc/$(property MainPID)/exe"; }
is_ours() { [ "$(program)" = /usr/bin/smol-dhcp-proxy ]; }
is_theirs() { [ "$(program)" = /usr/bin/netavark ]; }
has_argument() { grep -qz -x -e "$1" <(in_rig cat "/proc/$(property MainPID)/cmdline"); }
