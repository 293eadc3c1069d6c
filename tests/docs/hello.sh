#!/bin/sh
# The example of the README: what it shows is what lies in examples/hello.c, and the program says what `pumice run` says.
set -eu
T=$(mktemp -d)
trap 'rm -rf "$T"' EXIT
sed -n '/^```c$/,/^```$/p' "$SOURCE/README.md" | sed '/^```/d' >"$T/shown"
[ -s "$T/shown" ] || { echo "README.md shows no C"; exit 1; }
sed 's/^    //' "$SOURCE/examples/hello.c" >"$T/real"
lines=$(wc -l <"$T/shown")
first=$(grep -nFx -e "$(head -1 "$T/shown")" "$T/real" | head -1 | cut -d: -f1)
[ -n "$first" ] || { echo "README.md shows C that is not in examples/hello.c"; exit 1; }
tail -n "+$first" "$T/real" | head -n "$lines" | diff "$T/shown" - || { echo "README.md and examples/hello.c differ"; exit 1; }
run=${MESON_EXE_WRAPPER:-}
# shellcheck disable=SC2086
$run "$HELLO" "$SOURCE/models/story.pumice" "Once upon a time" >"$T/hello"
# shellcheck disable=SC2086
$run "$PUMICE" run "$SOURCE/models/story.pumice" --raw "Once upon a time" -n 64 >"$T/run"
diff "$T/hello" "$T/run"
[ "$(wc -c <"$T/hello")" -gt 100 ] || { echo "too short a tale"; exit 1; }
rc=0
# shellcheck disable=SC2086
$run "$HELLO" "$SOURCE/README.md" "Once" 2>"$T/err" || rc=$?
[ "$rc" = 1 ] && grep -q '^hello: ' "$T/err" || { echo "a wrong file is not told"; exit 1; }
echo "hello: ok"
