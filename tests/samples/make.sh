#!/bin/sh
# Makes the sample repositories: `make.sh PROGRAM DEBUG_PROGRAM`, both built from the commit that README.md names. The
# second is a debug build, for only that has faults. Root runs it, for owners and capabilities are part of the samples.
set -eu
umask 022
program=$1 debug=$2
out=$(cd "$(dirname "$0")" && pwd)
base=/tmp/archive-samples
HOME=$base/home
export HOME

old='2001-09-09T01:46:40Z'

new() { # SAMPLE: an empty client, and no repository yet
    sample=$base/$1
    rm -rf "$sample"
    mkdir -p "$sample/client" "$HOME"
    repo=$sample/repo
    cd "$sample/client"
}
pull() { # SOURCE PATH… FLAG…
    source=$1
    shift
    "$program" --repo "$repo" pull -q --init --name "$source" --max-delete 100 --allow-missing --min-free 0 "$@"
}
put() { # FILE CONTENT: with the time of the stamps
    printf '%s\n' "$2" >"$1"
    touch -d "$old" "$1"
}
days() { # RUN DAY…: moves the start of runs to a day of January 2026
    python3 - "$repo/index.sqlite" "$@" <<'PYTHON'
import sqlite3, sys
index = sqlite3.connect(sys.argv[1])
for run, day in zip(sys.argv[2::2], sys.argv[3::2]):
    started = (1767225600 + (int(day) - 1) * 86400 + int(run)) * 10**9
    index.execute("UPDATE run SET started = ?, ended = ? WHERE id = ?", (started, started + 10**9, int(run)))
index.commit()
PYTHON
}
ask() { # SQL: prints the first value
    python3 -c 'import sqlite3, sys; print((sqlite3.connect(sys.argv[1]).execute(sys.argv[2]).fetchone() or [""])[0])' \
        "$repo/index.sqlite" "$1"
}
pack() {
    # What shares memory between processes is of no use to another machine.
    rm -f "$repo/index.sqlite-shm" "$repo"/index-*.sqlite
    cd "$base"
    tar --format=posix --sparse --numeric-owner --xattrs -C "$sample" -cf - repo client | gzip -9n \
        >"$out/$(basename "$sample").tar.gz"
    rm -rf "$sample"
}

# Two sources, every kind of entry, and every kind of change that had no bytes of its own, followed by one that has.
new healthy
long=$(printf 'x%.0s' $(seq 255))
stamped=$(printf 'x%.0s' $(seq 238)).20260101T000000Z
binary=$(printf 'not-\377\376-utf8')
mkdir -p d d~ stamps/x.20260101T000000Z x.20260101T000000Z~ deep/er other
for file in chmod chown setfattr linked content removed 'a' 'a~' x.20260101T000000Z "$long" "$stamped" "$binary"; do
    put "$file" "first content of $(printf %s "$file" | cut -c1-20)"
done
: >empty
put d/same 'in d'
put d~/other-name 'in d with a tilde'
put stamps/x.20260101T000000Z/below 'below'
put x.20260101T000000Z~/below 'below, too'
put deep/er/file 'deep down'
put other/file 'of the other root'
ln content hard-link
ln -s d link
ln -s "$binary" link~
mkfifo fifo
pull one "$PWD" --archive replaced
pull two "$PWD/other" "$PWD/deep" --archive all
chmod 600 chmod
chown 7:8 chown
setfattr -n user.note -v one setfattr
ln linked linked-too
pull one "$PWD"
chmod 640 other/file
pull two "$PWD/other" "$PWD/deep" --archive all
for file in chmod chown setfattr linked; do printf 'second content of %s\n' $file >$file; done
put content 'second'
put other/file 'changed in the other root'
printf 'second below\n' >stamps/x.20260101T000000Z/below
printf 'second below, too\n' >x.20260101T000000Z~/below
rm removed hard-link
rm -r deep/er
mkdir removed
put removed/below 'where a file was'
ln -sfn d~ link
: >x.20260101T000000Z
pull one "$PWD" --link exact
pull two "$PWD/other" "$PWD/deep" --archive all
chmod 644 setfattr
pull one "$PWD" --hash server
rm setfattr linked linked-too "$long" "$binary" fifo
rm -r d~
pull one "$PWD" --link never
pack

# `prune` deleted the only bytes of versions that run 1 shows, which is kept. Of `lost-*` there is no copy; what `copied`
# held is in `twin`, too, and what `saved` held in a file of the archive that the index does not know.
new pruned
for file in lost-chmod lost-link copied saved; do put $file "first content of $file"; done
put stays 'stays'
put twin 'first content of copied'
touch -d '2002-02-02T02:02:02Z' twin
pull one "$PWD" --link never
chmod 600 lost-chmod copied saved
ln lost-link lost-link-too
pull one "$PWD" --link never
cp -p saved "$sample/aside"
for file in lost-chmod lost-link copied saved; do printf 'second content of %s\n' $file >$file; done
rm lost-link-too
pull one "$PWD" --link never
days 1 1 2 3 3 3
"$program" --repo "$repo" prune one --keep-daily 14 -q
mkdir -p "$repo/archive/one$PWD"
mv "$sample/aside" "$repo/archive/one$PWD/saved-by-hand"
pack

