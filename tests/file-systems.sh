#!/bin/sh
# Lives through a pull, a change, another pull, prune, verify and a restore on file systems that lack calls:
# `file-systems.sh ARCHIVE [NAME…]`. Runs as root, installs Debian packages, and says what it had to skip.
set -eu
PATH=$PATH:/usr/sbin:/sbin

program=$(realpath "$1")
shift
[ $# -gt 0 ] || set -- sshfs glusterfs moosefs nfs exfat
[ "$(id -u)" -eq 0 ] || { echo "file-systems.sh mounts file systems: run it as root" >&2; exit 1; }

here=$(dirname "$0")
work=$(mktemp -d /tmp/archive-test-fs-XXXXXX)
mounted=
processes=
volume=

say() { printf '%s\n' "$*"; }

clean() {
    for point in $mounted; do
        umount "$point" 2>/dev/null || umount -l "$point" || :
    done
    mounted=
    if [ -n "$volume" ]; then
        gluster --mode=script volume stop "$volume" force >/dev/null 2>&1 || :
        gluster --mode=script volume delete "$volume" >/dev/null 2>&1 || :
    fi
    volume=
    for process in $processes; do
        kill "$process" 2>/dev/null || :
    done
    for process in $processes; do
        tries=0
        while kill -0 "$process" 2>/dev/null && [ $tries -lt 50 ]; do tries=$((tries + 1)); sleep 0.1; done
        kill -9 "$process" 2>/dev/null || :
    done
    processes=
}
trap 'clean; rm -rf "$work"' EXIT
trap 'exit 130' INT TERM

# True when the command succeeds within some seconds.
within() {
    tries=$(($1 * 5))
    shift
    while ! "$@" >/dev/null 2>&1; do
        tries=$((tries - 1))
        [ $tries -gt 0 ] || return 1
        sleep 0.2
    done
}

client() {
    root=$work/client-$1
    mkdir -p "$root/d/deep" "$root/moved"
    for n in $(seq 60); do echo "small $n" >"$root/d/f$n"; echo "moved $n" >"$root/moved/m$n"; done
    # More equal files than some file systems give links to one inode.
    for n in $(seq 120); do echo "of many names" >"$root/d/deep/same$n"; done
    head -c 300000 /dev/urandom >"$root/large"
    ln -s d/f1 "$root/link"
    ln -s "$root/large" "$root/absolute"
    truncate -s 4M "$root/sparse"
    printf tail >>"$root/sparse"
    : >"$root/empty"
    touch -d '2001-02-03 04:05:06.123456789' "$root/d/f7"
    chown 12345:54321 "$root/d/f8"
    chmod 600 "$root/d/f9"
}

change() {
    echo changed >"$root/d/f1"
    rm "$root/d/f2" "$root/d/deep/same3"
    mv "$root/moved" "$root/renamed"
    touch "$root/d/f3"
    chmod 640 "$root/d/f4"
    rm "$root/link"
    echo "a file now" >"$root/link"
    rm "$root/d/f5"
    mkdir "$root/d/f5"
    echo new >"$root/d/f5/new"
    head -c 1000 /dev/urandom | dd of="$root/large" bs=1000 seek=100 conv=notrunc 2>/dev/null
    for n in $(seq 30); do echo "of many names" >"$root/same$n"; done
}

step() {
    "$program" --repo "$1" --json pull --lock-wait 10s --name client "$root" >"$work/out" 2>"$work/err" ||
        { say "a pull failed:"; cat "$work/err"; return 1; }
}

number() {
    sed -n '$s/.*"'"$1"'":\([0-9]*\).*/\1/p' "$work/out"
}

# Whether rsync finds nothing to do but what the file system can't keep.
same() {
    rsync -rlicn --checksum --delete --8-bit-output "$root/" "$1/" >"$work/differences"
    ! grep -v '^\.' "$work/differences" || { say "client and $1 differ"; return 1; }
}

# In a directory of the file system: everything that changes a repository.
cycle() {
    repo=$1/repo
    snapshot=$repo/snapshot/client$root
    "$program" --repo "$repo" init -q >"$work/out" 2>&1 || { say "init failed:"; cat "$work/out"; return 1; }
    step "$repo" || return 1
    same "$snapshot" || return 1
    change
    step "$repo" || return 1
    same "$snapshot" || return 1
    step "$repo" || return 1
    [ "$(number copied) $(number changed)" = "0 0" ] || { say "an unchanged client looks changed: $(cat "$work/out")"; return 1; }
    "$program" --repo "$repo" index check >"$work/out" 2>&1 || { say "index check failed:"; cat "$work/out"; return 1; }
    "$program" --repo "$repo" restore "client:$root" "$work/before" --at 1 >"$work/out" 2>&1 ||
        { say "restoring the first run failed:"; cat "$work/out"; return 1; }
    [ "$(cat "$work/before/$(basename "$root")/d/f1")" = "small 1" ] || { say "the first run's f1 is not restored"; return 1; }
    rm -rf "$work/before"
    # A pull that is killed, and the next.
    for n in $(seq 40); do echo "later $n" >"$root/d/f$n-later"; done
    rm "$root"/renamed/m1?
    "$program" --repo "$repo" pull -q --name client "$root" >/dev/null 2>&1 &
    killed=$!
    sleep 0.15
    kill -9 $killed 2>/dev/null || :
    wait $killed 2>/dev/null || :
    step "$repo" || return 1
    same "$snapshot" || return 1
    # Somebody's file where a new one of the client's comes.
    echo somebody >"$snapshot/in-the-way"
    echo client >"$root/in-the-way"
    step "$repo" || return 1
    grep -rqx somebody "$repo/archive" "$repo/snapshot" || { say "an unknown file was overwritten"; return 1; }
    # A plain file is damaged, another one is removed.
    rm "$snapshot/d/f10" "$snapshot/d/f11"
    echo corrupt >"$snapshot/d/f10"
    "$program" --repo "$repo" verify --repair client >/dev/null 2>&1 || :
    step "$repo" || return 1
    same "$snapshot" || return 1
    "$program" --repo "$repo" prune client --keep-last 1 >"$work/out" 2>&1 || { say "prune failed:"; cat "$work/out"; return 1; }
    "$program" --repo "$repo" verify >"$work/out" 2>&1 || { say "verify failed:"; cat "$work/out"; return 1; }
    "$program" --repo "$repo" restore "client:$root" "$work/restored" >"$work/out" 2>&1 || { say "restore failed:"; cat "$work/out"; return 1; }
    same "$work/restored/$(basename "$root")" || return 1
    rm -rf "$work/restored"
    rm "$repo/index.sqlite"
    "$program" --repo "$repo" index rebuild >"$work/out" 2>&1 || { say "index rebuild failed:"; cat "$work/out"; return 1; }
    step "$repo" || return 1
    same "$snapshot" || return 1
    "$program" --repo "$repo" index check >"$work/out" 2>&1 || { say "index check failed:"; cat "$work/out"; return 1; }
}

# Files of which the names differ in case alone would share a plain file there.
cycle_exfat() {
    if "$program" --repo "$1/repo" pull --init -q --name client "$root" >"$work/out" 2>"$work/err"; then
        say "a repository was created"
        return 1
    fi
    grep -q "can't keep a repository in .*: its file system " "$work/err" || { say "it is refused in other words:"; cat "$work/err"; return 1; }
    [ ! -e "$1/repo/format" ] || { say "a repository was created"; return 1; }
}

# Each of these mounts a file system on $point, or fails with a word on why it had to be skipped in $why.
mount_sshfs() {
    "$here/needs.sh" ssh:openssh-client sshd:openssh-server sshfs:sshfs || { why="sshfs can't be installed"; return 1; }
    [ -e /dev/fuse ] || { why="there is no /dev/fuse"; return 1; }
    dir=$work/sshfs
    mkdir -p "$dir/data" /run/sshd
    ssh-keygen -q -t ed25519 -N '' -f "$dir/host"
    ssh-keygen -q -t ed25519 -N '' -f "$dir/key"
    port=$((20000 + $$ % 20000))
    cat >"$dir/sshd_config" <<CONFIG
Port $port
ListenAddress 127.0.0.1
HostKey $dir/host
AuthorizedKeysFile $dir/key.pub
PermitRootLogin yes
StrictModes no
UsePAM no
PidFile none
Subsystem sftp internal-sftp
CONFIG
    "$(command -v sshd)" -D -f "$dir/sshd_config" 2>"$dir/log" &
    processes="$processes $!"
    options="port=$port,IdentityFile=$dir/key,StrictHostKeyChecking=no,UserKnownHostsFile=/dev/null"
    within 10 sshfs -o "$options" "127.0.0.1:$dir/data" "$point" || { why="sshfs can't mount"; return 1; }
}

mount_glusterfs() {
    "$here/needs.sh" glusterd:glusterfs-server || { why="GlusterFS can't be installed"; return 1; }
    [ -e /dev/fuse ] || { why="there is no /dev/fuse"; return 1; }
    # One that runs already is somebody's.
    if gluster --mode=script volume list >/dev/null 2>&1; then why="a glusterd is running"; return 1; fi
    glusterd -N --log-file "$work/glusterd.log" >"$work/glusterd.out" 2>&1 &
    processes="$processes $!"
    within 20 gluster --mode=script volume list || { why="glusterd does not start"; return 1; }
    mkdir "$work/brick"
    volume=archive-test-$$
    gluster --mode=script volume create "$volume" "$(hostname):$work/brick" force >"$work/out" 2>&1 ||
        { why="no volume can be created: $(cat "$work/out")"; volume=; return 1; }
    gluster --mode=script volume start "$volume" >"$work/out" 2>&1 || { why="no volume can be started: $(cat "$work/out")"; return 1; }
    within 20 mount -t glusterfs "$(hostname):/$volume" "$point" || { why="GlusterFS can't be mounted"; return 1; }
}

mount_moosefs() {
    "$here/needs.sh" mfsmaster:moosefs-master mfschunkserver:moosefs-chunkserver mfsmount:moosefs-client ||
        { why="MooseFS can't be installed"; return 1; }
    [ -e /dev/fuse ] || { why="there is no /dev/fuse"; return 1; }
    # The chunk server refuses to reach its master by the loopback address.
    address=$(hostname -I | cut -d ' ' -f 1)
    [ -n "$address" ] || { why="MooseFS wants an address that is not the loopback's"; return 1; }
    dir=$work/moosefs
    base=$((41000 + $$ % 2000 * 4))
    mkdir -p "$dir/master" "$dir/chunk" "$dir/disk"
    cp /var/lib/mfs/metadata.mfs.empty "$dir/master/metadata.mfs" 2>/dev/null || printf 'MFSM NEW' >"$dir/master/metadata.mfs"
    echo '* / rw,alldirs,maproot=0' >"$dir/exports"
    echo "$dir/disk" >"$dir/hdd"
    : >"$dir/topology"
    cat >"$dir/master.cfg" <<CONFIG
WORKING_USER = root
WORKING_GROUP = root
DATA_PATH = $dir/master
EXPORTS_FILENAME = $dir/exports
TOPOLOGY_FILENAME = $dir/topology
MATOML_LISTEN_PORT = $base
MATOCS_LISTEN_PORT = $((base + 1))
MATOCL_LISTEN_PORT = $((base + 2))
CONFIG
    cat >"$dir/chunk.cfg" <<CONFIG
WORKING_USER = root
WORKING_GROUP = root
DATA_PATH = $dir/chunk
HDD_CONF_FILENAME = $dir/hdd
HDD_LEAVE_SPACE_DEFAULT = 64MiB
MASTER_HOST = $address
MASTER_PORT = $((base + 1))
CSSERV_LISTEN_PORT = $((base + 3))
CONFIG
    mfsmaster -f -c "$dir/master.cfg" start >"$dir/log" 2>&1 &
    processes="$processes $!"
    sleep 2
    mfschunkserver -f -c "$dir/chunk.cfg" start >>"$dir/log" 2>&1 &
    processes="$processes $!"
    within 30 mfsmount -H "$address" -P $((base + 2)) "$point" || { why="MooseFS can't be mounted: $(tail -n 2 "$dir/log")"; return 1; }
    mounted="$mounted $point"
    # The chunk server needs some seconds to report its disk.
    within 12 timeout 5 sh -c "echo ready >'$point/ready' && rm '$point/ready'" || { why="MooseFS takes no data"; return 1; }
}

mount_nfs() {
    "$here/needs.sh" exportfs:nfs-kernel-server || { why="nfs-kernel-server can't be installed"; return 1; }
    modprobe nfsd 2>/dev/null || :
    grep -qw nfsd /proc/filesystems || { why="the kernel has no NFS server"; return 1; }
    modprobe nfs 2>/dev/null || :
    grep -qw nfs4 /proc/filesystems || { why="the kernel has no NFS client"; return 1; }
    mkdir "$work/export"
    mount -t tmpfs -o size=256m tmpfs "$work/export"
    mounted="$work/export $mounted"
    rpc.nfsd 2 && exportfs -o rw,no_root_squash,fsid=1 "127.0.0.1:$work/export" || { why="nfsd does not start"; return 1; }
    rpc.mountd
    within 20 mount -t nfs4 "127.0.0.1:$work/export" "$point" || { why="NFS can't be mounted"; return 1; }
}

mount_exfat() {
    "$here/needs.sh" mkfs.exfat:exfatprogs mount.exfat-fuse:exfat-fuse || { why="exfat-fuse can't be installed"; return 1; }
    [ -e /dev/fuse ] || { why="there is no /dev/fuse"; return 1; }
    truncate -s 64M "$work/exfat-image"
    mkfs.exfat "$work/exfat-image" >/dev/null 2>&1
    device=$(losetup -f --show "$work/exfat-image") || { why="there is no loop device"; return 1; }
    mount.exfat-fuse "$device" "$point" >"$work/out" 2>&1 || { why="exFAT can't be mounted: $(cat "$work/out")"; losetup -d "$device"; return 1; }
    # The device is given up when it is unmounted.
    losetup -d "$device"
}

failed=0
for name; do
    point=$work/$name-mounted
    mkdir "$point"
    why="no file system of this name is known"
    client "$name"
    if command -v "mount_$name" >/dev/null && "mount_$name"; then
        case " $mounted " in *" $point "*) ;; *) mounted="$point $mounted" ;; esac
        if command -v "cycle_$name" >/dev/null; then
            if "cycle_$name" "$point"; then say "$name: ok (refused)"; else say "$name: FAILED"; failed=1; fi
        elif cycle "$point"; then
            lacks=$(sed -n '/^mtime-unit 1$/d; s/ no$//p; s/^mtime-unit \(.*\)/mtimes in units of \1 ns/p' "$point/repo/file-system" | tr '\n' ',')
            say "$name: ok (does without: ${lacks%,})"
        else
            say "$name: FAILED"
            failed=1
        fi
    else
        say "$name: skipped, $why"
    fi
    clean
done
exit $failed
