#!/bin/sh
# Checks the shell scripts and the manual pages with whichever checkers there are: `lint.sh PAGE…`.
set -eu
if command -v shellcheck >/dev/null; then
    # What versions disagree on is below a warning.
    shellcheck --severity=warning .ci/run tests/*.sh
fi
if command -v mandoc >/dev/null; then
    mandoc -T lint -W warning "$@"
elif command -v groff >/dev/null; then
    for page; do
        warnings=$(groff -mandoc -T utf8 -ww -z "$page" 2>&1)
        [ -z "$warnings" ] || { echo "$warnings" >&2; exit 1; }
    done
fi
