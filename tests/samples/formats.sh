#!/bin/sh
# Makes the samples of formats: `formats.sh NUMBER PROGRAM`, a debug build of the commit that README.md names for the number.
# Makes `index-NUMBER`, and for 1, 2 and 6 `pending-NUMBER`: a pull was killed amid a batch. Root runs it.
set -eu
umask 022
number=$1 program=$2
out=$(cd "$(dirname "$0")" && pwd)
base=/tmp/archive-samples
HOME=$base/home
export HOME

new() { # SAMPLE
    sample=$base/$1
    rm -rf "$sample"
    mkdir -p "$sample/client" "$HOME"
    repo=$sample/repo
    cd "$sample/client"
}
pull() { # FLAG…
    # The earlier builds created a repository unasked.
    [ "$number" -lt 5 ] || set -- "$@" --init
    "$program" --repo "$repo" pull -q --name one --max-delete 100 "$PWD" "$@"
}
put() { # FILE CONTENT: with the time of the stamps
    printf '%s\n' "$2" >"$1"
    touch -d '2001-09-09T01:46:40Z' "$1"
}
pack() {
    [ ! -d "$sample/copy" ]
    rm -f "$repo/index.sqlite-shm" "$repo"/index-*.sqlite
    cd "$base"
    tar --format=posix --sparse --numeric-owner --xattrs -C "$sample" -cf - repo client | gzip -9n \
        >"$out/$(basename "$sample").tar.gz"
    rm -rf "$sample"
}
client() { # What the first run finds.
    mkdir d gone
    put changed 'first content'
    put moved 'content that moves'
    put chmod 'only its mode changes'
    put d/same 'stays'
    put gone/file 'goes'
    put "$(printf 'not-\377-utf8')" 'a name of bytes'
    ln d/same d/linked
    ln -s changed link
    mkfifo fifo
    setfattr -n user.note -v one d/same
}
changes() { # What the second run finds.
    printf 'second content\n' >changed
    mv moved d/moved
    chmod 600 chmod
    rm -r gone
    mkdir new
    put new/file 'new'
    ln -sfn d/same link
}

new "index-$number"
client
pull
changes
pull
[ "$(sqlite3 "$repo/index.sqlite" 'PRAGMA user_version')" = "$number" ]
pack

case $number in 1 | 2 | 6) ;; *) exit 0 ;; esac
new "pending-$number"
client
pull
changes
for step in $(seq 300); do
    rm -rf "$sample/copy"
    cp -a "$repo" "$sample/copy"
    ARCHIVE_FAULT=kill:$step ARCHIVE_BATCH=8 "$program" --repo "$sample/copy" pull -q --name one --max-delete 100 "$PWD" \
        >/dev/null 2>&1 || :
    # Amid the changes: some are made, some are not.
    if [ "$(sqlite3 "$sample/copy/index.sqlite" 'SELECT count(*) FROM pending')" = 1 ] &&
        [ "$(find "$sample/copy/archive" -type f | wc -l)" -gt 0 ] &&
        [ "$(find "$sample/copy/staging" -type f | wc -l)" -gt 0 ]; then
        break
    fi
done
rm -rf "$repo"
mv "$sample/copy" "$repo"
[ "$(sqlite3 "$repo/index.sqlite" 'SELECT count(*) FROM pending')" = 1 ]
pack
