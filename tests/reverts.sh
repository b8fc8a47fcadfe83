#!/bin/bash
# Undoes one fix at a time and requires that random histories find what it prevented: `reverts.sh [PATCH…]`, as in `a1 a5`.
# Each patch gets COUNT histories from SEED on, of OPS steps each. Ends with 1 if one is not found or does not apply.
#
# The patches are applied to a copy of HEAD in TARGET/reverts/tree, and built there: only this crate is compiled again.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
patches=$root/tests/reverts
mkdir -p "${CARGO_TARGET_DIR:-$root/target}/reverts"
target=$(cd "${CARGO_TARGET_DIR:-$root/target}/reverts" && pwd -P)
tree=$target/tree

export CARGO_TARGET_DIR=$target
export HISTORIES=${COUNT:-1500} HISTORIES_SEED=${SEED:-50000} HISTORIES_OPS=${OPS:-40}
export HISTORIES_FAILURES=1 HISTORIES_PATIENCE=0

give_up() {
    echo "$1, see $2" >&2
    exit 2
}

# The tree is no part of the repository that it may lie in.
apply() {
    GIT_CEILING_DIRECTORIES=$target git -C "$tree" apply "$@"
}

histories() {
    (cd "$tree" && cargo test --locked --test integration "$@")
}

# The first of what a log has between some text and a later one.
first() {
    sed -n "/$1/ { s/.*$1//; s/$2.*//; p; q; }" "$3"
}

# Succeeds when a history fails in a tree to which the patch was applied.
is_found() {
    local name=$1 log=$target/$1.log begun seed
    histories --no-run >"$log" 2>&1 || give_up "$name: can't be built" "$log"
    begun=$SECONDS
    if histories -- --nocapture histories::every >"$log" 2>&1; then
        echo "$name: not found by $HISTORIES histories in $((SECONDS - begun)) s"
        return 1
    fi
    seed=$(first 'HISTORY FAILS: seed ' ',' "$log")
    [ -n "$seed" ] || give_up "$name: the test fails, but no history does" "$log"
    echo "$name: found by seed $seed, in $((SECONDS - begun)) s: $(first 'FOUND: ' '$' "$log")"
}

[ $# -gt 0 ] || for patch in "$patches"/*.patch; do set -- "$@" "$(basename "$patch" .patch)"; done

rm -rf "$tree"
mkdir "$tree"
# Files with the time of the commit would be older than what an earlier patch was built to, and not be built again.
git -C "$root" archive HEAD | tar -x -m -C "$tree"

failed=0
for name; do
    if apply "$patches/$name.patch"; then
        is_found "$name" || failed=1
        apply -R "$patches/$name.patch"
    else
        echo "$name: does not apply"
        failed=1
    fi
done
exit $failed
