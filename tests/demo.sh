#!/bin/sh
# The main job, for real: `demo.sh [PROGRAM]` pulls files of this machine through a throw-away sshd into a new
# repository, changes some, pulls again, and shows what came of it. Leaves nothing behind; DEMO_KEEP=1 keeps the files.
set -eu
cd "$(dirname "$0")/.."
archive=$(realpath "${1:-target/release/archive}")
[ -x "$archive" ] || { echo "there is no $archive: run \`make build\` first" >&2; exit 1; }

# No configuration of the user's has a say in this.
ARCHIVE_CONFIG=/dev/null
export ARCHIVE_CONFIG
# Short, for the path of ssh's control socket is limited; private, for it holds a copy of other files.
work=$(mktemp -d /tmp/archive-demo.XXXXXX)
client=$work/client
repo=$work/repository
made_run_sshd=
sshd=

finish() {
    [ -z "$made_run_sshd" ] || rmdir /run/sshd 2>/dev/null || :
    [ -n "${DEMO_KEEP:-}" ] || rm -rf "$work"
}
trap finish EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 141' PIPE
trap 'exit 143' TERM

if [ -t 1 ]; then bold=$(printf '\033[1m') dim=$(printf '\033[2m') plain=$(printf '\033[0m'); else bold='' dim='' plain=''; fi

title() { printf '\n%s== %s%s\n' "$bold" "$1" "$plain"; }
say() { printf '%s\n' "$*"; }
# Shows a command as a person would type it, and runs it.
show() {
    printf '%s$ %s%s\n' "$dim" "$(printf '%s' "$*" | sed "s|$archive|archive|")" "$plain"
    "$@"
}
# Shows a command line of the shell, and runs it.
shell() {
    printf '%s$ %s%s\n' "$dim" "$1" "$plain"
    (cd "$repo" && eval "$1")
}

# Real files, hard links and all, but none of the machine's secrets: they are copied so that they can be changed.
copy_files() {
    mkdir "$client"
    set --
    for directory in etc usr/share/zoneinfo usr/share/perl usr/share/perl5 usr/share/common-licenses usr/include; do
        [ ! -d "/$directory" ] || set -- "$@" "$directory"
    done
    tar -C / --exclude='etc/*shadow*' --exclude='etc/ssh' --exclude='etc/ssl' --exclude='etc/sudoers*' -cf - "$@" 2>/dev/null |
        tar -C "$client" -xpf -
    date >"$client/notes.txt"
}

start_sshd() {
    PATH=$PATH:/usr/sbin tests/needs.sh ssh:openssh-client sshd:openssh-server || return 1
    sshd=$(PATH=$PATH:/usr/sbin command -v sshd)
    # sshd wants this directory when it runs as root.
    if [ "$(id -u)" -eq 0 ] && mkdir -m 755 /run/sshd 2>/dev/null; then made_run_sshd=yes; fi
    ssh-keygen -q -t ed25519 -N '' -f "$work/host_key"
    ssh-keygen -q -t ed25519 -N '' -f "$work/key"
    cp "$work/key.pub" "$work/authorized_keys"
    printf 'demo %s\n' "$(cut -d' ' -f1,2 "$work/host_key.pub")" >"$work/known_hosts"
    cat >"$work/sshd_config" <<CONFIG
HostKey $work/host_key
AuthorizedKeysFile $work/authorized_keys
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
Subsystem sftp internal-sftp
SetEnv SHLVL=2 XDG_CACHE_HOME=$work/cache
CONFIG
    # One sshd for each connection, over a pipe instead of a port: it ends with the connection.
    cat >"$work/ssh_config" <<CONFIG
Host demo
  User $(id -un)
  ProxyCommand $sshd -i -f $work/sshd_config
  IdentityFile $work/key
  IdentitiesOnly yes
  IdentityAgent none
  UserKnownHostsFile $work/known_hosts
  GlobalKnownHostsFile none
CONFIG
    ssh -F "$work/ssh_config" -o BatchMode=yes demo true
}

pull() {
    if [ -n "$sshd" ]; then
        show "$archive" --repo "$repo" pull -F "$work/ssh_config" "demo:$client"
    else
        show "$archive" --repo "$repo" pull --name demo "$client"
    fi
}

count_files() { find "$1" -type f | wc -l; }

# The directory with the most files that holds less than half of them all: to lose more would stop a pull.
find_large() {
    half=$(($(count_files "$client") / 2))
    for directory in "$client"/etc "$client"/usr/*/; do
        count=$(count_files "$directory")
        [ "$count" -ge "$half" ] || echo "$count ${directory%/}"
    done | sort -n | tail -n 1 | cut -d' ' -f2-
}

change_files() {
    date >>"$client/notes.txt"
    echo '127.0.0.1 demo.example' >>"$client/etc/hosts"
    rm -f "$client/etc/issue" "$client/etc/issue.net"
    cp -r "$client/etc" "$client/copy-of-etc"
    large=$(find_large)
    mv "$large" "$client/renamed"
}

title 'A client with real files'
copy_files
if start_sshd; then
    say "a throw-away sshd stands for the client; everything below goes through ssh"
else
    sshd=
    say "there is no sshd here and it could not be installed, so this demo pulls locally, without ssh"
fi
say "$(count_files "$client") files, $(du -sh "$client" | cut -f1), copied from /etc and /usr to $client"

title 'A repository, and the first pull'
show "$archive" --repo "$repo" init
pull

title 'Some changes: two files edited, two removed, a large directory renamed, another copied'
change_files
say "edited    notes.txt, etc/hosts"
say "removed   etc/issue, etc/issue.net"
say "copied    etc to copy-of-etc"
say "renamed   ${large#"$client/"} to renamed"

title 'The second pull: the renamed and the copied directory are recognised, and not sent again'
pull

title 'A third one: nothing has changed'
pull

below=snapshot/demo$client
title 'The snapshot: the client as it is now, plain files'
shell "ls $below"
shell "cat $below/notes.txt"

title 'The archive: what was removed or replaced, with the time of its last change'
shell "find archive/demo$client -maxdepth 2 -type f"

title 'Hard links: one inode under the new name, and under the old one in the archive'
moved=$(cd "$client/renamed" && find . -type f -size +1k -links 1 | sed 's|^\./||' | sort | head -n 1)
shell "ls -li $below/renamed/$moved archive/demo$large/$moved.*"

title 'The index knows every place of a content'
show "$archive" --repo "$repo" find --same-as "demo:$client/renamed/$moved"

title 'Trees and index agree'
show "$archive" --repo "$repo" index check

title 'On your own host'
cat <<TEXT
  $archive --repo ~/backup init
  $archive --repo ~/backup pull you@host:/etc     # what \`ssh you@host\` can reach, this can pull
  ls ~/backup/snapshot/host/etc

Run it again after some change and look into ~/backup/archive. README.md shows how to do it every night.
TEXT
[ -z "${DEMO_KEEP:-}" ] || say "kept: $work"
