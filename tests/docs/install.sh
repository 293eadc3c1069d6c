#!/bin/sh
# `meson install` into a folder of our own: everything is there, and a program finds the library through pkg-config.
set -eu
[ -n "$MESON" ] || { echo "meson is not in the path of this test"; exit 77; }
T=$(mktemp -d)
trap 'rm -rf "$T"' EXIT
"$MESON" install -C "$BUILD" --no-rebuild --destdir "$T/root" >"$T/log" || { cat "$T/log"; exit 1; }
bad=0
wants() {   # FILE-NAME PATTERN-OF-ITS-PATH
    found=$(find "$T/root" -name "$1" | sed "s|^$T/root||")
    case $found in $2) ;; *) echo "$1 is installed as \"$found\", not $2"; bad=1 ;; esac
}
wants pumice "*/bin/pumice"
wants pumice.h "*/include/pumice.h"
wants libpumice.so "*/lib*/libpumice.so"
wants libpumice.so.0 "*/lib*/libpumice.so.0"
wants pumice.pc "*/pkgconfig/pumice.pc"
for page in "$SOURCE"/docs/man/*.1; do wants "$(basename "$page")" "*/man/man1/*"; done
[ $bad -eq 0 ] || exit 1
pc=$(dirname "$(find "$T/root" -name pumice.pc)")
PKG_CONFIG_PATH=$pc PKG_CONFIG_SYSROOT_DIR=$T/root
export PKG_CONFIG_PATH PKG_CONFIG_SYSROOT_DIR
version=$(pkg-config --modversion pumice)
want=$(sed -n 's/^#define PM_VERSION_M[A-Z]* \([0-9]*\)$/\1/p; s/^#define PM_VERSION_PATCH \([0-9]*\)$/\1/p' "$SOURCE/include/pumice.h" | paste -sd.)
[ "$version" = "$want" ] || { echo "pkg-config says version $version, pumice.h $want"; exit 1; }
lib=$(dirname "$(find "$T/root" -name libpumice.so)")
if [ -n "${CROSS:-}" ] || nm -D "$lib/libpumice.so" | grep -qE '__(asan|ubsan|sanitizer)'; then
    echo "installed: ok; not tried with a program in this build"
    exit 0
fi
# shellcheck disable=SC2046,SC2086   # lists of words
$CC -std=c11 "$SOURCE/examples/hello.c" -o "$T/hello" $(pkg-config --cflags --libs pumice)
LD_LIBRARY_PATH=$lib "$T/hello" "$SOURCE/models/story.pumice" "Once upon a time" | grep -q . || { echo "the installed library does not work"; exit 1; }
echo "installed: ok"