# Two directories of the client became one of the archive, and two rows got one name there. What was under it first is
# overwritten in the index only: it has the name with `-2`, or is unknown.
new merged
mkdir -p top/photos top/photos~ top/plain
put top/photos/p.jpg 'one picture'
put top/photos~/p.jpg 'another picture'
put top/plain/p.jpg 'a third picture'
pull one "$PWD"
rm -r top
pull one "$PWD"
[ "$(ask "SELECT count(*) FROM version a JOIN version b ON a.archive_name = b.archive_name AND a.id < b.id \
    JOIN directory ad ON ad.id = a.directory JOIN directory bd ON bd.id = b.directory \
    WHERE CAST(ad.path AS TEXT) || '~' = CAST(bd.path AS TEXT)
       OR CAST(bd.path AS TEXT) || '~' = CAST(ad.path AS TEXT)")" = 1 ]
pack

# A file of one source holds the bytes of a file of another that has its size: `mixed` and, in the past, `mixed-past`.
new mixed
mkdir one two
for file in mixed mixed-past right; do
    put one/$file "of one: $file"
    put two/$file "of two: $file"
done
pull one "$PWD/one"
pull two "$PWD/two"
printf 'newer of two\n' >two/mixed-past
pull two "$PWD/two"
ln -f "$repo/snapshot/one$PWD/one/mixed" "$repo/snapshot/two$PWD/two/mixed"
ln -f "$repo/snapshot/one$PWD/one/mixed-past" "$repo/archive/two$PWD/two/mixed-past.20010909T014640Z"
pack

# `verify --repair` was killed between its two renames: past versions `a` and `b` had been swapped, and what `b` holds is only
# in `damaged`, for the next run cleared the staging area.
new repair-cut
put a 'content of a'
put b 'content of b'
put stays 'stays'
pull one "$PWD"
printf 'newer a\n' >a
printf 'newer b\n' >b
pull one "$PWD"
cd "$repo/archive/one$PWD"
mv a.20010909T014640Z aside
mv b.20010909T014640Z a.20010909T014640Z
mv aside b.20010909T014640Z
cd "$sample/client"
for step in $(seq 40); do
    rm -rf "$sample/copy"
    cp -a "$repo" "$sample/copy"
    ARCHIVE_FAULT=kill:$step "$debug" --repo "$sample/copy" verify --repair -q one >/dev/null 2>&1 || :
    if [ -e "$sample/copy/damaged/one$PWD/a.20010909T014640Z.20010909T014640Z" ] &&
        [ ! -e "$sample/copy/archive/one$PWD/a.20010909T014640Z" ]; then
        break
    fi
done
rm -rf "$repo"
mv "$sample/copy" "$repo"
[ ! -e "$repo/archive/one$PWD/a.20010909T014640Z" ]
rm -rf "$repo"/staging/one/*
pack

# A pull was killed while a batch was pending: as it was written to the index, and after its rows were, too.
for format in 3 4; do
    new pending-$format
    mkdir gone new
    for number in 1 2 3 4 5 6; do
        put changed$number "first content $number"
        put gone/file$number "goes $number"
    done
    put chmod 'only its mode changes'
    put touched 'only its time changes'
    ln -s changed1 link
    pull one "$PWD"
    for number in 1 2 3 4 5 6; do
        printf 'second content %s\n' $number >changed$number
        put new/file$number "new $number"
    done
    rm -r gone
    chmod 600 chmod
    touch -d '2002-02-02T02:02:02Z' touched
    ln -sfn changed2 link
    for step in $(seq 300); do
        rm -rf "$sample/copy"
        cp -a "$repo" "$sample/copy"
        ARCHIVE_FAULT=kill:$step ARCHIVE_BATCH=8 "$debug" --repo "$sample/copy" pull -q --name one --max-delete 100 "$PWD" \
            >/dev/null 2>&1 || :
        # Amid the changes, not before the first.
        if [ "$(repo=$sample/copy ask 'SELECT max(format) FROM pending')" = $format ] &&
            [ "$(find "$sample/copy/archive" -type f | wc -l)" -gt 2 ] &&
            [ "$(find "$sample/copy/staging" -type f | wc -l)" -gt 0 ]; then
            break
        fi
    done
    rm -rf "$repo"
    mv "$sample/copy" "$repo"
    [ "$(ask 'SELECT max(format) FROM pending')" = $format ]
    pack
done
rm -rf $base
