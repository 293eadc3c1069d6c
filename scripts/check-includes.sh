#!/bin/sh
# The include rule of docs/ARCHITECTURE.md: a room includes only rooms to its left.
#   base <- kernel <- text, model <- convert, engine <- api;   cli sees only pumice.h and itself.
set -eu
cd "$(dirname "$0")/.."
bad=0
check() {   # ROOM ALLOWED-ROOMS...
    room=$1; shift
    allowed="^(pumice\.h"
    for r in "$@"; do allowed="$allowed|$r/"; done
    allowed="$allowed)"
    for f in $(find "src/$room" -name '*.[ch]' -o -name '*.inc'); do
        grep -nE '^ *# *include +"' "$f" | sed -E 's/^([0-9]+):.*"([^"]+)".*/\1 \2/' | while read -r line inc; do
            echo "$inc" | grep -qE "$allowed" || echo "$f:$line: room $room may not include \"$inc\""
        done
    done
}
out=$(
    check base base
    check kernel base kernel
    check text base text
    check model base kernel text model
    check convert base kernel text model convert
    check engine base kernel text model engine
    check api base kernel text model convert engine api
    check cli cli
)
if [ -n "$out" ]; then echo "$out"; bad=1; fi
twins=$(find src include tests -name '*.[ch]' -printf '%f\n' | sort | uniq -d)
if [ -n "$twins" ]; then echo "file names that are not unique in the tree: $twins"; bad=1; fi
[ $bad -eq 0 ] && echo "include rule: ok"
exit $bad
