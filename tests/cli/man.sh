#!/bin/sh
# The man pages: one for the program and one for each command; the same options in the same order, with the same arguments, as --help; installed; and without a
# complaint from mandoc where that is at hand.
. "$(dirname "$0")/lib.sh"
pages=$SOURCE/docs/man
run --help
commands=$(sed -n '/^commands:/,/^$/s/^  \([a-z]*\) .*/\1/p' "$T/out")
is "$(echo "$commands" | wc -l)" 10
is "$(ls "$pages"/*.1 | wc -l)" 11
is "$(sed -n 's/^\.It Cm //p' "$pages/pumice.1")" "$commands"
for c in $commands; do
    page=$pages/pumice-$c.1
    there "$page"
    run "$c" --help
    is "$(sed -n 's/^\.It Fl \(.*\)/-\1/p' "$page" | sed 's/ Ar / /')" "$(sed -n '/^options:/,/^$/s/^  \(-[^ ]*\( [^ ]\{1,\}\)\{0,1\}\)\( .*\)\{0,1\}$/\1/p' "$T/out")"
    n=$((n + 1)); grep -q "^  -" "$T/out" || wrong "no options in the help"
    # the examples are those of the help
    is "$(sed -n '/^\.Sh EXAMPLES/,/^\.Ed/p' "$page" | sed -n 's/^\([a-z].*\)/\1/p' | sed 's/\\e/\\/g')" "$(sed -n '/^examples:/,/^$/s/^  //p' "$T/out")"
    is "$(sed -n 's/^\.Nm pumice-//p' "$page")" "$c"
    n=$((n + 1)); grep -q "^\.Xr pumice-$c 1" "$pages/pumice.1" || wrong "pumice.1 does not refer to pumice-$c(1)"
    n=$((n + 1)); grep -q "'pumice-$c.1'" "$pages/meson.build" || wrong "pumice-$c.1 is not installed"
done
if command -v mandoc >/dev/null; then
    for page in "$pages"/*.1; do
        cmd="mandoc -Tlint -Wwarning $page"
        rc=0
        mandoc -Tlint -Wwarning "$page" >"$T/out" 2>"$T/err" || rc=$?
        rc 0; no_out
        sed -n 's/^\.Xr \(pumice[-a-z]*\) 1.*/\1/p' "$page" | sort -u >"$T/refs"
        while read -r ref; do there "$pages/$ref.1"; done <"$T/refs"
    done
fi
finish
