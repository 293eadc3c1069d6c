# What the CLI tests share. Sourced by each test as: . "$(dirname "$0")/lib.sh"
# Environment (set by meson): PUMICE, DRIVE, CHECKPOINT: programs; SOURCE: the top of the tree.
#
#   run ARGS...          pumice ARGS; its exit code in $rc, stdout in $T/out, stderr in $T/err; standard input is $in (default: empty)
#   rc N; out TEXT; err TEXT      compare exactly (TEXT without the last newline)
#   out_has TEXT; err_has TEXT; no_out; no_err
#   fails N ERR-PART ARGS...      runs, wants exit code N, nothing on stdout, and one line on stderr that holds ERR-PART
# A failed comparison is printed with the command; the test goes on and fails at the end.
set -u
LC_ALL=C
export LC_ALL
unset TERM_PROGRAM 2>/dev/null || true
T=$(mktemp -d)
trap 'rm -rf "$T"' EXIT
trap 'exit 1' INT TERM
story=$SOURCE/models/story.pumice
foreign=dotprod; case $(uname -m) in aarch64 | arm64) foreign=avx2 ;; esac     # a kernel tier that this machine lacks
in=/dev/null
bad=0
n=0

run() {
    cmd="pumice $*"
    rc=0
    "$PUMICE" "$@" <"$in" >"$T/out" 2>"$T/err" || rc=$?
}
wrong() {
    bad=$((bad + 1))
    printf 'FAIL %s\n     %s\n' "$cmd" "$1"
    sed 's/^/     out: /' "$T/out" | head -20
    sed 's/^/     err: /' "$T/err" | head -20
}
rc() { n=$((n + 1)); [ "$rc" = "$1" ] || wrong "exit code $rc, not $1"; }
out() { n=$((n + 1)); [ "$(cat "$T/out")" = "$1" ] || wrong "stdout is not: $1"; }
err() { n=$((n + 1)); [ "$(cat "$T/err")" = "$1" ] || wrong "stderr is not: $1"; }
out_has() { n=$((n + 1)); grep -qF -e "$1" "$T/out" || wrong "stdout lacks: $1"; }
err_has() { n=$((n + 1)); grep -qF -e "$1" "$T/err" || wrong "stderr lacks: $1"; }
no_out() { n=$((n + 1)); [ ! -s "$T/out" ] || wrong "stdout is not empty"; }
no_err() { n=$((n + 1)); [ ! -s "$T/err" ] || wrong "stderr is not empty"; }
same() { n=$((n + 1)); cmp -s "$1" "$2" || { cmd="cmp $1 $2"; wrong "the files differ"; }; }
is() { n=$((n + 1)); [ "$1" = "$2" ] || { cmd="comparison"; wrong "\"$(printf %.300s "$1" | tr -cd ' -~')\" is not \"$2\""; }; }
there() { n=$((n + 1)); [ -e "$1" ] || { cmd="ls $1"; wrong "$1 does not exist"; }; }
gone() { n=$((n + 1)); [ ! -e "$1" ] || { cmd="ls $1"; wrong "$1 exists"; }; }
alone() { n=$((n + 1)); set -- "$1" "$1".tmp-*; [ ! -e "$2" ] || { cmd="ls $1*"; wrong "$2 was left behind"; }; }
fails() {
    want=$1
    part=$2
    shift 2
    run "$@"
    rc "$want"
    no_out
    err_has "$part"
    n=$((n + 1))
    first=$(head -1 "$T/err")
    case $first in "pumice: "* | "pumice $1: "*) ;; *) wrong "stderr does not begin with the program's name" ;; esac
    [ "$(wc -l <"$T/err")" -le 2 ] || wrong "more than two lines on stderr"
}
# drive [-p] NAME ARGS...: talks to pumice as $T/NAME.steps says
drive() {
    pipe=""
    if [ "$1" = -p ]; then pipe=-p; shift; fi
    script=$T/$1.steps
    cmd="drive $*"
    shift
    n=$((n + 1))
    # shellcheck disable=SC2086
    "$DRIVE" $pipe "$script" "$PUMICE" "$@" >"$T/out" 2>"$T/err" || wrong "the conversation went otherwise"
}
tiny() { "$PUMICE" synth tiny --dtype "$1" -o "$T/$1.pumice" 2>/dev/null || { echo "cannot make a $1 model"; exit 1; }; }
finish() {
    [ "$bad" -eq 0 ] && echo "$n checks: ok" && exit 0
    echo "$bad of $n checks failed"
    exit 1
}
