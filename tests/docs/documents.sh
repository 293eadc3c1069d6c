#!/bin/sh
# README.md and docs/*.md against what is there: links and their headings, files, functions and constants that they name, `make` targets, options of `pumice` commands;
# README's commands on the story model and on `synth tiny` are run. docs/FORMAT.md against the fields that src/model/desc.c reads.
set -u
LC_ALL=C
export LC_ALL
T=$(mktemp -d)
trap 'rm -rf "$T"' EXIT
cd "$SOURCE" || exit 1
documents="README.md $(ls docs/*.md 2>/dev/null)"
bad=0
n=0
wrong() {
    bad=$((bad + 1))
    echo "FAIL $*"
}
prose() { awk '/^ *```/ { fenced = !fenced; next } !fenced' "$1"; }
fenced() { awk '/^ *```/ { fenced = !fenced; next } fenced' "$1"; }

# ---- links: a file beside the document, and a heading in it where a # follows

headings() { prose "$1" | sed -n 's/^##* *//p' | tr 'A-Z' 'a-z' | sed 's/[^a-z0-9 _-]//g; s/ /-/g'; }
for d in $documents; do
    prose "$d" | grep -oE '\]\([^) ]+\)' | sed 's/^](//; s/)$//' | grep -vE '^(https?|mailto):' >"$T/links"
    while read -r link; do
        n=$((n + 1))
        file=${link%%#*}
        target=$d
        [ -z "$file" ] || target=$(dirname "$d")/$file
        [ -e "$target" ] || { wrong "$d: the link to $link leads nowhere"; continue; }
        case $link in *\#*) headings "$target" | grep -qFx -e "${link#*#}" || wrong "$d: $target has no heading for $link" ;; esac
    done <"$T/links"
done

# ---- names: what is in backticks and looks like a file; what looks like a function or a constant of ours

grep -rhoE '\b(pm|PM)_[A-Za-z0-9_]+' src include tests tools examples | sort -u >"$T/known"
for d in $documents; do
    prose "$d" | grep -oE '`[^`]+`' | tr -d '`' | grep -E '^(src|include|tests|tools|scripts|docs|examples|models|cross|\.ci)/[A-Za-z0-9_./*-]+$' | sort -u >"$T/paths"
    while read -r path; do
        n=$((n + 1))
        # shellcheck disable=SC2086   # a * stands for any name
        ls -d $path >/dev/null 2>&1 || wrong "$d: there is no $path"
    done <"$T/paths"
    grep -oE '\b(pm|PM)_[A-Za-z0-9_]+' "$d" | sort -u >"$T/names"
    while read -r name; do
        n=$((n + 1))
        case $name in *_) grep -q "^$name" "$T/known" ;; *) grep -qFx -e "$name" "$T/known" ;; esac || wrong "$d: nothing is called $name"
    done <"$T/names"
done

# ---- commands

mkdir "$T/bin" "$T/work"
# shellcheck disable=SC2016
printf '#!/bin/sh\nexec %s "%s" "$@"\n' "${MESON_EXE_WRAPPER:-}" "$PUMICE" >"$T/bin/pumice"
chmod +x "$T/bin/pumice"
PATH=$T/bin:$PATH
check_command() {   # DOCUMENT pumice COMMAND WORDS...
    document=$1
    shift 2
    n=$((n + 1))
    case ${1:-} in "" | -*) return ;; esac
    command=$1
    if [ ! -e "$T/help-$command" ]; then pumice "$command" --help >"$T/help-$command" 2>&1 || { wrong "$document: there is no command \"pumice $command\""; return; }; fi
    for word in "$@"; do
        case $word in
        -) ;;
        -*) grep -qE "^  ${word%%=*}( |\$)" "$T/help-$command" || wrong "$document: \"pumice $command\" has no option ${word%%=*}" ;;
        esac
    done
}
for d in $documents; do
    fenced "$d" | sed -E "s/'[^']*'/TEXT/g; s/\"[^\"]*\"/TEXT/g; s/ #.*//; s/[<>]//g" | tr '|&;' '\n\n\n' | sed 's/^ *\$* *//' | grep '^pumice ' >"$T/commands"
    while read -r line; do
        # shellcheck disable=SC2086   # words
        check_command "$d" $line
    done <"$T/commands"
    fenced "$d" | sed -n 's/^ *make \([a-z0-9-]\{1,\}\).*/\1/p' >"$T/targets"
    while read -r target; do
        n=$((n + 1))
        grep -q "^$target:" Makefile || wrong "$d: there is no \"make $target\""
    done <"$T/targets"
done
[ -n "$(cat "$T"/help-* 2>/dev/null)" ] || wrong "README.md has no pumice commands"

# README's own commands, in its order, where they need nothing that is not here. A block of kind sh holds commands, one of kind console also what they print.
ln -s "$SOURCE/models" "$T/work/models"
awk -v dir="$T/run-" '
    function next_one(line) { i++; file = sprintf("%s%03d", dir, i); print line > (file ".cmd"); close(file ".cmd") }
    /^```/ { kind = kind ? "" : substr($0, 4); if (!kind) file = ""; next }
    kind == "sh" { next_one($0) }
    kind == "console" && /^\$ / { next_one(substr($0, 3)); printf "" > (file ".out"); next }
    kind == "console" && file { print > (file ".out") }' README.md
ran=0
for c in "$T"/run-*.cmd; do
    grep -qE '^(pumice|echo) .*(models/story\.pumice|tiny)' "$c" || continue
    ran=$((ran + 1))
    (cd "$T/work" && sh "$c" >"$T/out" 2>"$T/err" </dev/null) || { wrong "README.md: this does not work: $(cat "$c")"; cat "$T/err"; }
    [ ! -e "${c%.cmd}.out" ] || diff "${c%.cmd}.out" "$T/out" || wrong "README.md: this prints something else: $(cat "$c")"
done
n=$((n + ran))
[ "$ran" -ge 8 ] || wrong "README.md: only $ran commands could be run"

# ---- lists that must be whole

for type in $(pumice convert --help | tr -s ' \n,' '\n' | grep -E '^(f16|bf16|w[48]a(8|16)(_g[0-9]+)?)$' | sort -u); do
    n=$((n + 1))
    grep -q "\`$type\`" README.md || wrong "README.md does not name the dtype $type"
done
for field in $(grep -oE '(pm_json_[a-z0-9_]+|read_linear)\([a-z]+, [^,]+, "[a-z_0-9]+"|json_object_get\([a-z]+, "[a-z_0-9]+"' src/model/desc.c | sed 's/.*"\(.*\)"/\1/' | sort -u) \
    $(sed -n 's/^#define PM_META_[A-Z]* "\([^"]*\)".*/\1/p' src/model/desc.h); do
    n=$((n + 1))
    grep -q "\`$field\`" docs/FORMAT.md || wrong "docs/FORMAT.md does not describe $field"
done
[ $bad -eq 0 ] && echo "$n checks: ok" && exit 0
echo "$bad of $n checks failed"
exit 1
